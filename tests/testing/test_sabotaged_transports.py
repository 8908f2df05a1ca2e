"""Every defect is caught, by the test that names it and by no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taps_core.testing import MemoryDatagram, MemoryMessages, MemoryStream
from taps_core.testing.conformance import check, suite_for
from tests.testing.sabotage.transports import SABOTAGED, Sabotaged

if TYPE_CHECKING:
    from taps_core.model.layers import Transport
    from taps_core.testing.conformance import Verdict

# What the suite finds does not depend on the version of Python: once is enough.
pytestmark = pytest.mark.slow


def verdicts(transport: Transport) -> list[Verdict]:
    suite = suite_for(transport)
    suite.loops = ("asyncio",)
    # Only what never comes is waited for so long, and in memory nothing takes long.
    suite.patience = 0.5
    return check(suite)


@pytest.mark.parametrize("broken", SABOTAGED, ids=lambda broken: broken.__name__)
def test_a_defect_fails_the_test_that_names_it_and_no_other(broken: type[Sabotaged]) -> None:
    failed = {
        verdict.test: verdict.reason
        for verdict in verdicts(broken())
        if verdict.outcome == "failed"
    }
    assert failed.keys() == {broken.caught_by}, failed


@pytest.mark.parametrize("base", [MemoryStream, MemoryMessages, MemoryDatagram])
def test_the_honest_ones_pass_through_the_same_layers(base: type[Transport]) -> None:
    honest = type("Honest", (Sabotaged,), {"base": base})
    assert not [verdict for verdict in verdicts(honest()) if verdict.outcome == "failed"]


def test_there_are_enough_of_them() -> None:
    assert len(SABOTAGED) >= 20
