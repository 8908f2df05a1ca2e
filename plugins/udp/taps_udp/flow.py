"""A pair of addresses that send each other datagrams, as a Flow.

Nothing is established and nothing ends on the wire: closing is known to this
side alone. So a flow ends when it is closed or aborted, or when a layer above it
fails; no error of the network ends it. Those come up as SoftErrors.
"""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    CapacityProfile,
    ConnectionError,
    Flow,
    Preference,
    PropertyError,
    Push,
    Reason,
    receiver_failed,
)
from taps_udp.errors import nothing_more, too_long
from taps_udp.lite import UDPLITE, coverage_item, least_coverage, may_be_partial
from taps_udp.options import LINUX, MOST, RECEIVE_ECN, SAFE, traffic_class, traffic_class_item

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taps_core.plugin import (
        Data,
        LocalEndpoint,
        PartTuple,
        Receiver,
        RemoteEndpoint,
        SendRecord,
        SoftError,
    )
    from taps_udp.options import Control
    from taps_udp.port import Port

__all__ = ["UDPFlow"]

#: Bytes that are held for a flow that is not started, or paused; further datagrams
#: are dropped. Each counts as so much more, or empty ones would cost nothing.
HELD: Final = 256 * 1024
OVERHEAD: Final = 64
#: Bytes that wait for room in the kernel, from which on a flow counts as full.
FULL: Final = 64 * 1024


class UDPFlow(Flow):
    """One pair of addresses.

    Args:
        port: The socket.
        properties: By canonical name.
        local: This end.
        remote: The other end.
        address: Where to send, as the socket module has it; ``None``: where the
            socket is connected to.
        family: Of the packets.
        control: Ancillary data for all that is sent.
        path_limit: Asks how long a datagram may be on this path.

    Attributes:
        dropped: Datagrams that came while as much as possible was held.
        queued: Bytes that wait for room in the kernel. The port counts.
        heard: ``loop.time()`` of the last datagram.
        started: Whether somebody has it.
    """

    __slots__ = (
        "_above",
        "_closing",
        "_covered",
        "_error",
        "_full",
        "_gathered",
        "_held",
        "_held_size",
        "_limit",
        "_lite",
        "_may_receive_partial",
        "_may_send_partial",
        "_over",
        "_own",
        "_partial",
        "_path_limit",
        "_paused",
        "_port",
        "_profile",
        "_push",
        "_receiver",
        "_soft_errors",
        "_told_full",
        "address",
        "control",
        "dropped",
        "family",
        "heard",
        "local_endpoint",
        "queued",
        "remote_endpoint",
        "started",
    )

    # Slots in place of the properties: known from the start.
    local_endpoint: LocalEndpoint
    remote_endpoint: RemoteEndpoint

    def __init__(
        self,
        port: Port,
        properties: Mapping[str, Any],
        *,
        local: LocalEndpoint,
        remote: RemoteEndpoint,
        address: Any,
        family: int,
        control: Sequence[Control] = (),
        path_limit: Callable[[UDPFlow], int | None],
    ) -> None:
        self._port = port
        self._push = Push.of(port.loop)
        self.local_endpoint = local
        self.remote_endpoint = remote
        self.address = address
        self.family = family
        self.control = control
        self._path_limit = path_limit
        self._profile = properties.get("connCapacityProfile", CapacityProfile.DEFAULT)
        self._lite = port.sock.proto == UDPLITE
        self._may_send_partial = self._lite and may_be_partial(properties, "fullChecksumSend")
        self._may_receive_partial = self._lite and may_be_partial(properties, "fullChecksumRecv")
        self._covered: float | None = least_coverage(properties) if self._lite else None
        wanted = properties.get("softErrorNotify", Preference.NO_PREFERENCE)
        self._soft_errors = not wanted.unwanted
        #: Up to this length nobody need be asked.
        self._limit = SAFE[socket.AddressFamily(family)]
        #: The traffic class of all that is sent, where it is not that of the socket.
        self._own: tuple[Control, ...] = ()
        #: Who was given to ``start`` and has not been told ``closed`` yet.
        self._above: Receiver | None = None
        #: Where datagrams go at once; None before start, while paused, after the end.
        self._receiver: Receiver | None = None
        #: What ``flush`` lets leave; None once nothing more can be sent.
        self._gathered: list[bytes] | None = []
        self._partial: list[bytes] = []
        self._held: list[PartTuple] = []
        self._held_size = 0
        self._paused = self._closing = self._over = False
        self._full = self._told_full = False
        self._error: Exception | None = None
        self.dropped = 0
        self.queued = 0
        self.heard = 0.0
        self.started = False

    # -- down: data

    def start(self, receiver: Receiver) -> None:
        """Deliver to ``receiver`` from now on; what is held comes first."""
        self._above = receiver
        self.started = True
        if self._over:
            self._port.loop.call_soon(self._tell_closed)
        elif self._held:
            self._port.loop.call_soon(self._release)
        else:
            self._receiver = receiver

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> None:
        """Gather; all parts of a Message become one datagram."""
        gathered = self._gathered
        if gathered is None:
            raise nothing_more()
        if record is None and end_of_message and type(data) is bytes and not self._partial:
            # The usual case.
            if len(data) > self._limit and len(data) > self._ask_limit():
                raise too_long(len(data), self._limit)
            gathered.append(data)
            return
        whole = data if isinstance(data, bytes) else b"".join(data)
        partial = self._partial
        length = len(whole) + sum(map(len, partial)) if partial else len(whole)
        if length > self._limit and length > self._ask_limit():
            raise too_long(length, self._limit)
        if partial or not end_of_message:
            partial.append(whole)
            if not end_of_message:
                return
            whole = b"".join(partial)
            partial.clear()
        special = () if record is None else self._special(record.properties)
        if special:
            # It goes with a call of its own, in its turn.
            self.flush()
            self._carry([whole], (*self.control, *special))
        else:
            gathered.append(whole)

    def _special(self, properties: Mapping[str, Any]) -> tuple[Control, ...]:
        """Ancillary data of a datagram that goes otherwise than the usual ones."""
        profile = properties.get("msgCapacityProfile", self._profile)
        covered = coverage_item(properties.get("msgChecksumLen", math.inf))
        if profile is self._profile:
            return (*self._own, *covered) if covered and self._may_send_partial else ()
        own = traffic_class_item(self.family, traffic_class(profile))
        return (own, *covered) if self._may_send_partial else (own,)

    def write_through(self, data: Data, /) -> None:
        """Send a lone Message at once."""
        if (
            self._gathered == []
            and type(data) is bytes
            and len(data) <= self._limit
            and not (self._partial or self._own or self.control)
        ):
            self._port.carry_one(self, data)
            if self.queued:
                self._consider_full()
            return
        self.send(data, None, True)
        self.flush()

    def flush(self) -> None:
        """Let everything gathered leave."""
        gathered = self._gathered
        if gathered:
            self._gathered = []
            self._carry(gathered, (*self.control, *self._own))

    def withdraw(self) -> bool:
        """Drop the parts of the datagram that is not complete."""
        self._partial.clear()
        return True

    def pause(self) -> None:
        """Hold what comes, up to a bound; then drop it."""
        if not self._paused and not self._closing:
            self._paused = True
            self._receiver = None
            self._port.hold(self, True)

    def resume(self) -> None:
        """Deliver again; what was held comes first."""
        if self._paused and not self._closing:
            self._paused = False
            self._port.hold(self, False)
            self._port.loop.call_soon(self._release)

    # -- down: the end

    def finish(self) -> None:
        """Send no more. Only this side knows."""
        if self._gathered is not None:
            self.flush()
            self._gathered = None

    def close(self) -> None:
        """Let everything leave, then end; the peer is told nothing."""
        if not self._closing:
            self.finish()
            self._closing = True
            self._receiver = None
            self._forget_held()
            if not self.queued:
                self._end()

    def abort(self) -> None:
        """End at once; what has not left is dropped."""
        if not self._over:
            self._closing = True
            self._gathered = self._receiver = None
            self._forget_held()
            self._port.drop(self)
            if self._error is None:
                self._error = ConnectionError("aborted", reason=Reason.LOCAL_ABORT)
            self._end()

    def end(self, error: Exception) -> None:
        """The port gives it up."""
        if not self._over:
            self._error = error
            self.abort()

    def _end(self) -> None:
        self._over = True
        self._gathered = None
        self._partial.clear()
        self._port.forget(self)
        self._port.loop.call_soon(self._tell_closed)

    # -- down: properties

    def apply(self, property: str, value: Any, /) -> bool:
        """Let ``connCapacityProfile`` take effect: the DSCP of what is sent from now on.

        Of UDP-Lite ``recvChecksumLen``, too.

        Raises:
            PropertyError: The socket is a Listener's, or full coverage is required.
        """
        if property == "recvChecksumLen" and self._lite and not self._over:
            if value != math.inf and not self._may_receive_partial:
                raise PropertyError(f"{property}: fullChecksumRecv is required")
            self._port.demand_coverage(self, value)
            self._covered = value
            return True
        if property == RECEIVE_ECN and value and LINUX and not self._over:
            self._port.tell_ecn()
            return True
        if property != "connCapacityProfile" or self._over:
            return False
        self.flush()
        self._profile = value
        self._own = (traffic_class_item(self.family, traffic_class(value)),)
        return True

    def read(self, property: str, /) -> Any:
        """The lengths that this path allows, and the capacity profile."""
        if property in ("sendMsgMaxLen", "singularTransmissionMsgMaxLen"):
            # Nothing is fragmented, so they are the same.
            return self._limit if self._over else self._ask_limit()
        if property == "recvMsgMaxLen":
            return MOST[socket.AddressFamily(self.family)]
        if property == "connCapacityProfile":
            return self._profile
        if property == "recvChecksumLen":
            return self._covered
        if property == "_taps.dropped":
            # How many the kernel dropped is not known any more when the socket is gone.
            return None if self._over else self.dropped + self._port.overruns()
        if property == "_taps.undelivered":
            return self.queued + sum(map(len, self._gathered or ()))
        return None

    def _ask_limit(self) -> int:
        limit = self._path_limit(self)
        # Where the system does not tell, sending shows what is too long.
        self._limit = MOST[socket.AddressFamily(self.family)] if limit is None else limit
        return self._limit

    # -- for the port

    def arrived(self, parts: list[PartTuple]) -> None:
        """Datagrams came: pass up, hold, or drop. From a callback of the loop."""
        receiver = self._receiver
        if receiver is None:
            self._hold(parts)
            return
        try:
            self._push.up(receiver, parts)
        except Exception as error:  # noqa: BLE001  # entry of the push: what escapes ends this flow only
            self._break(error)

    def drained(self) -> None:
        """What waited for room has left, or some of it. From a callback of the loop."""
        if self._closing:
            if not self.queued and not self._over:
                self._end()
        elif self._full and self.queued <= FULL // 2:
            self._full = False
            self._tell_writable()

    def lost(self, event: SoftError) -> None:
        """A datagram could not leave. Often from inside a downward call."""
        self.narrowed()
        self._port.loop.call_soon(self._notify, event)

    def soft_error(self, event: SoftError) -> None:
        """An ICMP error. From a callback of the loop."""
        if self._soft_errors:
            self._notify(event)

    def narrowed(self) -> None:
        """The path may have become narrower: ask before the next long datagram."""
        self._limit = SAFE[socket.AddressFamily(self.family)]

    def _carry(self, datagrams: list[bytes], control: tuple[Control, ...]) -> None:
        self._port.carry(self, datagrams, control)
        if self.queued:
            self._consider_full()

    def _consider_full(self) -> None:
        if self.queued > FULL and not self._full:
            self._full = True
            self._port.loop.call_soon(self._tell_writable)

    # -- up: never from inside a downward call

    def _hold(self, parts: list[PartTuple]) -> None:
        if self._closing:
            return
        for part in parts:
            cost = len(part[0]) + OVERHEAD
            if self._held_size + cost > HELD:
                self.dropped += 1
                self._port.unread()
            else:
                self._held_size += cost
                self._held.append(part)

    def _forget_held(self) -> None:
        self._held = []
        self._held_size = 0

    def _release(self) -> None:
        """Deliver what was held, then go live."""
        if self._paused or self._closing or self._above is None or self._receiver is not None:
            return
        self._receiver = self._above
        held = self._held
        self._forget_held()
        if held:
            self.arrived(held)

    def _notify(self, event: SoftError) -> None:
        # Of what nobody has started, or has closed, there is no news.
        if self._above is None or self._closing:
            return
        try:
            self._above.notified(event)
        except Exception as error:  # noqa: BLE001  # as in arrived
            self._break(error)

    def _tell_writable(self) -> None:
        if self._full == self._told_full or self._above is None or self._gathered is None:
            return
        self._told_full = self._full
        try:
            self._above.writable(not self._full)
        except Exception as error:  # noqa: BLE001  # as in arrived
            self._break(error)

    def _break(self, error: Exception) -> None:
        """A layer above raised: end this flow and no other."""
        self.end(receiver_failed(error))

    def _tell_closed(self) -> None:
        above, self._above = self._above, None
        if above is not None:
            above.closed(self._error)
