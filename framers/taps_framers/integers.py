"""Integers in headers, and what the parameters of framers may be."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final, Literal, TypeAlias

from taps_core.plugin import PropertyError

__all__ = [
    "DEFAULT_MAX_LENGTH",
    "ByteOrder",
    "check_byteorder",
    "check_max_length",
    "integers",
    "largest",
]

ByteOrder: TypeAlias = Literal["big", "little"]

#: Largest Message unless told otherwise: 16 MiB.
DEFAULT_MAX_LENGTH: Final = 16 * 1024 * 1024

_FORMATS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_ORDERS: Final = {"big": ">", "little": "<"}


@lru_cache(maxsize=64)
def integers(byteorder: ByteOrder, *widths: int) -> Struct:
    """Packs and unpacks unsigned integers that follow each other; one for all Connections.

    Raises:
        PropertyError: Not a width of 1, 2, 4 or 8 bytes, or no byte order.
    """
    check_byteorder(byteorder)
    for width in widths:
        if width not in _FORMATS:
            raise PropertyError(f"{width!r}: an integer in a header has 1, 2, 4 or 8 bytes")
    return Struct(_ORDERS[byteorder] + "".join(_FORMATS[width] for width in widths))


def largest(width: int) -> int:
    """The largest unsigned integer of ``width`` bytes."""
    return int(256**width) - 1


def check_byteorder(byteorder: str) -> None:
    """Accept ``"big"`` and ``"little"``.

    Raises:
        PropertyError: It is neither.
    """
    if byteorder not in _ORDERS:
        raise PropertyError(f'{byteorder!r}: byteorder is "big" or "little"')


def check_max_length(max_length: object) -> None:
    """Accept a bound that bounds: a positive integer.

    Raises:
        PropertyError: It is not one.
    """
    if not isinstance(max_length, int) or isinstance(max_length, bool) or max_length < 1:
        raise PropertyError(f"{max_length!r}: max_length is a positive number of bytes")
