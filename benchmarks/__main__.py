"""Run the benchmarks, print a table of ratios, write JSON if asked."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from benchmarks import candidates as c
from benchmarks import local
from benchmarks.harness import LOOPS, Result, compare, on_loop, peer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROWS: Final = ("ping-pong", "send", "receive", "connect", "import", "select")
Budgets: TypeAlias = dict[type[c.Candidate], str]
#: Least budgets: rates; most budgets: times. Against whom → on which loop.
PING_PONG: Final[Budgets] = {c.Streams: ">= 1.1", c.Handwritten: ">= 0.95", c.Anyio: ">= 1.7"}
SEND: Final[Budgets] = {c.Streams: ">= 3.0", c.Handwritten: ">= 2.2"}
RECEIVE: Final[Budgets] = {c.Streams: ">= 1.8"}
CONNECT: Final = {"asyncio": "<= 1.25", "uvloop": "<= 1.6"}


def network(row: str, loop: str, port: int, pairs: int, scale: float) -> Iterator[Result]:
    """The rows that talk to the peer."""

    def work(count: int) -> int:
        return max(1, int(count * scale))

    against: Budgets
    if row == "ping-pong":
        title, against = "ping-pong, 64 bytes", PING_PONG
        measure = partial(c.ping_pong, port=port, count=work(4000), size=64)
    elif row == "send":
        title, against = "one-way send, 100 bytes", SEND
        measure = partial(c.send_all, port=port, count=work(40_000), size=100)
    elif row == "receive":
        title, against = "one-way receive, 100 bytes", RECEIVE
        measure = partial(c.receive_all, port=port, count=work(40_000), size=100)
    else:
        title, against = "connect and first reply", {c.Streams: CONNECT[loop]}
        measure = partial(c.connect_and_reply, port=port, count=work(200))
    for other, budget in against.items():
        ours = on_loop(loop, partial(measure, c.Ours))
        theirs = on_loop(loop, partial(measure, other))
        yield compare(title, other.name, loop, ours, theirs, budget=budget, pairs=pairs)


def results(
    rows: Sequence[str], loops: Sequence[str], pairs: int, scale: float
) -> Iterator[Result]:
    """Each figure as soon as it is there."""
    with peer() as port:
        for row in ROWS:
            if row not in rows:
                continue
            if row == "import":
                yield local.importing(pairs)
            elif row == "select":
                yield from local.selecting(pairs)
            else:
                for loop in loops:
                    yield from network(row, loop, port, pairs, scale)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all")
    parser.add_argument("--loop", action="append", choices=LOOPS, help="repeatable; all")
    parser.add_argument("--pairs", type=int, default=9, help="at least 9 for a figure to quote")
    parser.add_argument("--scale", type=float, default=1.0, help="of the work in each run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--check", action="store_true", help="exit 1 if a budget is not kept")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(ROWS)
    if unknown or arguments.pairs < 2:
        parser.error(f"no row {', '.join(unknown)}" if unknown else "at least two pairs")
    print(f"{'work':28}{'against':20}{'loop':9}{'ratio':>7}  {'quartiles':16}{'budget':9}")
    done = []
    for result in results(
        arguments.rows or ROWS, arguments.loop or list(LOOPS), arguments.pairs, arguments.scale
    ):
        done.append(result)
        low, high = result.spread
        print(
            f"{result.work:28}{result.against:20}{result.loop:9}{result.ratio:7.2f}  "
            f"{low:5.2f} to {high:5.2f}  {result.budget:9}{'' if result.met else 'missed'}",
            flush=True,
        )
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([each.as_json() for each in done], indent=2) + "\n")
    return int(arguments.check and not all(each.met for each in done))


if __name__ == "__main__":
    sys.exit(main())
