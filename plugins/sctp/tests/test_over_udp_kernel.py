"""``sctp-udp`` and the kernel's SCTP over UDP understand each other, whoever calls whom."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps

from .udp_paths import NAME, OPEN, PATIENCE, UDP_PORT, needed

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run
    from tests.lab.network import Host, Network

needed()
pytestmark = pytest.mark.lab

SCTP = 132
#: Options of SCTP's, Linux' numbers.
NODELAY = 3
REMOTE_UDP_ENCAPS_PORT = 132
LENGTHS = (1, 1000, 200_000)


def plain(host: Host) -> socket.socket:
    """A socket of the kernel's, with room for long Messages."""
    with host.use():
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP)
    sock.settimeout(PATIENCE)
    sock.setsockopt(SCTP, NODELAY, 1)
    for option in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
        sock.setsockopt(socket.SOL_SOCKET, option, 1024 * 1024)
    return sock


def echo(sock: socket.socket) -> list[int]:
    """Send back what comes until it ends; how long Messages were."""
    lengths = []
    whole = b""
    while True:
        data, _, flags, _ = sock.recvmsg(1024 * 1024)
        if not data:
            return lengths
        whole += data
        if flags & 0x80:  # MSG_EOR
            sock.send(whole)
            lengths.append(len(whole))
            whole = b""


def endpoint(kind: Any, host: Host, port: int, udp_port: int) -> Any:
    return kind(
        ip_address=host.address(), port=port, protocol=NAME, identifiers={UDP_PORT: udp_port}
    )


def test_it_calls_a_server_of_the_kernels(run: Run, two_hosts: Network) -> None:
    two_hosts.path.set(latency=0.005)
    two_hosts.server.sysctl("net/sctp/udp_port", 9899)

    async def main() -> None:
        with plain(two_hosts.server) as door:
            door.bind((two_hosts.server.address(), 0))
            door.listen()

            def serve() -> list[int]:
                sock, _ = door.accept()
                with sock:
                    sock.settimeout(PATIENCE)
                    return echo(sock)

            serving = asyncio.create_task(asyncio.to_thread(serve))
            # The UDP port is what everybody's is.
            remote = taps.RemoteEndpoint(
                ip_address=two_hosts.server.address(), port=door.getsockname()[1], protocol=NAME
            )
            there = taps.Preconnection(remote=remote, security=OPEN)
            with two_hosts.client.use():
                connection = await there.initiate(timeout=PATIENCE)
            for length in LENGTHS:
                await connection.send(bytes([length % 256]) * length)
                got = (await connection.receive(max_length=1024 * 1024)).data
                assert got == bytes([length % 256]) * length
            await connection.close()
            assert await serving == list(LENGTHS)

    run(main)


def test_a_client_of_the_kernels_calls_it(run: Run, two_hosts: Network) -> None:
    two_hosts.path.set(latency=0.005)
    two_hosts.client.sysctl("net/sctp/udp_port", 9899)
    got: list[int] = []

    def call(port: int, udp_port: int) -> None:
        with plain(two_hosts.client) as sock:
            # Of all associations of this socket, as no address is named.
            wanted = bytes(136) + struct.pack("!H6x", udp_port)
            sock.setsockopt(SCTP, REMOTE_UDP_ENCAPS_PORT, wanted)
            sock.connect((two_hosts.server.address(), port))
            for length in LENGTHS:
                sock.send(bytes(length))
                left = length
                while left:
                    left -= len(sock.recv(1024 * 1024))
                got.append(length)

    async def main() -> None:
        here = taps.Preconnection(
            local=endpoint(taps.LocalEndpoint, two_hosts.server, 0, 9999), security=OPEN
        )
        with two_hosts.server.use():
            listener = await here.listen()
        async with listener:
            port = listener.local_endpoints[0].port
            calling = asyncio.create_task(asyncio.to_thread(call, port, 9999))
            server = await listener.accept()
            assert server.remote_endpoint is not None
            assert server.remote_endpoint.identifiers == {UDP_PORT: 9899}
            for length in LENGTHS:
                message = await server.receive(max_length=1024 * 1024)
                assert len(message.data) == length
                await server.send(message.data)
            await calling
            assert got == list(LENGTHS)
            await server.close()

    run(main)
