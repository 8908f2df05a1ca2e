"""A third party, for real: its plugins, copied elsewhere, against the built wheels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

import pytest

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "examples" / "third_party"
PLUGINS = {"unix": "transport", "slip": "framer"}


class Environment(Protocol):
    """What the fixture of that name is."""

    path: Path

    def install(self, *what: Path | str, dependencies: bool = False) -> None: ...

    def run(self, program: str, *arguments: str, status: int = 0) -> str: ...


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The folder as a stranger has it: nothing of the repository is around it."""
    folder = tmp_path / "third_party"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    assert not any((parent / "taps_core").exists() for parent in folder.parents)
    return folder


def explained(environment: Environment, *options: str, status: int = 0) -> list[Any]:
    """The stacks that would be tried."""
    told = json.loads(environment.run("taps-plugins", "explain", "--json", *options, status=status))
    return [each["stack"] for each in told["ranked"]]


def test_a_third_partys_plugins_are_installed_listed_checked_selected_and_used(
    environment: Environment, wheels: dict[str, Path], copied: Path
) -> None:
    environment.install(wheels["taps_tcp"])
    distributions = [copied / f"taps-{name}" for name in PLUGINS]
    environment.install(*distributions, "pytest>=9.0", dependencies=True)

    rows = {
        row["name"]: row for row in json.loads(environment.run("taps-plugins", "list", "--json"))
    }
    for name, kind in PLUGINS.items():
        row = rows[name]
        assert (row["kind"], row["status"]) == (kind, "available")
        assert row["distribution"] == f"taps-{name}"
        assert row["location"] == str(copied / f"taps-{name}")

    for name in PLUGINS:
        told = json.loads(environment.run("taps-plugins", "check", name, "--json"))
        assert (told["failed"], told["passed"] > 10) == (0, True), told
        assert ", 0 failed, " in environment.run("taps-plugins", "check", name)
        # Its own tests, as its author runs them.
        out = environment.run("python", "-m", "pytest", "-q", str(copied / f"taps-{name}"))
        assert " passed" in out

    plain = ("--security", "disabled")
    there = ("--remote", "_unix.path=/run/x.sock")
    assert explained(environment, *there, *plain, "--framer", "slip") == ["slip/UNIX"]
    assert explained(environment, *there, status=1) == []
    assert explained(environment, "--remote", "127.0.0.1:80", *plain) == ["TCP"]

    out = environment.run("python", str(copied / "unix_echo.py"))
    assert out == "b'hello, \\xc0 and all' over slip/UNIX\n"
