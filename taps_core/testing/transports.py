"""One transport of each kind that the seam knows, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.testing.memory_datagram import MemoryDatagram
from taps_core.testing.memory_messages import MemoryMessages
from taps_core.testing.memory_secure import MemorySecure
from taps_core.testing.memory_stream import MemoryStream

if TYPE_CHECKING:
    from taps_core.model.layers import Transport
    from taps_core.testing.memory import MemoryNetwork

__all__ = ["memory_transports"]


def memory_transports(network: MemoryNetwork) -> tuple[Transport, ...]:
    """All four on one network: byte stream, datagrams, Messages with streams, self-securing."""
    return (
        MemoryStream(network),
        MemoryDatagram(network),
        MemoryMessages(network),
        MemorySecure(network),
    )
