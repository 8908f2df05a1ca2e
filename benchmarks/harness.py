"""Measuring: alternating pairs in one run, medians, ratios.

A single figure says more about the machine's mood than about the code. So
each candidate runs next to what it is compared with, in turns that swap, and
what counts is the median of the ratios of the pairs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeAlias

#: Starts a loop: None is asyncio's own.
LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop] | None]] = {"asyncio": None}
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop

#: Seconds that one run of the work took.
Run: TypeAlias = Callable[[], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table."""

    work: str
    against: str
    loop: str
    ratio: float
    """Above 1 is better for us if ``budget`` is a least value, else worse."""
    budget: str
    """``">= 1.1"``, ``"<= 1.6"``: see ``met``."""
    ours: float
    """Median seconds of a run."""
    theirs: float | None = None
    spread: tuple[float, float] = (0.0, 0.0)
    """First and third quartile of the ratios."""

    @property
    def met(self) -> bool:
        """Whether the budget is kept."""
        relation, bound = self.budget.split()
        return self.ratio >= float(bound) if relation == ">=" else self.ratio <= float(bound)

    def as_json(self) -> dict[str, Any]:
        """The same as values that ``json`` can write."""
        return {**dataclasses.asdict(self), "met": self.met}


def compare(
    work: str, against: str, loop: str, ours: Run, theirs: Run, *, budget: str, pairs: int
) -> Result:
    """Run both in turns; the ratio is of rates for a ``>=`` budget, of times for ``<=``."""
    rate = budget.startswith(">=")
    ours(), theirs()  # caches, first imports, the other side's code paths
    times: list[tuple[float, float]] = []
    for number in range(pairs):
        if number % 2:
            second = timed(theirs)
            first = timed(ours)
        else:
            first = timed(ours)
            second = timed(theirs)
        times.append((first, second))
    ratios = [second / first if rate else first / second for first, second in times]
    quartiles = statistics.quantiles(ratios, n=4)
    return Result(
        work=work,
        against=against,
        loop=loop,
        ratio=statistics.median(ratios),
        budget=budget,
        ours=statistics.median(first for first, _ in times),
        theirs=statistics.median(second for _, second in times),
        spread=(quartiles[0], quartiles[2]),
    )


def timed(run: Run) -> float:
    """One run, with the garbage of the one before out of the way."""
    gc.collect()
    return run()


def on_loop(loop: str, work: Callable[[], Awaitable[float]]) -> Run:
    """A run of a coroutine function on a loop of its own."""

    def run() -> float:
        async def main() -> float:
            return await work()

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            return runner.run(main())

    return run


@contextlib.contextmanager
def peer() -> Iterator[int]:
    """The other side, in a process of its own; the port it listens on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()  # it ends when nobody holds its stdin any more
        process.wait()
        process.stdout.close()
