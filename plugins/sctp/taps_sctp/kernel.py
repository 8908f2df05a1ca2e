"""The kernel's SCTP: a one-to-one socket as an engine."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import socket_local_endpoint, socket_remote_endpoint
from taps_sctp import linux
from taps_sctp.engine import Engine
from taps_sctp.options import PATH_RETRANSMISSIONS, heartbeat_of, set_capacity_profile

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from taps_core.plugin import RemoteEndpoint

__all__ = ["KernelEngine"]

#: Reads in one turn of the loop.
_READS: Final = 64
#: Bytes of a read; a longer Message comes in parts.
_READ_SIZE: Final = 64 * 1024
_ANCILLARY: Final = 256
#: What a socket has in memory (Linux 4.12), and of that, what was sent.
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")
_WMEM_QUEUED: Final = 5
_LINGER_NOT: Final = struct.pack("ii", 1, 0)


class KernelEngine(Engine):
    """An association of the kernel's.

    Args:
        loop: Where it runs.
        sock: Connected, non-blocking, configured (:mod:`taps_sctp.options`).
        remote: The other end, under the name that it was asked for by.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        remote: RemoteEndpoint | None = None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self.local_endpoint = socket_local_endpoint(sock.getsockname())
        self.remote_endpoint = remote or socket_remote_endpoint(sock.getpeername())
        self._most = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._reads = False
        self._wants_room = False
        self._leaving = False
        self._over = False
        self._reset: bool | None = None
        self._keys = 0

    # -- up

    def start(self) -> None:
        """Read from now on."""
        self.hold(False)

    def hold(self, on: bool) -> None:
        """Leave what comes to the kernel, whose window then closes, or read again."""
        if self._over or self._reads is not on:
            return
        self._reads = not on
        if on:
            self._loop.remove_reader(self._fd)
        else:
            self._loop.add_reader(self._fd, self._readable)
            # uvloop does not tell of an error that was there before it watched.
            self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        if not self._is_reading():
            return
        read = self._sock.recvmsg
        user = self.user
        for _ in range(_READS):
            try:
                data, ancillary, flags, _ = read(_READ_SIZE, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(error)
                return
            if flags & linux.NOTIFICATION:
                self._notified(data)
            elif not data and not flags & linux.WHOLE:
                # The end of what the peer sends; that all is over is told beside it.
                if self._leaving:
                    self._end(None)
                else:
                    self.hold(True)
                    user.said_goodbye()
                return
            else:
                stream, ppid, unordered = linux.received_info(ancillary)
                user.arrived(data, stream, ppid, unordered, bool(flags & linux.WHOLE))
            # Whatever came up may have called down.
            if not self._is_reading():
                return

    def _is_reading(self) -> bool:
        return self._reads and not self._over

    def _notified(self, data: bytes) -> None:
        kind = linux.kind_of(data)
        if kind == linux.ASSOC_CHANGE:
            state, _, _ = linux.association_change(data)
            if state == linux.ASSOC_OVER:
                self._end(None)
            # Of one that is lost the socket says more: ECONNRESET or ETIMEDOUT comes next.
        elif kind == linux.PEER_SHUTDOWN:
            self._leaving = True
            self.user.said_goodbye()
        else:
            notice = linux.notice_of(data)
            if notice is not None:
                self.user.noticed(notice)

    def _end(self, error: OSError | None) -> None:
        if not self._over:
            self._release()
            self.user.ended(error)

    def _release(self) -> None:
        self._over = True
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1
            self._sock.close()

    # -- down

    def label(
        self,
        stream: int,
        *,
        ppid: int = 0,
        unordered: bool = False,
        lifetime: float | None = None,
        reliable: bool = True,
        number: int = 0,
    ) -> Any:
        """Ancillary data."""
        item = linux.send_item(stream, unordered=unordered, ppid=ppid, number=number)
        policy = linux.pr_item(lifetime=lifetime, reliable=reliable)
        return [item] if policy is None else [item, policy]

    def hurried(self, label: Any) -> Any:
        """With the I bit."""
        first, *others = label
        return [linux.hurried(first), *others]

    def send(self, data: bytes, label: Any) -> bool:
        """One call; the kernel takes all of it or nothing."""
        try:
            self._sock.sendmsg((data,), label)
        except BlockingIOError:
            if not self._wants_room:
                self._wants_room = True
                self._loop.add_writer(self._fd, self._writable)
            return False
        return True

    def _writable(self) -> None:
        self._wants_room = False
        self._loop.remove_writer(self._fd)
        self.user.has_room()

    def shutdown(self) -> None:
        """SHUTDOWN when everything is delivered; a notification tells when that is over."""
        if self._over:
            return
        # An error: it is gone, and reading says why.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._leaving = True
        self.hold(False)

    def abort(self, reason: bytes = b"") -> None:
        """ABORT, which on such a socket carries no reason."""
        if not self._over:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._release()

    # -- streams

    def streams(self) -> tuple[int, int]:
        """As negotiated, and what was added."""
        _, _, inbound, outbound, _ = linux.status(self._sock)
        return inbound, outbound

    def reset_streams(self, streams: Sequence[int], *, incoming: bool = False) -> None:
        """SCTP_RESET_STREAMS."""
        self._request(linux.RESET_STREAMS, linux.stream_list(streams, incoming=incoming))

    def add_streams(self, number: int) -> None:
        """SCTP_ADD_STREAMS."""
        self._request(linux.ADD_STREAMS, struct.pack("=iHH", 0, number, number))

    def _request(self, option: int, value: bytes) -> None:
        try:
            self._sock.setsockopt(linux.IPPROTO_SCTP, option, value)
        except OSError as error:
            if error.errno == errno.EINPROGRESS:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            raise

    @property
    def can_reset(self) -> bool:
        """Asked once: it does not change."""
        if self._reset is None:
            self._reset = bool(linux.get_value(self._sock, linux.RECONFIG_SUPPORTED))
        return self._reset

    @property
    def can_give_up(self) -> bool:
        """Whether PR-SCTP was negotiated."""
        return bool(linux.get_value(self._sock, linux.PR_SUPPORTED))

    @property
    def most(self) -> int:
        """The send buffer: the kernel takes a Message whole."""
        return self._most

    def is_dry(self) -> bool:
        """Whether the kernel holds nothing that was sent: until it is acknowledged it does."""
        if self._over:
            return True
        counted = self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return not _MEMINFO.unpack(counted)[_WMEM_QUEUED]

    # -- keys

    def install_key(self, key: bytes) -> bool:
        """SCTP_AUTH_KEY; numbers count up from that of the empty key, 0."""
        try:
            # What is accepted does not inherit that it is supported.
            linux.set_value(self._sock, linux.AUTH_SUPPORTED, 1)
            linux.install_key(self._sock, self._keys + 1, key)
        except OSError as error:
            if error.errno == errno.EACCES:
                return False
            raise
        self._keys += 1
        return True

    def use_key(self) -> None:
        """SCTP_AUTH_ACTIVE_KEY."""
        linux.use_key(self._sock, self._keys)

    # -- properties

    def read(self, property: str) -> Any:  # noqa: A002  # RFC 9622's word
        """What the kernel tells."""
        if self._over:
            return None
        if property == "sendMsgMaxLen":
            return self._most
        if property == "singularTransmissionMsgMaxLen":
            return linux.status(self._sock)[4]
        if property == "_taps.undelivered":
            # Chunks, of which nobody knows the bytes: one that is not delivered is enough.
            unacked, pending, *_ = linux.status(self._sock)
            return unacked + pending
        return None

    def apply(self, property: str, value: Any) -> bool:  # noqa: A002  # likewise
        """Let the kernel have it."""
        if self._over:
            return False
        if property == "connCapacityProfile":
            set_capacity_profile(self._sock, value)
            return True
        if property == "keepAliveTimeout":
            beats = linux.heartbeats(heartbeat_of({property: value}), PATH_RETRANSMISSIONS)
            self._sock.setsockopt(linux.IPPROTO_SCTP, linux.PEER_ADDR_PARAMS, beats)
            return True
        return False
