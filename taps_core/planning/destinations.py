"""The order of a name's addresses (RFC 6724, section 6). Pure.

Which source address the system would use is looked up by the caller. Rules 3,
4 and 7 are left out: whether an address is deprecated, a home address or
behind a tunnel is not known here, and the system has chosen the source
address with that in mind.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["SourceLookup", "ordered"]

#: Address (``fe80::1%eth0`` with its zone) → the source address that would be used
#: to go there; ``None``: there is no way.
SourceLookup: TypeAlias = "Callable[[str], str | None]"


class _Policy(NamedTuple):
    """A line of the policy table (RFC 6724, section 2.1)."""

    prefix: int
    length: int
    precedence: int
    label: int


def _line(prefix: str, length: int, precedence: int, label: int) -> _Policy:
    number = int.from_bytes(socket.inet_pton(socket.AF_INET6, prefix), "big")
    return _Policy(number >> (128 - length), length, precedence, label)


#: The longest prefix first: the first that matches counts.
_POLICIES: Final = tuple(
    sorted(
        (
            _line("::1", 128, 50, 0),
            _line("::", 0, 40, 1),
            _line("::ffff:0:0", 96, 35, 4),
            _line("2002::", 16, 30, 2),
            _line("2001::", 32, 5, 5),
            _line("fc00::", 7, 3, 13),
            _line("::", 96, 1, 3),
            _line("fec0::", 10, 1, 11),
            _line("3ffe::", 16, 1, 12),
        ),
        key=lambda line: -line.length,
    )
)

_MAPPED: Final = 0xFFFF << 32
_LINK_LOCAL: Final = 0x2
_SITE_LOCAL: Final = 0x5
_GLOBAL: Final = 0xE


def ordered(addresses: Sequence[str], source_of: SourceLookup) -> list[str]:
    """The best first; those that are equal keep their order.

    Args:
        addresses: IPv4 and IPv6, as text, with a zone where they have one.
        source_of: Not called where there is nothing to order.
    """
    if len(addresses) < 2:
        return list(addresses)
    return sorted(addresses, key=lambda address: _key(address, source_of(address)))


def _key(address: str, source: str | None) -> tuple[int, ...]:
    """What is smaller comes first."""
    number = _number(address)
    policy = _policy(number)
    scope = _scope(number)
    if source is None:
        return (1, 0, 0, -policy.precedence, scope, 0)  # rule 1; the rest for a stable order
    from_number = _number(source)
    return (
        0,
        scope != _scope(from_number),  # rule 2
        policy.label != _policy(from_number).label,  # rule 5
        -policy.precedence,  # rule 6
        scope,  # rule 8
        # Rule 9, for IPv6 alone: among IPv4 addresses it would undo what their
        # server's turns are for (RFC 3484's mistake), and only for the half of
        # an address that says where a network is. No IPv4 address has the
        # precedence of an IPv6 one, so the families never meet here.
        0 if ":" not in address else -_common_prefix(number, from_number),
    )


def _number(address: str) -> int:
    """As an IPv6 address; an IPv4 one is mapped."""
    text = address.partition("%")[0]
    if ":" in text:
        return int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
    return _MAPPED | int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")


def _policy(number: int) -> _Policy:
    return next(line for line in _POLICIES if number >> (128 - line.length) == line.prefix)


def _scope(number: int) -> int:
    """RFC 6724, sections 3.1 and 3.2."""
    if number >> 32 == 0xFFFF:
        local = number >> 24 & 0xFF == 127 or number >> 16 & 0xFFFF == 0xA9FE  # 169.254/16
        return _LINK_LOCAL if local else _GLOBAL
    if number >> 120 == 0xFF:
        return number >> 112 & 0xF
    if number == 1 or number >> 118 == 0xFE80 >> 6:
        return _LINK_LOCAL
    return _SITE_LOCAL if number >> 118 == 0xFEC0 >> 6 else _GLOBAL


def _common_prefix(one: int, other: int) -> int:
    return min(64, 128 - (one ^ other).bit_length())
