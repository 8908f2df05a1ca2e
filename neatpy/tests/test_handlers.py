"""Any callable is a handler, whatever it takes."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neatpy._handlers import call

ALL = ("connection", "message", "context", "end", "error")


@given(st.integers(0, 8), st.integers(0, 8), st.booleans(), st.booleans())
def test_a_handler_gets_what_it_takes_and_none_for_what_there_is_not(
    needed: int, optional: int, more: bool, bound: bool
) -> None:
    names = [f"p{n}" for n in range(needed)] + [f"p{needed + n}='-'" for n in range(optional)]
    takes = [*(["self"] if bound else []), *names, *(["*rest"] if more else []), "**named"]
    got: list[tuple[Any, ...]] = []
    given_names = [name.partition("=")[0] for name in names]
    body = f"got.append(({''.join(f'{n}, ' for n in given_names)}{'*rest,' if more else ''}))"
    scope: dict[str, Any] = {"got": got}
    exec(f"def handler({', '.join(takes)}): {body}", scope)
    handler = scope["handler"]
    if bound:
        handler = type("Program", (), {"handler": handler})().handler
    call(handler, *ALL)
    if more:
        expected = ALL + (None,) * (needed - len(ALL))
    else:
        expected = (ALL + (None,) * (needed - len(ALL)))[: needed + optional]
    expected += ("-",) * (needed + optional - len(expected))
    assert got == [expected]


def test_wrappers_partials_objects_and_builtins_are_handlers() -> None:
    got: list[Any] = []

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return function(*arguments)

        return wrapper

    call(logged(lambda connection: got.append(connection)), *ALL)
    call(functools.partial(lambda mark, connection: got.append((mark, connection)), "mark"), *ALL)
    for _ in range(2):
        call(got.append, *ALL)
    call({}.clear, *ALL)
    call(None, *ALL)
    assert got == ["connection", ("mark", "connection"), "connection", "connection"]


def test_what_it_raises_is_logged_and_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    def mistaken(connection: Any) -> None:
        raise ZeroDivisionError("of the program")

    with caplog.at_level(logging.ERROR, "neatpy"):
        call(mistaken, *ALL)
    assert "mistaken raised" in caplog.text
    assert "of the program" in caplog.text
    with pytest.raises(SystemExit):
        call(lambda: exit(3), *ALL)
