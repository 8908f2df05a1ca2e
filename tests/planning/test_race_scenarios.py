"""The planner alone in every race of the table: exact times, no clock."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.planning.race import RacePlanner, Racing
from tests.planning.race_scenarios import SCENARIOS, A, Scenario

if TYPE_CHECKING:
    from taps_core.planning.candidates import Leaf


def seconds(milliseconds: float) -> float:
    return round(milliseconds / 1000, 9)


def play(scenario: Scenario) -> tuple[str, RacePlanner]:
    """What happened, as the table writes it."""
    named: dict[Leaf, A] = {}

    def leaves(candidates: Any) -> list[Leaf]:
        made = {each.leaf(): each for each in candidates}
        named.update(made)
        return list(made)

    planner = RacePlanner(
        leaves(scenario.candidates), expect_more=bool(scenario.late), **scenario.options
    )
    count = itertools.count()
    queue: list[tuple[float, int, str, Any]] = []
    for at, more, still in scenario.late:
        heapq.heappush(queue, (seconds(at), next(count), "add", (leaves(more), still)))
    told: list[str] = []
    now = 0.0

    def started(due: list[Leaf]) -> None:
        for leaf in due:
            candidate = named[leaf]
            told.append(f"{candidate.name}@{now * 1000:g}")
            for kind in ("connected", "fails", "ready"):
                after = getattr(candidate, kind)
                if after is not None:
                    at = round(now + seconds(after), 9)
                    heapq.heappush(queue, (at, next(count), kind, leaf))

    started(planner.start(now))
    end = ""
    while not end and not planner.failed:
        wake = planner.deadline()
        if not queue and wake is None:
            end = "waiting"
        elif wake is not None and (not queue or round(wake, 9) < queue[0][0]):
            now = round(wake, 9)
            due = planner.wake(wake)
            assert due, "woken for nothing"
            started(due)
        else:
            now, _, kind, what = heapq.heappop(queue)
            if kind == "add":
                started(planner.add(what[0], now, more=what[1]))
            elif kind == "connected":
                planner.attempt_connected(what, now)
            elif kind == "fails":
                started(planner.attempt_failed(what, OSError(named[what].name), now))
            else:
                planner.attempt_ready(what, now)
                end = f"{named[what].name}={now * 1000:g}"
    return " ".join([*told, "→", end or f"failed={now * 1000:g}"]), planner


@pytest.mark.requirement(
    "R-9623-4.3-01",
    "R-9623-4.3-02",
    "R-9623-4.3.1-01",
    "R-9623-4.3.2-01",
    "R-9623-4.3.2-02",
    "R-9623-4.3.2-03",
    "R-9623-4.3.2-04",
    "R-9623-4.3.2-05",
    "R-9623-4.3.2-06",
    "R-9623-4.4-01",
    "R-9623-4.4-03",
    "R-9623-4.4.1-01",
    "R-9623-4.4.1-02",
    "R-9623-4.6-01",
    "R-9621-3.3-01",
    "R-9623-12.1-01",
)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=[each.what for each in SCENARIOS])
def test_each_race_of_the_table_goes_as_it_says(scenario: Scenario) -> None:
    said, planner = play(scenario)
    assert said == scenario.expected
    # Whatever happens, every error is kept, in order of start.
    errors = [a.error for a in planner.attempts if a.outcome == "failed"]
    assert planner.errors == errors
    assert [str(error) for error in errors] == [
        started.partition("@")[0]
        for started, attempt in zip(said.partition(" →")[0].split(), planner.attempts, strict=False)
        if attempt.outcome == "failed"
    ]


def test_there_are_scenarios_enough_and_each_is_told_apart() -> None:
    names = [each.what for each in SCENARIOS]
    assert len(set(names)) == len(names) >= 40


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["TCP", "UDP", "SCTP", "UDP-Lite", "TLS/TCP"]),
            st.sampled_from(["6a", "4a", "6b"]),
            st.sampled_from(["wlan", "wwan"]),
            st.sampled_from([None, 0, 100, 300]),
            st.booleans(),
            st.sampled_from([None, 10, 260]),
        ),
        max_size=10,
        unique_by=lambda row: row[:3],
    ),
    st.integers(0, 10),
    st.sampled_from(Racing),
)
def test_what_proves_nothing_never_starts_beside_what_may_still_prove_something(
    rows: Any, known: int, racing: Racing
) -> None:
    made = [
        A(
            address=address,
            stack=stack,
            path=path,
            ready=after if ready else None,
            fails=None if ready else after,
            connected=connected,
            place=(("wlan", "wwan").index(path), number),
        )
        for number, (stack, address, path, after, ready, connected) in enumerate(rows)
    ]
    late = [(120.0, made[known:], False)] if made[known:] else []
    said, planner = play(Scenario("", made[:known], "", late, {"racing": racing}))
    started = [word.partition("@") for word in said.partition("→")[0].split()]
    assert len({name for name, *_ in started}) == len(started)
    for attempt, (name, _, _) in zip(planner.attempts, started, strict=True):
        path, _, stack = name.rpartition(":")[0].partition(":")
        if not stack.startswith("UDP"):
            continue
        same_path = [
            (other, other_name)
            for other, (other_name, _, _) in zip(planner.attempts, started, strict=True)
            if other_name.startswith(f"{path}:")
        ]
        if same_path[0][1] == name or same_path[0][1].startswith(f"{path}:UDP"):
            continue  # it, or what is like it, came first
        assert all(
            other.outcome == "failed" and other.ended <= attempt.started
            for other, other_name in same_path
            if other.started < attempt.started and not other_name.startswith(f"{path}:UDP")
        ), said
