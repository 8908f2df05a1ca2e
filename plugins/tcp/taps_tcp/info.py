"""What the kernel tells about a TCP connection (TCP_INFO)."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final, NamedTuple

__all__ = ["CLOSED", "LENGTH", "TCPInfo", "parse_tcp_info", "tcp_info"]

#: ``TCPInfo.state`` of a connection that is over (RFC 9293's CLOSED).
CLOSED: Final = 7

#: TCPI_OPT_SYN_DATA.
_SYN_DATA: Final = 32

#: Linux' struct tcp_info up to tcpi_notsent_bytes, which is older than any
#: kernel that Python 3.11 runs on: 8 bytes, then 32-bit words.
_LAYOUT: Final = struct.Struct("=8B24I4Q3I")
#: Bytes to ask for: more than any kernel has.
LENGTH: Final = 256


class TCPInfo(NamedTuple):
    """A snapshot; times in seconds, segments and bytes counted by the kernel."""

    state: int
    """Linux' number of the state: 1 is ESTABLISHED, 7 CLOSED."""
    retransmissions: int
    """Segments sent again since the connection began."""
    retransmissions_in_a_row: int
    """Timeouts since the last acknowledgement; above 0 the path is in trouble."""
    probes: int
    """Unanswered window and keep-alive probes."""
    retransmission_timeout: float
    """What the next timeout waits."""
    round_trip_time: float
    """Smoothed."""
    round_trip_variation: float
    """Mean deviation of it."""
    unacknowledged: int
    """Segments in flight."""
    lost: int
    """Segments in flight that are taken for lost."""
    congestion_window: int
    """In segments."""
    path_mtu: int
    """In bytes."""
    unsent: int
    """Bytes that wait in the kernel for their first transmission."""
    early_data_accepted: bool
    """Whether the peer, or this end, took data that came in the SYN (Fast Open)."""


def tcp_info(sock: socket.socket) -> TCPInfo | None:
    """A snapshot of ``sock``; ``None`` where the platform or the socket gives none."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None or sys.platform != "linux":
        return None
    try:
        data = sock.getsockopt(socket.IPPROTO_TCP, option, LENGTH)
    except OSError:  # closed in the meantime
        return None
    return parse_tcp_info(data)


def parse_tcp_info(data: bytes) -> TCPInfo | None:
    """What the kernel gave; ``None`` if it is not all that belongs there."""
    if len(data) < _LAYOUT.size:
        return None
    fields = _LAYOUT.unpack_from(data)
    words = fields[8:32]
    return TCPInfo(
        state=fields[0],
        retransmissions=words[23],
        retransmissions_in_a_row=fields[2],
        probes=fields[3],
        retransmission_timeout=words[0] / 1e6,
        round_trip_time=words[15] / 1e6,
        round_trip_variation=words[16] / 1e6,
        unacknowledged=words[4],
        lost=words[6],
        congestion_window=words[18],
        path_mtu=words[13],
        unsent=fields[38],
        early_data_accepted=bool(fields[5] & _SYN_DATA),
    )
