"""The table «what each property does on each stack» is true of SCTP, line by line."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from taps_sctp import SCTP

import taps_core as taps
from taps_core.planning.stacks import Stack
from taps_core.plugin import DSCP, CapacityProfile, Kind, ask_socket
from tests.effects.test_effects import samples

from .conftest import kernel_socket, until
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

if TYPE_CHECKING:
    from taps_core.plugin import Property

    from .conftest import Lab

pytestmark = pytest.mark.lab
TRANSPORT = SCTP()
STACK = Stack(TRANSPORT, TRANSPORT.capabilities)
#: What shows that a property has effect: a test of this folder.
SHOWN = {
    "connPriority": ("test_streams.py", "test_the_kernel_sends_by_priority"),
    "connScheduler": ("test_streams.py", "test_the_kernel_takes_turns"),
    "groupConnLimit": (
        "test_streams.py",
        "test_what_is_too_much_for_the_limit_is_reset_and_others_go_on",
    ),
    "msgOrdered": (
        "test_outcomes.py",
        "test_unordered_messages_overtake_and_ordered_ones_do_not",
    ),
    "msgLifetime": (
        "test_outcomes.py",
        "test_a_message_that_never_left_is_expired_and_never_arrives",
    ),
    "msgReliable": (
        "test_outcomes.py",
        "test_messages_that_are_sent_once_are_delivered_or_counted",
    ),
    "final": ("test_ending.py", "test_final_ends_sending_and_is_not_told"),
    "_taps.streamIdentifier": (
        "test_streams.py",
        "test_with_a_peer_that_cannot_reset_streams_messages_tell_their_stream",
    ),
    "_taps.ppid": (
        "test_streams.py",
        "test_with_a_peer_that_cannot_reset_streams_messages_tell_their_stream",
    ),
    "recvMsgMaxLen": ("test_bulk.py", "test_a_message_of_three_megabytes"),
    "connTimeout": (
        "test_effects.py",
        "test_conn_timeout_is_how_long_a_peer_may_be_silent",
    ),
    "keepAliveTimeout": (
        "test_effects.py",
        "test_keep_alive_timeout_is_the_interval_of_heartbeats",
    ),
    "connCapacityProfile": ("test_effects.py", "test_conn_capacity_profile_marks_every_packet"),
    "sendMsgMaxLen": ("test_effects.py", "test_what_is_longer_than_send_msg_max_len_is_refused"),
    "singularTransmissionMsgMaxLen": (
        "test_effects.py",
        "test_what_is_no_longer_than_singular_transmission_leaves_in_one_packet",
    ),
    "maxSendRate": ("test_effects.py", "test_rates_are_kept"),
    "_taps.groupMaxSendRate": ("test_effects.py", "test_rates_are_kept"),
    "multipathPolicy": ("test_addresses.py", "test_one_path_at_a_time_is_the_only_policy"),
    "_taps.primaryPath": ("test_addresses.py", "test_the_primary_path_is_read_and_set"),
    "_taps.undelivered": ("test_effects.py", "test_undelivered_is_what_the_peer_has_not_got"),
    "isolateSession": ("test_effects.py", "test_isolate_session_makes_no_difference"),
}
#: Options of the socket that properties could change, by level and number.
OPTIONS = {
    socket.SOL_SOCKET: (9, 12, 47),
    socket.IPPROTO_IP: (1, 2, 10),
    # SCTP_RTOINFO, NODELAY, PEER_ADDR_PARAMS, DELAYED_SACK, STREAM_SCHEDULER
    132: {0: 16, 3: 4, 9: 160, 16: 12, 123: 8},
}


def options(connection: taps.Connection[Any]) -> dict[tuple[int, int], bytes]:
    sock = kernel_socket(connection)
    found = {}
    for level in (socket.SOL_SOCKET, socket.IPPROTO_IP):
        for name in OPTIONS[level]:
            with contextlib.suppress(OSError):
                found[level, name] = sock.getsockopt(level, name, 16)
    for name, size in OPTIONS[132].items():  # type: ignore[attr-defined]  # with sizes there
        found[132, name] = ask_socket(sock, 132, name, bytes(size))
    return found


@pytest.mark.parametrize("row", with_effect(TRANSPORT), ids=named)
def test_what_is_said_to_have_effect_is_shown_by_a_test(row: Property) -> None:
    assert_shown(row, SHOWN)


@pytest.mark.parametrize("row", WISHES, ids=named)
def test_selection_goes_by_the_table(row: Property) -> None:
    assert_selected_by_the_table(TRANSPORT, row)


def test_what_is_said_to_have_no_effect_is_accepted_and_changes_nothing(lab: Lab) -> None:
    idle = [row for row in rows_of(TRANSPORT) if not STACK.has_effect(row.name)]

    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            before = options(client)
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
                assert options(client) == before, row.name

    lab.run(main)


@pytest.mark.parametrize("later", [False, True])
def test_conn_timeout_is_how_long_a_peer_may_be_silent(rough: Lab, later: bool) -> None:
    async def main() -> None:
        async with rough.listening() as ends:
            client, server = await ends.pair(**({} if later else {"connTimeout": 1.0}))
            if later:
                client.set_property("connTimeout", 1.0)
            rough.network.path.blackhole()
            client.send_nowait(b"is anybody there?")
            with pytest.raises(taps.ConnectionError) as caught:
                await client.receive()
            assert caught.value.reason is taps.Reason.TIMEOUT
            server.send_nowait(b"is anybody there?")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.receive(), 4)

    rough.run(main)


def test_keep_alive_timeout_is_the_interval_of_heartbeats(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, _ = await ends.pair()

            async def beats(seconds: float) -> int:
                port = kernel_socket(client).getsockname()[1].to_bytes(2)
                with lab.network.server.capture("path1") as capture:
                    await asyncio.sleep(seconds)
                    found = capture.look(
                        lambda packet: packet.protocol == 132 and packet.payload[:2] == port
                    )
                    return sum(HEARTBEAT in chunks(packet) for packet in found)

            assert await beats(3) <= 1
            client.set_property("keepAliveTimeout", 0.1)
            await asyncio.sleep(6)  # until the one that was due
            assert await beats(3) >= 3

    lab.run(main)


def test_conn_capacity_profile_marks_every_packet(lab: Lab) -> None:
    mark = DSCP[CapacityProfile.SCAVENGER][0]

    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            for profile, expected in (("Scavenger", mark), ("Default", 0)):
                client.set_property("connCapacityProfile", profile)
                await asyncio.sleep(0.5)
                with lab.network.server.capture("path1") as capture:
                    await client.send(b"marked")
                    assert (await server.receive()).data == b"marked"
                    found = capture.look(
                        lambda packet: packet.protocol == 132 and DATA in chunks(packet)
                    )
                    assert {packet.dscp for packet in found} == {expected}

    lab.run(main)


def test_what_is_longer_than_send_msg_max_len_is_refused(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            limit = client.properties["sendMsgMaxLen"]
            assert client.properties["recvMsgMaxLen"] == sys.maxsize
            await client.send(bytes(limit))
            assert len((await server.receive()).data) == limit
            with pytest.raises(taps.SendError) as caught:
                await client.send(bytes(limit + 1))
            assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
            await client.send(b"goes on")
            assert (await server.receive()).data == b"goes on"

    lab.run(main)


def test_what_is_no_longer_than_singular_transmission_leaves_in_one_packet(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            limit = client.properties["singularTransmissionMsgMaxLen"]
            for size, packets in ((limit, 1), (limit + 1, 2)):
                await asyncio.sleep(0.5)
                with lab.network.server.capture("path1") as capture:
                    await client.send(bytes(size))
                    assert len((await server.receive()).data) == size
                    found = capture.look(
                        lambda packet: packet.protocol == 132 and DATA in chunks(packet)
                    )
                    assert sum(chunks(packet).count(DATA) for packet in found) == packets

    lab.run(main)


def test_undelivered_is_what_the_peer_has_not_got(rough: Lab) -> None:
    async def main() -> None:
        async with rough.listening() as ends:
            client, _ = await ends.pair()
            assert client.properties["_taps.undelivered"] == 0
            rough.network.path.blackhole()
            await client.send(bytes(1000))
            assert client.properties["_taps.undelivered"] > 0
            rough.network.path.up()
            await until(lambda: client.properties["_taps.undelivered"] == 0)

    rough.run(main)


def test_isolate_session_makes_no_difference(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            for wish in (True, False):
                client, server = await ends.pair(isolateSession=wish)
                await client.send(b"hello")
                assert (await server.receive()).data == b"hello"

    lab.run(main)


@pytest.mark.parametrize("name", ["maxSendRate", "_taps.groupMaxSendRate"])
def test_rates_are_kept(lab: Lab, name: str) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            client.set_property(name, 80_000)  # bits per second
            clock = asyncio.get_running_loop().time
            began = clock()
            for _ in range(20):
                await client.send(bytes(1000))
            for _ in range(20):
                await server.receive()
            # Two seconds' worth, of which a part may leave at once.
            assert clock() - began > 0.8

    lab.run(main)
