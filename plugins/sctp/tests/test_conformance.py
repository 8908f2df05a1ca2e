"""SCTP keeps what every transport of Messages promises, over the kernel's loopback."""

from __future__ import annotations

import pytest
from taps_sctp import taps_transports

from taps_core.testing.conformance import MessageConformance

(SCTP,) = taps_transports()


@pytest.mark.lab
class TestSCTP(MessageConformance):
    transport = SCTP
