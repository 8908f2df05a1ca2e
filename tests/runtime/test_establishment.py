"""Initiate: before any packet, racing, timeouts, cancelling, the report (section 7.1)."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core import testing
from taps_core.testing import MemoryDatagram, MemoryNetwork, MemoryStream, MemoryTLS
from taps_framers import JSONLines, LengthPrefix

if TYPE_CHECKING:
    from taps_core.plugin import Transport
    from taps_core.testing.fixtures import Run

NOBODY = "127.0.0.9:9"
"""Where no one listens."""
HOLE = "10.0.0.1:7"
"""What swallows everything, once ``swallow`` was called."""


def watch() -> list[dict[str, Any]]:
    """What reaches the exception handler of the running loop from now on."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    return seen


# ------------------------------------------------------------------- before any packet


@pytest.mark.requirement("R-9622-6-03")
def test_without_a_remote_endpoint_initiate_raises_at_once(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        preconnection = world(MemoryStream(memory_network)).preconnection()
        for call in (preconnection.initiate, lambda: preconnection.initiate_with_send(b"x")):
            with pytest.raises(taps.EstablishmentError) as caught:
                call()
            assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION
            assert "Remote Endpoint" in str(caught.value)

    run(main, memory_network)


@pytest.mark.requirement("R-9623-4.4.1-03", "R-9623-3.2-03", "R-9622-6.2-01")
def test_no_candidates_explains_itself(run: Run, world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        here = world(
            MemoryStream(memory_network),
            MemoryDatagram(memory_network),
            properties={"multistreaming": "require", "reliability": "require"},
        )
        with pytest.raises(taps.NoCandidates) as caught:
            await here.to(NOBODY).initiate()
        error = caught.value
        assert error.reason is taps.Reason.NO_CANDIDATES
        assert error.attempts == ()
        assert set(error.rejected) == {"MEMORY-STREAM", "MEMORY-DATAGRAM"}
        lines = str(error).splitlines()
        assert lines[0] == "no installed Protocol Stack can do this, and nothing was sent:"
        assert any("multistreaming is required by the application" in line for line in lines)
        assert all(len(line) <= 80 for line in lines)

    run(main, memory_network)


@pytest.mark.requirement("R-9622-6.3-01", "R-9621-3.3-03", "R-9621-6-02")
def test_security_without_a_security_plugin_names_the_remedy_before_any_packet(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    wire: list[bytes] = []
    memory_network.wiretap = wire.append

    async def main() -> None:
        here = world(MemoryStream(memory_network), MemoryDatagram(memory_network))
        async with here.listen() as listener:
            for security in (None, taps.SecurityParameters()):
                preconnection = here.to(listener, security=security)
                for connection in (
                    preconnection.initiate(),
                    preconnection.initiate_with_send(b"secret", safely_replayable=True),
                ):
                    with pytest.raises(taps.EstablishmentError) as caught:
                        await connection
                    assert "install taps-tls" in str(caught.value)
                    assert "SecurityParameters.disabled()" in str(caught.value)
            with pytest.raises(taps.EstablishmentError, match="install taps-tls"):
                await here.preconnection(local=":0", security=None).listen()
            assert memory_network.open_flows == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await listener.accept()
        assert wire == []

    run(main, memory_network)


def test_endpoints_that_contradict_the_properties_fail_before_any_packet(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        remote = taps.RemoteEndpoint(ip_address="127.0.0.1", port=1, protocol="memory-datagram")
        with pytest.raises(taps.NoCandidates, match="for memory-datagram only"):
            await here.to(remote).initiate()
        with pytest.raises(taps.EstablishmentError, match="no address fits"):
            await here.to("127.0.0.1:1", local="[::1]:0").initiate()

    run(main, memory_network)


@pytest.mark.requirement("G-9622-6.1-03")
def test_a_name_that_does_not_resolve_is_an_establishment_error(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Names:
        async def resolve(self, endpoint: Any) -> list[Any]:
            if endpoint.hostname == "nowhere.example":
                raise taps.EstablishmentError("no", reason=taps.Reason.RESOLUTION_FAILED)
            if endpoint.hostname is not None:
                return [endpoint.with_ip_address("127.0.0.1")]
            return [endpoint]

    async def main() -> None:
        here = world(MemoryStream(memory_network), resolver=Names())
        with pytest.raises(taps.EstablishmentError) as caught:
            await here.to("nowhere.example:1").initiate()
        assert caught.value.reason is taps.Reason.RESOLUTION_FAILED
        # One of several that has no address does no harm.
        async with here.listen() as listener:
            there = f"somewhere.example:{listener.local_endpoints[0].port}"
            preconnection = here.to(["nowhere.example:1", there])
            assert await preconnection.resolve() == (
                [],
                [taps.RemoteEndpoint.parse(there).with_ip_address("127.0.0.1")],
            )
            async with preconnection.initiate() as client:
                assert client.remote_endpoint.hostname == "somewhere.example"

    run(main, memory_network)


# ------------------------------------------------------------------- attempts and their report


@pytest.mark.requirement("R-9623-4.4.1-02")
def test_a_refused_connect_is_an_establishment_error_with_its_attempts(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        connection = world(MemoryStream(memory_network)).to(NOBODY).initiate()
        with pytest.raises(taps.EstablishmentError, match=r"refused.*127\.0\.0\.9") as caught:
            await connection
        (attempt,) = caught.value.attempts
        assert attempt.what == "MEMORY-STREAM to 127.0.0.9:9"
        assert attempt.outcome == "failed"
        assert "refused" in str(attempt.error)
        assert 0 <= attempt.started <= attempt.ended
        assert connection.report == caught.value.attempts
        assert caught.value.transient
        assert isinstance(caught.value, OSError)
        assert connection.state is taps.ConnectionState.CLOSED
        # Whoever awaits again is told again.
        with pytest.raises(taps.EstablishmentError, match="refused"):
            await connection

    run(main, memory_network)


@pytest.mark.requirement("R-9623-4.3.2-02")
def test_when_the_first_remote_refuses_the_second_is_tried_at_once(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            where = listener.remote_endpoint
            async with here.to([NOBODY, where]).initiate() as client:
                assert client.remote_endpoint == where
                refused, ready = client.report
                assert (refused.outcome, ready.outcome) == ("failed", "ready")
                assert ready.started == refused.ended

    run(main, memory_network)


@pytest.mark.requirement("R-9623-4.3.2-01", "R-9623-4.4-02")
def test_losers_are_closed_before_ready(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    memory_network.delay("10.0.0.2", 30)

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen(at=["10.0.0.2:7", "127.0.0.1:7"]) as listener:
            flows = []
            client = here.to(["10.0.0.2:7", "127.0.0.1:7"]).initiate()
            client.on(taps.Ready, lambda _: flows.append(memory_network.open_flows))
            async with client, await listener.accept():
                slow, fast = client.report
                assert (slow.outcome, fast.outcome) == ("cancelled", "ready")
                assert fast.started - slow.started >= 0.25
                await asyncio.sleep(0)
                assert flows == [2]

    run(main, memory_network)


@pytest.mark.requirement("R-9623-4.3.2-01")
def test_a_black_hole_costs_one_delay(run: Run, world: Any, memory_network: MemoryNetwork) -> None:
    memory_network.blackhole("10.0.0.1")

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with (
            here.listen() as listener,
            here.to([HOLE, listener.remote_endpoint]).initiate() as client,
        ):
            hole, ready = client.report
            assert (hole.outcome, ready.outcome) == ("cancelled", "ready")
            assert ready.started - hole.started >= 0.25
            assert hole.ended <= ready.ended

    run(main, memory_network)


@pytest.mark.requirement("R-9621-3.3-01", "R-9623-4.1.1.3-01")
def test_each_attempt_is_told_of_the_others_of_its_host_and_the_race_stays_as_it_is(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    """For a transport that can use several addresses (RFC 9622, section 6.1)."""
    memory_network.blackhole("10.0.0.1")
    requests: list[Any] = []

    class Told(MemoryStream):
        async def connect(self, request: Any) -> Any:
            requests.append(request)
            return await super().connect(request)

    async def main() -> None:
        here = world(Told(memory_network))
        async with here.listen() as listener:
            there = listener.remote_endpoint
            dead = taps.RemoteEndpoint(ip_address="10.0.0.1", port=there.port)
            locals_ = [taps.LocalEndpoint(ip_address="127.0.0.1", port=each) for each in (0, 7)]
            client = await here.to([dead, there], local=locals_[:1]).initiate()
            assert [(each.remote, *each.other_remotes) for each in requests] == [
                (dead, there),
                (there, dead),
            ]
            assert [each.other_locals for each in requests] == [(), ()]
            client.abort()
            requests.clear()
            client = await here.to(there, local=locals_).initiate()
            (request,) = requests
            assert request.other_remotes == ()
            assert [request.local, *request.other_locals] == locals_
            client.abort()
            requests.clear()
            # Whoever has one address hears of no others.
            client = await here.to(there).initiate()
            (request,) = requests
            assert (request.other_remotes, request.other_locals) == ((), ())
            client.abort()

    run(main, memory_network)


def test_several_stacks_race_and_the_best_wins(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Other(MemoryStream):
        name = "other-stream"

    async def main() -> None:
        here = world(MemoryStream(memory_network), Other(memory_network))
        async with here.listen() as listener:
            assert [door.port for door in listener.local_endpoints] == [
                listener.local_endpoints[0].port
            ] * 2
            async with here.to(listener).initiate() as client:
                assert str(client.stack) == "MEMORY-STREAM"
        only = world(Other(memory_network))
        # Nobody listens for the better one.
        async with only.listen() as listener, here.to(listener).initiate() as client:
            assert str(client.stack) == "OTHER-STREAM"
            assert [attempt.outcome for attempt in client.report] == ["failed", "ready"]

    run(main, memory_network)


def test_a_timeout_is_an_establishment_timeout_with_attempts(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    memory_network.blackhole("10.0.0.1")

    async def main() -> None:
        preconnection = world(MemoryStream(memory_network)).to(HOLE)
        # uvloop's clock stood still while that was made.
        await asyncio.sleep(0)
        connection = preconnection.initiate(timeout=0.2)
        with pytest.raises(taps.EstablishmentTimeout) as caught:
            await connection
        error = caught.value
        assert error.reason is taps.Reason.TIMEOUT
        assert isinstance(error, TimeoutError)
        assert error.transient
        (attempt,) = error.attempts
        assert attempt.outcome == "cancelled"
        assert attempt.ended == pytest.approx(0.2, rel=1e-3) or attempt.ended > 0.2
        assert str(error).splitlines()[0] == "nothing was ready within 0.2 s"
        assert "10.0.0.1:7" in str(error)
        assert connection.report == error.attempts

    run(main, memory_network)


def test_layers_are_told_the_deadline(run: Run, world: Any, memory_network: MemoryNetwork) -> None:
    class Watched(MemoryStream):
        deadline: float | None = None

        async def connect(self, request: Any) -> Any:
            self.deadline = request.deadline
            return await super().connect(request)

    async def main() -> None:
        transport = Watched(memory_network)
        here = world(transport)
        before = asyncio.get_running_loop().time()
        with pytest.raises(taps.EstablishmentError):
            await here.to(NOBODY).initiate(timeout=5)
        assert transport.deadline is not None
        assert 5 <= transport.deadline - before < 6
        with pytest.raises(taps.EstablishmentError):
            await here.to(NOBODY).initiate(timeout=None)
        assert transport.deadline is None

    run(main, memory_network)


def test_a_timeout_error_of_a_plugin_is_not_taken_for_ours(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Slow:
        async def resolve(self, endpoint: Any) -> list[Any]:
            raise TimeoutError("the resolver's own")

    async def main() -> None:
        here = world(MemoryStream(memory_network), resolver=Slow())
        with pytest.raises(taps.EstablishmentError, match="the resolver's own") as caught:
            await here.to("name.example:1").initiate(timeout=None)
        assert not isinstance(caught.value, taps.EstablishmentTimeout)

    run(main, memory_network)


def test_a_plugins_bug_is_an_establishment_error_and_the_next_candidate_is_tried(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Broken(MemoryStream):
        name = "a-broken-one"

        async def connect(self, request: Any) -> Any:
            raise RuntimeError("a bug")

    async def main() -> None:
        with pytest.raises(taps.EstablishmentError, match="RuntimeError: a bug") as caught:
            await world(Broken(memory_network)).to(NOBODY).initiate()
        assert isinstance(caught.value.attempts[0].error, RuntimeError)
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            both = world(Broken(memory_network), MemoryStream(memory_network))
            async with both.to(listener).initiate() as client:
                assert [attempt.outcome for attempt in client.report] == ["failed", "ready"]

    run(main, memory_network)


@pytest.mark.requirement("R-9623-4.4.1-01")
def test_a_failed_handshake_of_a_layer_fails_the_attempt_and_leaves_nothing(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        bare = world(MemoryStream(memory_network))

        async def garbage(connection: taps.Connection[Any]) -> None:
            await connection.send(b"220 no security here\r\n")
            await connection.receive(max_length=100)

        async with bare.listen(garbage, grace=0) as listener:
            secured = world(MemoryStream(memory_network), MemoryTLS())
            with pytest.raises(taps.EstablishmentError, match="does not speak memory-tls"):
                await secured.to(listener).initiate()

    run(main, memory_network)


# ------------------------------------------------------------------- giving up, not listening


def test_cancelling_the_wait_for_ready_aborts_and_leaves_nothing(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    memory_network.delay("127.0.0.1", 30)
    memory_network.blackhole("10.0.0.1")
    both_run = asyncio.Event()

    class Watched(MemoryStream):
        async def connect(self, request: Any) -> Any:
            if request.remote.ip_address == "127.0.0.1":
                both_run.set()
            return await super().connect(request)

    async def main() -> None:
        here = world(Watched(memory_network))
        async with here.listen() as listener:
            connection = here.to([HOLE, listener.remote_endpoint]).initiate()
            waiting = asyncio.ensure_future(connection._wait_ready())
            await both_run.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert memory_network.open_flows == 0
            assert connection.state is taps.ConnectionState.CLOSED
            assert [attempt.outcome for attempt in connection.report] == ["cancelled"] * 2
            with pytest.raises(taps.EstablishmentError) as caught:
                await connection
            assert caught.value.reason is taps.Reason.LOCAL_ABORT

    run(main, memory_network)


@pytest.mark.parametrize("turns_before", range(12))
def test_cancelling_in_the_turn_of_ready_leaves_nothing(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, turns_before: int
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        await here.to(NOBODY).resolve()
        async with here.listen() as listener:

            async def use() -> None:
                async with here.to(listener).initiate():
                    await asyncio.Event().wait()

            task = asyncio.ensure_future(use())
            await turns(turns_before)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            listener.stop()
            await listener.stopped()
            await turns()
            assert memory_network.open_flows == 0

    run(main, memory_network)


@pytest.mark.requirement("R-9622-3-01")
def test_an_initiate_that_fails_and_was_never_awaited_is_reported(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        await here.preconnection().resolve()
        reports = watch()
        connection = here.to(NOBODY).initiate()
        while connection.state is not taps.ConnectionState.CLOSED:
            await turns()
        gc.collect()
        assert reports == []  # somebody may still await it
        del connection
        gc.collect()
        (report,) = reports
        assert isinstance(report["exception"], taps.EstablishmentError)
        assert "refused" in str(report["exception"])

    run(main, memory_network)


@pytest.mark.parametrize("how", ["awaited late", "on", "events", "abort", "close", "cancelled"])
def test_what_the_application_knows_of_is_not_reported(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, how: str
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        reports = watch()
        connection = here.to(NOBODY).initiate()
        if how == "on":
            connection.on(taps.EstablishmentError, lambda error: None)
        elif how == "events":
            events = connection.events()
        elif how == "cancelled":
            task = asyncio.ensure_future(connection._wait_ready())
            await turns(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how != "awaited late":
            getattr(connection, how)()
        while connection.state is not taps.ConnectionState.CLOSED:
            await turns()
        await turns()
        if how == "awaited late":
            with pytest.raises(taps.EstablishmentError):
                await connection
        if how == "events":
            assert [type(event) async for event in events] == [taps.EstablishmentError]
            del events
        del connection
        gc.collect()
        assert reports == []

    run(main, memory_network)


@pytest.mark.requirement("G-9622-9.2.5-01")
def test_initiate_with_send_that_cannot_connect_has_an_establishment_error_alone(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        connection = here.to(NOBODY).initiate_with_send(b"x", safely_replayable=True)
        events = connection.events()
        with pytest.raises(taps.EstablishmentError):
            await connection
        assert [type(event) async for event in events] == [taps.EstablishmentError]

    run(main, memory_network)


def test_initiate_with_send_takes_what_send_takes(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        with pytest.raises(TypeError, match="not str"):
            here.to(NOBODY).initiate_with_send("text")
        with pytest.raises(taps.PropertyError, match="lifetime"):
            here.to(NOBODY).initiate_with_send(b"x", liftime=1)  # type: ignore[call-arg]  # the point
        async with here.listen(framers=JSONLines()) as listener:
            there = here.to(listener, framers=JSONLines())
            buffer = bytearray(b"changed later")
            async with there.initiate_with_send({"an": "object"}) as client:
                server = await listener.accept()
                assert (await server.receive()).data == {"an": "object"}
                server.abort()
                client.abort()
        async with here.listen() as listener:
            client = here.to(listener).initiate_with_send(memoryview(buffer))
            buffer[:] = bytes(len(buffer))
            async with client, await listener.accept() as server:
                assert (await server.receive_exactly(13)).data == b"changed later"

    run(main, memory_network)


@pytest.mark.requirement("G-9622-11-03", "G-9622-7.1-01")
def test_sends_queued_before_a_failure_get_their_own_error_first(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        connection = world(MemoryStream(memory_network)).to(NOBODY).initiate()
        events = connection.events()
        connection.send_nowait(b"1")
        receiving = asyncio.ensure_future(connection.receive(max_length=1))
        outcome = connection.send(b"2")
        with pytest.raises(taps.EstablishmentError):
            await connection
        with pytest.raises(taps.SendError, match="refused"):
            await outcome
        with pytest.raises(taps.TapsError, match="refused"):
            await receiving
        names = [type(event).__name__ async for event in events]
        assert names[-1] == "EstablishmentError"
        assert len(names) == 4

    run(main, memory_network)


# ------------------------------------------------------------------- copies


@pytest.mark.requirement("R-9622-7.1-01", "R-9623-2-02", "G-9622-7-01", "R-9622-6-06")
def test_editing_a_preconnection_reaches_nothing_that_was_made_before(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            properties = taps.TransportProperties(conn_timeout=10, msg_priority=7)
            preconnection = here.to(listener, transport=properties)
            properties.set("connTimeout", 1)
            connection = preconnection.initiate()
            preconnection.transport.require("multistreaming")
            preconnection.transport.set("connTimeout", 99)
            preconnection.transport.set("msgPriority", 99)
            preconnection.security = taps.SecurityParameters()
            preconnection.add_remote(NOBODY)
            preconnection.add_local("[::1]:1")
            preconnection.add_framer(LengthPrefix())
            async with connection:
                assert str(connection.stack) == "MEMORY-STREAM"
                assert connection.properties["connTimeout"] == 10
                assert connection.properties["msgPriority"] == 7
                clone = await connection.clone()
                assert str(clone.stack) == "MEMORY-STREAM"
                clone.abort()
            with pytest.raises(taps.EstablishmentError):
                await preconnection.initiate()

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7-01")
def test_a_preconnection_can_be_used_any_number_of_times(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            preconnection = here.to(listener, local="127.0.0.1:0", framers=LengthPrefix())
            listening = here.preconnection(local="127.0.0.1:0", framers=LengthPrefix())
            clients = [await preconnection.initiate() for _ in range(3)]
            assert len({client.local_endpoint.port for client in clients}) == 3
            for client in clients:
                await client.close()
            async with listening.listen() as one, listening.listen() as other:
                assert one.local_endpoints != other.local_endpoints

    run(main, memory_network)


# ------------------------------------------------------------------- plugins


def test_plugins_are_imported_off_the_loop(
    run: Run, memory_network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taps_core.runtime.registry import Registry

    where: list[threading.Thread] = []
    registry = Registry.of(MemoryStream(memory_network))
    load = registry._load

    def slow_import() -> Any:
        where.append(threading.current_thread())
        return load()

    monkeypatch.setattr(registry, "_load", slow_import)

    async def main() -> None:
        system = taps.System(registry)
        preconnection = taps.Preconnection(
            remote=NOBODY, security=taps.SecurityParameters.disabled(), system=system
        )
        assert not registry.loaded  # not for making it
        many = [preconnection.initiate() for _ in range(5)]
        for connection in many:
            with pytest.raises(taps.EstablishmentError, match="refused"):
                await connection

    run(main, memory_network)
    assert len(where) == 1
    assert where[0] is not threading.main_thread()


def test_protocol_specific_properties_are_judged_before_any_packet(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Own(MemoryStream):
        properties = (_own_property(),)

    async def main() -> None:
        here = world(Own(memory_network), properties={})
        preconnection = here.to(NOBODY)
        preconnection.transport.set("_test.level", "no number")
        with pytest.raises(taps.EstablishmentError, match=r"_test\.level") as caught:
            await preconnection.initiate()
        assert caught.value.attempts == ()
        assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION
        # Once the plugins are known, at once.
        with pytest.raises(taps.PropertyError, match=r"_test\.level"):
            preconnection.initiate()

    run(main, memory_network)


def _own_property() -> Any:
    from taps_core.plugin import Kind, Property, ValueType

    return Property("_test.level", Kind.CONNECTION, ValueType.INTEGER, 0, meaning="A level.")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_a_loop_with_eager_tasks_does_as_well(
    world: Any, memory_transport: Transport, memory_network: MemoryNetwork
) -> None:
    # asyncio's loop only: uvloop passes eager_start, which the factory of 3.13.0 refuses.
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        here = world(memory_transport)
        async with here.listen() as listener, here.to(listener).initiate() as client:
            await client.send(b"x")
            async with await listener.accept() as server:
                assert (await server.receive(max_length=9)).data == b"x"

    testing.run(main, memory_network)


def test_connections_made_alike_share_a_copy_of_what_was_said_until_it_is_edited(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            there = here.to(listener)
            await _end(await there.initiate())  # the plugins are known from here on
            first, second = await there.initiate(), await there.initiate()
            assert first._blueprint is second._blueprint
            there.transport.set("connPriority", 7)
            third = await there.initiate()
            there.security = taps.SecurityParameters.opportunistic()
            fourth = await there.initiate()
            there.add_framer(LengthPrefix())
            fifth = await there.initiate()
            connections = [first, third, fourth, fifth]
            assert len({id(each._blueprint) for each in connections}) == 4
            assert [each.properties["connPriority"] for each in connections] == [100, 7, 7, 7]
            for each in [*connections, second]:
                await _end(each)

    run(main, memory_network)


async def _end(connection: taps.Connection[Any]) -> None:
    connection.abort()
    await connection._released()


# ------------------------------------------------------------------- names and addresses


class Book:
    """A resolver with a book of names, which notes what it was asked for."""

    def __init__(self, **names: list[str]) -> None:
        self.names = names
        self.asked: list[str] = []

    async def resolve(self, endpoint: Any) -> list[Any]:
        if endpoint.hostname is None or endpoint.ip_address is not None:
            return [endpoint]
        self.asked.append(endpoint.hostname)
        return [endpoint.with_ip_address(each) for each in self.names[endpoint.hostname]]


@pytest.mark.requirement("G-9622-6.1-02")
def test_an_address_reaches_itself_alone_and_a_name_any_of_its_addresses(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        book = Book(there=["127.0.0.9", "127.0.0.8", "127.0.0.1"])
        here = world(MemoryStream(memory_network), resolver=book)
        async with here.listen(at="127.0.0.1:70") as listener:
            # By the name alone: whichever of its addresses answers.
            named = taps.RemoteEndpoint(hostname="there", port=70)
            client = await here.to(named).initiate()
            assert client.remote_endpoint.ip_address == "127.0.0.1"
            tried = [attempt.what.split()[-1] for attempt in client.report]
            assert tried == ["127.0.0.9:70", "127.0.0.8:70", "127.0.0.1:70"]
            client.abort()
            (await listener.accept()).abort()
            assert book.asked == ["there"]
            # An address beside the name: that one, and the name is only verified.
            for address in ("127.0.0.9", "127.0.0.1"):
                both = named.with_ip_address(address)
                connection = here.to(both).initiate()
                if address == "127.0.0.1":
                    await connection
                    (await listener.accept()).abort()
                else:
                    with pytest.raises(taps.EstablishmentError):
                        await connection
                assert [attempt.what.split()[-1] for attempt in connection.report] == [
                    f"{address}:70"
                ]
                connection.abort()
            assert book.asked == ["there"]

    run(main, memory_network)


@pytest.mark.requirement("G-9622-6.1-03")
def test_names_are_resolved_when_it_is_time_and_each_time(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        book = Book(here=["127.0.0.1"], there=["127.0.0.9"])
        here = world(MemoryStream(memory_network), resolver=book)
        listening = here.preconnection(local="here:70")
        calling = here.to("there:70")
        calling.select()
        assert book.asked == []
        async with listening.listen() as listener:
            assert book.asked == ["here"]
            with pytest.raises(taps.EstablishmentError):
                await calling.initiate()
            assert book.asked == ["here", "there"]
            # What Resolve found is not kept either: the name is asked for anew.
            await calling.resolve()
            book.names["there"] = ["127.0.0.1"]
            client = await calling.initiate()
            (await listener.accept()).abort()
            client.abort()
            assert book.asked == ["here", "there", "there", "there"]

    run(main, memory_network)
