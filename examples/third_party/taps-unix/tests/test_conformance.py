"""It keeps what every transport with a byte stream promises."""

from taps_core.testing.conformance import ByteStreamConformance
from taps_unix import Unix


class TestUnix(ByteStreamConformance):
    transport = Unix()
