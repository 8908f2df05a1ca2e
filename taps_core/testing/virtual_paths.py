"""What happens to a packet between two hosts. Pure: no loop, no I/O, ``now`` is an argument.

What a packet costs:

* Its **size** is its payload and the path's ``overhead``.
* It **waits** until the packets before it have left. One of size 0 (an
  acknowledgement, a handshake, a probe, unless there is an ``overhead``) waits
  for nobody.
* It **leaves** ``size / bandwidth`` after that. If more than ``queue`` bytes wait
  already it is lost instead; a lone packet always finds a place.
* It **arrives** ``latency`` after it has left, and up to ``jitter`` later, but never
  before a packet that has left before it (size 0 excepted).
* With probability ``loss`` it is lost, after it has left. On a path that is down
  or a black hole every packet is, and does not even wait.
* With probability ``reorder`` it arrives ``reorder_delay`` later than it would, and
  those behind it overtake it.
* With probability ``duplicate`` it arrives twice, at the same time.

All of that is decided when it is sent: what changes later changes nothing for it.

Every packet draws the same number of random numbers, and each pair of hosts on
a path has a generator of its own: so neither a changed probability nor other
traffic changes the luck of any other packet.
"""

from __future__ import annotations

import dataclasses
import math
import random
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from taps_core.testing.virtual_conditions import Conditions, Counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self, TypeAlias, Unpack

    from taps_core.testing.virtual_conditions import ConditionKeywords

    #: A host's name, an address, or ``None`` for all.
    End: TypeAlias = str | None

__all__ = ["Loss", "Passage", "Path", "Paths", "State", "Way"]


class State(StrEnum):
    """Whether anything gets through at all."""

    UP = "up"
    DOWN = "down"
    """Nothing does, and the sender is told: no route."""
    BLACK_HOLE = "black hole"
    """Nothing does, and nobody is told."""


class Loss(StrEnum):
    """Why a packet is lost."""

    CHANCE = "chance"
    QUEUE_FULL = "queue full"
    DOWN = "path down"
    BLACK_HOLE = "black hole"


class Passage(NamedTuple):
    """What becomes of one packet."""

    left: float
    """When its last byte has left: from then on its sender waits for an answer."""
    arrivals: tuple[float, ...]
    """When each copy arrives; none for a lost one."""
    lost: Loss | None = None
    reordered: bool = False


class _Lane:
    """What the packets of one pair of hosts share on a way."""

    __slots__ = ("arrived", "generator", "left")

    def __init__(self, seed: str) -> None:
        self.generator = random.Random(seed)  # to be repeatable, not to be secret
        #: When the last packet has left, and when it arrives.
        self.left = 0.0
        self.arrived = 0.0


class Way:
    """One direction of a path.

    Attributes:
        label: From where to where.
        conditions: What it is like now; :meth:`set` changes some of it.
        state: Whether it is up.
        counts: What went through so far.
    """

    def __init__(
        self,
        label: str,
        *,
        seed: str = "",
        conditions: Conditions | None = None,
        changed: Callable[[Way, State], None] = lambda way, before: None,
    ) -> None:
        """Not called by applications: see ``VirtualNetwork.path``.

        Args:
            label: From where to where.
            seed: The same one gives the same luck.
            conditions: What it is like; ``None``: nothing is lost, nothing takes time.
            changed: Told when its state has changed, and what it was before.
        """
        self.label = label
        self.conditions = conditions or Conditions()
        self.state = State.UP
        self.counts = Counts()
        self._seed = f"{seed}/{label}"
        self._changed = changed
        self._lanes: dict[tuple[str, str], _Lane] = {}

    def __repr__(self) -> str:
        return f"<Way {self.label}, {self.state}>"

    # -- what it is like

    def set(self, **conditions: Unpack[ConditionKeywords]) -> Self:
        """Change some of the conditions for what is sent from now on.

        Raises:
            ValueError: They cannot be; nothing was changed.
        """
        self.conditions = dataclasses.replace(self.conditions, **conditions)
        return self

    def down(self) -> None:
        """Nothing gets through from now on; who sends is told that there is no route."""
        self.enter(State.DOWN)

    def blackhole(self) -> None:
        """Nothing gets through from now on, and nobody is told."""
        self.enter(State.BLACK_HOLE)

    def up(self) -> None:
        """What is sent from now on gets through."""
        self.enter(State.UP)

    def enter(self, state: State) -> None:
        """Change the state."""
        before, self.state = self.state, state
        if before is not state:
            self._changed(self, before)

    # -- packets

    def carry(self, now: float, size: int, between: tuple[str, str] = ("", "")) -> Passage:
        """Decide about one packet.

        Args:
            now: The present, in seconds; never less than before.
            size: Bytes, overhead included.
            between: Names of the hosts, which share bandwidth and queue.
        """
        counts, conditions = self.counts, self.conditions
        counts.sent += 1
        counts.sent_bytes += size
        lane = self._lanes.get(between)
        if lane is None:
            lane = self._lanes[between] = _Lane(f"{self._seed}/{'/'.join(between)}")
        draw = lane.generator.random
        loss, duplicate, reorder, jitter = draw(), draw(), draw(), draw()
        left, lost = now, None
        if self.state is not State.UP:
            lost = Loss.DOWN if self.state is State.DOWN else Loss.BLACK_HOLE
        elif size and conditions.bandwidth < math.inf:
            # Rounded, lest a packet that fits is lost by the last bit of a float.
            waiting = round(max(0.0, lane.left - now) * conditions.bandwidth)
            if waiting and waiting + size > conditions.queue:
                lost = Loss.QUEUE_FULL
            else:
                left = lane.left = max(now, lane.left) + size / conditions.bandwidth
        if lost is None and loss < conditions.loss:
            lost = Loss.CHANCE
        if lost is not None:
            counts.lost += 1
            counts.lost_bytes += size
            return Passage(left, (), lost)
        arrival = left + conditions.latency + jitter * conditions.jitter
        reordered = reorder < conditions.reorder
        if reordered:
            counts.reordered += 1
            arrival += conditions.reorder_delay
        elif size:
            arrival = lane.arrived = max(arrival, lane.arrived)
        if duplicate < conditions.duplicate:
            counts.duplicated += 1
            return Passage(left, (arrival, arrival), None, reordered)
        return Passage(left, (arrival,), None, reordered)

    def restart(self) -> None:
        """Begin again with nothing on the way, on a clock that was set back."""
        for lane in self._lanes.values():
            lane.left = lane.arrived = 0.0

    def delivered(self, size: int) -> None:
        """Count a packet that has arrived."""
        self.counts.delivered += 1
        self.counts.delivered_bytes += size


class Path:
    """Both directions between two places; a view, any two of one path are equal.

    Attributes:
        there: From the first to the second.
        back: From the second to the first; the same as ``there`` between all and all.
    """

    __slots__ = ("back", "there")

    def __init__(self, there: Way, back: Way) -> None:
        """Not called by applications: see ``VirtualNetwork.path``."""
        self.there = there
        self.back = back

    @property
    def counts(self) -> Counts:
        """What went through so far, both directions together."""
        return (
            self.there.counts if self.there is self.back else self.there.counts + self.back.counts
        )

    def set(self, **conditions: Unpack[ConditionKeywords]) -> Self:
        """Change some of the conditions, in both directions, for what is sent from now on.

        Raises:
            ValueError: They cannot be.
        """
        self.there.set(**conditions)
        self.back.set(**conditions)
        return self

    def down(self) -> None:
        """Nothing gets through from now on; who sends is told that there is no route."""
        self._enter(State.DOWN)

    def blackhole(self) -> None:
        """Nothing gets through from now on, and nobody is told."""
        self._enter(State.BLACK_HOLE)

    def up(self) -> None:
        """What is sent from now on gets through."""
        self._enter(State.UP)

    def _enter(self, state: State) -> None:
        self.there.enter(state)
        self.back.enter(state)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Path):
            return self.there is other.there and self.back is other.back
        return NotImplemented

    def __hash__(self) -> int:
        return hash((id(self.there), id(self.back)))

    def __repr__(self) -> str:
        return f"<Path {self.there.label}, {self.there.state}>"


class Paths:
    """All paths of a network: which of them a packet takes.

    Each end of a path is an address, a host, or everything. The most particular
    path that fits is taken.

    Args:
        seed: Of all luck.
        changed: Told of a way whose state has changed, and what it was before.
    """

    def __init__(self, seed: str, changed: Callable[[Way, State], None]) -> None:
        self._seed = seed
        self._changed = changed
        self._ways: dict[tuple[End, End], Way] = {}
        self.path([None], [None])

    def path(self, one: list[End], other: list[End]) -> Path:
        """The path between two ends; made, like what it was part of so far, if there is none.

        Args:
            one: The end, and what it is part of, the most particular first.
            other: Likewise.
        """
        return Path(self._way(one, other), self._way(other, one))

    def _way(self, source: list[End], target: list[End]) -> Way:
        ends = source[0], target[0]
        way = self._ways.get(ends)
        if way is None:
            way = self._ways[ends] = Way(
                " → ".join(end or "all" for end in ends),
                seed=self._seed,
                conditions=self.taken(source, target).conditions if self._ways else None,
                changed=self._changed,
            )
        return way

    def taken(self, source: list[End], target: list[End]) -> Way:
        """The way of a packet from an address to an address."""
        fitting = [
            (rank + other_rank, self._ways[end, other])
            for rank, end in enumerate(source)
            for other_rank, other in enumerate(target)
            if (end, other) in self._ways
        ]
        return min(fitting, key=lambda found: found[0])[1]

    def restart(self) -> None:
        """Begin again with nothing on the way, on a clock that was set back."""
        for way in self._ways.values():
            way.restart()

    @property
    def counts(self) -> Counts:
        """What went through all of them so far."""
        return sum((way.counts for way in self._ways.values()), Counts())
