"""socat at the other end: as an echo, as a peer of UDP-Lite, as sender and receiver of groups."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess

import pytest

import taps_core as taps
from taps_core.plugin import LocalEndpoint, RemoteEndpoint
from taps_core.testing import run
from taps_udp import UDPLite

pytestmark = pytest.mark.linux
PORT = 7000
DATAGRAMS = taps.TransportProperties.unreliable_datagram()
RECEIVING = DATAGRAMS.copy().set("direction", "Unidirectional receive")
PLAIN = taps.SecurityParameters.disabled()
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
GROUPS = {4: "239.255.7.9", 6: "ff15::7:9"}
LITE = UDPLite().availability()


@pytest.fixture
def socat(kernel_network):
    """Starts socat in a network of its own, which has a cable and a route to groups."""
    if shutil.which("socat") is None:
        if "socat" in os.environ.get("TAPS_REQUIRE", "").split(","):
            pytest.fail("socat is not installed, and TAPS_REQUIRE demands it", pytrace=False)
        pytest.skip("socat is not installed")
    kernel_network.lay_cable()
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            ["socat", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        # It has children, too.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()


async def until_echoed(connection, data):
    """Send until it comes back: socat takes a moment to be there."""
    while True:
        await connection.send(data)
        try:
            async with asyncio.timeout(0.1):
                assert (await connection.receive()).data == data
        except TimeoutError:
            continue
        return


def dialogue(remote):
    return taps.Preconnection(remote=remote, transport=DATAGRAMS, security=PLAIN).initiate()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@FAMILIES
def test_socat_echoes_udp(socat, family, loop):
    address = {4: "192.0.2.1", 6: "[2001:db8::1]"}[family]

    async def main():
        async with dialogue(f"{address}:{PORT}") as connection:
            await until_echoed(connection, b"hello")

    socat(f"UDP{family}-RECVFROM:{PORT},fork", "EXEC:cat")
    run(main, loop=loop)


@pytest.mark.skipif(not LITE.available, reason=LITE.reason)
def test_socat_echoes_udp_lite(socat):
    # struct sockaddr_in behind the family, as socat wants it for protocols it has no name of.
    place = f"{PORT:04x}{socket.inet_aton('192.0.2.1').hex()}{bytes(8).hex()}"

    async def main():
        remote = RemoteEndpoint(ip_address="192.0.2.1", port=PORT, protocol="udp-lite")
        async with dialogue(remote) as connection:
            assert str(connection.stack) == "UDP-Lite"
            await until_echoed(connection, b"hello")

    socat(f"SOCKET-RECVFROM:{socket.AF_INET}:{socket.SOCK_DGRAM}:136:x{place},fork", "EXEC:cat")
    run(main)


@FAMILIES
def test_what_socat_sends_to_a_group_arrives(socat, family):
    group = GROUPS[family]
    to = f"[{group}]" if family == 6 else group
    local = LocalEndpoint(multicast_group=group, port=PORT, interface="wire")
    sender = socat("-u", "-", f"UDP{family}-DATAGRAM:{to}:{PORT}")

    async def main():
        there = taps.Preconnection(local=local, transport=RECEIVING, security=PLAIN)
        async with there.listen() as listener:
            sender.stdin.write(b"to whom it may concern")
            sender.stdin.flush()
            connection = await listener.accept()
            message = await connection.receive()
            assert message.data == b"to whom it may concern"
            await connection.close()

    run(main)


@FAMILIES
def test_socat_gets_what_is_sent_to_a_group(socat, family):
    group = GROUPS[family]
    join = {
        4: f"UDP4-RECV:{PORT},ip-add-membership={group}:192.0.2.1",
        6: f"UDP6-RECV:{PORT},ipv6-join-group=[{group}]:wire",
    }[family]
    receiver = socat("-u", join, "-")
    os.set_blocking(receiver.stdout.fileno(), False)

    async def main():
        async with dialogue(RemoteEndpoint(multicast_group=group, port=PORT)) as connection:
            while not (got := receiver.stdout.read()):
                await connection.send(b"to all;")
                await asyncio.sleep(0.05)
        assert got.startswith(b"to all;")

    run(main)
