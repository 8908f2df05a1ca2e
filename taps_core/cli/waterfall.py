"""What happened in an establishment, as a picture without a place to be drawn on.

Rows, bars with times, and sentences, made of what ``EstablishmentReport.as_json()`` gives:
the terminal and the page draw the same. A report says when something was tried and not
why; that follows from what had happened just before, and the sentences say no more than
that.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Bar",
    "Fate",
    "NotAReport",
    "Phase",
    "Row",
    "Waterfall",
    "columns",
    "in_ms",
    "shortened",
    "waterfall",
]

#: Seconds between what began together.
_TOGETHER: Final = 0.001
#: Seconds in which a cause has its effect, on a busy machine too; the least delay is twice that.
_AT_ONCE: Final = 0.005
#: Seconds that no establishment takes: a file that says so is wrong.
_NEVER: Final = 1e9
#: Seconds that an axis is long, at least; and while it runs.
_LEAST_SPAN: Final = 0.0001
_LEAST_LIVE: Final = 0.25
#: Numbers that are easy on the eye, below 10 and next above.
_ROUND: Final = (1, 2, 5, 10, 20)
#: Addresses of one name that a sentence lists.
_LISTED: Final = 6
#: Candidates that were never tried and have a row of their own.
_WAITING: Final = 6
#: Milliseconds below which tenths are of interest.
_SHORT: Final = 9.95
#: Seconds from which on milliseconds are not.
_LONG: Final = 10


class NotAReport(ValueError):
    """What was read is not what ``EstablishmentReport.as_json()`` gives."""


class Phase(Enum):
    """What is done meanwhile. The value explains it."""

    ASKING = "asking for addresses"
    DELAY = "waiting, as the attempt before has a head start"
    OPENING = "getting ready without the peer"
    CONNECTING = "connecting"
    HANDSHAKE = "connected; handshake above it, such as TLS"


class Fate(Enum):
    """How something ended. The value says it in a word or two, ``meaning`` in a legend."""

    RUNNING = ("running", "not over")
    WON = ("won", "ready")
    FAILED = ("failed", "failed")
    CANCELLED = ("cancelled", "closed, as another had won or all was over")
    FOUND = ("found", "found")
    UNTRIED = ("never tried", "never tried")

    meaning: str

    def __new__(cls, word: str, meaning: str) -> Self:
        """The value is the word."""
        fate = object.__new__(cls)
        fate._value_ = word
        fate.meaning = meaning
        return fate


class Kind(Enum):
    """What a row is about."""

    NAME = auto()
    ATTEMPT = auto()
    WAITING = auto()


class Bar(NamedTuple):
    """A stretch of time, in seconds since the beginning."""

    phase: Phase
    start: float
    end: float


@dataclass(frozen=True)
class Row:
    """One name, attempt, or candidate that was never tried.

    Attributes:
        mark: Number of an attempt, letter of a name, as sentences call it.
        title: Protocol Stack, or what was asked for.
        place: Address, and from where; may be empty.
        fate: How it ended.
        result: The same in a few words.
        bars: In order of time; empty if it was never tried.
        arrivals: When addresses came.
        story: What happened, in sentences.
        error: What ended it, as its layer said it; may be empty.
    """

    kind: Kind
    mark: str
    title: str
    place: str
    fate: Fate
    result: str
    bars: tuple[Bar, ...]
    arrivals: tuple[float, ...]
    story: str
    error: str = ""

    @property
    def label(self) -> str:
        """Title and place."""
        return f"{self.title} to {self.place}" if self.place else self.title

    @property
    def end(self) -> float | None:
        """When it was over, in seconds; ``None`` where there is no such time."""
        return None if not self.bars or self.fate is Fate.RUNNING else self.bars[-1].end


@dataclass(frozen=True)
class Waterfall:
    """The whole picture.

    Attributes:
        headline: What came of it.
        lead: More of that, and how to read the picture; may be empty.
        fate: WON, FAILED, CANCELLED or RUNNING.
        ended: When establishment was over, in seconds; ``None``: it runs.
        span: Seconds that the axis is long.
        rows: In order of time; what was never tried comes last.
    """

    headline: str
    lead: str
    fate: Fate
    ended: float | None
    span: float
    rows: tuple[Row, ...]

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those that there are, for a legend."""
        there = {bar.phase for row in self.rows for bar in row.bars}
        return tuple(phase for phase in Phase if phase in there)

    @property
    def fates(self) -> tuple[Fate, ...]:
        """How things ended in it, for a legend."""
        there = {row.fate for row in self.rows if row.bars and row.fate is not Fate.FOUND}
        return tuple(fate for fate in Fate if fate in there)

    @property
    def arrivals(self) -> bool:
        """Whether addresses came."""
        return any(row.arrivals for row in self.rows)

    @property
    def steps(self) -> tuple[Row, ...]:
        """The rows as a tale: what was never tried is one of them, for the same reason."""
        waiting = [row for row in self.rows if row.kind is Kind.WAITING]
        if len(waiting) < 2:
            return self.rows
        names = ", ".join(row.label for row in waiting)
        begun = self.rows[: len(self.rows) - len(waiting)]
        return (*begun, replace(waiting[0], title=names, place=""))

    def ticks(self, most: int) -> list[float]:
        """Round times for the axis, in seconds, from 0; at most ``most``, but two at least."""
        least = self.span / max(most - 1, 1)
        power = 10.0 ** math.floor(math.log10(least))
        step = next(each * power for each in _ROUND if each * power >= least * 0.999999)
        return [count * step for count in range(math.floor(self.span / step * 1.000001) + 1)]


def waterfall(told: object, *, now: float | None = None) -> Waterfall:
    """Work out the picture.

    Args:
        told: What ``EstablishmentReport.as_json()`` gave, perhaps from a file.
        now: Seconds since the beginning, if it runs; ``None``: the latest time in it.

    Raises:
        NotAReport: It is something else; says what is wrong.
    """
    return _Report(told, now).picture()


def in_ms(seconds: float) -> str:
    """A time for people: milliseconds, or seconds where there are many."""
    if seconds >= _LONG:
        return f"{seconds:.1f} s"
    if 0 < seconds * 1000 < _SHORT:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms"


def columns(text: str) -> int:
    """How wide it is, in characters of a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def shortened(text: str, width: int, *, keep_end: bool = True) -> str:
    """Of at most ``width`` columns.

    Args:
        text: In one line.
        width: Columns there are.
        keep_end: What is in the middle goes, as the ends of addresses tell them apart;
            else what is at the end.
    """
    if columns(text) <= width:
        return text
    if width <= 0:
        return ""
    left = width // 2 if keep_end else width - 1
    head, tail = text[:left], text[len(text) - (width - left - 1) :]
    while columns(head) + columns(tail) + 1 > width:
        head, tail = (head[:-1], tail) if len(head) >= len(tail) else (head, tail[1:])
    return f"{head}…{tail}"


# -- reading


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise NotAReport(f"{what} is no object")
    return value


def _list(told: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = told.get(name, [])
    if not isinstance(value, list):
        raise NotAReport(f"{name} is no list")
    return value


def _text(told: Mapping[str, Any], name: str, what: str) -> str:
    value = told.get(name)
    if not isinstance(value, str):
        raise NotAReport(f"{name} of {what} is no text")
    return " ".join(value.split())


def _optional_text(told: Mapping[str, Any], name: str, what: str) -> str:
    return "" if told.get(name) is None else _text(told, name, what)


def _time(told: Mapping[str, Any], name: str, what: str) -> float:
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _NEVER:
        raise NotAReport(f"{name} of {what} is no number of seconds")
    return float(value)


def _optional_time(told: Mapping[str, Any], name: str, what: str) -> float | None:
    return None if told.get(name) is None else _time(told, name, what)


class _Name:
    """A Resolution."""

    def __init__(self, told: object, index: int) -> None:
        what = f"resolution {index + 1}"
        fields = _mapping(told, what)
        self.mark = chr(ord("A") + index) if index < len("ABCDEFGHIJKLMNOPQRSTUVWXYZ") else "·"
        self.name = _text(fields, "name", what)
        path = _optional_text(fields, "path", what)
        if path not in ("", "default"):
            self.name += f" by {path}"
        self.started = _time(fields, "started", what)
        self.ended = _optional_time(fields, "ended", what)
        self.outcome = _text(fields, "outcome", what)
        self.error = _optional_text(fields, "error", what)
        self.found = [
            (_time(each, "at", f"an address of {what}"), _text(each, "address", what))
            for each in (_mapping(each, f"an address of {what}") for each in _list(fields, "found"))
        ]

    @property
    def times(self) -> list[float]:
        return [self.started, self.ended or 0.0, *(at for at, _ in self.found)]


class _Candidate:
    """What is tried: of an attempt, or waiting for its turn."""

    def __init__(self, fields: Mapping[str, Any], what: str) -> None:
        self.what = _text(fields, "what", what)
        self.stack = _optional_text(fields, "stack", what) or self.what
        self.remote = _optional_text(fields, "remote", what)
        self.local = _optional_text(fields, "local", what)
        path = _optional_text(fields, "path", what)
        self.path = "" if path == "default" else path
        self.silent = fields.get("silent") is True
        failover = fields.get("failover")
        self.failover = isinstance(failover, int) and failover > 0

    @property
    def place(self) -> str:
        origin = f" from {self.local}" if self.local else ""
        path = f" by {self.path}" if self.path and self.path != self.local else ""
        return f"{self.remote}{origin}{path}" if self.remote else ""


class _Attempt(_Candidate):
    """An Attempt."""

    def __init__(self, told: object, index: int) -> None:
        what = f"attempt {index + 1}"
        fields = _mapping(told, what)
        super().__init__(fields, what)
        self.mark = str(index + 1)
        self.started = _time(fields, "started", what)
        self.connected = _optional_time(fields, "connected", what)
        self.ended = _optional_time(fields, "ended", what)
        self.outcome = _text(fields, "outcome", what)
        self.error = _optional_text(fields, "error", what)

    @property
    def times(self) -> list[float]:
        return [self.started, self.connected or 0.0, self.ended or 0.0]


class _Report:
    """All of it, read, and what is worked out from it."""

    def __init__(self, told: object, now: float | None) -> None:
        fields = _mapping(told, "the report")
        for name in ("outcome", "attempts"):
            if name not in fields:
                raise NotAReport(f"there is no {name} in it")
        self.outcome = _text(fields, "outcome", "the report")
        self.ended = _optional_time(fields, "ended", "the report")
        self.error = _optional_text(fields, "error", "the report")
        self.names = [_Name(each, at) for at, each in enumerate(_list(fields, "resolutions"))]
        self.attempts = [_Attempt(each, at) for at, each in enumerate(_list(fields, "attempts"))]
        self.waiting = [
            _Candidate(_mapping(each, "what waits"), "what waits")
            for each in _list(fields, "waiting")
        ]
        #: Whether there was more than one way to go.
        self.raced = len(self.attempts) + len(self.waiting) > 1
        records: list[_Name | _Attempt] = [*self.names, *self.attempts]
        latest = max([self.ended or 0.0, *(time for each in records for time in each.times)])
        self.now = latest if now is None or self.ended is not None else max(now, latest)
        ready = [each for each in self.attempts if each.outcome == "ready"]
        self.winner = ready[-1] if ready else None

    def picture(self) -> Waterfall:
        named = [(each.started, 0, self.name_row(each)) for each in self.names]
        tried = [(each.started, 1, self.attempt_row(each)) for each in self.attempts]
        begun = [row for *_, row in sorted(named + tried, key=lambda each: each[:2])]
        fate = {"ready": Fate.WON, "failed": Fate.FAILED, "cancelled": Fate.CANCELLED}
        return Waterfall(
            self.headline(),
            self.lead(),
            fate.get(self.outcome, Fate.RUNNING),
            self.ended,
            max(self.now, _LEAST_SPAN) if self.ended is not None else _round_span(self.now),
            (*begun, *self.waiting_rows()),
        )

    # -- in all

    def headline(self) -> str:
        took, winner = in_ms(self.now), self.winner
        match self.outcome:
            case "ready":
                if winner is None:
                    return f"Ready after {took}"
                if winner.silent:
                    return f"Ready after {took}, without a word from the peer: {winner.what}"
                return f"Connected after {took}: {winner.what}"
            case "failed":
                why = f": {self.error}" if self.error else ""
                return f"Not connected, after {took}{why}"
            case "cancelled":
                return f"Given up on this side after {took}"
            case _:
                return f"Connecting, for {took} so far"

    def lead(self) -> str:
        if not self.raced:
            return ""
        return (
            "There are several ways to the peer. They are tried one after another, each with a "
            "head start; the next begins when that is over, or at once when one fails. The first "
            "that is ready wins, and the others are closed."
        )

    # -- names

    def name_row(self, name: _Name) -> Row:
        over = name.ended is not None
        count = len(name.found)
        fate = {"failed": Fate.FAILED, "cancelled": Fate.CANCELLED, "resolved": Fate.FOUND}.get(
            name.outcome, Fate.RUNNING
        )
        result = fate.value
        if count and fate in (Fate.FOUND, Fate.RUNNING):
            result = f"{count} address{'es' * (count != 1)}"
        end = self.now if name.ended is None else name.ended
        return Row(
            Kind.NAME,
            name.mark,
            name.name,
            "",
            fate,
            result,
            (Bar(Phase.ASKING, name.started, max(end, name.started)),),
            tuple(dict.fromkeys(at for at, _ in name.found)),
            self.name_story(name, over=over),
            name.error,
        )

    def name_story(self, name: _Name, *, over: bool) -> str:
        parts = [f"The addresses of {name.name} were asked for."]
        by_time: dict[float, list[str]] = {}
        for at, address in name.found:
            by_time.setdefault(at, []).append(address)
        listed = 0
        for at, addresses in by_time.items():
            shown = addresses[: max(_LISTED - listed, 0)]
            listed += len(shown)
            if shown:
                parts.append(f"After {in_ms(at - name.started)}: {', '.join(shown)}.")
        if listed < len(name.found):
            parts.append(f"And {len(name.found) - listed} more.")
        took = in_ms((self.now if name.ended is None else name.ended) - name.started)
        if name.outcome == "failed":
            parts.append(_ended(f"That failed after {took}", name.error))
        elif name.outcome == "cancelled":
            parts.append(
                f"Nothing more was needed after {took}."
                if name.found
                else _ended(f"There was no answer in {took}", name.error)
            )
        elif not over:
            parts.append("More may come." if name.found else f"No answer in {took} so far.")
        return " ".join(parts)

    # -- attempts

    def attempt_row(self, attempt: _Attempt) -> Row:
        fates = {"ready": Fate.WON, "failed": Fate.FAILED, "cancelled": Fate.CANCELLED}
        fate = fates.get(attempt.outcome, Fate.RUNNING)
        cause, anchor = self.cause(attempt)
        end = self.now if attempt.ended is None else max(attempt.ended, attempt.started)
        bars = []
        if anchor is not None:
            bars.append(Bar(Phase.DELAY, anchor, attempt.started))
        connected = attempt.connected
        if connected is None:
            phase = Phase.OPENING if attempt.silent else Phase.CONNECTING
            bars.append(Bar(phase, attempt.started, end))
        else:
            connected = min(max(connected, attempt.started), end)
            bars.append(Bar(Phase.CONNECTING, attempt.started, connected))
            bars.append(Bar(Phase.HANDSHAKE, connected, end))
        return Row(
            Kind.ATTEMPT,
            attempt.mark,
            attempt.stack,
            attempt.place,
            fate,
            "ready" if fate is Fate.WON and not self.raced else fate.value,
            tuple(bars),
            (),
            f"{cause} {self.outcome_of(attempt, end)}",
            attempt.error,
        )

    def cause(self, attempt: _Attempt) -> tuple[str, float | None]:
        """Why it began then; and since when it waited, if it was for a delay."""
        start = attempt.started
        earlier = [each for each in self.attempts if each.started < start - _TOGETHER]
        known = any(
            start - _AT_ONCE <= at <= start + _TOGETHER and address in attempt.what
            for name in self.names
            for at, address in name.found
        )
        if not earlier:
            before = self.attempts[: self.attempts.index(attempt)]
            if before:
                return f"Tried at the same time as attempt {before[0].mark}.", None
            return (
                "Tried first, as soon as its address was known." if known else "Tried first.",
                None,
            )
        failed = [
            each
            for each in self.attempts[: self.attempts.index(attempt)]
            if each.outcome == "failed"
            and each.ended is not None
            and start - _AT_ONCE <= each.ended <= start + _TOGETHER
        ]
        fallback = " It is a fallback, with other security." if attempt.failover else ""
        if failed:
            return f"Tried at once when attempt {failed[-1].mark} had failed.{fallback}", None
        if known:
            return f"Tried as soon as its address was known.{fallback}", None
        running = [each for each in earlier if each.ended is None or each.ended > start]
        since, what = max(
            (
                (time, f"attempt {each.mark} {verb}")
                for each in running
                for time, verb in ((each.started, "had begun"), (each.connected, "was connected"))
                if time is not None and time < start - _TOGETHER
            ),
            default=(start, ""),
        )
        if not what:
            return f"Tried next.{fallback}", None
        why = "as that was not ready yet"
        return f"Tried {in_ms(start - since)} after {what}, {why}.{fallback}", since

    def outcome_of(self, attempt: _Attempt, end: float) -> str:
        took = in_ms(end - attempt.started)
        connected = attempt.connected
        won = self.winner
        winning = ", and won" if self.raced else ""
        if connected is not None:
            above = in_ms(max(end - connected, 0))
            begun = f"It was connected after {in_ms(max(connected - attempt.started, 0))}"
        match attempt.outcome:
            case "ready" if attempt.silent:
                return (
                    f"It was ready after {took}. Nothing had to be said to the peer for that, so "
                    "whether anybody is there is not known."
                )
            case "ready" if connected is not None:
                return f"{begun}, and the handshake above took {above} more: it was ready{winning}."
            case "ready":
                return f"It was ready after {took}{winning}."
            case "failed" if connected is not None:
                return _ended(
                    f"{begun}, but {above} later the handshake above failed", attempt.error
                )
            case "failed":
                return _ended(f"It failed after {took}", attempt.error)
            case "cancelled":
                said = f" ({attempt.error.rstrip('.')})" if attempt.error else ""
                close = "was given up"
                if won is not None and won is not attempt:
                    close = f"was closed when attempt {won.mark} had won"
                elif self.outcome == "failed":
                    close = "was closed when the time was over"
                if connected is not None:
                    return (
                        f"{begun}, but the handshake above did not end in the {above} that "
                        f"followed{said}: it {close}."
                    )
                return f"Nothing had come of it after {took}{said}: it {close}."
            case _ if connected is not None:
                return f"{begun}; the handshake above has taken {above} so far."
            case _:
                return f"Nothing has come of it in {took} so far."

    def waiting_rows(self) -> list[Row]:
        why = "All was over before its turn came."
        if self.winner is not None:
            why = f"Attempt {self.winner.mark} won before its turn came."
        shown = [(each.stack, each.place) for each in self.waiting[:_WAITING]]
        if len(self.waiting) > _WAITING + 1:
            shown.append((f"{len(self.waiting) - _WAITING} more like these", ""))
        else:
            shown += [(each.stack, each.place) for each in self.waiting[_WAITING:]]
        untried = Fate.UNTRIED
        return [
            Row(Kind.WAITING, "-", stack, place, untried, untried.value, (), (), why)
            for stack, place in shown
        ]


def _round_span(now: float) -> float:
    """While it runs the axis is longer than that, so that bars grow, and seldom shrink."""
    longest = max(now, _LEAST_LIVE)
    power = 10.0 ** math.floor(math.log10(longest))
    return next(each * power for each in _ROUND if each * power >= longest)


def _ended(sentence: str, error: str) -> str:
    return f"{sentence}: {error.rstrip('.')}." if error else f"{sentence}."
