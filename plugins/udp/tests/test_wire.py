"""What is seen of UDP on the wire, by a capture, and what a forged datagram makes known."""

from __future__ import annotations

import asyncio
import socket

import pytest

import taps_core as taps
from taps_core.plugin import DSCP, CapacityProfile
from taps_core.testing import forged_datagram, run
from taps_udp import UDP

pytestmark = pytest.mark.linux

PLAIN = taps.SecurityParameters.disabled()
ADDRESSES = pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"], ids=["IPv4", "IPv6"])
ALL = {profile: dscps[0] for profile, dscps in DSCP.items()}
MTU = 1500


def preconnection(*, profile=CapacityProfile.DEFAULT, **where):
    datagrams = taps.TransportProperties.unreliable_datagram()
    datagrams.set("connCapacityProfile", profile).set("_taps.receiveEcn", True)
    return taps.Preconnection(
        transport=datagrams, security=PLAIN, system=taps.System([UDP()]), **where
    )


def play(main):
    async def in_time():
        async with asyncio.timeout(30):
            await main()

    run(in_time)


async def packet_with(capture, payload):
    packet = await capture.packet(lambda packet: packet.payload == payload)
    assert packet.protocol == socket.IPPROTO_UDP
    return packet


@pytest.mark.requirement(
    "R-9622-8.1.6-03",
    "R-9622-8.1.6-04",
    "R-9622-8.1.6-06",
    "R-9622-8.1.6-08",
    "R-9622-8.1.6-10",
    "R-9622-8.1.6-11",
)
@pytest.mark.parametrize(("profile", "dscp"), ALL.items(), ids=map(str, ALL))
@ADDRESSES
def test_both_ends_mark_what_they_send_with_the_dscp_of_their_connection(
    kernel_network, address, profile, dscp
):
    async def main():
        async with preconnection(local=f"{address}:0", profile=profile).listen() as listener:
            there = preconnection(remote=listener.remote_endpoint, profile=profile)
            with kernel_network.capture() as capture:
                async with there.initiate() as client:
                    await client.send(b"question")
                    server = await listener.accept()
                    await server.send(b"answer")
                    for payload in (b"question", b"answer"):
                        packet = await packet_with(capture, payload)
                        assert packet.dscp == dscp
                        # No congestion control, so no promise to react (RFC 8085, section 3.1.7).
                        assert packet.ecn == 0
                server.abort()

    play(main)


@ADDRESSES
def test_messages_of_one_batch_have_each_its_own_dscp(kernel_network, address):
    async def main():
        usual = CapacityProfile.CAPACITY_SEEKING
        wishes = [None, *ALL]
        async with preconnection(local=f"{address}:0").listen() as listener:
            there = preconnection(remote=listener.remote_endpoint, profile=usual)
            with kernel_network.capture() as capture:
                async with there.initiate() as client:
                    with client.batch():
                        for number, profile in enumerate(wishes):
                            wish = {} if profile is None else {"msg_capacity_profile": profile}
                            _ = client.send(b"%d" % number, **wish)
                    client.set_property("connCapacityProfile", CapacityProfile.SCAVENGER)
                    await client.send(b"now the Connection has another one")
                    await packet_with(capture, b"now the Connection has another one")
            seen = [(packet.payload, packet.dscp) for packet in capture.packets]
        assert seen == [
            *((b"%d" % n, ALL[profile or usual]) for n, profile in enumerate(wishes)),
            (b"now the Connection has another one", ALL[CapacityProfile.SCAVENGER]),
        ]

    play(main)


@pytest.mark.requirement("R-9623-5.1.1-05", "R-9623-5.1.1-06")
@ADDRESSES
def test_a_datagram_leaves_in_one_packet_that_no_router_may_fragment(kernel_network, address):
    async def main():
        kernel_network.ip(f"link set lo mtu {MTU}")
        async with preconnection(local=f"{address}:0").listen() as listener:
            there = preconnection(remote=listener.remote_endpoint)
            with kernel_network.capture() as capture:
                async with there.initiate() as client:
                    longest = client.properties["singularTransmissionMsgMaxLen"]
                    assert longest == MTU - (48 if ":" in address else 28)
                    wishes = ({}, {"no_fragmentation": True}, {"no_segmentation": True})
                    for number, wish in enumerate(wishes):
                        message = bytes([number]) * longest
                        await client.send(message, **wish)
                        assert (await packet_with(capture, message)).dont_fragment
                        with pytest.raises(taps.SendError) as refusal:
                            await client.send(bytes(longest + 1), **wish)
                        assert refusal.value.reason is taps.Reason.MESSAGE_TOO_LARGE
                    # Many that leave with one call of the system are as many packets.
                    with client.batch():
                        for _ in range(50):
                            _ = client.send(bytes(100))
                    await capture.packet(lambda packet: not any(packet.payload))
                    server = await listener.accept()
                    for _ in range(3 + 50):
                        await server.receive()
                    await server.send(b"answer")
                    assert (await packet_with(capture, b"answer")).dont_fragment
                    assert all(packet.dont_fragment for packet in capture.look())
                server.abort()

    play(main)


@pytest.mark.usefixtures("kernel_network")
def test_the_ecn_field_of_a_datagram_comes_with_its_message_and_the_dscp_does_not_matter():
    async def main():
        async with preconnection(local="127.0.0.1:0").listen() as listener:
            place = ("127.0.0.1", listener.local_endpoints[0].port)
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                for dscp in (0, 46):
                    for field in range(4):
                        datagram = forged_datagram(
                            ("127.9.9.9", 9), place, b"hello", traffic_class=dscp << 2 | field
                        )
                        raw.sendto(datagram, ("127.0.0.1", 0))
            connection = await listener.accept()
            told = [(await connection.receive()).context.get("ecn") for _ in range(8)]
            assert told == [None, "ECT(1)", "ECT(0)", "CE"] * 2
            connection.abort()

    play(main)


@ADDRESSES
def test_hop_limits_of_both_ends_are_seen_on_the_wire(kernel_network, address):
    async def main():
        host = address.strip("[]")
        here = taps.LocalEndpoint(ip_address=host, port=0, hop_limit=9)
        async with preconnection(local=here).listen() as listener:
            there = preconnection(remote=listener.remote_endpoint.with_hop_limit(7))
            with kernel_network.capture() as capture:
                async with there.initiate() as client:
                    await client.send(b"question")
                    server = await listener.accept()
                    await server.send(b"answer")
                    assert (await packet_with(capture, b"question")).hop_limit == 7
                    assert (await packet_with(capture, b"answer")).hop_limit == 9
                server.abort()

    play(main)


def test_single_peers_over_ipv4_are_not_reached_by_no_hop_and_that_is_said():
    async def main():
        nowhere = taps.RemoteEndpoint(ip_address="127.0.0.1", port=7000, hop_limit=0)
        with pytest.raises(taps.EstablishmentError) as caught:
            await preconnection(remote=nowhere).initiate()
        assert caught.value.attempts[0].error.detail == "EINVAL"

    play(main)
