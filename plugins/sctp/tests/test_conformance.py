"""SCTP keeps what every transport of Messages promises, over the kernel's loopback."""

from __future__ import annotations

import pytest
from taps_sctp import taps_transports

from taps_core.testing.conformance import MessageConformance

(SCTP,) = taps_transports()
HERE = SCTP.availability()


@pytest.mark.skipif(not HERE.available, reason=f"{HERE.reason}: {HERE.remedy}")
class TestSCTP(MessageConformance):
    transport = SCTP
