"""What is remembered of answers, for how long, and for which network."""

from __future__ import annotations

from taps_core.planning.answers import (
    MAX_NEGATIVE_TTL,
    MAX_TTL,
    Answer,
    AnswerCache,
    Question,
)

A = Question("www.example.", "A")
AAAA = Question("www.example.", "AAAA")
FOUND = Answer(records=("192.0.2.1",), ttl=60.0)


def test_an_answer_is_known_as_long_as_its_ttl_says() -> None:
    cache = AnswerCache(10)
    cache.put("home", A, FOUND, 100.0)
    assert cache.get("home", A, 159.9) is FOUND
    assert cache.get("home", AAAA, 159.9) is None
    assert cache.get("home", A, 160.0) is None
    assert len(cache) == 0


def test_what_was_learned_on_one_network_is_unknown_on_another() -> None:
    cache = AnswerCache(10)
    cache.put("home", A, FOUND, 0.0)
    assert cache.get("office", A, 1.0) is None
    assert cache.get("home", A, 1.0) is FOUND


def test_a_name_that_does_not_exist_has_nothing_of_any_type() -> None:
    cache = AnswerCache(10)
    missing = Answer(problem="no such name", detail="no-such-name", ttl=30.0)
    cache.put("home", A, missing, 0.0)
    assert cache.get("home", AAAA, 29.0) is missing
    assert cache.get("home", AAAA, 30.0) is None


def test_no_record_of_one_type_says_nothing_of_another() -> None:
    cache = AnswerCache(10)
    cache.put("home", AAAA, Answer(problem="no AAAA record", detail="no-address", ttl=30.0), 0.0)
    assert cache.get("home", A, 1.0) is None
    assert cache.get("home", AAAA, 1.0) is not None


def test_failures_and_what_may_not_be_remembered_are_asked_for_again() -> None:
    cache = AnswerCache(10)
    cache.put("home", A, Answer(problem="SERVFAIL", transient=True, ttl=30.0), 0.0)
    cache.put("home", AAAA, Answer(records=("2001:db8::1",)), 0.0)
    assert len(cache) == 0


def test_no_ttl_is_longer_than_a_day_and_no_negative_one_than_a_quarter_of_an_hour() -> None:
    cache = AnswerCache(10)
    cache.put("home", A, Answer(records=("192.0.2.1",), ttl=1e9), 0.0)
    cache.put("home", AAAA, Answer(problem="none", detail="no-address", ttl=1e9), 0.0)
    assert cache.get("home", A, MAX_TTL - 1) is not None
    assert cache.get("home", A, MAX_TTL) is None
    assert cache.get("home", AAAA, MAX_NEGATIVE_TTL) is None


def test_what_was_not_used_for_longest_makes_room() -> None:
    cache = AnswerCache(3)
    questions = [Question(f"{number}.example.", "A") for number in range(4)]
    for question in questions[:3]:
        cache.put("home", question, FOUND, 0.0)
    assert cache.get("home", questions[0], 1.0) is FOUND
    cache.put("home", questions[3], FOUND, 1.0)
    assert len(cache) == 3
    assert [cache.get("home", each, 2.0) is FOUND for each in questions] == [
        True,
        False,
        True,
        True,
    ]
