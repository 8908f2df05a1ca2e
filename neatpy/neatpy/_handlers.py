"""Calling what programs assign and pass as handlers."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from types import BuiltinMethodType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["call"]

logger = logging.getLogger("neatpy")

#: Methods of builtin types, of which there are so many: how many arguments they need and take.
_known: Final[dict[tuple[type, str], tuple[int, float]]] = {}


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
    needed, most = _arity(handler)
    fitting = arguments if most >= len(arguments) else arguments[: int(most)]
    return fitting + (None,) * (needed - len(fitting))


def _arity(handler: Callable[..., object]) -> tuple[int, float]:
    """How many arguments it needs, and how many it takes."""
    function, bound = handler, 0
    if isinstance(handler, MethodType):
        function, bound = handler.__func__, 1
    if isinstance(function, FunctionType) and not hasattr(function, "__wrapped__"):
        code = function.__code__
        takes = code.co_argcount - bound
        needed = max(takes - len(function.__defaults__ or ()), 0)
        return needed, math.inf if code.co_flags & inspect.CO_VARARGS else takes
    if not isinstance(handler, BuiltinMethodType):
        return _signature_arity(handler)
    # As ``list.append`` of some list: asking it takes a hundred times as long as calling it.
    key = type(handler.__self__), handler.__name__
    known = _known.get(key)
    if known is None:
        known = _known[key] = _signature_arity(handler)
    return known


def _signature_arity(handler: Callable[..., object]) -> tuple[int, float]:
    try:
        parameters = inspect.signature(handler).parameters.values()
    except ValueError:  # of a builtin that does not tell
        return 0, math.inf
    needed, most = 0, 0.0
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = math.inf
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            needed += parameter.default is parameter.empty
    return needed, most
