"""What every suite is made of: promises as methods, a runner, verdicts.

A suite is a plain class whose ``test_…`` methods each state one promise. pytest
collects them from a subclass whose name begins with ``Test``; :func:`check`
runs them without pytest.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import inspect
import unittest
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from taps_core.model.layers import FramerDefinition, SecurityLayer, Transport
from taps_core.testing.aio import LoopName, loop_factory, run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

__all__ = ["Conformance", "Outcome", "Verdict", "check", "suite_for", "verdicts"]

#: A test has hung after so many times its patience.
LIMIT = 10

Outcome = Literal["passed", "failed", "skipped"]


def installed_loops() -> tuple[LoopName, ...]:
    """Asyncio's own loop, and uvloop where it is installed."""
    return ("asyncio",) if importlib.util.find_spec("uvloop") is None else ("asyncio", "uvloop")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of one promise."""

    test: str
    """Name of the method."""
    promise: str
    """What is promised, one sentence."""
    outcome: Outcome
    reason: str = ""
    """Why it was skipped, or what was seen instead."""
    error: BaseException | None = None


class Conformance:
    """Base of all suites.

    Attributes:
        loops: Each test runs on each of them in turn.
        patience: Seconds that a test waits for what must come. Long enough for
            a busy machine: only what is broken ever waits so long.
    """

    loops: ClassVar[tuple[LoopName, ...]] = installed_loops()
    patience: float = 10.0

    @classmethod
    def promises(cls) -> list[str]:
        """The names of its tests, those of base classes first."""
        names: dict[str, None] = {}
        for base in reversed(cls.__mro__):
            for name in vars(base):
                if name.startswith("test_") and getattr(cls, name) is not None:
                    names[name] = None
        return list(names)

    @classmethod
    def promise(cls, test: str) -> str:
        """What a test promises, one sentence."""
        return (inspect.getdoc(getattr(cls, test)) or test).partition("\n\n")[0].replace("\n", " ")

    def not_claimed(self, reason: str) -> NoReturn:
        """End the test: what it is about is not claimed.

        Raises:
            SkipTest: In any case.
        """
        raise unittest.SkipTest(reason)

    def run(self, main: Callable[[], Coroutine[Any, Any, None]], *, strict: bool = True) -> None:
        """Run ``main()`` on each loop.

        Args:
            main: The test.
            strict: Whether a leak fails it too; see :func:`taps_core.testing.run`.
        """
        for loop in self.loops:
            try:
                if strict:
                    run(main, loop=loop, timeout=LIMIT * self.patience)
                else:
                    self._run_leniently(main, loop)
            except Exception as error:
                if isinstance(error, TimeoutError) and not str(error):
                    error.add_note(f"it hangs: not done after {LIMIT * self.patience:g} s")
                error.add_note(f"on the event loop of {loop}")
                raise

    def _run_leniently(self, main: Callable[[], Coroutine[Any, Any, None]], loop: LoopName) -> None:
        """Another test looks at what is left behind; this one is about something else."""

        async def bounded() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            async with asyncio.timeout(LIMIT * self.patience):
                await main()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
                runner.run(bounded())


def check(suite: type[Conformance], *, only: Iterable[str] | None = None) -> list[Verdict]:
    """Run a suite's tests one after the other.

    Args:
        suite: With what it is to test as its attribute.
        only: Names of tests; ``None``: all.

    Returns:
        One verdict for each, in order.

    Raises:
        ValueError: ``only`` names a test that there is not.
    """
    return list(verdicts(suite, only=only))


def verdicts(suite: type[Conformance], *, only: Iterable[str] | None = None) -> Iterator[Verdict]:
    """As :func:`check`, each verdict as it comes.

    Raises:
        ValueError: ``only`` names a test that there is not.
    """
    names = suite.promises()
    if only is not None:
        wanted = list(only)
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise ValueError(f"no such test: {', '.join(unknown)}")
        names = wanted
    return (_verdict(suite, name) for name in names)


def _verdict(suite: type[Conformance], name: str) -> Verdict:
    promise = suite.promise(name)
    try:
        getattr(suite(), name)()
    except unittest.SkipTest as skip:
        return Verdict(name, promise, "skipped", str(skip))
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a verdict about other people's code
        return Verdict(name, promise, "failed", _what_was_seen(error), error)
    return Verdict(name, promise, "passed")


def _what_was_seen(error: BaseException) -> str:
    kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    sentence = f"{kind}{error}" if str(error) else type(error).__name__
    return "; ".join([sentence.strip(), *getattr(error, "__notes__", ())])


def suite_for(declaration: Transport | SecurityLayer | FramerDefinition) -> type[Conformance]:
    """The suite that a plugin's declaration has to pass.

    Args:
        declaration: A transport, a security layer or a framer definition.

    Raises:
        TypeError: It is none of these.
    """
    # Imported here: the suites are made of what is above.
    from taps_core.model.capabilities import DataUnit
    from taps_core.testing.conformance.framers import FramerConformance
    from taps_core.testing.conformance.security import SecurityLayerConformance
    from taps_core.testing.conformance.transports import (
        ByteStreamConformance,
        DatagramConformance,
        MessageConformance,
    )

    base: type[Conformance]
    if isinstance(declaration, Transport):
        base = {
            DataUnit.BYTE_STREAM: ByteStreamConformance,
            DataUnit.MESSAGE: MessageConformance,
            DataUnit.DATAGRAM: DatagramConformance,
        }[declaration.capabilities.data_unit]
        attribute = "transport"
    elif isinstance(declaration, SecurityLayer):
        base, attribute = SecurityLayerConformance, "layer"
    elif isinstance(declaration, FramerDefinition):
        base, attribute = FramerConformance, "framer"
    else:
        raise TypeError(f"a suite is for a plugin's declaration, not for {declaration!r}")
    return type(f"{base.__name__}Of{type(declaration).__name__}", (base,), {attribute: declaration})
