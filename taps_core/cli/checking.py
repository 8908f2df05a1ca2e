"""``taps-plugins check NAME``: whether a plugin keeps what it promises."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from taps_core.cli.output import WIDTH, Cell, Plain, Tone
from taps_core.model.endpoints import LocalEndpoint
from taps_core.model.errors import PropertyError
from taps_core.model.layers import Transport
from taps_core.model.properties import nearest
from taps_core.runtime.discovery import normalised
from taps_core.runtime.registry import PluginKind
from taps_core.runtime.sources import PolicySource, ResolverSource
from taps_core.testing.conformance import Conformance, Verdict, suite_for, verdicts
from taps_core.testing.conformance.suite import LIMIT

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TextIO

    from taps_core.cli.output import Output
    from taps_core.cli.output import Row as Cells
    from taps_core.runtime.registry import Registry, Row

__all__ = ["check"]

DONE, FAILED, MISUSE = 0, 1, 2

_TONES: Final = {"passed": Tone.GOOD, "failed": Tone.BAD, "skipped": Tone.FAINT}
_INDENT: Final = 2
_OUTCOME: Final = max(map(len, _TONES))
#: Of «passed» and of what is beside it.
_WIDTHS: Final = (_OUTCOME, WIDTH - _INDENT - _OUTCOME - 2)
#: Lines of what the plugin printed that are shown.
_SAID: Final = 20
#: In ``--local``: what makes a place a fresh one.
_NUMBER: Final = "{}"


class _Unchecked(Exception):
    """Nothing can be checked, and why; with the exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


def check(registry: Registry, output: Output, arguments: argparse.Namespace) -> int:
    """Run the suite that fits, and print each verdict as it comes.

    Args:
        registry: Where to look.
        output: Where to.
        arguments: As parsed: name, kind, tests, where to meet, patience.

    Returns:
        0 if nothing failed, 1 if something did or the plugin cannot run here,
        2 if it was asked for what there is not.
    """
    try:
        row = _find(registry, arguments.name, arguments.kind)
        suite = _suite(row, arguments)
        wanted = _wanted(suite, arguments.only)
    except _Unchecked as why:
        Plain(sys.stderr).text(f"taps-plugins check: {why}", hang=2)
        return why.status
    return _Check(row, suite, wanted, output, as_json=arguments.json).run()


class _Check:
    """One suite, run on one declaration."""

    def __init__(
        self,
        row: Row,
        suite: type[Conformance],
        wanted: Sequence[str] | None,
        output: Output,
        *,
        as_json: bool,
    ) -> None:
        self.row = row
        self.suite = suite
        self.tests = suite.promises() if wanted is None else wanted
        self.output = output
        self.json = as_json
        self.verdicts: list[Verdict] = []
        self.said = io.StringIO()
        self.errors = sys.stderr
        self.began = time.monotonic()

    def run(self) -> int:
        """Print everything; the exit status."""
        if not self.json:
            self._introduce()
        for verdict in _undisturbed(
            verdicts(self.suite, only=self.tests), self.said, self.limit, self._stuck
        ):
            self._judge(verdict)
        return self._conclude()

    @property
    def limit(self) -> float:
        """Seconds after which a test will never end, not even by being cancelled."""
        return LIMIT * self.suite.patience * (len(self.suite.loops) + 1)

    def _stuck(self) -> None:
        """The test that runs blocks the process, which is all that is left to end.

        In a thread of its own.
        """
        blocking, *others = self.tests[len(self.verdicts) :]
        reason = f"it hangs, and cannot even be cancelled: given up after {self.limit:g} s"
        self._judge(Verdict(blocking, self.suite.promise(blocking), "failed", reason))
        for test in others:
            promise = self.suite.promise(test)
            self._judge(Verdict(test, promise, "skipped", f"not tried, since {blocking} hangs"))
        status = self._conclude()
        self.output.stream.flush()
        os._exit(status)

    def _judge(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        if not self.json:
            _print(self.output, verdict)

    def _conclude(self) -> int:
        failed = self._count("failed")
        if self.json:
            self.output.stream.write(f"{json.dumps(self._as_json(), indent=2)}\n")
        else:
            self.output.heading("Result")
            self.output.text(
                f"{self._count('passed')} passed, {failed} failed, "
                f"{self._count('skipped')} skipped, in {time.monotonic() - self.began:.1f} s",
                Tone.BAD if failed else Tone.GOOD,
                indent=_INDENT,
            )
        _repeat(self.said.getvalue().splitlines(), self.errors)
        return FAILED if failed else DONE

    def _count(self, outcome: str) -> int:
        """How many verdicts of one kind there are."""
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    @property
    def _suite_name(self) -> str:
        """That of the class which an author subclasses."""
        return self.suite.__mro__[1].__name__

    def _introduce(self) -> None:
        self.output.heading(name=f"{self.row.name} ({self.row.kind})")
        count = f"{len(self.tests)} promise{'s' * (len(self.tests) != 1)}"
        loops = " and ".join(self.suite.loops)
        self.output.text(
            f"{count} of {self._suite_name}, on the event loops of {loops}", indent=_INDENT
        )
        self.output.heading("Promises")
        self.output.stream.flush()

    def _as_json(self) -> dict[str, Any]:
        source = self.row.source
        return {
            "name": self.row.name,
            "kind": self.row.kind,
            "distribution": source.distribution,
            "version": source.version,
            "suite": self._suite_name,
            "loops": list(self.suite.loops),
            "passed": self._count("passed"),
            "failed": self._count("failed"),
            "skipped": self._count("skipped"),
            "verdicts": [
                {
                    "test": verdict.test,
                    "promise": verdict.promise,
                    "outcome": verdict.outcome,
                    "reason": verdict.reason,
                }
                for verdict in self.verdicts
            ],
        }


# -- what is to be checked


def _find(registry: Registry, name: str, kind: str | None) -> Row:
    """The one declaration of this name, or of the plugin or distribution of this name."""
    declared = [
        row
        for row in registry.rows
        if row.declaration is not None and (kind is None or row.kind == kind)
    ]
    found = [row for row in declared if row.name == name] or [
        row
        for row in declared
        if row.source.plugin == name or normalised(row.source.distribution) == normalised(name)
    ]
    if not found:
        raise _Unchecked(_absence(registry, name, kind, declared), MISUSE)
    if len(found) > 1:
        there = ", ".join(f"{row.name} ({row.kind})" for row in found)
        hint = "--kind says which" if all(row.name == name for row in found) else "say which"
        raise _Unchecked(f'"{name}" may be {there}: {hint}', MISUSE)
    return found[0]


def _absence(registry: Registry, name: str, kind: str | None, declared: Sequence[Row]) -> str:
    """Why there is nothing of this name, what to do, and what there is."""
    sentence = registry.explain_absence(name, None if kind is None else PluginKind(kind))
    there = ", ".join(row.name for row in declared)
    if there and "(installed: " not in sentence:
        sentence += f" (installed: {there})"
    return sentence


def _suite(row: Row, arguments: argparse.Namespace) -> type[Conformance]:
    declaration = row.declaration
    assert declaration is not None  # it was looked for
    if row.reason:  # as the registry was told by availability()
        remedy = f"; {row.remedy}" if row.remedy else ""
        raise _Unchecked(f"{row.name} cannot run here: {row.reason}{remedy}", FAILED)
    if isinstance(declaration, PolicySource | ResolverSource):
        raise _Unchecked(f"{row.name} is a {row.kind}: there is no suite for these", MISUSE)
    suite = suite_for(declaration)
    suite.patience = arguments.patience
    if isinstance(declaration, Transport):
        suite.place = staticmethod(  # type: ignore[attr-defined]  # that of a transport's suite
            _place_of(declaration, arguments.local)
        )
    elif arguments.local is not None:
        raise _Unchecked(f"--local is for transports; {row.name} is a {row.kind}", MISUSE)
    return suite


def _place_of(transport: Transport, local: str | None) -> Callable[[], LocalEndpoint]:
    """What gives a fresh place to listen at, each time."""
    numbers = itertools.count(1)

    def place() -> LocalEndpoint:
        if local is not None:
            return LocalEndpoint.parse(local.replace(_NUMBER, str(next(numbers))))
        found = transport.loopback()
        assert found is not None  # it was asked before
        return found

    if local is None:
        if transport.loopback() is None:
            raise _Unchecked(
                f"where two ends of {transport.name} can meet on this machine is not known: its "
                f"loopback() does not say. Say it: --local HOST:PORT, or --local _kind.name=VALUE "
                f"with {_NUMBER} where a number may go",
                MISUSE,
            )
        return place
    try:
        endpoint = place()
    except PropertyError as error:
        raise _Unchecked(f"--local: {error}", MISUSE) from error
    if (endpoint.identifiers or endpoint.port) and _NUMBER not in local:
        raise _Unchecked(
            f"--local {local}: several ends listen at once. Say port 0, or {_NUMBER} where a "
            "number may go",
            MISUSE,
        )
    return place


def _wanted(suite: type[Conformance], only: Sequence[str] | None) -> list[str] | None:
    """Names of tests in the suite's order, with or without their ``test_``."""
    if only is None:
        return None
    names = suite.promises()
    full = {name if name.startswith("test_") else f"test_{name}" for name in only}
    for name in sorted(full - set(names)):
        raise _Unchecked(f'there is no test "{name}"{nearest(name, names)}', MISUSE)
    return [name for name in names if name in full]


# -- what came of it


def _undisturbed(
    found: Iterable[Verdict], said: io.StringIO, limit: float, stuck: Callable[[], None]
) -> Iterator[Verdict]:
    """The verdicts.

    Args:
        found: Each comes when its test has run.
        said: Takes what the plugin prints or logs meanwhile.
        limit: Seconds that one may take.
        stuck: Called from another thread when one took longer.
    """
    coming = iter(found)
    while True:
        watchdog = threading.Timer(limit, stuck)
        watchdog.daemon = True
        watchdog.start()
        try:
            with _aside(said):
                verdict = next(coming, None)
        finally:
            watchdog.cancel()
        if verdict is None:
            return
        yield verdict


@contextlib.contextmanager
def _aside(said: io.StringIO) -> Iterator[None]:
    """Standard output, standard error and the log go into ``said``."""
    root = logging.getLogger()
    # One that a plugin has set up on import holds the real standard error.
    handlers, root.handlers = root.handlers, [logging.StreamHandler(said)]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    finally:
        root.handlers = handlers


def _print(output: Output, verdict: Verdict) -> None:
    rows: list[Cells] = [(Cell(verdict.outcome, _TONES[verdict.outcome]), verdict.promise)]
    if verdict.outcome == "failed":
        rows.append(("", Cell(f"{verdict.test}: {verdict.reason}", Tone.BAD)))
    elif verdict.outcome == "skipped":
        rows.append(("", Cell(f"{verdict.test}: {verdict.reason}", Tone.FAINT)))
    output.table(("", ""), rows, indent=_INDENT, widths=_WIDTHS)
    output.stream.flush()


def _repeat(said: Sequence[str], stream: TextIO) -> None:
    """What the plugin printed, when the results are out of danger."""
    if not said:
        return
    talk = Plain(stream)
    talk.text("while it was checked, this was printed:")
    for line in said[:_SAID]:
        talk.text(line, indent=_INDENT, hang=2)
    if len(said) > _SAID:
        talk.text(f"… and {len(said) - _SAID} more lines", indent=_INDENT)
