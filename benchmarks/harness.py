"""Measuring: alternating pairs in one run, medians, ratios.

A single figure says more about the machine's mood than about the code. So each
candidate runs next to what it is compared with, in turns that swap, and what counts
is the median of the ratios of the pairs.

Candidates and peer are processes of their own, all on one core: what is compared is
work. On two cores, most of a ping-pong's time is how long a sleeping core takes to
wake up, which is the machine's doing and the same for everybody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from benchmarks.candidates import Peer

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "LOOPS",
    "SETTLED",
    "End",
    "Result",
    "Run",
    "Worker",
    "compare",
    "one_core",
    "peer",
]

#: Starts a loop: None is asyncio's own.
LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop] | None]] = {"asyncio": None}
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop

#: Seconds that one run of the work took.
Run: TypeAlias = Callable[[], float]

#: glibc's allocator gives blocks above a threshold back to the system each time, and
#: moves the threshold up when it has done so with a larger one. In a young process,
#: asyncio's 256 KiB for every read are dear for that reason; in one that has freed
#: something large before, they are not. With this they are so for nobody.
SETTLED: Final = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=67108864"
}


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
    """Median of a run: seconds, or what else is compared."""
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
            second = theirs()
            first = ours()
        else:
            first = ours()
            second = theirs()
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


def one_core() -> None:
    """Keep this process, and those it starts, on the first core that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


class Worker:
    """One candidate on one loop, in a process of its own, as a context manager.

    Args:
        candidate: Its name.
        loop: The name of its loop.
        there: The peer.
        environment: For its process, besides what this one has.
    """

    def __init__(
        self, candidate: str, loop: str, there: Peer, environment: Mapping[str, str]
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", candidate, loop, *there.told()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        )

    def run(self, row: str, count: int) -> float:
        """Seconds for the work of ``row``.

        Raises:
            RuntimeError: The worker is gone; what it had to say is on stderr.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        print(row, count, file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker failed at {row}")
        return float(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes the pipes, waits
            pass


class End:
    """A process that obeys lines and answers with lines, as a context manager.

    Args:
        program: A module of the benchmarks, or ``-c``.
        arguments: For it.
    """

    def __init__(self, program: str, *arguments: str) -> None:
        which = ("-c",) if program == "-c" else ("-m", f"benchmarks.{program}")
        self._process = subprocess.Popen(
            [sys.executable, *which, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        """A line of it.

        Raises:
            RuntimeError: It is gone; what it had to say is on stderr.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the other process failed")
        return line.strip()

    def ask(self, order: str) -> str:
        """Its answer to an order."""
        assert self._process.stdin is not None
        print(order, file=self._process.stdin, flush=True)
        return self.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # it may have thousands to close in order, for nobody
        with self._process:  # closes the pipes, waits
            pass


@contextlib.contextmanager
def peer() -> Iterator[Peer]:
    """The other side, in a process of its own; where it listens."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield Peer.of(process.stdout.readline().decode().split())
