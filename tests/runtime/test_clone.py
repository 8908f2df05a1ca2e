"""Clone, one test for each row of docs/reference/groups.md: what comes of it in every state."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import taps_core as taps
from taps_core.plugin import LayerFlow, Session
from taps_core.testing import MemoryMessages, MemoryNetwork, MemoryStream, MemoryTLS, ScriptedFlow
from taps_framers import JSONLines, LengthPrefix, Line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from taps_core.plugin import ConnectRequest, Flow
    from taps_core.testing.fixtures import Run

NOBODY = "127.0.0.9:9"


class Fates:
    """A parent and its clone, and what each of them is told."""

    def __init__(self, parent: taps.Connection[Any]) -> None:
        self.parent = parent
        self.told_parent: list[Any] = []
        self.told_clone: list[Any] = []
        parent.on(taps.CloneError, self.told_parent.append)

    def clone(self, **how: Any) -> taps.Connection[Any]:
        clone = self.parent.clone(**how)
        for kind in (taps.Event, taps.TapsError):
            clone.on(kind, self.told_clone.append)
        return clone

    async def refused(
        self, clone: taps.Connection[Any] | None = None, *, parent_is_told: bool = True
    ) -> taps.CloneError:
        """The CloneError that awaiting gives; both sides must have been told that one.

        Not the parent if that was closed: nothing follows a terminal event.
        """
        clone = clone or self.clone()
        with pytest.raises(taps.CloneError) as caught:
            await clone
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert clone.state is taps.ConnectionState.CLOSED
        (told,) = self.told_clone
        assert str(told) == str(caught.value)
        assert self.told_parent == ([told] if parent_is_told else [])
        assert clone not in self.parent.grouped_connections()
        return caught.value


class Held(Session):
    """A session whose streams come when the test says so."""

    def __init__(self) -> None:
        self.opening: asyncio.Future[Flow] | None = None
        self.incoming: Any = None
        self.ended: list[str] = []

    async def open_stream(self, properties: Mapping[str, Any]) -> Flow:
        self.opening = asyncio.get_running_loop().create_future()
        return await self.opening

    def accept_streams(self, incoming: Any, limit: float) -> None:
        self.incoming = incoming

    def close(self) -> None:
        self.ended.append("close")

    def abort(self) -> None:
        self.ended.append("abort")


class WithSession(MemoryStream):
    """``memory-stream`` whose flows belong to one session."""

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(network)
        self.session = Held()

    async def connect(self, request: ConnectRequest) -> Any:
        flow = await super().connect(request)
        flow.session = self.session
        return flow


@contextlib.asynccontextmanager
async def open_pair(
    here: Any, **how: Any
) -> AsyncIterator[tuple[taps.Connection[Any], taps.Connection[Any]]]:
    """A client and what the Listener accepted; both groups are aborted in the end."""
    async with here.listen(**how) as listener:
        client = await here.to(listener, **how).initiate()
        if not client.stack.capabilities.connected:
            await client.send(b"hello")
        server = await listener.accept()
        try:
            yield client, server
        finally:
            client.abort_group()
            server.abort_group()
            await asyncio.sleep(0)


# ------------------------------------------------------------------- by the parent's state


def test_both_sides_of_an_association_can_open_streams(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with open_pair(world(MemoryMessages(memory_network))) as (client, server):
            for parent, peer in ((client, server), (server, client)):
                streams = peer.incoming()
                clone = await parent.clone()
                assert not clone.accepted
                assert clone.stack is parent.stack
                assert {parent, clone} <= parent.grouped_connections()
                await clone.send(b"over a stream of its own")
                stream = await anext(streams)
                assert (await stream.receive()).data == b"over a stream of its own"
                await stream.send(b"back")
                assert (await clone.receive()).data == b"back"

    run(main, memory_network)


@pytest.mark.parametrize("wish", ["prefer", "require"])
def test_who_reads_before_it_sends_is_cloned_by_an_association_of_its_own(
    run: Run, world: Any, memory_network: MemoryNetwork, wish: str
) -> None:
    async def main() -> None:
        properties = {"activeReadBeforeSend": wish}
        here = world(MemoryMessages(memory_network), properties=properties)
        async with here.listen() as listener:
            client = await here.to(listener).initiate()
            server = await listener.accept()
            clone = await client.clone()
            twin = await listener.accept()
            await twin.send(b"I begin")
            assert (await clone.receive()).data == b"I begin"
            # Streams of either association are taken; that of who listens sends first anyway.
            streams = client.incoming()
            for member in (server, twin):
                stream = await member.clone()
                await stream.send(b"a stream")
                assert (await (await anext(streams)).receive()).data == b"a stream"
            for member in (client, server, twin):
                member.abort_group()
            await asyncio.sleep(0)

    run(main, memory_network)


def test_what_the_peer_opened_is_not_cloneable_without_streams(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with open_pair(world(MemoryStream(memory_network))) as (_, server):
            error = await Fates(server).refused()
            assert error.reason is taps.Reason.NOT_CLONEABLE
            assert error.detail == "accepted"
            assert not error.transient
            await server.send(b"alive")

    run(main, memory_network)


def test_what_prevented_the_parent_prevents_its_clones(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        parent = world(MemoryStream(memory_network)).to(NOBODY).initiate()
        error = await Fates(parent).refused(parent_is_told=False)
        with pytest.raises(taps.EstablishmentError) as caught:
            await parent
        assert error.reason is caught.value.reason is taps.Reason.ESTABLISHMENT_FAILED
        assert error.detail == "parent-failed"
        assert error.attempts == caught.value.attempts != ()
        assert error.transient is caught.value.transient is True
        # Its clones are those of a closed one now.
        late = await Fates(parent).refused(parent_is_told=False)
        assert (late.reason, late.detail) == (taps.Reason.NOT_CLONEABLE, "parent-closed")

    run(main, memory_network)


@pytest.mark.parametrize("end", ["abort", "close"])
def test_giving_up_a_parent_that_is_establishing_gives_up_those_that_wait_for_it(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, end: str
) -> None:
    async def main() -> None:
        memory_network.blackhole("127.0.0.1")
        parent = world(MemoryStream(memory_network)).to("127.0.0.1:7").initiate()
        fates = Fates(parent)
        clone = fates.clone()
        grandchild = clone.clone()
        await turns()
        getattr(parent, end)()
        error = await fates.refused(clone, parent_is_told=False)
        assert (error.reason, error.detail) == (taps.Reason.LOCAL_ABORT, "parent-failed")
        with pytest.raises(taps.CloneError) as caught:
            await grandchild
        assert caught.value.detail == "parent-failed"
        memory_network.blackhole("127.0.0.1", False)

    run(main, memory_network)


#: More than a Connection holds that nobody receives from.
MUCH = bytes(500_000)


def test_a_parent_that_is_closing_has_no_clones(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network, window=1000))
        async with open_pair(here) as (client, _):
            client.send_nowait(MUCH)
            _ = client.close()
            error = await Fates(client).refused()
            assert client.state is taps.ConnectionState.CLOSING
            assert (error.reason, error.detail) == (taps.Reason.NOT_CLONEABLE, "parent-closed")
            assert not error.transient

    run(main, memory_network)


def test_a_parent_that_is_closed_has_no_clones(
    run: Run, world: Any, memory_network: MemoryNetwork, memory_transport: Any
) -> None:
    async def main() -> None:
        async with open_pair(world(memory_transport)) as (client, _):
            fates = Fates(client)
            client.abort()
            error = await fates.refused(parent_is_told=False)
            assert (error.reason, error.detail) == (taps.Reason.NOT_CLONEABLE, "parent-closed")
            assert not error.transient

    run(main, memory_network)


def test_a_parent_that_closes_as_soon_as_it_is_ready_has_no_clones(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            client = here.to(listener).initiate()
            client.send_nowait(b"last words")
            _ = client.close()  # kept until they are delivered
            fates = Fates(client)
            clone = fates.clone()
            error = await fates.refused(clone)
            assert error.detail == "parent-closed"
            server = await listener.accept()
            assert (await server.receive(max_length=100)).data == b"last words"
            server.abort()

    run(main, memory_network)


# ------------------------------------------------------------------- while it is establishing


@pytest.mark.parametrize("end", ["abort", "close"])
def test_a_clone_that_is_given_up_is_no_news_for_its_parent(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, end: str
) -> None:
    async def main() -> None:
        async with open_pair(world(MemoryStream(memory_network))) as (client, _):
            memory_network.blackhole("127.0.0.1")
            fates = Fates(client)
            clone = fates.clone()
            await turns()
            getattr(clone, end)()
            with pytest.raises(taps.EstablishmentError) as caught:
                await clone
            assert caught.value.reason is taps.Reason.LOCAL_ABORT
            await turns()
            assert [type(event) for event in fates.told_clone] == [taps.EstablishmentError]
            assert fates.told_parent == []
            assert client.grouped_connections() == {client}
            memory_network.blackhole("127.0.0.1", False)

    run(main, memory_network)


def test_a_clone_that_is_closed_with_something_to_send_delivers_it(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    memory_network.delay("127.0.0.1", 0.01)

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            client = await here.to(listener).initiate()
            clone = client.clone()
            clone.send_nowait(b"last words")
            closing = clone.close()
            first, second = await listener.accept(), await listener.accept()
            assert (await second.receive(max_length=100)).data == b"last words"
            await second.close()
            await closing
            client.abort()
            first.abort()

    run(main, memory_network)


def test_cancelling_whoever_awaits_a_clone_aborts_that_clone_alone(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        async with open_pair(world(MemoryStream(memory_network))) as (client, _):
            memory_network.blackhole("127.0.0.1")
            fates = Fates(client)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await fates.clone()
            await turns()
            assert [event.reason for event in fates.told_clone] == [taps.Reason.LOCAL_ABORT]
            assert fates.told_parent == []
            assert client.grouped_connections() == {client}
            memory_network.blackhole("127.0.0.1", False)
            assert memory_network.open_flows == 2

    run(main, memory_network)


def test_the_end_of_the_parent_leaves_a_clone_that_connects_alone(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            client = await here.to(listener).initiate()
            memory_network.delay("127.0.0.1", 0.01)
            clone = client.clone()
            await turns()
            client.abort()
            assert await clone is clone
            assert clone.grouped_connections() == {clone}
            for _ in range(2):
                (await listener.accept()).abort()
            clone.abort()

    run(main, memory_network)


def test_the_end_of_the_parents_association_is_the_end_of_a_stream_in_flight(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        transport = WithSession(memory_network)
        async with open_pair(world(transport)) as (client, server):
            fates = Fates(client)
            clone = fates.clone()
            await turns()
            server.abort()
            await turns()
            assert client.state is taps.ConnectionState.CLOSED
            assert clone.state is taps.ConnectionState.ESTABLISHING
            assert transport.session.opening is not None
            transport.session.opening.set_exception(
                taps.EstablishmentError(
                    "the association is gone",
                    reason=taps.Reason.CONNECTION_ABORTED,
                    detail="reset",
                    transient=True,
                )
            )
            error = await fates.refused(clone, parent_is_told=False)
            assert "the association is gone" in str(error)
            # The session's words are passed on.
            assert (error.reason, error.detail) == (taps.Reason.CONNECTION_ABORTED, "reset")
            assert error.transient

    run(main, memory_network)


def test_a_clone_that_nobody_answers_says_what_was_tried(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            client = await here.to(listener).initiate()
            server = await listener.accept()
        error = await Fates(client).refused()
        assert error.reason is taps.Reason.ESTABLISHMENT_FAILED
        assert [attempt.outcome for attempt in error.attempts] == ["failed"]
        assert error.transient
        assert isinstance(error, OSError)
        client.abort()
        server.abort()

    run(main, memory_network)


# ------------------------------------------------------------------- what it takes with it


def test_framers_that_break_a_requirement_are_refused(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(
            MemoryStream(memory_network), properties={"preserve_msg_boundaries": "require"}
        )
        async with open_pair(here, framers=Line()) as (client, _):
            fates = Fates(client)
            error = await fates.refused(fates.clone(framers=[]))
            assert (error.reason, error.detail) == (taps.Reason.NO_CANDIDATES, "framers")
            assert "preserveMsgBoundaries" in str(error)
            other = await client.clone(framers=LengthPrefix())
            assert other.properties["preserveMsgBoundaries"] is True

    run(main, memory_network)


def test_framers_that_do_not_go_together_are_refused(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with open_pair(world(MemoryStream(memory_network))) as (client, _):
            fates = Fates(client)
            error = await fates.refused(fates.clone(framers=[JSONLines(), Line()]))
            assert error.reason is taps.Reason.INVALID_CONFIGURATION

    run(main, memory_network)


def test_security_parameters_and_the_name_to_verify_go_with_a_clone(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Asked(MemoryStream):
        requests: ClassVar[list[ConnectRequest]] = []

        async def connect(self, request: ConnectRequest) -> Any:
            self.requests.append(request)
            return await super().connect(request)

    async def main() -> None:
        here = world(Asked(memory_network), MemoryTLS())
        security = taps.SecurityParameters(alpn=["echo"])
        security.set_trust_verification_callback(lambda *facts: True)
        async with here.listen(at="localhost:0") as listener:
            client = await here.to(listener, security=security).initiate()
            clone = await client.clone()
            first, second = Asked.requests
            assert second.security is first.security
            assert second.security.trust_verification_callback is not None
            assert (first.server_name, second.server_name) == ("localhost", "localhost")
            assert (first.role, second.role) == ("initiate", "clone")
            assert clone.stack is client.stack
            assert str(clone.stack) == "MEMORY-TLS/MEMORY-STREAM"
            client.abort_group()
            for _ in range(2):
                (await listener.accept()).abort()

    run(main, memory_network)


def test_handlers_and_event_streams_are_each_ones_own(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        async with open_pair(world(MemoryStream(memory_network))) as (client, _):
            told: list[Any] = []
            client.on(taps.Event, told.append)
            client.on(taps.TapsError, told.append)
            clone = await client.clone()
            await clone.send(b"x")
            clone.abort()
            await turns()
            assert told == []

    run(main, memory_network)


class RefusingFlow(LayerFlow):
    """Refuses one property."""

    def apply(self, property: str, value: Any, /) -> bool:
        if property == "keepAliveTimeout":
            raise taps.PropertyError("keepAliveTimeout stays as it is")
        return True


@pytest.mark.requirement("G-9622-7.4-05")
def test_a_clone_that_cannot_follow_what_was_set_meanwhile_leaves_the_group(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    class Second(MemoryStream):
        connects = 0

        async def connect(self, request: ConnectRequest) -> Any:
            flow = await super().connect(request)
            self.connects += 1
            return flow if self.connects == 1 else RefusingFlow(flow)

    async def main() -> None:
        here = world(Second(memory_network), properties={"keepAliveTimeout": 5})
        async with open_pair(here) as (client, _):
            memory_network.delay("127.0.0.1", 0.01)
            clone = client.clone()
            errors: list[Any] = []
            clone.on(taps.CloneError, errors.append)
            await turns()
            client.set_property("keepAliveTimeout", 9)
            assert await clone is clone
            await turns()
            (error,) = errors
            assert error.detail == "left-group"
            assert clone.grouped_connections() == {clone}
            assert client.grouped_connections() == {client}
            assert clone.properties["keepAliveTimeout"] == 5
            assert client.properties["keepAliveTimeout"] == 9
            clone.abort()

    run(main, memory_network)


# ------------------------------------------------------------------- CloseGroup, AbortGroup


def watch(connection: taps.Connection[Any], into: list[str], name: str) -> None:
    for kind in (taps.Event, taps.TapsError):
        connection.on(kind, lambda event: into.append(f"{name}: {type(event).__name__}"))


@pytest.mark.requirement("G-9622-10-03", "G-9622-11-03", "G-9622-9.2.2-01")
@pytest.mark.parametrize("action", ["close_group", "abort_group"])
def test_each_send_has_its_outcome_before_the_end_of_its_member(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, action: str
) -> None:
    async def main() -> None:
        async with open_pair(world(MemoryStream(memory_network, window=1000))) as (client, server):
            clone = await client.clone()
            told: list[str] = []
            watch(client, told, "client")
            watch(clone, told, "clone")
            for member in (client, clone):
                for _ in range(4):
                    member.send_nowait(MUCH)
                    await turns()
                assert member.queued[1]
            getattr(clone, action)()
            if action == "close_group":
                # What waited is delivered first.
                assert client.state is clone.state is taps.ConnectionState.CLOSING
                assert (await server.receive_exactly(4 * len(MUCH))).data == 4 * MUCH
                assert (await server.receive(max_length=1)).end_of_message
                await server.close()
                await turns(10)
                assert [each for each in told if each.startswith("client")] == [
                    *["client: Sent"] * 4,
                    "client: Closed",
                ]
                clone.abort()
            else:
                await turns(10)
                for name in ("client", "clone"):
                    events = [each for each in told if each.startswith(name)]
                    assert events[-1] == f"{name}: ConnectionError"
                    assert len(events) == 5
                    assert set(events[:-1]) <= {f"{name}: Sent", f"{name}: SendError"}
                    assert f"{name}: SendError" in events
            assert clone.grouped_connections() == set()

    run(main, memory_network)


@pytest.mark.parametrize("action", ["close_group", "abort_group"])
def test_a_stream_in_flight_is_given_up_with_its_group(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, action: str
) -> None:
    async def main() -> None:
        transport = WithSession(memory_network)
        async with open_pair(world(transport)) as (client, server):
            fates = Fates(client)
            clone = fates.clone()
            await turns()
            assert transport.session.opening is not None
            getattr(client, action)()
            with pytest.raises(taps.EstablishmentError) as caught:
                await clone
            assert caught.value.reason is taps.Reason.LOCAL_ABORT
            assert fates.told_parent == []
            await turns()
            assert transport.session.opening.cancelled()
            server.abort()
            await turns()
            assert transport.session.ended == [action.removesuffix("_group")]

    run(main, memory_network)


@pytest.mark.parametrize("action", ["close_group", "abort_group"])
def test_streams_that_nobody_has_taken_end_with_their_group(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, action: str
) -> None:
    async def main() -> None:
        async with open_pair(world(MemoryMessages(memory_network))) as (client, server):
            incoming = server.incoming()
            clones = [await client.clone() for _ in range(3)]
            for clone in clones:
                await clone.send(b"hello")
            await turns()
            taken = await anext(incoming)
            assert len(server.grouped_connections()) == 4
            getattr(server, action)()
            if action == "close_group":
                client.close_group()
            await turns(10)
            for clone in (taken, *clones[1:]):
                assert clone.state is taps.ConnectionState.CLOSED
            assert server.grouped_connections() == set()
            # Those that nobody took can still be had, with what they brought.
            left = [stream async for stream in incoming]
            assert [stream.state for stream in left] in ([], [taps.ConnectionState.CLOSED] * 2)

    run(main, memory_network)


def test_no_stream_of_the_peer_joins_a_group_that_closes(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        transport = WithSession(memory_network)
        late = ScriptedFlow()
        transport._window = 10
        async with open_pair(world(transport)) as (client, server):
            got: list[Any] = []
            client.on(taps.ConnectionReceived, got.append)
            client.send_nowait(MUCH)
            client.close_group()  # Closing until the peer has read that
            assert client.state is taps.ConnectionState.CLOSING
            transport.session.incoming(late)
            await turns()
            assert [call.name for call in late.calls] == ["abort"]
            assert got == []
            assert client.grouped_connections() == {client}
            server.abort()

    run(main, memory_network)
