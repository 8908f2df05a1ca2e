"""What needs no peer: the time of ``import taps_core`` and of ``select()``."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Final

import taps_core as taps
from benchmarks.harness import Result, compare
from taps_core.plugin import Capabilities, ConnectRequest, Flow, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMED_IMPORT: Final = """\
from time import perf_counter
begin = perf_counter()
import {module}
print(perf_counter() - begin)
"""


def importing(pairs: int) -> Iterator[Result]:
    """Import time of the core, asyncio included, against that of asyncio alone."""

    # As everywhere but on a developer's machine, bytecode is there after the first run.
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def run(module: str) -> float:
        command = [sys.executable, "-c", TIMED_IMPORT.format(module=module)]
        return float(subprocess.check_output(command, env=environ))

    yield compare(
        "import taps_core",
        "import asyncio",
        "",
        lambda: run("taps_core"),
        lambda: run("asyncio"),
        budget="<= 1.6",
        pairs=pairs,
    )


class Synthetic(Transport):
    """A transport that only declares."""

    def __init__(self, number: int) -> None:
        self.name = f"synthetic{number}"
        self.capabilities = Capabilities.byte_stream()

    async def connect(self, request: ConnectRequest) -> Flow:
        """Never called: selecting is pure."""
        raise OSError("only declared")


def selecting(runs: int) -> Iterator[Result]:
    """``select()`` with ten plugins: at first, and again; the ratio is to the budget."""
    security = taps.SecurityParameters.disabled()

    def preconnection() -> taps.Preconnection:
        system = taps.System(plugins=[Synthetic(number) for number in range(10)])
        return taps.Preconnection(remote="192.0.2.1:7", security=security, system=system)

    def cold(repetitions: int = 20) -> float:
        made = [preconnection() for _ in range(repetitions)]
        begin = perf_counter()
        for each in made:
            each.select()
        return (perf_counter() - begin) / repetitions

    def cached(repetitions: int = 1000) -> float:
        made = preconnection()
        made.select()
        begin = perf_counter()
        for _ in range(repetitions):
            made.select()
        return (perf_counter() - begin) / repetitions

    for work, measure, limit in (("cached", cached, 5e-6), ("cold", cold, 500e-6)):
        measure()  # first imports
        times = [measure() for _ in range(runs)]
        quartiles = statistics.quantiles(times, n=4)
        yield Result(
            work=f"select(), ten plugins, {work}",
            against=f"{limit * 1e6:g} µs",
            loop="",
            ratio=statistics.median(times) / limit,
            budget="<= 1.0",
            ours=statistics.median(times),
            spread=(quartiles[0] / limit, quartiles[2] / limit),
        )
