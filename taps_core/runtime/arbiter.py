"""Who of a group sends when, where its Connections share what they may send.

A group has an arbiter while

* a rate is limited that the stacks do not limit themselves: of each Connection
  (``maxSendRate``) or of all together (``_taps.groupMaxSendRate``). All Connections
  of the group take part;
* streams of one session wait for room in the stack. Those take part that have
  waited, until nobody waits.

Whoever takes part hands nothing down by itself: what it sends waits in its outbox, and
the arbiter lets one Send after the other leave, in the order of ``connScheduler``. To
a Connection that looks like a stack that is full, so one that has no arbiter does not
have to ask.

Who sends a Message, awaits it, and sends the next one has nothing waiting in between.
So when the last that somebody had waiting leaves while others wait, the loop runs once
before it is their turn: else all would have equal shares, whatever the scheduler. It
also does so when somebody's Send leaves at once and the last one that left was another's,
who is perhaps about to send the next: else the one who comes first goes on for a turn.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.capabilities import DataUnit
from taps_core.planning.pacing import Pace
from taps_core.planning.scheduling import PACKET, Claim, Schedule
from taps_core.runtime.awaitables import CREDIT, PER_OPERATION

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from taps_core.model.properties import Scheduler
    from taps_core.runtime.connection import Connection

__all__ = ["Arbiter"]

#: Seconds that are waited at least: what became due meanwhile leaves together, and no
#: loop whose timers are coarser spins.
TICK: Final = 0.001
#: And at most, before looking again: not all loops take any time.
LONGEST: Final = 3600.0


class _Member(Claim):
    """A Connection that takes part.

    Attributes:
        connection: The Connection.
        full: Whether its stack takes no more.
        pace: Its own limit, if it has one.
        timer: Runs until its own limit lets it send again.
    """

    __slots__ = ("connection", "full", "pace", "timer")

    def __init__(self, connection: Connection[Any]) -> None:
        super().__init__(connection._priority)
        self.connection = connection
        self.full = not connection._accepting
        self.pace: Pace | None = None
        self.timer: asyncio.TimerHandle | None = None
        flow, stack = connection._flow, connection._stack
        if flow is not None and stack is not None:
            self.packet = flow.read("singularTransmissionMsgMaxLen") or PACKET
            self.bundles = stack.capabilities.data_unit is not DataUnit.DATAGRAM


class Arbiter:
    """Of one group.

    Args:
        loop: Of its Connections.
        scheduler: ``connScheduler``.
        needless: Called when nothing is limited and nobody waits any more.

    Attributes:
        limited: Whether a rate is limited.
    """

    __slots__ = (
        "_busy",
        "_latest",
        "_loop",
        "_members",
        "_needless",
        "_pace",
        "_schedule",
        "_timer",
        "_turn",
        "limited",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        scheduler: Scheduler,
        needless: Callable[[Arbiter], None],
    ) -> None:
        self._loop = loop
        self._needless = needless
        self.limited = False
        self._members: dict[Connection[Any], _Member] = {}
        self._schedule: Schedule[_Member] = Schedule(scheduler)
        #: The limit of all together.
        self._pace: Pace | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turn: asyncio.Handle | None = None
        # Sends are being handed down.
        self._busy = False
        # Who sent last.
        self._latest: _Member | None = None

    # -- what there is to keep

    def limit(self, rate: float) -> None:
        """All together may send ``rate`` bit/s.

        Called whenever there is another limit, after :meth:`take_in`: if there is none
        any more, everything leaves.
        """
        self._pace = self._changed(self._pace, rate)
        self.limited = self._pace is not None or any(
            member.pace is not None for member in self._members.values()
        )
        self._stop_timer()
        self._let_leave()

    def take_in(self, connection: Connection[Any], rate: float = math.inf) -> None:
        """From now on ``connection`` takes part.

        Args:
            connection: It is established.
            rate: What it may send by itself, in bit/s.
        """
        member = self._members.get(connection)
        if member is None:
            member = self._members[connection] = _Member(connection)
            connection._accepting = False
            connection._refresh()
        member.pace = self._changed(member.pace, rate)
        self._stop_resting(member)
        self._look(member)

    def _changed(self, pace: Pace | None, rate: float) -> Pace | None:
        if rate == math.inf:
            return None
        now = self._loop.time()
        if pace is None:
            return Pace(rate, now)
        if rate != pace.rate:
            pace.change(rate, now)
        return pace

    def set_scheduler(self, scheduler: Scheduler) -> None:
        """Another ``connScheduler``; what waits goes on waiting."""
        self._schedule.become(scheduler, self._members.values())

    def set_priority(self, connection: Connection[Any], priority: int) -> None:
        """Another ``connPriority``."""
        member = self._members.get(connection)
        if member is not None:
            member.priority = priority
            if member.waits:
                self._schedule.wait(member)

    # -- what the Connections tell

    def waits(self, connection: Connection[Any]) -> None:
        """Something was put into its outbox that may leave."""
        member = self._members.get(connection)
        if member is None:
            self.take_in(connection)
            member = self._members[connection]
        self._look(member)
        self._let_leave()

    def writable(self, connection: Connection[Any], writable: bool) -> bool:
        """Its stack is full, or takes more again; False: that is not known here."""
        member = self._members.get(connection)
        if member is None:
            return False
        member.full = not writable
        self._look(member)
        if writable:
            # The others may be told in this turn, too.
            self._go_on()
        return True

    def eased(self, connection: Connection[Any]) -> None:
        """Something that waited is gone without leaving."""
        member = self._members.get(connection)
        if member is not None and not self._busy:
            self._look(member)
            self._end_if_needless()

    def left(self, connection: Connection[Any]) -> None:
        """It has ended, or belongs to another group now."""
        member = self._members.pop(connection, None)
        if member is not None:
            self._forget(member)
            if self._latest is member:
                self._latest = None
            if not self._busy:
                self._end_if_needless()

    def end(self) -> None:
        """Nobody takes part any more."""
        self._stop_timer()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        members, self._members = self._members, {}
        for member in members.values():
            self._forget(member)

    def _forget(self, member: _Member) -> None:
        self._schedule.leave(member)
        self._stop_resting(member)
        member.connection._accepting = not member.full
        member.connection._refresh()

    def _end_if_needless(self) -> None:
        if not self.limited and not any(each._outbox for each in self._members):
            self._needless(self)

    # -- who is next

    def _look(self, member: _Member) -> bool:
        """Put it into the line, or have it wait for its own limit; whether it can send."""
        outbox = member.connection._outbox
        head = None if outbox is None or member.full else outbox.head
        if head is None:
            self._schedule.leave(member)
            return False
        pace = member.pace
        if pace is not None and pace.due > self._loop.time():
            self._schedule.leave(member)
            if member.timer is None:
                member.timer = self._call_at(pace.due, self._rested, member)
        else:
            member.arrival = head.arrival
            self._schedule.wait(member)
        return True

    def _rested(self, member: _Member) -> None:
        """Its own limit lets it send again."""
        member.timer = None
        self._look(member)
        self._let_leave(own_turn=True)

    def _let_leave(self, *, own_turn: bool = False) -> None:
        """Hand down what may leave now.

        Args:
            own_turn: Called by the loop. Else by a Connection, in the middle of a Send:
                what its batch gathers waits for the batch.
        """
        if self._busy or self._turn is not None:
            return
        self._busy = True
        served: dict[_Member, None] = {}
        try:
            more = self._hand_down(served)
        finally:
            self._busy = False
        for member in served:
            member.connection._have_left(own_turn=own_turn)
            if member.connection in self._members:
                more = more or not (own_turn or self._latest in (None, member))
                self._latest = member
        if more and self._members:
            # After what the flush above may have scheduled: a stack that says it is full.
            self._go_on()
        self._end_if_needless()

    def _hand_down(self, served: dict[_Member, None]) -> bool:
        """One Send after the other; whether to go on in another turn."""
        room = CREDIT
        while (member := self._schedule.first()) is not None:
            now = self._loop.time()
            if self._pace is not None and self._pace.due > now:
                if self._timer is None:
                    self._timer = self._call_at(self._pace.due, self._due)
                return False
            if room <= 0:
                return True
            size = member.connection._let_one_leave()
            if size is None:
                self._look(member)
                continue
            room -= size + PER_OPERATION
            served[member] = None
            if member.connection not in self._members:
                continue
            for pace in (self._pace, member.pace):
                if pace is not None:
                    pace.left(size, now)
            self._schedule.sent(member, size)
            if not self._look(member) and len(self._schedule):
                return True
        return False

    # -- when

    def _call_at(
        self, when: float, callback: Callable[..., None], *arguments: Any
    ) -> asyncio.TimerHandle:
        now = self._loop.time()
        return self._loop.call_at(min(max(when, now + TICK), now + LONGEST), callback, *arguments)

    def _due(self) -> None:
        self._timer = None
        self._let_leave(own_turn=True)

    def _go_on(self) -> None:
        if self._turn is None:
            self._turn = self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn = None
        self._let_leave(own_turn=True)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_resting(self, member: _Member) -> None:
        if member.timer is not None:
            member.timer.cancel()
            member.timer = None
