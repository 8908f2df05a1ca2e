"""Racing (RFC 9623, section 4.3): which attempt starts when. No I/O, no clock.

The candidates are a tree. Its inner nodes are, from the root down, security
class, path, Protocol Stack and host; its leaves are addresses::

    class ─ path ─┬─ QUIC ─── example.net ─┬─ 2001:db8::1
                  │                        └─ 192.0.2.1
                  └─ TLS/TCP ─ example.net ─┬─ 2001:db8::1
                                            └─ 192.0.2.1

Each node has its own timer (section 4.3: no order across parents). It starts
its first child at once and the next one

* when its delay is over: then both run, nothing is cancelled;
* at once when a child fails; an inner node has failed when all its children have.

So a second address waits one delay, however many stacks there are, and a
second stack waits one delay, however many addresses the first one has. Rejected:
one flat list. Ordered by stack it keeps the third stack waiting for all
addresses of the others; ordered by address it does the same to the second
address.

The root is different: a class of weaker (or other) security starts only when
everything in the class before it has failed, and never while candidates of
that class may still come: otherwise whoever can slow down the first attempt
chooses the second (RFC 9623, section 12.1). And plaintext never starts where something
secured has failed by INVALID_CONFIGURATION or EstablishmentRefused: what the application
asked of security cannot be had, or its own pins and callbacks do not want the peer, and
doing without is no answer to that.

The runtime performs what the planner returns and reports back what happened::

    to_start = planner.start(now)
    to_start = planner.attempt_failed(leaf, error, now)
    to_cancel = planner.attempt_ready(leaf, now)
    to_start = planner.wake(now)                 # at planner.deadline()
    to_start = planner.add(leaves, now, more=…)  # a late AAAA
    to_cancel = planner.cancel(now)              # the application gave up

All times are seconds on one clock that never goes back.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import Attempt, EstablishmentRefused, Reason
from taps_core.planning.candidates import Leaf, interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    Delay: TypeAlias = "float | Callable[[Level, Leaf], float]"

__all__ = ["DELAY", "MAX_DELAY", "MIN_DELAY", "Level", "RacePlanner", "Racing"]

#: RFC 8305, section 8: Connection Attempt Delay, and the bounds that hold
#: for every kind of branch. The upper one is the RFC's recommendation.
DELAY: Final = 0.250
MIN_DELAY: Final = 0.010
MAX_DELAY: Final = 2.0


class Level(Enum):
    """What the children of a node of the tree are."""

    SECURITY_CLASS = "security class"
    PATH = "path"
    STACK = "Protocol Stack"
    HOST = "host"
    ADDRESS = "address"


class Racing(Enum):
    """When a node starts its next child (RFC 9623, section 4.3)."""

    STAGGERED = "staggered"
    """After a delay, or at once when one has failed. The usual choice."""
    SIMULTANEOUS = "simultaneous"
    """Together with the first. Loads the network: only where it is asked for."""
    FAILOVER = "failover"
    """Only when all that were started have failed."""


_LEVELS: Final = tuple(Level)


class _Node:
    """A node of the tree; a leaf's has ``leaf``, any other has children."""

    __slots__ = ("attempt", "begun", "children", "depth", "key", "leaf", "next_at", "parent")

    def __init__(self, depth: int, key: Any, parent: _Node | None) -> None:
        #: Steps from the root; its children are ``_LEVELS[depth]``.
        self.depth = depth
        #: What tells it from its siblings.
        self.key = key
        self.parent = parent
        self.children: list[_Node] = []
        #: How many of the children were begun, counted from the first.
        self.begun = 0
        #: When the next child begins although others still run.
        self.next_at = math.inf
        self.leaf: Leaf | None = None
        self.attempt: Attempt | None = None

    @property
    def waiting(self) -> bool:
        """Whether a child was not begun."""
        return self.begun < len(self.children)

    @property
    def failed(self) -> bool:
        """Whether everything below was tried in vain."""
        if self.leaf is not None:
            return self.attempt is not None and self.attempt.outcome == "failed"
        return not self.waiting and self.stuck

    @property
    def stuck(self) -> bool:
        """Whether every child that was begun has failed; so with none begun."""
        return all(child.failed for child in self.children[: self.begun])


class RacePlanner:
    """Decides about one race.

    Args:
        leaves: Candidates, the best first. Leaves of one class, path, stack
            and host need not be neighbours; the first of each counts for
            the order.
        delay: Seconds until a sibling starts, or a function of the level at
            which the node branches and of the leaf begun last there. Held
            between MIN_DELAY and MAX_DELAY.
        racing: Of everything but security classes, which are always failover.
        expect_more: Leaves may come by :meth:`add`; until they are said to
            be complete, the race does not fail.
        began: When establishment began, for the times in ``attempts``;
            ``None``: with :meth:`start`.

    Attributes:
        attempts: What was started, in that order, with outcomes and errors;
            live.
        winner: The leaf that became ready, or ``None``.
        expecting: Whether leaves may still come.
    """

    __slots__ = (
        "_began",
        "_begun",
        "_delay",
        "_needs_security",
        "_nodes",
        "_over",
        "_racing",
        "_root",
        "_started",
        "attempts",
        "expecting",
        "winner",
    )

    def __init__(
        self,
        leaves: Iterable[Leaf] = (),
        *,
        delay: Delay = DELAY,
        racing: Racing = Racing.STAGGERED,
        expect_more: bool = False,
        began: float | None = None,
    ) -> None:
        self.attempts: list[Attempt] = []
        self.winner: Leaf | None = None
        self.expecting = expect_more
        self._delay = delay
        self._racing = racing
        self._began = began
        self._started = False
        self._over = False
        #: Whether something has failed to which plaintext is no answer.
        self._needs_security = False
        self._root = _Node(0, None, None)
        #: Every leaf.
        self._nodes: dict[Leaf, _Node] = {}
        #: Every leaf that was started, in that order.
        self._begun: dict[Leaf, Attempt] = {}
        for leaf in leaves:
            self._insert(leaf)

    def __repr__(self) -> str:
        if self.winner is not None:
            state = f"won by {self.winner.what}"
        elif self._over:
            state = "cancelled"
        elif self.failed:
            state = "failed"
        else:
            state = f"{len(self.running)} of {len(self._nodes)} running"
        return f"<RacePlanner {state}>"

    # -- what it knows

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """All candidates so far, in the order in which they were given."""
        return tuple(self._nodes)

    @property
    def running(self) -> list[Leaf]:
        """Leaves that were started and whose end is not known, in that order."""
        return [leaf for leaf, attempt in self._begun.items() if attempt.outcome == "running"]

    @property
    def failed(self) -> bool:
        """Everything was tried in vain, or there is nothing to try, and nothing will come."""
        if self.expecting or self._over:
            return False
        return self._root.failed or (self._root.stuck and self._is_barred(self._root))

    @property
    def errors(self) -> list[BaseException]:
        """Of the attempts that failed, in the order of their start."""
        failed = [attempt.error for attempt in self.attempts if attempt.outcome == "failed"]
        return [error for error in failed if error is not None]

    def attempt_of(self, leaf: Leaf) -> Attempt:
        """The record of a leaf that was started."""
        return self._begun[leaf]

    def deadline(self) -> float | None:
        """When :meth:`wake` must be called unless something else happens before."""
        if not self._started or self._over:
            return None
        earliest = _earliest(self._root)
        return None if earliest == math.inf else earliest

    # -- what happens

    def start(self, now: float) -> list[Leaf]:
        """Begin the race. Returns what to start.

        Raises:
            RuntimeError: It was begun before.
        """
        if self._started:
            raise RuntimeError("this race was already started")
        self._started = True
        if self._began is None:
            self._began = now
        return self._due(now)

    def wake(self, now: float) -> list[Leaf]:
        """Time has passed. Returns what to start; nothing when called too early."""
        return self._due(now)

    def add(self, leaves: Iterable[Leaf], now: float, *, more: bool = False) -> list[Leaf]:
        """Further candidates are known; they join those that were not started.

        Addresses of a host that is in the race already alternate between the
        families, beginning with the one that was not tried last (RFC 8305,
        section 3). A new host, stack or path is its parent's last child.

        Args:
            leaves: May be empty, to say that there are no more.
            now: The present.
            more: Whether still more may come.

        Returns:
            What to start.

        Raises:
            RuntimeError: The candidates were declared complete.
        """
        if not self.expecting:
            raise RuntimeError("the candidates of this race are complete")
        self.expecting = more
        for host in {id(host): host for host in map(self._insert, leaves)}.values():
            _alternate(host)
        return self._due(now)

    def attempt_failed(self, leaf: Leaf, error: BaseException, now: float) -> list[Leaf]:
        """This attempt ended in vain. Returns what to start.

        A loser may still report its own end after the race was decided.

        Raises:
            RuntimeError: It was not running.
        """
        self._end(leaf, "failed", now).error = error
        if (
            isinstance(error, EstablishmentRefused)
            or getattr(error, "reason", None) is Reason.INVALID_CONFIGURATION
        ):
            self._needs_security = True
        node = self._nodes[leaf]
        # Whatever has failed now makes its parent go on at once. Not the root:
        # there only the failure of everything before counts.
        while node.failed and node.parent is not None and node.parent is not self._root:
            node = node.parent
            node.next_at = now
        return self._due(now)

    def attempt_ready(self, leaf: Leaf, now: float) -> list[Leaf]:
        """This attempt won: nothing more starts. Returns whom to cancel.

        Raises:
            RuntimeError: It was not running, or the race was over before.
        """
        if self._over:
            raise RuntimeError("this race is over")
        self._end(leaf, "ready", now)
        self.winner = leaf
        return self.cancel(now)

    def cancel(self, now: float) -> list[Leaf]:
        """Nothing more starts. Returns whom to cancel; recorded as cancelled."""
        self._over = True
        losers = self.running
        for leaf in losers:
            self._end(leaf, "cancelled", now)
        return losers

    # -- how

    def _insert(self, leaf: Leaf) -> _Node:
        """Put a leaf in its place; returns the node above it."""
        if leaf in self._nodes:
            raise ValueError(f"{leaf.what}: already in this race")
        node = self._root
        for depth, key in enumerate((leaf.group, leaf.path, leaf.stack.name, leaf.host), 1):
            for child in node.children:
                if child.key == key:
                    break
            else:
                child = _Node(depth, key, node)
                node.children.append(child)
                if depth == 1:
                    # The classes' order is a promise, however late one is known.
                    node.children[node.begun :] = sorted(
                        node.children[node.begun :], key=lambda it: it.key
                    )
            node = child
        child = _Node(len(_LEVELS), None, node)
        child.leaf = leaf
        node.children.append(child)
        self._nodes[leaf] = child
        return node

    def _due(self, now: float) -> list[Leaf]:
        """Begin everything that is due."""
        begun: list[Leaf] = []
        if self._started and not self._over:
            self._advance(self._root, now, begun)
        return begun

    def _advance(self, node: _Node, now: float, begun: list[Leaf]) -> None:
        for child in node.children[: node.begun]:
            if child.leaf is None:
                self._advance(child, now, begun)
        while node.waiting and self._is_due(node, now):
            self._begin_child(node, now, begun)

    def _is_due(self, node: _Node, now: float) -> bool:
        if node is self._root and self.expecting:
            # Only the first class may begin before all candidates are known.
            return node.begun == 0 and node.children[0].key == 0
        if node is self._root and self._is_barred(node):
            return False
        return node.next_at <= now or node.stuck

    def _is_barred(self, root: _Node) -> bool:
        """Whether all that is left is plaintext, where that is no answer."""
        if not (root.begun and root.waiting and self._needs_security):
            return False
        node = root.children[root.begun]
        while node.leaf is None:
            node = node.children[0]
        return node.leaf.stack.capabilities.protection is None

    def _begin_child(self, node: _Node, now: float, begun: list[Leaf]) -> Leaf:
        child = node.children[node.begun]
        node.begun += 1
        leaf = child.leaf
        if leaf is None:
            leaf = self._begin_child(child, now, begun)
        else:
            child.attempt = Attempt(leaf.what, now - (self._began or 0.0))
            self.attempts.append(child.attempt)
            self._begun[leaf] = child.attempt
            begun.append(leaf)
        node.next_at = self._next_at(node, leaf, now)
        return leaf

    def _next_at(self, node: _Node, last: Leaf, now: float) -> float:
        if node is self._root or self._racing is Racing.FAILOVER:
            return math.inf
        if self._racing is Racing.SIMULTANEOUS:
            return now
        delay = self._delay(_LEVELS[node.depth], last) if callable(self._delay) else self._delay
        return now + min(max(delay, MIN_DELAY), MAX_DELAY)

    def _end(self, leaf: Leaf, outcome: str, now: float) -> Attempt:
        attempt = self._begun.get(leaf)
        if attempt is None or attempt.outcome not in ("running", "cancelled"):
            raise RuntimeError(f"{leaf.what}: not running")
        attempt.outcome = outcome
        attempt.ended = now - (self._began or 0.0)
        return attempt


def _earliest(node: _Node) -> float:
    """When the first timer below this node fires; ``inf`` without one."""
    earliest = node.next_at if node.waiting else math.inf
    for child in node.children[: node.begun]:
        if child.leaf is None:
            earliest = min(earliest, _earliest(child))
    return earliest


def _alternate(host: _Node) -> None:
    """Order the addresses that wait, for a host that got more of them."""
    last = host.children[host.begun - 1].leaf if host.begun else None
    waiting = {child.leaf: child for child in host.children[host.begun :]}
    order = interleave(
        [leaf for leaf in waiting if leaf is not None],
        first=4 if last is not None and last.family == 6 else 6,
    )
    host.children[host.begun :] = [waiting[leaf] for leaf in order]
