"""TCP for taps: declares the transport ``tcp``.

``TCPInfo`` and ``MultipathInfo`` are what ``find`` on a flow of this transport gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.plugin import hookimpl
from taps_tcp.info import TCPInfo
from taps_tcp.multipath import MultipathInfo, Subflow
from taps_tcp.transport import TCP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import Transport

__all__ = ["TCP", "MultipathInfo", "Subflow", "TCPInfo"]


@hookimpl
def taps_transports() -> Sequence[Transport]:
    """Declare TCP. Nothing is probed or opened here."""
    return (TCP(),)
