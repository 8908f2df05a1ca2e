"""What is seen of TCP on the wire, by a capture."""

from __future__ import annotations

import asyncio
import socket

import pytest

import taps_core as taps
from taps_core.plugin import DSCP, CapacityProfile
from taps_core.testing import run
from taps_tcp import TCP

pytestmark = pytest.mark.linux

ADDRESSES = pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"], ids=["IPv4", "IPv6"])
FIN, SYN, RST, ACK = 1, 2, 4, 16
ALL = {profile: dscps[0] for profile, dscps in DSCP.items()}


def preconnection(*, profile=CapacityProfile.DEFAULT, **where):
    return taps.Preconnection(
        transport={"connCapacityProfile": profile},
        security=taps.SecurityParameters.disabled(),
        system=taps.System([TCP()]),
        **where,
    )


async def echo(connection):
    while True:
        try:
            message = await connection.receive(max_length=1 << 16)
        except taps.EndOfData:
            return
        await connection.send(message.data)


def play(main):
    async def in_time():
        async with asyncio.timeout(30):
            await main()

    run(in_time)


async def ask(connection, data):
    await connection.send(data)
    answer = b""
    while len(answer) < len(data):
        answer += (await connection.receive(max_length=1 << 16)).data
    assert answer == data


@pytest.mark.parametrize(("profile", "dscp"), ALL.items(), ids=map(str, ALL))
@ADDRESSES
def test_every_segment_of_both_ends_has_the_dscp_of_the_connection(
    kernel_network, address, profile, dscp
):
    async def main():
        here = preconnection(local=f"{address}:0", profile=profile)
        with kernel_network.capture() as capture:
            async with here.listen(echo) as listener:
                there = preconnection(remote=listener.remote_endpoint, profile=profile)
                async with there.initiate() as client:
                    await ask(client, b"hello")
                    await ask(client, bytes(100_000))
            segments = capture.look()
        assert {packet.protocol for packet in segments} == {socket.IPPROTO_TCP}
        # Beginning and end of both directions, and data, are among them.
        assert sum(bool(packet.tcp_flags & SYN) for packet in segments) == 2
        assert sum(bool(packet.tcp_flags & FIN) for packet in segments) == 2
        assert sum(len(packet.payload) for packet in segments) >= 2 * 100_005
        # The last acknowledgement is the kernel's own affair: there is no connection any more.
        last = max(number for number, packet in enumerate(segments) if packet.tcp_flags & FIN)
        assert {packet.dscp for packet in segments[: last + 1]} == {dscp}

    play(main)


@ADDRESSES
def test_segments_are_not_fragmented_and_not_reset(kernel_network, address):
    async def main():
        with kernel_network.capture() as capture:
            async with preconnection(local=f"{address}:0").listen(echo) as listener:
                there = preconnection(remote=listener.remote_endpoint)
                async with there.initiate() as client:
                    await ask(client, bytes(100_000))
            segments = capture.look()
        # A kernel that acknowledges what came after all was said does so without.
        assert all(packet.dont_fragment for packet in segments if packet.tcp_flags & (SYN | FIN))
        assert all(packet.dont_fragment for packet in segments if packet.payload)
        assert not any(packet.tcp_flags & RST for packet in segments)
        # ECN is negotiated by kernels that are told to; nothing here sets the field.
        assert {packet.ecn for packet in segments} == {0}

    play(main)


@pytest.mark.requirement("R-9623-5.1.1-04")
@ADDRESSES
def test_the_dscp_follows_the_connection_and_never_a_single_message(kernel_network, address):
    async def main():
        async with preconnection(local=f"{address}:0").listen(echo) as listener:
            there = preconnection(
                remote=listener.remote_endpoint, profile=CapacityProfile.CAPACITY_SEEKING
            )
            with kernel_network.capture() as capture:
                async with there.initiate() as client:
                    ours = client.local_endpoint.port

                    def seen():
                        packets = capture.look(lambda packet: packet.source[1] == ours)
                        capture.packets.clear()
                        return {packet.dscp for packet in packets}

                    await ask(client, b"first")
                    await client.send(
                        b"x", msg_capacity_profile=CapacityProfile.LOW_LATENCY_INTERACTIVE
                    )
                    await client.receive(max_length=1)
                    assert seen() == {ALL[CapacityProfile.CAPACITY_SEEKING]}
                    client.set_property("connCapacityProfile", CapacityProfile.SCAVENGER)
                    await ask(client, b"second")
                    assert seen() == {ALL[CapacityProfile.SCAVENGER]}

    play(main)


@pytest.mark.requirement("R-9623-10.1-04", "R-9623-10.1-05")
def test_close_is_a_fin_and_abort_a_reset(kernel_network):
    async def main():
        for end, told, flag in (("close", "Closed", FIN), ("abort", "ConnectionError", RST)):
            with kernel_network.capture() as capture:
                async with preconnection(local="127.0.0.1:0").listen(echo, grace=0) as listener:
                    client = await preconnection(remote=listener.remote_endpoint).initiate()
                    await ask(client, b"hello")
                    ours = client.local_endpoint.port
                    events = client.events()
                    getattr(client, end)()
                    assert [type(event).__name__ async for event in events] == [told]
                flags = [
                    packet.tcp_flags & (FIN | RST)
                    for packet in capture.look(lambda packet, ours=ours: packet.source[1] == ours)
                ]
            assert sum(flags) == flag

    play(main)


@pytest.mark.parametrize("wildcard", [False, True], ids=["one address", "all addresses"])
@ADDRESSES
def test_hop_limits_of_both_ends_are_seen_on_the_wire(kernel_network, address, wildcard):
    async def main():
        host = address.strip("[]")
        here = taps.LocalEndpoint(ip_address=None if wildcard else host, port=0, hop_limit=9)
        with kernel_network.capture() as capture:
            async with preconnection(local=here).listen(echo) as listener:
                port = listener.local_endpoints[0].port
                remote = taps.RemoteEndpoint(ip_address=host, port=port, hop_limit=7)
                async with preconnection(remote=remote).initiate() as client:
                    await ask(client, b"hello")
            segments = capture.look()
        hops = {(packet.destination[1] == port, packet.hop_limit) for packet in segments}
        # From the SYN, and the answer to it, on.
        assert hops == {(True, 7), (False, 9)}

    play(main)


@pytest.mark.parametrize(("here", "there", "seen"), [(9, None, 9), (None, 7, 7), (9, 7, 7)])
def test_for_rendezvous_either_endpoint_may_have_the_hop_limit(kernel_network, here, there, seen):
    async def main():
        def meet(mine, other, *, local=None, remote=None):
            return preconnection(
                local=taps.LocalEndpoint(ip_address="127.0.0.1", port=mine, hop_limit=local),
                remote=taps.RemoteEndpoint(ip_address="127.0.0.1", port=other, hop_limit=remote),
            ).rendezvous()

        with kernel_network.capture() as capture:
            one, other = meet(7001, 7002, local=here, remote=there), meet(7002, 7001)
            async with one, other:
                await one.send(b"hello")
                await other.receive(max_length=5, min_incomplete_length=5)
                await asyncio.gather(one.close(), other.close())
            packets = capture.look(lambda packet: packet.source[1] == 7001 and packet.payload)
        assert {packet.hop_limit for packet in packets} == {seen}

    play(main)
