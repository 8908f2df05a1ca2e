"""The virtual clock: exact times, no real waiting, and nothing real that is jumped over."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taps_core.testing import DeadlockError, VirtualClockLoop, virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

YEAR = 365 * 24 * 3600.0


def play(main: Callable[[], Coroutine[Any, Any, Any]], limit: float = math.inf) -> Any:
    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(limit)) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_time_begins_at_zero_and_sleeping_is_exact() -> None:
    async def main() -> list[float]:
        times = [now()]
        for seconds in (0.25, 0.0, 1.5, YEAR):
            await asyncio.sleep(seconds)
            times.append(now())
        return times

    assert play(main) == [0.0, 0.25, 0.25, 1.75, YEAR + 1.75]


def test_time_stands_still_while_anything_is_ready() -> None:
    async def main() -> float:
        asyncio.get_running_loop().call_later(1.0, lambda: None)
        for _ in range(1000):
            await asyncio.sleep(0)
        return now()

    assert play(main) == 0.0


def test_timeouts_are_virtual() -> None:
    async def main() -> tuple[float, float]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.sleep(31)
        first = now()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 12.5)
        return first, now()

    assert play(main) == (30.0, 42.5)


def test_timers_for_one_time_run_in_the_order_in_which_they_were_set() -> None:
    async def main() -> list[int]:
        came: list[int] = []
        loop = asyncio.get_running_loop()
        timers = [loop.call_at(1.0, came.append, number) for number in range(100)]
        for number in range(0, 100, 3):
            timers[number].cancel()
        await asyncio.sleep(1.0)
        return came

    assert play(main) == [number for number in range(100) if number % 3]


@settings(deadline=None)
@given(times=st.lists(st.floats(min_value=0, max_value=1e15, allow_nan=False), max_size=30))
def test_no_timer_is_early_and_none_is_late(times: list[float]) -> None:
    seen: list[tuple[float, float]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for when in times:
            loop.call_at(when, lambda when=when: seen.append((when, loop.time())))
        await asyncio.sleep(2e15)

    play(main)
    assert [when for when, _ in seen] == sorted(times)
    assert all(when == at for when, at in seen)


def test_a_deadlock_is_reported_at_once_with_where_each_task_waits() -> None:
    async def forgotten() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forgotten(), name="the forgotten one")
            await asyncio.sleep(3)

    with pytest.raises(DeadlockError, match=r"deadlock at 3 s") as caught:
        play(main)
    there = "test_virtual_time.py"
    assert any("the forgotten one" in line and there in line for line in caught.value.waiting)
    assert any("main" in line and "TaskGroup" in line for line in caught.value.waiting)


def test_a_timer_that_never_comes_saves_nobody_from_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.sleep(math.inf)

    with pytest.raises(DeadlockError):
        play(main)


def test_beyond_the_limit_it_has_hung() -> None:
    cleaned_up: list[float] = []

    async def main() -> None:
        try:
            while True:
                await asyncio.sleep(7)
        finally:
            await asyncio.sleep(100)  # tidying up may take its time
            cleaned_up.append(now())

    with pytest.raises(TimeoutError, match="not done after 20 virtual seconds"):
        play(main, limit=20)
    assert cleaned_up == [114.0]


def test_work_in_a_thread_is_waited_for_in_real_time() -> None:
    async def main() -> tuple[str, float]:
        done = threading.Event()
        ticking = asyncio.create_task(asyncio.sleep(1000))
        work = asyncio.create_task(asyncio.to_thread(done.wait))
        for _ in range(100):
            await asyncio.sleep(0)
        before = now()
        done.set()
        await work
        ticking.cancel()
        return "done", before

    assert play(main) == ("done", 0.0)


def test_a_thread_that_never_ends_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_time, "PATIENCE", 0.01)
    done = threading.Event()

    async def main() -> None:
        try:
            await asyncio.to_thread(done.wait)
        finally:
            done.set()

    with pytest.raises(DeadlockError, match="work in a thread goes on"):
        play(main)


def test_another_thread_can_wake_the_loop() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        await asyncio.to_thread(loop.call_soon_threadsafe, woken.set_result, None)
        await woken
        return now()

    assert play(main) == 0.0


def test_real_sockets_are_refused_with_a_sentence() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        with one, other:
            with pytest.raises(RuntimeError, match="nothing real can be waited for"):
                loop.add_reader(one, lambda: None)
            one.setblocking(False)
            with pytest.raises(RuntimeError, match="nothing real can be waited for"):
                await loop.sock_recv(one, 1)

    play(main)


def test_a_closed_loop_takes_no_timers() -> None:
    loop = VirtualClockLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)
