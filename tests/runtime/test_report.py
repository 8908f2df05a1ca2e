"""The report of an establishment: what it says, when, to whom, and how little it weighs."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.model.reports import MAX_RECORDS, Attempt, EstablishmentReport
from taps_core.testing import MemoryNetwork, MemoryStream, VirtualNetwork

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run, VirtualRun

SERVER = "server.example:7000"
NOBODY = "127.0.0.9:9"


async def until_the_end(connection: taps.Connection[Any]) -> None:
    async for _ in connection:
        pass


def dual_stack(net: VirtualNetwork) -> None:
    net.path(latency=0.05)
    net.host("server.example", "2001:db8::1", "192.0.2.1")


def initiate(**how: Any) -> taps.Connection[Any]:
    return taps.Preconnection(remote=SERVER, framers="line").initiate(**how)


def near(seconds: float) -> Any:
    return pytest.approx(seconds, abs=1e-9)


def test_a_race_that_was_won_says_what_was_tried_and_when(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        dual_stack(net)
        net.path("client", "2001:db8::1").blackhole()
        await net.serve(SERVER, until_the_end, framers="line")
        await asyncio.sleep(5)  # times count from the beginning of establishment
        async with initiate() as connection:
            report = connection.report
            told = report.as_json()
            assert json.loads(json.dumps(told)) == told
            (name,), (hole, won) = told["resolutions"], told["attempts"]
            assert list(told) == [
                "outcome",
                "ended",
                "error",
                "untried",
                "resolutions",
                "attempts",
                "waiting",
            ]
            assert (told["outcome"], told["ended"]) == ("ready", near(0.35))
            assert (told["error"], told["untried"]) == (None, 0)
            assert (name["name"], name["outcome"], name["error"]) == (SERVER, "resolved", None)
            assert [each["address"] for each in name["found"]] == ["2001:db8::1", "192.0.2.1"]
            assert hole == {
                "what": "line/VIRTUAL-STREAM to [2001:db8::1]:7000",
                "stack": "line/VIRTUAL-STREAM",
                "path": "default",
                "remote": "[2001:db8::1]:7000",
                "local": None,
                "failover": 0,
                "silent": False,
                "started": 0.0,
                "connected": None,
                "ended": near(0.35),
                "outcome": "cancelled",
                "error": None,
            }
            assert (won["outcome"], won["started"], won["ended"]) == ("ready", 0.25, near(0.35))
            # The same for people.
            assert str(report).splitlines() == [
                "ready after 350.0 ms",
                "   0.0 ms  server.example:7000: resolved after 0.0 ms: 2001:db8::1, 192.0.2.1",
                "   0.0 ms  line/VIRTUAL-STREAM to [2001:db8::1]:7000: cancelled after 350.0 ms",
                " 250.0 ms  line/VIRTUAL-STREAM to 192.0.2.1:7000: ready after 100.0 ms",
            ]

    virtual_run(scenario)


def test_what_was_never_started_is_counted_and_named(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        dual_stack(net)
        await net.serve(SERVER, until_the_end, framers="line")
        async with initiate() as connection:
            report = connection.report
            assert len(report) == 1
            assert report.untried == 1
            (waiting,) = report.as_json()["waiting"]
            assert waiting["what"] == "line/VIRTUAL-STREAM to 192.0.2.1:7000"
            assert waiting["remote"] == "192.0.2.1:7000"

    virtual_run(scenario)


@pytest.mark.requirement("R-9623-4.4.1-02")
def test_an_error_has_the_report_with_every_error_in_order(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        dual_stack(net)
        connection = initiate()
        with pytest.raises(taps.EstablishmentError) as caught:
            await connection
        report = caught.value.report
        assert report is connection.report
        assert report is not None
        assert report.attempts == caught.value.attempts
        assert (report.outcome, report.ended) == ("failed", near(0.2))
        assert report.error == "no attempt succeeded"
        assert [(each.started, each.ended) for each in report] == [
            (0.0, near(0.1)),
            (near(0.1), near(0.2)),
        ]
        assert ["2001:db8::1" in str(each.error) for each in report] == [True, False]

    virtual_run(scenario)


def test_a_timeout_says_what_was_not_done(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        dual_stack(net)
        net.path("client").blackhole()
        connection = initiate(timeout=0.4)
        with pytest.raises(taps.EstablishmentTimeout):
            await connection
        report = connection.report
        assert (report.outcome, report.ended) == ("failed", near(0.4))
        assert report.error == "nothing was ready within 0.4 s"
        assert [each.outcome for each in report] == ["cancelled", "cancelled"]

    virtual_run(scenario)


def test_a_name_that_cannot_be_resolved_is_in_it(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Names:
        async def resolve(self, endpoint: Any) -> list[Any]:
            if endpoint.hostname == "nowhere.example":
                raise taps.EstablishmentError("no such name")
            return [endpoint.with_ip_address("127.0.0.1")]

    async def main() -> None:
        here = world(MemoryStream(memory_network), resolver=Names())
        connection = here.to("nowhere.example:1").initiate()
        with pytest.raises(taps.EstablishmentError, match="no such name"):
            await connection
        (name,) = connection.report.resolutions
        assert (name.name, name.outcome) == ("nowhere.example:1", "failed")
        assert str(name.error) == "no such name"
        assert name.as_json()["error"] == "no such name"
        assert connection.report == ()
        assert connection.report.error == "no such name"
        # One of two is missing: the other one is tried.
        async with here.listen() as listener:
            port = listener.local_endpoints[0].port
            both = ["nowhere.example:1", f"there.example:{port}"]
            async with here.to(both).initiate() as connection:
                assert [each.outcome for each in connection.report.resolutions] == [
                    "failed",
                    "resolved",
                ]

    run(main, memory_network)


def test_what_was_given_up_before_it_began_is_cancelled_with_nothing_tried(
    virtual_run: VirtualRun,
) -> None:
    async def scenario(_: VirtualNetwork) -> None:
        connection = initiate()
        connection.abort()
        assert (connection.report.outcome, len(connection.report)) == ("cancelled", 0)
        with pytest.raises(taps.EstablishmentError) as caught:
            await connection
        assert caught.value.report.outcome == "cancelled"

    virtual_run(scenario)


def test_giving_up_is_cancelled_not_failed(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        dual_stack(net)
        net.path("client").blackhole()
        connection = initiate()
        await asyncio.sleep(0.3)
        connection.abort()
        with pytest.raises(taps.EstablishmentError) as caught:
            await connection
        await asyncio.sleep(0.1)
        assert caught.value.report is connection.report
        report = connection.report
        assert (report.outcome, report.ended, report.error) == ("cancelled", near(0.3), None)
        assert [each.ended for each in report] == [near(0.3), near(0.3)]

    virtual_run(scenario)


def test_it_can_be_watched_while_the_race_runs(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        dual_stack(net)
        net.path("client", "2001:db8::1").blackhole()
        await net.serve(SERVER, until_the_end, framers="line")
        connection = initiate()
        seen: list[tuple[float, str, str]] = []

        def look(changed: Any) -> None:
            now = round(asyncio.get_running_loop().time(), 6)
            assert now == pytest.approx(changed.ended or now, abs=1e-6)
            seen.append((now, type(changed).__name__, changed.outcome))

        connection.report.watch(look)
        async with connection:
            pass
        assert [(at, *told) for at, *told in seen] == [
            (0.0, "Resolution", "running"),
            (0.0, "Resolution", "running"),
            (0.0, "Resolution", "resolved"),
            (0.0, "Attempt", "running"),
            (0.25, "Attempt", "running"),
            (0.35, "Attempt", "ready"),
            (0.35, "Attempt", "cancelled"),
            (0.35, "EstablishmentReport", "ready"),
        ]
        # Whoever comes after the end is told nothing.
        connection.report.watch(look)
        assert len(seen) == 8

    virtual_run(scenario)


def test_a_watcher_that_fails_costs_the_race_nothing(
    run: Run, world: Any, memory_network: MemoryNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            connection = here.to(listener).initiate()
            told: list[Any] = []

            def broken(_: Any) -> None:
                raise ZeroDivisionError

            connection.report.watch(broken)
            connection.report.watch(told.append)
            async with connection:
                assert told[-1] is connection.report

    run(main, memory_network)
    assert "ZeroDivisionError" in caplog.text
    assert {record.name for record in caplog.records} == {"taps_core"}


def test_connections_that_nobody_initiated_have_an_empty_one(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener, here.to(listener).initiate() as client:
            async with await listener.accept() as server:
                assert server.report == ()
                assert (server.report.outcome, server.report.resolutions) == ("ready", ())
            assert client.report.resolutions == ()  # an address needs no name

    run(main, memory_network)


def test_a_clone_has_its_own(run: Run, world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener, here.to(listener).initiate() as client:
            async with client.clone() as clone:
                assert [each.outcome for each in clone.report] == ["ready"]
                assert clone.report.outcome == "ready"
                assert clone.report is not client.report
            listener.stop()
            await listener.stopped()
            lost = client.clone()
            with pytest.raises(taps.CloneError) as caught:
                await lost
            assert caught.value.report is lost.report
            assert lost.report.outcome == "failed"

    run(main, memory_network)


def test_it_stays_small_however_often_endpoints_change(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path("client").blackhole()
        connection = taps.Preconnection(remote="192.0.2.1:7", framers="line").initiate()
        for number in range(3 * MAX_RECORDS):
            await asyncio.sleep(0.01)
            connection.add_remote(f"10.0.0.{1 + number % 200}:7")
        await asyncio.sleep(0.01)
        assert MAX_RECORDS <= len(connection.report) <= 2 * MAX_RECORDS
        connection.abort()

    virtual_run(scenario)


def test_an_attempt_is_described_only_when_somebody_reads_it() -> None:
    class Tried:
        reads = 0

        @property
        def what(self) -> str:
            self.reads += 1
            return "TCP to [::1]:7"

        def as_json(self) -> dict[str, Any]:
            return {"stack": "TCP"}

    tried = Tried()
    attempt = Attempt(tried, 0.0)
    assert tried.reads == 0
    assert str(attempt) == "TCP to [::1]:7: running"
    assert attempt.as_json()["stack"] == "TCP"
    assert repr(attempt) == "<Attempt TCP to [::1]:7: running>"


def test_a_report_is_a_sequence_of_its_attempts() -> None:
    report = EstablishmentReport(100.0)
    assert report == ()
    assert report == []
    assert report != 0
    attempts = report.gather()
    attempts += [Attempt("one", 0.0), Attempt("two", 0.1)]
    assert [each.what for each in report] == ["one", "two"]
    assert report[1].what == "two"
    assert [each.what for each in report[:1]] == ["one"]
    assert report == tuple(attempts) == report.attempts
    assert repr(report) == "<EstablishmentReport running, 2 attempts>"
    with pytest.raises(TypeError, match="unhashable"):
        hash(report)
    assert sys.getsizeof(report) < 128
