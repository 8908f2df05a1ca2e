"""Conformance suites: what plugins promise, as tests that anybody can run.

::

    from taps_core.testing.conformance import ByteStreamConformance

    class TestMyTransport(ByteStreamConformance):
        transport = MyTransport()

With pytest that is all; without it :func:`check` gives a verdict on each
promise (:func:`verdicts` each as it comes), and ``taps-plugins check NAME``
prints them. The plugin's own capability table says which promises it makes:
the others are reported as skipped, with the reason.
"""

from taps_core.testing.conformance.framers import FramerConformance
from taps_core.testing.conformance.security import SecurityLayerConformance
from taps_core.testing.conformance.suite import Conformance, Verdict, check, suite_for, verdicts
from taps_core.testing.conformance.transports import (
    ByteStreamConformance,
    ConnectedConformance,
    DatagramConformance,
    MessageConformance,
    TransportConformance,
)

__all__ = [
    "ByteStreamConformance",
    "Conformance",
    "ConnectedConformance",
    "DatagramConformance",
    "FramerConformance",
    "MessageConformance",
    "SecurityLayerConformance",
    "TransportConformance",
    "Verdict",
    "check",
    "suite_for",
    "verdicts",
]
