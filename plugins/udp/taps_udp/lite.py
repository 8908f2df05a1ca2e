"""UDP-Lite (RFC 3828): datagrams whose checksum may leave out their end.

How much of a datagram the checksum covers is an option of the socket, though here
it belongs to a Message. So it travels as ancillary data that only our own socket
understands, which sets the option when it has to change.
"""

from __future__ import annotations

import math
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import Preference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from taps_udp.options import Control

__all__ = [
    "UDPLITE",
    "LiteSocket",
    "coverage_item",
    "demand_coverage",
    "least_coverage",
    "may_be_partial",
    "open_socket",
]

#: The protocol number; Python names it on some systems only.
UDPLITE: Final = 136
_SEND: Final = (UDPLITE, 10)
_RECEIVE: Final = (UDPLITE, 11)
_INT: Final = struct.Struct("=i")
#: The header is always covered, and counts.
_HEADER: Final = 8
#: Linux keeps 16 bits.
_MOST: Final = 65535
#: As an option: everything is covered, whatever its length.
_FULL: Final = 0


class LiteSocket(socket.socket):
    """A UDP-Lite socket that covers each datagram as its ancillary data says; non-blocking."""

    __slots__ = ("_covered",)

    def __init__(self, family: int, fileno: int | None = None) -> None:
        super().__init__(family, socket.SOCK_DGRAM, UDPLITE, fileno)
        # Also one that was: socket.setdefaulttimeout is for every new object.
        self.setblocking(False)
        self._covered = _FULL

    def send(self, data: Any, flags: int = 0, /) -> int:
        """With full coverage."""
        self._cover(_FULL)
        return super().send(data, flags)

    def sendto(self, data: Any, address: Any, /) -> int:  # type: ignore[override]  # the one form in use
        """With full coverage."""
        self._cover(_FULL)
        return super().sendto(data, address)

    def sendmsg(
        self,
        buffers: Iterable[Any],
        ancdata: Iterable[Any] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        """With the coverage that ``ancdata`` has, else with full coverage."""
        coverage = _FULL
        rest: list[Control] = []
        for item in ancdata:
            if item[:2] == _SEND:
                (coverage,) = _INT.unpack(item[2])
            else:
                rest.append(item)
        self._cover(coverage)
        return super().sendmsg(buffers, rest, flags, address)

    def _cover(self, coverage: int) -> None:
        if coverage != self._covered:
            self.setsockopt(*_SEND, coverage)
            self._covered = coverage


def open_socket(family: int, protocol: int) -> socket.socket:
    """A socket of UDP or of UDP-Lite, non-blocking."""
    if protocol == UDPLITE:
        return LiteSocket(family)
    sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
    sock.setblocking(False)
    return sock


def may_be_partial(properties: Mapping[str, Any], name: str) -> bool:
    """Whether the application lets coverage be less than full.

    Args:
        properties: By canonical name.
        name: ``fullChecksumSend`` or ``fullChecksumRecv``.
    """
    return properties.get(name, Preference.REQUIRE) is not Preference.REQUIRE


def least_coverage(properties: Mapping[str, Any]) -> float:
    """What of a datagram has to be covered for it to be delivered; ``math.inf``: all of it."""
    if may_be_partial(properties, "fullChecksumRecv"):
        length: float = properties.get("recvChecksumLen", math.inf)
        return length
    return math.inf


def coverage_item(length: float) -> Sequence[Control]:
    """Ancillary data for ``msgChecksumLen``: of so many bytes the checksum is sure to be."""
    return () if length == math.inf else ((*_SEND, _INT.pack(_with_header(length))),)


def demand_coverage(sock: socket.socket, length: float) -> None:
    """Let the system drop what is covered less than ``recvChecksumLen`` says.

    Raises:
        OSError: The system refused.
    """
    sock.setsockopt(*_RECEIVE, _FULL if length == math.inf else _with_header(length))


def _with_header(length: float) -> int:
    return min(int(length) + _HEADER, _MOST)
