"""What the driver does with what the planner decides; exact times on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import random
import selectors
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.errors import EstablishmentError, Reason
from taps_core.model.flow import Flow
from taps_core.planning.candidates import Leaf
from taps_core.planning.race import RacePlanner
from taps_core.runtime.race import LATE_FLOW_GRACE, failure, is_transient, only, race

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from taps_core.model.reports import Attempt

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when there is nothing else to do."""

    def __init__(self) -> None:
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        self.now = 0.0
        really = selector.select

        def select(timeout: float | None = None) -> Any:
            ready = really(0)
            if not ready and timeout is not None:
                self.now += timeout
            assert ready or timeout is not None, "nothing will ever happen"
            return ready

        selector.select = select  # type: ignore[method-assign]  # time jumps instead of passing

    def time(self) -> float:
        return self.now


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run on a virtual clock; nothing may be left or be reported to the loop."""
    reported: list[Any] = []

    async def checked() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        result = await main()
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"
        gc.collect()
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result = runner.run(checked())
    assert not reported
    return result


def now() -> float:
    return round(asyncio.get_running_loop().time(), 6)


class FakeFlow(Flow):
    """Counts its lives."""

    open: set[FakeFlow] = set()  # noqa: RUF012  # all of a test's flows, on purpose

    def __init__(self, *, says_closed: bool = True) -> None:
        self.receiver: Any = None
        self.says_closed = says_closed
        FakeFlow.open.add(self)

    def start(self, receiver: Any) -> None:
        self.receiver = receiver

    def send(self, data: Any, record: Any, end_of_message: bool, /) -> bool | None:
        raise AssertionError("nobody sends here")

    def close(self) -> None:
        raise AssertionError("a loser is aborted")

    def abort(self) -> None:
        FakeFlow.open.discard(self)
        if self.receiver is not None and self.says_closed:
            asyncio.get_running_loop().call_soon(self.receiver.closed, None)


@pytest.fixture(autouse=True)
def _no_flow_of_others() -> None:
    FakeFlow.open.clear()


def leaf(name: str, *, address: str = "192.0.2.1") -> Leaf:
    stack: Any = SimpleNamespace(name=name)
    return Leaf(stack, RemoteEndpoint(ip_address=address, port=7))


# -- the only attempt


async def alone(leaf: Leaf, attempt: Callable[[Leaf], Any], attempts: list[Attempt]) -> Flow:
    loop = asyncio.get_running_loop()
    return await only(leaf, partial(attempt, leaf), attempts, now(), loop)


def test_the_only_attempt_costs_neither_task_nor_timer() -> None:
    async def main() -> None:
        mine = asyncio.current_task()
        it = leaf("TCP")
        loop: Any = asyncio.get_running_loop()

        async def attempt(given: Leaf) -> Flow:
            assert given is it
            assert asyncio.current_task() is mine
            assert asyncio.all_tasks() == {mine}
            assert not loop._scheduled
            await asyncio.sleep(0)
            return FakeFlow()

        attempts: list[Attempt] = []
        assert isinstance(
            await alone(it, attempt, attempts),
            FakeFlow,
        )
        assert [(a.what, a.outcome) for a in attempts] == [("TCP to 192.0.2.1:7", "ready")]

    run(main)


def test_the_only_os_error_keeps_its_number_and_text() -> None:
    async def main() -> None:
        async def attempt(_: Leaf) -> Flow:
            await asyncio.sleep(0.002)
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")

        attempts: list[Attempt] = []
        with pytest.raises(EstablishmentError) as caught:
            await only(
                leaf("TCP"),
                partial(attempt, leaf("TCP")),
                attempts,
                now(),
                asyncio.get_running_loop(),
            )
        error = caught.value
        assert str(error) == (
            f"TCP to 192.0.2.1:7: [Errno {errno.ECONNREFUSED}] Connect call failed (after 2.0 ms)"
        )
        assert error.errno == errno.ECONNREFUSED
        assert error.transient
        assert error.reason is Reason.ESTABLISHMENT_FAILED
        assert isinstance(error.__cause__, ConnectionRefusedError)
        assert error.attempts == tuple(attempts)
        assert [(a.outcome, a.ended) for a in attempts] == [("failed", 0.002)]

    run(main)


def test_the_only_taps_error_keeps_reason_and_detail() -> None:
    async def main() -> None:
        async def attempt(_: Leaf) -> Flow:
            raise EstablishmentError(
                "its certificate has expired",
                reason=Reason.POLICY_PROHIBITED,
                detail="certificate-expired",
            )

        with pytest.raises(EstablishmentError, match="expired") as caught:
            await only(
                leaf("TLS/TCP"),
                partial(attempt, leaf("TLS/TCP")),
                [],
                now(),
                asyncio.get_running_loop(),
            )
        assert caught.value.reason is Reason.POLICY_PROHIBITED
        assert caught.value.detail == "certificate-expired"
        assert not caught.value.transient

    run(main)


def test_cancelling_the_only_attempt_cancels_it_in_place() -> None:
    async def main() -> None:
        cancelled: list[str] = []

        async def attempt(_: Leaf) -> Flow:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancelled.append("attempt")
                raise
            raise AssertionError

        attempts: list[Attempt] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await only(
                    leaf("TCP"),
                    partial(attempt, leaf("TCP")),
                    attempts,
                    now(),
                    asyncio.get_running_loop(),
                )
        assert cancelled == ["attempt"]
        assert now() == 0.5
        assert [(a.outcome, a.ended) for a in attempts] == [("cancelled", 0.5)]

    run(main)


# -- several attempts


def test_a_black_hole_costs_one_delay() -> None:
    async def main() -> None:
        leaves = [leaf("TCP"), leaf("TCP")]

        async def attempt(it: Leaf) -> Flow:
            await asyncio.sleep(1000 if it is leaves[0] else 0.04)
            return FakeFlow()

        planner = RacePlanner(leaves)
        winner, flow = await race(planner, attempt)
        assert winner is leaves[1]
        assert now() == 0.29
        assert FakeFlow.open == {flow}
        assert [a.outcome for a in planner.attempts] == ["cancelled", "ready"]

    run(main)


def test_a_refusal_starts_the_next_in_the_same_turn_of_the_clock() -> None:
    async def main() -> None:
        leaves = [leaf("TCP"), leaf("TCP"), leaf("TCP")]

        async def attempt(it: Leaf) -> Flow:
            if it is not leaves[2]:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
            await asyncio.sleep(0.01)
            return FakeFlow()

        planner = RacePlanner(leaves)
        winner, _ = await race(planner, attempt)
        assert winner is leaves[2]
        assert now() == 0.01
        assert [a.outcome for a in planner.attempts] == ["failed", "failed", "ready"]

    run(main)


def test_losers_are_over_before_the_winner_is_handed_out() -> None:
    async def main() -> None:
        leaves = [leaf("TCP"), leaf("TCP")]
        log: list[str] = []

        async def attempt(it: Leaf) -> Flow:
            if it is leaves[1]:
                return FakeFlow()
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(0.3)  # a socket that takes its time to close
                log.append("closed")
            raise AssertionError

        await race(RacePlanner(leaves), attempt)
        log.append("handed out")
        assert log == ["closed", "handed out"]
        assert now() == 0.55

    run(main)


def test_of_two_ready_in_one_turn_the_better_candidate_wins_and_the_other_is_closed() -> None:
    async def main() -> None:
        leaves = [leaf("TCP"), leaf("TCP")]
        flows: dict[Leaf, FakeFlow] = {}
        gate = asyncio.Event()

        async def attempt(it: Leaf) -> Flow:
            flows[it] = FakeFlow()
            if it is leaves[1]:
                gate.set()
            await gate.wait()
            return flows[it]

        planner = RacePlanner(leaves)
        winner, flow = await race(planner, attempt)
        assert winner is leaves[0]
        assert flow is flows[leaves[0]]
        assert FakeFlow.open == {flow}
        assert [a.outcome for a in planner.attempts] == ["ready", "cancelled"]

    run(main)


def test_a_failure_in_the_turn_of_a_success_starts_nothing() -> None:
    async def main() -> None:
        leaves = [leaf("TCP"), leaf("TCP"), leaf("TCP")]
        begun: list[Leaf] = []
        gate = asyncio.Event()

        async def attempt(it: Leaf) -> Flow:
            begun.append(it)
            if it is leaves[1]:
                gate.set()
            await gate.wait()
            if it is leaves[0]:
                raise ConnectionResetError(errno.ECONNRESET, "reset")
            return FakeFlow()

        planner = RacePlanner(leaves)
        winner, _ = await race(planner, attempt)
        assert winner is leaves[1]
        assert begun == leaves[:2]
        assert [a.outcome for a in planner.attempts] == ["failed", "ready"]

    run(main)


def test_a_loser_that_succeeds_although_it_was_cancelled_is_closed() -> None:
    async def main() -> None:
        leaves = [leaf("TCP"), leaf("TCP")]

        async def attempt(it: Leaf) -> Flow:
            if it is leaves[0]:
                with contextlib.suppress(asyncio.CancelledError):  # it does not listen
                    await asyncio.sleep(1000)
            return FakeFlow()

        winner, flow = await race(RacePlanner(leaves), attempt)
        assert winner is leaves[1]
        assert FakeFlow.open == {flow}

    run(main)


@pytest.mark.parametrize("broken", ["silent", "raises"])
def test_a_late_flow_that_misbehaves_delays_the_winner_within_bounds_only(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising(FakeFlow):
        def start(self, receiver: Any) -> None:
            raise ZeroDivisionError("a bug")

    async def main() -> None:
        leaves = [leaf("TCP"), leaf("TCP")]

        async def attempt(it: Leaf) -> Flow:
            if it is leaves[0]:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    return FakeFlow(says_closed=False) if broken == "silent" else Raising()
            return FakeFlow()

        winner, flow = await race(RacePlanner(leaves), attempt)
        assert winner is leaves[1]
        assert FakeFlow.open == {flow}
        assert now() <= 0.25 + LATE_FLOW_GRACE

    run(main)
    assert [record.name for record in caplog.records] == ["taps_core"]


def test_a_bug_in_a_plugin_costs_its_attempt_only_and_keeps_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        leaves = [leaf("QUIC"), leaf("TCP")]

        def buggy_helper() -> None:
            raise KeyError("connection_id")

        async def attempt(it: Leaf) -> Flow:
            if it is leaves[0]:
                buggy_helper()
            return FakeFlow()

        planner = RacePlanner(leaves)
        winner, _ = await race(planner, attempt)
        assert winner is leaves[1]
        error = planner.attempts[0].error
        assert isinstance(error, KeyError)
        names, frame = [], error.__traceback__
        while frame is not None:
            names.append(frame.tb_frame.f_code.co_name)
            frame = frame.tb_next
        assert names[-1] == "buggy_helper"

    with caplog.at_level(logging.ERROR, "taps_core"):
        run(main)
    assert "QUIC to 192.0.2.1:7: the attempt failed by a bug" in caplog.text
    assert "buggy_helper" in caplog.text


def test_a_bug_in_the_only_attempt_is_an_establishment_error_with_its_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async def attempt(_: Leaf) -> Flow:
            raise KeyError("connection_id")

        with pytest.raises(EstablishmentError, match="KeyError: 'connection_id'") as caught:
            await alone(leaf("QUIC"), attempt, [])
        assert isinstance(caught.value.__cause__, KeyError)

    run(main)
    assert "by a bug" in caplog.text


@pytest.mark.parametrize("number", [1, 2])
def test_a_cancellation_that_a_plugin_lost_is_a_failed_attempt(number: int) -> None:
    async def main() -> None:
        async def attempt(_: Leaf) -> Flow:
            await asyncio.sleep(0)
            raise asyncio.CancelledError

        with pytest.raises(EstablishmentError, match="cancelled from within"):
            if number == 1:
                await only(
                    leaf("TCP"),
                    partial(attempt, leaf("TCP")),
                    [],
                    now(),
                    asyncio.get_running_loop(),
                )
            else:
                await race(RacePlanner([leaf("TCP") for _ in range(number)]), attempt)

    run(main)


def test_when_all_fail_every_error_is_there_in_order_of_start() -> None:
    async def main() -> None:
        leaves = [leaf("TCP"), leaf("TCP"), leaf("SCTP")]
        after = dict(zip(leaves, (0.4, 0.1, 0.0), strict=True))

        async def attempt(it: Leaf) -> Flow:
            await asyncio.sleep(after[it])
            if it is leaves[2]:
                raise EstablishmentError("the kernel has no SCTP")
            raise TimeoutError(errno.ETIMEDOUT, "timed out")

        with pytest.raises(EstablishmentError) as caught:
            await race(RacePlanner(leaves), attempt)
        error = caught.value
        assert now() == 0.4
        # SCTP, another stack, has a timer of its own: it began with the second address.
        assert str(error) == (
            "no attempt succeeded:\n"
            f"  TCP to 192.0.2.1:7: [Errno {errno.ETIMEDOUT}] timed out (after 400 ms)\n"
            f"  TCP to 192.0.2.1:7: [Errno {errno.ETIMEDOUT}] timed out (after 100 ms)\n"
            "  SCTP to 192.0.2.1:7: the kernel has no SCTP (after 0.0 ms)"
        )
        assert [type(attempt.error) for attempt in error.attempts] == [
            TimeoutError,
            TimeoutError,
            EstablishmentError,
        ]
        assert isinstance(error.__cause__, ExceptionGroup)
        assert list(error.__cause__.exceptions) == [a.error for a in error.attempts]
        assert error.errno is None
        assert error.transient

    run(main)


def test_without_a_leaf_there_was_nothing_to_try() -> None:
    async def main() -> None:
        async def attempt(_: Leaf) -> Flow:
            raise AssertionError

        with pytest.raises(EstablishmentError, match="nothing to try") as caught:
            await race(RacePlanner([]), attempt)
        assert caught.value.reason is Reason.NO_CANDIDATES
        assert caught.value.__cause__ is None

    run(main)


# -- cancellation


def test_a_deadline_around_the_race_fires_on_time_and_leaves_nothing() -> None:
    async def main() -> None:
        async def attempt(_: Leaf) -> Flow:
            await asyncio.sleep(1000)
            raise AssertionError

        planner = RacePlanner([leaf("TCP") for _ in range(10)])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await race(planner, attempt)
        assert now() == 0.6
        assert [(a.started, a.outcome) for a in planner.attempts] == [
            (0.0, "cancelled"),
            (0.25, "cancelled"),
            (0.5, "cancelled"),
        ]

    run(main)


def test_cancelled_while_the_losers_end_nobody_gets_the_winner_and_it_is_closed() -> None:
    async def main() -> None:
        leaves = [leaf("TCP"), leaf("TCP")]

        async def attempt(it: Leaf) -> Flow:
            if it is leaves[0]:
                try:
                    await asyncio.sleep(1000)
                finally:
                    await asyncio.sleep(1.0)
            return FakeFlow()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await race(RacePlanner(leaves), attempt)
        assert now() == 1.25  # what could not be cancelled was waited for
        assert not FakeFlow.open

    run(main)


def test_a_thousand_races_cancelled_at_any_turn_leave_no_task_and_no_flow() -> None:
    chance = random.Random(9623)

    async def attempt(given: Leaf) -> Flow:
        flow = None
        try:
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            flow = FakeFlow()
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(chance.choice([0, 0, 0.25]))
            if chance.random() < 0.3:
                raise OSError("refused")
        except BaseException:
            if flow is not None:
                flow.abort()
            raise
        return flow

    async def late() -> AsyncGenerator[list[Leaf], None]:
        await asyncio.sleep(chance.choice([0, 0.1]))
        yield [leaf("TCP")]
        await asyncio.sleep(0.1)

    async def one(count: int) -> str:
        expecting = chance.random() < 0.5
        planner = RacePlanner(
            [leaf(chance.choice(["TCP", "SCTP"])) for _ in range(count)], expect_more=expecting
        )
        running = asyncio.ensure_future(race(planner, attempt, late=late() if expecting else None))
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(chance.choice([0, 0, 0, 0.05]))
        running.cancel()
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
            running.cancel()
        try:
            _, flow = await running
        except asyncio.CancelledError:
            return "cancelled"
        except EstablishmentError:
            return "failed"
        assert flow in FakeFlow.open
        flow.abort()
        return "won"

    async def main() -> None:
        ends = {await one(1 + i % 5) for i in range(1000)}
        assert ends == {"cancelled", "failed", "won"}
        assert not FakeFlow.open
        # The last call of aclose() and closed() needs a turn.
        await asyncio.sleep(0)

    run(main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_it_races_and_cancels_on_real_loops(loop: str) -> None:
    factory = (
        asyncio.new_event_loop
        if loop == "asyncio"
        else pytest.importorskip("uvloop").new_event_loop
    )

    async def main() -> None:
        leaves = [leaf("TCP") for _ in range(3)]
        ended: list[Leaf] = []

        async def attempt(it: Leaf) -> Flow:
            try:
                if it is not leaves[2]:
                    await asyncio.Event().wait()
                return FakeFlow()
            finally:
                ended.append(it)

        winner, flow = await race(RacePlanner(leaves, delay=0.01), attempt)
        assert winner is leaves[2]
        assert set(ended) == set(leaves)
        assert FakeFlow.open == {flow}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


# -- late leaves


def test_late_leaves_join_and_win() -> None:
    async def main() -> None:
        first, second = leaf("TCP"), leaf("TCP", address="2001:db8::1")

        async def late() -> AsyncGenerator[list[Leaf], None]:
            await asyncio.sleep(0.05)
            yield [second]
            await asyncio.sleep(1000)

        async def attempt(it: Leaf) -> Flow:
            await asyncio.sleep(1000 if it is first else 0.01)
            return FakeFlow()

        names = late()
        winner, _ = await race(RacePlanner([first], expect_more=True), attempt, late=names)
        assert winner is second
        assert now() == 0.26
        with pytest.raises(StopAsyncIteration):
            await anext(names)  # it was closed

    run(main)


def test_late_leaves_that_come_in_the_turn_of_the_winner_start_nothing() -> None:
    async def main() -> None:
        first, second = leaf("TCP"), leaf("TCP", address="2001:db8::1")
        closed: list[str] = []

        async def late() -> AsyncGenerator[list[Leaf], None]:
            await asyncio.sleep(0.05)
            try:
                yield [second]
            finally:
                closed.append("late")

        async def attempt(it: Leaf) -> Flow:
            assert it is first
            await asyncio.sleep(0.05)
            return FakeFlow()

        winner, _ = await race(RacePlanner([first], expect_more=True), attempt, late=late())
        assert winner is first
        assert closed == ["late"]

    run(main)


def test_the_race_waits_for_names_and_keeps_what_went_wrong_with_them() -> None:
    async def main() -> None:
        async def late() -> AsyncGenerator[list[Leaf], None]:
            await asyncio.sleep(0.05)
            yield []
            raise EstablishmentError("host.example: no such name", reason=Reason.RESOLUTION_FAILED)

        async def attempt(_: Leaf) -> Flow:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

        planner = RacePlanner([leaf("TCP")], expect_more=True)
        with pytest.raises(EstablishmentError) as caught:
            await race(planner, attempt, late=late())
        assert now() == 0.05
        assert str(caught.value).splitlines()[1:] == [
            f"  TCP to 192.0.2.1:7: [Errno {errno.ECONNREFUSED}] refused (after 0.0 ms)",
            "  host.example: no such name",
        ]
        cause = caught.value.__cause__
        assert isinstance(cause, ExceptionGroup)
        assert len(cause.exceptions) == 2

    run(main)


def test_a_bug_in_the_source_of_late_leaves_ends_the_race_and_leaves_nothing() -> None:
    async def main() -> None:
        async def late() -> AsyncGenerator[list[Leaf], None]:
            await asyncio.sleep(0.05)
            if asyncio.get_running_loop().time() > 0:
                raise KeyError("a bug")
            yield []

        async def attempt(_: Leaf) -> Flow:
            await asyncio.sleep(1000)
            raise AssertionError

        with pytest.raises(KeyError):
            await race(RacePlanner([leaf("TCP")], expect_more=True), attempt, late=late())

    run(main)


def test_a_planner_that_expects_more_and_no_source_of_it_do_not_fit() -> None:
    async def main() -> None:
        async def attempt(_: Leaf) -> Flow:
            raise AssertionError

        with pytest.raises(ValueError, match="expects more"):
            await race(RacePlanner([leaf("TCP")], expect_more=True), attempt)

    run(main)


# -- errors


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), True),
        (OSError(errno.ENETUNREACH, "unreachable"), True),
        (OSError(errno.EMFILE, "too many files"), True),
        (TimeoutError(), True),
        (PermissionError(errno.EACCES, "denied"), False),
        (OSError(errno.EAFNOSUPPORT, "no IPv6"), False),
        (EstablishmentError("x", transient=True), True),
        (EstablishmentError("x"), False),
        (KeyError("x"), False),
    ],
)
def test_transient_means_that_a_later_try_may_help(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def test_errors_that_agree_give_reason_detail_and_number() -> None:
    planner = RacePlanner([leaf("TCP"), leaf("TCP")])
    (first,) = planner.start(0.0)
    (second,) = planner.attempt_failed(first, OSError(errno.EACCES, "denied"), 0.1)
    planner.attempt_failed(second, OSError(errno.EACCES, "denied"), 0.2)
    error = failure(planner.attempts)
    assert error.errno == errno.EACCES
    assert error.reason is Reason.ESTABLISHMENT_FAILED
    assert not error.transient
