"""System: the global context as an object: plugins, current one, event log, what is left open."""

from __future__ import annotations

import asyncio
import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import Codec, Framer, FramerDefinition, hookimpl
from taps_core.runtime.registry import Registry
from taps_core.testing import MemoryNetwork, MemoryStream, MemoryTLS
from taps_framers import JSONLines, LengthPrefix, Line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import Transport
    from taps_core.testing.fixtures import Run

OPEN = taps.SecurityParameters.disabled()


# ------------------------------------------------------------------- which System


def test_the_default_system_is_made_once_and_on_first_use() -> None:
    assert taps.System.current() is taps.System.current()
    assert taps.Preconnection().system is taps.System.current()


def test_a_system_can_be_that_of_a_context_or_an_argument(memory_network: MemoryNetwork) -> None:
    default = taps.System.current()
    one, other = taps.System([MemoryStream(memory_network)]), taps.System([])
    before = taps.Preconnection()
    with one.use() as used:
        assert used is one
        assert taps.System.current() is one
        assert taps.Preconnection().system is one
        # What was made outside, without saying which, is of the context too.
        assert before.system is one
        assert taps.Preconnection(system=other).system is other
        with other.use(), one.use():
            assert taps.System.current() is one
        assert taps.System.current() is one
    assert taps.System.current() is default


def test_tasks_that_were_started_inside_stay_there(memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        system = taps.System([MemoryStream(memory_network)])
        seen: list[taps.System] = []

        async def look() -> None:
            await asyncio.sleep(0)
            seen.append(taps.System.current())

        with system.use():
            task = asyncio.ensure_future(look())
        await task
        assert seen == [system]
        assert taps.System.current() is not system

    asyncio.run(main())


def test_two_tasks_can_be_inside_one_system_at_a_time(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        system = taps.System([MemoryStream(memory_network)])

        async def use(turns: int) -> None:
            async with system:
                for _ in range(turns):
                    await asyncio.sleep(0)
                assert taps.System.current() is system
            assert taps.System.current() is not system

        await asyncio.gather(use(1), use(5), use(3))

    run(main, memory_network)


@pytest.mark.requirement("R-9623-2-01")
def test_two_systems_are_independent(run: Run, memory_network: MemoryNetwork) -> None:
    """An unedited program runs on the network of whatever System it is put on."""

    async def program() -> bytes:
        async def echo(connection: taps.Connection[Any]) -> None:
            async for message in connection:
                await connection.send(message.data)

        async with taps.Preconnection(local="127.0.0.1:7000", security=OPEN, framers=Line()).listen(
            echo
        ):
            there = taps.Preconnection(remote="127.0.0.1:7000", security=OPEN, framers=Line())
            async with there.initiate() as connection:
                await connection.send(b"hello")
                return bytes(await connection.receive())

    other_network = MemoryNetwork()

    async def main() -> None:
        async def on(network: MemoryNetwork) -> bytes:
            async with taps.System([MemoryStream(network)]):
                return await program()

        # The same port twice, at the same time.
        assert await asyncio.gather(on(memory_network), on(other_network)) == [b"hello"] * 2

    run(main, memory_network, other_network)


def test_one_system_serves_several_loops_one_after_the_other(
    memory_network: MemoryNetwork,
) -> None:
    system = taps.System([MemoryStream(memory_network)])

    async def main() -> None:
        async with taps.Preconnection(local=":0", security=OPEN, system=system).listen() as one:
            there = taps.Preconnection(remote=one.remote_endpoint, security=OPEN, system=system)
            async with there.initiate(), await one.accept():
                pass

    for _ in range(3):
        asyncio.run(main())


# ------------------------------------------------------------------- plugins


def test_plugins_are_loaded_on_first_use(memory_network: MemoryNetwork) -> None:
    asked: list[str] = []

    class Plugin:
        @hookimpl
        def taps_transports(self) -> Sequence[Transport]:
            asked.append("transports")
            return [MemoryStream(memory_network)]

    system = taps.System([Plugin()])
    preconnection = taps.Preconnection(remote="127.0.0.1:1", security=OPEN, system=system)
    preconnection.add_framer(Line())
    assert asked == []
    assert [each.stack.name for each in preconnection.select()] == ["line/MEMORY-STREAM"]
    assert asked == ["transports"]
    assert system.registry is system.registry
    assert asked == ["transports"]


def test_a_registry_is_taken_as_it_is(memory_network: MemoryNetwork) -> None:
    registry = Registry.of(MemoryStream(memory_network))
    assert taps.System(registry).registry is registry


def test_policy_and_refresh_reach_the_selection(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Sleepy(MemoryStream):
        name = "sleepy"
        awake = False

        def availability(self) -> Any:
            from taps_core.plugin import AVAILABLE, Availability

            if self.awake:
                return AVAILABLE
            return Availability(available=False, reason="asleep", remedy="wake it")

    async def main() -> None:
        sleepy = Sleepy(memory_network)
        here = world(sleepy, MemoryStream(memory_network), policy={"prohibited": ["memory-stream"]})
        with pytest.raises(taps.NoCandidates, match="wake it"):
            await here.listen()
        sleepy.awake = True
        here.system.refresh()
        async with here.listen() as listener:
            assert [each.what.split()[0] for each in listener.report] == ["SLEEPY"]

    run(main, memory_network)


@pytest.mark.requirement("R-9621-3.4-02", "R-9622-6.2-02")
def test_select_is_pure_and_gives_every_reason(memory_network: MemoryNetwork) -> None:
    system = taps.System([MemoryStream(memory_network), MemoryTLS()])
    preconnection = taps.Preconnection(remote="127.0.0.1:1", system=system)
    selection = preconnection.select()
    assert [each.stack.name for each in selection.ranked] == ["MEMORY-TLS/MEMORY-STREAM"]
    assert [each.stack.name for each in selection.rejected] == ["MEMORY-STREAM"]
    assert preconnection.select() is selection
    assert preconnection.select("listen").role == "listen"
    assert json.loads(json.dumps(selection.as_json()))["ranked"][0]["place"] == 1


# ------------------------------------------------------------------- framers


class Reverse(Codec):
    """Messages of four bytes, the other way round."""

    max_length = 4

    def encode(self, data: Any, record: Any, /) -> bytes:
        return bytes(reversed(data))

    def decode(self, data: bytes, parts: list[Any], /) -> int:
        whole = len(data) // 4 * 4
        parts += [(data[at : at + 4][::-1], None, True) for at in range(0, whole, 4)]
        return whole


class Wanting(Codec):
    """Cannot be made without an argument."""

    max_length = 1

    def __init__(self, argument: int) -> None: ...

    def encode(self, data: Any, record: Any, /) -> bytes:
        raise NotImplementedError

    def decode(self, data: bytes, parts: list[Any], /) -> int:
        raise NotImplementedError


class Objects(Reverse):
    objects = True


class Plain(Framer):
    """Everything as it is."""


@pytest.mark.requirement("R-9622-6-06")
def test_framers_are_names_definitions_or_classes(memory_network: MemoryNetwork) -> None:
    system = taps.System([MemoryStream(memory_network), LengthPrefix(), Line()])

    def names(framers: Any) -> list[str]:
        return [each.name for each in taps.Preconnection(framers=framers, system=system).framers]

    assert names(None) == []
    assert names("line") == ["line"]
    assert names(["length-prefix", Line(), Reverse, LengthPrefix]) == [
        "length-prefix",
        "line",
        "Reverse",
        "length-prefix",
    ]
    assert names(LengthPrefix(2)) == ["length-prefix"]
    assert names(framer for framer in [Line(), Plain]) == ["line", "Plain"]
    (definition,) = taps.Preconnection(framers=Objects, system=system).framers
    assert isinstance(definition, FramerDefinition)
    assert definition.objects
    assert definition == taps.Preconnection(framers=Objects, system=system).framers[0]
    assert isinstance(definition.create(), Objects)
    assert definition.create() is not definition.create()


@pytest.mark.parametrize("live", [Reverse(), Plain(), LengthPrefix().create()])
def test_a_live_framer_is_a_type_error_that_names_the_fix(
    live: Any, memory_network: MemoryNetwork
) -> None:
    system = taps.System([MemoryStream(memory_network)])
    for given in (live, [Line(), live]):
        with pytest.raises(TypeError, match=f"give the class {type(live).__name__}"):
            taps.Preconnection(framers=given, system=system)
        with pytest.raises(TypeError, match="each Connection needs its own"):
            taps.Preconnection(system=system).add_framer(live)
    with pytest.raises(TypeError, match="a framer is a name"):
        taps.Preconnection(framers=5, system=system)


def test_unknown_framers_are_named_with_the_nearest(memory_network: MemoryNetwork) -> None:
    system = taps.System([MemoryStream(memory_network), Line()])
    with pytest.raises(taps.PluginError, match="line"):
        taps.Preconnection(framers="lines", system=system)
    definition = taps.Preconnection(framers=Wanting, system=system).framers[0]
    with pytest.raises(taps.PluginError, match="give a FramerDefinition"):
        definition.create()


def test_classes_and_definitions_frame(run: Run, world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        for framers, data in ((Reverse, b"abcd"), (JSONLines(), {"a": [1, None]})):
            async with (
                here.listen(framers=framers) as listener,
                here.to(listener, framers=framers).initiate() as client,
                await listener.accept() as server,
            ):
                await client.send(data)
                await client.send(data)
                assert [(await server.receive()).data for _ in "12"] == [data, data]

    run(main, memory_network)


# ------------------------------------------------------------------- event log


@pytest.mark.requirement("R-9622-13-02")
def test_the_event_log_is_bounded_json_without_data(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network), event_log=10)
        async with here.listen(framers=Line()) as listener:
            async with here.to(listener, framers=Line()).initiate() as client:
                server = await listener.accept()
                for number in range(50):
                    await client.send(b"a secret %d" % number)
                log = client.event_log
                assert len(log) == 10
                assert {"event", "time"} <= log[0].keys()
                for _ in range(50):
                    await server.receive()
            assert [entry["event"] for entry in server.event_log[:9]] == ["received"] * 9
            server.abort()
        assert client.event_log[-1]["event"] == "Closed"
        assert server.event_log[-1]["event"] == "ConnectionError"
        text = json.dumps([client.event_log, server.event_log])
        assert "secret" not in text
        times = [entry["time"] for entry in client.event_log]
        assert times == sorted(times)
        client.event_log.clear()  # a copy
        assert client.event_log

    run(main, memory_network)


def test_the_event_log_is_off_by_default(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        connection = here.to("127.0.0.9:9").initiate()
        with pytest.raises(taps.EstablishmentError):
            await connection
        assert connection.event_log == []

    run(main, memory_network)


# ------------------------------------------------------------------- what is left open


def test_what_was_never_closed_is_aborted_with_a_warning_when_the_system_closes(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    memory_network.blackhole("10.0.0.1")

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        listener = await here.listen()
        client = await here.to(listener).initiate()
        server = await listener.accept()
        establishing = here.to("10.0.0.1:1").initiate()
        await client.send(b"x")
        assert client.state is taps.ConnectionState.ESTABLISHED  # open, though nobody closes it
        with pytest.warns(ResourceWarning) as warned:
            await here.system.close()
        sentences = [str(each.message) for each in warned]
        assert len(sentences) == 4
        assert sum("was left open" in each for each in sentences) == 3
        assert sum("was never stopped" in each for each in sentences) == 1
        for connection in (client, server, establishing):
            assert connection.state is taps.ConnectionState.CLOSED
        assert memory_network.open_flows == memory_network.open_listeners == 0
        await here.system.close()  # nothing left to warn of

    run(main, memory_network)


def test_everything_is_closed_also_where_warnings_are_errors(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        with pytest.raises(ResourceWarning):
            async with here.system:
                listener = await here.listen()
                for _ in range(3):
                    await here.to(listener).initiate()
        assert memory_network.open_flows == memory_network.open_listeners == 0

    run(main, memory_network)


def test_what_was_closed_is_not_warned_of(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        listener = await here.listen()
        client = await here.to(listener).initiate()
        server = await listener.accept()
        server.abort()
        await turns()  # so the client is closed as well, by the peer
        assert client.state is taps.ConnectionState.CLOSED
        listener.stop()
        client = here.to("127.0.0.9:9").initiate()
        client.abort()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await here.system.close()

    run(main, memory_network)


def test_what_is_still_closing_is_warned_of(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here, there = (world(MemoryStream(memory_network)) for _ in "12")
        async with there.listen() as listener:
            client = await here.to(listener).initiate()
            server = await listener.accept()
            client.send_nowait(b"x" * 1_000_000)  # more than the peer has room for
            closing = client.close()
            with pytest.warns(ResourceWarning, match="not closed yet") as warned:
                await here.system.close()
            assert len(warned) == 1
            await closing
            server.abort()

    run(main, memory_network)


def test_closing_a_system_ends_handlers_too(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        ended: list[str] = []

        async def handler(connection: taps.Connection[Any]) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("handler")

        listener = await here.listen(handler)
        async with here.to(listener).initiate() as client:
            await asyncio.sleep(0)
            with pytest.warns(ResourceWarning):
                await here.system.close()
            assert ended == ["handler"]
            assert client.state is taps.ConnectionState.CLOSED

    run(main, memory_network)


def test_cancelling_the_close_of_a_system_ends_handlers_all_the_same(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        ended: list[str] = []

        async def handler(connection: taps.Connection[Any]) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append("handler")

        listener = await here.listen(handler)
        client = await here.to(listener).initiate()
        await asyncio.sleep(0)
        closing = asyncio.create_task(here.system.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
        assert ended == ["handler"]
        assert client.state is taps.ConnectionState.CLOSED
        assert memory_network.open_flows == memory_network.open_listeners == 0

    run(main, memory_network)
