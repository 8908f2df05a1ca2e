"""Run tests in the lab: ``python -m tests.lab -- plugins/tcp/tests -k wire``.

Or another module: ``python -m tests.lab --run benchmarks -- sctp --pairs 9``.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import signal
import sys
import tempfile
from typing import Any

from tests.lab import machine


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab",
        description="Boot user-mode Linux with this machine's files, and run tests inside.",
        epilog="Exit status: that of what is run; 124 when the time is over, 125 if the guest "
        "does not boot or breaks down, 130 after Ctrl-C.",
    )
    parser.add_argument("--memory", default="512M", help="of the guest (default: %(default)s)")
    parser.add_argument(
        "--modules",
        type=lambda value: value.split(","),
        default=[],
        help="of the kernel, with commas, beside the usual ones",
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds (default: 600)")
    parser.add_argument("--junit", type=pathlib.Path, help="where to write pytest's JUnit file")
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        help="a directory that the tests can write to and that is left (they have it in TAPS_LAB)",
    )
    parser.add_argument(
        "--run",
        default="pytest",
        metavar="MODULE",
        help="what is run inside, as by python -m (default: %(default)s)",
    )
    parser.add_argument("arguments", nargs="*", metavar="-- ARGUMENT", help="for what is run")
    wanted = parser.parse_args()
    if sentence := machine.missing():
        print(sentence, file=sys.stderr)
        return machine.NO_GUEST
    signal.signal(signal.SIGTERM, _stop)
    results = wanted.results or pathlib.Path(tempfile.mkdtemp(prefix="taps-lab-"))
    status = machine.NO_GUEST
    try:
        if sys.stdout.isatty():
            os.environ.setdefault("PY_COLORS", "1")
        else:
            # The guest's console is a terminal in any case.
            os.environ.setdefault("PY_COLORS", "0")
        status = machine.run(
            _command(wanted, results),
            results,
            sys.stdout.buffer,
            memory=wanted.memory,
            modules=[*machine.MODULES, *wanted.modules],
            timeout=wanted.timeout,
        )
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    finally:
        if wanted.junit is not None and (results / "junit.xml").exists():
            shutil.copyfile(results / "junit.xml", wanted.junit)
        if wanted.results is None:
            shutil.rmtree(results)
        else:
            (results / "ended").write_text(str(status))
    if status == machine.TIMED_OUT:
        print(f"The lab was ended: it took more than {wanted.timeout:g} s.", file=sys.stderr)
    elif status == machine.NO_GUEST:
        print("The guest did not boot, or broke down.", file=sys.stderr)
    return status


def _command(wanted: argparse.Namespace, results: pathlib.Path) -> list[str]:
    for_pytest = [f"--junitxml={results / 'junit.xml'}", "-p", "no:cacheprovider"]
    options = for_pytest if wanted.run == "pytest" else []
    return [sys.executable, "-m", wanted.run, *options, *wanted.arguments]


def _stop(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
