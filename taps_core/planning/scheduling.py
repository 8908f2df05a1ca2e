"""Who of a Connection Group sends next (RFC 9622, section 8.1.5; RFC 8260, section 3).

A :class:`Claim` stands for one Connection while it has something waiting. The
scheduler is asked for the first one, lets it send one Message or part of one, and
is told how large that was. Sizes need not be known before.

====================== ==========================================================
First-Come,            the order of the Send calls
First-Served
Round-Robin            one Message (or part) of each in turn, whatever its size
Round-Robin per Packet in turn, as much of each as one packet carries; what is larger
                       than a packet uses up several turns
Priority-Based         the smallest connPriority; among equals Round-Robin
Fair Capacity          equal numbers of bytes
Weighted Fair Queueing bytes in proportion to 1 / (connPriority + 1)
====================== ==========================================================

The last two and Round-Robin per Packet are start-time fair queueing (Goyal, Vin and
Cheng, 1996): each claim has a tag, its next start in the group's virtual time, which
goes on by what it sends, divided by its weight; the smallest tag is next. Whoever
comes back from a rest begins at the present virtual time: what was not used is not
saved up. Tags are integers, since the weights are 1 / n.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from taps_core.model.property import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["PACKET", "Claim", "Schedule"]

#: Bytes of a packet where the stack does not tell: what every path of today carries.
PACKET: Final = 1200
#: Places of those who left that may lie in the heap until their turn comes.
_MOST_STALE: Final = 64


class Claim:
    """One that has something waiting, now and then.

    Attributes:
        priority: ``connPriority``; after a change: :meth:`Schedule.wait` again.
        arrival: When what it sends next was given to it: a number that counts up.
            After a change: :meth:`Schedule.wait` again.
        packet: Bytes that a packet carries.
        bundles: Whether several Messages share a packet.
    """

    __slots__ = ("arrival", "bundles", "filled", "number", "packet", "place", "priority", "tag")

    def __init__(self, priority: int = 100) -> None:
        self.priority = priority
        self.arrival = 0
        self.packet = PACKET
        self.bundles = True
        #: In the schedule, None while it has nothing waiting. The schedule keeps this, and
        #: the number in it, where its start is in virtual time, and what is in its packet.
        self.place: _Place | None = None
        self.number = 0
        self.tag = 0
        self.filled = 0

    @property
    def waits(self) -> bool:
        """Whether it takes part."""
        return self.place is not None


C = TypeVar("C", bound=Claim)

#: Rank, number that breaks ties in the order of coming, another one for each place, claim.
_Place: TypeAlias = tuple[int, int, int, Any]


def _nothing(claim: Claim, size: int) -> int:
    return 0


def _bytes(claim: Claim, size: int) -> int:
    return max(size, 1)


def _weighted(claim: Claim, size: int) -> int:
    return max(size, 1) * (claim.priority + 1)


def _packets(claim: Claim, size: int) -> int:
    if not claim.bundles:
        return max(-(-size // claim.packet), 1)
    # An empty Message has its header, at least.
    packets, claim.filled = divmod(claim.filled + max(size, 1), claim.packet)
    return packets


#: How far virtual time goes on for a claim that sent so many bytes.
_COSTS: Final[Mapping[Scheduler, Callable[[Claim, int], int]]] = {
    Scheduler.FIRST_COME_FIRST_SERVED: _nothing,
    Scheduler.ROUND_ROBIN: _nothing,
    Scheduler.ROUND_ROBIN_PER_PACKET: _packets,
    Scheduler.PRIORITY_BASED: _nothing,
    Scheduler.FAIR_CAPACITY: _bytes,
    Scheduler.WEIGHTED_FAIR_QUEUEING: _weighted,
}


class Schedule(Generic[C]):
    """The claims of one group, in the order of one scheduler.

    Args:
        scheduler: Which.
    """

    __slots__ = ("_cost", "_numbers", "_places", "_virtual", "_waiting", "scheduler")

    def __init__(self, scheduler: Scheduler = Scheduler.WEIGHTED_FAIR_QUEUEING) -> None:
        self.scheduler = scheduler
        self._cost = _COSTS[scheduler]
        self._numbers = count()
        self._places: list[_Place] = []
        self._waiting = 0
        self._virtual = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._waiting

    def wait(self, claim: C) -> None:
        """It has something waiting; or something about it has changed."""
        place = claim.place
        if place is None:
            self._waiting += 1
            if claim.tag < self._virtual:
                # Others went on: its packet has left as it was.
                claim.tag = self._virtual
                claim.filled = 0
            self._put(claim, again=bool(claim.filled))
        elif self._rank(claim) != place[0]:
            self._put(claim)

    def leave(self, claim: C) -> None:
        """It has nothing waiting any more, or cannot send it now."""
        if claim.place is None:
            return
        claim.place = None
        self._waiting -= 1
        if not self._waiting:
            # A busy time is over: all begin alike.
            self._virtual = max(self._virtual, claim.tag)
            self._places.clear()

    def first(self) -> C | None:
        """Who sends next; None: nobody waits."""
        places = self._places
        while places:
            claim: C = places[0][3]
            if claim.place is places[0]:
                return claim
            heappop(places)
        return None

    def sent(self, claim: C, size: int) -> None:
        """The first one sent so many bytes, and goes on waiting with what is next.

        Followed by :meth:`leave` where nothing is.
        """
        self._virtual = max(self._virtual, claim.tag)
        cost = self._cost(claim, size)
        claim.tag += cost
        if cost or not claim.filled:
            self._put(claim)
        # Else its packet has room: it is still its turn.

    def become(self, scheduler: Scheduler, claims: Collection[C]) -> None:
        """Another scheduler, which begins with what waits.

        Args:
            scheduler: Which.
            claims: All there are.
        """
        self.scheduler = scheduler
        self._cost = _COSTS[scheduler]
        self._virtual = 0
        waiting = sorted(filter(None, (claim.place for claim in claims)), key=_number)
        self._places.clear()
        for claim in claims:
            claim.tag = claim.filled = 0
        for *_, claim in waiting:
            self._put(claim)

    def _rank(self, claim: C) -> int:
        match self.scheduler:
            case Scheduler.FIRST_COME_FIRST_SERVED:
                return claim.arrival
            case Scheduler.PRIORITY_BASED:
                return claim.priority
            case _:
                return claim.tag

    def _put(self, claim: C, *, again: bool = False) -> None:
        """Give it a place at the end of its rank, or the one that it had."""
        number = next(self._numbers)
        if not again:
            claim.number = number
        claim.place = place = (self._rank(claim), claim.number, number, claim)
        heappush(self._places, place)
        if len(self._places) > 2 * self._waiting + _MOST_STALE:
            self._places = [each for each in self._places if each[3].place is each]
            heapify(self._places)


def _number(place: _Place) -> int:
    return place[1]
