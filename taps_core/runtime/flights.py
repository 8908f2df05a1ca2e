"""Questions that are on their way: whoever asks the same meanwhile gets the same answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from taps_core.planning.answers import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

__all__ = ["Flights"]


class Flights:
    """Asks once what is asked for several times at a time.

    Whoever is first asks, in the task that it has; the others wait. No task is shared, so
    cancelling one of them is nobody else's matter: if that was the first, the next one asks.

    Serves several event loops, each for itself.
    """

    def __init__(self) -> None:
        #: Loop and what is asked → the answer, ``None`` if whoever asked gave up.
        self._on_the_way: dict[Hashable, asyncio.Future[Answer | None]] = {}

    async def ask(
        self, what: Hashable, lifetime: float, ask: Callable[[float], Awaitable[Answer]]
    ) -> Answer:
        """The answer of whoever asks; raises nothing but CancelledError.

        Args:
            what: Equal for equal questions to the same.
            lifetime: Seconds to wait at most.
            ask: Asks, within so many seconds.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + lifetime
        key = loop, what
        while (other := self._on_the_way.get(key)) is not None:
            done, _ = await asyncio.wait([other], timeout=max(0.0, end - loop.time()))
            answer = other.result() if done else _no_answer(lifetime)
            # Those who have more time than the first one ask anew when that is over.
            if answer is not None and (answer.detail != "timeout" or loop.time() >= end):
                return answer
        mine = self._on_the_way[key] = loop.create_future()
        got = None
        try:
            got = await ask(end - loop.time())
            return got
        finally:
            del self._on_the_way[key]
            mine.set_result(got)


def _no_answer(lifetime: float) -> Answer:
    return Answer(
        problem=f"no answer within {round(lifetime, 2):g} s", detail="timeout", transient=True
    )
