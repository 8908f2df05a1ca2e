"""What an idle Connection weighs: many of them between two processes, against asyncio streams.

Memory is that of the processes, not that of Python: what they have for themselves
(USS), before and after; so the loop's and the allocator's share is in it, and what the
kernel has for a socket is not.
"""

from __future__ import annotations

import resource
import statistics
from typing import TYPE_CHECKING, Final

from benchmarks.harness import End, Result
from benchmarks.idle import SMAPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["COUNT", "idle"]

#: Connections between the two processes: each has so many ends.
COUNT: Final = 5000
#: Before the first measurement: all code has run, and all pools have begun.
WARM: Final = 200


def weigh(kind: str, loop: str, count: int) -> float:
    """Bytes for each of ``2 * count`` ends."""
    with (
        End("idle", "server", kind, loop) as server,
        End("idle", "client", kind, loop, server.read()) as client,
    ):
        client.ask(f"open {min(WARM, count)}")
        before = sum(int(end.ask("memory")) for end in (server, client))
        client.ask(f"open {count}")
        after = sum(int(end.ask("memory")) for end in (server, client))
    return (after - before) / (2 * count)


def idle(pairs: int, loops: Sequence[str], scale: float) -> Iterator[Result]:
    """The row, on each loop. Two runs differ by a percent: a third of the pairs will do.

    With fewer descriptors than that takes there are fewer connections, and the row says
    how many. Only Linux tells what a process has for itself: elsewhere there is no row.
    """
    if not SMAPS.exists():
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = max(20, int(COUNT * scale))
    if most != resource.RLIM_INFINITY:
        count = min(count, most - WARM - 100)
    for loop in loops:
        weights = [
            (weigh("taps", loop, count), weigh("streams", loop, count))
            for _ in range(max(2, pairs // 3))
        ]
        ratios = [ours / theirs for ours, theirs in weights]
        quartiles = statistics.quantiles(ratios, n=4)
        yield Result(
            work=f"{2 * count:,} idle, memory each",
            against="asyncio streams",
            loop=loop,
            ratio=statistics.median(ratios),
            budget="<= 1.2",
            ours=statistics.median(ours for ours, _ in weights),
            theirs=statistics.median(theirs for _, theirs in weights),
            spread=(quartiles[0], quartiles[2]),
        )
