"""The benchmarks run and report; what they measure is for a quiet machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Result, compare
from benchmarks.racing import CONTENDERS, SITUATIONS, measure

ROOT = Path(__file__).parents[2]


def fake(seconds: float) -> Result:
    return compare("work", "other", "", lambda: seconds, lambda: 1.0, budget=">= 2.0", pairs=9)


def test_the_ratio_is_of_rates_for_a_least_budget_and_of_times_for_a_most_budget() -> None:
    assert (fake(0.25).ratio, fake(0.25).met) == (4.0, True)
    assert (fake(1.0).ratio, fake(1.0).met) == (1.0, False)
    times = compare("work", "other", "", lambda: 3.0, lambda: 2.0, budget="<= 1.6", pairs=2)
    assert (times.ratio, times.met) == (1.5, True)


def test_pairs_alternate() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return 1.0

    compare("", "", "", lambda: run("ours"), lambda: run("theirs"), budget=">= 1", pairs=3)
    first_run, *pairs = [tuple(order[at : at + 2]) for at in range(0, len(order), 2)]
    assert first_run == ("ours", "theirs")
    assert pairs == [("ours", "theirs"), ("theirs", "ours"), ("ours", "theirs")]


@pytest.mark.slow
def test_every_row_runs_on_every_loop_and_is_written_as_json(tmp_path: Path) -> None:
    written = tmp_path / "results.json"
    options = ["--pairs", "2", "--scale", "0.01", "--json", str(written)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(written.read_text())
    assert {row["loop"] for row in rows} >= {"asyncio", ""}
    assert len(done.stdout.splitlines()) == len(rows) + 1


@pytest.mark.linux
def test_races_on_broken_networks_are_measured_for_each_contender(two_hosts: Any) -> None:
    pytest.importorskip("aiohappyeyeballs")
    figures = list(measure(two_hosts, loops=["asyncio"], runs=2))
    lines = [(each.situation, each.contender) for each in figures]
    assert lines == [
        ("healthy", "plain socket"),
        *((situation.name, name) for situation in SITUATIONS for name in CONTENDERS),
    ]
    assert [each.contender for each in figures if each.budget is not None] == ["taps"] * len(
        SITUATIONS
    )
