"""The reference is what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import taps_core
from taps_core.model import errors, events
from taps_core.model.properties import PROPERTIES
from tests.model.test_properties import CONNECTION, MESSAGE, SELECTION

DOCS = Path(__file__).parents[2] / "docs"
GENERATOR = runpy.run_path(str(DOCS / "generate.py"))
GENERATED = GENERATOR["PAGES"]


@pytest.mark.parametrize("page", GENERATED)
def test_generated_page_is_fresh(page: str) -> None:
    assert (DOCS / page).read_text() == GENERATED[page](), "run python docs/generate.py"


@pytest.mark.requirement("R-9622-6.2-06")
def test_defaults_are_the_rfcs_or_documented() -> None:
    page = (DOCS / "reference" / "properties.md").read_text()
    decisions = (DOCS / "explanation" / "decisions.md").read_text()
    for name, (section, by_hand) in {**SELECTION, **CONNECTION, **MESSAGE}.items():
        row = PROPERTIES[name]
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}`")]
        assert f"| {GENERATOR['default'](row)} | {row.meaning} | {section} |" in line
        assert row.default == by_hand or f"`{name}`" in decisions, f"{name}: undocumented"


def test_every_requirement_has_a_test_or_a_reason_why_not() -> None:
    tested = GENERATOR["marked_tests"]()
    rows = {row["id"]: row for row in GENERATOR["requirements"]()}
    assert len(rows) == 234
    assert tested.keys() <= rows.keys(), "a mark names no requirement"
    without_reason = {name for name, row in rows.items() if "untested" not in row}
    assert without_reason == tested.keys()


def test_every_error_and_reason_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "errors.md").read_text()
    names = [name for name in errors.__all__ if hasattr(taps_core, name)]
    missing = [name for name in names if f"`{name}`" not in page]
    missing += [reason for reason in errors.Reason if f"`{reason.name}`" not in page]
    assert not missing


def test_every_event_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "errors.md").read_text()
    assert not [name for name in events.__all__ if name != "Event" and f"`{name}`" not in page]


def test_every_name_of_the_plugin_door_is_in_the_reference() -> None:
    from taps_core import plugin

    page = (DOCS / "reference" / "plugin-interface.md").read_text()
    assert not [name for name in plugin.__all__ if f"`{name}`" not in page]


def test_every_hook_has_its_heading_in_the_reference() -> None:
    from taps_core.runtime import hookspecs

    page = (DOCS / "reference" / "plugin-interface.md").read_text()
    hooks = [name for name in vars(hookspecs) if name.startswith("taps_")]
    assert hooks
    assert not [hook for hook in hooks if f"### `{hook}`" not in page]
