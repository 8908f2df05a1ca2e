"""``taps-plugins race``: a race that is performed, or one of before, drawn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from taps_core.cli.demands import demands
from taps_core.cli.drawing import draw, frame, glyphs_for
from taps_core.cli.output import WIDTH, Cell, Plain, Tone
from taps_core.cli.waterfall import NotAReport, in_ms, waterfall
from taps_core.model.errors import ConnectionError, EstablishmentError, PropertyError
from taps_core.model.reports import Attempt, EstablishmentReport, Resolution
from taps_core.runtime.policy_files import policy_files
from taps_core.runtime.preconnection import Preconnection
from taps_core.runtime.system import System

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncGenerator, Callable

    from taps_core.cli.demands import Demands
    from taps_core.cli.output import Output, Show
    from taps_core.runtime.registry import Registry

__all__ = ["race"]

DONE, FAILED, MISUSE = 0, 1, 2

#: Seconds between two pictures: drawing takes time from the race that it shows.
_FRAME: Final = 0.1
#: Seconds that a peer has to close what has won.
_CLOSING: Final = 1.0
#: Of a time, and of what happened then.
_WIDTHS: Final = (8, WIDTH - 10)
_TONES: Final = {"ready": Tone.GOOD, "resolved": Tone.NONE, "failed": Tone.BAD}


class _Refused(Exception):
    """Nothing can be drawn, and why; with the exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


def race(registry: Registry, output: Output, arguments: argparse.Namespace) -> int:
    """Perform a race and draw it, or draw one that was saved.

    Args:
        registry: What there is to race with.
        output: Where to.
        arguments: As parsed: what a Preconnection would say, a timeout; or a file; and
            whether there is to be a page.

    Returns:
        0 if something was ready, or the file was drawn; 1 if nothing was, or the page cannot
        be written; 2 if it was asked for what there is not.

    Raises:
        PropertyError: A name or value that cannot be.
        PluginError: No framer of a name.
        EstablishmentError: What is asked for contradicts itself.
    """
    try:
        if arguments.saved is not None:
            if arguments.remote:
                raise _Refused("--from draws a race of before: no HOST:PORT beside it", MISUSE)
            told, status = _saved(arguments.saved), DONE
        elif not arguments.remote:
            raise _Refused("say HOST:PORT, or --from FILE", MISUSE)
        else:
            told, status = _Race(demands(registry, arguments), registry, output).run(
                arguments.timeout, quiet=arguments.json
            )
        fall = waterfall(told)
        if arguments.json:
            output.stream.write(f"{json.dumps(told, indent=2)}\n")
        else:
            draw(output, fall)
        if arguments.html is not None:
            from taps_core.cli.page import page

            _write(arguments.html, page(fall, told))
    except NotAReport as error:
        why = f"{arguments.saved} is no report of an establishment: {error}"
        return _complain(why, MISUSE)
    except _Refused as refused:
        return _complain(str(refused), refused.status)
    return status


def _complain(sentence: str, status: int) -> int:
    Plain(sys.stderr).text(f"taps-plugins race: {sentence}", hang=2)
    return status


def _saved(name: str) -> Any:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise _Refused(f"{name}: {error.strerror or error}", MISUSE) from error
    except (ValueError, RecursionError) as error:
        raise _Refused(f"{name} is no JSON: {error}", MISUSE) from error


def _write(name: str, content: str) -> None:
    try:
        Path(name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise _Refused(f"{name}: {error.strerror or error}", FAILED) from error


class _Race:
    """One race."""

    def __init__(self, asked: Demands, registry: Registry, output: Output) -> None:
        if asked.security.get("preSharedKey"):
            raise PropertyError(
                "preSharedKey: no secrets on a command line. Let a program race, and draw its "
                "report: --from"
            )
        self.output = output
        self.preconnection = Preconnection(
            local=asked.local,
            remote=asked.remote,
            transport=asked.properties,
            security=asked.security,
            framers=asked.framers,
            system=System(registry, policy_files=policy_files(), close_timeout=_CLOSING),
        )
        self.report: EstablishmentReport | None = None
        self.error: EstablishmentError | None = None

    def run(self, timeout: float, *, quiet: bool) -> tuple[dict[str, Any], int]:
        """The report as JSON, and the exit status.

        Raises:
            EstablishmentError: There was nothing to try.
        """
        with contextlib.suppress(KeyboardInterrupt):  # the picture shows how far it came
            asyncio.run(self.perform(timeout, quiet=quiet))
        report = self.report
        assert report is not None  # else this was left by an error
        if self.error is not None and not (report.attempts or report.resolutions):
            raise self.error
        return report.as_json(), DONE if report.outcome == "ready" else FAILED

    async def perform(self, timeout: float, *, quiet: bool) -> None:
        """Race, and close what has won."""
        connection = self.preconnection.initiate(timeout)
        self.report = connection.report
        try:
            async with self.shown(connection.report, quiet=quiet):
                connection = await connection
        except EstablishmentError as error:
            self.error = error
            return
        with contextlib.suppress(ConnectionError):  # a peer that does not like to be left
            async with connection:
                pass

    @contextlib.asynccontextmanager
    async def shown(self, report: EstablishmentReport, *, quiet: bool) -> AsyncGenerator[None]:
        """Show it while it runs: live, or else line by line."""
        if quiet:
            yield
            return
        with self.output.live() as show:
            if show is None:
                report.watch(self.told())
                yield
                self.output.line(())
                return
            drawing = asyncio.create_task(self.draw(report, show))
            try:
                yield
            finally:
                drawing.cancel()
                await asyncio.wait([drawing])

    async def draw(self, report: EstablishmentReport, show: Show) -> None:
        """Show it as it is now, again and again."""
        loop = asyncio.get_running_loop()
        glyphs = glyphs_for(self.output.stream.encoding)
        while True:
            await asyncio.sleep(_FRAME)
            fall = waterfall(report.as_json(), now=loop.time() - report.began)
            show(frame(fall, self.output.width, glyphs))

    def told(self) -> Callable[[Attempt | Resolution | EstablishmentReport], None]:
        """What prints a line for each thing that happens."""
        seen: dict[int, int] = {}

        def tell(changed: Attempt | Resolution | EstablishmentReport) -> None:
            if isinstance(changed, EstablishmentReport):
                return
            if isinstance(changed, Attempt):
                at, what, tone = _step_of_attempt(changed)
            else:
                known = seen.get(id(changed), 0)
                seen[id(changed)] = len(changed.found)
                at, what, tone = _step_of_name(changed, known)
            self.output.table(("", ""), [(in_ms(at), Cell(what, tone))], widths=_WIDTHS)
            self.output.stream.flush()

        return tell


def _step_of_attempt(attempt: Attempt) -> tuple[float, str, Tone]:
    what, why = attempt.what, attempt.error
    if attempt.ended is not None:
        tone = _TONES.get(attempt.outcome, Tone.FAINT)
        return attempt.ended, f"{what}: {attempt.outcome}" + (f": {why}" if why else ""), tone
    if attempt.connected is not None:
        return attempt.connected, f"{what}: connected, the handshake above begins", Tone.NONE
    return attempt.started, f"{what}: trying", Tone.NONE


def _step_of_name(name: Resolution, known: int) -> tuple[float, str, Tone]:
    if name.ended is not None:
        why = f": {name.error}" if name.error else ""
        tone = _TONES.get(name.outcome, Tone.FAINT)
        return name.ended, f"{name.name}: {name.outcome}{why}", tone
    found = name.found[known:]
    if found:
        return found[-1][0], f"{name.name}: {', '.join(each for _, each in found)}", Tone.NONE
    return name.started, f"{name.name}: asking for its addresses", Tone.NONE
