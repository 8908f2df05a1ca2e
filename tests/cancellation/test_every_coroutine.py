"""Whatever an application awaits can be cancelled at any step: nothing leaks, nothing is lost."""

from __future__ import annotations

import inspect
import re
import sys
from typing import TYPE_CHECKING

import pytest

import taps_core as taps
from taps_core.testing import sweep
from tests.cancellation.places import PLACES, Kind, Place
from tests.cancellation.scenarios import COVERED, SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taps_core.testing import LoopName, MemoryNetwork

#: On uvloop the steps are others where it has its own: sockets. The rest of the code
#: is the same, and one kind of stack shows that it runs there.
ON_UVLOOP = {"stream", "tcp"}


def combinations() -> Iterator[tuple[LoopName, Kind, str]]:
    for kind in PLACES:
        for name, (_, where) in SCENARIOS.items():
            if where(kind):
                yield "asyncio", kind, name
                if kind.name in ON_UVLOOP:
                    yield "uvloop", kind, name


@pytest.mark.parametrize(
    ("loop", "kind", "scenario"),
    [
        pytest.param(loop, kind, name, id=f"{loop}-{kind.name}-{name}")
        for loop, kind, name in combinations()
    ],
)
def test_cancelling_leaves_nothing_behind_and_loses_no_message(
    memory_network: MemoryNetwork, loop: LoopName, kind: Kind, scenario: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    made, _ = SCENARIOS[scenario]
    assert sweep(lambda: made(Place(kind, memory_network)), memory_network, loop=loop)


# -- nothing is forgotten

#: Asynchronous by protocol.
SPECIAL = ("__await__", "__aenter__", "__aexit__", "__anext__")
#: What annotations say of what is to be awaited.
AWAITED = re.compile(r"\b(Coroutine|Awaitable)\[")


def classes() -> dict[str, type]:
    """The public classes, and those of what their methods return, as ``events()`` does."""
    named = {
        name: value
        for module in list(sys.modules.values())
        if module.__name__.startswith("taps_core.runtime.")
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__.startswith("taps_core")
    }
    found = {name: getattr(taps, name) for name in taps.__all__}
    found = {name: value for name, value in found.items() if isinstance(value, type)}
    todo = list(found.values())
    while todo:
        for _, method in public(todo.pop()):
            for word in re.findall(r"\w+", str(annotation(method))):
                if word in named and word not in found and not word.startswith("_"):
                    found[word] = named[word]
                    todo.append(named[word])
    return found


def public(cls: type) -> Iterator[tuple[str, object]]:
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        ours = method.__module__.startswith("taps_core")
        if ours and (name in SPECIAL or not name.startswith("_")):
            yield name, method


def annotation(method: object) -> object:
    return getattr(method, "__annotations__", {}).get("return", "")


def coroutines() -> set[str]:
    return {
        f"{class_name}.{name}"
        for class_name, cls in classes().items()
        for name, method in public(cls)
        if name in SPECIAL
        or inspect.iscoroutinefunction(method)
        or inspect.isasyncgenfunction(method)
        or AWAITED.match(str(annotation(method)))
    }


def test_every_public_coroutine_has_a_scenario() -> None:
    found = coroutines()
    # As a check of the search itself: a coroutine function, one that returns an
    # awaitable, and one of a class that only a method leads to.
    assert {"Connection.receive", "Connection.close", "EventStream.__anext__"} <= found
    assert found - COVERED == set(), "cancelled by no scenario"
    assert COVERED - found == set(), "scenarios of what there is not"
