"""Every race of the planner's table, driven on a virtual clock: the same, to the instant."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.model.errors import EstablishmentError
from taps_core.model.flow import Flow
from taps_core.planning.race import RacePlanner
from taps_core.runtime.race import race
from taps_core.testing import VirtualClockLoop
from tests.planning.race_scenarios import SCENARIOS, A, Scenario

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from taps_core.planning.candidates import Leaf

#: Seconds after which nothing more is expected of a race.
FOREVER = 1000.0


class ReadyFlow(Flow):
    """What a winner has."""

    def start(self, receiver: Any) -> None:
        raise AssertionError("nobody starts it here")

    def send(self, data: Any, record: Any, end_of_message: bool, /) -> bool | None:
        raise AssertionError("nobody sends here")

    def close(self) -> None:
        raise AssertionError("nobody closes it here")

    def abort(self) -> None:
        raise AssertionError("the winner is not aborted")


async def drive(scenario: Scenario) -> str:
    """What happened, as the table writes it."""
    loop = asyncio.get_running_loop()
    named: dict[Leaf, A] = {}
    told: list[str] = []

    def leaves(candidates: Sequence[A]) -> list[Leaf]:
        made = {each.leaf(): each for each in candidates}
        named.update(made)
        return list(made)

    def milliseconds() -> float:
        return round(loop.time() * 1000, 6)

    async def late() -> AsyncGenerator[list[Leaf], None]:
        for at, candidates, more in scenario.late:
            await asyncio.sleep(at / 1000 - loop.time())
            if candidates or more:
                yield leaves(candidates)

    async def attempt(leaf: Leaf) -> Flow:
        candidate = named[leaf]
        told.append(f"{candidate.name}@{milliseconds():g}")
        begun = loop.time()
        if candidate.connected is not None:
            await asyncio.sleep(candidate.connected / 1000)
            planner.attempt_connected(leaf, loop.time())
        end = candidate.fails if candidate.ready is None else candidate.ready
        if end is None:
            await asyncio.Event().wait()
            raise AssertionError
        await asyncio.sleep(begun + end / 1000 - loop.time())
        if candidate.ready is None:
            raise OSError(candidate.name)
        return ReadyFlow()

    planner = RacePlanner(
        leaves(scenario.candidates), expect_more=bool(scenario.late), **scenario.options
    )
    try:
        async with asyncio.timeout(FOREVER):
            won, _ = await race(planner, attempt, late=late() if scenario.late else None)
        end = f"{named[won].name}={milliseconds():g}"
    except EstablishmentError:
        end = f"failed={milliseconds():g}"
    except TimeoutError:
        end = "waiting"
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return " ".join([*told, "→", end])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[each.what for each in SCENARIOS])
def test_each_race_of_the_table_is_driven_as_it_is_planned(scenario: Scenario) -> None:
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        assert runner.run(drive(scenario)) == scenario.expected
