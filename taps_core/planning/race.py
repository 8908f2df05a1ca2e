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

A delay is the time that an attempt gets to show that there is a peer. Where the
transport is connected it has shown that, and what remains is a handshake above it, such
as that of TLS: then the timers that wait for this attempt begin anew, once. Otherwise
each handshake over a path of 130 ms would start a second one for nothing.

A stack that is established without a word from the peer (UDP) would win every race that
it is let into, and prove nothing (section 4.6). Where it comes first it is what the
application prefers; else it starts only when all its siblings that shake hands have
failed, wherever it is in their order.

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
    planner.attempt_connected(leaf, now)         # the transport; more is to be done
    to_start = planner.wake(now)                 # at planner.deadline()
    to_start = planner.add(leaves, now, more=…)  # a late AAAA
    to_cancel = planner.cancel(now)              # the application gave up

All times are seconds on one clock that never goes back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import EstablishmentRefused, Reason
from taps_core.model.properties import Racing
from taps_core.model.reports import Attempt
from taps_core.planning.candidates import Leaf, interleave
from taps_core.planning.staggering import DELAY, MAX_DELAY, MIN_DELAY, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeAlias

    Delay: TypeAlias = "float | Callable[[Level, Leaf], float]"

__all__ = ["DELAY", "MAX_DELAY", "MIN_DELAY", "Level", "RacePlanner", "Racing"]

_LEVELS: Final = tuple(Level)


class _Node:
    """A node of the tree; a leaf's has ``leaf``, any other has children."""

    __slots__ = (
        "attempt",
        "begun",
        "children",
        "depth",
        "key",
        "leaf",
        "next_at",
        "parent",
        "rank",
        "silent",
    )

    def __init__(
        self, depth: int, key: Any, parent: _Node | None, rank: int = 0, silent: bool = False
    ) -> None:
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
        #: Smaller ones go first among siblings that wait.
        self.rank = rank
        #: Whether all that is below it is established without a word from the peer.
        self.silent = silent

    @property
    def timer(self) -> float:
        """When the next child begins although others still run; ``inf``: it does not."""
        return self.next_at if self.waiting and not self.children[self.begun].silent else math.inf

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
        attempts: What was started before, to go on with.

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
        attempts: list[Attempt] | None = None,
    ) -> None:
        self.attempts: list[Attempt] = [] if attempts is None else attempts
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
    def begun(self) -> Mapping[Leaf, Attempt]:
        """Leaves that were started, in that order, with what became of them."""
        return self._begun

    @property
    def waiting(self) -> tuple[Leaf, ...]:
        """Leaves that were never started, in the order in which they were given."""
        return tuple(leaf for leaf in self._nodes if leaf not in self._begun)

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
        section 3). A new stack or path goes among those that wait by its place, a new
        host is its parent's last child.

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

    def attempt_connected(self, leaf: Leaf, now: float) -> None:
        """The transport is connected; what is above it goes on from here.

        The delays that wait for this attempt begin anew; once for each attempt.

        Raises:
            RuntimeError: It was never started.
        """
        attempt = self._begun.get(leaf)
        if attempt is None:
            raise RuntimeError(f"{leaf.what}: not running")
        if attempt.connected is not None or attempt.outcome != "running":
            return
        attempt.connected = now - (self._began or 0.0)
        node = self._nodes[leaf]
        while node.parent is not None:
            last = node.parent.children[node.parent.begun - 1]
            node, child = node.parent, node
            if child is last and now < node.next_at < math.inf:
                node.next_at = self._next_at(node, leaf, now)

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
        path, stack = leaf.place
        for depth, (key, rank) in enumerate(
            ((leaf.group, leaf.group), (leaf.path, path), (leaf.stack.name, stack), (leaf.host, 0)),
            1,
        ):
            for child in node.children:
                if child.key == key:
                    child.silent = child.silent and leaf.silent
                    break
            else:
                child = _Node(depth, key, node, rank, leaf.silent)
                node.children.append(child)
            if len(node.children) > node.begun + 1:
                _order(node)
            node = child
        child = _Node(len(_LEVELS), None, node, 0, leaf.silent)
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
        return node.timer <= now or (node.stuck and not self._is_held_back(node))

    def _is_held_back(self, node: _Node) -> bool:
        """Whether the next child proves nothing, and something late beside it still may."""
        if not node.children[node.begun].silent:
            return False
        while node.parent is not None and node.parent is not self._root:
            child, node = node, node.parent
            siblings = node.children[: node.begun]
            if siblings[0].silent:
                continue  # it, or what is like it, came first
            if any(not (each is child or each.silent or each.failed) for each in siblings):
                return True
        return False

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
        if node.waiting and node.children[node.begun].silent:
            _order(node)  # it was among the first
        leaf = child.leaf
        if leaf is None:
            leaf = self._begin_child(child, now, begun)
        else:
            child.attempt = Attempt(leaf, now - (self._began or 0.0))
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
    earliest = node.timer
    for child in node.children[: node.begun]:
        if child.leaf is None:
            earliest = min(earliest, _earliest(child))
    return earliest


def _order(node: _Node) -> None:
    """Order the children that wait, where there are two or more of them.

    By rank, however late one is known: that of classes is a promise, that of paths and
    stacks the application's preference. What is silent goes behind what shakes hands,
    unless it is the first of all.
    """
    waiting = sorted(node.children[node.begun :], key=lambda child: child.rank)
    if node.parent is not None:
        first = 0
        while not node.begun and first < len(waiting) and waiting[first].silent:
            first += 1
        waiting[first:] = sorted(waiting[first:], key=lambda child: child.silent)
    node.children[node.begun :] = waiting


def _alternate(host: _Node) -> None:
    """Order the addresses that wait, for a host that got more of them."""
    last = host.children[host.begun - 1].leaf if host.begun else None
    waiting = {child.leaf: child for child in host.children[host.begun :]}
    order = interleave(
        [leaf for leaf in waiting if leaf is not None],
        first=4 if last is not None and last.family == 6 else 6,
    )
    host.children[host.begun :] = [waiting[leaf] for leaf in order]
