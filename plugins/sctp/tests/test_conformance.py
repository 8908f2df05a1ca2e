"""SCTP keeps what every transport of Messages promises, over loopback."""

from __future__ import annotations

import pytest
from taps_sctp import taps_transports

from taps_core.testing.conformance import MessageConformance

SCTP, _ = taps_transports()


@pytest.mark.lab
class TestSCTP(MessageConformance):
    transport = SCTP
