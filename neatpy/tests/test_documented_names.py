"""Every name, signature, value and default that NEATPy's documentation lists is there."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import neatpy

from .documented import DEFAULTS, ENUMERATIONS, FUNCTIONS, HANDLERS, METHODS, MODULES, names

if TYPE_CHECKING:
    from enum import Enum

TABLE = Path(__file__).parents[2] / "docs" / "neatpy.md"


def member(value: Any) -> Any:
    """``value``, or the member of an enumeration that it names, also within others."""
    if isinstance(value, dict):
        return {member(key): member(each) for key, each in value.items()}
    enumeration, dot, name = value.partition(".") if isinstance(value, str) else ("", "", "")
    return getattr(getattr(neatpy, enumeration), name) if dot else value


def parameters(function: Any) -> dict[str, Any]:
    """Name → default, or ``...``; without self."""
    return {
        name: ... if parameter.default is parameter.empty else parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self"
    }


def agrees(there: dict[str, Any], documented: dict[str, Any]) -> bool:
    """Whether every documented call works: what is demanded there may have a default here."""
    if list(there) != list(documented):
        return False
    return all(documented[name] in (..., default) for name, default in there.items())


@pytest.mark.parametrize(
    ("module", "cls", "method"),
    [(m, c, n) for m, classes in METHODS.items() for c, ms in classes.items() for n in ms],
)
def test_each_method_takes_what_is_documented(module: str, cls: str, method: str) -> None:
    owner = getattr(importlib.import_module(f"neatpy.{module}"), cls)
    assert agrees(parameters(getattr(owner, method)), METHODS[module][cls][method])


@pytest.mark.parametrize("module", FUNCTIONS)
def test_each_function_takes_what_is_documented(module: str) -> None:
    for name, documented in FUNCTIONS[module].items():
        function = getattr(importlib.import_module(f"neatpy.{module}"), name)
        assert agrees(parameters(function), documented)


@pytest.mark.parametrize(
    ("module", "enumeration"), [(m, each) for m, enums in ENUMERATIONS.items() for each in enums]
)
def test_each_enumeration_has_its_members_and_values(module: str, enumeration: str) -> None:
    found: type[Enum] = getattr(importlib.import_module(f"neatpy.{module}"), enumeration)
    assert {each.name: each.value for each in found} == ENUMERATIONS[module][enumeration]


@pytest.mark.parametrize("enumeration", DEFAULTS)
def test_each_property_has_its_default(enumeration: str) -> None:
    properties = getattr(neatpy, enumeration)
    held = neatpy.TransportProperties()
    kind = enumeration.removesuffix("Properties").lower() + "_properties"
    for name, documented in DEFAULTS[enumeration].items():
        prop = properties[name]
        assert properties.get_default(prop) == member(documented)
        assert getattr(held, kind).get(prop) == member(documented)
    assert set(DEFAULTS[enumeration]) == set(properties.__members__)


def test_names_of_properties_are_their_text() -> None:
    assert str(neatpy.SelectionProperties.PRESERVE_ORDER) == "preserve-order"
    assert str(neatpy.ConnectionProperties.PRIORITY) == "conn-prio"
    assert str(neatpy.MessageProperties.LIFETIME) == "msg-lifetime"


def test_handlers_are_there_and_empty() -> None:
    local, remote = neatpy.LocalEndpoint(), neatpy.RemoteEndpoint()
    local.with_port(0)
    remote.with_port(7)
    preconnection = neatpy.Preconnection(local, remote)
    made = {"Connection": preconnection.initiate(), "Listener": preconnection.listen()}
    neatpy._loop._waiting.clear()  # nothing of it is to begin
    for owners in HANDLERS.values():
        for cls, handlers in owners.items():
            for handler in handlers:
                assert getattr(made[cls], handler) is None


def test_a_framer_needs_its_three_methods_and_no_more() -> None:
    with pytest.raises(TypeError, match="abstract class Framer"):
        neatpy.Framer()  # type: ignore[abstract]  # the point of it
    assert inspect.isabstract(neatpy.Framer)
    assert neatpy.Framer.__abstractmethods__ == {
        "start",
        "new_sent_message",
        "handle_received_data",
    }


@pytest.mark.parametrize("module", MODULES)
def test_each_module_exists_and_names_what_it_gives(module: str) -> None:
    found = importlib.import_module(f"neatpy.{module}")
    assert not [name for name in found.__all__ if not hasattr(found, name)]


def test_the_package_has_every_documented_class_and_enumeration() -> None:
    assert not [name for name in names() if "." not in name and not hasattr(neatpy, name)]
    assert set(neatpy.__all__) <= set(dir(neatpy))


def test_everything_documented_has_its_row_in_the_table_and_nothing_else_has() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (works|differs: .+) \|$", TABLE.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == names()


def test_everything_public_says_what_it_is() -> None:
    missing = []
    for name in neatpy.__all__:
        found = getattr(neatpy, name)
        if not inspect.getdoc(found):
            missing.append(name)
        if inspect.isclass(found):
            missing += [
                f"{name}.{each}"
                for each, value in vars(found).items()
                if not each.startswith("_") and callable(value) and not inspect.getdoc(value)
            ]
    assert not missing
