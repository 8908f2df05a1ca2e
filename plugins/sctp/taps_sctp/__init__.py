"""SCTP for taps: declares the transports ``sctp`` and ``sctp-udp``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.plugin import hookimpl
from taps_sctp.addresses import PathInfo, Paths
from taps_sctp.over_udp import SCTPOverUDP
from taps_sctp.transport import SCTP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import Transport

__all__ = ["SCTP", "PathInfo", "Paths", "SCTPOverUDP"]


@hookimpl
def taps_transports() -> Sequence[Transport]:
    """Declare them. Nothing is probed or opened here."""
    return (SCTP(), SCTPOverUDP())
