"""libusrsctp's SCTP: a one-to-one socket of it as an engine."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import DSCP, CapacityProfile, SecurityMode
from taps_sctp import usrsctp
from taps_sctp.engine import Engine
from taps_sctp.options import (
    BUFFER,
    INIT_ATTEMPTS,
    INIT_TIMEOUT,
    MOST_STREAMS,
    PATH_RETRANSMISSIONS,
    RTO,
    STREAMS,
    heartbeat_of,
    retransmissions_of,
    waits_for_company,
)
from taps_sctp.usrsctp import ffi

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from taps_core.plugin import LocalEndpoint, RemoteEndpoint, SecurityParameters
    from taps_sctp.udp_sockets import Peer
    from taps_sctp.userland import Userland

__all__ = ["UserEngine", "configure"]

#: Reads in a row.
_READS: Final = 64
#: Bytes of a read; a longer Message comes in parts.
_READ_SIZE: Final = 64 * 1024
_LINGER_NOT: Final = struct.pack("ii", 1, 0)
#: What a request that has to wait fails with.
_NOT_NOW: Final = frozenset({errno.EALREADY, errno.EBUSY, errno.EINPROGRESS, errno.EAGAIN})

#: Where all of them are read into, one after the other.
_data: Final = ffi.new("char[]", _READ_SIZE)
_info: Final = ffi.new("char[]", usrsctp.RECEIVED_SIZE)
_info_view: Final = ffi.buffer(_info)
_info_size: Final = ffi.new("uint32_t *")
_info_kind: Final = ffi.new("unsigned int *")
_no_address: Final = ffi.new("uint32_t *", 0)
_flags: Final = ffi.new("int *")


def configure(
    land: Userland, so: Any, properties: Mapping[str, Any], security: SecurityParameters
) -> None:
    """Set what differs from the library's defaults; accepted sockets inherit all of it.

    Args:
        land: The library.
        so: Its socket.
        properties: By canonical name.
        security: Unless it is disabled, a layer may have keys to authenticate packets by.

    Raises:
        OSError: It refused something.
    """
    library = land.library
    size = struct.pack("i", BUFFER)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        usrsctp.checked(library.usrsctp_setsockopt(so, socket.SOL_SOCKET, option, size, len(size)))
    first, longest, shortest = RTO
    for number, value in (
        (usrsctp.INITMSG, struct.pack("=HHHH", STREAMS, MOST_STREAMS, INIT_ATTEMPTS, INIT_TIMEOUT)),
        (usrsctp.RTOINFO, struct.pack("=IIII", 0, first, longest, shortest)),
        (
            usrsctp.PEER_ADDR_PARAMS,
            usrsctp.heartbeats(heartbeat_of(properties), PATH_RETRANSMISSIONS),
        ),
        (usrsctp.ASSOCINFO, usrsctp.retransmissions(retransmissions_of(properties))),
        (usrsctp.RECVRCVINFO, struct.pack("i", 1)),
        *((usrsctp.EVENT, struct.pack("=IHBx", 0, event, 1)) for event in usrsctp.EVENTS),
    ):
        usrsctp.set_option(library, so, number, value)
    for number, flags in (
        (usrsctp.PR_SUPPORTED, 1),
        (usrsctp.RECONFIG_SUPPORTED, 1),
        (usrsctp.ENABLE_STREAM_RESET, 7),
    ):
        usrsctp.set_value(library, so, number, flags)
    if security.mode is not SecurityMode.DISABLED:
        usrsctp.authenticate(library, so)
    _set_capacity_profile(land, so, properties.get("connCapacityProfile", CapacityProfile.DEFAULT))


def _set_capacity_profile(land: Userland, so: Any, profile: CapacityProfile) -> None:
    usrsctp.set_option(
        land.library, so, usrsctp.PEER_ADDR_PARAMS, usrsctp.dscp(DSCP[profile][0] << 2)
    )
    nodelay = struct.pack("i", not waits_for_company(profile))
    usrsctp.set_option(land.library, so, usrsctp.NODELAY, nodelay)


class UserEngine(Engine):
    """An association of libusrsctp's.

    Args:
        land: The library.
        so: Its socket: configured, and connected or about to be.
        peer: Where its packets go; told when the association is over.
        local: This end.
        remote: The other end.
    """

    def __init__(
        self,
        land: Userland,
        so: Any,
        peer: Peer,
        local: LocalEndpoint,
        remote: RemoteEndpoint,
    ) -> None:
        self._land = land
        self._library = land.library
        self._so = so
        self._peer = peer
        peer.engines.add(self)
        self.local_endpoint = local
        self.remote_endpoint = remote
        self._reads = False
        self._wants_room = False
        self._keys = 0
        self._leaving = False
        self._over = False
        self._connecting: asyncio.Future[None] | None = None
        self._number = land.watch(so, self, timed=True)

    # -- before it is up

    async def connect(self, address: bytes) -> None:
        """Shake hands with whom the token in ``address`` stands for.

        Raises:
            OSError: It failed; nothing is left. Likewise if it is cancelled.
        """
        assert self._land.loop is not None
        self._connecting = self._land.loop.create_future()
        try:
            self._land.touch()
            code = self._library.usrsctp_connect(self._so, ffi.from_buffer(address), len(address))
            if code < 0 and ffi.errno != errno.EINPROGRESS:
                raise usrsctp.failure()
            await self._connecting
        except BaseException:
            self.abort()
            raise
        finally:
            self._connecting = None

    def refused(self, error: OSError) -> None:
        """The network said that the peer's UDP port, or host, cannot be reached."""
        if self._connecting is not None:
            self._connected(error)
        elif self._leaving and not self.read("_taps.undelivered"):
            # All has arrived, and the peer has gone before it could say goodbye.
            self._end(None)

    def _connected(self, error: OSError | None) -> None:
        connecting = self._connecting
        if connecting is not None and not connecting.done():
            if error is None:
                connecting.set_result(None)
            else:
                connecting.set_exception(error)

    # -- up

    def start(self) -> None:
        """Read from now on."""
        self.hold(False)

    def hold(self, on: bool) -> None:
        """Leave what comes to the library, whose window then closes, or read again."""
        if self._over or self._reads is not on:
            return
        self._reads = not on
        if not on:
            self._soon()

    def _soon(self) -> None:
        assert self._land.loop is not None
        self._land.loop.call_soon(self.woken)

    def woken(self) -> None:
        """Read, and send what waits for room."""
        if self._is_reading():
            self._read()
        if self._wants_room and not self._over:
            self._wants_room = False
            self.user.has_room()

    def _read(self) -> None:
        read = self._library.usrsctp_recvv
        so = self._so
        for _ in range(_READS):
            _info_size[0] = usrsctp.RECEIVED_SIZE
            _flags[0] = 0
            length = read(
                so, _data, _READ_SIZE, ffi.NULL, _no_address, _info, _info_size, _info_kind, _flags
            )
            if length < 0:
                if ffi.errno != errno.EAGAIN:
                    self._end(usrsctp.failure())
                return
            flags = _flags[0]
            data = ffi.buffer(_data, length)[:]
            if flags & usrsctp.NOTIFICATION:
                self._notified(data)
            elif not length:
                # Of an end in order a notification tells.
                if not self._leaving:
                    self._end(OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
                return
            else:
                stream, ppid, unordered = usrsctp.received_info(_info_view)
                self.user.arrived(data, stream, ppid, unordered, bool(flags & usrsctp.WHOLE))
            # Whatever came up may have called down.
            if not self._is_reading():
                return
        # Others come in between.
        self._soon()

    def _is_reading(self) -> bool:
        return (self._reads or self._connecting is not None) and not self._over

    def _notified(self, data: bytes) -> None:
        kind = usrsctp.kind_of(data)
        if kind == usrsctp.ASSOC_CHANGE:
            self._changed(*usrsctp.association_change(data))
        elif kind == usrsctp.PEER_SHUTDOWN:
            self._leaving = True
            self.user.said_goodbye()
        else:
            notice = usrsctp.notice_of(data)
            if notice is not None:
                self.user.noticed(notice)

    def _changed(self, state: int, abort: bytes) -> None:
        if state == usrsctp.ASSOC_UP:
            self._connected(None)
            self._connecting = None
        elif state == usrsctp.ASSOC_OVER:
            self._end(None)
        elif state in (usrsctp.ASSOC_LOST, usrsctp.ASSOC_NEVER):
            # An ABORT comes with it, if that is why.
            code = errno.ECONNRESET if abort else errno.ETIMEDOUT
            if state == usrsctp.ASSOC_NEVER and abort:
                code = errno.ECONNREFUSED
            self._end(OSError(code, os.strerror(code)))

    def _end(self, error: OSError | None) -> None:
        if self._over:
            return
        if self._connecting is not None:
            # Whoever waits for it frees it.
            self._connected(error or OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED)))
            return
        self._release()
        self.user.ended(error)

    def _release(self) -> None:
        self._over = True
        self._land.close(self._so, self._number)
        self._peer.left(self)

    def abandon(self) -> None:
        """The loop is closed."""
        self.abort()

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
        """``struct sctp_sendv_spa``."""
        return usrsctp.send_info(
            stream,
            ppid=ppid,
            unordered=unordered,
            lifetime=lifetime,
            reliable=reliable,
            number=number,
        )

    def send(self, data: bytes, label: Any) -> bool:
        """One call; the library takes all of it or nothing."""
        self._land.touch()
        sent = self._library.usrsctp_sendv(
            self._so,
            data,
            len(data),
            ffi.NULL,
            0,
            label,
            usrsctp.SEND_INFO_SIZE,
            usrsctp.SEND_ALL,
            0,
        )
        if sent < 0:
            if ffi.errno == errno.EAGAIN:
                self._wants_room = True
                return False
            raise usrsctp.failure()
        return True

    def shutdown(self) -> None:
        """SHUTDOWN when everything is delivered; a notification tells when that is over."""
        if self._over:
            return
        self._land.touch()
        # Refused: it is gone, and reading says why.
        self._library.usrsctp_shutdown(self._so, socket.SHUT_WR)
        self._leaving = True
        self.hold(False)

    def abort(self, reason: bytes = b"") -> None:
        """ABORT."""
        if self._over:
            return
        self._library.usrsctp_setsockopt(
            self._so, socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT, len(_LINGER_NOT)
        )
        self._release()

    # -- keys, and what has arrived

    def install_key(self, key: bytes) -> bool:
        """SCTP_AUTH_KEY; numbers count up from that of the empty key, 0."""
        if not usrsctp.get_value(self._library, self._so, usrsctp.AUTH_SUPPORTED):
            return False
        usrsctp.install_key(self._library, self._so, self._keys + 1, key)
        self._keys += 1
        return True

    def use_key(self) -> None:
        """SCTP_AUTH_ACTIVE_KEY."""
        usrsctp.use_key(self._library, self._so, self._keys)

    def hurried(self, label: Any) -> Any:
        """With the I bit."""
        return usrsctp.hurried(label)

    def is_dry(self) -> bool:
        """Whether the library holds nothing that was sent."""
        return not self.read("_taps.undelivered")

    # -- streams

    def streams(self) -> tuple[int, int]:
        """As negotiated, and what was added."""
        _, _, inbound, outbound, _ = usrsctp.status(self._library, self._so)
        return inbound, outbound

    def reset_streams(self, streams: Sequence[int], *, incoming: bool = False) -> None:
        """SCTP_RESET_STREAMS."""
        self._request(usrsctp.RESET_STREAMS, usrsctp.stream_list(streams, incoming=incoming))

    def add_streams(self, number: int) -> None:
        """SCTP_ADD_STREAMS."""
        self._request(usrsctp.ADD_STREAMS, struct.pack("=IHH", 0, number, number))

    def _request(self, option: int, value: bytes) -> None:
        self._land.touch()
        try:
            usrsctp.set_option(self._library, self._so, option, value)
        except OSError as error:
            if error.errno in _NOT_NOW:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            raise

    @property
    def can_reset(self) -> bool:
        """Whether the peer has said so."""
        return bool(usrsctp.get_value(self._library, self._so, usrsctp.RECONFIG_SUPPORTED))

    @property
    def can_give_up(self) -> bool:
        """Whether the peer has said so."""
        return bool(usrsctp.get_value(self._library, self._so, usrsctp.PR_SUPPORTED))

    @property
    def most(self) -> int:
        """The send buffer: the library takes a Message whole."""
        return BUFFER

    # -- properties

    def read(self, property: str) -> Any:
        """What the library tells."""
        if self._over:
            return None
        if property == "sendMsgMaxLen":
            return BUFFER
        if property in ("singularTransmissionMsgMaxLen", "_taps.undelivered"):
            with contextlib.suppress(OSError):
                unacked, pending, _, _, fragment = usrsctp.status(self._library, self._so)
                # Of chunks nobody knows the bytes: one that is not delivered is enough.
                return unacked + pending if property == "_taps.undelivered" else fragment
        return None

    def apply(self, property: str, value: Any) -> bool:
        """Let the library have it."""
        if self._over:
            return False
        if property == "connCapacityProfile":
            _set_capacity_profile(self._land, self._so, value)
            return True
        if property == "keepAliveTimeout":
            beats = usrsctp.heartbeats(heartbeat_of({property: value}), PATH_RETRANSMISSIONS)
            usrsctp.set_option(self._library, self._so, usrsctp.PEER_ADDR_PARAMS, beats)
            return True
        if property == "connTimeout":
            number = usrsctp.retransmissions(retransmissions_of({property: value}))
            usrsctp.set_option(self._library, self._so, usrsctp.ASSOCINFO, number)
            return True
        return False
