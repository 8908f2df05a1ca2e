"""What establishment tells of itself: names resolved, attempts made, with times and errors.

One :class:`EstablishmentReport` belongs to each Connection that was initiated. It is
kept while the race runs, costs little when nobody reads it, and is bounded: an
establishment has a bounded number of candidates, and of those that were given up
because endpoints changed only the latest are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from taps_core.model.endpoints import Endpoint

__all__ = ["MAX_RECORDS", "Attempt", "EstablishmentReport", "Resolution", "Tried"]

logger = logging.getLogger("taps_core")

#: Attempts, and resolutions, that are kept when the candidates are worked out anew.
MAX_RECORDS: Final = 64


class Tried(Protocol):
    """What an attempt tries: a leaf of the candidate tree."""

    @property
    def what(self) -> str:
        """Stack and address."""

    def as_json(self) -> dict[str, Any]:
        """Its parts as values that ``json`` can write."""


class Attempt:
    """One thing that was tried during establishment.

    Attributes:
        started: Seconds since establishment began.
        connected: Seconds since establishment began at which the transport was connected
            and what is above it, such as TLS, could begin; ``None`` where that did not
            happen, or where nothing above has to talk to the peer.
        ended: Seconds since establishment began, or ``None`` while it runs.
        outcome: ``"running"``, ``"ready"``, ``"failed"`` or ``"cancelled"``.
        error: What ended it, if it failed; if it was cancelled, what it had not done yet,
            where a layer says that.
    """

    __slots__ = ("_tried", "connected", "ended", "error", "outcome", "started")

    def __init__(self, tried: str | Tried, started: float) -> None:
        # Not its sentence: most are never read.
        self._tried = tried
        self.started = started
        self.connected: float | None = None
        self.ended: float | None = None
        self.outcome = "running"
        self.error: BaseException | None = None

    @property
    def what(self) -> str:
        """Protocol Stack and address, ``"LengthPrefix/TCP to 127.0.0.1:7000"``."""
        return self._tried if isinstance(self._tried, str) else self._tried.what

    def __repr__(self) -> str:
        return f"<Attempt {self}>"

    def __str__(self) -> str:
        return f"{self.what}: {_fate(self)}"

    def as_json(self) -> dict[str, Any]:
        """The same as values that ``json`` can write; times in seconds.

        ``what``, ``started``, ``connected``, ``ended``, ``outcome``, and ``error``, a
        sentence or ``None``. Of a Connection's attempts also ``stack``, ``path``,
        ``remote``, ``local`` (or ``None``: the system chose), ``failover``: how many
        classes of other security had to fail before it could begin, and ``silent``: whether
        it is established without a word from the peer, and so proves nothing.
        """
        parts = {} if isinstance(self._tried, str) else self._tried.as_json()
        return {
            "what": self.what,
            **parts,
            "started": self.started,
            "connected": self.connected,
            "ended": self.ended,
            "outcome": self.outcome,
            "error": _sentence(self.error),
        }


class Resolution:
    """One name that was resolved during establishment.

    Attributes:
        path: Name of the path by which it was asked for; ``"default"``: the system's choice,
            or that of a resolver of the application's own.
        started: Seconds since establishment began.
        ended: When the last answer was there; ``None`` while some may come.
        outcome: ``"running"``, ``"resolved"``, ``"failed"`` or ``"cancelled"``.
        found: What it gave, and when that was known: pairs of seconds since
            establishment began and address.
        error: Why it gave nothing more.
    """

    __slots__ = ("_asked", "ended", "error", "found", "outcome", "path", "started")

    def __init__(self, asked: object, started: float, path: str = "default") -> None:
        self._asked = asked
        self.path = path
        self.started = started
        self.ended: float | None = None
        self.outcome = "running"
        self.found: list[tuple[float, str]] = []
        self.error: BaseException | None = None

    @property
    def name(self) -> str:
        """What was asked for: name with port or service."""
        return str(self._asked)

    def __repr__(self) -> str:
        return f"<Resolution {self}>"

    def __str__(self) -> str:
        addresses = ", ".join(address for _, address in self.found)
        where = "" if self.path == "default" else f" by {self.path}"
        return f"{self.name}{where}: {_fate(self)}" + (f": {addresses}" if addresses else "")

    def as_json(self) -> dict[str, Any]:
        """The same as values that ``json`` can write; times in seconds.

        ``name``, ``path``, ``started``, ``ended``, ``outcome``, ``found`` (a list of objects
        with ``at`` and ``address``), and ``error``, a sentence or ``None``.
        """
        return {
            "name": self.name,
            "path": self.path,
            "started": self.started,
            "ended": self.ended,
            "outcome": self.outcome,
            "found": [{"at": at, "address": address} for at, address in self.found],
            "error": _sentence(self.error),
        }


class EstablishmentReport(Sequence[Attempt]):
    """What was tried to establish one Connection, in order of start: a sequence of Attempts.

    Live while it is establishing. Equal to a sequence with equal attempts. Of a
    Connection that a Listener handed over, or that is a stream of an existing one,
    it is empty: nothing was tried.

    Attributes:
        began: ``loop.time()`` when establishment began: all other times count from there.
        ended: Seconds since then at which it was Ready, or had failed; ``None`` before.
        outcome: ``"running"``, ``"ready"``, ``"failed"`` (also when the time was over) or
            ``"cancelled"`` (the application gave up).
        error: Why it failed, one line; ``None`` otherwise.
        resolutions: Names that were resolved, in order of start. Addresses need none.
        waiting: Candidates whose turn had not come when it ended, the best first.
    """

    __slots__ = (
        "_attempts",
        "_watchers",
        "began",
        "ended",
        "error",
        "outcome",
        "resolutions",
        "waiting",
    )

    def __init__(self, began: float) -> None:
        self.began = began
        self.ended: float | None = None
        self.outcome = "running"
        self.error: str | None = None
        self.resolutions: Sequence[Resolution] = ()
        self.waiting: Sequence[Tried] = ()
        self._attempts: Sequence[Attempt] = ()
        self._watchers: tuple[Watcher, ...] = ()

    # -- reading

    @overload
    def __getitem__(self, index: int) -> Attempt: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Attempt]: ...
    def __getitem__(self, index: int | slice) -> Attempt | Sequence[Attempt]:
        return self._attempts[index]

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._attempts)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (EstablishmentReport, tuple, list)):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes while the race runs

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """What was tried so far, in order of start."""
        return tuple(self._attempts)

    @property
    def untried(self) -> int:
        """How many candidates were there whose turn had not come."""
        return len(self.waiting)

    def watch(self, watcher: Watcher) -> None:
        """Call ``watcher(changed)`` whenever something has changed, from now to the end.

        Args:
            watcher: A plain function. It is given the :class:`Attempt` or the
                :class:`Resolution` that began, got further or ended, and in the end,
                once, this report. It is called in the middle of the race, so it had
                better be quick; what it raises is logged, and changes nothing.
        """
        if self.ended is None:
            self._watchers += (watcher,)

    def as_json(self) -> dict[str, Any]:
        """The same as values that ``json`` can write; times in seconds since the beginning.

        ``outcome``, ``ended``, ``error``, ``untried``, ``resolutions`` and ``attempts``:
        lists of what :meth:`Resolution.as_json` and :meth:`Attempt.as_json` say; and
        ``waiting``, a list of what an attempt says of its candidate. Keys may be added in
        time; none changes its meaning.
        """
        return {
            "outcome": self.outcome,
            "ended": self.ended,
            "error": self.error,
            "untried": self.untried,
            "resolutions": [each.as_json() for each in self.resolutions],
            "attempts": [each.as_json() for each in self],
            "waiting": [{"what": each.what, **each.as_json()} for each in self.waiting],
        }

    def __str__(self) -> str:
        took = "" if self.ended is None else f" after {_ms(self.ended)}"
        records: list[Attempt | Resolution] = [*self.resolutions, *self]
        records.sort(key=lambda each: each.started)
        lines = [f"{_ms(each.started):>9}  {each}" for each in records]
        return "\n".join([f"{self.outcome}{took}", *lines])

    def __repr__(self) -> str:
        return f"<EstablishmentReport {self.outcome}, {len(self)} attempts>"

    # -- writing: by the runtime

    def gather(self) -> list[Attempt]:
        """The candidates are worked out, again perhaps: where to add attempts to, live."""
        attempts: list[Attempt] = []
        if self._attempts or self.resolutions:
            attempts += self._attempts[-MAX_RECORDS:]
            self.resolutions = self.resolutions[-MAX_RECORDS:]
        self._attempts = attempts
        return attempts

    def resolving(self, asked: object, now: float, path: str = "default") -> Resolution:
        """What ``asked`` prints as is asked for, from ``now`` (of the loop) on, by this path."""
        resolution = Resolution(asked, now - self.began, path)
        self.resolutions = [*self.resolutions, resolution]
        self.tell(resolution)
        return resolution

    def resolved(self, resolution: Resolution, found: Sequence[Endpoint], now: float) -> None:
        """It has given these, and may give more."""
        at = now - self.began
        resolution.found += [(at, each.ip_address or str(each)) for each in found]
        self.tell(resolution)

    def resolution_over(
        self, resolution: Resolution, outcome: str, now: float, error: BaseException | None = None
    ) -> None:
        """It has nothing more to give."""
        resolution.ended = now - self.began
        resolution.outcome = outcome
        resolution.error = error
        self.tell(resolution)

    def over(self, outcome: str, now: float, error: BaseException | None = None) -> None:
        """Establishment has ended."""
        self.ended = now - self.began
        self.outcome = outcome
        self._attempts = tuple(self._attempts)  # most Connections keep one for long
        if error is not None:
            self.error = str(error).partition("\n")[0].rstrip(":")
        if self._watchers:
            self.tell(self)
            self._watchers = ()

    def tell(self, changed: Attempt | Resolution | EstablishmentReport) -> None:
        """Something has changed."""
        for watcher in self._watchers:
            try:
                watcher(changed)
            except Exception:  # an application's: it must not cost the race
                logger.exception("%r, which watches an establishment, failed", watcher)


if TYPE_CHECKING:
    Watcher: TypeAlias = Callable[[Attempt | Resolution | EstablishmentReport], object]


def _fate(record: Attempt | Resolution) -> str:
    took = "" if record.ended is None else f" after {_ms(record.ended - record.started)}"
    why = f": {record.error}" if record.error is not None else ""
    return f"{record.outcome}{took}{why}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _sentence(error: BaseException | None) -> str | None:
    return None if error is None else str(error) or type(error).__name__
