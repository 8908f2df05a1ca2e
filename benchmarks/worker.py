"""One candidate on one loop, in a process of its own; does what it is told by lines.

``python -m benchmarks.worker CANDIDATE LOOP PEER`` reads ``ROW COUNT`` and answers
with the seconds it took.
"""

from __future__ import annotations

import asyncio
import gc
import sys

from benchmarks.candidates import CANDIDATES, Peer
from benchmarks.harness import LOOPS
from benchmarks.work import ROWS


def main() -> None:
    name, loop, *told = sys.argv[1:]
    there = Peer.of(told)
    kind = CANDIDATES[name]
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        for line in sys.stdin:
            row, count = line.split()
            gc.collect()  # the garbage of the run before is out of the way
            work = ROWS[row].work(kind, there, int(count), ROWS[row].size)
            print(runner.run(_given(work)), flush=True)


async def _given(work: object) -> object:
    return await work  # type: ignore[misc]  # a row's work


if __name__ == "__main__":
    main()
