"""Equal questions on their way, on a virtual clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from taps_core.planning.answers import Answer
from taps_core.runtime.flights import Flights

if TYPE_CHECKING:
    from taps_core.testing import VirtualNetwork
    from taps_core.testing.fixtures import VirtualRun

FOUND = Answer(records=("192.0.2.1",))


class Server:
    """Answers after a while; whoever has no time for that has waited in vain."""

    def __init__(self, takes: float) -> None:
        self.takes = takes
        self.asked: list[float] = []

    async def __call__(self, lifetime: float) -> Answer:
        self.asked.append(now())
        await asyncio.sleep(min(self.takes, lifetime))
        return FOUND if self.takes <= lifetime else Answer(detail="timeout", transient=True)


def now() -> float:
    return round(asyncio.get_running_loop().time(), 6)


@pytest.mark.parametrize(
    ("takes", "lifetimes", "asked", "answered"),
    [
        # One question, and both have the answer when it comes.
        (1.0, [5.0, 5.0], [0.0], [1.0, 1.0]),
        # The second one's time is over first.
        (3.0, [5.0, 1.0], [0.0], [3.0, None]),
        # The first one's is: the second asks again, in what is left to it.
        (1.5, [1.0, 5.0], [0.0, 1.0], [None, 2.5]),
        (9.0, [1.0, 5.0], [0.0, 1.0], [None, None]),
    ],
)
def test_each_waits_as_long_as_it_has_time(
    virtual_run: VirtualRun,
    takes: float,
    lifetimes: list[float],
    asked: list[float],
    answered: list[float | None],
) -> None:
    server = Server(takes)

    async def ask(flights: Flights, lifetime: float) -> float | None:
        answer = await flights.ask("what", lifetime, server)
        assert now() <= lifetime
        assert answer is FOUND or answer.detail == "timeout"
        return now() if answer is FOUND else None

    async def scenario(_: VirtualNetwork) -> None:
        flights = Flights()
        got = await asyncio.gather(*(ask(flights, lifetime) for lifetime in lifetimes))
        assert got == answered
        assert server.asked == asked

    virtual_run(scenario)


def test_a_bug_is_that_of_whoever_asked(virtual_run: VirtualRun) -> None:
    server = Server(1.0)

    async def broken(_: float) -> Answer:
        await asyncio.sleep(0.5)
        raise KeyError("a bug")

    async def scenario(_: VirtualNetwork) -> None:
        flights = Flights()
        first, second = await asyncio.gather(
            flights.ask("what", 5.0, broken),
            flights.ask("what", 5.0, server),
            return_exceptions=True,
        )
        assert isinstance(first, KeyError)
        assert second is FOUND

    virtual_run(scenario)


def test_other_questions_do_not_wait(virtual_run: VirtualRun) -> None:
    server = Server(1.0)

    async def scenario(_: VirtualNetwork) -> None:
        flights = Flights()
        await asyncio.gather(*(flights.ask(what, 5.0, server) for what in ("one", "other")))
        assert server.asked == [0.0, 0.0]

    virtual_run(scenario)
