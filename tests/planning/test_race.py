"""Exact times on a virtual clock: no scenario depends on how fast anything is."""

from __future__ import annotations

import heapq
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.errors import EstablishmentError, EstablishmentRefused, Reason
from taps_core.planning.candidates import Leaf
from taps_core.planning.race import (
    MAX_DELAY,
    MIN_DELAY,
    Level,
    RacePlanner,
    Racing,
)

# Documentation addresses (RFC 3849, RFC 5737), short names for them.
V6 = [f"2001:db8::{i}" for i in range(1, 10)]
V4 = [f"192.0.2.{i}" for i in range(1, 10)]
NEVER = None

Outcome = tuple[float, bool] | None


def leaf(
    stack: str, address: str, *, host: str | None = None, path: str = "default", group: int = 0
) -> Leaf:
    declared: Any = SimpleNamespace(name=stack, handshakes=True)
    remote = RemoteEndpoint(ip_address=address, hostname=host, port=7)
    return Leaf(declared, remote, path=path, group=group)


def ready(after: float) -> Outcome:
    return (after, True)


def fails(after: float) -> Outcome:
    return (after, False)


class Simulation:
    """Performs what the planner decides; attempts end after known times."""

    def __init__(
        self,
        planner: RacePlanner,
        outcomes: dict[Leaf, Outcome],
        additions: list[tuple[float, list[Leaf], bool]] | None = None,
    ) -> None:
        self.planner = planner
        self.outcomes = outcomes
        self.log: list[tuple[float, str, Leaf]] = []
        self._queue: list[tuple[float, int, str, Any]] = []
        for at, leaves, more in additions or []:
            self._push(at, "add", (leaves, more))

    def _push(self, at: float, kind: str, what: Any) -> None:
        heapq.heappush(self._queue, (at, len(self.log) + len(self._queue), kind, what))

    def _started(self, leaves: list[Leaf], now: float) -> None:
        for each in leaves:
            self.log.append((round(now, 6), "start", each))
            outcome = self.outcomes[each]
            if outcome is not None:
                after, succeeds = outcome
                self._push(now + after, "ready" if succeeds else "failed", each)

    def run(self) -> Simulation:
        planner, now = self.planner, 0.0
        self._started(planner.start(now), now)
        while planner.winner is None and not planner.failed:
            wake = planner.deadline()
            at = self._queue[0][0] if self._queue else None
            if wake is None and at is None:
                return self
            if at is None or (wake is not None and wake < at):
                assert wake is not None
                now = wake
                begun = planner.wake(now)
                assert begun, "woken for nothing"
                self._started(begun, now)
                continue
            now, _, kind, what = heapq.heappop(self._queue)
            if kind == "add":
                self._started(planner.add(what[0], now, more=what[1]), now)
            elif kind == "failed":
                error = OSError(f"{what.remote.ip_address} refused")
                self.log.append((round(now, 6), "failed", what))
                self._started(planner.attempt_failed(what, error, now), now)
            else:
                self.log.append((round(now, 6), "ready", what))
                for loser in planner.attempt_ready(what, now):
                    self.log.append((round(now, 6), "cancel", loser))
        return self

    def times(self, kind: str) -> list[float]:
        return [at for at, did, _ in self.log if did == kind]

    def starts(self) -> list[tuple[float, str]]:
        return [
            (at, f"{it.stack.name} {it.remote.ip_address}")
            for at, did, it in self.log
            if did == "start"
        ]

    def end(self) -> tuple[float, str, Leaf]:
        return next(it for it in reversed(self.log) if it[1] in ("ready", "failed"))


def records(planner: RacePlanner) -> Any:
    return [(a.started, a.ended, a.outcome) for a in planner.attempts]


def race(
    scenario: list[tuple[Leaf, Outcome]],
    *,
    late: list[tuple[float, list[tuple[Leaf, Outcome]], bool]] | None = None,
    **options: Any,
) -> Simulation:
    outcomes = dict(scenario)
    additions = []
    for at, more_leaves, more in late or []:
        outcomes |= dict(more_leaves)
        additions.append((at, [it for it, _ in more_leaves], more))
    planner = RacePlanner([it for it, _ in scenario], expect_more=bool(additions), **options)
    return Simulation(planner, outcomes, additions).run()


# -- one host, one stack


def test_a_single_leaf_starts_at_once_and_needs_no_timer() -> None:
    it = leaf("TCP", V6[0])
    planner = RacePlanner([it])
    assert planner.start(5.0) == [it]
    assert planner.deadline() is None
    assert planner.attempt_ready(it, 5.03) == []
    assert planner.winner is it
    assert records(planner) == [(0.0, pytest.approx(0.03), "ready")]


@pytest.mark.requirement("R-9623-4.3.2-02")
def test_when_the_first_address_refuses_at_once_the_second_starts_at_0_ms() -> None:
    run = race([(leaf("TCP", V6[0]), fails(0.0)), (leaf("TCP", V4[0]), ready(0.020))])
    assert run.starts() == [(0.0, f"TCP {V6[0]}"), (0.0, f"TCP {V4[0]}")]
    assert run.end()[:2] == (0.020, "ready")


@pytest.mark.requirement("R-9623-4.3.2-03")
def test_when_ipv6_is_a_black_hole_ipv4_is_ready_after_one_delay_and_its_rtt() -> None:
    run = race([(leaf("TCP", V6[0]), NEVER), (leaf("TCP", V4[0]), ready(0.040))])
    assert run.times("start") == [0.0, 0.250]
    assert run.end()[:2] == (0.290, "ready")
    assert run.times("cancel") == [0.290]


@pytest.mark.requirement("R-9623-4.3.2-01")
def test_the_next_start_leaves_the_earlier_attempt_running_and_it_may_win() -> None:
    first = leaf("TCP", V6[0])
    run = race([(first, ready(0.300)), (leaf("TCP", V4[0]), ready(0.100))])
    assert run.times("start") == [0.0, 0.250]
    assert run.end() == (0.300, "ready", first)


def test_a_fast_first_address_spares_the_second() -> None:
    run = race([(leaf("TCP", V6[0]), ready(0.249)), (leaf("TCP", V4[0]), ready(0.001))])
    assert run.starts() == [(0.0, f"TCP {V6[0]}")]
    assert run.times("cancel") == []


@pytest.mark.requirement("R-9623-4.4-01")
def test_a_failure_in_mid_delay_starts_the_next_then_and_the_delay_counts_anew() -> None:
    run = race(
        [
            (leaf("TCP", V6[0]), fails(0.100)),
            (leaf("TCP", V4[0]), NEVER),
            (leaf("TCP", V6[1]), ready(0.010)),
        ]
    )
    assert run.times("start") == [0.0, 0.100, 0.350]
    assert run.end()[0] == 0.360


@pytest.mark.requirement("R-9623-4.3.1-01")
def test_many_black_holes_are_one_delay_apart() -> None:
    run = race(
        [(leaf("TCP", address), NEVER) for address in V6[:4]] + [(leaf("TCP", V4[0]), ready(0.005))]
    )
    assert run.times("start") == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert run.end()[0] == 1.005
    assert run.times("cancel") == [1.005] * 4


def test_refusals_all_along_cost_no_delay_at_all() -> None:
    run = race(
        [(leaf("TCP", address), fails(0.010)) for address in V6[:4]]
        + [(leaf("TCP", V4[0]), ready(0.010))]
    )
    assert run.times("start") == [0.0, 0.01, 0.02, 0.03, 0.04]
    assert run.end()[0] == 0.05


def test_a_late_failure_of_an_earlier_attempt_also_starts_the_next_at_once() -> None:
    run = race(
        [
            (leaf("TCP", V6[0]), fails(0.300)),
            (leaf("TCP", V4[0]), NEVER),
            (leaf("TCP", V6[1]), ready(0.010)),
        ]
    )
    assert run.times("start") == [0.0, 0.25, 0.3]
    assert run.end()[0] == 0.310


def test_when_the_last_one_was_started_failures_start_nothing_more() -> None:
    run = race([(leaf("TCP", V6[0]), fails(0.400)), (leaf("TCP", V4[0]), ready(0.300))])
    assert run.times("start") == [0.0, 0.25]
    assert run.end()[:2] == (0.550, "ready")


@pytest.mark.requirement("R-9623-4.4.1-02")
def test_when_all_fail_every_error_is_kept_in_the_order_of_start() -> None:
    run = race(
        [
            (leaf("TCP", V6[0]), fails(0.600)),
            (leaf("TCP", V4[0]), fails(0.100)),
            (leaf("TCP", V6[1]), fails(0.010)),
        ]
    )
    assert run.planner.failed
    assert run.end()[0] == 0.6
    assert [str(error) for error in run.planner.errors] == [
        f"{V6[0]} refused",
        f"{V4[0]} refused",
        f"{V6[1]} refused",
    ]
    assert records(run.planner) == [
        (0.0, pytest.approx(0.6), "failed"),
        (0.25, pytest.approx(0.35), "failed"),
        (pytest.approx(0.35), pytest.approx(0.36), "failed"),
    ]


@pytest.mark.requirement("R-9623-4.4.1-03")
def test_without_any_leaf_the_race_has_failed_before_it_begins() -> None:
    planner = RacePlanner()
    assert planner.start(0.0) == []
    assert planner.failed
    assert planner.deadline() is None


# -- delays


@pytest.mark.requirement("R-9623-4.3.2-06")
@pytest.mark.parametrize(
    ("delay", "used"),
    [(0.1, 0.1), (0.0, MIN_DELAY), (-1.0, MIN_DELAY), (0.009, MIN_DELAY), (60.0, MAX_DELAY)],
)
def test_delays_are_held_between_10_ms_and_2_s(delay: float, used: float) -> None:
    run = race([(leaf("TCP", V6[0]), NEVER), (leaf("TCP", V4[0]), ready(1.0))], delay=delay)
    assert run.times("start") == [0.0, used]


@pytest.mark.requirement("R-9623-4.3.2-04")
def test_a_delay_may_depend_on_the_level_and_on_the_attempt_before() -> None:
    asked: list[tuple[Level, str | None]] = []

    def delay(level: Level, last: Leaf) -> float:
        asked.append((level, last.remote.ip_address))
        return 0.5 if level is Level.STACK else 0.030 if last.family == 6 else 0.1

    run = race(
        [
            (leaf("QUIC", V6[0]), NEVER),
            (leaf("QUIC", V4[0]), NEVER),
            (leaf("QUIC", V4[1]), NEVER),
            (leaf("TCP", V6[0]), ready(0.01)),
        ],
        delay=delay,
    )
    assert run.starts() == [
        (0.0, f"QUIC {V6[0]}"),
        (0.03, f"QUIC {V4[0]}"),
        (0.13, f"QUIC {V4[1]}"),
        (0.5, f"TCP {V6[0]}"),
    ]
    assert (Level.STACK, V6[0]) in asked


def test_a_late_wake_up_starts_one_attempt_not_all_that_were_missed() -> None:
    leaves = [leaf("TCP", address) for address in V6[:5]]
    planner = RacePlanner(leaves)
    planner.start(0.0)
    assert planner.wake(10.0) == [leaves[1]]
    assert planner.deadline() == 10.25
    assert planner.wake(10.2) == []


# -- several stacks


@pytest.mark.requirement("R-9623-4.3-02")
def test_stacks_and_addresses_have_timers_of_their_own() -> None:
    run = race(
        [
            (leaf("SCTP", V6[0]), NEVER),
            (leaf("SCTP", V4[0]), NEVER),
            (leaf("QUIC", V6[0]), NEVER),
            (leaf("QUIC", V4[0]), NEVER),
            (leaf("TCP", V6[0]), NEVER),
            (leaf("TCP", V4[0]), ready(0.030)),
        ]
    )
    assert run.starts() == [
        (0.0, f"SCTP {V6[0]}"),
        (0.25, f"SCTP {V4[0]}"),
        (0.25, f"QUIC {V6[0]}"),
        (0.5, f"QUIC {V4[0]}"),
        (0.5, f"TCP {V6[0]}"),
        (0.75, f"TCP {V4[0]}"),
    ]
    assert run.end()[0] == 0.78


def test_a_tcp_only_server_with_two_addresses_and_three_refused_stacks_costs_no_delay() -> None:
    run = race(
        [
            (leaf("SCTP", V6[0]), fails(0.010)),
            (leaf("SCTP", V4[0]), fails(0.010)),
            (leaf("QUIC", V6[0]), fails(0.010)),
            (leaf("QUIC", V4[0]), fails(0.010)),
            (leaf("TCP", V6[0]), ready(0.010)),
            (leaf("TCP", V4[0]), ready(0.010)),
        ]
    )
    assert run.starts() == [
        (0.0, f"SCTP {V6[0]}"),
        (0.01, f"SCTP {V4[0]}"),
        (0.02, f"QUIC {V6[0]}"),
        (0.03, f"QUIC {V4[0]}"),
        (0.04, f"TCP {V6[0]}"),
    ]
    assert run.end()[0] == 0.05


def test_a_stack_fails_only_when_all_its_addresses_have() -> None:
    run = race(
        [
            (leaf("SCTP", V6[0]), fails(0.010)),
            (leaf("SCTP", V4[0]), NEVER),
            (leaf("TCP", V6[0]), ready(0.010)),
        ]
    )
    # The refused address of SCTP brings its second one, not yet TCP.
    assert run.starts() == [
        (0.0, f"SCTP {V6[0]}"),
        (0.01, f"SCTP {V4[0]}"),
        (0.25, f"TCP {V6[0]}"),
    ]


def test_the_better_stack_wins_although_it_is_slower_than_one_delay() -> None:
    better = leaf("SCTP", V6[0])
    run = race([(better, ready(0.260)), (leaf("TCP", V6[0]), ready(0.050))])
    assert run.times("start") == [0.0, 0.25]
    assert run.end() == (0.26, "ready", better)


# -- several hosts and paths


@pytest.mark.requirement("R-9623-4.1.1.1-03")
def test_each_host_is_a_branch_of_its_own() -> None:
    run = race(
        [
            (leaf("TCP", V6[0], host="a.example"), NEVER),
            (leaf("TCP", V4[0], host="a.example"), NEVER),
            (leaf("TCP", V6[1], host="b.example"), fails(0.0)),
            (leaf("TCP", V4[1], host="b.example"), ready(0.010)),
        ]
    )
    assert run.starts() == [
        (0.0, f"TCP {V6[0]}"),
        (0.25, f"TCP {V4[0]}"),
        (0.25, f"TCP {V6[1]}"),
        (0.25, f"TCP {V4[1]}"),
    ]
    assert run.end()[0] == 0.26


def test_paths_race_above_stacks() -> None:
    run = race(
        [
            (leaf("SCTP", V6[0], path="wlan0"), NEVER),
            (leaf("TCP", V6[0], path="wlan0"), NEVER),
            (leaf("SCTP", V6[1], path="wwan0"), ready(0.020)),
        ]
    )
    assert run.starts() == [
        (0.0, f"SCTP {V6[0]}"),
        (0.25, f"TCP {V6[0]}"),
        (0.25, f"SCTP {V6[1]}"),
    ]
    assert run.end()[0] == 0.27


def test_a_path_that_fails_at_once_brings_the_next_at_0_ms() -> None:
    run = race(
        [
            (leaf("SCTP", V6[0], path="wlan0"), fails(0.0)),
            (leaf("TCP", V6[0], path="wlan0"), fails(0.0)),
            (leaf("SCTP", V6[1], path="wwan0"), ready(0.020)),
        ]
    )
    assert run.times("start") == [0.0, 0.0, 0.0]
    assert run.end()[0] == 0.02


# -- security classes


@pytest.mark.requirement("R-9621-3.3-01", "R-9623-12.1-01")
def test_a_failover_group_starts_only_when_all_before_it_failed() -> None:
    run = race(
        [
            (leaf("TLS/TCP", V6[0]), fails(3.0)),
            (leaf("TLS/TCP", V4[0]), fails(2.0)),
            (leaf("TCP", V6[0], group=1), ready(0.010)),
            (leaf("TCP", V4[0], group=1), ready(0.010)),
        ]
    )
    assert run.starts() == [
        (0.0, f"TLS/TCP {V6[0]}"),
        (0.25, f"TLS/TCP {V4[0]}"),
        (3.0, f"TCP {V6[0]}"),
    ]
    assert run.end()[0] == 3.01


def test_a_black_hole_never_brings_the_weaker_class() -> None:
    run = race([(leaf("TLS/TCP", V6[0]), NEVER), (leaf("TCP", V6[0], group=1), ready(0.0))])
    assert run.starts() == [(0.0, f"TLS/TCP {V6[0]}")]
    assert run.planner.deadline() is None
    assert not run.planner.failed


WRONG = EstablishmentError("no", reason=Reason.INVALID_CONFIGURATION)


@pytest.mark.parametrize(
    ("error", "protection", "starts"),
    [
        (WRONG, None, 1),
        (EstablishmentRefused("no"), None, 1),
        (EstablishmentError("no"), None, 2),
        # Another protocol may be able to do what this one cannot.
        (WRONG, "some", 2),
    ],
)
@pytest.mark.requirement("R-9621-3.3-03")
def test_plaintext_is_no_answer_to_what_the_application_does_not_want(
    error: EstablishmentError, protection: Any, starts: int
) -> None:
    first, second = leaf("TLS/TCP", V6[0]), leaf("TCP", V6[0], group=1)
    second.stack.capabilities = SimpleNamespace(protection=protection)
    planner = RacePlanner([first, second])
    begun = planner.start(0.0)
    begun += planner.attempt_failed(first, error, 1.0)
    assert begun == [first, second][:starts]
    assert planner.failed is (starts == 1)
    assert planner.deadline() is None


def test_classes_start_in_their_order_whatever_the_order_of_the_leaves() -> None:
    run = race(
        [
            (leaf("TCP", V6[0], group=2), ready(0.0)),
            (leaf("TLS/TCP", V6[0], group=1), fails(0.1)),
            (leaf("QUIC", V6[0]), fails(0.1)),
        ]
    )
    assert run.starts() == [
        (0.0, f"QUIC {V6[0]}"),
        (0.1, f"TLS/TCP {V6[0]}"),
        (0.2, f"TCP {V6[0]}"),
    ]


def test_inside_the_failover_group_attempts_are_staggered_as_anywhere() -> None:
    run = race(
        [
            (leaf("TLS/TCP", V6[0]), fails(0.1)),
            (leaf("TCP", V6[0], group=1), NEVER),
            (leaf("TCP", V4[0], group=1), ready(0.010)),
        ]
    )
    assert run.times("start") == [0.0, 0.1, 0.35]
    assert run.end()[0] == 0.36


# -- modes


@pytest.mark.requirement("R-9623-4.3-01")
def test_simultaneous_racing_starts_all_of_a_class_at_once_and_only_on_request() -> None:
    run = race(
        [
            (leaf("QUIC", V6[0]), NEVER),
            (leaf("QUIC", V4[0]), NEVER),
            (leaf("TLS/TCP", V6[0]), ready(0.020)),
            (leaf("TCP", V6[0], group=1), ready(0.0)),
        ],
        racing=Racing.SIMULTANEOUS,
    )
    assert run.times("start") == [0.0, 0.0, 0.0]
    assert run.end()[0] == 0.02


def test_failover_racing_waits_for_each_failure() -> None:
    run = race(
        [
            (leaf("SCTP", V6[0]), fails(5.0)),
            (leaf("SCTP", V4[0]), fails(5.0)),
            (leaf("TCP", V6[0]), ready(0.1)),
        ],
        racing=Racing.FAILOVER,
    )
    assert run.times("start") == [0.0, 5.0, 10.0]
    assert run.end()[0] == 10.1


# -- candidates that come late


def test_a_late_aaaa_before_the_delay_is_over_goes_next() -> None:
    run = race(
        [(leaf("TCP", V4[0]), NEVER), (leaf("TCP", V4[1]), NEVER), (leaf("TCP", V4[2]), NEVER)],
        late=[(0.1, [(leaf("TCP", V6[0]), ready(0.010))], False)],
    )
    assert run.starts() == [(0.0, f"TCP {V4[0]}"), (0.25, f"TCP {V6[0]}")]
    assert run.end()[0] == 0.26


def test_a_late_aaaa_after_the_last_address_starts_when_its_delay_is_over() -> None:
    run = race(
        [(leaf("TCP", V4[0]), NEVER)],
        late=[(0.1, [(leaf("TCP", V6[0]), ready(0.010))], False)],
    )
    assert run.times("start") == [0.0, 0.25]


def test_a_late_aaaa_after_that_delay_starts_at_once() -> None:
    run = race(
        [(leaf("TCP", V4[0]), NEVER)],
        late=[(0.7, [(leaf("TCP", V6[0]), ready(0.010))], False)],
    )
    assert run.times("start") == [0.0, 0.7]
    assert run.end()[0] == 0.71


def test_a_late_aaaa_after_every_a_has_failed_starts_at_once() -> None:
    run = race(
        [(leaf("TCP", V4[0]), fails(0.010)), (leaf("TCP", V4[1]), fails(0.010))],
        late=[(0.050, [(leaf("TCP", V6[0]), ready(0.010))], False)],
    )
    assert run.times("start") == [0.0, 0.01, 0.05]
    assert run.end()[0] == 0.06


def test_late_addresses_alternate_with_those_that_wait() -> None:
    run = race(
        [(leaf("TCP", address), NEVER) for address in (V6[0], V4[0], V4[1], V4[2])],
        late=[(0.3, [(leaf("TCP", V6[1]), NEVER), (leaf("TCP", V6[2]), ready(0.0))], False)],
    )
    assert [what.split()[1] for _, what in run.starts()] == [
        V6[0],
        V4[0],
        V6[1],
        V4[1],
        V6[2],
    ]
    assert run.times("start") == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_after_ipv6_a_waiting_ipv4_address_goes_before_late_ipv6_ones() -> None:
    run = race(
        [(leaf("TCP", V6[0]), NEVER), (leaf("TCP", V4[0]), NEVER)],
        late=[(0.1, [(leaf("TCP", V6[1]), ready(0.0))], False)],
    )
    assert run.starts() == [(0.0, f"TCP {V6[0]}"), (0.25, f"TCP {V4[0]}"), (0.5, f"TCP {V6[1]}")]


def test_the_race_does_not_fail_while_names_are_being_resolved() -> None:
    run = race([(leaf("TCP", V4[0]), fails(0.010))], late=[(2.0, [], False)])
    assert run.planner.failed
    planner = RacePlanner([], expect_more=True)
    failed = [(planner.start(0.0), planner.failed)]
    failed.append((planner.add([], 1.0, more=True), planner.failed))
    failed.append((planner.add([], 2.0), planner.failed))
    assert failed == [([], False), ([], False), ([], True)]
    with pytest.raises(RuntimeError, match="complete"):
        planner.add([], 3.0)


def test_all_candidates_may_come_late() -> None:
    run = race([], late=[(0.08, [(leaf("TCP", V6[0]), ready(0.01))], True)])
    assert run.times("start") == [0.08]
    assert run.end()[0] == 0.09
    assert [a.started for a in run.planner.attempts] == [pytest.approx(0.08)]


@pytest.mark.requirement("R-9623-12.1-01")
def test_the_weaker_class_waits_for_names_of_the_stronger_one() -> None:
    secure = leaf("TLS/TCP", V6[0])
    run = race(
        [(leaf("TCP", V4[0], group=1), ready(0.0))],
        late=[(1.0, [(secure, fails(0.5))], True), (2.0, [], False)],
    )
    assert run.starts() == [(1.0, f"TLS/TCP {V6[0]}"), (2.0, f"TCP {V4[0]}")]


def test_a_late_stack_waits_for_its_delay_behind_the_others() -> None:
    run = race(
        [(leaf("QUIC", V6[0]), NEVER)],
        late=[(0.1, [(leaf("TCP", V6[0]), ready(0.01))], False)],
    )
    assert run.times("start") == [0.0, 0.25]


def test_while_the_first_stack_waits_for_addresses_its_failure_brings_the_second() -> None:
    run = race(
        [(leaf("SCTP", V4[0]), fails(0.010)), (leaf("TCP", V4[0]), NEVER)],
        late=[(0.1, [(leaf("SCTP", V6[0]), ready(0.010))], False)],
    )
    assert run.starts() == [
        (0.0, f"SCTP {V4[0]}"),
        (0.01, f"TCP {V4[0]}"),
        (0.1, f"SCTP {V6[0]}"),
    ]


# -- the end


@pytest.mark.requirement("R-9623-4.4-02", "R-9623-4.4-03")
def test_after_a_success_nothing_starts_and_the_losers_are_named() -> None:
    leaves = [leaf("TCP", address) for address in V6[:4]]
    planner = RacePlanner(leaves, expect_more=True)
    planner.start(0.0)
    planner.wake(0.25)
    planner.wake(0.5)
    assert planner.attempt_ready(leaves[1], 0.6) == [leaves[0], leaves[2]]
    assert planner.deadline() is None
    assert planner.wake(9.0) == []
    assert planner.add([leaf("TCP", V4[0])], 9.0) == []
    assert [a.outcome for a in planner.attempts] == ["cancelled", "ready", "cancelled"]
    assert not planner.failed


def test_a_loser_that_failed_in_the_same_turn_keeps_its_error_and_starts_nothing() -> None:
    leaves = [leaf("TCP", address) for address in V6[:3]]
    planner = RacePlanner(leaves)
    planner.start(0.0)
    planner.wake(0.25)
    planner.attempt_ready(leaves[1], 0.3)
    assert planner.attempt_failed(leaves[0], OSError("reset"), 0.3) == []
    assert [a.outcome for a in planner.attempts] == ["failed", "ready"]


def test_there_is_one_winner() -> None:
    leaves = [leaf("TCP", address) for address in V6[:2]]
    planner = RacePlanner(leaves)
    planner.start(0.0)
    planner.wake(0.25)
    planner.attempt_ready(leaves[1], 0.3)
    with pytest.raises(RuntimeError, match="over"):
        planner.attempt_ready(leaves[0], 0.3)
    assert planner.winner is leaves[1]


def test_cancelling_names_what_runs_and_records_it() -> None:
    leaves = [leaf("TCP", address) for address in V6[:3]]
    planner = RacePlanner(leaves, began=-0.1)
    planner.start(0.0)
    planner.wake(0.25)
    assert planner.cancel(0.4) == leaves[:2]
    assert planner.running == []
    assert planner.wake(0.6) == []
    assert records(planner) == [
        (pytest.approx(0.1), pytest.approx(0.5), "cancelled"),
        (pytest.approx(0.35), pytest.approx(0.5), "cancelled"),
    ]
    json.dumps([a.as_json() for a in planner.attempts])


def test_reports_about_what_does_not_run_are_refused_and_change_nothing() -> None:
    leaves = [leaf("TCP", address) for address in V6[:2]]
    planner = RacePlanner(leaves)
    with pytest.raises(RuntimeError, match="not running"):
        planner.attempt_failed(leaves[0], OSError(), 0.0)
    planner.start(0.0)
    with pytest.raises(RuntimeError, match="already started"):
        planner.start(0.0)
    with pytest.raises(RuntimeError, match="not running"):
        planner.attempt_ready(leaves[1], 0.0)
    assert planner.attempt_failed(leaves[0], OSError("first"), 0.1) == [leaves[1]]
    with pytest.raises(RuntimeError, match="not running"):
        planner.attempt_failed(leaves[0], OSError("again"), 0.2)
    assert [str(error) for error in planner.errors] == ["first"]
    with pytest.raises(ValueError, match="already in this race"):
        RacePlanner([leaves[0], leaves[0]])


def test_its_repr_says_where_the_race_is() -> None:
    leaves = [leaf("TCP", address) for address in V6[:2]]
    planner = RacePlanner(leaves)
    planner.start(0.0)
    assert repr(planner) == "<RacePlanner 1 of 2 running>"
    planner.attempt_ready(leaves[0], 0.1)
    assert repr(planner) == f"<RacePlanner won by TCP to [{V6[0]}]:7>"


# -- any race

endings = st.one_of(
    st.none(), st.tuples(st.sampled_from([0.0, 0.05, 0.25, 0.3, 1.0]), st.booleans())
)
places = st.tuples(
    st.integers(0, 1),
    st.sampled_from(["default", "other"]),
    st.sampled_from(["QUIC", "TCP", "SCTP"]),
    st.sampled_from(["a.example", "b.example"]),
    st.sampled_from(V6[:3] + V4[:3]),
)


@given(
    st.lists(st.tuples(places, endings), max_size=12, unique_by=lambda it: it[0]),
    st.lists(st.tuples(places, endings), max_size=4, unique_by=lambda it: it[0]),
    st.sampled_from(Racing),
)
def test_any_race_keeps_the_promises(first: Any, late: Any, racing: Racing) -> None:
    def make(rows: Any) -> list[tuple[Leaf, Outcome]]:
        return [
            (leaf(stack, address, host=host, path=path, group=group), outcome)
            for (group, path, stack, host, address), outcome in rows
        ]

    run = race(make(first), late=[(0.4, make(late), False)] if late else None, racing=racing)
    planner = run.planner
    begun = [it for _, did, it in run.log if did == "start"]
    assert len(begun) == len(set(begun)), "nothing starts twice"
    assert [a.what for a in planner.attempts] == [it.what for it in begun]
    ended = {it: at for at, did, it in run.log if did in ("failed", "cancel")}
    if planner.winner is not None:
        assert run.log[-1][1] in ("ready", "cancel")
        assert set(ended) == set(begun) - {planner.winner}
    elif planner.failed:
        assert set(ended) == set(planner.leaves)
    # Two classes never run together.
    for at, did, it in run.log:
        if did == "start" and it.group == 1:
            before = [other for other in planner.leaves if other.group == 0]
            assert all(ended.get(other, at + 1) <= at for other in before)
