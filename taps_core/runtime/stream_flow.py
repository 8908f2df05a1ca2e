"""A Flow ready-made, for transports whose connections are stream sockets.

::

    class Local(Transport):
        async def connect(self, request):
            sock = socket.socket(socket.AF_UNIX)
            return await StreamFlow.connect(sock, "/run/x.sock", remote=request.remote)

It runs on the event loop's own socket transport, since uvloop compiles those,
and keeps all rules of :mod:`taps_core.model.flow`: the plugin is left with what
is special about its protocol.

How a flow ends:

* ``close`` sends what is gathered and ends this direction, then discards what
  still arrives until the peer has ended the other one. How long to wait for
  that is the Connection's decision: it aborts.
* ``abort`` drops everything, with a reset where the protocol has one.
* At the peer's end of data a write of nothing tells whether the peer still
  reads. Kernels that know (those of unix-domain sockets have no reset, but know
  that) refuse it if the peer has let go of both directions without waiting
  for the end of ours. No ``close`` of ours does that, so it is an abort: half an
  exchange must not look like a whole one.
* After the peer's end of data event loops stop watching a socket for reading,
  so what follows is noticed at the next write.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import Reason, SendError
from taps_core.model.flow import Flow
from taps_core.runtime.push import Push
from taps_core.runtime.stream_reads import begin_reading
from taps_core.runtime.system_errors import (
    connection_failed,
    establishment_failed,
    receiver_failed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.flow import Data, PartTuple, Receiver
    from taps_core.model.messages import MessageContext, SendRecord

__all__ = ["StreamFlow"]

#: What is held for a flow that nobody has started, before it stops reading.
HELD_BYTES: Final = 64 * 1024
#: Where the loop's buffer counts as full. The Connection hears of it a turn later, and by
#: then may have sent 256 KiB more. What waits there long leaves the processor's caches, and
#: has to come back to be written.
HIGH_WATER: Final = 64 * 1024
_NOTHING: Final[list[bytes]] = []
#: So many buffers at the most are written without joining them, if they are as large
#: as that on average: below, a copy is cheaper than a longer list for the kernel.
_FEW: Final = 16
_LARGE: Final = 4096
#: SO_LINGER on, for 0 seconds: close(2) resets, where the protocol can.
_RESET: Final = struct.pack("ii", 1, 0)
#: At most this many reads of this size after a connection broke.
_LAST_READS: Final = 128
_LAST_READ_SIZE: Final = 64 * 1024
#: Seconds between attempts to get into a backlog that is full.
_FIRST_PAUSE: Final = 0.001
_LAST_PAUSE: Final = 0.1


class StreamFlow(Flow, asyncio.Protocol):
    """One connected stream socket.

    Made by :meth:`connect`, or by a :class:`~taps_core.plugin.StreamListener`. A
    subclass may override what its protocol does otherwise: ``apply`` and ``read``
    above all, ``_heed`` for Message Properties, and the steps of an end, ``_shut_down``,
    ``_gone``, ``_settle`` and ``_lose``.

    Args:
        sock: Connected. Belongs to the flow once the loop has it.
        local: What ``local_endpoint`` says.
        remote: What ``remote_endpoint`` says.

    Attributes:
        sock: For options, and for what only the kernel knows.
    """

    __slots__ = (
        "_aborted",
        "_above",
        "_closing",
        "_drained",
        "_error",
        "_full",
        "_held",
        "_held_size",
        "_local",
        "_loop",
        "_lost",
        "_out",
        "_own_writes",
        "_paused",
        "_peer_finished",
        "_push",
        "_receiver",
        "_remote",
        "_told_full",
        "_transport",
        "_write",
        "sock",
    )

    _transport: asyncio.Transport
    _write: Callable[[bytes], None]

    def __init__(
        self,
        sock: socket.socket,
        *,
        local: LocalEndpoint | None = None,
        remote: RemoteEndpoint | None = None,
    ) -> None:
        self.sock = sock
        self._local = local
        self._remote = remote
        self._loop = asyncio.get_running_loop()
        self._push = Push.of(self._loop)
        #: Who was given to ``start`` and has not been told ``closed`` yet.
        self._above: Receiver | None = None
        #: Where data goes at once; None before start, while closing, after the end.
        self._receiver: Receiver | None = None
        #: What ``flush`` will write; None once nothing more can be sent.
        self._out: list[bytes] | None = []
        self._held: list[PartTuple] | None = None
        self._held_size = 0
        self._paused = False
        self._full = False
        self._told_full = False
        self._peer_finished = False
        self._drained = False
        self._closing = False
        self._aborted = False
        self._lost = False
        self._error: Exception | None = None

    @classmethod
    async def connect(
        cls,
        sock: socket.socket,
        address: Any,
        *,
        local: LocalEndpoint | None = None,
        remote: RemoteEndpoint | None = None,
    ) -> Self:
        """Connect a socket, and make a flow of it.

        A backlog that is full is waited for, as long as nobody cancels.

        Args:
            sock: Not connected. Belongs to the flow; closed if there will be none.
            address: As ``socket.connect`` takes it.
            local: What ``local_endpoint`` will say.
            remote: What ``remote_endpoint`` will say, and an error.

        Raises:
            EstablishmentError: It failed, in our words.
        """
        loop = asyncio.get_running_loop()
        try:
            sock.setblocking(False)
            await _connect(loop, sock, address)
            flow = cls(sock, local=local, remote=remote)
            # Not create_connection, which does not take sockets of every family.
            await loop.connect_accepted_socket(lambda: flow, sock)
        except OSError as error:
            sock.close()
            where = address if remote is None else remote
            raise establishment_failed(error, f"connect to {where}") from error
        except BaseException:
            sock.close()
            raise
        return flow

    @property
    def local_endpoint(self) -> LocalEndpoint | None:
        """As given."""
        return self._local

    @property
    def remote_endpoint(self) -> RemoteEndpoint | None:
        """As given."""
        return self._remote

    def begin_with(self, data: bytes, context: MessageContext) -> None:
        """Let what the handshake brought come up before anything that is read.

        Before the loop has the socket.

        Args:
            data: What was read of the socket already, or never was in it.
            context: What is to be said of it.
        """
        self._held = [(data, context, False)]
        self._held_size = len(data)

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
        if record is not None:
            self._heed(record, data)
        if isinstance(data, bytes):
            out.append(data)
        else:
            out.extend(data)

    def _heed(self, record: SendRecord, data: Data) -> None:
        """Do what the Message Properties of a Send ask of the protocol.

        Raises:
            SendError: They cannot be kept. Nothing of ``data`` was taken.
        """

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
                sent = self.sock.sendmsg(buffers)
                if sent == sum(map(len, buffers)):
                    return
        for buffer in buffers:
            if sent < len(buffer):
                self._write(buffer[sent:] if sent else buffer)
                sent = 0
            else:
                sent -= len(buffer)

    def pause(self) -> None:
        """Stop reading: the system's buffers fill, and the peer has to wait."""
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
        """End this direction after everything that was sent."""
        if self._out is not None:
            self.flush()
            self._out = None
            self._end_of_ours()

    def close(self) -> None:
        """Finish, then wait for the peer to do the same."""
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
        """Drop everything, with a reset where the protocol has one."""
        if self._aborted:
            return
        self._aborted = self._closing = True
        self._receiver = self._held = self._out = None
        if self._lost:
            self._loop.call_soon(self._end)
            return
        with contextlib.suppress(OSError):  # BSD refuses when it broke already
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _end_of_ours(self) -> None:
        transport = self._transport
        if transport.is_closing():
            return  # it broke; connection_lost is on its way
        if transport.get_write_buffer_size():
            # resume_writing comes when the last byte has gone to the kernel.
            transport.set_write_buffer_limits(high=0)
        else:
            self._shut_down()

    def _shut_down(self) -> None:
        # Not transport.write_eof(), which may do it later: then it would not be
        # known whether the buffer is empty.
        self._drained = True
        with contextlib.suppress(OSError):  # it broke; reading will tell
            self.sock.shutdown(socket.SHUT_WR)

    def _read_again(self) -> None:
        # Not after the peer's end of data: the loop would see it a second time.
        reading = self._closing or not self._paused
        if reading and not self._peer_finished and not self._lost:
            self._transport.resume_reading()

    def _settle(self) -> None:
        """End in order once both directions have ended."""
        if self._closing and self._drained and self._peer_finished and not self._lost:
            self._transport.close()

    # -- down: properties

    def read(self, property: str, /) -> Any:
        """Sizes of Messages, which a byte stream does not limit, and what is undelivered.

        ``_taps.undelivered`` counts what has not gone to the system's buffers yet.
        """
        if property in ("sendMsgMaxLen", "recvMsgMaxLen"):
            return sys.maxsize
        if property == "_taps.undelivered" and not self._lost:
            return sum(map(len, self._out or ())) + self._transport.get_write_buffer_size()
        return None

    # -- up: called by the event loop, never from inside a downward call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop took the socket."""
        self._transport = transport  # type: ignore[assignment]  # of a stream, as the socket is one
        self._write = self._transport.write
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        # uvloop's gather by themselves.
        self._own_writes = isinstance(self._loop, asyncio.SelectorEventLoop)
        begin_reading(self._loop, self._transport, self)

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
        """The peer's end of data; True keeps our direction open."""
        if self._out is not None and (error := self._gone()):
            # connection_lost tells it, behind what is held.
            self._lose(error)
            self._transport.abort()
            return True
        self._peer_finished = True
        if self._receiver is not None:
            try:
                self._receiver.finished()
            except Exception as error:  # noqa: BLE001  # as in data_received
                self._break(error)
        else:
            self._settle()
        return True

    def _gone(self) -> OSError | None:
        """What a write of nothing gives if the peer has let go of both directions."""
        try:
            self.sock.send(b"")
        except BlockingIOError:
            return None
        except OSError as error:
            return error
        return None

    def pause_writing(self) -> None:
        """The loop's buffer is full. Comes from inside ``flush``: tell later."""
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
        """The end of the socket: in order, by us, or by an error."""
        if exc is not None and not self._aborted and self._error is None:
            self._lose(exc)
        self._lost = True
        self._out = None
        if not self._closing:
            rest = self._read_rest()
            if self._receiver is None:
                # start or resume delivers what is held, and then the end.
                self._held = [*(self._held or ()), *rest]
                return
            self._deliver(rest)
        self._end()

    def _lose(self, error: BaseException) -> None:
        """Note why it ended."""
        peer = "the peer" if self._remote is None else str(self._remote)
        self._error = connection_failed(error, peer)

    def _read_rest(self) -> list[PartTuple]:
        """What the kernel still has, though the connection broke.

        A failed write is often the first that is seen of a peer which answered
        and hung up; the loop's transports would lose the answer. An end of
        data means nothing here: a reset socket shows one as well.
        """
        rest: list[PartTuple] = []
        if self._error is not None and not self._peer_finished:
            with contextlib.suppress(OSError):
                while len(rest) < _LAST_READS and (chunk := self.sock.recv(_LAST_READ_SIZE)):
                    rest.append((chunk, None, False))
        return rest

    def _hold(self, data: bytes) -> None:
        if self._closing:
            return
        if self._held is None:
            self._held = []
        self._held.append((data, None, False))
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

    def _deliver(self, parts: list[PartTuple], *, finished: bool = False) -> None:
        try:
            if parts and self._receiver is not None:
                self._receiver.received(parts)
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
            self._error = receiver_failed(error)
        self.abort()

    def _end(self) -> None:
        above, self._above = self._above, None
        self._receiver = None
        if above is not None:
            above.closed(self._error)


async def _connect(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Any) -> None:
    """Not ``loop.sock_connect``, which takes a backlog that is full for a connection.

    Raises:
        OSError: It failed.
    """
    pause = _FIRST_PAUSE
    while (code := sock.connect_ex(address)) == errno.EAGAIN and _is_local(sock):
        # A listener whose backlog is full; nothing tells when it no longer is.
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LAST_PAUSE)
    if code == errno.EINPROGRESS:
        writable = loop.create_future()
        loop.add_writer(sock.fileno(), _wake, writable)
        try:
            await writable
        finally:
            loop.remove_writer(sock.fileno())
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _is_local(sock: socket.socket) -> bool:
    return sock.family == getattr(socket, "AF_UNIX", None)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
