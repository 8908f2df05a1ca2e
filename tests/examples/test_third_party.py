"""The plugins of a third party, without being installed: small, by the public doors, at work."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

import taps_core as taps
import taps_slip
import taps_unix
from taps_core.runtime.registry import Registry
from taps_core.testing.conformance import check, suite_for

FOLDER = Path(__file__).parents[2] / "examples" / "third_party"
DOORS = ("taps_core", "taps_core.plugin", "taps_core.testing")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, with what it takes from packages of ours."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= set(modules) if node.module == "taps_core" else {str(node.module)}
    return names


def is_import(node: ast.stmt) -> bool:
    guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return guarded or isinstance(node, ast.Import | ast.ImportFrom)


def test_the_transport_has_under_60_lines_beyond_its_imports() -> None:
    """Every line that is not blank counts, docstrings and comments too."""
    (path,) = (FOLDER / "taps-unix" / "taps_unix").glob("*.py")
    source = path.read_text()
    imports = {
        number
        for node in ast.parse(source).body
        if is_import(node)
        for number in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    counted = [
        line
        for number, line in enumerate(source.splitlines(), 1)
        if line.strip() and number not in imports
    ]
    assert len(counted) < 60


@pytest.mark.parametrize(
    "path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.relative_to(FOLDER).as_posix()
)
def test_nothing_is_imported_but_the_doors_and_the_standard_library(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "pytest", "taps_unix", "taps_slip"}
    for name in imported(path):
        public = name.startswith(DOORS[1:]) or name.removeprefix("taps_core.") in taps.__all__
        assert name in DOORS or public or name.partition(".")[0] in allowed, name


@pytest.mark.parametrize("declaration", [taps_unix.Unix(), taps_slip.Slip(max_length=10_000)])
def test_they_pass_their_suite_with_nothing_failed_or_skipped(
    declaration: taps_unix.Unix | taps_slip.Slip,
) -> None:
    assert not [each for each in check(suite_for(declaration)) if each.outcome != "passed"]


def test_a_registry_takes_the_modules_as_they_are() -> None:
    registry = Registry.of(taps_unix, taps_slip)
    assert list(registry.transports) == ["unix"]
    assert list(registry.framers) == ["slip"]


def test_the_echo_program_uses_both(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("third_party_echo", FOLDER / "unix_echo.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    asyncio.run(program.main(taps.System(plugins=[taps_unix, taps_slip])))
    assert capsys.readouterr().out == "b'hello, \\xc0 and all' over slip/UNIX\n"
