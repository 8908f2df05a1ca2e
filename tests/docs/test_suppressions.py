"""Whoever switches a check off says why, beside it."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
SUPPRESSION = re.compile(r"#\s*(?:noqa|type:\s*ignore)\b")
#: What is switched off, by its code; one or several of them; and a reason.
WITH_REASON = re.compile(r"(?:# (?:noqa: [A-Z0-9, ]+|type: ignore\[[a-z, -]+\]) +)+# \S")


FOLDERS = ("benchmarks", "docs", "examples", "framers", "neatpy", "plugins", "taps_core", "tests")


def test_every_suppression_has_a_code_and_a_reason() -> None:
    files = [
        *ROOT.glob("*.py"),
        *(file for each in FOLDERS for file in (ROOT / each).rglob("*.py")),
    ]
    assert len(files) > 100
    without = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if SUPPRESSION.search(line) and not WITH_REASON.search(line)
    ]
    assert without == []
