"""When a sender asks its peer, and when it gives up: no loop, no clock."""

from __future__ import annotations

import math
from typing import Any

import pytest

from taps_core.model.properties import Preference
from taps_core.testing.virtual_vigil import PROBE_INTERVAL, PROBES, Vigil


def vigil(**properties: Any) -> Vigil:
    return Vigil(properties, 0.0)


def test_nobody_asks_by_default_and_nobody_gives_up() -> None:
    watch = vigil()
    watch.sent(0.0)
    assert watch.fails_at() == math.inf
    assert watch.probes_at(waits=False, patience=None) == math.inf


@pytest.mark.parametrize(
    ("properties", "idle"),
    [
        ({"keepAliveTimeout": 30.0}, 30.0),
        ({"keepAlive": Preference.PREFER}, 7200.0),
        ({"keepAlive": Preference.PREFER, "keepAliveTimeout": 5.0}, 5.0),
        ({"keepAlive": Preference.PROHIBIT, "keepAliveTimeout": 5.0}, math.inf),
        ({"keepAliveTimeout": 30.0, "connTimeout": 20.0}, math.inf),
    ],
)
def test_which_idle_time_is_in_force(properties: dict[str, Any], idle: float) -> None:
    assert vigil(**properties).keep_alive == idle


def test_disabled_on_the_connection_stops_keep_alives_that_were_preferred() -> None:
    watch = vigil(keepAlive=Preference.PREFER)
    assert watch.apply("keepAliveTimeout", math.inf)
    assert watch.keep_alive == math.inf
    assert not watch.apply("connPriority", 1)


def test_a_keep_alive_comes_after_the_idle_time() -> None:
    watch = vigil(keepAliveTimeout=10.0)
    assert watch.probes_at(waits=False, patience=None) == 10.0
    watch.heard(4.0, waits=False)
    assert watch.probes_at(waits=False, patience=None) == 14.0


def test_what_is_sent_again_anyway_needs_no_keep_alive() -> None:
    assert vigil(keepAliveTimeout=10.0).probes_at(waits=True, patience=None) == math.inf


def test_after_nine_keep_alives_without_an_answer_it_has_failed() -> None:
    watch = vigil(keepAliveTimeout=10.0)
    now = 10.0
    for _ in range(PROBES):
        assert watch.probes_at(waits=False, patience=None) == now
        assert watch.fails_at() == math.inf
        watch.probed(now, blocked=False)
        now += PROBE_INTERVAL
    assert watch.probes_at(waits=False, patience=None) == math.inf
    assert watch.fails_at() == now


def test_an_answer_begins_it_anew() -> None:
    watch = vigil(keepAliveTimeout=10.0)
    for number in range(PROBES):
        watch.probed(10.0 + number, blocked=False)
    watch.heard(20.0, waits=False)
    assert watch.fails_at() == math.inf
    assert watch.probes_at(waits=False, patience=None) == 30.0


def test_the_timeout_counts_from_what_waits_longest_or_the_last_answer() -> None:
    watch = vigil(connTimeout=5.0)
    watch.sent(1.0)
    watch.sent(3.0)
    assert watch.fails_at() == 6.0
    watch.heard(4.0, waits=True)  # data, which answers nothing
    assert watch.fails_at() == 6.0
    watch.answered(4.5, waits=True)
    assert watch.fails_at() == 9.5
    watch.answered(5.0, waits=False)
    assert watch.fails_at() == math.inf


def test_who_waits_for_room_asks_less_and_less_often_and_never_gives_up() -> None:
    watch = vigil()
    asked = []
    for _ in range(12):
        now = watch.probes_at(waits=False, patience=0.2)
        asked.append(now)
        watch.probed(now, blocked=True)
        watch.heard(now, waits=False)
    pauses = [round(after - before, 6) for before, after in zip([0.0, *asked], asked, strict=False)]
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[-2:] == [120.0, 120.0]
    watch.room()
    assert watch.probes_at(waits=False, patience=0.2) == asked[-1] + 0.2
