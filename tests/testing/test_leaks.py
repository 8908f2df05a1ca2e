"""``no_leaks`` and ``run`` find what is left, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.testing import (
    LeakError,
    LoopName,
    MemoryNetwork,
    MemoryStream,
    listen_request,
    no_leaks,
)
from taps_core.testing import run as run_on

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run

STILL_ALIVE: list[Any] = []


@pytest.fixture(autouse=True, scope="module")
def older_objects_aside() -> bool:
    """The blocks do that here, as they do for those who have no such fixture."""
    return False


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    STILL_ALIVE.clear()


def drop_a_cycle() -> None:
    cycle: list[Any] = [socket.socket()]
    cycle.append(cycle)


def leave_much_behind(error: Exception | None) -> None:
    STILL_ALIVE.append(socket.socket())
    forever()  # type: ignore[unused-coroutine]  # the mistake to be found
    if error is not None:
        raise error


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_a_tidy_block_passes() -> None:
    with no_leaks():
        with socket.socket() as _, open(__file__, encoding="utf-8") as _:
            pass
        thread = threading.Thread(target=lambda: None)
        thread.start()


def test_an_open_socket_is_found() -> None:
    with pytest.raises(LeakError, match=r"file descriptor .*socket"), no_leaks():
        STILL_ALIVE.append(socket.socket())
    STILL_ALIVE.pop().close()


def test_a_socket_that_was_only_dropped_is_found() -> None:
    with pytest.raises(LeakError, match="unclosed"), no_leaks():
        socket.socket()
    with pytest.raises(LeakError, match="unclosed"), no_leaks():
        drop_a_cycle()


def test_a_running_thread_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taps_core.testing.leaks._THREAD_GRACE", 0.01)
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="left over")
    with pytest.raises(LeakError, match="left over"), no_leaks():
        thread.start()
    done.set()
    thread.join()


def test_a_coroutine_that_nobody_awaited_is_found() -> None:
    with pytest.raises(LeakError, match="never awaited"), no_leaks():
        forever()  # type: ignore[unused-coroutine]  # the mistake to be found


def test_a_task_of_the_running_loop_is_found() -> None:
    async def main() -> None:
        with pytest.raises(LeakError, match="task the culprit"), no_leaks():
            task = asyncio.create_task(forever(), name="the culprit")
        task.cancel()

    asyncio.run(main())


def test_an_exception_that_nobody_retrieved_is_found() -> None:
    async def main() -> None:
        asyncio.get_running_loop().create_future().set_exception(ZeroDivisionError())

    with pytest.raises(LeakError, match="never retrieved"), no_leaks():
        asyncio.run(main())


def test_an_exception_in_a_finalizer_is_found() -> None:
    class Bad:
        def __del__(self) -> None:
            raise ZeroDivisionError("in a finalizer")

    with pytest.raises(LeakError, match="in a finalizer"), no_leaks():
        Bad()


def test_flows_and_listeners_are_found(memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        request = listen_request("127.0.0.1:0", lambda flow, admitted: None)
        with pytest.raises(LeakError, match="1 listeners"), no_leaks(memory_network):
            listener = await MemoryStream(memory_network).listen(request)
        await listener.close()

    asyncio.run(main())


def test_what_was_there_before_is_not_blamed_on_the_block() -> None:
    with socket.socket(), no_leaks():
        pass


def test_an_exception_of_the_block_passes() -> None:
    with pytest.raises(ZeroDivisionError), no_leaks():
        leave_much_behind(ZeroDivisionError())
    STILL_ALIVE.pop().close()


def test_everything_is_named_at_once() -> None:
    with pytest.raises(LeakError) as caught, no_leaks():
        leave_much_behind(None)
    STILL_ALIVE.pop().close()
    assert len(caught.value.leaks) == 2


def test_blocks_can_be_nested() -> None:
    with no_leaks(), no_leaks():
        pass


def test_hooks_and_filters_are_as_before() -> None:
    before = (sys.unraisablehook, list(warnings.filters), logging.getLogger("asyncio").handlers[:])
    with no_leaks():
        pass
    after = (sys.unraisablehook, list(warnings.filters), logging.getLogger("asyncio").handlers[:])
    assert before == after


# -- run


def test_run_returns_the_result(run: Run) -> None:
    async def main() -> int:
        return 42

    assert run(main) == 42


def test_run_uses_the_loop_that_was_asked_for(loop_name: LoopName) -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run_on(main, loop=loop_name).startswith(loop_name)


def test_run_raises_what_main_raises(run: Run) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "by the way"})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run(main)
    assert caught.value.__notes__ == ["by the way"]


def test_run_fails_for_a_task_that_goes_on(run: Run) -> None:
    async def main() -> None:
        STILL_ALIVE.append(asyncio.create_task(forever(), name="the culprit"))

    with pytest.raises(LeakError, match="task the culprit goes on"):
        run(main)


def test_run_lets_a_task_end_that_was_told_to(run: Run) -> None:
    async def main() -> None:
        STILL_ALIVE.append(asyncio.create_task(forever()))
        await asyncio.sleep(0)
        STILL_ALIVE[0].cancel()

    run(main)


def test_run_fails_for_what_reaches_the_exception_handler(run: Run) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    with pytest.raises(LeakError, match="ZeroDivisionError"):
        run(main)


@pytest.mark.parametrize("error", [None, ZeroDivisionError()], ids=["well", "badly"])
def test_run_ends_though_uvloop_has_open_transports(error: Exception | None) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        STILL_ALIVE.append(theirs)
        loop = asyncio.get_running_loop()
        STILL_ALIVE.append(await loop.connect_accepted_socket(asyncio.Protocol, ours))
        if error is not None:
            raise error

    with pytest.raises(LeakError if error is None else type(error)):
        run_on(main, loop="uvloop")
    STILL_ALIVE[0].close()


def test_run_makes_warnings_errors(run: Run) -> None:
    async def main() -> None:
        warnings.warn("beware", UserWarning, stacklevel=1)

    with pytest.raises(UserWarning, match="beware"):
        run(main)


def test_run_fails_for_a_coroutine_that_nobody_awaited(run: Run) -> None:
    async def main() -> None:
        forever()  # type: ignore[unused-coroutine]  # the mistake to be found

    with pytest.raises(LeakError, match="never awaited"):
        run(main)


def test_run_ends_what_hangs(run: Run) -> None:
    with pytest.raises(TimeoutError):
        run(forever, timeout=0.01)


def test_run_looks_at_the_networks(run: Run) -> None:
    network = MemoryNetwork()

    async def main() -> None:
        await MemoryStream(network).listen(
            listen_request("127.0.0.1:0", lambda flow, admitted: None)
        )

    with pytest.raises(LeakError, match="1 listeners"):
        run(main, network)


def test_nothing_but_the_fixtures_needs_pytest() -> None:
    program = (
        "import sys, taps_core.testing\n"
        "assert not {'pytest', 'hypothesis', 'uvloop'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_run_is_gone_when_it_is_over(run: Run) -> None:
    """Not garbage either: the next run would set that aside, and all of them grow."""
    loops = weakref.WeakSet[asyncio.AbstractEventLoop]()

    async def main() -> None:
        loops.add(asyncio.get_running_loop())

    gc.disable()  # nothing but the run itself is to collect it
    try:
        run(main)
        assert not loops
    finally:
        gc.enable()
