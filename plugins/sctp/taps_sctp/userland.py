"""libusrsctp in this process: who has it, its clock, and whom its packets go to.

There is one of it in a process, and it is no thread's: packets and the time are given to it
by the loop that has it. A peer is a token to it, where other stacks have an IP address, and
the token is this end's address, too. Tokens are registered when first needed and used again:
to deregister one leaves something behind for a thread that is not there.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from taps_core.plugin import EstablishmentError, Reason
from taps_sctp import usrsctp
from taps_sctp.usrsctp import ffi

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["STRANGER", "Userland", "Wakeable"]

#: Token of whoever has no association, for as long as one packet of theirs is looked at.
STRANGER: Final = 1
#: Seconds between ticks while packets come and go, and later.
TICK: Final = 0.01
IDLE_TICK: Final = 0.1
#: Seconds without a packet after which nothing is urgent.
QUIET: Final = 1.0
#: Packets sent by us that wait for acknowledgement are bounded by buffers, not by their number.
_CHUNKS: Final = 65536


class Wakeable(Protocol):
    """A socket of the library's, for its upcalls."""

    def woken(self) -> None:
        """Something may be read, sent or accepted. From a callback of the loop."""

    def abandon(self) -> None:
        """The loop that had it is closed: free what there is, tell nobody."""


class Userland:
    """The library, as :meth:`claim` gives it."""

    _only: Userland | None = None
    _lock: Final = threading.Lock()

    def __init__(self) -> None:
        self.library = usrsctp.load()
        self.loop: asyncio.AbstractEventLoop | None = None
        #: Sockets of the library's, by the number that its upcalls tell.
        self._sockets: dict[int, Wakeable] = {}
        #: Those that need the time.
        self._timed: set[int] = set()
        self._number = 0
        #: Where packets go, by token.
        self._ways: dict[int, Callable[[Any, int], None]] = {}
        self._tokens: deque[int] = deque()
        self._last_token = STRANGER
        #: Of sockets that were woken and not called yet, in order.
        self._woken: dict[int, None] = {}
        self._inside = False
        self._ticker: asyncio.TimerHandle | None = None
        self._pace = TICK
        self._ticked = self._active = 0.0
        # The library keeps them without a reference.
        self._output = ffi.callback("int(void *, void *, size_t, uint8_t, uint8_t)", self._send)
        self._upcall = ffi.callback("void(struct socket *, void *, int)", self._wake)
        library = self.library
        library.usrsctp_init_nothreads(0, self._output, ffi.NULL)
        # A UDP socket here does not say what marks a packet came with.
        library.usrsctp_sysctl_set_sctp_ecn_enable(0)
        # There are no addresses to add: a token is one.
        library.usrsctp_sysctl_set_sctp_asconf_enable(0)
        library.usrsctp_sysctl_set_sctp_max_chunks_on_queue(_CHUNKS)
        library.usrsctp_register_address(_pointer(STRANGER))

    @classmethod
    def claim(cls, loop: asyncio.AbstractEventLoop) -> Userland:
        """The library, for this loop as long as it has a socket of it.

        Raises:
            EstablishmentError: Another loop has it.
            OSError: There is none.
        """
        with cls._lock:
            if cls._only is None:
                cls._only = cls()
            land = cls._only
            if land.loop is not loop:
                land.move(loop)
            return land

    def move(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be that loop's from now on; for :meth:`claim`."""
        before = self.loop
        if before is not None and self._sockets and not before.is_closed():
            raise EstablishmentError(
                "SCTP over UDP runs on one event loop of a process, and another one has it",
                reason=Reason.INVALID_CONFIGURATION,
            )
        for each in tuple(self._sockets.values()):
            each.abandon()
        self._ways.clear()
        self._woken.clear()
        self._ticker = None
        self.loop = loop
        self._ticked = self._active = loop.time()

    # -- sockets

    def open(self) -> Any:
        """A one-to-one socket of the library's, non-blocking.

        Raises:
            OSError: There is none.
        """
        null = ffi.NULL
        so = self.library.usrsctp_socket(usrsctp.AF_CONN, 1, 132, null, null, 0, null)
        if so == null:
            raise usrsctp.failure()
        self.library.usrsctp_set_non_blocking(so, 1)
        return so

    def watch(self, so: Any, socket: Wakeable, *, timed: bool) -> int:
        """Call ``socket`` from now on; under this number it is known.

        Args:
            so: The library's.
            socket: Ours.
            timed: Whether it is an association, which sends when nobody does anything.
        """
        self._number += 1
        if timed:
            self._timed.add(self._number)
        self._sockets[self._number] = socket
        self.library.usrsctp_set_upcall(so, self._upcall, _pointer(self._number))
        return self._number

    def close(self, so: Any, number: int) -> None:
        """Close one, and call it no more."""
        self._sockets.pop(number, None)
        self._timed.discard(number)
        self._woken.pop(number, None)
        self.library.usrsctp_set_upcall(so, ffi.NULL, ffi.NULL)
        self.library.usrsctp_close(so)

    def _wake(self, so: Any, number: Any, flags: int) -> None:
        """The library's upcall, from whatever it was doing."""
        woken = self._woken
        if not woken and not self._inside and self.loop is not None:
            self.loop.call_soon(self._call_woken)
        woken[int(ffi.cast("uintptr_t", number))] = None

    def _call_woken(self) -> None:
        while self._woken:
            woken, self._woken = self._woken, {}
            for number in woken:
                socket = self._sockets.get(number)
                if socket is not None:
                    socket.woken()

    # -- peers

    def take_token(self, way: Callable[[Any, int], None]) -> int:
        """A token for a peer, whose packets go ``way`` (a buffer, its traffic class)."""
        if self._tokens:
            token = self._tokens.popleft()
        else:
            self._last_token += 1
            token = self._last_token
            self.library.usrsctp_register_address(_pointer(token))
        self._ways[token] = way
        return token

    def return_token(self, token: int) -> None:
        """The peer is gone."""
        if self._ways.pop(token, None) is not None:
            self._tokens.append(token)

    def _send(self, token: Any, packet: Any, length: int, traffic_class: int, _: int) -> int:
        """The library's output. What cannot be sent is lost, as packets are."""
        way = self._ways.get(int(ffi.cast("uintptr_t", token)))
        if way is not None:
            way(ffi.buffer(packet, length), traffic_class)
        return 0

    @property
    def tokens(self) -> int:
        """How many there are, in use or not."""
        return self._last_token

    # -- packets and time

    def receive(self, token: int, packet: bytes) -> None:
        """A packet of a peer."""
        self.library.usrsctp_conninput(_pointer(token), packet, len(packet), 0)

    def receive_stranger(self, packet: bytes, way: Callable[[Any, int], None]) -> None:
        """A packet of whoever has no association; an answer goes ``way``."""
        self._ways[STRANGER] = way
        try:
            self.receive(STRANGER, packet)
        finally:
            del self._ways[STRANGER]

    def checksum(self, packet: bytearray) -> bytes:
        """CRC32c of a packet whose field for it is zero, as it goes there."""
        buffer = ffi.from_buffer(packet)
        return struct.pack("=I", self.library.usrsctp_crc32c(buffer, len(packet)))

    @contextlib.contextmanager
    def busy(self) -> Any:
        """Packets are given in here, from a callback of the loop; then who was woken is called."""
        self.touch()
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
        self._call_woken()

    def touch(self) -> None:
        """Packets come or go: the time is right, and goes on in small steps."""
        assert self.loop is not None
        now = self._active = self.loop.time()
        if now - self._ticked >= TICK:
            self._advance(now)
        if self._ticker is None or self._pace > TICK:
            self._tick_in(TICK)

    def _advance(self, now: float) -> None:
        milliseconds = int((now - self._ticked) * 1000)
        self._ticked += milliseconds / 1000
        self.library.usrsctp_handle_timers(milliseconds)

    def _tick_in(self, pace: float) -> None:
        assert self.loop is not None
        if self._ticker is not None:
            self._ticker.cancel()
        self._pace = pace
        self._ticker = self.loop.call_later(pace, self._tick, self.loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self.loop:
            return  # the library has moved on
        self._ticker = None
        now = loop.time()
        self._inside = True
        try:
            self._advance(now)
        finally:
            self._inside = False
        self._call_woken()
        # Unless whoever was called has sent.
        if not self._is_ticking():
            if now - self._active < QUIET:
                self._tick_in(TICK)
            elif self._timed:
                self._tick_in(IDLE_TICK)

    def _is_ticking(self) -> bool:
        return self._ticker is not None


def _pointer(number: int) -> Any:
    return ffi.cast("void *", number)
