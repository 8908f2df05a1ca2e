"""Properties of a Connection: set, get, has, effect, in every state (section 8)."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import Kind, LayerFlow, Property, Support, Transport, ValueType
from taps_core.testing import MemoryDatagram, MemoryNetwork, MemoryStream, MemoryTLS
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest, Flow
    from taps_core.testing.fixtures import Run

LEVEL = Property(
    "_test.level", Kind.CONNECTION, ValueType.INTEGER, 1, meaning="A level.", minimum=0
)
FIGURE = Property(
    "_test.figure", Kind.CONNECTION, ValueType.INTEGER, meaning="A figure.", read_only=True
)


class KnowingFlow(LayerFlow):
    """Knows what was applied better than the Connection does."""

    def __init__(self, lower: Flow) -> None:
        super().__init__(lower)
        self.values: dict[str, Any] = {"_test.figure": 42, "sendMsgMaxLen": 1000}
        self.refuses: set[str] = set()

    def apply(self, property: str, value: Any, /) -> bool:
        if property in self.refuses:
            raise taps.PropertyError(f"{property} stays as it is")
        if property == "keepAliveTimeout":
            value = math.ceil(value)  # as a socket option takes whole seconds only
        self.values[property] = value
        return True

    def read(self, property: str, /) -> Any:
        return self.values.get(property)


class Knowing(MemoryStream):
    """``memory-stream`` with properties of its own."""

    properties = (LEVEL, FIGURE)
    capabilities = MemoryStream.capabilities.but(
        support={"keepAlive": Support.OPTIONAL},
        effects={"keepAliveTimeout": Support.ALWAYS, "sendMsgMaxLen": Support.ALWAYS},
    )

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(network)
        self.flows: list[KnowingFlow] = []

    async def connect(self, request: ConnectRequest) -> Any:
        self.flows.append(KnowingFlow(await super().connect(request)))
        return self.flows[-1]


class Client:
    """An established Connection on ``Knowing``, with what it talks to."""

    def __init__(self, world: Any, network: MemoryNetwork, **properties: Any) -> None:
        self.transport = Knowing(network)
        self.here = world(self.transport, properties=properties)

    async def __aenter__(self) -> taps.Connection[Any]:
        self.listener = await self.here.listen()
        self.connection = await self.here.to(self.listener).initiate()
        self.server = await self.listener.accept()
        return self.connection

    @property
    def flow(self) -> KnowingFlow:
        return self.transport.flows[-1]

    async def __aexit__(self, *_: object) -> None:
        self.connection.abort()
        self.server.abort()
        self.listener.stop()
        await self.listener.stopped()


@pytest.mark.requirement("G-9622-6.2-02", "G-9622-4-01")
def test_preferences_read_as_they_were_set_then_as_booleans(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(
            Knowing(memory_network),
            properties={
                "keep_alive": "prefer",
                "multistreaming": "avoid",
                "preserve_msg_boundaries": "no_preference",
                "interface": {"lo": "prefer"},
            },
        )
        async with here.listen(framers=LengthPrefix()) as listener:
            connection = here.to(listener, framers=LengthPrefix()).initiate()
            properties = connection.properties
            assert properties["keepAlive"] is taps.Preference.PREFER
            assert properties["multistreaming"] is taps.Preference.AVOID
            assert properties.has("keepAlive")
            assert not properties.has("multistreaming")
            async with connection:
                # The same view: it is live.
                assert properties["keepAlive"] is True
                assert properties["multistreaming"] is False
                assert properties["reliability"] is True
                assert properties["preserveMsgBoundaries"] is True  # the framer's doing
                assert properties.has("preserve_msg_boundaries")
                # Other types read as they were.
                assert properties["interface"] == frozenset({(taps.Preference.PREFER, "lo")})
                assert properties["direction"] is taps.Direction.BIDIRECTIONAL
                assert properties["multipath"] is taps.Multipath.DISABLED
                (await listener.accept()).abort()
                connection.abort()
            assert properties["keepAlive"] is True  # also afterwards

    run(main, memory_network)


@pytest.mark.requirement("G-9622-4.1-01", "R-9622-5-02", "R-9622-5-03")
def test_every_property_can_be_read_in_every_state_in_any_spelling(
    run: Run, world: Any, memory_transport: Transport, memory_network: MemoryNetwork
) -> None:
    def read_all(connection: taps.Connection[Any]) -> None:
        properties = connection.properties
        assert len(properties) == len(list(properties)) >= 40
        for name in properties:
            assert name in properties
            for spelling in (name.upper(), name.lower()):
                assert properties[spelling] == properties[name]
            assert properties.effect(name) is None or "no effect on" in properties.effect(name)

    async def main() -> None:
        here = world(memory_transport)
        async with here.listen() as listener:
            connection = here.to(listener).initiate()
            read_all(connection)
            await connection
            read_all(connection)
            await connection.send(b"x", final=True)
            assert connection.properties["canSend"] is False
            assert connection.properties["canReceive"] is True
            closing = connection.close()
            read_all(connection)
            assert connection.properties["canReceive"] is False
            connection.abort()
            await closing
            read_all(connection)
            assert connection.properties["connState"] is taps.ConnectionState.CLOSED
            assert connection.properties["sendMsgMaxLen"] == 0
            assert connection.properties["recvMsgMaxLen"] == 0
            (await listener.accept()).abort()

    run(main, memory_network)


@pytest.mark.requirement("R-9622-8-02", "R-9622-8-03")
def test_what_cannot_be_set_raises_and_the_connection_is_as_it_was(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        client = Client(world, memory_network)
        async with client as connection:
            client.flow.refuses.add("connTimeout")
            connection.set_property("keepAliveTimeout", 7)
            before = dict(connection.properties)
            for name, value, hint in (
                ("keepAliveTimeot", 5, "keepAliveTimeout"),  # misspelt: the nearest
                ("keep_alive_timeot", 5, "keep_alive_timeout"),
                ("keepAliveTimeout", -1, "above 0"),
                ("keepAliveTimeout", "soon", "number"),
                ("connScheduler", "Lottery", "one of"),
                ("reliability", "require", "before establishment"),
                ("connState", "Closed", "read-only"),
                ("sendMsgMaxLen", 1, "read-only"),
                ("_test.levle", 5, "_test.level"),
                ("_test.level", -1, "of at least 0"),
                ("_test.figure", 1, "read-only"),
                ("tcp.userTimeoutValue", 5, "means nothing to the stack"),
                ("connTimeout", 5, "stays as it is"),  # the stack refuses
                ("msgLifetime", 0, "above 0"),
                ("earlyData", True, "read-only"),
            ):
                with pytest.raises(taps.PropertyError, match=hint):
                    connection.set_property(name, value)
            assert dict(connection.properties) == before
            await connection.send(b"alive")
            assert (await client.server.receive(max_length=5)).data == b"alive"
        with pytest.raises(taps.PropertyError, match="closed"):
            connection.set_property("keepAliveTimeout", 5)

    run(main, memory_network)


@pytest.mark.requirement("R-9623-7-01")
def test_what_is_set_can_be_read_back_and_the_stack_knows_better(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        client = Client(world, memory_network, keep_alive_timeout=30)
        async with client as connection:
            properties = connection.properties
            assert properties["keepAliveTimeout"] == 30
            connection.set_property("KEEP_ALIVE_TIMEOUT", 6.5)
            assert properties["keepAliveTimeout"] == 7
            connection.set_property("connTimeout", math.inf)
            assert properties["connTimeout"] == math.inf
            connection.set_property("conn_scheduler", "round-robin")
            assert properties["connScheduler"] is taps.Scheduler.ROUND_ROBIN
            connection.set_property("_test.level", 5)
            assert properties["_test.level"] == 5
            assert properties["_test.figure"] == 42
            assert properties["sendMsgMaxLen"] == 1000
            assert properties["singularTransmissionMsgMaxLen"] is None  # not applicable

    run(main, memory_network)


@pytest.mark.requirement("G-9622-4-02")
def test_message_properties_of_a_connection_are_defaults_of_its_messages(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        client = Client(world, memory_network, msg_priority=5)
        async with client as connection:
            properties = connection.properties
            assert properties["msgPriority"] == 5
            assert client.server.properties["msgPriority"] == 5  # its Listener's default
            connection.set_property("msg_priority", 6)
            assert properties["msgPriority"] == 6
            assert client.server.properties["msgPriority"] == 5
            # Derived where nothing is set.
            assert properties["msgOrdered"] is True
            assert properties["msgReliable"] is True
            assert properties["msgCapacityProfile"] is taps.CapacityProfile.DEFAULT
            connection.set_property("connCapacityProfile", "scavenger")
            assert properties["msgCapacityProfile"] is taps.CapacityProfile.SCAVENGER

    run(main, memory_network)


def test_unknown_names_are_no_properties(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Client(world, memory_network) as connection:
            properties = connection.properties
            with pytest.raises(taps.PropertyError, match="reliability"):
                _ = properties["reliablity"]
            assert properties.get("reliablity") is None
            assert properties.get("reliablity", 5) == 5
            assert "reliablity" not in properties
            assert 5 not in properties
            assert "RELIABILITY" in properties
            with pytest.raises(taps.PropertyError):
                properties.effect("reliablity")
            with pytest.raises(taps.PropertyError, match="Booleans and Preferences"):
                properties.has("connPriority")
            with pytest.raises(TypeError):
                properties["connPriority"] = 5  # type: ignore[index]  # the point

    run(main, memory_network)


def test_what_has_no_effect_on_the_stack_is_accepted_and_said(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Client(world, memory_network, conn_timeout=5) as connection:
            properties = connection.properties
            for name in ("minSendRate", "minRecvRate", "maxRecvRate"):
                connection.set_property(name, 1000)
                assert properties[name] == 1000
                assert properties.effect(name).startswith("no effect on MEMORY-STREAM: ")
            assert properties.effect("keepAliveTimeout") is None
            assert properties.effect("_test.level") is None
            # The Connection itself sees to these.
            assert properties.effect("msgPriority") is None
            assert properties.effect("maxSendRate") is None

    run(main, memory_network)


def test_what_is_set_while_establishing_takes_effect(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    memory_network.delay("127.0.0.1", 0.01)

    async def main() -> None:
        transport = Knowing(memory_network)
        here = world(transport)
        async with here.listen() as listener:
            for wait in (0, 5):  # before the attempt is made, and while it runs
                connection = here.to(listener).initiate()
                await turns(wait)
                connection.set_property("keepAliveTimeout", 9)
                connection.set_property("connPriority", 3)
                connection.set_property("msgPriority", 2)
                if wait:
                    connection.set_property("_test.level", 4)
                assert connection.properties["keepAliveTimeout"] == 9
                await connection
                if wait:
                    flow = transport.flows[-1]
                    assert flow.values["keepAliveTimeout"] == 9
                    assert flow.values["connPriority"] == 3
                    assert flow.values["_test.level"] == 4
                    assert "msgPriority" not in flow.values
                properties = connection.properties
                names = ("keepAliveTimeout", "connPriority", "msgPriority")
                assert [properties[name] for name in names] == [9, 3, 2]
                connection.abort()
                (await listener.accept()).abort()

    run(main, memory_network)


def test_what_the_stack_refuses_of_it_is_read_back_as_it_is(
    run: Run,
    world: Any,
    memory_network: MemoryNetwork,
    caplog: pytest.LogCaptureFixture,
    turns: Any,
) -> None:
    memory_network.delay("127.0.0.1", 0.01)

    class Stubborn(Knowing):
        async def connect(self, request: ConnectRequest) -> Any:
            flow = await super().connect(request)
            flow.refuses |= {"keepAliveTimeout", "connPriority", "_test.level"}
            return flow

    async def main() -> None:
        here = world(Stubborn(memory_network))
        async with here.listen() as listener:
            connection = here.to(listener).initiate()
            await turns()
            for name in ("keepAliveTimeout", "connPriority", "_test.level"):
                connection.set_property(name, 9)
            async with connection:
                (await listener.accept()).abort()
                assert connection.properties["keepAliveTimeout"] == math.inf
                assert connection.properties["connPriority"] == 100
                assert connection.properties["_test.level"] == 1
                connection.abort()

    run(main, memory_network)
    assert sum("stays as it is" in record.getMessage() for record in caplog.records) == 3


def test_can_send_and_can_receive_follow_the_direction(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        for direction, can in (
            (taps.Direction.UNIDIRECTIONAL_SEND, (True, False)),
            (taps.Direction.UNIDIRECTIONAL_RECEIVE, (False, True)),
            (taps.Direction.BIDIRECTIONAL, (True, True)),
        ):
            client = Client(world, memory_network, direction=direction)
            async with client as connection:
                properties = connection.properties
                assert (properties["canSend"], properties["canReceive"]) == can
                assert (properties["sendMsgMaxLen"] == 0) is not can[0]

    run(main, memory_network)


def test_datagrams_tell_how_large_a_message_may_be(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryDatagram(memory_network, max_length=1200))
        connection = await here.to("127.0.0.1:9").initiate()
        for name in ("sendMsgMaxLen", "recvMsgMaxLen", "singularTransmissionMsgMaxLen"):
            assert connection.properties[name] == 1200
        with pytest.raises(taps.SendError) as caught:
            await connection.send(b"x" * 1201)
        assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
        connection.abort()
        await asyncio.sleep(0)

    run(main, memory_network)


@pytest.mark.requirement("R-9623-7-02")
def test_the_layer_nearest_the_application_decides_first(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    """As HTTP/2 asks for a PING of its own in place of TCP's keep-alives."""

    class PingingFlow(LayerFlow):
        def __init__(self, lower: Flow) -> None:
            super().__init__(lower)
            self.pings: Any = None

        def apply(self, property: str, value: Any, /) -> bool:
            if property != "keepAliveTimeout":
                return super().apply(property, value)
            self.pings = value
            return True

        def read(self, property: str, /) -> Any:
            return self.pings if property == "keepAliveTimeout" else super().read(property)

    class Pinging(MemoryTLS):
        async def connect(self, lower: Any, request: ConnectRequest) -> Flow:
            return PingingFlow(await super().connect(lower, request))

    async def main() -> None:
        transport = Knowing(memory_network)
        here = world(transport, Pinging())
        async with here.listen() as listener:
            connection = await here.to(listener).initiate()
            connection.set_property("keepAliveTimeout", 6.5)
            connection.set_property("_test.level", 5)
            # The transport, which would have made 7 of it, was not asked.
            assert connection.properties["keepAliveTimeout"] == 6.5
            assert "keepAliveTimeout" not in transport.flows[0].values
            # What the upper one does not know goes down.
            assert transport.flows[0].values["_test.level"] == 5
            connection.abort()
            (await listener.accept()).abort()

    run(main, memory_network)
