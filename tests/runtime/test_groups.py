"""Connection Groups: Clone, what members share and what they do not (sections 7.4, 8, 10)."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any, Self

import pytest

import taps_core as taps
from taps_core.plugin import Capabilities, Kind, LayerFlow, Property, Session, Transport, ValueType
from taps_core.testing import MemoryMessages, MemoryNetwork, MemoryStream
from taps_framers import LengthPrefix, Line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taps_core.plugin import ConnectRequest, Flow
    from taps_core.testing.fixtures import Run

NOBODY = "127.0.0.9:9"

LEVEL = Property(
    "_test.level", Kind.CONNECTION, ValueType.INTEGER, 0, meaning="Shared.", group_shared=True
)
STREAM_ID = Property("_test.streamId", Kind.CONNECTION, ValueType.INTEGER, 0, meaning="Own.")


class SettableFlow(LayerFlow):
    """Remembers what was applied, and refuses what it is told to."""

    def __init__(self, lower: Flow, request: ConnectRequest) -> None:
        super().__init__(lower)
        self.session = lower.session
        self.request = request
        self.applied: list[tuple[str, Any]] = []
        self.refuses: set[str] = set()

    def apply(self, property: str, value: Any, /) -> bool:
        if property in self.refuses:
            raise taps.PropertyError(f"{property} stays as it is")
        self.applied.append((property, value))
        return True


class Settable(MemoryStream):
    """``memory-stream`` with flows that take properties, ``_test.…`` among them."""

    properties = (LEVEL, STREAM_ID)

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(network)
        self.flows: list[SettableFlow] = []

    async def connect(self, request: ConnectRequest) -> Any:
        flow = SettableFlow(await super().connect(request), request)
        self.flows.append(flow)
        return flow


class Pair:
    """A listener that swallows everything, and a client on a transport of the test's choice."""

    def __init__(self, here: Any, framers: Any = None) -> None:
        self.here = here
        self.framers = framers
        self.members: list[taps.Connection[Any]] = []
        self.served: list[taps.Connection[Any]] = []

    async def __aenter__(self) -> Self:
        self.listener = self.here.listen(framers=self.framers)
        self.listener.on(
            taps.ConnectionReceived, lambda event: self.served.append(event.connection)
        )
        await self.listener
        self.client = await self.here.to(self.listener, framers=self.framers).initiate()
        self.members.append(self.client)
        return self

    async def clone(self, **how: Any) -> taps.Connection[Any]:
        clone = await self.client.clone(**how)
        self.members.append(clone)
        return clone

    async def __aexit__(self, *_: object) -> None:
        for connection in (*self.members, *self.served):
            connection.abort()
        self.listener.stop()
        await self.listener.stopped()


# ------------------------------------------------------------------- Clone


@pytest.mark.requirement("G-9622-3.1.2-01")
def test_a_clone_of_what_is_establishing_waits_for_it(
    run: Run, world: Any, memory_transport: Transport, memory_network: MemoryNetwork
) -> None:
    memory_network.delay("127.0.0.1", 0.01)

    async def main() -> None:
        here = world(memory_transport)
        async with here.listen() as listener:
            client = here.to(listener).initiate()
            clone = client.clone()
            assert clone.state is taps.ConnectionState.ESTABLISHING
            assert client.grouped_connections() == {client, clone}
            ready: list[str] = []
            client.on(taps.Ready, lambda _: ready.append("client"))
            clone.on(taps.Ready, lambda _: ready.append("clone"))
            clone.send_nowait(b"queued")
            assert await clone is clone
            assert client.state is taps.ConnectionState.ESTABLISHED
            await asyncio.sleep(0)
            assert ready == ["client", "clone"]
            client.abort_group()

    run(main, memory_network)


def test_the_failure_of_the_parent_fails_its_clones(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        client = world(MemoryStream(memory_network)).to(NOBODY).initiate()
        clone = client.clone()
        with pytest.raises(taps.CloneError, match="cloned from failed") as caught:
            await clone
        assert isinstance(caught.value.__cause__, taps.CloneError)
        assert clone.state is taps.ConnectionState.CLOSED
        with pytest.raises(taps.EstablishmentError):
            await client
        with pytest.raises(taps.CloneError, match="is closed"):
            await client.clone()

    run(main, memory_network)


def test_a_clone_fails_as_an_event_of_both(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        reports: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reports.append(context["exception"])
        )
        async with Pair(world(MemoryStream(memory_network))) as pair:
            pair.listener.stop()
            await pair.listener.stopped()
            parents: list[Any] = []
            pair.client.on(taps.CloneError, parents.append)
            clone = pair.client.clone()
            events = clone.events()
            with pytest.raises(taps.CloneError, match="refused") as caught:
                await clone
            assert caught.value.reason is taps.Reason.ESTABLISHMENT_FAILED
            assert len(caught.value.attempts) == 1
            assert clone.report == caught.value.attempts
            await turns()
            # EstablishmentError on the clone, CloneError on its parent, which lives.
            (told,) = [event async for event in events]
            assert parents == [told]
            assert isinstance(told, taps.EstablishmentError)
            assert pair.client.state is taps.ConnectionState.ESTABLISHED
            assert pair.client.grouped_connections() == {pair.client}
            # One that nobody awaits is handled by the parent's handler.
            _ = pair.client.clone()
            while len(parents) < 2:
                await turns(1)
            gc.collect()
            assert reports == []

    run(main, memory_network)


def test_what_the_peer_opened_cannot_be_cloned_without_streams(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        async with Pair(world(MemoryStream(memory_network))) as pair:
            await turns()
            (server,) = pair.served
            errors: list[Any] = []
            server.on(taps.CloneError, errors.append)
            with pytest.raises(taps.CloneError, match="no streams") as caught:
                await server.clone()
            assert caught.value.reason is taps.Reason.NOT_CLONEABLE
            await turns()
            assert len(errors) == 1
            assert server.state is taps.ConnectionState.ESTABLISHED

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.4-04")
def test_framers_are_copied_or_replaced_and_their_state_is_each_ones_own(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryMessages(memory_network))
        async with Pair(here, framers=Line()) as pair:
            _ = pair.served
            same = await pair.clone()
            other = await pair.clone(framers=[LengthPrefix(1), Line()])
            bare = await pair.clone(framers=[])
            assert str(same.stack) == "line/MEMORY-MESSAGES"
            assert str(other.stack) == "line/length-prefix/MEMORY-MESSAGES"
            assert str(bare.stack) == "MEMORY-MESSAGES"
            # What a clone is made of, its own clones are made of.
            again = other.clone()
            pair.members.append(again)
            assert str((await again).stack) == str(other.stack)
            # Half a line on one is none of the others' business.
            (server,) = pair.served
            streams: list[Any] = []
            server.on(taps.ConnectionReceived, lambda event: streams.append(event.connection))
            context = taps.MessageContext()
            await pair.client.send(b"first ", context, end_of_message=False)
            await same.send(b"whole")
            await turns()
            assert (await streams[0].receive()).data == b"whole"
            await pair.client.send(b"half", context)
            assert (await server.receive()).data == b"first half"
            with pytest.raises(TypeError, match="live framer"):
                pair.client.clone(framers=Line().create())
            pair.served += streams

    run(main, memory_network)


def test_a_clone_that_is_given_up_leaves_nothing(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        async with Pair(world(MemoryStream(memory_network))) as pair:
            await turns()
            memory_network.blackhole("127.0.0.1")
            clone = pair.client.clone()
            await turns()
            clone.abort()
            waiting = asyncio.ensure_future(pair.client.clone()._wait_ready())
            await turns()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            memory_network.blackhole("127.0.0.1", False)
            assert pair.client.grouped_connections() == {pair.client}
            assert memory_network.open_flows == 2

    run(main, memory_network)


def test_a_clone_does_not_wait_for_ever(
    run: Run, world: Any, memory_network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taps_core.runtime.establishment.TIMEOUT", 0.02)

    async def main() -> None:
        async with Pair(world(MemoryStream(memory_network))) as pair:
            memory_network.blackhole("127.0.0.1")
            with pytest.raises(taps.CloneError) as caught:
                await pair.client.clone()
            assert caught.value.reason is taps.Reason.TIMEOUT
            assert caught.value.transient
            memory_network.blackhole("127.0.0.1", False)

    run(main, memory_network)


def test_a_sessions_bug_is_a_clone_error(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Broken(Session):
        async def open_stream(self, properties: Mapping[str, Any]) -> Flow:
            raise RuntimeError("a bug")

        def accept_streams(self, incoming: Any, limit: float) -> None: ...

        def close(self) -> None: ...

        def abort(self) -> None: ...

    class Streams(MemoryStream):
        async def connect(self, request: ConnectRequest) -> Any:
            flow = await super().connect(request)
            flow.session = Broken()
            return flow

    async def main() -> None:
        async with Pair(world(Streams(memory_network))) as pair:
            with pytest.raises(taps.CloneError, match="a bug"):
                await pair.client.clone()
            assert pair.client.state is taps.ConnectionState.ESTABLISHED

    run(main, memory_network)


def test_the_address_of_a_clone_is_not_the_port_of_its_parent(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            client = await here.to(listener, local="127.0.0.5:4000").initiate()
            clone = await client.clone()
            assert client.local_endpoint.port == 4000
            assert clone.local_endpoint.ip_address == "127.0.0.5"
            assert clone.local_endpoint.port != 4000
            assert clone.remote_endpoint == client.remote_endpoint
            client.abort_group()

    run(main, memory_network)


# ------------------------------------------------------------------- what members share


@pytest.mark.requirement("G-9622-7.4-01", "R-9623-10.1-01")
def test_connection_properties_are_entangled(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        transport = Settable(memory_network)
        async with Pair(world(transport)) as pair:
            clone = await pair.clone()
            clone.set_property("keepAliveTimeout", 11)
            clone.set_property("_test.level", 3)
            for member, flow in zip(pair.members, transport.flows, strict=True):
                assert member.properties["keepAliveTimeout"] == 11
                assert member.properties["_test.level"] == 3
                assert flow.applied == [("keepAliveTimeout", 11), ("_test.level", 3)]
            # Who joins later joins with them.
            late = await pair.clone()
            assert late.properties["keepAliveTimeout"] == 11
            assert transport.flows[-1].request.properties["keepAliveTimeout"] == 11
            assert transport.flows[-1].request.properties["_test.level"] == 3

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.4-02")
def test_conn_priority_is_copied_then_separate(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        transport = Settable(memory_network)
        async with Pair(world(transport)) as pair:
            pair.client.set_property("connPriority", 7)
            clone = await pair.clone()
            assert clone.properties["connPriority"] == 7
            assert transport.flows[1].request.properties["connPriority"] == 7
            clone.set_property("connPriority", 9)
            assert [member.properties["connPriority"] for member in pair.members] == [7, 9]
            assert transport.flows[0].applied == [("connPriority", 7)]
            assert transport.flows[1].applied == [("connPriority", 9)]

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.4-03", "G-9622-4-02")
def test_message_defaults_are_copied_then_separate(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network), properties={"msg_lifetime": 5})
        async with Pair(here) as pair:
            pair.client.set_property("msgPriority", 1)
            clone = await pair.clone()
            clone.set_property("msg_lifetime", 9)
            pair.client.set_property("msgPriority", 2)
            defaults = [
                (member.properties["msgPriority"], member.properties["msgLifetime"])
                for member in pair.members
            ]
            assert defaults == [(2, 5), (1, 9)]

    run(main, memory_network)


def test_what_a_plugin_declares_as_its_own_is_not_shared(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        transport = Settable(memory_network)
        async with Pair(world(transport)) as pair:
            pair.client.set_property("_test.stream_id", 4)
            await pair.clone(connection_properties={"_test.streamId": 6})
            assert [member.properties["_test.streamId"] for member in pair.members] == [4, 6]
            assert transport.flows[1].request.properties["_test.streamId"] == 6
            # Neither of them is the default of the next one.
            assert (await pair.clone()).properties["_test.streamId"] == 0

    run(main, memory_network)


def test_settings_of_a_clone_are_there_when_it_opens(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        transport = Settable(memory_network)
        async with Pair(world(transport)) as pair:
            clone = await pair.clone(
                connection_properties={
                    "conn_priority": 3,
                    "msgPriority": 4,
                    "keepAliveTimeout": 60,
                }
            )
            request = transport.flows[1].request
            assert request.properties["connPriority"] == clone.properties["connPriority"] == 3
            assert clone.properties["msgPriority"] == 4
            # This one is the whole group's, so it is set for the parent as well.
            assert request.properties["keepAliveTimeout"] == 60
            assert pair.client.properties["keepAliveTimeout"] == 60
            assert pair.client.properties["connPriority"] == 100
            assert pair.client.properties["msgPriority"] == 100
            for wrong in ({"keepAliveTimout": 1}, {"reliability": "require"}, {"_test.x": 1}):
                with pytest.raises(taps.PropertyError):
                    pair.client.clone(connection_properties=wrong)
            transport.flows[0].refuses.add("keepAliveTimeout")
            with pytest.raises(taps.CloneError, match="stays as it is"):
                await pair.client.clone(connection_properties={"keepAliveTimeout": 1})
            assert pair.client.properties["keepAliveTimeout"] == 60

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.4-05")
def test_a_member_that_cannot_follow_leaves_the_group_and_is_told(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        transport = Settable(memory_network)
        async with Pair(world(transport)) as pair:
            clone = await pair.clone()
            pair.client.set_property("keepAliveTimeout", 5)
            transport.flows[1].refuses.add("keepAliveTimeout")
            errors: list[Any] = []
            clone.on(taps.TapsError, errors.append)
            pair.client.set_property("keepAliveTimeout", 9)
            await turns()
            (error,) = errors
            assert isinstance(error, taps.CloneError)
            assert isinstance(error.__cause__, taps.PropertyError)
            assert "left its group" in str(error)
            assert clone.state is taps.ConnectionState.ESTABLISHED
            assert clone.grouped_connections() == {clone}
            assert pair.client.grouped_connections() == {pair.client}
            assert clone.properties["keepAliveTimeout"] == 5
            assert pair.client.properties["keepAliveTimeout"] == 9
            await clone.send(b"alive")
            pair.client.close_group()
            assert clone.state is taps.ConnectionState.ESTABLISHED

    run(main, memory_network)


def test_a_session_can_take_a_property_for_all_its_streams(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Shared(Session):
        def __init__(self) -> None:
            self.applied: list[Any] = []

        async def open_stream(self, properties: Mapping[str, Any]) -> Flow:
            raise NotImplementedError

        def accept_streams(self, incoming: Any, limit: float) -> None: ...

        def close(self) -> None: ...

        def abort(self) -> None: ...

        def apply(self, property: str, value: Any, /) -> bool:
            self.applied.append((property, value))
            return property == "connTimeout"

    shared = Shared()

    class Streams(Settable):
        async def connect(self, request: ConnectRequest) -> Any:
            flow = await super().connect(request)
            flow.session = shared
            return flow

    async def main() -> None:
        transport = Streams(memory_network)
        async with Pair(world(transport)) as pair:
            pair.client.set_property("connTimeout", 5)
            pair.client.set_property("keepAliveTimeout", 6)
            assert shared.applied == [("connTimeout", 5), ("keepAliveTimeout", 6)]
            assert transport.flows[0].applied == [("keepAliveTimeout", 6)]
            assert pair.client.properties["connTimeout"] == 5

    run(main, memory_network)


# ------------------------------------------------------------------- the ends of members


@pytest.mark.requirement("G-9622-10-03", "G-9622-10-02")
def test_groups_end_with_members_in_every_state(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        for action, last in (("close_group", taps.Closed), ("abort_group", taps.ConnectionError)):
            async with Pair(world(MemoryStream(memory_network))) as pair:
                established = await pair.clone()
                closed = await pair.clone()
                closed.abort()
                memory_network.blackhole("127.0.0.1")
                establishing = pair.client.clone()
                queued = pair.client.clone()
                queued.send_nowait(b"wants to be sent")
                events = [each.events() for each in (established, establishing, queued)]
                await turns()
                getattr(established, action)()
                ends = [[event async for event in each][-1] for each in events[:2]]
                assert isinstance(ends[0], last)
                assert ends[1].reason is taps.Reason.LOCAL_ABORT
                memory_network.blackhole("127.0.0.1", False)
                queued.abort()
                assert established.grouped_connections() == set()

    run(main, memory_network)


def test_close_group_ends_the_session_as_well(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        async with Pair(world(MemoryMessages(memory_network))) as pair:
            await turns()
            session = pair.client._flow.session
            await pair.clone()
            pair.client.close_group()
            await turns(10)
            assert session.over
            assert session.streams == set()

    run(main, memory_network)


def test_capabilities_of_a_clone_are_those_of_its_parent(
    run: Run, world: Any, memory_transport: Transport, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Pair(world(memory_transport)) as pair:
            clone = await pair.clone()
            assert isinstance(clone.stack.capabilities, Capabilities)
            assert clone.stack is pair.client.stack
            assert clone.properties["reliability"] == pair.client.properties["reliability"]

    run(main, memory_network)
