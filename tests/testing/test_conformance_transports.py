"""The transports in memory keep what the suites ask for; the runner says what it saw."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any

import pytest

from taps_core.testing import (
    MemoryDatagram,
    MemoryMessages,
    MemoryNetwork,
    MemorySecure,
    MemoryStream,
    accidents,
    random_chunks,
)
from taps_core.testing.conformance import (
    ByteStreamConformance,
    Conformance,
    DatagramConformance,
    MessageConformance,
    check,
    suite_for,
)

NETWORK = MemoryNetwork()


class TestMemoryStream(ByteStreamConformance):
    transport = MemoryStream(NETWORK)


class TestMemoryStreamInChunks(ByteStreamConformance):
    transport = MemoryStream(NETWORK, chunk=random_chunks(1))


class TestMemorySecure(ByteStreamConformance):
    transport = MemorySecure(NETWORK)


class TestMemoryMessages(MessageConformance):
    transport = MemoryMessages(NETWORK)


class TestMemoryDatagram(DatagramConformance):
    transport = MemoryDatagram(NETWORK)


class TestMemoryDatagramWithAccidents(DatagramConformance):
    transport = MemoryDatagram(
        MemoryNetwork(), fate=accidents(3, loss=0.2, duplicate=0.1, reorder=0.2)
    )


def test_the_network_is_empty_when_all_suites_are_done() -> None:
    assert NETWORK.open_flows == 0, NETWORK.flows
    assert NETWORK.open_listeners == 0


class Small(Conformance):
    patience = 0.05

    def test_a_good_thing(self) -> None:
        """It is good.

        And there is more to it.
        """

    def test_something_else(self) -> None:
        """It does it."""
        self.not_claimed("nobody said so")

    def test_a_bad_thing(self) -> None:
        """It is never bad,
        whatever comes."""
        self.run(self._fail)

    def test_an_end(self) -> None:
        """It comes to an end."""
        self.run(self._hang)

    def test_tidiness(self) -> None:
        """It leaves no task."""
        self.run(self._leak)

    async def _fail(self) -> None:
        raise AssertionError("it was bad")

    async def _hang(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def _leak(self) -> None:
        self.task = asyncio.ensure_future(asyncio.sleep(60))


def test_check_gives_a_verdict_on_each_promise_in_order() -> None:
    verdicts = check(Small)
    assert [(verdict.test, verdict.outcome) for verdict in verdicts] == [
        ("test_a_good_thing", "passed"),
        ("test_something_else", "skipped"),
        ("test_a_bad_thing", "failed"),
        ("test_an_end", "failed"),
        ("test_tidiness", "failed"),
    ]


def test_a_skip_carries_its_reason() -> None:
    (verdict,) = check(Small, only=["test_something_else"])
    assert verdict.reason == "nobody said so"


def test_a_failure_says_what_was_seen_and_on_which_loop() -> None:
    (verdict,) = check(Small, only=["test_a_bad_thing"])
    assert verdict.promise == "It is never bad, whatever comes."
    assert verdict.reason == "it was bad; on the event loop of asyncio"
    assert isinstance(verdict.error, AssertionError)


def test_what_hangs_fails_in_the_end() -> None:
    (verdict,) = check(Small, only=["test_an_end"])
    assert isinstance(verdict.error, TimeoutError)


def test_what_is_left_behind_is_named() -> None:
    (verdict,) = check(Small, only=["test_tidiness"])
    assert "sleep" in verdict.reason


def test_a_test_that_there_is_not_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such test: test_nonsense"):
        check(Small, only=["test_nonsense"])


@pytest.mark.parametrize(
    ("declaration", "base"),
    [
        (MemoryStream(NETWORK), ByteStreamConformance),
        (MemoryMessages(NETWORK), MessageConformance),
        (MemoryDatagram(NETWORK), DatagramConformance),
    ],
)
def test_the_suite_fits_the_data_unit(declaration: Any, base: type[Conformance]) -> None:
    suite = suite_for(declaration)
    assert issubclass(suite, base)
    assert suite.transport is declaration  # type: ignore[attr-defined]  # it is a transport's


def test_there_is_no_suite_for_anything_else() -> None:
    with pytest.raises(TypeError, match="not for 'tcp'"):
        suite_for("tcp")  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("suite", [ByteStreamConformance, MessageConformance, DatagramConformance])
def test_every_promise_is_a_sentence(suite: type[Conformance]) -> None:
    for test in suite.promises():
        promise = suite.promise(test)
        assert promise.endswith("."), f"{test}: {promise}"
        assert promise[0].isupper(), f"{test}: {promise}"


def test_a_transport_that_cannot_listen_is_told_so() -> None:
    class Deaf(MemoryStream):
        listen = MemoryStream.__mro__[1].listen  # type: ignore[attr-defined]  # as if it had none

    verdicts = check(suite_for(Deaf(NETWORK)), only=["test_what_is_sent_arrives"])
    assert [verdict.reason for verdict in verdicts] == ["MEMORY-STREAM does not listen"]


def test_where_to_meet_must_be_known() -> None:
    class Nowhere(MemoryStream):
        def loopback(self) -> None:
            return None

    (verdict,) = check(suite_for(Nowhere(NETWORK)), only=["test_what_is_sent_arrives"])
    assert verdict.outcome == "skipped"
    assert "loopback()" in verdict.reason


def test_skips_are_those_of_the_standard_library() -> None:
    with pytest.raises(unittest.SkipTest):
        Small().test_something_else()
