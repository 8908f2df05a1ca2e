"""``python -m tests.lab``: what comes back, and that nothing is left, however it ends."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest

from tests.lab import machine

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]
BODY = """
import os, pathlib, time

def test_passes():
    assert os.environ["TAPS_LAB"]
    pathlib.Path("/etc/written-inside").write_text("stays inside")

def test_fails():
    assert False, "on purpose"

def test_hangs():
    pathlib.Path(os.environ["TAPS_LAB"], "hangs").touch()
    time.sleep(600)

def test_panics():
    pathlib.Path("/proc/sysrq-trigger").write_text("c")
"""


@pytest.fixture
def lab(tmp_path):
    """Starts the runner with tests of its own; its results are in ``tmp_path/results``."""
    if sentence := machine.missing():
        if "lab" in os.environ.get("TAPS_REQUIRE", "").split(","):
            pytest.fail(f"{sentence}, and TAPS_REQUIRE demands it", pytrace=False)
        pytest.skip(sentence)
    results = tmp_path / "results"
    results.mkdir()
    (results / "test_inside.py").write_text(BODY)
    started = []

    def start(*options, test):
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.lab", f"--results={results}", *options, "--"),
                *("-c", "/dev/null", "-p", "no:faulthandler", results / "test_inside.py"),
                *("-k", test),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.stdout.close()
        assert process.wait() is not None
    # Not even one process: each has its results in its arguments. After SIGKILL nobody waited.
    while any(f"OUT={results}".encode() in arguments for arguments in of_all_processes()):
        time.sleep(0.01)


def of_all_processes():
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield entry.read_bytes()


def test_exit_status_output_and_junit_come_back(lab, tmp_path):
    junit = tmp_path / "junit.xml"
    process = lab(f"--junit={junit}", test="passes or fails")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "on purpose" in output
    assert output.startswith("=" * 10), "none of the kernel's words"
    outcomes = {
        case.get("name"): [child.tag for child in case]
        for case in ElementTree.parse(junit).iter("testcase")
    }
    assert outcomes == {"test_passes": [], "test_fails": ["failure"]}
    assert not pathlib.Path("/etc/written-inside").exists()


def test_a_lab_that_takes_too_long_is_ended(lab):
    process = lab("--timeout=8", test="hangs")
    output, _ = process.communicate()
    assert process.returncode == machine.TIMED_OUT
    assert "more than 8 s" in output


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_who_ends_the_runner_ends_the_guest(lab, tmp_path, number, status):
    process = lab(test="hangs")
    while not (tmp_path / "results" / "hangs").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == status


def test_a_guest_that_breaks_down_is_told_from_tests_that_fail(lab):
    process = lab(test="panics")
    output, _ = process.communicate()
    assert process.returncode == machine.NO_GUEST
    assert "did not boot, or broke down" in output


def test_what_the_machine_lacks_is_named(monkeypatch):
    monkeypatch.setattr(machine, "_PATH", "/nonexistent")
    sentence = machine.missing()
    assert sentence.startswith("the lab needs ")
    assert "linux.uml (Debian: user-mode-linux)" in sentence
