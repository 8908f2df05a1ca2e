"""Drives a derivation: asks its questions, and hands out what it lets go."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from taps_core.model.endpoints import Endpoint
from taps_core.planning.derivation import RESOLUTION_DELAY
from taps_core.runtime.tasks import until_done

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from typing import Any

    from taps_core.planning.answers import Answer, Question
    from taps_core.planning.derivation import Derivation

__all__ = ["Ask", "Feed", "LookUp"]

E = TypeVar("E", bound=Endpoint)


class Ask(Protocol):
    """Asks somebody; raises nothing but CancelledError, which leaves nothing behind."""

    def __call__(self, question: Question, lifetime: float, /) -> Awaitable[Answer]:
        """Within so many seconds."""


class Feed(Protocol):
    """Gives a derivation what is known already."""

    def __call__(
        self, derivation: Derivation[Any], questions: Sequence[Question], /
    ) -> list[Question]:
        """The questions that somebody has to be asked."""


class LookUp(Generic[E]):
    """One endpoint's names, being asked for. An asynchronous iterator, to be closed.

    Args:
        derivation: Not started.
        feed: Gives it what is known already.
        ask: Asks for the rest, in tasks that are owned here.
        timeout: Seconds for all of it.
    """

    def __init__(self, derivation: Derivation[E], *, feed: Feed, ask: Ask, timeout: float) -> None:
        self._derivation = derivation
        self._feed = feed
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + timeout
        #: Running, in the order in which they were begun.
        self._tasks: dict[asyncio.Task[Answer], Question] = {}
        #: Cancelled, since nobody waits for their answers any more.
        self._dropped: list[asyncio.Task[Answer]] = []
        self._start(derivation.start())

    @property
    def complete(self) -> bool:
        """Whether no more will come."""
        return self._derivation.done

    def __aiter__(self) -> LookUp[E]:
        return self

    async def __anext__(self) -> list[E]:
        """What is to be tried besides, as soon as it should.

        Raises:
            EstablishmentError: RESOLUTION_FAILED: there turned out to be nothing at all.
        """
        derivation = self._derivation
        while True:
            found = derivation.take(self._loop.time())
            if found:
                return found
            if derivation.done:
                if not derivation.has_any:
                    raise derivation.error()
                raise StopAsyncIteration
            await self._wait(derivation.deadline())

    async def whole(self) -> list[E]:
        """Everything, best first, but for what is much later than the rest.

        Raises:
            EstablishmentError: RESOLUTION_FAILED: there is nothing.
        """
        derivation = self._derivation
        enough: float | None = None
        while not derivation.done and (enough is None or self._loop.time() < enough):
            if enough is None and derivation.has_any and not derivation.must_wait:
                enough = self._loop.time() + RESOLUTION_DELAY
            await self._wait(enough)
        if not derivation.has_any:
            raise derivation.error()
        return derivation.take(math.inf)

    async def aclose(self) -> None:
        """Ask no more; returns when nothing of it is left."""
        self._drop([*self._tasks])
        await until_done(self._dropped)

    def _start(self, questions: Sequence[Question]) -> None:
        for question in self._feed(self._derivation, questions):
            lifetime = self._end - self._loop.time()
            task = self._loop.create_task(_answer(self._ask, question, lifetime))
            self._tasks[task] = question

    async def _wait(self, deadline: float | None) -> None:
        """Until somebody has answered, or ``deadline``."""
        timeout = None if deadline is None else max(0.0, deadline - self._loop.time())
        done, _ = await asyncio.wait(
            self._tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        derivation = self._derivation
        for task in [task for task in self._tasks if task in done]:
            self._start(derivation.answered(self._tasks.pop(task), task.result()))
        self._drop([task for task, it in self._tasks.items() if it not in derivation.pending])

    def _drop(self, tasks: Sequence[asyncio.Task[Answer]]) -> None:
        for task in tasks:
            del self._tasks[task]
            task.cancel()
            self._dropped.append(task)


async def _answer(ask: Ask, question: Question, lifetime: float) -> Answer:
    return await ask(question, lifetime)
