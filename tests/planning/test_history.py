"""What establishing teaches: what is remembered, what fades, what is bounded."""

import json

import pytest

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.errors import EstablishmentError, EstablishmentRefused, Reason
from taps_core.model.reports import Attempt
from taps_core.model.security import SecurityParameters
from taps_core.planning.candidates import Leaf
from taps_core.planning.history import (
    HALF_LIFE,
    LIFE,
    MAX_ADDRESSES,
    MAX_DESTINATIONS,
    MAX_NETWORKS,
    MAX_PATHS,
    NOTHING,
    ROUND_TRIP_LIFE,
    History,
)
from taps_core.planning.selection import By, select

PLAIN = SecurityParameters.disabled()
HOST = RemoteEndpoint.coerce("server.example:7000")
SIX, SIX_B, FOUR, FOUR_B = "2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"
HOME, ELSEWHERE = frozenset({("eth0", "192.0.2.0/24")}), frozenset({("wlan0", "10.0.0.0/8")})
REFUSED = ConnectionRefusedError(111, "Connection refused")


@pytest.fixture
def stacks(everything):
    return {each.stack.name: each.stack for each in select(everything, security=PLAIN)}


@pytest.fixture
def leaf(stacks):
    def make(address, stack="TCP", host=HOST, **how):
        return Leaf(stacks[stack], host.with_ip_address(address), **how)

    return make


def attempt(outcome, started=0.0, ended=0.1, *, connected=None, error=None):
    made = Attempt("", started)
    made.outcome, made.ended, made.connected = outcome, ended, connected
    made.error = error or (REFUSED if outcome == "failed" else None)
    return made


def order(history, leaves, now=0.0, network=HOME):
    return [each.remote.ip_address for each in history.order(leaves, network, now)]


@pytest.fixture
def history():
    return History()


# -- stacks


@pytest.mark.requirement("R-9623-9.2-01")
def test_what_won_is_known_to_be_spoken_and_what_failed_to_fail(history, leaf):
    history.learn({leaf(FOUR, "SCTP"): attempt("failed"), leaf(FOUR): attempt("ready")}, HOME, 0.0)
    assert history.about([HOST], HOME, 1.0) == ({"tcp"}, {("sctp",)})


def test_a_stack_that_worked_at_one_address_is_not_failing_at_another(history, leaf):
    history.learn({leaf(SIX): attempt("failed"), leaf(FOUR): attempt("ready")}, HOME, 0.0)
    assert history.about([HOST], HOME, 1.0) == ({"tcp"}, set())


def test_trouble_fades_and_more_of_it_fades_later(history, leaf):
    lost = {leaf(FOUR, "SCTP"): attempt("failed")}
    history.learn(lost, HOME, 0.0)
    assert history.about([HOST], HOME, HALF_LIFE - 1).failing
    assert history.about([HOST], HOME, HALF_LIFE + 1) == NOTHING
    for now in (0.0, 1.0, 2.0):
        history.learn(lost, HOME, now)
    assert history.about([HOST], HOME, HALF_LIFE + 1).failing
    for now in range(100):
        history.learn(lost, HOME, float(now))
    assert history.about([HOST], HOME, 3 * HALF_LIFE).failing
    assert history.about([HOST], HOME, 99 + 4 * HALF_LIFE + 1) == NOTHING


def test_a_success_ends_trouble(history, leaf):
    history.learn({leaf(FOUR, "SCTP"): attempt("failed")}, HOME, 0.0)
    history.learn({leaf(FOUR, "SCTP"): attempt("ready")}, HOME, 1.0)
    assert history.about([HOST], HOME, 2.0) == ({"sctp"}, set())


@pytest.mark.parametrize(
    ("loser", "counts"),
    [
        # It began 250 ms before the winner, which needed 100 ms.
        (attempt("cancelled", 0.0, 0.35), True),
        # The winner needed as long.
        (attempt("cancelled", 0.2, 0.35), False),
        # It began after the winner.
        (attempt("cancelled", 0.3, 0.35), False),
        # Its transport was connected; what remained was a handshake above it.
        (attempt("cancelled", 0.0, 0.35, connected=0.2), False),
        (attempt("failed", error=EstablishmentRefused("the pin is another one")), False),
        (
            attempt("failed", error=EstablishmentError("no", reason=Reason.INVALID_CONFIGURATION)),
            False,
        ),
        (attempt("failed"), True),
    ],
)
def test_only_what_tells_of_the_network_or_the_peer_counts(history, leaf, loser, counts):
    winner = attempt("ready", 0.25, 0.35)
    history.learn({leaf(FOUR, "SCTP"): loser, leaf(FOUR): winner}, HOME, 0.0)
    assert bool(history.about([HOST], HOME, 0.0).failing) is counts


def test_who_was_cancelled_without_a_winner_has_not_failed(history, leaf):
    history.learn({leaf(FOUR): attempt("cancelled", 0.0, 30.0)}, HOME, 0.0)
    assert history.about([HOST], HOME, 0.0) == NOTHING
    assert not history.knows([HOST])


def test_what_proves_nothing_teaches_nothing(history, leaf):
    history.learn({leaf(FOUR, silent=True): attempt("ready")}, HOME, 0.0)
    assert len(history) == 0


# -- addresses


@pytest.mark.requirement("R-9623-9.2-04")
def test_the_address_that_worked_is_first_and_those_that_failed_are_last(history, leaf):
    leaves = [leaf(address) for address in (SIX, FOUR, SIX_B, FOUR_B)]
    assert order(history, leaves) == [SIX, FOUR, SIX_B, FOUR_B]
    history.learn({leaves[0]: attempt("failed"), leaves[3]: attempt("ready")}, HOME, 0.0)
    # Of its family the others come next, and after them those of the other family.
    assert order(history, leaves) == [FOUR_B, FOUR, SIX_B, SIX]
    # Trouble is over; what worked is still known.
    assert order(history, leaves, HALF_LIFE + 1) == [FOUR_B, FOUR, SIX, SIX_B]


def test_only_addresses_of_one_host_and_stack_change_places(history, leaf):
    leaves = [leaf(SIX, "SCTP"), leaf(FOUR, "SCTP"), leaf(SIX), leaf(FOUR)]
    history.learn({leaves[2]: attempt("failed"), leaves[3]: attempt("ready")}, HOME, 0.0)
    found = history.order(leaves, HOME, 0.0)
    assert [each.stack.name for each in found] == ["SCTP", "SCTP", "TCP", "TCP"]
    assert [each.remote.ip_address for each in found] == [FOUR, SIX, FOUR, SIX]


# -- paths


@pytest.mark.requirement("R-9623-4.1.1.2-01")
def test_a_path_that_failed_comes_after_those_that_did_not_until_it_fades(history, leaf):
    on = {name: leaf(FOUR, path=name) for name in ("eth0", "wlan0")}
    history.learn({on["eth0"]: attempt("failed"), on["wlan0"]: attempt("ready")}, HOME, 0.0)
    assert history.paths([on["eth0"].remote], HOME, 0.0) == {"eth0": 2}
    assert history.paths([HOST], HOME, HALF_LIFE + 1) == {}
    assert history.paths([HOST], ELSEWHERE, 0.0) == {}
    # It worked there for another address.
    history.learn({leaf(SIX, path="eth0"): attempt("ready")}, HOME, 0.0)
    assert history.paths([HOST], HOME, 0.0) == {}


def test_a_path_that_is_clearly_slower_comes_after_the_faster_one(history, leaf):
    for name, seconds in (("eth0", 0.02), ("wlan0", 0.039), ("wwan0", 0.3)):
        history.learn({leaf(FOUR, path=name): attempt("ready", 0.0, seconds)}, HOME, 0.0)
    assert history.paths([HOST], HOME, 0.0) == {"wwan0": 1}
    assert history.paths([HOST], HOME, ROUND_TRIP_LIFE + 1) == {}
    # A few milliseconds are no reason.
    history.learn({leaf(FOUR, path="lo"): attempt("ready", 0.0, 0.012)}, HOME, 0.0)
    assert history.paths([HOST], HOME, 0.0) == {"wlan0": 1, "wwan0": 1}


def test_where_the_system_chose_nothing_is_learned_of_paths(history, leaf):
    history.learn({leaf(SIX): attempt("failed"), leaf(FOUR): attempt("ready")}, HOME, 0.0)
    assert history.paths([HOST], HOME, 0.0) == {}


# -- networks, time, bounds


@pytest.mark.requirement("R-9623-9.2-02")
def test_another_network_teaches_nothing_about_this_one(history, leaf):
    leaves = [leaf(SIX), leaf(FOUR)]
    history.learn({leaves[0]: attempt("failed"), leaves[1]: attempt("ready")}, HOME, 0.0)
    assert history.about([HOST], ELSEWHERE, 0.0) == NOTHING
    assert order(history, leaves, network=ELSEWHERE) == [SIX, FOUR]
    assert order(history, leaves) == [FOUR, SIX]


@pytest.mark.requirement("R-9623-9.2-05")
def test_round_trips_lose_weight_and_are_forgotten_soon(history, leaf):
    there = leaf(FOUR)
    history.learn({there: attempt("ready", 0.0, 0.1)}, HOME, 0.0)
    assert history.round_trip(there.remote, there.path, HOME, ROUND_TRIP_LIFE) == 0.1
    assert history.round_trip(there.remote, there.path, HOME, ROUND_TRIP_LIFE + 1) is None
    assert history.round_trip(there.remote, "another", HOME, 0.0) is None
    # Of the transport alone, where there is more.
    history.learn({there: attempt("ready", 0.0, 0.9, connected=0.3)}, HOME, 0.0)
    soon = history.round_trip(there.remote, there.path, HOME, 0.0)
    assert soon == pytest.approx(0.125)
    history.learn({there: attempt("ready", 0.0, 0.3)}, HOME, 600.0)
    assert history.round_trip(there.remote, there.path, HOME, 600.0) == pytest.approx(0.3, 0.01)


def test_all_of_it_is_forgotten_after_a_day_or_when_asked_to(history, leaf):
    history.learn({leaf(FOUR): attempt("ready")}, HOME, 0.0)
    assert history.about([HOST], HOME, LIFE).speaks
    assert history.about([HOST], HOME, LIFE + 1) == NOTHING
    assert history.as_json(LIFE + 1) == []
    history.forget("other.example")
    assert len(history) == 1
    history.forget("server.example")
    assert len(history) == 0


def test_it_is_bounded(history, leaf):
    for number in range(MAX_DESTINATIONS + 10):
        host = RemoteEndpoint.coerce(f"host{number}.example:1")
        history.learn({leaf(FOUR, host=host): attempt("ready")}, HOME, float(number))
    assert len(history) == MAX_DESTINATIONS
    assert not history.knows([RemoteEndpoint.coerce("host9.example:1")])
    for number in range(MAX_NETWORKS + 1):
        history.learn({leaf(FOUR): attempt("ready")}, number, 0.0)
    assert history.about([HOST], 0, 0.0) == NOTHING
    assert history.about([HOST], MAX_NETWORKS, 0.0).speaks
    for number in range(MAX_ADDRESSES + 5):
        history.learn({leaf(f"10.0.0.{number}"): attempt("ready")}, HOME, 2000.0)
    (told,) = [
        each
        for each in history.as_json(2000.0)
        if each["host"] == "server.example" and each["network"] == HOME
    ]
    assert len(told["addresses"]) == len(told["round_trips"]) == MAX_ADDRESSES
    for number in range(MAX_PATHS + 5):
        history.learn({leaf(FOUR, path=f"veth{number}"): attempt("failed")}, HOME, 2000.0)
    (told,) = [each for each in history.as_json(2000.0) if each["paths"]]
    assert len(told["paths"]) == MAX_PATHS


def test_what_was_saved_comes_back_as_old_as_it_is(history, leaf):
    leaves = [leaf(SIX), leaf(FOUR), leaf(FOUR, "SCTP")]
    outcomes = (attempt("failed"), attempt("ready"), attempt("failed"))
    history.learn(dict(zip(leaves, outcomes, strict=True)), "home", 1000.0)
    saved = json.loads(json.dumps(history.as_json(1000.0)))
    other = History()
    other.restore(saved, 5.0, older=100.0)
    assert order(other, leaves[:2], 5.0, "home") == [FOUR, SIX]
    assert other.about([HOST], "home", 5.0) == ({"tcp"}, {("sctp",)})
    assert other.about([HOST], "home", 5.0 + HALF_LIFE - 101).failing
    assert not other.about([HOST], "home", 5.0 + HALF_LIFE - 99).failing
    assert other.round_trip(leaves[1].remote, leaves[1].path, "home", 5.0) == 0.1
    # Before paths were kept there were none.
    assert not saved[0].pop("paths")
    History().restore(saved, 5.0)
    history.learn({leaf(SIX, path="eth0"): attempt("failed")}, "home", 1000.0)
    other.restore(json.loads(json.dumps(history.as_json(1000.0))), 5.0)
    assert other.paths([HOST], "home", 5.0) == {"eth0": 2}
    with pytest.raises(KeyError):
        other.restore([{"host": "x"}], 0.0)


# -- what it does to the ranking


def names(selection):
    return [each.stack.name for each in selection]


@pytest.mark.requirement("R-9623-9.2-03")
def test_what_failed_lately_comes_after_what_has_not(synthetic):
    plugins = synthetic.installed([synthetic.transport(name) for name in "abc"])
    selection = select(plugins, security=PLAIN, failing=frozenset({("a",)}))
    assert names(selection) == ["B", "C", "A"]
    assert selection.ranked[2].reasons[-1] == (
        "A has failed here lately: after what has not",
        By.MACHINE,
        None,
    )
    preferred = select(
        plugins, security=PLAIN, policy={"preferred": ["a"]}, failing=frozenset({("a",)})
    )
    assert names(preferred)[0] == "A"


def test_failures_never_change_the_order_of_security_classes(everything):
    usual = select(everything)
    classes = list(dict.fromkeys(each.racing_class for each in usual))
    assert len(classes) > 1
    for ranked in usual:
        failing = frozenset({ranked.stack.protocols})
        found = select(everything, failing=failing)
        assert list(dict.fromkeys(each.racing_class for each in found)) == classes
        assert sorted(names(found)) == sorted(names(usual))
