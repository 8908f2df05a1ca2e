"""The kernel's SCTP: a one-to-one socket as an engine."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from taps_core.plugin import (
    MultipathPolicy,
    PropertyError,
    socket_local_endpoint,
    socket_remote_endpoint,
)
from taps_sctp import addresses, linux
from taps_sctp.addresses import Paths, names_many, uses_many
from taps_sctp.engine import Dry, Engine, PathNews
from taps_sctp.options import (
    PATH_RETRANSMISSIONS,
    PRIMARY_PATH,
    allow_changes,
    heartbeat_of,
    retransmissions_of,
    set_capacity_profile,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from taps_core.plugin import LocalEndpoint, RemoteEndpoint

__all__ = ["KernelEngine"]

T = TypeVar("T")

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
        properties: As it was configured with.
        remotes: The other end, under the names that it was asked for by; empty: it asked.

    Raises:
        OSError: The association is gone again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        properties: Mapping[str, Any],
        remotes: Sequence[RemoteEndpoint] = (),
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self.local_endpoint = socket_local_endpoint(sock.getsockname())
        self._uses_many = uses_many(properties)
        self._names_many = names_many(properties)
        if self._uses_many:
            self.remote_endpoint = self._whom_it_reached(remotes)
            if not remotes:
                # Accepted: of these it inherits nothing.
                allow_changes(sock)
                if self._names_many:
                    addresses.follow_system(sock)
            if properties.get(PRIMARY_PATH):
                # It may not be one of the peer's: reading tells.
                with contextlib.suppress(OSError):
                    linux.set_primary_address(sock, properties[PRIMARY_PATH])
        else:
            self.remote_endpoint = (
                remotes[0] if remotes else socket_remote_endpoint(sock.getpeername())
            )
            self._set_heartbeats(heartbeat_of(properties))
        self._most = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._reads = False
        self._wants_room = False
        self._leaving = False
        #: Why it is over, as a notification has said.
        self._lost: OSError | None = None
        self._over = False
        #: The last number that was given out, the last one before everything was read, and
        #: whether it is to be asked again when that is so.
        self._last = self._known = 0
        self._asks = False
        self._reset: bool | None = None
        self._keys = 0

    def _whom_it_reached(self, remotes: Sequence[RemoteEndpoint]) -> RemoteEndpoint:
        # With several the kernel names the last one as the peer.
        peer = None if remotes else socket_remote_endpoint(self._sock.getpeername())
        try:
            reached = linux.primary_address(self._sock)
        except OSError:  # over already
            return peer or remotes[0]
        for remote in remotes:
            if remote.ip_address == reached:
                return remote
        return (peer or remotes[0]).with_ip_address(reached)

    def _set_heartbeats(self, milliseconds: int) -> None:
        # An association may be over, even when it is accepted; what it brought can be read.
        with contextlib.suppress(OSError):
            only = None if self._uses_many else linux.primary_address(self._sock)
            linux.set_heartbeats(self._sock, milliseconds, PATH_RETRANSMISSIONS, only)

    def _set_retransmissions(self, number: int) -> None:
        try:
            linux.set_retransmissions(self._sock, number)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            paths = len(addresses.peer_addresses(self._sock))
            linux.set_retransmissions(self._sock, min(number, paths * PATH_RETRANSMISSIONS))

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
                if self._known != self._last:
                    self._caught_up()
                if self._lost is not None:
                    self._end(self._lost)
                return
            except OSError as error:
                self._end(error)
                return
            if flags & linux.NOTIFICATION:
                self._notified(data)
            elif not data and not flags & linux.WHOLE:
                # The end of what the peer sends; that all is over is told beside it.
                if self._leaving or self._lost is not None:
                    self._end(self._lost)
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
        # There may be more, and uvloop tells of a socket that is in error only once.
        self._loop.call_soon(self._readable)

    def _is_reading(self) -> bool:
        return self._reads and not self._over

    def _notified(self, data: bytes) -> None:
        kind = linux.kind_of(data)
        if kind == linux.ASSOC_CHANGE:
            state, cause, words = linux.association_change(data)
            if state == linux.ASSOC_OVER:
                self._end(None)
            elif state in linux.ASSOC_LOST:
                # The socket says so next, unless it has said so to a Send already.
                code = errno.ECONNRESET if cause else errno.ETIMEDOUT
                self._lost = OSError(code, os.strerror(code))
                self.words = words.decode(errors="replace")
        elif kind == linux.PEER_SHUTDOWN:
            self._leaving = True
            self.user.said_goodbye()
        else:
            notice = linux.notice_of(data)
            if isinstance(notice, Dry):
                notice = Dry(self._known)
                self._asks = self._known != self._last
            elif isinstance(notice, PathNews) and notice.state == "removed":
                self._forget(notice.address)
            if notice is not None:
                self.user.noticed(notice)

    def _caught_up(self) -> None:
        """What comes from now on has happened later than what was sent until now."""
        self._known = self._last
        if self._asks:
            self._asks = False
            self.tell_when_dry()

    def _forget(self, address: str) -> None:
        """The peer has this address no more; it may be the one that it is known by."""
        if self.remote_endpoint.ip_address == address:
            # Gone already: reading says so.
            with contextlib.suppress(OSError):
                left = linux.primary_address(self._sock)
                self.remote_endpoint = self.remote_endpoint.with_ip_address(left)

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
        if number:
            self._last = number
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

    def tell_when_dry(self) -> None:
        """SCTP_SENDER_DRY_EVENT."""
        # An error: it is gone, and reading says why.
        with contextlib.suppress(OSError):
            linux.subscribe(self._sock, linux.SENDER_DRY)

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

    def prioritize(self, stream: int, priority: int) -> None:
        """SCTP_STREAM_SCHEDULER_VALUE."""
        if not self._over:
            value = struct.pack("=iHH", 0, stream, min(priority, 0xFFFF))
            self._sock.setsockopt(linux.IPPROTO_SCTP, linux.STREAM_SCHEDULER_VALUE, value)

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

    # -- addresses

    def change_endpoints(
        self, verb: str, local: Sequence[LocalEndpoint], remote: Sequence[RemoteEndpoint]
    ) -> bool:
        """ASCONF for this end's addresses; the peer's are for the peer to say."""
        if self._over or not self._uses_many:
            return False
        if remote:
            known = addresses.peer_addresses(self._sock)
            for each in remote:
                if (each.ip_address in known) is not (verb == "add"):
                    raise PropertyError(
                        f"cannot {verb} {each}: which addresses an SCTP peer has is for it to say"
                    )
        if local:
            self._change_local(verb, local)
        return True

    def _change_local(self, verb: str, local: Sequence[LocalEndpoint]) -> None:
        here = self.local_endpoint
        for each in local:
            if each.ip_address is None or each.port not in (None, 0, here.port):
                raise PropertyError(
                    f"{each}: an association takes IP addresses, and has one port, {here.port}"
                )
        known = addresses.local_addresses(self._sock)
        changing = [
            each.ip_address
            for each in local
            if each.ip_address is not None and (each.ip_address in known) is (verb == "remove")
        ]
        if not changing:
            return
        if not self._names_many:
            raise PropertyError("advertisesAltaddr is False: the peer is told of no addresses")
        if not linux.get_value(self._sock, linux.ASCONF_SUPPORTED):
            raise PropertyError("the peer lets no addresses be added or removed (RFC 5061)")
        if verb == "add":
            addresses.add_addresses(self._sock, changing)
            return
        addresses.remove_addresses(self._sock, changing)
        if here.ip_address in changing:
            left = next(each for each in known if each not in changing)
            self.local_endpoint = here.with_ip_address(left)

    def find(self, wanted: type[T]) -> T | None:
        """A fresh :class:`Paths`."""
        if wanted is Paths and not self._over:
            with contextlib.suppress(OSError):
                return cast("T", addresses.paths(self._sock))
        return None

    # -- properties

    def read(self, property: str) -> Any:
        """What the kernel tells."""
        if self._over:
            return None
        if property == "sendMsgMaxLen":
            return self._most
        if property == "multipathPolicy" and self._uses_many:
            return MultipathPolicy.HANDOVER
        with contextlib.suppress(OSError):  # over, and nobody has read so yet
            if property == "singularTransmissionMsgMaxLen":
                return linux.status(self._sock)[4]
            if property == PRIMARY_PATH:
                return linux.primary_address(self._sock)
            if property == "_taps.undelivered":
                # Chunks, of which nobody knows the bytes: one that is not delivered is enough.
                unacked, pending, *_ = linux.status(self._sock)
                return unacked + pending
        return None

    def apply(self, property: str, value: Any) -> bool:
        """Let the kernel have it."""
        if self._over:
            return False
        if property == "connCapacityProfile":
            set_capacity_profile(self._sock, value)
            return True
        if property == "connScheduler":
            # Of the others, Messages wait their turn before the kernel has them.
            scheduler = linux.SCHEDULERS.get(value, linux.FIRST_COME)
            linux.set_value(self._sock, linux.STREAM_SCHEDULER, scheduler)
            return value in linux.SCHEDULERS
        if property == "keepAliveTimeout":
            self._set_heartbeats(heartbeat_of({property: value}))
            return True
        if property == "connTimeout":
            self._set_retransmissions(retransmissions_of({property: value}))
            return True
        if property == "multipathPolicy" and self._uses_many:
            if value is not MultipathPolicy.HANDOVER:
                raise PropertyError(
                    f"multipathPolicy {value}: SCTP uses one path at a time, which is Handover"
                )
            return True
        if property == PRIMARY_PATH and self._uses_many:
            try:
                linux.set_primary_address(self._sock, value)
            except OSError as error:
                known = ", ".join(addresses.peer_addresses(self._sock))
                raise PropertyError(f"{property}: {value!r} is none of {known}") from error
            return True
        return False
