"""Run the benchmarks, print a table of ratios, write JSON if asked."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import datagrams, local, memory, messages
from benchmarks.harness import LOOPS, SETTLED, Result, Worker, compare, one_core, peer
from benchmarks.work import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.candidates import Peer

#: Rows with processes of their own.
APART: Final = {
    "datagrams": datagrams.datagrams,
    "dtls": datagrams.secured,
    "sctp": messages.messages,
    "memory": memory.idle,
}
LOCAL: Final = {"import": local.importing, "select": local.selecting}


def network(
    rows: Sequence[str],
    loop: str,
    there: Peer,
    pairs: int,
    scale: float,
    environment: Mapping[str, str],
) -> Iterator[Result]:
    """The rows that talk to the peer, on one loop."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        wanted = [name for row in rows for name in (ROWS[row].ours, *ROWS[row].budgets)]
        for name in dict.fromkeys(wanted):
            workers[name] = stack.enter_context(Worker(name, loop, there, environment))
        for name in rows:
            row = ROWS[name]
            count = max(1, int(row.count * scale))
            for other in row.budgets:
                yield compare(
                    row.title,
                    other,
                    loop,
                    partial(workers[row.ours].run, name, count),
                    partial(workers[other].run, name, count),
                    budget=row.budget(other, loop),
                    pairs=pairs,
                )


def results(
    rows: Sequence[str],
    loops: Sequence[str],
    pairs: int,
    scale: float,
    environment: Mapping[str, str],
) -> Iterator[Result]:
    """Each figure as soon as it is there."""
    with_peer = [row for row in rows if row in ROWS]
    if with_peer:
        with peer() as there:
            for loop in loops:
                yield from network(with_peer, loop, there, pairs, scale, environment)
    for row in rows:
        if row in APART:
            yield from APART[row](pairs, loops, scale)
    for row in rows:
        if row in LOCAL:
            yield from LOCAL[row](pairs)


def main() -> int:
    names = [*ROWS, *APART, *LOCAL]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(names)}; all")
    parser.add_argument("--loop", action="append", choices=LOOPS, help="repeatable; all")
    parser.add_argument("--pairs", type=int, default=9, help="at least 9 for a figure to quote")
    parser.add_argument("--scale", type=float, default=1.0, help="of the work in each run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--check", action="store_true", help="exit 1 if a budget is not kept")
    parser.add_argument("--spread", action="store_true", help="over all cores, not on one")
    parser.add_argument(
        "--settled", action="store_true", help="as in processes that have freed large blocks before"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(names)
    if unknown or arguments.pairs < 2:
        parser.error(f"no row {', '.join(unknown)}" if unknown else "at least two pairs")
    if not arguments.spread:
        one_core()
    print(f"{'work':36}{'against':20}{'loop':9}{'ratio':>7}  {'quartiles':16}{'budget':9}")
    done = []
    for result in results(
        arguments.rows or names,
        arguments.loop or list(LOOPS),
        arguments.pairs,
        arguments.scale,
        SETTLED if arguments.settled else {},
    ):
        done.append(result)
        low, high = result.spread
        print(
            f"{result.work:36}{result.against:20}{result.loop:9}{result.ratio:7.2f}  "
            f"{low:5.2f} to {high:5.2f}  {result.budget:9}{'' if result.met else 'missed'}",
            flush=True,
        )
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([each.as_json() for each in done], indent=2) + "\n")
    return int(arguments.check and not all(each.met for each in done))


if __name__ == "__main__":
    sys.exit(main())
