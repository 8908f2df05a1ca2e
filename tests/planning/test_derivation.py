"""What is asked for a name, and what is tried when: exact times, nobody is asked."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.errors import Reason
from taps_core.planning.answers import ANY_ADDRESS, Answer, Question
from taps_core.planning.derivation import (
    MAX_ADDRESSES,
    RESOLUTION_DELAY,
    Derivation,
    Plan,
    balanced,
)
from taps_core.planning.service_records import Binding, SrvRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

WWW = "www.example."
SIX, OTHER_SIX = "2001:db8::1", "2001:db8::2"
FOUR, OTHER_FOUR = "192.0.2.1", "192.0.2.2"

NO_NAME = Answer(problem="no such name", detail="no-such-name", server="192.0.2.53")
NO_SIX = Answer(problem="no AAAA record", detail="no-address", server="192.0.2.53")
NO_FOUR = Answer(problem="no A record", detail="no-address", server="192.0.2.53")
FAILED = Answer(problem="192.0.2.53: SERVFAIL", detail="server-failure", transient=True)


class Asked:
    """A derivation that is being driven; ``asked`` is what waits for an answer."""

    def __init__(self, endpoint: RemoteEndpoint | None = None, **plan: Any) -> None:
        endpoint = endpoint or RemoteEndpoint(hostname="www.example", port=443)
        plan = {"names": (WWW,), "port": 443, **plan}
        self.it = Derivation(endpoint, Plan(**plan), ordered=list, chance=random.Random(1))
        self.asked = self.it.start()

    def answer(self, rdtype: str, answer: Answer | Iterable[Any], name: str = WWW) -> None:
        question = Question(name, rdtype)
        self.asked.remove(question)
        answer = answer if isinstance(answer, Answer) else Answer(records=tuple(answer))
        self.asked += self.it.answered(question, answer)
        self.asked = [each for each in self.asked if each in self.it.pending]

    def at(self, now: float) -> list[str]:
        """What goes out then, as ``address:port`` with protocol and target where they differ."""
        return [shown(each) for each in self.it.take(now)]

    @property
    def questions(self) -> list[str]:
        return [str(question) for question in self.asked]


def shown(endpoint: RemoteEndpoint) -> str:
    port = "" if endpoint.port == 443 else f" at {endpoint.port}"
    protocol = "" if endpoint.protocol is None else f" by {endpoint.protocol}"
    target = "" if endpoint.target is None else f" of {endpoint.target}"
    assert endpoint.hostname == "www.example", "the name to verify stays"
    return f"{endpoint.ip_address}{port}{protocol}{target}"


# -- two families


@pytest.mark.requirement("R-9623-4.1.1.1-01")
def test_both_families_are_asked_at_once_ipv6_first() -> None:
    assert Asked().questions == ["www.example. AAAA", "www.example. A"]


def test_ipv6_that_is_first_goes_out_at_once_and_ipv4_joins_it() -> None:
    it = Asked()
    it.answer("AAAA", [SIX])
    assert it.at(0.010) == [SIX]
    assert it.it.deadline() is None
    it.answer("A", [FOUR])
    assert it.at(7.0) == [FOUR]
    assert it.it.done


def test_ipv4_that_is_first_waits_for_the_resolution_delay() -> None:
    it = Asked()
    it.answer("A", [FOUR])
    assert it.at(1.0) == []
    assert it.it.deadline() == 1.0 + RESOLUTION_DELAY
    assert it.at(1.049) == []
    assert it.at(1.0 + RESOLUTION_DELAY) == [FOUR]
    it.answer("AAAA", [SIX])
    assert it.at(3.0) == [SIX], "late, but not lost"


def test_ipv6_within_the_resolution_delay_goes_first() -> None:
    it = Asked()
    it.answer("A", [FOUR])
    assert it.at(1.0) == []
    it.answer("AAAA", [SIX])
    assert it.at(1.030) == [SIX, FOUR]
    assert it.it.deadline() is None


@pytest.mark.parametrize("nothing", [NO_SIX, NO_NAME, FAILED], ids=lambda it: it.detail)
def test_ipv4_waits_no_longer_when_there_is_no_ipv6(nothing: Answer) -> None:
    it = Asked()
    it.answer("A", [FOUR])
    assert it.at(1.0) == []
    it.answer("AAAA", nothing)
    assert it.at(1.001) == [FOUR]


def test_nothing_is_waited_for_where_there_is_nothing_yet() -> None:
    it = Asked()
    it.answer("AAAA", NO_SIX)
    assert it.at(5.0) == []
    assert it.it.deadline() is None
    it.answer("A", [FOUR])
    assert it.at(9.0) == [FOUR]


def test_the_systems_own_answer_keeps_its_order() -> None:
    it = Asked(addresses=(ANY_ADDRESS,))
    it.answer(ANY_ADDRESS, [FOUR, SIX, OTHER_FOUR])
    assert it.at(0.0) == [FOUR, SIX, OTHER_FOUR]


def test_without_a_port_there_is_none_in_what_is_derived() -> None:
    it = Asked(RemoteEndpoint(hostname="www.example"), port=None)
    it.answer("AAAA", [SIX])
    assert [each.port for each in it.it.take(0.0)] == [None]


# -- bounds


@given(st.integers(0, 100), st.integers(0, 100), st.booleans(), st.booleans())
def test_no_family_crowds_out_the_other_not_even_one_that_is_late(
    six: int, four: int, six_late: bool, four_late: bool
) -> None:
    sixes, fours = [f"6.{i}" for i in range(six)], [f"4.{i}" for i in range(four)]
    kept = balanced(
        [] if six_late else sixes,
        [] if four_late else fours,
        first_may_grow=six_late,
        second_may_grow=four_late,
    )
    later = [each for each in balanced(sixes, fours) if each not in kept]
    assert len(kept) + len(later) == min(MAX_ADDRESSES, six + four)


@pytest.mark.requirement("R-9623-12.2-02")
def test_ten_thousand_addresses_stay_bounded() -> None:
    it = Asked()
    it.answer("A", [f"10.{i >> 8}.{i & 255}.1" for i in range(10_000)])
    assert it.at(0.0) == []
    assert len(it.at(RESOLUTION_DELAY)) == MAX_ADDRESSES // 2, "IPv6 may still come"
    it.answer("AAAA", [f"2001:db8::{i:x}" for i in range(10_000)])
    assert len(it.at(1.0)) == MAX_ADDRESSES // 2
    assert it.at(2.0) == []


@pytest.mark.requirement("R-9623-12.2-02")
def test_ten_thousand_targets_stay_bounded() -> None:
    it = Asked(srv=(("_x._tcp", "tcp"),))
    records = [SrvRecord(1, 1, 1000 + i, f"t{i}.example.") for i in range(10_000)]
    it.answer("SRV", records, f"_x._tcp.{WWW}")
    assert len(it.asked) == 2 * 8
    for question in list(it.asked):
        it.answer(question.rdtype, [SIX, OTHER_SIX] * 1000, question.name)
    assert len(it.at(0.0)) <= MAX_ADDRESSES


# -- search domains


def test_names_are_tried_one_after_the_other_and_families_of_two_never_mix() -> None:
    it = Asked(names=("www.corp.example.", "www.example."))
    assert it.questions == ["www.corp.example. AAAA", "www.corp.example. A"]
    it.answer("AAAA", NO_NAME, "www.corp.example.")
    assert it.questions == ["www.corp.example. A"]
    it.answer("A", NO_NAME, "www.corp.example.")
    assert it.questions == ["www.example. AAAA", "www.example. A"]
    it.answer("AAAA", [SIX])
    assert it.at(0.0) == [SIX]


def test_a_server_that_fails_ends_the_search() -> None:
    it = Asked(names=("www.corp.example.", "www.example."))
    it.answer("AAAA", FAILED, "www.corp.example.")
    it.answer("A", NO_FOUR, "www.corp.example.")
    assert it.it.done, "the next name may be another host's"
    assert it.it.error().transient


# -- what is wrong


def test_the_error_says_which_name_and_who_said_it() -> None:
    it = Asked(names=("www.corp.example.", "www.example."))
    for name in ("www.corp.example.", "www.example."):
        it.answer("AAAA", NO_NAME, name)
        it.answer("A", NO_NAME, name)
    error = it.it.error()
    assert str(error) == (
        "www.example cannot be resolved: no such name (asked for www.corp.example., "
        "www.example.), says 192.0.2.53"
    )
    assert error.reason is Reason.RESOLUTION_FAILED
    assert error.detail == "no-such-name"
    assert not error.transient


def test_a_failed_server_counts_more_than_no_record() -> None:
    it = Asked()
    it.answer("A", FAILED)
    it.answer("AAAA", NO_SIX)
    error = it.it.error()
    assert str(error) == (
        "www.example cannot be resolved: no AAAA record; 192.0.2.53: SERVFAIL, says 192.0.2.53"
    )
    assert error.detail == "server-failure"


# -- SRV


def xmpp(**plan: Any) -> Asked:
    endpoint = RemoteEndpoint(hostname="www.example", service="xmpp-client")
    return Asked(endpoint, **{"port": 5222, "srv": (("_xmpp-client._tcp", "tcp"),), **plan})


SRV_NAME = f"_xmpp-client._tcp.{WWW}"


def test_srv_is_asked_beside_the_addresses_and_waited_for() -> None:
    it = xmpp()
    assert it.questions == [f"{SRV_NAME} SRV", f"{WWW} AAAA", f"{WWW} A"]
    it.answer("AAAA", [SIX])
    it.answer("A", [FOUR])
    assert it.at(9.0) == [], "the name itself may be another host"
    assert it.it.must_wait
    it.answer("SRV", NO_NAME, SRV_NAME)
    assert it.at(9.1) == [f"{SIX} at 5222", f"{FOUR} at 5222"]


def test_srv_records_take_the_place_of_the_name() -> None:
    it = xmpp()
    it.answer("AAAA", [SIX])
    records = [SrvRecord(20, 0, 5223, "b.example."), SrvRecord(10, 0, 5299, "a.example.")]
    it.answer("SRV", records, SRV_NAME)
    assert it.questions == ["a.example. AAAA", "a.example. A", "b.example. AAAA", "b.example. A"]
    it.answer("AAAA", [OTHER_SIX], "b.example.")
    assert it.at(1.0) == [], "a better one may come"
    it.answer("AAAA", [SIX], "a.example.")
    assert it.at(1.01) == [
        f"{SIX} at 5299 by tcp of a.example",
        f"{OTHER_SIX} at 5223 by tcp of b.example",
    ]
    it.answer("A", [FOUR], "a.example.")
    assert it.at(1.02) == [f"{FOUR} at 5299 by tcp of a.example"]


def test_a_target_that_is_late_holds_up_the_others_for_the_resolution_delay() -> None:
    it = xmpp()
    records = [SrvRecord(20, 0, 5223, "b.example."), SrvRecord(10, 0, 5299, "a.example.")]
    it.answer("SRV", records, SRV_NAME)
    it.answer("AAAA", [OTHER_SIX], "b.example.")
    assert it.at(1.0) == []
    assert it.at(1.0 + RESOLUTION_DELAY) == [f"{OTHER_SIX} at 5223 by tcp of b.example"]


def test_a_service_that_is_said_not_to_be_there_is_not_tried() -> None:
    it = xmpp()
    it.answer("AAAA", [SIX])
    it.answer("SRV", [SrvRecord(0, 0, 0, ".")], SRV_NAME)
    assert it.it.done
    assert it.at(9.0) == []
    error = it.it.error()
    assert error.detail == "no-service"
    assert SRV_NAME in str(error)
    assert not error.transient


def test_srv_that_fails_leaves_the_name_itself() -> None:
    it = xmpp()
    it.answer("SRV", FAILED, SRV_NAME)
    it.answer("AAAA", [SIX])
    assert it.at(0.0) == [f"{SIX} at 5222"]


def test_a_service_without_port_and_records_says_so() -> None:
    endpoint = RemoteEndpoint(hostname="www.example", service="_ours._tcp")
    it = Asked(endpoint, port=None, direct=False, srv=(("_ours._tcp", "tcp"),))
    assert it.questions == [f"_ours._tcp.{WWW} SRV"]
    it.answer("SRV", NO_NAME, f"_ours._tcp.{WWW}")
    assert it.it.done
    error = it.it.error()
    assert error.detail == "unknown-service"
    assert "give a port" in str(error)


def test_a_service_without_port_whose_server_fails_may_be_there_later() -> None:
    endpoint = RemoteEndpoint(hostname="www.example", service="_ours._tcp")
    it = Asked(endpoint, port=None, direct=False, srv=(("_ours._tcp", "tcp"),))
    it.answer("SRV", FAILED, f"_ours._tcp.{WWW}")
    assert it.it.error().transient
    assert "SERVFAIL" in str(it.it.error())


# -- HTTPS and SVCB


def https(**plan: Any) -> Asked:
    return Asked(**{"binding": ("", "HTTPS"), "default_alpn": ("http/1.1",), **plan})


def test_https_is_asked_beside_the_addresses_and_may_be_late() -> None:
    it = https()
    assert it.questions == [f"{WWW} HTTPS", f"{WWW} AAAA", f"{WWW} A"]
    it.answer("AAAA", [SIX])
    assert it.at(1.0) == [], "it may name a better place"
    assert it.at(1.0 + RESOLUTION_DELAY) == [SIX]
    it.answer("HTTPS", [Binding(1, ".", port=8443)])
    assert it.at(2.0) == [f"{SIX} at 8443"]


@pytest.mark.parametrize("nothing", [NO_SIX, NO_NAME, FAILED], ids=lambda it: it.detail)
def test_without_https_records_it_is_the_name(nothing: Answer) -> None:
    it = https()
    it.answer("AAAA", [SIX])
    it.answer("HTTPS", nothing)
    assert it.at(1.0) == [SIX]


def test_bindings_go_by_priority_and_the_name_itself_is_the_last() -> None:
    it = https()
    records = [Binding(2, "b.example."), Binding(1, "a.example.", port=8443)]
    it.answer("HTTPS", records)
    for name, address in ((WWW, SIX), ("b.example.", OTHER_SIX), ("a.example.", "2001:db8::a")):
        it.answer("AAAA", [address], name)
    assert it.at(0.0) == [
        "2001:db8::a at 8443 of a.example",
        f"{OTHER_SIX} of b.example",
        SIX,
    ]


def test_alpn_says_which_transports_are_there() -> None:
    it = https(offered=("h2", "h3"), transports={"h3": "quic"})
    it.answer("AAAA", [SIX])
    it.answer("HTTPS", [Binding(1, ".", alpn=("h3", "h2"))])
    assert it.at(0.0) == [f"{SIX} by quic", SIX]


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        (Binding(1, ".", port=1, alpn=("h3",), default_alpn=False), [SIX]),
        (Binding(1, ".", port=1, alpn=("h3",)), [SIX]),
        (Binding(1, ".", port=1, alpn=("h2",)), [f"{SIX} at 1", SIX]),
        (Binding(1, ".", port=1, default_alpn=False), [SIX]),
        (Binding(1, ".", port=1, alpn=("h2",), not_understood=("ech",)), [SIX]),
    ],
    ids=["only h3", "h3 and the default", "h2", "malformed", "mandatory and not understood"],
)
def test_a_binding_that_is_not_for_us_is_left_out(binding: Binding, expected: list[str]) -> None:
    it = https(offered=("h2",), transports={"h3": "quic"})
    it.answer("AAAA", [SIX])
    it.answer("HTTPS", [binding])
    assert it.at(0.0) == expected


def test_hints_stand_in_for_addresses_that_are_late() -> None:
    it = https()
    it.answer("HTTPS", [Binding(1, "a.example.", hints=(OTHER_SIX, OTHER_FOUR))])
    assert it.at(1.0) == []
    assert it.at(1.0 + RESOLUTION_DELAY) == [
        f"{OTHER_SIX} of a.example",
        f"{OTHER_FOUR} of a.example",
    ]
    it.answer("AAAA", [SIX], "a.example.")
    assert it.at(2.0) == [f"{SIX} of a.example"]


def test_hints_are_nothing_where_addresses_are_known() -> None:
    it = https()
    it.answer("HTTPS", [Binding(1, "a.example.", hints=(OTHER_SIX,))])
    it.answer("AAAA", [SIX], "a.example.")
    assert it.at(1.0) == [f"{SIX} of a.example"]


def test_aliases_are_followed_and_the_name_itself_stays_the_last() -> None:
    it = https()
    it.answer("HTTPS", [Binding(0, "alias.example.")])
    assert "alias.example. HTTPS" in it.questions
    assert "alias.example. AAAA" in it.questions
    it.answer("HTTPS", [Binding(1, ".", port=8443)], "alias.example.")
    it.answer("AAAA", [OTHER_SIX], "alias.example.")
    it.answer("AAAA", [SIX])
    assert it.at(0.0) == [
        f"{OTHER_SIX} at 8443 of alias.example",
        f"{OTHER_SIX} of alias.example",
        SIX,
    ]


def test_aliases_in_a_circle_end() -> None:
    it = https()
    names = ["a.example.", "b.example."] * 20
    last = WWW
    followed = 0
    for name in names:
        if Question(last, "HTTPS") not in it.asked:
            break
        it.answer("HTTPS", [Binding(0, name)], last)
        last, followed = name, followed + 1
    assert followed <= 9
    it.answer("AAAA", [SIX])
    it.it.pending.clear()
    assert SIX in it.at(1.0)


def test_an_alias_to_nowhere_leaves_the_name_itself() -> None:
    it = https()
    it.answer("AAAA", [SIX])
    it.answer("HTTPS", [Binding(0, ".")])
    assert it.at(0.0) == [SIX]


def test_an_owner_reached_by_cnames_is_the_target() -> None:
    it = https()
    it.answer("HTTPS", Answer(records=(Binding(1, "."),), owner="cdn.example."))
    it.answer("AAAA", [OTHER_SIX], "cdn.example.")
    assert it.at(0.0) == [f"{OTHER_SIX} of cdn.example"]


def test_the_one_transport_of_an_endpoint_stays_the_one() -> None:
    endpoint = RemoteEndpoint(hostname="www.example", port=443, protocol="tcp")
    it = Asked(
        endpoint,
        protocol="tcp",
        binding=("", "HTTPS"),
        offered=("h2", "h3"),
        transports={"h3": "quic"},
    )
    it.answer("AAAA", [SIX])
    it.answer("HTTPS", [Binding(1, ".", alpn=("h3", "h2"))])
    assert it.at(0.0) == [f"{SIX} by tcp"]


# -- whatever comes


def found(*addresses: str) -> st.SearchStrategy[Answer]:
    return st.lists(st.sampled_from(addresses), min_size=1, unique=True).map(
        lambda some: Answer(records=tuple(some))
    )


PROBLEMS = st.sampled_from([NO_NAME, NO_SIX, FAILED])
ANSWERS = {"AAAA": PROBLEMS | found(SIX, OTHER_SIX), "A": PROBLEMS | found(FOUR, OTHER_FOUR)}
NAMES = st.sampled_from([".", WWW, "a.example.", "b.example.", "c.example."])
SRVS = st.lists(
    st.builds(SrvRecord, st.integers(0, 3), st.integers(0, 9), st.integers(1, 9), NAMES)
)
BINDINGS = st.lists(
    st.builds(
        Binding,
        st.integers(0, 3),
        NAMES,
        alpn=st.lists(st.sampled_from(["h2", "h3", "x"]), unique=True).map(tuple),
        default_alpn=st.booleans(),
        port=st.none() | st.integers(1, 9),
        hints=st.lists(st.sampled_from([SIX, FOUR]), unique=True).map(tuple),
    )
)


@given(st.data())
def test_whatever_is_answered_in_whatever_order_it_ends_and_nothing_comes_twice(
    data: st.DataObject,
) -> None:
    it = Asked(
        names=data.draw(st.sampled_from([(WWW,), ("www.corp.example.", WWW)])),
        srv=data.draw(st.sampled_from([(), (("_x._tcp", "tcp"),)])),
        binding=data.draw(st.sampled_from([None, ("", "HTTPS")])),
        default_alpn=("http/1.1",),
        offered=data.draw(st.sampled_from([(), ("h2",), ("h2", "h3")])),
        transports={"h3": "quic"},
    )
    now, out, answers = 0.0, [], 0
    while it.asked:
        question = data.draw(st.sampled_from(it.asked))
        answer: Any
        if question.rdtype == "SRV":
            answer = data.draw(SRVS)
        elif question.rdtype == "HTTPS":
            answer = data.draw(BINDINGS)
        else:
            answer = data.draw(ANSWERS[question.rdtype])
        it.answer(question.rdtype, answer, question.name)
        now += data.draw(st.floats(0, 0.1))
        out += it.at(now)
        answers += 1
        assert answers < 200
    assert it.it.done
    out += it.at(now)
    assert len(out) == len(set(out))
    assert bool(out) == it.it.has_any
    assert len(out) <= 4 * MAX_ADDRESSES
    if not out:
        assert it.it.error().reason is Reason.RESOLUTION_FAILED
