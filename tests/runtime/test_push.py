"""Whoever a read wakes runs in the same turn of the loop, after all layers are done with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.runtime.push import Push, Signal
from taps_core.testing import run as run_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taps_core.model.flow import PartTuple

PART: tuple[PartTuple, ...] = ((b"", None, True),)


class Above:
    """A layer that does something with what comes up."""

    def __init__(self, does: Callable[[], object]) -> None:
        self.does = does

    def received(self, parts: Sequence[PartTuple]) -> None:
        self.does()


def read(does: Callable[[], object]) -> None:
    """As a transport does in a callback of the loop."""
    loop = asyncio.get_running_loop()
    loop.call_soon(Push.of(loop).up, Above(does), PART)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_waiter_runs_in_the_same_turn_after_the_layers(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        signal = Signal(loop)
        order: list[str] = []

        async def waiter() -> None:
            await signal
            order.append("waiter")

        def does() -> None:
            signal.fire()
            order.append("layers")
            loop.call_soon(order.append, "next turn")

        task = asyncio.create_task(waiter())
        await turns()
        read(does)
        await task
        await turns()
        assert order == ["layers", "waiter", "next turn"]

    run(main)


def test_without_a_push_the_loop_wakes(run: Any) -> None:
    async def main() -> None:
        signal = Signal(asyncio.get_running_loop())

        async def waiter() -> str:
            await signal
            return "woken"

        task = asyncio.create_task(waiter())
        await turns()
        signal.fire()
        assert not task.done()
        assert await task == "woken"

    run(main)


def test_whoever_waited_first_runs_first(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        order: list[int] = []
        signals = [Signal(loop) for _ in range(3)]

        async def waiter(number: int) -> None:
            await signals[number]
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(waiter(number))
            await turns()
            read(lambda: [signal.fire() for signal in signals])
        assert order == [0, 1, 2]

    run(main)


def test_a_signal_can_be_awaited_again_and_again(run: Any) -> None:
    async def main() -> None:
        signal = Signal(asyncio.get_running_loop())
        count = 0

        async def waiter() -> None:
            nonlocal count
            for _ in range(100):
                await signal
                count += 1

        task = asyncio.create_task(waiter())
        for _ in range(100):
            await turns(2)
            read(lambda: signal.fire())
        await task
        assert count == 100

    run(main)


@pytest.mark.parametrize("message", [(), ("enough",)])
def test_a_waiter_can_be_cancelled(run: Any, message: tuple[str, ...]) -> None:
    async def main() -> None:
        signal = Signal(asyncio.get_running_loop())

        async def waiter() -> None:
            await signal

        task = asyncio.create_task(waiter())
        await turns()
        task.cancel(*message)
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == message
        # And it serves the next one.
        task = asyncio.create_task(waiter())
        await turns()
        read(lambda: signal.fire())
        await task

    run(main)


def test_one_that_was_woken_and_cancelled_by_another_is_cancelled(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = Signal(loop), Signal(loop)
        victim: list[asyncio.Task[None]] = []

        async def canceller() -> None:
            await first
            victim[0].cancel()

        async def waiter() -> None:
            await second

        task = asyncio.create_task(canceller())
        victim.append(asyncio.create_task(waiter()))
        await turns()
        read(lambda: (first.fire(), second.fire()))
        await task
        with pytest.raises(asyncio.CancelledError):
            await victim[0]

    run(main)


def test_a_timeout_works(run: Any) -> None:
    async def main() -> None:
        signal = Signal(asyncio.get_running_loop())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await signal

    run(main)


def test_the_waiters_failure_is_its_own(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        signal = Signal(loop)

        async def waiter() -> None:
            await signal
            raise ValueError("mine")

        task = asyncio.create_task(waiter())
        await turns()
        Push.of(loop).open = False
        read(lambda: signal.fire())
        with pytest.raises(ValueError, match="mine"):
            await task

    run(main)


def test_a_layers_failure_reaches_the_transport_and_the_waiter_runs(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        signal = Signal(loop)
        failures: list[Exception] = []

        async def waiter() -> None:
            await signal

        def does() -> None:
            signal.fire()
            raise RuntimeError("a bug above")

        def data_received() -> None:
            try:
                Push.of(loop).up(Above(does), PART)
            except RuntimeError as error:
                failures.append(error)

        task = asyncio.create_task(waiter())
        await turns()
        loop.call_soon(data_received)
        await task
        assert [str(error) for error in failures] == ["a bug above"]

    run(main)


def test_a_push_from_inside_a_task_wakes_by_the_loop(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        signal = Signal(loop)

        async def waiter() -> str:
            await signal
            return "woken"

        task = asyncio.create_task(waiter())
        await turns()
        Push.of(loop).up(Above(lambda: signal.fire()), PART)
        assert not task.done()
        assert await task == "woken"

    run(main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_it(loop: Any, exception: type[BaseException]) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")

    async def main() -> None:
        signal = Signal(asyncio.get_running_loop())

        async def waiter() -> None:
            await signal
            raise exception

        task = asyncio.create_task(waiter())
        await turns()
        read(lambda: signal.fire())
        await asyncio.wait([task])
        await asyncio.sleep(60)

    with pytest.raises(exception):
        run_alone(main, loop=loop)


def test_a_coroutine_that_is_closed_while_woken_is_left_alone(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        signal = Signal(loop)

        async def waiter() -> None:
            await signal

        coroutine = waiter()
        assert coroutine.send(None) is signal
        read(lambda: (signal.fire(), coroutine.close()))
        await turns()

    run(main)
