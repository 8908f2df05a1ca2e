"""One end of a reliable, ordered connection over packets that may be lost.

What TCP does, without its congestion control, and with every time a plain sum.

* **Segments** are numbered from 0: the handshake (``syn``), pieces of data no larger
  than the path's MTU, the end (``fin``). Each packet with one is answered at once
  by an ``ack``, which says up to where everything is there, which segment this
  was, and how much room there is. An ``ack`` is not answered.
* **Connecting** takes one round trip: ``syn`` there, ``syn`` back, then the client is
  Ready. Its ``ack`` takes another half, then the listener has the flow; a client
  that sends at once is not slower for that. Where nobody listens, ``rst`` comes
  back: refused, after one round trip. A repeated ``syn`` is answered by a repeated one.
* **A segment that is not acknowledged** is sent again after the retransmission time,
  counted from when it has left: twice the round trip at rest, at least 0.2 s (1 s
  for a ``syn``), doubled each time up to 120 s. Only what was lost is sent again; what
  came behind it is held until it is there. (These are Linux's limits.)
* **The window** is what the peer holds for a receiver that does not take it. It
  tells of new room with each ``ack``, and by one of its own when half a window has
  become free. A sender that waits for room asks for it by a ``probe``, at the times
  of a segment that is not acknowledged.
* **Keep-alive**: after ``keepAliveTimeout`` without a sign of the peer and with nothing
  on the way, a ``probe`` is sent, which is answered by an ``ack``; the next one after
  75 s if it is not, and after the ninth the Connection has failed.
* **connTimeout**, after which the Connection has failed, counts from when the first
  of what waits for an answer was sent, or from the last answer since.
* **The end**: an end that has closed and an end that was reset answer what still
  comes as TCP does: an ``ack`` that was lost is repeated, new data is answered by ``rst``.

Packets without data have no size, unless the path has an overhead.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import (
    ConnectionError,
    EstablishmentError,
    EstablishmentTimeout,
    Reason,
)
from taps_core.model.events import SoftError
from taps_core.model.properties import Preference
from taps_core.testing.memory import refused
from taps_core.testing.memory_wire import Wire
from taps_core.testing.ports import no_route
from taps_core.testing.virtual_packet import Line
from taps_core.testing.virtual_segments import Outbound
from taps_core.testing.virtual_vigil import Vigil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taps_core.testing.memory_connected import ConnectedFlow
    from taps_core.testing.memory_wire import Item
    from taps_core.testing.ports import Address
    from taps_core.testing.virtual_host import Host
    from taps_core.testing.virtual_segments import Segment

__all__ = ["VirtualWire"]

#: How often a ``syn`` is sent again, by the client and by the server.
_SYN_RETRIES: Final = 6
_SYN_ACK_RETRIES: Final = 5


class VirtualWire(Wire):
    """One end of a connection; see the module.

    Args:
        host: On which it is.
        kind: Name of the transport.
        here: Address of this end.
        there: Address of the other end.
        window: What this end holds for its receiver.
        properties: Of the Connection.
        ready: Makes the flow, once the peer is known to be there.
        failed: Told why there will be no flow.
        client: Whose ``syn`` this is to answer; ``None``: this is the client.
    """

    flow: ConnectedFlow

    def __init__(
        self,
        host: Host,
        kind: str,
        here: Address,
        there: Address,
        *,
        window: int,
        properties: Mapping[str, Any],
        ready: Callable[[VirtualWire], ConnectedFlow],
        failed: Callable[[EstablishmentError], None] = lambda error: None,
        client: VirtualWire | None = None,
    ) -> None:
        self.kind = kind
        self.here = here
        self.there = there
        self._loop = asyncio.get_running_loop()
        #: What this end holds for its receiver.
        self.window = window
        self._ready = ready
        self._failed = failed
        self._line = Line(
            host, kind, here, there, peer=client, knock=self._knock, unreachable=self._unreachable
        )
        #: It has heard of the peer, which may know of it.
        self._heard = client is not None
        self._established = False
        self._gone = False  # by an error: whatever comes is answered by a reset
        self._out = Outbound(
            self._send_segment,
            lambda: self._line.round_trip,
            self._no_answer,
            retries=_SYN_RETRIES if client is None else _SYN_ACK_RETRIES,
        )
        self._fin_sent = False
        # Inbound.
        self._expected = 0 if client is None else 1
        self._early: dict[int, Segment] = {}
        self._released = 0
        self._told = window  # the limit that the peer was told last
        self._reset_behind: tuple[int, Exception] | None = None
        # Waiting for signs of the peer.
        wanted = properties.get("softErrorNotify", Preference.NO_PREFERENCE)
        self._tells_soft_errors: bool = wanted.wanted
        self._vigil = Vigil(properties, self._loop.time())
        self._alarm: asyncio.TimerHandle | None = None
        # Kept here: uvloop's handle of what is due at once does not know.
        self._rings_at = math.inf

    def __repr__(self) -> str:
        state = "gone" if self._gone else "established" if self._established else "connecting"
        return f"<VirtualWire {self.here} → {self.there} {state}>"

    # -- establishing

    def open(self) -> None:
        """Send the ``syn``, the client's or the answer to it."""
        if self._heard:
            self._out.limit = self._line.peer.window
        self._out.add("syn")

    def abandon(self) -> None:
        """Nobody wants it any more, and there is no flow."""
        self._let_go()
        if self._heard:
            self._answer_gone()

    def _knock(self, host: Host) -> None:
        """The client's ``syn`` is at the host."""
        door = host.door(self.kind, self.there)
        if door is not None and door.has_room:
            # Known to the line from now on, so that a duplicate finds it.
            self._line.peer = door.answer(self)
        else:
            self._line.answer(host, "rst", lambda _: self._refused())

    def _refused(self) -> None:
        if not self._established and not self._gone:
            self._give_up(refused(self.there))

    def _establish(self) -> None:
        if not self._established:
            self._established = True
            self.flow = self._ready(self)

    def _give_up(self, error: EstablishmentError) -> None:
        self._let_go()
        self._failed(error)

    def _let_go(self) -> None:
        self._gone = True
        self._stop_timers()

    def _stop_timers(self) -> None:
        self._out.drop()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    # -- what the flow asks

    @property
    def room(self) -> int:
        """What the peer has said that it has room for."""
        return self._out.room

    def carry(self, item: Item) -> None:
        """Send it, in segments that fit into a packet."""
        for piece in item.pieces(self._line.largest):
            self._add("data", piece)

    def blocked(self) -> None:
        """Ask for room, in case the peer's word of it is lost."""
        self._set_alarm()

    def finish(self, closing: bool) -> None:
        """Send the end."""
        self._fin_sent = True
        self._add("fin", closing=closing)

    def reset(self, error: Exception, at_once: bool) -> None:
        """Send a reset. It is not repeated, but answers whatever still comes."""
        behind = 0 if at_once else self._out.next
        self._line.send("rst", lambda peer: peer.reset_came(behind, error))

    def release(self, cost: int) -> None:
        """Remember it; :meth:`opened` tells."""
        self.flow.held -= cost
        self._released += cost

    def opened(self) -> None:
        """Tell the peer, if half a window has become free since it was told."""
        if not self._gone and 2 * (self._released + self.window - self._told) >= self.window:
            self._send_ack()

    @property
    def undelivered(self) -> int:
        """Bytes on the way, as far as is known."""
        return self._out.undelivered

    def over(self, error: Exception | None) -> None:
        """The flow has ended: by an error, or with everything acknowledged."""
        self._gone = self._gone or error is not None
        self._stop_timers()

    def apply(self, name: str, value: Any) -> bool:
        """``connTimeout`` and ``keepAliveTimeout``."""
        applied = self._vigil.apply(name, value)
        if applied:
            self._set_alarm()
        return applied

    def read(self, name: str) -> Any:
        """``connTimeout`` and ``keepAliveTimeout``, the latter as it is in force."""
        if name == "connTimeout":
            return self._vigil.timeout
        return self._vigil.keep_alive if name == "keepAliveTimeout" else None

    # -- outbound

    def _add(self, what: str, item: Item | None = None, *, closing: bool = False) -> None:
        self._vigil.sent(self._loop.time())
        self._out.add(what, item, closing=closing)
        self._set_alarm()

    def _send_segment(self, segment: Segment) -> float:
        return self._line.send(
            segment.what,
            lambda peer: peer.segment_came(segment),
            length=segment.length,
            number=segment.number,
            again=segment.tries > 0,
        )

    def _no_answer(self) -> None:
        silence = f"no answer from {self.there[0]} port {self.there[1]}"
        self._give_up(EstablishmentTimeout(silence, transient=True))

    def _send_ack(self, number: int = -1) -> None:
        expected, limit = self._expected, self._released + self.window
        self._told = limit
        self._line.send("ack", lambda peer: peer.ack_came(expected, number, limit), number=number)

    def _answer_gone(self) -> None:
        self.reset(ConnectionError("reset by the peer", reason=Reason.CONNECTION_ABORTED), True)

    def _unreachable(self, why: str) -> None:
        if self._gone:
            return
        if not self._heard:
            self._give_up(no_route(self.there[0], why))
        elif self._established and self._tells_soft_errors:
            sentence = f"{os.strerror(errno.EHOSTUNREACH)}: {self.there[0]}: {why}"
            self.flow.tell(SoftError(OSError(errno.EHOSTUNREACH, sentence)))

    # -- inbound

    def segment_came(self, segment: Segment) -> None:
        """A segment has arrived, for the first time or again."""
        if self._gone:
            self._answer_gone()
            return
        if not self._heard:
            self._heard = True
            self._out.limit = self._line.peer.window
        self._hear()
        if segment.number < self._expected and segment.what == "syn" and self._out.repeat(0):
            return  # an ``ack`` alone would not tell the client that we are there
        if segment.number:
            self._acknowledge(1, 0)  # it sends no data before it has our ``syn``
        new = segment.number >= self._expected
        if new and segment.what == "data" and self.flow.is_over:
            self._answer_gone()
            return
        if new:
            self._early[segment.number] = segment
        while not self._gone and (following := self._early.pop(self._expected, None)) is not None:
            self._expected += 1
            self._deliver(following)
        if not self._gone:
            self._send_ack(segment.number)
            self._look_for_reset()
            self._set_alarm()

    def _deliver(self, segment: Segment) -> None:
        if segment.what == "syn":
            self._acknowledge(1, 0)
        elif segment.item is not None:
            self.flow.held += segment.item.cost
            self.flow.arrived(segment.item)
        else:
            self.flow.fin_came(segment.closing)

    def ack_came(self, expected: int, number: int, limit: int) -> None:
        """The peer has everything up to ``expected``, and segment ``number``."""
        if self._gone:
            return
        self._hear()
        self._acknowledge(expected, number)
        if limit > self._out.limit:
            self._out.limit = limit
            self._vigil.room()
        if self._established:
            self.flow.pump()
            if self._fin_sent and not self._out:
                self.flow.acknowledged()
        self._set_alarm()

    def _acknowledge(self, expected: int, number: int) -> None:
        news = self._out.acknowledged(expected, number)
        if news:
            self._vigil.answered(self._loop.time(), waits=bool(self._out))
        for segment in news:
            if segment.what == "syn":
                self._establish()
            elif segment.item is not None and segment.item.record is not None:
                self.flow.settled(segment.item.record, None)

    def probe_came(self) -> None:
        """The peer asks for a sign."""
        if self._gone:
            self._answer_gone()
        else:
            self._hear()
            self._send_ack()

    def reset_came(self, behind: int, error: Exception) -> None:
        """The peer is gone; 0: at once, else behind its first so many segments."""
        if self._gone:
            return
        if not self._established:
            self._give_up(refused(self.there))
        elif behind == 0:
            self.flow.reset_came(error, True)
        else:
            self._reset_behind = behind, error
            self._look_for_reset()

    def _look_for_reset(self) -> None:
        if self._reset_behind is not None and self._reset_behind[0] <= self._expected:
            (_, error), self._reset_behind = self._reset_behind, None
            self._stop_timers()
            self.flow.reset_came(error, False)

    # -- waiting for signs of the peer

    def _hear(self) -> None:
        self._vigil.heard(self._loop.time(), waits=bool(self._out))

    @property
    def _blocked(self) -> bool:
        return self.flow.waits_for_room and self._out.room <= 0

    @property
    def _probes_at(self) -> float:
        return self._vigil.probes_at(
            waits=bool(self._out), patience=self._out.patience() if self._blocked else None
        )

    def _set_alarm(self) -> None:
        if self._gone or not self._established or self.flow.is_over:
            return
        when = min(self._vigil.fails_at(), self._probes_at)
        if self._alarm is not None:
            if self._rings_at <= when:
                return  # it looks again then
            self._alarm.cancel()
            self._alarm = None
        if when < math.inf:
            self._rings_at = when
            self._alarm = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now = self._loop.time()
        if self._vigil.fails_at() <= now:
            silence = f"no acknowledgement from {self.there[0]} port {self.there[1]} in time"
            error = ConnectionError(silence, reason=Reason.TIMEOUT, detail="ETIMEDOUT")
            error.errno = errno.ETIMEDOUT
            self.flow.reset_came(error, True)
            return
        if self._probes_at <= now:
            self._vigil.probed(now, blocked=self._blocked)
            self._line.send("probe", lambda peer: peer.probe_came())
        self._set_alarm()
