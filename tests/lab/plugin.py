"""For pytest: tests marked ``lab`` run in the lab, wherever pytest itself runs.

Outside, the lab is booted once, in the background, with all marked tests that were selected;
it runs while the others do. Marked tests come last, and report what they reported inside. With
pytest-xdist one worker boots it, and all of them find the reports.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.lab import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds for all marked tests together.
_TIMEOUT: Final = 780
#: Lines of the guest's output in a test's failure.
_LINES: Final = 30


def pytest_configure(config: pytest.Config) -> None:
    results = os.environ.get("TAPS_LAB")
    config.pluginmanager.register(
        _Inside(config, pathlib.Path(results)) if results else _Outside(config), "taps-lab"
    )


class _Inside:
    """Writes down each report where those outside find it."""

    def __init__(self, config: pytest.Config, results: pathlib.Path) -> None:
        self._config = config
        self._reports = results / "reports"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._reports.open("a") as file:
            file.write(json.dumps(data) + "\n")


class _Outside:
    """Boots the lab for the marked tests, and reports for them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._missing = machine.missing()
        self._lab: subprocess.Popen[bytes] | None = None
        # A worker of pytest-xdist was told by the controller, which removes it.
        given = getattr(config, "workerinput", {}).get("taps_lab")
        self._given = given is not None
        self._results = pathlib.Path(given) if given else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """In the controller of pytest-xdist, for each worker."""
        node.workerinput["taps_lab"] = str(self._place())

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if "TAPS_LAB_LOOPS" not in os.environ:
            # There is one guest with one processor: both loops take too long for every day.
            left_out = [
                item
                for item in items
                if _is_marked(item)
                and "[uvloop" in item.nodeid
                and item.get_closest_marker("both_loops") is None
            ]
            if left_out:
                self._config.hook.pytest_deselected(items=left_out)
                items[:] = [item for item in items if item not in set(left_out)]
        items.sort(key=_is_marked)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        chosen = [item.nodeid for item in session.items if _is_marked(item)]
        if not chosen or self._missing or self._config.option.collectonly:
            return
        results = self._place()
        try:
            with (results / "chosen").open("x") as file:
                file.writelines(f"{nodeid}\n" for nodeid in chosen)
        except FileExistsError:
            return  # another worker was first
        with (results / "output").open("wb") as output:
            self._lab = subprocess.Popen(
                [
                    # If pytest is killed, so is the lab.
                    *("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "tests.lab"),
                    *(f"--results={results}", f"--timeout={_TIMEOUT}", "--", "-v"),
                    f"@{results / 'chosen'}",
                ],
                cwd=self._config.rootpath,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for pytest; it tells the lab.
                start_new_session=True,
            )

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if _is_marked(item) and self._missing:
            if "lab" in os.environ.get("TAPS_REQUIRE", "").split(","):
                pytest.fail(f"{self._missing}, and TAPS_REQUIRE demands it", pytrace=False)
            pytest.skip(self._missing)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not _is_marked(item) or self._missing:
            return None
        # Waiting for others' tests is no hanging; the lab has its own time limit.
        faulthandler.cancel_dump_traceback_later()
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """What the test reported inside; ends with that of its teardown."""
        read = 0
        while True:
            # First: what comes before the end is there when the end is.
            ended = (self._place() / "ended").exists()
            found = self._found(item.nodeid)
            yield from found[read:]
            read = len(found)
            if found and found[-1].when == "teardown":
                return
            if ended:
                yield self._never_reported(item)
                return
            time.sleep(0.05)

    def _found(self, nodeid: str) -> list[pytest.TestReport]:
        try:
            # Of the last line only a part may be there yet.
            *lines, _ = (self._place() / "reports").read_text().split("\n")
        except FileNotFoundError:
            return []
        return [self._restored(data) for data in map(json.loads, lines) if data["nodeid"] == nodeid]

    def _restored(self, data: dict[str, Any]) -> pytest.TestReport:
        if isinstance(data["longrepr"], list):
            # Where and why something was skipped; JSON has no tuples.
            data["longrepr"] = tuple(data["longrepr"])
        restore = self._config.hook.pytest_report_from_serializable
        report: pytest.TestReport = restore(config=self._config, data=data)
        return report

    def _never_reported(self, item: pytest.Item) -> pytest.TestReport:
        status = (self._place() / "ended").read_text()
        output = (self._place() / "output").read_text(errors="replace").splitlines()
        return pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords=dict.fromkeys(item.keywords, 1),
            outcome="failed",
            longrepr="\n".join(
                [f"the lab ended with status {status} before this test did", *output[-_LINES:]]
            ),
            when="call",
        )

    def _place(self) -> pathlib.Path:
        if self._results is None:
            self._results = pathlib.Path(tempfile.mkdtemp(prefix="taps-lab-"))
        return self._results

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if not self._given:
            # Workers that are told to stop early need not wait.
            if self._results is not None:
                (self._results / "over").touch()
            return
        # Others may be waiting for the lab that this worker booted.
        while (
            self._lab is not None
            and self._lab.poll() is None
            and exitstatus != pytest.ExitCode.INTERRUPTED
            and not (self._place() / "over").exists()
        ):
            time.sleep(0.05)

    def pytest_unconfigure(self) -> None:
        if self._lab is not None:
            self._lab.terminate()
            self._lab.wait()
        if self._results is not None and not self._given:
            shutil.rmtree(self._results, ignore_errors=True)


def _is_marked(item: pytest.Item) -> bool:
    return item.get_closest_marker("lab") is not None
