"""The how-to shows the example plugins as they are, all of them, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from taps_core.testing import conformance

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "third_party"
PAGE = ROOT / "docs" / "how-to" / "write-a-plugin.md"
#: Blocks that are parts of example files: those in Python that are run are marked ``python``.
BLOCK = re.compile(r"^```(py|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [match.group(2) for match in BLOCK.finditer(PAGE.read_text())]
FILES = [*EXAMPLES.rglob("*.py"), *EXAMPLES.rglob("*.toml")]
SUITES = [each for each in vars(conformance).values() if hasattr(each, "promises")]


def first_line(block: str) -> str:
    return block.strip().splitlines()[0]


@pytest.mark.parametrize("block", BLOCKS, ids=first_line)
def test_a_block_is_a_part_of_an_example_file(block: str) -> None:
    assert any(block in path.read_text() for path in FILES)


@pytest.mark.parametrize(
    "path",
    [
        EXAMPLES / "taps-unix" / "taps_unix" / "__init__.py",
        EXAMPLES / "taps-slip" / "taps_slip" / "__init__.py",
        EXAMPLES / "taps-unix" / "tests" / "test_conformance.py",
        EXAMPLES / "taps-slip" / "tests" / "test_conformance.py",
        EXAMPLES / "taps-unix" / "pyproject.toml",
    ],
    ids=lambda path: path.relative_to(EXAMPLES).as_posix(),
)
def test_a_plugin_is_shown_whole(path: Path) -> None:
    shown = {line for block in BLOCKS for line in block.splitlines()}
    assert not [line for line in path.read_text().splitlines() if line not in shown]


def test_every_test_that_is_named_exists() -> None:
    promises = {name for suite in SUITES for name in suite.promises()}
    text = PAGE.read_text().replace("test_conformance.py", "")
    named = set(re.findall(r"\btest_\w+", text))
    assert named
    assert named <= promises
