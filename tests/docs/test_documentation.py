"""The documentation describes what exists: its code runs, its links lead somewhere."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: Fenced blocks: language word, content.
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
#: What a page may import as if it were installed.
THIRD_PARTY = [ROOT / "examples" / "third_party" / f"taps-{name}" for name in ("unix", "slip")]
#: Printed between two blocks of a page, so that their outputs can be told apart.
SEAM = "\x1e"


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    return [match.group(1, 2) for match in BLOCK.finditer(page.read_text())]


def run(source: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-"],
        input=source,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, THIRD_PARTY))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python\n" in page.read_text()], ids=name
)
def test_python_of_a_page_runs_and_prints_what_the_page_says(page: Path) -> None:
    """All blocks of a page are one program; a block «output» shows what the one before prints."""
    found = [block for block in blocks(page) if block[0] in ("python", "output")]
    sources = [content for language, content in found if language == "python"]
    printed = run(f"print({SEAM!r}, end='')\n".join(sources)).split(SEAM)
    position = -1
    for language, content in found:
        if language == "python":
            position += 1
        else:
            same = doctest.OutputChecker().check_output(
                content, printed[position], doctest.ELLIPSIS
            )
            assert same, f"the page says\n{content}\nand it prints\n{printed[position]}"


def commands(page: Path) -> list[str]:
    lines = "".join(content for language, content in blocks(page) if language in ("", "console"))
    return re.findall(r"^(?:\$ )?(taps-plugins .*)$", lines, re.MULTILINE)


@pytest.mark.parametrize(
    ("page", "command"),
    [(page, command) for page in PAGES for command in commands(page)],
    ids=lambda value: value if isinstance(value, str) else name(value),
)
def test_commands_are_understood(
    page: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from taps_core.cli import main

    status = main(shlex.split(command)[1:])
    assert status == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def test_the_readme_begins_with_a_program_that_works_offline() -> None:
    readme = (ROOT / "README.md").read_text()
    first_screen = "\n".join(readme.splitlines()[:45])
    language, program = BLOCK.findall(first_screen)[0]
    assert language == "python"
    assert "disabled" not in program
    assert run(program) == "b'hello' over line/TLS/TCP\n"
    assert "b'hello' over line/TLS/TCP" in first_screen
    assert "make demo" in first_screen
    assert "make test" in first_screen


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        if "://" not in target:
            path = page.parent / target.partition("#")[0]
            assert path.exists(), f"{target} does not exist"


def test_every_page_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    missing = [name(page) for page in (ROOT / "docs").rglob("*.md") if page not in reached]
    assert missing == ["docs/index.md"]


def test_every_dependency_has_its_reason() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    explained = set(re.findall(r"^\| `([\w-]+)`", page, re.MULTILINE))
    demanded: set[str] = set()
    for path in [
        ROOT / "pyproject.toml",
        *ROOT.glob("*/pyproject.toml"),
        *ROOT.glob("*/*/pyproject.toml"),
    ]:
        project = tomllib.loads(path.read_text())
        lists = [
            project["project"].get("dependencies", []),
            project["build-system"]["requires"],
            *project["project"].get("optional-dependencies", {}).values(),
            *project.get("dependency-groups", {}).values(),
        ]
        words = [word for words in lists for word in words if isinstance(word, str)]
        demanded |= {re.split(r"[^\w-]", word)[0] for word in words}
    ours = {word for word in demanded if word.startswith("taps-")}
    assert demanded - ours == explained


@pytest.mark.parametrize("topic", ["groups", "listeners", "parts", "endpoints"])
def test_each_row_of_a_page_of_cases_names_tests_that_exist(topic: str) -> None:
    page = ROOT / "docs" / "reference" / f"{topic}.md"
    rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    cases = [row for row in rows if not row.startswith("|---") and "| Test |" not in row]
    assert len(cases) > 10
    existing = {
        test
        for folder in ("tests", "plugins", "framers")
        for file in (ROOT / folder).rglob("test_*.py")
        for test in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    for row in cases:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= existing, row
