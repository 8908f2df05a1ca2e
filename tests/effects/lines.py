"""A Connection over each of our stacks, on the kernel's own sockets.

Its peer is a plain socket, with the standard library's ``ssl`` where TLS is in the stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

import taps_core as taps
from taps_core.planning.stacks import Stack
from taps_core.plugin import Capabilities, DataUnit
from taps_core.runtime.registry import Registry
from taps_core.testing.identities import LocalAuthority
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taps_core.plugin import FramerDefinition, SecurityLayer, Transport

REGISTRY = Registry.from_entry_points()
#: The transports of this project that can run here; third parties' are not ours to try.
#: Those that are candidates only where they are asked for have tests of their own.
TRANSPORTS = [
    transport
    for transport in REGISTRY.transports.values()
    if type(transport).__module__.startswith("taps_")
    and REGISTRY.availability(transport).available
    and not transport.on_request
]
#: Security over a stream; a plain peer over datagrams has none.
(TLS,) = [layer for layer in REGISTRY.security_layers.values() if layer.name == "tls"]
#: Whom the Connection verifies: by address, or by the name that a resolver is asked for.
AUTHORITY = LocalAuthority()
IDENTITY = AUTHORITY.ca.issue_cert("127.0.0.1", "peer.example")
#: Of the packets that a peer gets: their TOS byte comes with them.
_TOS = (socket.IPPROTO_IP, 1)
_RECVTOS = (socket.IPPROTO_IP, 13, 1)
#: What properties could change on a socket, by level and number. Only what Linux has is asked.
OPTIONS = {
    socket.SOL_SOCKET: (9, 12, 47),  # SO_KEEPALIVE, SO_PRIORITY, SO_MAX_PACING_RATE
    # IP_TOS, IP_TTL, IP_MTU_DISCOVER
    socket.IPPROTO_IP: (1, 2, 10),
    # TCP_NODELAY, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, CONGESTION, USER_TIMEOUT, NOTSENT_LOWAT
    socket.IPPROTO_TCP: (1, 3, 4, 5, 6, 13, 18, 25),
    136: (10, 11),  # UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV
}

_ANYTHING: dict[str, Any] = {
    "reliability": "no_preference",
    "preserve_order": "no_preference",
    "congestion_control": "no_preference",
    "full_checksum_send": "no_preference",
    "full_checksum_recv": "no_preference",
}


class Line:
    """One of our stacks, and Connections over it.

    Args:
        transport: At the bottom.
        framers: On top of it.
        layer: Security between the two.
    """

    def __init__(
        self,
        transport: Transport,
        framers: tuple[FramerDefinition, ...] = (),
        layer: SecurityLayer | None = None,
    ) -> None:
        self.transport = transport
        self.layer = layer
        self.framers = framers
        self.table = REGISTRY.capabilities(transport)
        assert isinstance(self.table, Capabilities)
        layer_table = None if layer is None else layer.capabilities
        self.stack = Stack(transport, self.table, layer, layer_table, framers)
        self.security = taps.SecurityParameters.disabled() if layer is None else AUTHORITY.client()
        #: Layers and transports, from the top down: the first that has something of its own.
        self.names = (*([] if layer is None else [layer.name]), transport.name, "*")
        self.connected = self.table.connected
        self.stream = self.table.data_unit is DataUnit.BYTE_STREAM

    def __repr__(self) -> str:
        return self.stack.name

    def preconnection(self, port: int, resolver: Any = None, **properties: Any) -> Any:
        """Leads to a port of this machine, over this stack and no other."""
        properties = {
            **_ANYTHING,
            **({} if self.connected else {"safely_replayable": True}),
            **properties,
        }
        remote: Any = f"127.0.0.1:{port}"
        if resolver is not None:
            remote = taps.RemoteEndpoint(hostname="peer.example", port=port)
        transport = taps.TransportProperties()
        for name, value in properties.items():
            transport.set(name, value)
        return taps.Preconnection(
            remote=remote,
            transport=transport,
            security=self.security,
            framers=self.framers or None,
            system=taps.System(plugins=self.plugins, resolver=resolver),
        )

    @property
    def plugins(self) -> list[Any]:
        """The protocols of this stack."""
        return [each for each in (self.transport, self.layer) if each is not None]

    @contextlib.contextmanager
    def server(self) -> Any:
        """A plain socket that peers connect to, or write to."""
        kind = socket.SOCK_STREAM if self.stream else socket.SOCK_DGRAM
        number = 136 if self.transport.name == "udp-lite" else 0
        with socket.socket(socket.AF_INET, kind, number) as sock:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            if self.connected:
                # As a peer on a narrower path asks for; that of loopback grows with the window.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1200)
                sock.listen()
            elif sys.platform == "linux":
                sock.setsockopt(*_RECVTOS)
            yield sock

    @contextlib.asynccontextmanager
    async def open(self, *first: Any, **how: Any) -> AsyncIterator[Link]:
        """An established Connection and its peer; aborted in the end.

        Args:
            *first: Called with the Connection before it is Ready.
            **how: Transport Properties, and a resolver.
        """
        with self.server() as server:
            connection = self.preconnection(server.getsockname()[1], **how).initiate()
            peers: list[Any] = []
            # Also of clones, who want to shake hands as well.
            accepting = asyncio.ensure_future(self._accept(server, peers))
            try:
                for each in first:
                    each(connection)
                await connection
                while not peers:
                    await asyncio.sleep(0.001)
                yield Link(self, connection, peers[0])
            finally:
                accepting.cancel()
                await asyncio.wait([accepting])
                for peer in peers:
                    peer.close()
                connection.abort_group()
                for _ in range(3):
                    await asyncio.sleep(0)

    async def _accept(self, server: socket.socket, peers: list[Any]) -> None:
        """Collect the peers of Connections; without connections it is the socket itself."""
        if not self.connected:
            peers.append(server)
            return
        while True:
            peer = await until(lambda: server.accept()[0])
            peer.setblocking(False)
            if self.layer is not None:
                peer = SecurePeer(peer)
                try:
                    await until(peer.shake)
                except BaseException:
                    peer.close()
                    raise
            peers.append(peer)


class SecurePeer:
    """A server's side of TLS on a socket that does not block, used as that is."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.num_tickets = 0  # nothing is sent that nobody has asked for
        IDENTITY.configure_cert(context)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, True)

    def _step(self, call: Any) -> Any:
        """What it gives once all is there; until then BlockingIOError, as of the socket."""
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                self._flush()
                self._incoming.write(self._sock.recv(1 << 20))
            except ssl.SSLZeroReturnError:
                return b""
            finally:
                self._flush()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            assert self._sock.send(data) == len(data)

    def shake(self) -> None:
        self._step(self._tls.do_handshake)

    def recv(self, size: int) -> bytes:
        data: bytes = self._step(lambda: self._tls.read(size))
        return data

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def shutdown(self, _: int) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._flush()
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()


class Link:
    """A Connection and its peer, which is a plain socket."""

    def __init__(self, line: Line, connection: taps.Connection[Any], peer: socket.socket) -> None:
        self.line = line
        self.connection = connection
        self.peer = peer

    @property
    def sock(self) -> socket.socket:
        """The Connection's."""
        flow: Any = self.connection._flow
        while hasattr(flow, "lower"):
            flow = flow.lower
        return flow.sock if hasattr(flow, "sock") else flow._port.sock

    def options(self) -> dict[tuple[int, int], bytes]:
        """All that properties could change on the Connection's socket."""
        found = {}
        for level, names in OPTIONS.items():
            for name in names:
                with contextlib.suppress(OSError):
                    found[level, name] = self.sock.getsockopt(level, name, 16)
        return found

    def option(self, level: int, name: int) -> int:
        """One of them, as a number."""
        return self.sock.getsockopt(level, name)

    async def gets(self, *messages: bytes) -> list[int]:
        """The peer gets exactly these, in this order; the TOS bytes that datagrams came with."""
        marks = []
        if self.line.stream:
            header = (lambda m: len(m).to_bytes(4)) if self.line.framers else (lambda m: b"")
            expected = b"".join(header(message) + message for message in messages)
            got = b""
            while len(got) < len(expected):
                got += await until(lambda: self.peer.recv(1 << 20))
            assert got == expected
        for message in () if self.line.stream else messages:
            data, ancillary, _, address = await until(lambda: self.peer.recvmsg(65535, 256))
            assert data == message
            marks += [each[0] for level, kind, each in ancillary if (level, kind) == _TOS]
            self.address = address
        return marks

    async def give(self, message: bytes) -> None:
        """Send from the peer; of datagrams one must have come before."""
        if not self.line.stream:
            self.peer.sendto(message, self.address)
            return
        header = len(message).to_bytes(4) if self.line.framers else b""
        self.peer.send(header + message)

    async def hello(self) -> None:
        """A Message each way."""
        await self.connection.send(b"hello")
        await self.gets(b"hello")
        await self.give(b"hello yourself")
        assert (await self.connection.receive(max_length=100)).data == b"hello yourself"


async def until(attempt: Any) -> Any:
    """What ``attempt`` returns once it does not block."""
    while True:
        with contextlib.suppress(BlockingIOError):
            return attempt()
        await asyncio.sleep(0.001)


LINES = [Line(transport) for transport in TRANSPORTS]
LINES += [Line(line.transport, (), TLS) for line in LINES if line.stream]
LINES += [Line(line.transport, (LengthPrefix(),), line.layer) for line in LINES if line.stream]
