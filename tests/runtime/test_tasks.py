"""Work that whoever awaits it does, and that others can end."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.runtime.tasks import Interruptible

if TYPE_CHECKING:
    from tests.runtime.conftest import Run

where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


class Work:
    """Waits for a future again and again, and notes what it met."""

    def __init__(self) -> None:
        self.met: list[str] = []
        self.task: asyncio.Task[Any] | None = None
        self.future: asyncio.Future[None] | None = None
        self.goes_on = False

    async def __call__(self) -> None:
        self.task = asyncio.current_task()
        self.met.append(where.get())
        while True:
            self.future = asyncio.get_running_loop().create_future()
            try:
                await self.future
            except asyncio.CancelledError:
                self.met.append("cancelled")
                if not self.goes_on:
                    raise
            else:
                self.met.append("done")
                return


def test_it_is_done_in_the_task_of_who_awaits_it_and_in_the_context_it_was_made_in(
    run: Run,
) -> None:
    async def main() -> None:
        work = Work()
        token = where.set("where it was made")
        done = Interruptible(work)
        where.reset(token)
        asyncio.get_running_loop().call_soon(lambda: work.future.set_result(None))  # type: ignore[union-attr]  # it waits by then
        await done
        assert work.task is asyncio.current_task()
        assert work.met == ["where it was made", "done"]
        await done.over()

    run(main)


def test_whoever_interrupts_it_does_not_cancel_the_task(run: Run) -> None:
    async def main() -> None:
        work = Work()
        done = Interruptible(work)
        asyncio.get_running_loop().call_soon(done.interrupt)
        await done
        assert work.met[1:] == ["cancelled"]
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        await asyncio.sleep(0)  # nothing is left to be met

    run(main)


def test_it_meets_the_interruption_although_what_it_waits_for_came_first(run: Run) -> None:
    async def main() -> None:
        work = Work()
        done = Interruptible(work)

        def both() -> None:
            assert work.future is not None
            work.future.set_result(None)
            done.interrupt()

        asyncio.get_running_loop().call_soon(both)
        await done
        assert work.met[1:] == ["cancelled"]

    run(main)


def test_it_can_interrupt_itself_and_meets_that_where_it_waits_next(run: Run) -> None:
    async def main() -> None:
        met: list[str] = []

        async def work() -> None:
            done.interrupt()
            met.append("still here")
            try:
                await asyncio.sleep(10)
            finally:
                met.append("ended")

        done = Interruptible(work)
        await done
        assert met == ["still here", "ended"]

    run(main)


@pytest.mark.parametrize("interrupted_too", [False, True])
def test_a_task_that_is_cancelled_meanwhile_stays_cancelled(
    run: Run, interrupted_too: bool
) -> None:
    async def main() -> None:
        work = Work()
        done = Interruptible(work)

        async def wait() -> None:
            await done

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        if interrupted_too:
            done.interrupt()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert done.cancelled
        assert work.met[1:] == ["cancelled"]

    run(main)


def test_it_may_go_on_unless_it_was_ended_for_good(run: Run) -> None:
    async def main() -> None:
        work = Work()
        work.goes_on = True
        done = Interruptible(work)

        def interrupt() -> None:
            done.interrupt(for_good=False)
            loop.call_later(0.01, end)

        def end() -> None:
            assert done.resumed()
            assert not done.ended
            assert not done.resumed(), "once for each interruption"
            work.goes_on = False
            done.interrupt()
            done.interrupt(for_good=False)

        loop = asyncio.get_running_loop()
        loop.call_soon(interrupt)
        await done
        assert work.met[1:] == ["cancelled", "cancelled"]
        assert not done.resumed()

    run(main)


def test_others_can_wait_for_its_end(run: Run) -> None:
    async def main() -> None:
        work = Work()
        done = Interruptible(work)
        await done.over()  # nobody has begun

        async def wait() -> None:
            await done

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        over = [asyncio.ensure_future(done.over()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in over)
        done.interrupt()
        await asyncio.gather(task, *over)

    run(main)


def test_what_it_raises_is_raised(run: Run) -> None:
    async def main() -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await Interruptible(work)

    run(main)
