"""What a picture of an establishment says, wherever it is drawn: rows, bars, times, sentences."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import (
    BOTH,
    FAILED,
    FOUR,
    HOLE,
    HOST,
    REPORTS,
    RUNNING,
    SIX,
    TIMES,
    UDP,
    attempt,
    candidate,
)
from reports import name as named
from reports import report as made

import taps_core as taps
from taps_core.cli.waterfall import (
    Bar,
    Fate,
    NotAReport,
    Phase,
    Waterfall,
    columns,
    in_ms,
    shortened,
    waterfall,
)

if TYPE_CHECKING:
    from taps_core.testing import VirtualNetwork
    from taps_core.testing.fixtures import VirtualRun


def stories(fall: Waterfall) -> dict[str, str]:
    return {row.mark: row.story for row in fall.rows}


def test_a_black_hole_costs_one_delay_and_the_picture_shows_it() -> None:
    fall = waterfall(HOLE)
    assert fall.headline == "Connected after 374 ms: TLS/TCP to 192.0.2.1:443"
    assert "head start" in fall.lead
    assert (fall.fate, fall.ended, fall.span) == (Fate.WON, 0.374, 0.374)
    asked, hole, won, untried = fall.rows
    assert (asked.mark, hole.mark, won.mark, untried.mark) == ("A", "1", "2", "-")
    assert asked.bars == (Bar(Phase.ASKING, 0.0, 0.014),)
    assert asked.arrivals == (0.012, 0.014)
    assert asked.result == "2 addresses"
    assert hole.bars == (Bar(Phase.CONNECTING, 0.014, 0.374),)
    assert hole.result == "cancelled"
    assert won.bars == (
        Bar(Phase.DELAY, 0.014, 0.264),
        Bar(Phase.CONNECTING, 0.264, 0.312),
        Bar(Phase.HANDSHAKE, 0.312, 0.374),
    )
    assert (won.result, won.fate, won.end) == ("won", Fate.WON, 0.374)
    assert (untried.bars, untried.end, untried.result) == ((), None, "never tried")
    assert stories(fall) == {
        "A": "The addresses of server.example:443 were asked for. After 12 ms: 2001:db8::1. "
        "After 14 ms: 192.0.2.1.",
        "1": "Tried first, as soon as its address was known. Nothing had come of it after "
        "360 ms: it was closed when attempt 2 had won.",
        "2": "Tried 250 ms after attempt 1 had begun, as that was not ready yet. It was "
        "connected after 48 ms, and the handshake above took 62 ms more: it was ready, and won.",
        "-": "Attempt 2 won before its turn came.",
    }


def test_what_failed_says_why_and_the_next_one_that_it_did_not_wait() -> None:
    fall = waterfall(FAILED)
    assert fall.headline == "Not connected, after 781 ms: no attempt succeeded"
    assert fall.fate is Fate.FAILED
    told = stories(fall)
    assert told["1"].endswith("It failed after 7.0 ms: no route.")
    assert told["2"] == (
        "Tried at once when attempt 1 had failed. It was connected after 130 ms, but 630 ms "
        "later the handshake above failed: certificate expired."
    )
    assert Phase.DELAY not in fall.phases
    assert [row.error for row in fall.rows] == ["", "no route", "certificate expired."]


def test_udp_is_ready_without_a_peer_and_the_picture_says_that_it_proves_nothing() -> None:
    fall = waterfall(UDP)
    assert fall.headline == "Ready after 0.4 ms, without a word from the peer: UDP to 192.0.2.1:443"
    assert fall.lead == ""
    (row,) = fall.rows
    assert row.bars == (Bar(Phase.OPENING, 0.0001, 0.0004),)
    assert row.result == "ready"
    assert "whether anybody is there is not known" in row.story


def test_the_second_waits_a_delay_after_the_first_was_connected() -> None:
    slow = made(
        "ready",
        0.9,
        [
            attempt(SIX, 0.0, 0.9, "ready", connected=0.045),
            attempt(FOUR, 0.295, 0.9, "cancelled", connected=0.34, error="no answer yet"),
        ],
    )
    fall = waterfall(slow)
    assert fall.rows[1].bars[0] == Bar(Phase.DELAY, 0.045, 0.295)
    assert stories(fall)["2"] == (
        "Tried 250 ms after attempt 1 was connected, as that was not ready yet. It was "
        "connected after 45 ms, but the handshake above did not end in the 560 ms that followed "
        "(no answer yet): it was closed when attempt 1 had won."
    )


def test_stacks_that_begin_at_one_moment_waited_for_the_same() -> None:
    fall = waterfall(
        made(
            "ready",
            0.6,
            [
                attempt(SIX, 0.0, 0.6, "cancelled", stack="QUIC"),
                attempt(FOUR, 0.25, 0.6, "cancelled", stack="QUIC"),
                attempt(SIX, 0.2502, 0.6, "ready"),
            ],
        )
    )
    assert [row.bars[0] for row in fall.rows[1:]] == [
        Bar(Phase.DELAY, 0.0, 0.25),
        Bar(Phase.DELAY, 0.0, 0.2502),
    ]


def test_simultaneous_attempts_waited_for_nothing() -> None:
    fall = waterfall(
        made("ready", 0.1, [attempt(SIX, 0, 0.1, "cancelled"), attempt(FOUR, 0, 0.1, "ready")])
    )
    assert stories(fall)["2"].startswith("Tried at the same time as attempt 1.")
    assert fall.phases == (Phase.CONNECTING,)


def test_what_begins_when_its_address_comes_did_not_wait_either() -> None:
    fall = waterfall(
        made(
            "ready",
            0.4,
            [attempt(FOUR, 0.01, 0.4, "cancelled"), attempt(SIX, 0.2, 0.4, "ready")],
            names=[named(0.2, (0.01, "192.0.2.1"), (0.2, "2001:db8::1"))],
        )
    )
    assert stories(fall)["2"].startswith("Tried as soon as its address was known.")


def test_a_fallback_is_called_one() -> None:
    attempts = [
        attempt(FOUR, 0, 0.1, "failed", error="no TLS"),
        attempt(FOUR, 0.1, 0.2, "ready", stack="TCP", failover=1),
    ]
    assert (
        "a fallback, with other security" in stories(waterfall(made("ready", 0.2, attempts)))["2"]
    )


def test_time_that_is_over_is_no_attempts_fault() -> None:
    told = made(
        "failed",
        5.0,
        [attempt(SIX, 0.014, 5.0, "cancelled", local="192.0.2.9", path="wlan0")],
        names=[BOTH, named(5.0, asked="slow.example:1", outcome="cancelled")],
        waiting=[candidate("TCP", FOUR)],
        error="nothing was ready within 5 s",
    )
    fall = waterfall(told)
    assert fall.headline == "Not connected, after 5000 ms: nothing was ready within 5 s"
    assert stories(fall)["B"].endswith("There was no answer in 5000 ms.")
    assert stories(fall)["1"].endswith("it was closed when the time was over.")
    assert stories(fall)["-"] == "All was over before its turn came."
    assert fall.rows[2].place == "[2001:db8::1]:443 from 192.0.2.9 by wlan0"


def test_a_name_that_has_no_address_is_all_there_is() -> None:
    why = "no such name"
    fall = waterfall(
        made("failed", 0.04, names=[named(0.04, outcome="failed", error=why)], error=why)
    )
    assert fall.headline == "Not connected, after 40 ms: no such name"
    (row,) = fall.rows
    assert row.fate is Fate.FAILED
    assert row.story.endswith("That failed after 40 ms: no such name.")


def test_one_that_runs_goes_on_to_the_present_on_an_axis_that_is_longer() -> None:
    fall = waterfall(RUNNING, now=0.32)
    assert fall.headline == "Connecting, for 320 ms so far"
    assert (fall.fate, fall.ended, fall.span) == (Fate.RUNNING, None, 0.5)
    row = fall.rows[1]
    assert row.bars[-1] == Bar(Phase.HANDSHAKE, 0.1, 0.32)
    assert row.story.endswith("the handshake above has taken 220 ms so far.")
    # From a file nobody knows how late it is: its latest time counts.
    assert waterfall(RUNNING).rows[1].bars[-1] == Bar(Phase.HANDSHAKE, 0.1, 0.1)


def test_of_many_that_were_never_tried_some_are_named_and_all_are_counted() -> None:
    waiting = [candidate("TCP", f"192.0.2.{last}:1") for last in range(60)]
    fall = waterfall(made("ready", 0.1, [attempt(SIX, 0, 0.1, "ready")], waiting=waiting))
    assert len(fall.rows) == 1 + 6 + 1
    assert fall.rows[-1].label == "54 more like these"
    # As a tale they are one step.
    *_, last = fall.steps
    assert len(fall.steps) == 2
    assert last.label.startswith("TCP to 192.0.2.0:1, TCP to 192.0.2.1:1, ")
    assert last.label.endswith(", 54 more like these")


def test_addresses_are_listed_up_to_a_limit() -> None:
    found = [(0.01, f"192.0.2.{last}") for last in range(20)]
    (row,) = waterfall(made("failed", 1, names=[named(0.01, *found)])).rows
    assert row.result == "20 addresses"
    assert row.story.endswith("192.0.2.5. And 14 more.")


def test_a_report_of_a_real_race_is_drawn_with_its_exact_times(virtual_run: VirtualRun) -> None:
    async def until_the_end(connection: taps.Connection[Any]) -> None:
        async for _ in connection:
            pass

    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05)
        net.host("server.example", "2001:db8::1", "192.0.2.1", "192.0.2.2")
        net.path("client", "2001:db8::1").blackhole()
        await net.serve(HOST, until_the_end)
        async with taps.Preconnection(remote=HOST).initiate() as connection:
            fall = waterfall(connection.report.as_json())
        assert fall.headline.startswith("Connected after 350 ms: VIRTUAL-STREAM to 192.0.2.1:443")
        assert [row.result for row in fall.rows] == [
            "3 addresses",
            "cancelled",
            "won",
            "never tried",
        ]
        delay, connecting = fall.rows[2].bars
        assert delay == Bar(Phase.DELAY, 0.0, 0.25)
        assert (connecting.phase, connecting.end) == (Phase.CONNECTING, pytest.approx(0.35))

    virtual_run(scenario)


def test_a_race_that_runs_can_be_drawn_at_any_time(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.host("server.example", "2001:db8::1", "192.0.2.1")
        net.name("server.example", "server.example", delay=0.1)
        net.path("client").blackhole()
        connection = taps.Preconnection(remote=HOST).initiate()
        loop = asyncio.get_running_loop()
        seen = []
        for _ in range(5):
            fall = waterfall(connection.report.as_json(), now=loop.time())
            seen.append([row.result for row in fall.rows])
            await asyncio.sleep(0.09)
        assert seen == [
            [],
            ["running"],
            ["2 addresses", "running"],
            ["2 addresses", "running"],
            ["2 addresses", "running", "running"],
        ]
        connection.abort()
        with pytest.raises(taps.EstablishmentError):
            await connection
        await asyncio.sleep(0.1)
        assert waterfall(connection.report.as_json()).headline.startswith("Given up on this side")

    virtual_run(scenario)


# -- what is no report


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (3, "the report is no object"),
        ({}, "there is no outcome in it"),
        ({"outcome": "ready"}, "there is no attempts in it"),
        (made("ready", 1.0) | {"attempts": 3}, "attempts is no list"),
        (made("ready", 1.0, [3]), "attempt 1 is no object"),
        (made("ready", 1.0, [{}]), "what of attempt 1 is no text"),
        (made("ready", math.nan), "ended of the report is no number of seconds"),
        (made("ready", math.inf), "ended of the report is no number of seconds"),
        (made("ready", 10**400), "ended of the report is no number of seconds"),
        (made("ready", True), "ended of the report is no number of seconds"),
        (made("ready", 1.0, [attempt(SIX, -1, 1, "ready")]), "started of attempt 1 is no number"),
        (made("ready", 1.0, names=[named(1.0) | {"name": None}]), "name of resolution 1 is no"),
        (made("ready", 1.0, waiting=["x"]), "what waits is no object"),
    ],
)
def test_what_is_no_report_is_refused_with_a_sentence(told: Any, why: str) -> None:
    with pytest.raises(NotAReport, match=why):
        waterfall(told)


def test_keys_that_are_not_known_and_keys_that_are_not_there_do_no_harm() -> None:
    least = {"what": "a thing", "started": 0, "outcome": "ready", "news": [1]}
    (row,) = waterfall({"outcome": "ready", "attempts": [least], "news": {}}).rows
    assert row.label == "a thing"


#: Anything but a report.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(JSON)
def test_any_other_json_is_refused(told: Any) -> None:
    with pytest.raises(NotAReport):
        waterfall(told)


@given(REPORTS, TIMES)
def test_bars_of_any_report_are_in_order_and_on_the_axis(told: Any, now: float | None) -> None:
    fall = waterfall(told, now=now)
    assert fall.span > 0
    for row in fall.rows:
        edges = [edge for bar in row.bars for edge in (bar.start, bar.end)]
        assert edges == sorted(edges)
        assert all(0 <= edge <= fall.span for edge in (*edges, *row.arrivals))
        assert row.story


# -- small things


@given(st.floats(1e-7, 1e9), st.integers(2, 40))
def test_ticks_are_few_and_begin_at_nothing(span: float, most: int) -> None:
    ticks = Waterfall("", "", Fate.WON, span, span, ()).ticks(most)
    assert ticks[0] == 0
    assert len(ticks) <= most
    assert ticks == sorted(ticks)
    assert ticks[-1] <= span * 1.00001


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.0004, "0.4 ms"), (0.00996, "10 ms"), (0.374, "374 ms"), (12.34, "12.3 s")],
)
def test_times_are_as_exact_as_people_need(seconds: float, text: str) -> None:
    assert in_ms(seconds) == text


@given(st.text(max_size=40), st.integers(0, 30), st.booleans())
def test_what_is_shortened_fits(text: str, width: int, keep_end: bool) -> None:
    short = shortened(text, width, keep_end=keep_end)
    assert columns(short) <= width
    assert short == text or columns(text) > width


def test_what_is_shortened_keeps_both_ends_or_its_beginning() -> None:
    assert shortened("2001:db8::1234", 9) == "2001…1234"
    assert shortened("certificate verify failed", 12, keep_end=False) == "certificate…"
