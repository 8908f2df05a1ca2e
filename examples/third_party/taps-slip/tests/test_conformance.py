"""It keeps what every framer promises."""

from taps_core.testing.conformance import FramerConformance
from taps_slip import Slip


class TestSlip(FramerConformance):
    framer = Slip(max_length=10_000)
    messages = (b"\xc0", b"\xdb", b"\xdb\xdc\xdd\xc0", b"\xc0\xc0 twice \xdb\xdb")
