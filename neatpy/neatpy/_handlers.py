"""Calling what programs assign and pass as handlers."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["call"]

logger = logging.getLogger("neatpy")


def call(handler: Callable[..., object] | None, *arguments: Any) -> None:
    """Call a handler with the arguments it takes; what it raises is logged and ends nothing.

    One that takes fewer gets the first of them, one that needs more gets ``None`` for the others.

    Args:
        handler: Any callable; ``None``: there is none.
        *arguments: All that there is to tell.
    """
    if handler is None:
        return
    try:
        if type(handler) is FunctionType and handler.__code__.co_argcount == len(arguments):
            handler(*arguments)
        else:
            handler(*_fitting(handler, arguments))
    except (Exception, asyncio.CancelledError):  # an application's handler may raise anything
        logger.exception("%s raised", getattr(handler, "__qualname__", handler))


def _fitting(handler: Callable[..., object], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    try:
        parameters = inspect.signature(handler).parameters.values()
    except ValueError:  # of a builtin that does not tell
        return arguments
    needed = most = 0.0
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = math.inf
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            needed += parameter.default is parameter.empty
    fitting = arguments if most >= len(arguments) else arguments[: int(most)]
    return fitting + (None,) * (int(needed) - len(fitting))
