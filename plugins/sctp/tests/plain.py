"""A peer that is a plain socket of the kernel's SCTP, as a program without taps has one."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab.network import Host

SCTP = 132
_INITMSG, _NODELAY, _RECVRCVINFO, _RECONFIG, _ENABLE_RESET, _RESET, _EVENT = (
    *(2, 3, 32, 117),
    *(118, 119, 127),
)
_NOTIFICATION, _EOR = 0x8000, 0x80
_STREAM_RESET = 0x800A
_BUFFER = 4 << 20


class Got(NamedTuple):
    """A Message, as a plain socket has it."""

    data: bytes
    stream: int
    ppid: int
    unordered: bool


class Plain:
    """A one-to-one socket, non-blocking, with what it needs to see streams.

    Args:
        sock: Connected, or to be connected.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: Streams that the peer has reset, and that were reset here, in order.
        self.resets: list[tuple[str, tuple[int, ...]]] = []
        self._parts: dict[tuple[int, bool], bytes] = {}

    @classmethod
    def open(cls, host: Host, *, resets: bool = True, streams: int = 64) -> Plain:
        """Configured; ``resets``: whether it can reset streams."""
        with host.use():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP)
        sock.setblocking(False)
        for option in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        sock.setsockopt(SCTP, _INITMSG, struct.pack("=HHHH", streams, streams, 0, 0))
        sock.setsockopt(SCTP, 0, struct.pack("=iIII", 0, 500, 10_000, 200))  # SCTP_RTOINFO
        sock.setsockopt(SCTP, _NODELAY, 1)
        sock.setsockopt(SCTP, _RECVRCVINFO, 1)
        if resets:
            sock.setsockopt(SCTP, _RECONFIG, struct.pack("=iI", 0, 1))
            sock.setsockopt(SCTP, _ENABLE_RESET, struct.pack("=iI", 0, 7))
            sock.setsockopt(SCTP, _EVENT, struct.pack("=iHBx", 0, _STREAM_RESET, 1))
        return cls(sock)

    @classmethod
    def listen(cls, host: Host, **how: Any) -> Plain:
        """Bound to the host's address."""
        plain = cls.open(host, **how)
        plain.sock.bind((host.address(), 0))
        plain.sock.listen()
        return plain

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    async def accept(self) -> Plain:
        sock, _ = await asyncio.get_running_loop().sock_accept(self.sock)
        return Plain(sock)

    async def connect(self, address: str, port: int) -> None:
        await asyncio.get_running_loop().sock_connect(self.sock, (address, port))

    def send(self, data: bytes, *, stream: int = 0, ppid: int = 0) -> None:
        info = struct.pack("=HHIIi", stream, 0, socket.htonl(ppid), 0, 0)
        self.sock.sendmsg([data], [(SCTP, 2, info)])

    def reset(self, *streams: int) -> None:
        """Those that this end sends on."""
        self.sock.setsockopt(
            SCTP, _RESET, struct.pack(f"=iHH{len(streams)}H", 0, 2, len(streams), *streams)
        )

    async def receive(self) -> Got:
        """The next Message.

        Raises:
            EOFError: The peer has shut down.
            ConnectionResetError: It has aborted.
        """
        while True:
            got = self._read()
            if got is not None:
                return got
            await asyncio.sleep(0.001)

    async def receive_all(self, number: int) -> Sequence[Got]:
        return [await self.receive() for _ in range(number)]

    def look(self) -> None:
        """Take notifications in; no Message must be there."""
        assert self._read() is None

    def _read(self) -> Got | None:
        while True:
            try:
                data, ancillary, flags, _ = self.sock.recvmsg(1 << 18, 256)
            except BlockingIOError:
                return None
            if flags & _NOTIFICATION:
                kind, reset = struct.unpack_from("=HH", data)
                if kind == _STREAM_RESET:
                    streams = struct.unpack_from(f"={(len(data) - 12) // 2}H", data, 12)
                    self.resets.append(("theirs" if reset & 1 else "ours", streams))
                continue
            if not data and not flags & _EOR:
                raise EOFError
            info = next(each for level, kind, each in ancillary if (level, kind) == (SCTP, 3))
            stream, _, marks, ppid = struct.unpack_from("=HHHxxI", info)
            place = (stream, bool(marks & 1))
            whole = self._parts.pop(place, b"") + data
            if flags & _EOR:
                return Got(whole, stream, socket.ntohl(ppid), bool(marks & 1))
            self._parts[place] = whole

    def close(self) -> None:
        self.sock.close()
