"""What a packet costs, added up by hand: no loop, no clock."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.testing import Conditions, Counts, Way
from taps_core.testing.virtual_paths import Loss, Passage, Paths, State


def way(**conditions: Any) -> Way:
    return Way("here → there", seed="1", conditions=Conditions(**conditions))


def test_a_plain_way_costs_nothing() -> None:
    assert way().carry(3.0, 1000) == Passage(3.0, (3.0,))


def test_a_packet_leaves_by_bandwidth_and_arrives_by_latency() -> None:
    slow = way(bandwidth=1000, latency=0.25)
    assert slow.carry(1.0, 500) == Passage(1.5, (1.75,))


def test_packets_wait_for_those_before_them() -> None:
    slow = way(bandwidth=1000, latency=0.25)
    assert [slow.carry(0.0, 500).left for _ in range(3)] == [0.5, 1.0, 1.5]
    assert slow.carry(2.0, 500) == Passage(2.5, (2.75,))


def test_a_packet_of_no_size_waits_for_nobody_and_overtakes() -> None:
    slow = way(bandwidth=1000, latency=0.25)
    assert slow.carry(0.0, 1000).arrivals == (1.25,)
    assert slow.carry(0.5, 0) == Passage(0.5, (0.75,))


def test_each_pair_of_hosts_has_its_own_bandwidth() -> None:
    slow = way(bandwidth=1000)
    assert slow.carry(0.0, 1000, ("a", "c")).left == 1.0
    assert slow.carry(0.0, 1000, ("b", "c")).left == 1.0
    assert slow.carry(0.0, 1000, ("a", "c")).left == 2.0


def test_what_does_not_fit_into_the_queue_is_lost_and_costs_no_time() -> None:
    slow = way(bandwidth=1000, queue=1500)
    lost = [slow.carry(0.0, 1000).lost for _ in range(3)]
    assert lost == [None, Loss.QUEUE_FULL, Loss.QUEUE_FULL]
    assert slow.carry(0.5, 1000) == Passage(2.0, (2.0,))  # 500 wait, 1000 fit beside them
    assert (slow.counts.lost, slow.counts.lost_bytes) == (2, 2000)


def test_a_lone_packet_always_finds_a_place() -> None:
    assert way(bandwidth=1000, queue=10).carry(0.0, 1000).lost is None


def test_a_lost_packet_has_left() -> None:
    lossy = way(bandwidth=1000, loss=1)
    assert lossy.carry(0.0, 1000) == Passage(1.0, (), Loss.CHANCE)
    assert lossy.carry(0.0, 1000).left == 2.0


@pytest.mark.parametrize(
    ("enter", "why"), [(Way.down, Loss.DOWN), (Way.blackhole, Loss.BLACK_HOLE)]
)
def test_where_nothing_gets_through_nothing_waits_either(enter: Any, why: Loss) -> None:
    closed = way(bandwidth=1000)
    enter(closed)
    assert closed.carry(0.0, 1000) == Passage(0.0, (), why)
    closed.up()
    assert closed.carry(0.0, 1000) == Passage(1.0, (1.0,))


def test_jitter_never_reorders() -> None:
    shaky = way(latency=0.1, jitter=0.5)
    arrivals = [shaky.carry(number * 0.01, 1).arrivals[0] for number in range(200)]
    assert arrivals == sorted(arrivals)
    assert max(arrivals[n] - n * 0.01 for n in range(200)) <= 0.6
    assert len(set(arrivals)) > 3


def test_a_reordered_packet_is_late_by_its_delay_and_holds_up_nobody() -> None:
    late = way(latency=0.1, reorder=1, reorder_delay=0.03)
    first = late.carry(0.0, 1)
    assert first.reordered
    assert first.arrivals == (0.1 + 0.03,)
    late.set(reorder=0)
    assert late.carry(0.01, 1).arrivals == (0.01 + 0.1,)


def test_a_duplicate_arrives_at_the_same_time() -> None:
    assert way(latency=0.1, duplicate=1).carry(0.0, 1).arrivals == (0.1, 0.1)


def test_the_same_seed_has_the_same_luck_and_another_has_another() -> None:
    def luck(seed: str) -> list[Passage]:
        shaky = Way("w", seed=seed, conditions=Conditions(loss=0.3, duplicate=0.3, jitter=1))
        return [shaky.carry(0.0, 1) for _ in range(50)]

    assert luck("1") == luck("1")
    assert luck("1") != luck("2")


def test_a_changed_probability_changes_the_luck_of_no_other_packet() -> None:
    calm, changed = way(loss=0.3), way(loss=0.3)
    for number in range(40):
        changed.set(duplicate=0.5 if number % 2 else 0.0, jitter=number / 10)
        assert (calm.carry(0.0, 1).lost is None) == (changed.carry(0.0, 1).lost is None)


def test_other_traffic_changes_the_luck_of_no_packet() -> None:
    alone, crowded = way(loss=0.3), way(loss=0.3)
    for number in range(40):
        for _ in range(number % 3):
            crowded.carry(0.0, 1, ("others", "server"))
        assert alone.carry(0.0, 1, ("a", "b")).lost == crowded.carry(0.0, 1, ("a", "b")).lost


probabilities = st.floats(min_value=0, max_value=1)


@given(
    loss=probabilities,
    duplicate=probabilities,
    reorder=probabilities,
    jitter=st.floats(min_value=0, max_value=10),
    bandwidth=st.floats(min_value=1, max_value=1e9),
    sends=st.lists(
        st.tuples(st.floats(min_value=0, max_value=5), st.integers(0, 1500)), max_size=40
    ),
)
def test_every_copy_is_accounted_for_and_none_arrives_before_it_was_sent(
    sends: list[tuple[float, int]], **conditions: float
) -> None:
    some = way(latency=0.1, queue=3000, **conditions)
    now = 0.0
    arrived = 0
    for pause, size in sends:
        now += pause
        passage = some.carry(now, size)
        assert passage.left >= now
        assert all(arrival >= passage.left + 0.1 for arrival in passage.arrivals)
        assert bool(passage.arrivals) == (passage.lost is None)
        for _ in passage.arrivals:
            some.delivered(size)
            arrived += 1
    counts = some.counts
    assert counts.sent == len(sends)
    assert counts.sent_bytes == sum(size for _, size in sends)
    assert counts.sent + counts.duplicated == counts.lost + arrived
    assert counts.delivered == arrived


@pytest.mark.parametrize(
    "conditions",
    [
        {"loss": 1.5},
        {"reorder": -0.1},
        {"latency": -1},
        {"latency": math.nan},
        {"bandwidth": 0},
        {"mtu": 40, "overhead": 40},
    ],
)
def test_conditions_that_cannot_be_are_refused(conditions: dict[str, Any]) -> None:
    some = way(loss=0.1)
    with pytest.raises(ValueError, match=r"not|no room"):
        some.set(**conditions)
    assert some.conditions == Conditions(loss=0.1)


# -- which path is taken


def paths() -> Paths:
    return Paths("1", lambda way, before: None)


def test_the_most_particular_path_is_taken() -> None:
    table = paths()
    one, other = ["::1:a", "a", None], ["::1:b", "b", None]
    taken = [table.taken(one, other)]
    for ends in (([None], [None]), (["a", None], [None]), (["a", None], ["b", None]), (one, other)):
        path = table.path(*ends)  # type: ignore[arg-type]  # lists of names
        assert table.taken(one, other) is path.there  # type: ignore[arg-type]  # likewise
        assert table.taken(other, one) is path.back  # type: ignore[arg-type]  # likewise
        taken.append(path.there)
    assert len(set(taken)) == 4  # the default was there from the start


def test_a_new_path_begins_as_what_it_was_part_of() -> None:
    table = paths()
    table.path([None], [None]).set(latency=0.1)
    table.path(["a", None], [None]).there.set(loss=0.5)
    path = table.path(["a", None], ["b", None])
    assert path.there.conditions == Conditions(latency=0.1, loss=0.5)
    assert path.back.conditions == Conditions(latency=0.1)


def test_a_path_is_one_whichever_end_is_named_first() -> None:
    table = paths()
    path, reverse = table.path(["a", None], ["b", None]), table.path(["b", None], ["a", None])
    assert (path.there, path.back) == (reverse.back, reverse.there)
    assert path == table.path(["a", None], ["b", None])
    assert hash(path) == hash(table.path(["a", None], ["b", None]))
    assert path != reverse


def test_counts_of_a_path_are_those_of_both_ways_and_of_the_table_those_of_all() -> None:
    table = paths()
    path = table.path(["a", None], ["b", None])
    path.there.carry(0.0, 10)
    path.back.carry(0.0, 5)
    table.path([None], [None]).there.carry(0.0, 1)
    assert path.counts == Counts(sent=2, sent_bytes=15)
    assert table.counts == Counts(sent=3, sent_bytes=16)


def test_a_change_of_state_is_told_once() -> None:
    told: list[tuple[str, State, State]] = []
    table = Paths("1", lambda way, before: told.append((way.label, before, way.state)))
    path = table.path(["a", None], ["b", None])
    path.up()
    path.down()
    path.down()
    path.there.up()
    assert told == [
        ("a → b", State.UP, State.DOWN),
        ("b → a", State.UP, State.DOWN),
        ("a → b", State.DOWN, State.UP),
    ]
