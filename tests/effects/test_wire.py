"""What Message Properties make of packets, as the wire of a kernel's network has them."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import DSCP, CapacityProfile
from tests.effects.lines import LINES, Line

if TYPE_CHECKING:
    from taps_core.testing import KernelNetwork
    from taps_core.testing.fixtures import Run
    from taps_core.testing.kernel_packets import Packet
    from tests.effects.lines import Link

STREAMS = [line for line in LINES if line.stream]
ACK = 0x10
PROFILES = [CapacityProfile.SCAVENGER, CapacityProfile.LOW_LATENCY_INTERACTIVE]


def from_us(link: Link, capture: Any) -> list[Packet]:
    """Packets of the Connection with data in them."""
    port = link.sock.getsockname()[1]
    return capture.look(lambda packet: packet.source[1] == port and packet.payload)


@pytest.mark.requirement("R-9623-5.1.1-05", "R-9623-5.1.1-06", "G-9622-9.1.3.10-01")
@pytest.mark.parametrize("wish", ["noFragmentation", "noSegmentation"])
@pytest.mark.parametrize("line", LINES, ids=str)
def test_packets_of_a_message_that_wants_it_may_not_be_fragmented(
    run: Run, kernel_network: KernelNetwork, line: Line, wish: str
) -> None:
    # An administrator who does without path MTU discovery: then packets may be fragmented.
    pathlib.Path("/proc/sys/net/ipv4/ip_no_pmtu_disc").write_text("1")

    async def main() -> None:
        async with line.open() as link:
            with kernel_network.capture() as capture:
                await link.connection.send(b"as the system does")
                await link.gets(b"as the system does")
                assert {each.dont_fragment for each in from_us(link, capture)} == {not line.stream}
            with kernel_network.capture() as capture:
                context = taps.MessageContext().add(wish, True)
                await link.connection.send(b"whole", context)
                await link.gets(b"whole")
                assert {each.dont_fragment for each in from_us(link, capture)} == {True}
        async with line.open(**{wish: True}) as link:
            with kernel_network.capture() as capture:
                await link.connection.send(b"whole by default")
                await link.gets(b"whole by default")
                assert {each.dont_fragment for each in from_us(link, capture)} == {True}

    run(main)


def begins_with(frame: bytes, payload: bytes, line: Line) -> bool:
    """Whether a packet does; over TLS with a record of just this length (RFC 8446, 5.2)."""
    if line.layer is None:
        return payload.startswith(frame)
    sealed = len(frame) + 17  # the kind of the content, and a tag
    record = b"\x17\x03\x03" + sealed.to_bytes(2)
    return payload.startswith(record) and len(payload) >= len(record) + sealed


@pytest.mark.requirement("R-9623-5.1.1-06")
@pytest.mark.parametrize("line", STREAMS, ids=str)
def test_a_message_that_fits_is_in_one_segment_whatever_was_gathered_before_and_after(
    run: Run, kernel_network: KernelNetwork, line: Line
) -> None:
    async def main() -> None:
        async with line.open() as link:
            await link.hello()
            header = 4 if line.framers else 0
            limit = link.connection.properties["singularTransmissionMsgMaxLen"]
            short, longest = b"short" * 100, b"L" * (limit - header)
            frame = longest if not line.framers else len(longest).to_bytes(header) + longest
            for single in (False, True):
                with kernel_network.capture() as capture:
                    with link.connection.batch():
                        await link.connection.send(short)
                        await link.connection.send(longest, no_segmentation=single)
                        await link.connection.send(short)
                    await link.gets(short, longest, short)
                    payloads = [packet.payload for packet in from_us(link, capture)]
                # What begins a packet, and is no longer than a segment, is in one segment.
                found = any(begins_with(frame, payload, line) for payload in payloads)
                # Over TLS whatever comes with properties has a record of its own anyway.
                assert found is single or (found and line.layer is not None)

    run(main)


@pytest.mark.requirement("R-9623-5.1.1-04")
@pytest.mark.parametrize("line", STREAMS, ids=str)
def test_a_reliable_session_keeps_its_dscp_whatever_its_messages_want(
    run: Run, kernel_network: KernelNetwork, line: Line
) -> None:
    async def main() -> None:
        mine = CapacityProfile.CAPACITY_SEEKING
        async with line.open(connCapacityProfile=mine) as link:
            with kernel_network.capture() as capture:
                for profile in PROFILES:
                    await link.connection.send(b"marked", capacity_profile=profile)
                    await link.gets(b"marked")
                assert {each.dscp for each in from_us(link, capture)} == {DSCP[mine][0]}

    run(main)


@pytest.mark.parametrize("line", STREAMS, ids=str)
def test_a_connection_that_delivers_nothing_for_its_timeout_has_failed(
    run: Run, kernel_network: KernelNetwork, line: Line
) -> None:
    async def main() -> None:
        async with line.open() as link:
            await link.hello()
            link.connection.set_property("connTimeout", 0.3)
            kernel_network.filter(f"tcp dport {link.connection.remote_endpoint.port} drop")
            await link.connection.send(b"lost, again and again")
            with pytest.raises(taps.ConnectionError) as caught:
                await link.connection.receive(max_length=1)
            assert caught.value.reason is taps.Reason.TIMEOUT
            kernel_network.filter()

    run(main)


@pytest.mark.parametrize("line", STREAMS, ids=str)
def test_an_idle_connection_sends_keep_alives(
    run: Run, kernel_network: KernelNetwork, line: Line
) -> None:
    async def main() -> None:
        async with line.open(keepAliveTimeout=1) as link:
            port = link.sock.getsockname()[1]
            with kernel_network.capture() as capture:
                # Nothing else can come: the handshake is over, and nobody has sent data.
                packet = await capture.packet(lambda packet: packet.source[1] == port)
            assert (packet.payload, packet.tcp_flags) == (b"", ACK)

    run(main)
