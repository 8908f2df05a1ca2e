"""UDP for taps: declares the transport ``udp``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.plugin import hookimpl
from taps_udp.transport import UDP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import Transport

__all__ = ["UDP"]


@hookimpl
def taps_transports() -> Sequence[Transport]:
    """Declare UDP. Nothing is probed or opened here."""
    return (UDP(),)
