"""TLS keeps what every security layer promises, over a stream in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.testing.conformance import SecurityLayerConformance
from taps_tls import taps_security_layers

if TYPE_CHECKING:
    from taps_core.plugin import SecurityLayer

LAYER: SecurityLayer
(LAYER,) = taps_security_layers()


class TestTLS(SecurityLayerConformance):
    layer = LAYER
