"""One TCP connection as a Flow: what TCP adds to a stream socket.

That is options, the kernel's account of unacknowledged bytes, and an end that
vouches for delivery:

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

import contextlib
import math
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from taps_core.plugin import (
    PropertyError,
    Reason,
    SendError,
    StreamFlow,
    show_address,
    socket_local_endpoint,
    socket_remote_endpoint,
)
from taps_tcp.delivery import failure, unacknowledged
from taps_tcp.errors import connection_error
from taps_tcp.info import TCPInfo, tcp_info
from taps_tcp.multipath import DISABLED, MultipathInfo
from taps_tcp.options import (
    DISABLED_EXPLICITLY,
    MULTIPATH_IN_USE,
    SETTERS,
    read,
    set_whole_packets,
    uses_nagle,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from taps_core.plugin import Data, LocalEndpoint, RemoteEndpoint, SendRecord

__all__ = ["TCPFlow"]

T = TypeVar("T")

#: How often the kernel is asked whether everything is acknowledged, in seconds.
FIRST_POLL: Final = 0.001
LAST_POLL: Final = 0.25


class TCPFlow(StreamFlow):
    """One established TCP connection."""

    __slots__ = ("_address", "_fin_sent", "_poll", "_poll_delay", "_properties", "_single")

    def __init__(
        self,
        sock: socket.socket,
        properties: Mapping[str, Any],
        *,
        remote: RemoteEndpoint | None = None,
        address: Any = None,
        single: str = DISABLED,
    ) -> None:
        """A protocol for the loop to give the socket to.

        Args:
            sock: Connected. Belongs to the flow once the loop has it.
            properties: By canonical name; ``configure`` has set their options.
            remote: What the application named, on the connecting side.
            address: The address tuple that ``accept`` gave, on the other.
            single: Why there is one path.
        """
        super().__init__(sock, remote=remote)
        self._single = single
        self._properties = properties
        self._address = address
        self._fin_sent = False
        self._poll: asyncio.TimerHandle | None = None
        self._poll_delay = FIRST_POLL

    @property
    def local_endpoint(self) -> LocalEndpoint | None:
        """Address and port of this end."""
        if self._local is None:
            # None if it broke before the loop could ask.
            address = self._transport.get_extra_info("sockname")
            self._local = socket_local_endpoint(address) if address else None
        return self._local

    @property
    def remote_endpoint(self) -> RemoteEndpoint:
        """What was asked for, or where the connection came from."""
        if self._remote is None:
            address = self._address or self._transport.get_extra_info("peername")
            self._remote = socket_remote_endpoint(address)
        return self._remote

    # -- what Messages ask for

    def _heed(self, record: SendRecord, data: Data) -> None:
        """Keep packets whole, and refuse what does not fit into a segment.

        The segments of a connection hold pieces of any Message, so what one of them asks
        for holds for all that is sent from then on.
        """
        wanted = record.properties
        single = wanted.get("noSegmentation")
        if not single and not wanted.get("noFragmentation"):
            return
        if not self._properties.get("noFragmentation") and set_whole_packets(self.sock):
            self._properties = {**self._properties, "noFragmentation": True}
        # Whoever sends has flushed before: what is gathered is a piece of this Message, which
        # a framer cannot take back.
        limit = self.read("singularTransmissionMsgMaxLen") if single and not self._out else None
        if limit is not None:
            length = len(data) if isinstance(data, bytes) else sum(map(len, data))
            if length > limit:
                raise SendError(
                    f"{length} bytes do not fit into a segment of {limit}",
                    reason=Reason.MESSAGE_TOO_LARGE,
                )

    # -- the end

    def _shut_down(self) -> None:
        # Whether the FIN is out decides what one unacknowledged unit means.
        self._drained = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it broke; reading or the poll will tell
        self._fin_sent = True

    def _gone(self) -> None:
        """TCP has a reset for that."""

    def _settle(self) -> None:
        """End in order once the peer has finished and everything is acknowledged."""
        if not (self._closing and self._drained and self._peer_finished) or self._lost:
            return  # a FIN, an empty buffer or a failure brings us back here
        if not unacknowledged(self.sock):
            self._transport.close()
            return
        if error := failure(self.sock):
            self._lose(error)
            self._transport.abort()
            return
        self._poll = self._loop.call_later(self._poll_delay, self._settle)
        self._poll_delay = min(2 * self._poll_delay, LAST_POLL)

    def _acknowledged(self) -> bool:
        """Whether the peer has every byte; asked when the connection is over."""
        rest = unacknowledged(self.sock)
        return self._drained and (not rest or (rest == 1 and self._fin_sent))

    def _lose(self, error: BaseException) -> None:
        """Note why it ended, unless everything had been delivered."""
        if self._closing and self._acknowledged():
            return
        remote = self.remote_endpoint
        self._error = connection_error(error, show_address(remote.ip_address, remote.port))

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of the transport: in order, by us, or by an error."""
        if self._poll is not None:
            self._poll.cancel()
        super().connection_lost(exc)

    # -- properties

    def apply(self, property: str, value: Any, /) -> bool:
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
            effect = setter(self.sock, properties)
        except OSError as error:
            raise PropertyError(f"{property}: the system refused {value!r}: {error}") from error
        self._properties = properties
        return effect

    def read(self, property: str, /) -> Any:
        """What is in force, asked of the kernel where it knows.

        Beyond Connection Properties: ``_taps.retransmissions`` (segments),
        ``_taps.multipathInUse`` and ``_taps.undelivered`` (bytes sent and not acknowledged).
        """
        if property in ("sendMsgMaxLen", "recvMsgMaxLen"):
            return sys.maxsize  # a byte stream has no limit of its own
        if self._lost:
            return None
        if property == "_taps.undelivered":
            return self._undelivered()
        if property == "_taps.retransmissions":
            info = tcp_info(self.sock)
            return None if info is None else info.retransmissions
        if property == MULTIPATH_IN_USE:
            return self._multipath().in_use
        return read(self.sock, self._properties, property)

    def _undelivered(self) -> int | None:
        in_kernel = unacknowledged(self.sock)
        if in_kernel is None:
            return None
        gathered = sum(map(len, self._out or ()))
        rest = in_kernel - self._fin_sent if in_kernel else 0
        return gathered + self._transport.get_write_buffer_size() + rest

    def find(self, wanted: type[T], /) -> T | None:
        """The flow itself, or a fresh :class:`TCPInfo` or :class:`MultipathInfo`."""
        if wanted is TCPInfo:
            return None if self._lost else cast("T | None", tcp_info(self.sock))
        if wanted is MultipathInfo:
            return None if self._lost else cast("T", self._multipath())
        return super().find(wanted)

    def _multipath(self) -> MultipathInfo:
        return MultipathInfo(False, self._single, ())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop took the socket."""
        super().connection_made(transport)
        if self._own_writes and self._transport.get_extra_info("peername"):
            self._address = None  # asyncio's have asked too, and keep it
        if uses_nagle(self._properties):
            # Both loops have just switched Nagle's algorithm off.
            with contextlib.suppress(OSError):  # BSD refuses when it broke already
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
