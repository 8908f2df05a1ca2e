"""TLS for taps: declares the security layer ``tls``.

``TLSInfo`` is what ``find(TLSInfo)`` on a Connection over TLS gives, ``Peer`` what a
trust verification callback is called with, and ``Challenge`` an identity challenge callback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.plugin import hookimpl
from taps_tls.info import Challenge, Peer, TLSInfo
from taps_tls.layer import TLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import SecurityLayer

__all__ = ["TLS", "Challenge", "Peer", "TLSInfo"]


@hookimpl
def taps_security_layers() -> Sequence[SecurityLayer]:
    """Declare TLS. No context is made and no certificate is read here."""
    return (TLS(),)
