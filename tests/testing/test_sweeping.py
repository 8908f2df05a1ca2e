"""``sweep`` cancels everywhere, and finds what cancellation breaks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.testing import (
    Cancellation,
    LeakError,
    MemoryNetwork,
    MemoryStream,
    SweepError,
    connect_request,
    listen_request,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import TypeAlias

    from taps_core.plugin import Flow
    from taps_core.testing import Scenario
    from taps_core.testing.fixtures import Sweep

    Act: TypeAlias = Callable[[], Awaitable[Any]]


def scenario(act: Act) -> Scenario:
    """Nothing but the coroutine."""

    @contextlib.asynccontextmanager
    async def made() -> AsyncIterator[Act]:
        yield act

    return made


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_every_step_is_taken_once(sweep: Sweep) -> None:
    reached: list[int] = []

    async def act() -> None:
        reached.append(0)
        for _ in range(3):
            await asyncio.sleep(0)
            reached[-1] += 1

    # Before it begins, and at each of three waits.
    assert sweep(scenario(act), cancellations=[Cancellation.CANCEL]) == 4
    assert reached == [3, 0, 1, 2, 3]
    reached.clear()
    assert sweep(scenario(act), cancellations=[Cancellation.TWICE]) == 3
    assert reached == [3, 0, 1, 2, 3]


def test_the_scenario_is_made_anew_for_each_step_and_looks_at_what_is_left(sweep: Sweep) -> None:
    made = looked = 0

    @contextlib.asynccontextmanager
    async def counting() -> AsyncIterator[Act]:
        nonlocal made, looked
        made += 1
        yield lambda: turns(2)
        looked += 1

    count = sweep(counting)
    assert made == looked > count


def test_what_a_plain_awaitable_did_before_it_was_awaited_is_swept_too(sweep: Sweep) -> None:
    class Begun:
        """Begins when it is made, as a Send does."""

        def __init__(self) -> None:
            self.begun = True

        def __await__(self) -> Any:
            yield from turns(1).__await__()

    assert sweep(scenario(Begun), cancellations=[Cancellation.CANCEL]) == 2


def test_a_coroutine_that_fails_by_itself_fails_the_sweep(sweep: Sweep) -> None:
    async def act() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        sweep(scenario(act))
    assert caught.value.__notes__ == ["sweep: not cancelled"]


def test_a_cancellation_that_is_swallowed_is_found_and_the_step_is_named(sweep: Sweep) -> None:
    async def swallowing() -> None:
        await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)

    with pytest.raises(SweepError, match="returned None") as caught:
        sweep(scenario(swallowing), cancellations=[Cancellation.CANCEL])
    (note,) = caught.value.__notes__
    assert note.startswith(
        "sweep: cancelled before callback 3 of the loop: in swallowing (test_sweeping.py:"
    )
    for cancellation in Cancellation:
        with pytest.raises(SweepError):
            sweep(scenario(swallowing), cancellations=[cancellation])


def test_a_cancellation_that_becomes_another_error_is_found(sweep: Sweep) -> None:
    async def translating() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise ZeroDivisionError from None

    for cancellation in Cancellation:
        with pytest.raises(SweepError, match="ZeroDivisionError"):
            sweep(scenario(translating), cancellations=[cancellation])


class Mailbox:
    """Hands Messages to whoever waits, by a future: lost if it is cancelled right then."""

    def __init__(self) -> None:
        self.messages: deque[str] = deque()
        self.waiting: deque[asyncio.Future[str]] = deque()

    def put(self, message: str) -> None:
        if self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(message)
                return
        self.messages.append(message)

    async def get(self) -> str:
        if self.messages:
            return self.messages.popleft()
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return await future


@contextlib.asynccontextmanager
async def lost_in_the_mail() -> AsyncIterator[Act]:
    """A Message arrives while somebody waits, and must be there whatever becomes of them."""
    box = Mailbox()
    got: list[str] = []

    async def receive() -> None:
        got.append(await box.get())

    arriving = asyncio.create_task(arrive(box))
    yield receive
    await arriving
    assert [*got, *box.messages] == ["hello"]


async def arrive(box: Mailbox) -> None:
    await turns(3)
    box.put("hello")


def test_a_message_that_is_lost_in_the_turn_of_its_arrival_is_found(sweep: Sweep) -> None:
    # No wait of the coroutine is there: only callbacks show it.
    sweep(lost_in_the_mail, cancellations=[Cancellation.TWICE])
    for cancellation in (Cancellation.CANCEL, Cancellation.TIMEOUT):
        with pytest.raises(AssertionError, match="hello") as caught:
            sweep(lost_in_the_mail, cancellations=[cancellation])
        assert "→ Mailbox.get (test_sweeping.py:" in caught.value.__notes__[-1]


def test_a_wait_for_a_socket_is_a_step_although_the_loop_calls_nothing(sweep: Sweep) -> None:
    cancelled = 0

    async def act() -> None:
        nonlocal cancelled
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            other.send(b"x")
            loop = asyncio.get_running_loop()
            readable = loop.create_future()
            loop.add_reader(one, lambda: readable.done() or readable.set_result(None))
            try:
                await readable
            except asyncio.CancelledError:
                cancelled += 1
                raise
            finally:
                loop.remove_reader(one)

    assert sweep(scenario(act), cancellations=[Cancellation.TWICE]) == cancelled == 1


@contextlib.asynccontextmanager
async def interrupted_clean_up() -> AsyncIterator[Act]:
    opened: set[str] = set()

    async def act() -> None:
        opened.add("door")
        try:
            await turns(2)
        except asyncio.CancelledError:
            await turns(2)
            opened.clear()
            raise
        opened.clear()

    yield act
    assert not opened


def test_what_a_second_cancellation_leaves_undone_is_found(sweep: Sweep) -> None:
    sweep(interrupted_clean_up, cancellations=[Cancellation.CANCEL, Cancellation.TIMEOUT])
    with pytest.raises(AssertionError, match="door") as caught:
        sweep(interrupted_clean_up, cancellations=[Cancellation.TWICE])
    assert caught.value.__notes__[-1].startswith(
        "sweep: cancelled at wait 1 and at wait 1 after that: in act"
    )


def test_a_task_that_goes_on_is_found(sweep: Sweep) -> None:
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    async def act() -> None:
        background = asyncio.create_task(forever())
        await turns(2)
        background.cancel()

    for cancellation in Cancellation:
        with pytest.raises(LeakError, match="goes on"):
            sweep(scenario(act), cancellations=[cancellation])


def test_a_flow_that_nobody_closes_is_found(sweep: Sweep, memory_network: MemoryNetwork) -> None:
    transport = MemoryStream(memory_network)

    @contextlib.asynccontextmanager
    async def connecting() -> AsyncIterator[Act]:
        accepted: list[Flow] = []
        listener = await transport.listen(
            listen_request("127.0.0.1:0", lambda flow, _: accepted.append(flow))
        )

        async def connect() -> None:
            flow = await transport.connect(connect_request(str(listener.local_endpoint)))
            await turns(2)
            flow.abort()

        yield connect
        await listener.close()
        for flow in accepted:
            flow.close()

    with pytest.raises(LeakError, match="flow <MemoryStreamFlow"):
        sweep(connecting, memory_network)
    for flow in memory_network.flows:
        flow.abort()


def test_what_reaches_the_exception_handler_is_found(sweep: Sweep) -> None:
    async def act() -> None:
        try:
            await turns(2)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            raise

    for cancellation in Cancellation:
        with pytest.raises(LeakError, match="ZeroDivisionError"):
            sweep(scenario(act), cancellations=[cancellation])


def test_a_coroutine_that_never_ends_is_named(sweep: Sweep) -> None:
    async def act() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(TimeoutError) as caught:
        sweep(scenario(act), timeout=0.01)
    assert caught.value.__notes__ == ["sweep: not cancelled"]
