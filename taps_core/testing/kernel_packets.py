"""IP packets as they are on the wire: read, and forged."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

__all__ = ["Packet", "forged_datagram"]

_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_PORTS: Final = struct.Struct("!HH")
_UDP: Final = struct.Struct("!HHHH")
_DONT_FRAGMENT: Final = 0x4000
#: Where TCP says how long its header is, in the upper half of the byte, and its flags.
_TCP_OFFSET: Final = 12
_TCP_FLAGS: Final = 13
#: Bytes of its header without options.
_TCP_LEAST: Final = 20
_UDP_LITE: Final = 136


class Packet(NamedTuple):
    """An IP packet, as the wire has it."""

    version: int
    """4 or 6."""
    protocol: int
    """IANA's number: 6 is TCP, 17 UDP, 136 UDP-Lite."""
    source: tuple[str, int]
    """Address and port; port 0 where the protocol has none."""
    destination: tuple[str, int]
    """Likewise."""
    dscp: int
    """Differentiated Services code point (RFC 2474), 0 to 63."""
    ecn: int
    """ECN field (RFC 3168): 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE."""
    hop_limit: int
    """IPv6's Hop Limit, IPv4's Time to Live."""
    dont_fragment: bool
    """IPv4's DF bit. True for IPv6, where no router fragments."""
    tcp_flags: int
    """The byte of flags (FIN is 1, SYN 2, RST 4); 0 for other protocols."""
    checksum_coverage: int
    """Bytes of a UDP-Lite datagram that its checksum covers, header included, 0 or all of
    them where it covers everything; 0 for other protocols."""
    payload: bytes
    """What the transport carries; what follows the IP header for unknown protocols."""
    tcp_options: bytes = b""
    """As the header has them (RFC 9293, section 3.1); empty for other protocols."""

    @classmethod
    def parse(cls, data: bytes) -> Packet | None:
        """Read what begins with an IP header; ``None`` for what is no whole IP packet.

        IPv6 extension headers are not followed: they count as the protocol.
        """
        version = data[0] >> 4 if data else 0
        try:
            if version == 4:
                return cls._parse4(data)
            if version == 6:
                return cls._parse6(data)
        except (struct.error, IndexError, ValueError):
            return None
        return None

    @classmethod
    def _parse4(cls, data: bytes) -> Packet:
        first, traffic_class, length, _, fragment, hops, protocol, _, source, destination = (
            _IPV4.unpack_from(data)
        )
        if length > len(data):
            raise ValueError("cut off")
        return cls._with_transport(
            4,
            protocol,
            (socket.inet_ntoa(source), socket.inet_ntoa(destination)),
            traffic_class,
            hops,
            bool(fragment & _DONT_FRAGMENT),
            data[(first & 15) * 4 : length],
        )

    @classmethod
    def _parse6(cls, data: bytes) -> Packet:
        first, length, protocol, hops, source, destination = _IPV6.unpack_from(data)
        if _IPV6.size + length > len(data):
            raise ValueError("cut off")
        return cls._with_transport(
            6,
            protocol,
            (
                socket.inet_ntop(socket.AF_INET6, source),
                socket.inet_ntop(socket.AF_INET6, destination),
            ),
            first >> 20 & 255,
            hops,
            True,
            data[_IPV6.size : _IPV6.size + length],
        )

    @classmethod
    def _with_transport(
        cls,
        version: int,
        protocol: int,
        addresses: tuple[str, str],
        traffic_class: int,
        hops: int,
        dont_fragment: bool,
        body: bytes,
    ) -> Packet:
        ports, flags, coverage, options = (0, 0), 0, 0, b""
        if protocol == socket.IPPROTO_TCP:
            ports = _PORTS.unpack_from(body)
            flags = body[_TCP_FLAGS]
            length = (body[_TCP_OFFSET] >> 4) * 4
            options = body[_TCP_LEAST:length]
            body = body[length:]
        elif protocol in (socket.IPPROTO_UDP, _UDP_LITE):
            ports = _PORTS.unpack_from(body)
            if protocol == _UDP_LITE:
                # In place of UDP's length.
                _, _, coverage, _ = _UDP.unpack_from(body)
            body = body[_UDP.size :]
        return cls(
            version=version,
            protocol=protocol,
            source=(addresses[0], ports[0]),
            destination=(addresses[1], ports[1]),
            dscp=traffic_class >> 2,
            ecn=traffic_class & 3,
            hop_limit=hops,
            dont_fragment=dont_fragment,
            tcp_flags=flags,
            checksum_coverage=coverage,
            payload=body,
            tcp_options=options,
        )


def forged_datagram(
    source: tuple[str, int], destination: tuple[str, int], payload: bytes, *, traffic_class: int = 0
) -> bytes:
    """A UDP datagram over IPv4 with any source, for a raw socket (IPPROTO_RAW).

    Args:
        source: IPv4 address and port that it pretends to come from.
        destination: IPv4 address and port.
        payload: What it carries.
        traffic_class: The TOS byte: DSCP, then ECN.
    """
    length = _UDP.size + len(payload)
    # No checksum over the datagram, as IPv4 allows; the kernel fills in that of the header.
    header = _IPV4.pack(
        0x45,
        traffic_class,
        _IPV4.size + length,
        0,
        _DONT_FRAGMENT,
        64,
        socket.IPPROTO_UDP,
        0,
        socket.inet_aton(source[0]),
        socket.inet_aton(destination[0]),
    )
    return header + _UDP.pack(source[1], destination[1], length, 0) + payload
