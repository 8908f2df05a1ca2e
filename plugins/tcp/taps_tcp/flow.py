"""One TCP connection as a Flow, on top of the event loop's own socket transport.

The loop's transports are used because uvloop compiles them and asyncio's are
the yardstick. The plugin keeps the socket object beside them for what they do
not offer: options, half-close that is known to have happened, the kernel's
account of unacknowledged bytes, RST.

How a flow ends:

* ``close`` sends what is gathered and a FIN, discards what still arrives
  (unread data would make the kernel answer with RST and the peer lose our
  tail), and waits for two things: the peer's FIN, and the acknowledgement of
  every byte. Event loops know nothing of the latter, so the kernel is asked,
  with back-off. How long to wait is the Connection's decision: it aborts.
* A reset while closing is an error only if bytes were still unacknowledged.
* ``abort`` sends RST.
* After the peer's FIN alone the flow goes on (half-close); asyncio and uvloop
  stop watching the socket for reading then, so a reset that follows is noticed
  at the next write or at ``close``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from taps_core.plugin import Flow, PropertyError, Push, Reason, SendError
from taps_tcp.addresses import local_endpoint, remote_endpoint, show
from taps_tcp.delivery import failure, unacknowledged
from taps_tcp.errors import broken_above, connection_error
from taps_tcp.info import TCPInfo, tcp_info
from taps_tcp.options import DISABLED_EXPLICITLY, SETTERS, read, uses_nagle
from taps_tcp.reads import begin_reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taps_core.plugin import Data, LocalEndpoint, Receiver, RemoteEndpoint, SendRecord

__all__ = ["TCPFlow"]

T = TypeVar("T")

#: What is held for a flow that nobody has started, before it stops reading.
HELD_BYTES: Final = 64 * 1024
#: Where the transport's buffer counts as full. The Connection lets the loop run
#: every 256 KiB, and hears of it one turn later.
HIGH_WATER: Final = 256 * 1024
#: How often the kernel is asked whether everything is acknowledged, in seconds.
FIRST_POLL: Final = 0.001
LAST_POLL: Final = 0.25
_NOTHING: Final[list[bytes]] = []
#: So many buffers at the most are written without joining them, if they are as large
#: as that on average: below, a copy is cheaper than a longer list for the kernel.
_FEW: Final = 16
_LARGE: Final = 4096
#: SO_LINGER on, for 0 seconds: close(2) sends RST.
_RESET: Final = struct.pack("ii", 1, 0)
#: At most this many reads of this size after a connection broke.
_LAST_READS: Final = 128
_LAST_READ_SIZE: Final = 64 * 1024


class TCPFlow(Flow, asyncio.Protocol):
    """One established TCP connection."""

    __slots__ = (
        "_aborted",
        "_above",
        "_closing",
        "_drained",
        "_error",
        "_fin_sent",
        "_full",
        "_held",
        "_held_size",
        "_local",
        "_loop",
        "_lost",
        "_out",
        "_own_writes",
        "_paused",
        "_peer",
        "_peer_finished",
        "_poll",
        "_poll_delay",
        "_properties",
        "_push",
        "_receiver",
        "_remote",
        "_sock",
        "_told_full",
        "_transport",
        "_write",
    )

    _transport: asyncio.Transport
    _write: Callable[[bytes], None]

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        properties: Mapping[str, Any],
        *,
        remote: RemoteEndpoint | None = None,
        peer: Any = None,
    ) -> None:
        """A protocol for the loop to give the socket to.

        Args:
            loop: Where it runs.
            sock: Connected. Belongs to the flow once the loop has it.
            properties: By canonical name; ``configure`` has set their options.
            remote: What the application named, on the connecting side.
            peer: The address tuple that ``accept`` gave, on the other.
        """
        self._loop = loop
        self._push = Push.of(loop)
        self._sock = sock
        self._properties = properties
        self._remote = remote
        self._peer = peer
        self._local: LocalEndpoint | None = None
        #: Who was given to ``start`` and has not been told ``closed`` yet.
        self._above: Receiver | None = None
        #: Where data goes at once; None before start, while closing, after the end.
        self._receiver: Receiver | None = None
        #: What ``flush`` will write; None once nothing more can be sent.
        self._out: list[bytes] | None = []
        self._held: list[bytes] | None = None
        self._held_size = 0
        self._paused = False
        self._full = False
        self._told_full = False
        self._peer_finished = False
        self._drained = False
        self._fin_sent = False
        self._closing = False
        self._aborted = False
        self._lost = False
        self._error: Exception | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._poll_delay = FIRST_POLL

    @property
    def local_endpoint(self) -> LocalEndpoint | None:
        """Address and port of this end."""
        if self._local is None:
            # None if it broke before the loop could ask.
            address = self._transport.get_extra_info("sockname")
            self._local = local_endpoint(address) if address else None
        return self._local

    @property
    def remote_endpoint(self) -> RemoteEndpoint:
        """What was asked for, or where the connection came from."""
        if self._remote is None:
            address = self._peer or self._transport.get_extra_info("peername")
            self._remote = remote_endpoint(address)
        return self._remote

    # -- down: data

    def start(self, receiver: Receiver) -> None:
        """Deliver to ``receiver`` from now on; what is held comes first."""
        self._above = receiver
        if self._held or self._peer_finished or self._lost:
            self._loop.call_soon(self._release)
        else:
            self._receiver = receiver

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> None:
        """Gather; a byte stream has no Message boundaries to keep."""
        out = self._out
        if out is None:
            raise SendError("nothing can be sent any more", reason=Reason.CONNECTION_CLOSED)
        if isinstance(data, bytes):
            out.append(data)
        else:
            out.extend(data)

    def write_through(self, data: Data, /) -> None:
        """Write at once what need not wait for anything gathered."""
        if self._out == _NOTHING:
            if isinstance(data, bytes):
                self._write(data)
            else:
                self._write_many(data)
        else:
            super().write_through(data)

    def flush(self) -> None:
        """Write everything gathered with one call."""
        out = self._out
        if out:
            if len(out) == 1:
                self._write(out[0])
            elif len(out) > _FEW:
                self._write(b"".join(out))
            else:
                self._write_many(out)
            out.clear()

    def _write_many(self, buffers: Sequence[bytes]) -> None:
        """Write what follows each other; joined where it is small."""
        if sum(map(len, buffers)) < _LARGE * len(buffers):
            self._write(b"".join(buffers))
        elif not self._own_writes:
            self._transport.writelines(buffers)
        else:
            self._write_past(buffers)

    def _write_past(self, buffers: Sequence[bytes]) -> None:
        """Asyncio's transports join before they write, or never pause (3.12.0 to 3.12.8).

        What the socket does not take at once goes the ordinary way, and so does
        everything while there is something that it did not take.
        """
        sent = 0
        if not self._transport.get_write_buffer_size() and not self._transport.is_closing():
            with contextlib.suppress(OSError):  # the transport meets it again, and reports it
                sent = self._sock.sendmsg(buffers)
                if sent == sum(map(len, buffers)):
                    return
        for buffer in buffers:
            if sent < len(buffer):
                self._write(buffer[sent:] if sent else buffer)
                sent = 0
            else:
                sent -= len(buffer)

    def pause(self) -> None:
        """Stop reading: the peer's window fills and it has to wait."""
        if not self._paused:
            self._paused = True
            if not self._peer_finished and not self._lost:
                self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            if self._above is not None and self._receiver is None and not self._closing:
                self._loop.call_soon(self._release)
            else:
                self._read_again()

    # -- down: the end

    def finish(self) -> None:
        """Send a FIN after everything that was sent (R-9623-10.1-02)."""
        if self._out is not None:
            self.flush()
            self._out = None
            self._send_fin()

    def close(self) -> None:
        """Send a FIN, then wait for the peer's and for the acknowledgement of all bytes."""
        if self._closing:
            return
        self._closing = True
        self._receiver = self._held = None
        if self._lost:
            self._loop.call_soon(self._end)
        elif self._above is None:
            # Never started: nobody waits, so the kernel may deliver on its own.
            self._out = None
            self._transport.close()
        else:
            self.finish()
            self._read_again()
            self._settle()

    def abort(self) -> None:
        """Send RST and drop everything."""
        if self._aborted:
            return
        self._aborted = self._closing = True
        self._receiver = self._held = self._out = None
        if self._lost:
            self._loop.call_soon(self._end)
            return
        with contextlib.suppress(OSError):  # BSD refuses when it broke already
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _send_fin(self) -> None:
        transport = self._transport
        if transport.is_closing():
            return  # it broke; connection_lost is on its way
        if transport.get_write_buffer_size():
            # resume_writing comes when the last byte has gone to the kernel.
            transport.set_write_buffer_limits(high=0)
        else:
            self._shut_down()

    def _shut_down(self) -> None:
        # Not transport.write_eof(): that may happen later, and whether the FIN is
        # out decides what one unacknowledged unit means (see connection_lost).
        self._drained = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it broke; reading or the poll will tell
        self._fin_sent = True

    def _read_again(self) -> None:
        # Not after the peer's FIN: the loop would see it a second time.
        reading = self._closing or not self._paused
        if reading and not self._peer_finished and not self._lost:
            self._transport.resume_reading()

    def _settle(self) -> None:
        """End in order once the peer has finished and everything is acknowledged."""
        if not (self._closing and self._drained and self._peer_finished) or self._lost:
            return  # a FIN, an empty buffer or a failure brings us back here
        if not unacknowledged(self._sock):
            self._transport.close()
            return
        if error := failure(self._sock):
            self._lose(error)
            self._transport.abort()
            return
        self._poll = self._loop.call_later(self._poll_delay, self._settle)
        self._poll_delay = min(2 * self._poll_delay, LAST_POLL)

    def _acknowledged(self) -> bool:
        """Whether the peer has every byte; asked when the connection is over."""
        rest = unacknowledged(self._sock)
        return self._drained and (not rest or (rest == 1 and self._fin_sent))

    # -- down: properties

    def apply(self, property: str, value: Any, /) -> bool:  # noqa: A002  # RFC 9622's word
        """Set the socket options that carry out a Connection Property.

        Raises:
            PropertyError: The operating system refused.
        """
        setter = SETTERS.get(property)
        if setter is None or self._lost:
            return False
        if property == "keepAliveTimeout" and value == math.inf:
            value = DISABLED_EXPLICITLY
        properties = {**self._properties, property: value}
        try:
            effect = setter(self._sock, properties)
        except OSError as error:
            raise PropertyError(f"{property}: the system refused {value!r}: {error}") from error
        self._properties = properties
        return effect

    def read(self, property: str, /) -> Any:  # noqa: A002  # RFC 9622's word
        """What is in force, asked of the kernel where it knows.

        Beyond Connection Properties: ``_taps.retransmissions`` (segments) and
        ``_taps.undelivered`` (bytes sent and not acknowledged).
        """
        if property in ("sendMsgMaxLen", "recvMsgMaxLen"):
            return sys.maxsize  # a byte stream has no limit of its own
        if self._lost:
            return None
        if property == "_taps.undelivered":
            return self._undelivered()
        if property == "_taps.retransmissions":
            info = tcp_info(self._sock)
            return None if info is None else info.retransmissions
        return read(self._sock, self._properties, property)

    def _undelivered(self) -> int | None:
        in_kernel = unacknowledged(self._sock)
        if in_kernel is None:
            return None
        gathered = sum(map(len, self._out or ()))
        rest = in_kernel - self._fin_sent if in_kernel else 0
        return gathered + self._transport.get_write_buffer_size() + rest

    def find(self, wanted: type[T], /) -> T | None:
        """The flow itself, or a fresh :class:`TCPInfo`."""
        if wanted is TCPInfo:
            return None if self._lost else cast("T | None", tcp_info(self._sock))
        return super().find(wanted)

    # -- up: called by the event loop, never from inside a downward call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop took the socket."""
        self._transport = cast("asyncio.Transport", transport)
        self._write = self._transport.write
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        # uvloop's gather by themselves.
        self._own_writes = isinstance(self._loop, asyncio.SelectorEventLoop)
        if self._own_writes and self._transport.get_extra_info("peername"):
            self._peer = None  # asyncio's have asked too, and keep it
        begin_reading(self._loop, self._transport, self)
        if uses_nagle(self._properties):
            # Both loops have just switched Nagle's algorithm off.
            with contextlib.suppress(OSError):  # BSD refuses when it broke already
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)

    def data_received(self, data: bytes) -> None:
        """Pass up, hold, or discard."""
        receiver = self._receiver
        if receiver is None:
            self._hold(data)
            return
        try:
            self._push.up(receiver, ((data, None, False),))
        except Exception as error:  # noqa: BLE001  # entry of the push: what escapes ends this flow only
            self._break(error)

    def eof_received(self) -> bool:
        """The peer's FIN; True keeps our direction open."""
        self._peer_finished = True
        if self._receiver is not None:
            try:
                self._receiver.finished()
            except Exception as error:  # noqa: BLE001  # as in data_received
                self._break(error)
        else:
            self._settle()
        return True

    def pause_writing(self) -> None:
        """The transport's buffer is full. Comes from inside ``flush``: tell later."""
        self._full = True
        self._loop.call_soon(self._tell_writable)

    def resume_writing(self) -> None:
        """It is empty enough; uvloop, too, may say so from inside ``flush``."""
        self._full = False
        if self._out is not None:
            self._loop.call_soon(self._tell_writable)
        elif not self._aborted and not self._drained:
            self._shut_down()
            self._loop.call_soon(self._settle)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of the transport: in order, by us, or by an error."""
        if exc is not None and not self._aborted:
            self._lose(exc)
        self._lost = True
        self._out = None
        if self._poll is not None:
            self._poll.cancel()
        if not self._closing:
            rest = self._read_rest()
            if self._receiver is None:
                # start or resume delivers what is held, and then the end.
                self._held = [*(self._held or ()), *rest]
                return
            self._deliver(rest)
        self._end()

    def _lose(self, exc: Exception) -> None:
        """Note why it ended, unless everything had been delivered."""
        if self._closing and self._acknowledged():
            return
        remote = self.remote_endpoint
        self._error = connection_error(exc, show(remote.ip_address, remote.port))

    def _read_rest(self) -> list[bytes]:
        """What the kernel still has, though the connection broke.

        A failed write is often the first that is seen of a peer which answered
        and hung up; the loop's transports would lose the answer. An end of
        data means nothing here: a reset socket shows one as well.
        """
        rest: list[bytes] = []
        if self._error is not None and not self._peer_finished:
            with contextlib.suppress(OSError):
                while len(rest) < _LAST_READS and (chunk := self._sock.recv(_LAST_READ_SIZE)):
                    rest.append(chunk)
        return rest

    def _hold(self, data: bytes) -> None:
        if self._closing:
            return
        if self._held is None:
            self._held = []
        self._held.append(data)
        self._held_size += len(data)
        # Not in connection_made: uvloop starts reading after it, whatever was said.
        if self._held_size >= HELD_BYTES:
            self._transport.pause_reading()

    def _release(self) -> None:
        """Deliver what was held until ``start``, then go live."""
        if self._closing or self._paused or self._above is None or self._receiver is not None:
            return
        self._receiver = self._above
        held, self._held, self._held_size = self._held, None, 0
        self._deliver(held or [], finished=self._peer_finished)
        if self._lost:
            self._end()
        else:
            self._read_again()

    def _deliver(self, chunks: list[bytes], *, finished: bool = False) -> None:
        try:
            if chunks and self._receiver is not None:
                self._receiver.received([(chunk, None, False) for chunk in chunks])
            if finished and self._receiver is not None:
                self._receiver.finished()
        except Exception as error:  # noqa: BLE001  # as in data_received
            self._break(error)

    def _tell_writable(self) -> None:
        # The last state wins: both may have been called since this was scheduled.
        if self._full == self._told_full or self._receiver is None or self._out is None:
            return
        self._told_full = self._full
        try:
            self._receiver.writable(not self._full)
        except Exception as error:  # noqa: BLE001  # as in data_received
            self._break(error)

    def _break(self, error: Exception) -> None:
        """A layer above raised: end this flow and no other."""
        if not self._aborted:
            self._error = broken_above(error)
        self.abort()

    def _end(self) -> None:
        above, self._above = self._above, None
        self._receiver = None
        if above is not None:
            above.closed(self._error)
