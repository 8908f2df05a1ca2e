"""Every defect is caught, by the test that names it and by no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from taps_core.testing.conformance import check, suite_for
from tests.testing.sabotage.framers import SABOTAGED, Honest

if TYPE_CHECKING:
    from taps_core.testing.conformance import Verdict


def verdicts(declaration: Any) -> list[Verdict]:
    suite = suite_for(declaration)
    suite.loops = ("asyncio",)
    # Only what never comes is waited for so long, and in memory nothing takes long.
    suite.patience = 0.5
    return check(suite)


@pytest.mark.parametrize("broken", SABOTAGED, ids=lambda broken: broken.__name__)
def test_a_defect_fails_the_test_that_names_it_and_no_other(broken: Any) -> None:
    failed = {
        verdict.test: verdict.reason
        for verdict in verdicts(broken())
        if verdict.outcome == "failed"
    }
    assert failed.keys() == {broken.caught_by}, failed


def test_the_honest_one_passes_all_of_them() -> None:
    assert {verdict.outcome for verdict in verdicts(Honest())} == {"passed"}


def test_there_are_enough_of_them() -> None:
    assert len(SABOTAGED) >= 5
