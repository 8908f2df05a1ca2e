"""UDP for taps: declares the transports ``udp`` and ``udp-lite``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.plugin import hookimpl
from taps_udp.transport import UDP, UDPLite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import Transport

__all__ = ["UDP", "UDPLite"]


@hookimpl
def taps_transports() -> Sequence[Transport]:
    """Declare UDP and UDP-Lite. Nothing is probed or opened here."""
    return (UDP(), UDPLite())
