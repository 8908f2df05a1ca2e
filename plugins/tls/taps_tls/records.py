"""DTLS records as they are in datagrams (RFC 6347, section 4.1): looked at, not opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "CERTIFICATE",
    "CERTIFICATE_REQUEST",
    "MOST_PLAINTEXT",
    "client_random",
    "cut",
    "fatal_alert",
    "handshake_type",
    "is_lone_data",
    "packed",
    "walk",
]

#: What a record holds at the most.
MOST_PLAINTEXT: Final = 16 * 1024
#: Content type, version, epoch, sequence number, length.
_HEADER: Final = 13
_ALERT: Final = 21
_HANDSHAKE: Final = 22
_APPLICATION_DATA: Final = 23
_TYPES: Final = frozenset({20, _ALERT, _HANDSHAKE, _APPLICATION_DATA})
_CLIENT_HELLO: Final = 1
#: Types of messages of a handshake (RFC 5246, section 7.4).
CERTIFICATE: Final = 11
CERTIFICATE_REQUEST: Final = 13
#: Message type, length, sequence, offset, length of this fragment; then the version.
_HANDSHAKE_HEADER: Final = 12
_RANDOM: Final = slice(_HEADER + _HANDSHAKE_HEADER + 2, _HEADER + _HANDSHAKE_HEADER + 2 + 32)
_FATAL: Final = 2


class Walked(NamedTuple):
    """What is in a datagram."""

    whole: bool
    """Whether it is one record or several, and nothing else."""
    only_data: bool
    """Whether all of them are of the application."""


def walk(datagram: bytes) -> Walked:
    """Look at the records of a datagram. OpenSSL must not be given anything but whole ones."""
    at, end, only_data = 0, len(datagram), True
    while at < end:
        # Each has its length in bytes 11 and 12.
        if end - at < _HEADER or datagram[at] not in _TYPES or datagram[at + 1] != 0xFE:
            return Walked(False, False)
        if datagram[at] != _APPLICATION_DATA:
            only_data = False
        at += _HEADER + (datagram[at + 11] << 8 | datagram[at + 12])
    return Walked(at == end and end > 0, only_data)


def is_lone_data(datagram: bytes) -> bool:
    """Whether it is one record, and that is of the application: the usual case."""
    return (
        len(datagram) > _HEADER
        and datagram[0] == _APPLICATION_DATA
        and datagram[1] == 0xFE
        and len(datagram) == _HEADER + (datagram[11] << 8 | datagram[12])
    )


def cut(flight: bytes) -> Iterator[bytes]:
    """Records that follow each other, one by one, as OpenSSL wrote them."""
    at, end = 0, len(flight)
    while at < end:
        following = at + _HEADER + (flight[at + 11] << 8 | flight[at + 12])
        yield flight[at:following]
        at = following


def packed(records: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Whole records in datagrams of up to ``size`` bytes, as many as fit."""
    datagram = b""
    for record in records:
        if datagram and len(datagram) + len(record) > size:
            yield datagram
            datagram = record
        else:
            datagram += record
    if datagram:
        yield datagram


def handshake_type(record: bytes) -> int | None:
    """Of the (first) message in a record that is not encrypted; ``None``: it has none."""
    if record[0] == _HANDSHAKE and record[3:5] == b"\0\0" and len(record) > _HEADER:
        return record[_HEADER]
    return None


def client_random(datagram: bytes) -> bytes | None:
    """What makes a ClientHello that begins an association different from others.

    ``None``: it is no such thing, or not all of it, and alone, in a datagram.
    """
    if (
        len(datagram) >= _RANDOM.stop
        and datagram[0] == _HANDSHAKE
        and datagram[1] == 0xFE
        and datagram[3:5] == b"\0\0"
        and datagram[_HEADER] == _CLIENT_HELLO
        and len(datagram) == _HEADER + (datagram[11] << 8 | datagram[12])
    ):
        return datagram[_RANDOM]
    return None


def fatal_alert(description: int) -> bytes:
    """An alert of a handshake that is given up by whoever judged the peer (epoch 0).

    OpenSSL numbers its own records from 0, and none of them follows.
    """
    return b"\x15\xfe\xfd\0\0\xff\xff\xff\xff\xff\xff\0\x02" + bytes((_FATAL, description))
