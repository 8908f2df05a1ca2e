"""What each step costs: bytecodes per Message, by function, of one candidate's work.

``python -m benchmarks.steps ping-pong`` traces the work of a row and counts. Counts
are the same on every machine and in every mood of it, so they show what a change
does where times are lost in noise. What is compiled (the loop of uvloop, sockets,
``struct``) counts as one step of whoever calls it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.candidates import CANDIDATES
from benchmarks.harness import LOOPS, peer
from benchmarks.work import ROWS

if TYPE_CHECKING:
    from types import FrameType

    from benchmarks.candidates import Peer

__all__ = ["Step", "steps"]


class Step(NamedTuple):
    """One function's share of a Message."""

    function: str
    """``module:qualified name``."""
    bytecodes: float
    calls: float


def steps(row: str, candidate: str, loop: str, there: Peer, count: int) -> list[Step]:
    """The steps of one Message (or connection) of a row, the largest first.

    What happens once for the whole run is divided by ``count`` as well.
    """
    bytecodes: Counter[str] = Counter()
    calls: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        name = f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}"
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            calls[name] += 1
        elif event == "opcode":
            bytecodes[name] += 1
        return trace

    async def work() -> None:
        described = ROWS[row]
        kind = CANDIDATES[candidate]
        await described.work(kind, there, count, described.size)  # caches, first imports
        sys.settrace(trace)
        try:
            await described.work(kind, there, count, described.size)
        finally:
            sys.settrace(None)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work())
    return [
        Step(name, number / count, calls[name] / count) for name, number in bytecodes.most_common()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--candidate", choices=CANDIDATES, default="taps")
    parser.add_argument("--loop", choices=LOOPS, default=list(LOOPS)[-1])
    parser.add_argument("--count", type=int, default=2000, help="Messages to trace")
    parser.add_argument("--most", type=int, default=20, help="functions to show")
    arguments = parser.parse_args()
    with peer() as there:
        found = steps(arguments.row, arguments.candidate, arguments.loop, there, arguments.count)
    print(f"{'bytecodes':>9} {'calls':>6}  function")
    for step in found[: arguments.most]:
        print(f"{step.bytecodes:9.1f} {step.calls:6.2f}  {step.function}")
    print(f"{sum(step.bytecodes for step in found):9.1f} in all")


if __name__ == "__main__":
    main()
