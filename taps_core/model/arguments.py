"""Plain arguments of public calls: a wrong one is told by its name, before anything is done."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_length", "check_seconds", "check_whole", "several"]

T = TypeVar("T")

_NUMBERS: Final = (int, float)


def check_seconds(name: str, value: object) -> None:
    """A duration.

    Raises:
        TypeError: It is no number.
        ValueError: It is not a number, or below zero.
    """
    if not isinstance(value, _NUMBERS):
        raise TypeError(f"{name}: seconds as a number, not {value!r}")
    if not value >= 0:
        raise ValueError(f"{name}: {value!r} seconds cannot be")


def check_length(name: str, value: object, least: int = 1) -> None:
    """A number of bytes.

    Raises:
        TypeError: It is no integer.
        ValueError: It is below ``least``.
    """
    if not isinstance(value, int):
        raise TypeError(f"{name}: a number of bytes, not {value!r}")
    if value < least:
        raise ValueError(f"{name}: at least {least} byte{'s' * (least != 1)}, not {value!r}")


def check_whole(name: str, value: object, least: int) -> None:
    """A whole number from ``least`` on, or ``math.inf``.

    Raises:
        TypeError: It is no number.
        ValueError: It is not whole, or too small.
    """
    if not isinstance(value, int | float):
        raise TypeError(f"{name}: a whole number from {least} on or math.inf, not {value!r}")
    if value != math.inf and (value != value // 1 or value < least):
        raise ValueError(f"{name}: a whole number from {least} on or math.inf, not {value!r}")


def several(name: str, value: Iterable[T]) -> tuple[T, ...]:
    """What an application lists. Text would be taken for its letters.

    Raises:
        TypeError: It is one alone.
    """
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name}: several, as in [{value!r}], not {value!r}")
    return tuple(value)
