"""What travels on a virtual network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.testing.ports import Address
    from taps_core.testing.virtual_host import Host

__all__ = ["Packet"]


class Packet:
    """Something on its way.

    Args:
        transport: Name of the transport.
        what: What it is to the transport.
        source: Address of its sender.
        target: Whom it is for.
        length: Bytes of payload.
        arrive: Called with the host that has the target address, once for each copy.
        unreachable: Called, in a later turn, if it cannot get there and the sender
            learns of it; with the reason.
        number: For the log.
        again: Whether it is sent anew.
    """

    __slots__ = (
        "again",
        "arrive",
        "length",
        "number",
        "source",
        "target",
        "transport",
        "unreachable",
        "what",
    )

    def __init__(
        self,
        transport: str,
        what: str,
        source: Address,
        target: Address,
        length: int,
        *,
        arrive: Callable[[Host], None],
        unreachable: Callable[[str], None],
        number: int = -1,
        again: bool = False,
    ) -> None:
        self.transport = transport
        self.what = what
        self.source = source
        self.target = target
        self.length = length
        self.arrive = arrive
        self.unreachable = unreachable
        self.number = number
        self.again = again
