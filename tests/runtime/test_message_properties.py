"""Where the properties of a Message come from, and what becomes of them (section 9.1.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import Capabilities, LayerFlow, SecurityLayer, Support
from taps_core.testing import MemoryMessages, MemoryNetwork, MemoryStream, MemoryTLS
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from taps_core.plugin import Connector, ConnectRequest, Flow
    from taps_core.testing.fixtures import Run


def told(flow: Any, index: int = -1) -> dict[str, Any]:
    """The Message Properties that the stack was told of with a Send."""
    record = flow.sent[index][1]
    return {} if record is None else dict(record.properties)


@pytest.mark.requirement("G-9622-4-02", "G-9622-9.1.3-03")
def test_a_message_has_its_connections_defaults_and_its_own_values_before_them(
    run: Run, play: Any
) -> None:
    async def main() -> None:
        async with play.connection(msg_ordered=False, no_fragmentation=True) as (connection, flow):
            await connection.send(b"x")
            assert told(flow) == {"msgOrdered": False, "noFragmentation": True}
            await connection.send(b"x", ordered=True, lifetime=9)
            assert told(flow) == {
                "msgOrdered": True,
                "noFragmentation": True,
                "msgLifetime": pytest.approx(9),
            }
            connection.set_property("msgCapacityProfile", "scavenger")
            connection.set_property("noFragmentation", False)
            await connection.send(b"x", checksum_len=7)
            assert told(flow) == {
                "msgOrdered": False,
                "noFragmentation": False,
                "msgCapacityProfile": taps.CapacityProfile.SCAVENGER,
                "msgChecksumLen": 7,
            }

    run(main)


def test_what_is_not_set_follows_the_property_that_it_derives_from(run: Run, play: Any) -> None:
    async def main() -> None:
        flexible = Capabilities.messages(
            reliability=Support.OPTIONAL, preserveOrder=Support.OPTIONAL
        )
        for wanted in (True, False):
            preference = "require" if wanted else "avoid"
            async with play.connection(
                flexible,
                reliability=preference,
                preserve_order=preference,
                conn_capacity_profile="capacity-seeking",
            ) as (connection, flow):
                properties = connection.properties
                assert properties["msgReliable"] is wanted
                assert properties["msgOrdered"] is wanted
                profile = taps.CapacityProfile.CAPACITY_SEEKING
                assert properties["msgCapacityProfile"] is profile
                # The stack knows that already.
                await connection.send(b"x")
                assert told(flow) == {}
                connection.set_property("msgOrdered", not wanted)
                assert properties["msgOrdered"] is not wanted

    run(main)


@pytest.mark.requirement("R-9623-5.1.1-02", "R-9623-5.1.1-03")
def test_reliable_messages_arrive_and_others_may_get_lost_where_that_is_possible(
    run: Run, pair: Any, memory_network: MemoryNetwork
) -> None:
    lost: list[bytes] = []

    def lose(data: bytes) -> bool:
        lost.append(data)
        return True

    async def main() -> None:
        transport = MemoryMessages(memory_network, lose=lose)
        async with pair(transport, per_msg_reliability="require") as (client, server):
            # Nothing but these is lost, although the network would lose all.
            await client.send(b"by default")
            with pytest.raises(taps.Expired):
                await client.send(b"unreliable", reliable=False)
            await client.send(b"reliable", reliable=True)
            client.set_property("msgReliable", False)
            with pytest.raises(taps.Expired):
                await client.send(b"unreliable by default")
            await client.send(b"reliable all the same", reliable=True)
            got = [(await server.receive()).data for _ in range(3)]
            assert got == [b"by default", b"reliable", b"reliable all the same"]
            assert lost == [b"unreliable", b"unreliable by default"]

    run(main, memory_network)


@pytest.mark.requirement("R-9623-5.1.1-03")
def test_where_nothing_can_get_lost_an_unreliable_message_is_sent_reliably(
    run: Run, pair: Any, memory_network: MemoryNetwork
) -> None:
    class Steadfast(MemoryStream):
        """Could have been asked to lose something, and never does."""

        capabilities = MemoryStream.capabilities.but(
            support={"perMsgReliability": Support.OPTIONAL}
        )

    async def main() -> None:
        async with pair(Steadfast(memory_network), per_msg_reliability="prefer") as (
            client,
            server,
        ):
            await client.send(b"all the same", reliable=False)
            assert (await server.receive_exactly(12)).data == b"all the same"

    run(main, memory_network)


# ------------------------------------------------------------------ single packets

PACKETS = Capabilities.byte_stream().explained(
    {"noSegmentation": (Support.ALWAYS, "cuts packets as it is told")}
)


def test_a_message_for_one_packet_leaves_neither_behind_others_nor_in_parts(
    run: Run, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection(PACKETS) as (connection, flow):
            await turns()
            with connection.batch():
                await connection.send(b"one")
                await connection.send(b"two", no_segmentation=True)
                await connection.send(b"three")
            assert flow.flushed == [[b"one"], [b"two", b"three"]]
            with pytest.raises(taps.SendError, match="each part leaves in a packet of its own"):
                async with connection.sending(no_segmentation=True) as message:
                    await message.send(b"part")
            assert flow.data == [b"one", b"two", b"three"]

    run(main)


def test_parts_that_wait_for_ready_are_refused_likewise(run: Run, play: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate(PACKETS)
        context = taps.MessageContext(no_segmentation=True)
        first = connection.send(b"part", context, end_of_message=False)
        last = connection.send(b"part", context)
        other = connection.send(b"whole", no_segmentation=True)
        transport.go.set()
        for part in (first, last):
            with pytest.raises(taps.SendError, match="packet of its own"):
                await part
        await other
        assert transport.flows[0].data == [b"whole"]
        connection.abort()

    run(main)


def test_a_message_whose_first_part_was_refused_is_refused_whole(run: Run, play: Any) -> None:
    async def main() -> None:
        async with play.connection(per_msg_reliability="prohibit", reliability="require") as (
            connection,
            flow,
        ):
            context = taps.MessageContext(reliable=False)
            for end in (False, False, True):
                with pytest.raises(taps.SendError, match="perMsgReliability"):
                    await connection.send(b"part", context, end_of_message=end)
            assert connection.queued == (0, 0)
            # Then the context is free again.
            with pytest.raises(taps.SendError, match="perMsgReliability"):
                await connection.send(b"whole", context)
            async with connection.sending(reliable=True) as message:
                await message.send(b"another")
            assert flow.data == [b"another", b""]

    run(main)


# ------------------------------------------------------------------ layers


class NearestFlow(LayerFlow):
    """Has keep-alives of its own, as HTTP/2 has its PING."""

    def __init__(self, lower: Flow) -> None:
        super().__init__(lower)
        self.applied: dict[str, Any] = {}

    def apply(self, property: str, value: Any, /) -> bool:
        if property == "keepAliveTimeout":
            self.applied[property] = value
            return True
        return super().apply(property, value)

    def read(self, property: str, /) -> Any:
        return self.applied.get(property) or super().read(property)


class Nearest(MemoryTLS):
    """A layer of which the transport's keep-alives are none of the business any more."""

    async def connect(self, lower: Connector, request: ConnectRequest) -> Any:
        return NearestFlow(await super().connect(lower, request))


class Told(LayerFlow):
    """A transport's flow that remembers what it is told."""

    def __init__(self, lower: Flow) -> None:
        super().__init__(lower)
        self.applied: dict[str, Any] = {}

    def apply(self, property: str, value: Any, /) -> bool:
        self.applied[property] = value
        return True


class Telling(MemoryStream):
    """Makes them."""

    async def connect(self, request: ConnectRequest) -> Any:
        return Told(await super().connect(request))


@pytest.mark.requirement("R-9623-7-02")
def test_the_layer_nearest_the_application_interprets_a_property_first(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        layer: SecurityLayer = Nearest()
        here = world(Telling(memory_network), layer)
        async with here.listen(framers=LengthPrefix()) as listener:
            connection = await here.to(listener, framers=LengthPrefix()).initiate()
            connection.set_property("keepAliveTimeout", 11)
            connection.set_property("connTimeout", 12)
            assert connection.find(NearestFlow).applied == {"keepAliveTimeout": 11}
            assert connection.find(Told).applied == {"connTimeout": 12}
            assert connection.properties["keepAliveTimeout"] == 11
            connection.abort()
            (await listener.accept()).abort()

    run(main, memory_network)
