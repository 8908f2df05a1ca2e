"""One end of work over DTLS: as :mod:`benchmarks.datagram_end`, with a folder of certificates.

``KIND LOOP FOLDER``: ``taps``, ``openssl`` (pyOpenSSL between a DatagramProtocol and
whoever counts or waits, as one would write it by hand: no cookies, no timers, one record
for each datagram) or ``echo`` (the same, which sends everything back).
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter
from typing import Any, Final

from OpenSSL import SSL

import taps_core as taps
from benchmarks.datagram_end import BATCH, SIZE, SMALL, Taps, obey
from benchmarks.harness import LOOPS

#: More than any datagram here.
ROOM: Final = 2048


def ours(folder: str) -> Taps:
    """Ours over DTLS, as it is without being told anything but whom to trust."""
    certificate = taps.Certificate(f"{folder}/chain.pem", f"{folder}/key.pem")
    return Taps(
        taps.SecurityParameters(server_certificate=certificate),
        taps.SecurityParameters(trusted_certificates=f"{folder}/ca.pem"),
    )


class Association:
    """A connection of OpenSSL for one address."""

    def __init__(self, context: SSL.Context) -> None:
        self.connection = SSL.Connection(context, None)
        self.connection.set_ciphertext_mtu(ROOM)
        self.shaken = False

    def shake(self) -> bytes:
        """Go on with the handshake; what is to be sent."""
        try:
            self.connection.do_handshake()
            self.shaken = True
        except SSL.WantReadError:
            pass
        try:
            return self.connection.bio_read(64 * 1024)
        except SSL.WantReadError:
            return b""


class Serving(asyncio.DatagramProtocol):
    """Counts, or sends back."""

    def __init__(self, context: SSL.Context, echoes: bool) -> None:
        self.context = context
        self.echoes = echoes
        self.received = 0
        self.known: dict[Any, Association] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        found = self.known.get(addr)
        if found is None:
            found = self.known[addr] = Association(self.context)
            found.connection.set_accept_state()
        connection = found.connection
        connection.bio_write(data)
        if not found.shaken:
            if flight := found.shake():
                self.transport.sendto(flight, addr)
            return
        try:
            while True:
                message = connection.recv(ROOM)
                self.received += 1
                if self.echoes:
                    connection.send(message)
                    self.transport.sendto(connection.bio_read(ROOM), addr)
        except SSL.WantReadError:
            return
        except SSL.ZeroReturnError:
            del self.known[addr]


class Calling(asyncio.DatagramProtocol):
    """Somebody waits for the next Message."""

    def __init__(self, association: Association) -> None:
        self.association = association
        self.waiter: asyncio.Future[bytes] | None = None

    def datagram_received(self, data: bytes, addr: Any) -> None:
        connection = self.association.connection
        connection.bio_write(data)
        try:
            message = connection.recv(ROOM) if self.association.shaken else b""
        except SSL.WantReadError:
            return
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(message)


class ByHand:
    """pyOpenSSL and a DatagramProtocol.

    Args:
        folder: Of certificates.
        echoes: Whether what comes is sent back.
    """

    def __init__(self, folder: str, echoes: bool = False) -> None:
        self.echoes = echoes
        self.client = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        self.client.load_verify_locations(f"{folder}/ca.pem")
        self.client.set_verify(SSL.VERIFY_PEER)
        self.server = SSL.Context(SSL.DTLS_SERVER_METHOD)
        self.server.use_certificate_chain_file(f"{folder}/chain.pem")
        self.server.use_privatekey_file(f"{folder}/key.pem")
        for context in (self.client, self.server):
            context.set_options(SSL.OP_NO_QUERY_MTU)
            context.set_cipher_list(b"ECDHE+AESGCM")

    @property
    def received(self) -> int:
        return self.serving.received

    @received.setter
    def received(self, value: int) -> None:
        self.serving.received = value

    async def open(self) -> int:
        loop = asyncio.get_running_loop()
        transport, self.serving = await loop.create_datagram_endpoint(
            lambda: Serving(self.server, self.echoes), local_addr=("127.0.0.1", 0)
        )
        return int(transport.get_extra_info("sockname")[1])

    async def connect(self, port: int) -> tuple[asyncio.DatagramTransport, Calling]:
        association = Association(self.client)
        association.connection.set_connect_state()
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: Calling(association), remote_addr=("127.0.0.1", port)
        )
        while True:
            protocol.waiter = loop.create_future()
            if flight := association.shake():
                transport.sendto(flight)
            if association.shaken:
                return transport, protocol
            await protocol.waiter

    async def pour(self, port: int, batches: int) -> float:
        data = bytes(SIZE)
        transport, protocol = await self.connect(port)
        connection = protocol.association.connection
        begin = perf_counter()
        for _ in range(batches):
            for _ in range(BATCH):
                connection.send(data)
                transport.sendto(connection.bio_read(ROOM))
            await asyncio.sleep(0)
        seconds = perf_counter() - begin
        self.hang_up(transport, connection)
        return seconds

    async def ping(self, port: int, count: int) -> float:
        data = bytes(SMALL)
        loop = asyncio.get_running_loop()
        transport, protocol = await self.connect(port)
        connection = protocol.association.connection
        begin = perf_counter()
        for _ in range(count):
            protocol.waiter = loop.create_future()
            connection.send(data)
            transport.sendto(connection.bio_read(ROOM))
            await protocol.waiter
        seconds = perf_counter() - begin
        self.hang_up(transport, connection)
        return seconds

    def hang_up(self, transport: asyncio.DatagramTransport, connection: SSL.Connection) -> None:
        connection.shutdown()
        transport.sendto(connection.bio_read(ROOM))
        transport.close()


if __name__ == "__main__":
    kind, loop_name, folder = sys.argv[1:]
    end = ours(folder) if kind == "taps" else ByHand(folder, echoes=kind == "echo")
    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.run(obey(end))
