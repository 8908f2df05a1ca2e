"""The table «what each property does on each stack» is true of ``sctp-udp``, line by line.

What the association does above libusrsctp it does above the kernel, too, and tests of the lab
show it with both; here is what the library does, and that those lines hold without a kernel.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import TYPE_CHECKING, Any

import pytest
from taps_sctp import SCTPOverUDP

import taps_core as taps
from taps_core.planning.stacks import Stack
from taps_core.plugin import DSCP, CapacityProfile, Kind
from tests.effects.test_effects import samples

from .conftest import until
from .lines import (
    DATA,
    HEARTBEAT,
    WISHES,
    assert_selected_by_the_table,
    assert_shown,
    chunks,
    named,
    rows_of,
    with_effect,
)
from .udp_paths import UDP_PORT, needed, pair

if TYPE_CHECKING:
    from taps_core.plugin import Property
    from taps_core.testing import KernelNetwork
    from taps_core.testing.fixtures import Run

needed()

TRANSPORT = SCTPOverUDP()
HERE = "test_over_udp_effects.py"
#: What shows that a property has effect: a test of this folder.
SHOWN = {
    "connPriority": (HERE, "test_what_waits_is_sent_by_priority"),
    "connScheduler": (HERE, "test_what_waits_is_sent_by_priority"),
    "connTimeout": (HERE, "test_conn_timeout_is_how_long_a_peer_may_be_silent"),
    "keepAliveTimeout": (HERE, "test_keep_alive_timeout_is_the_interval_of_heartbeats"),
    "connCapacityProfile": (HERE, "test_conn_capacity_profile_marks_every_packet"),
    "maxSendRate": (HERE, "test_rates_are_kept"),
    "_taps.groupMaxSendRate": (HERE, "test_rates_are_kept"),
    "groupConnLimit": (HERE, "test_what_is_too_much_for_the_limit_is_reset"),
    "singularTransmissionMsgMaxLen": (
        HERE,
        "test_what_is_no_longer_than_singular_transmission_leaves_in_one_packet",
    ),
    "sendMsgMaxLen": (HERE, "test_what_is_longer_than_send_msg_max_len_is_refused"),
    "recvMsgMaxLen": ("test_over_udp.py", "test_a_long_message_arrives_whole"),
    "msgOrdered": (HERE, "test_unordered_messages_overtake_and_ordered_ones_do_not"),
    "msgReliable": (
        "test_over_udp.py",
        "test_what_is_lost_is_given_up_and_each_message_has_an_outcome",
    ),
    # A peer that cannot reset streams; what libusrsctp hands up is the same.
    "_taps.streamIdentifier": (
        "test_streams.py",
        "test_with_a_peer_that_cannot_reset_streams_messages_tell_their_stream",
    ),
    "_taps.undelivered": (HERE, "test_undelivered_is_what_the_peer_has_not_got"),
    "_taps.ppid": (HERE, "test_the_payload_protocol_identifier_is_told"),
}
#: What a hosts' own IPv4 and UDP, SCTP's header and that of one DATA chunk take.
MTU_OVERHEAD = 20 + 8 + 12 + 16


def from_client(client: taps.Connection[Any]) -> Any:
    """For what was captured: whether the client sent it."""
    local = client.local_endpoint
    assert local is not None
    port = local.identifiers[UDP_PORT]
    return lambda packet: packet.source[1] == port and len(packet.payload) > 12


@pytest.mark.parametrize("row", with_effect(TRANSPORT), ids=named)
def test_what_is_said_to_have_effect_is_shown_by_a_test(row: Property) -> None:
    assert_shown(row, SHOWN)


@pytest.mark.parametrize("row", WISHES, ids=named)
def test_selection_goes_by_the_table(row: Property) -> None:
    assert_selected_by_the_table(TRANSPORT, row)


def test_what_is_said_to_have_no_effect_is_accepted_and_changes_nothing(run: Run) -> None:
    stack = Stack(TRANSPORT, TRANSPORT.capabilities)
    idle = [row for row in rows_of(TRANSPORT) if not stack.has_effect(row.name)]

    async def main() -> None:
        async with pair() as (client, server):
            for row in idle:
                if row.read_only:
                    assert not client.properties[row.name], row.name
                    continue
                for value in samples(row):
                    client.set_property(row.name, value)
                    assert client.properties[row.name] == value
                    wish = {} if row.kind is Kind.CONNECTION else {row.keyword: value}
                    await client.send(b"as ever", **wish)
                    assert (await server.receive()).data == b"as ever"

    run(main)


def test_undelivered_is_what_the_peer_has_not_got(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            client.send_nowait(bytes(200_000))
            assert client.properties["_taps.undelivered"] > 0
            assert len((await server.receive()).data) == 200_000
            await until(lambda: client.properties["_taps.undelivered"] == 0)

    run(main)


def test_what_waits_is_sent_by_priority(run: Run) -> None:
    async def main() -> None:
        async with pair(connScheduler="Priority-Based") as (client, server):
            urgent = await client.clone()
            urgent.set_property("connPriority", 0)
            client.set_property("connPriority", 200)
            await urgent.send(b"here")
            twin = await anext(server.incoming())
            assert (await twin.receive()).data == b"here"
            came: list[str] = []

            async def take(name: str, end: taps.Connection[Any], number: int) -> None:
                for _ in range(number):
                    await end.receive()
                    came.append(name)

            # More than the library takes: of what waits, the urgent one is sent first.
            for _ in range(38):
                client.send_nowait(bytes(200_000))
            urgent.send_nowait(b"urgent")
            await asyncio.gather(take("bulk", server, 38), take("urgent", twin, 1))
            assert came.index("urgent") < 30

    run(main)


@pytest.mark.parametrize("later", [False, True])
def test_conn_timeout_is_how_long_a_peer_may_be_silent(
    run: Run, kernel_network: KernelNetwork, later: bool
) -> None:
    async def main() -> None:
        async with pair(**({} if later else {"connTimeout": 1.0})) as (client, _):
            if later:
                client.set_property("connTimeout", 1.0)
            assert client.remote_endpoint is not None
            kernel_network.filter(f"udp dport {client.remote_endpoint.identifiers[UDP_PORT]} drop")
            client.send_nowait(b"is anybody there?")
            with pytest.raises(taps.ConnectionError) as caught:
                await client.receive()
            assert caught.value.reason is taps.Reason.TIMEOUT
            kernel_network.filter()

    run(main)


def test_keep_alive_timeout_is_the_interval_of_heartbeats(
    run: Run, kernel_network: KernelNetwork
) -> None:
    async def main() -> None:
        async with pair() as (client, _):
            client.set_property("keepAliveTimeout", 0.1)
            with kernel_network.capture() as capture:
                wanted = from_client(client)
                beats: list[Any] = []
                while len(beats) < 3:
                    await asyncio.sleep(0.05)
                    beats = [each for each in capture.look(wanted) if HEARTBEAT in chunks(each)]

    run(main)


def test_conn_capacity_profile_marks_every_packet(run: Run, kernel_network: KernelNetwork) -> None:
    mark = DSCP[CapacityProfile.SCAVENGER][0]

    async def main() -> None:
        async with pair() as (client, server):
            for profile, expected in (("Scavenger", mark), ("Default", 0)):
                client.set_property("connCapacityProfile", profile)
                with kernel_network.capture() as capture:
                    await client.send(b"marked")
                    assert (await server.receive()).data == b"marked"
                    found = [
                        each for each in capture.look(from_client(client)) if DATA in chunks(each)
                    ]
                    assert {packet.dscp for packet in found} == {expected}

    run(main)


@pytest.mark.parametrize("name", ["maxSendRate", "_taps.groupMaxSendRate"])
def test_rates_are_kept(run: Run, name: str) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            client.set_property(name, 80_000)  # bits per second
            clock = asyncio.get_running_loop().time
            began = clock()
            for _ in range(20):
                await client.send(bytes(1000))
            for _ in range(20):
                await server.receive()
            # Two seconds' worth, of which a part may leave at once.
            assert clock() - began > 0.8

    run(main)


def test_what_is_too_much_for_the_limit_is_reset(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            server.set_property("groupConnLimit", 1)
            incoming = server.incoming()
            one = await client.clone()
            await one.send(b"welcome")
            assert (await (await anext(incoming)).receive()).data == b"welcome"
            other = await client.clone()
            await other.send(b"too much")
            with pytest.raises((taps.EndOfData, taps.ConnectionError)):
                await other.receive()
            await one.send(b"as before")
            await client.send(b"as ever")
            assert (await server.receive()).data == b"as ever"

    run(main)


def test_what_is_no_longer_than_singular_transmission_leaves_in_one_packet(
    run: Run, kernel_network: KernelNetwork
) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            most = client.properties["singularTransmissionMsgMaxLen"]
            assert 0 < most <= 1500 - MTU_OVERHEAD
            for size, packets in ((most, 1), (most + 1, 2)):
                with kernel_network.capture() as capture:
                    await client.send(bytes(size))
                    assert len((await server.receive()).data) == size
                    found = capture.look(from_client(client))
                    assert sum(chunks(each).count(DATA) for each in found) == packets

    run(main)


def test_what_is_longer_than_send_msg_max_len_is_refused(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            most = client.properties["sendMsgMaxLen"]
            assert client.properties["recvMsgMaxLen"] == sys.maxsize
            with pytest.raises(taps.SendError) as caught:
                await client.send(bytes(most + 1))
            assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
            await client.send(b"as ever")
            assert (await server.receive()).data == b"as ever"

    run(main)


def test_unordered_messages_overtake_and_ordered_ones_do_not(run: Run) -> None:
    async def main() -> None:
        async with pair(loss=0.1) as (client, server):
            for number in range(300):
                await client.send(b"%04d" % number, ordered=bool(number % 2))
                await asyncio.sleep(0.001)
            came = [(await server.receive()).data for _ in range(300)]
            assert sorted(came) == [b"%04d" % number for number in range(300)]
            assert came != sorted(came)
            ordered = [data for data in came if int(data) % 2]
            assert all(one < other for one, other in itertools.pairwise(ordered))

    run(main)


def test_the_payload_protocol_identifier_is_told(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            context = taps.MessageContext()
            context.add("_taps.ppid", 51)
            await client.send(b"labelled", context=context)
            message = await server.receive()
            assert (message.data, message.context.get("_taps.ppid")) == (b"labelled", 51)

    run(main)
