"""TLS and DTLS for taps: declares the security layers ``tls`` and ``dtls``.

``TLSInfo`` is what ``find(TLSInfo)`` on a Connection over either gives, ``Peer`` what a
trust verification callback is called with, and ``Challenge`` an identity challenge callback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.plugin import hookimpl
from taps_tls.dtls import DTLS
from taps_tls.info import Challenge, Peer, TLSInfo
from taps_tls.layer import TLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import SecurityLayer

__all__ = ["DTLS", "TLS", "Challenge", "Peer", "TLSInfo"]


@hookimpl
def taps_security_layers() -> Sequence[SecurityLayer]:
    """Declare both. No context is made and no certificate is read here."""
    return (TLS(), DTLS())
