"""Properties by name: in any spelling, with the nearest name for a misspelt one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import PropertyError
from taps_core.model.property import Kind, Property, fold
from taps_core.model.property_table import EXTENSIONS, PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "among",
    "connection_property",
    "find_property",
    "message_name",
    "message_property",
    "nearest",
]

_SPELLINGS: Final[Mapping[str, Property]] = {
    spelling: row
    for row in (*PROPERTIES.values(), *EXTENSIONS.values())
    for spelling in (row.name, row.snake_name, row.folded)
}
_MESSAGE_SPELLINGS: Final[Mapping[str, Property]] = {
    spelling: row
    for row in PROPERTIES.values()
    if row.kind is Kind.MESSAGE
    for spelling in (row.name, row.snake_name, row.folded, row.keyword, fold(row.keyword))
}


def nearest(name: str, names: Iterable[str], likeness: float = 0.6) -> str:
    """``"; did you mean x?"`` with those ``names`` that ``name`` may be a slip for, or ``""``.

    Args:
        name: As somebody wrote it.
        names: What there is.
        likeness: The least that counts, as difflib's ``ratio``.
    """
    from difflib import get_close_matches  # only on the way to an error

    folded = {fold(each): each for each in names}
    close = get_close_matches(fold(name), folded, n=3, cutoff=likeness)
    return f"; did you mean {' or '.join(folded[each] for each in close)}?" if close else ""


def among(name: str, definitions: Iterable[Property]) -> Property | None:
    """The one of ``definitions`` that has this name, in any spelling."""
    folded = fold(name)
    for definition in definitions:
        if definition.folded == folded:
            return definition
    return None


def find_property(name: str, definitions: Iterable[Property] = ()) -> Property:
    """The declaration of a property.

    Args:
        name: In any spelling.
        definitions: Protocol-specific ones to look among as well.

    Raises:
        PropertyError: There is none; names the nearest ones.
    """
    if not isinstance(name, str):
        raise PropertyError(f"the name of a property is a string, not {name!r}")
    found = _SPELLINGS.get(name) or _SPELLINGS.get(fold(name)) or among(name, definitions)
    if found is None:
        snake = "_" in name.lstrip("_") or name.islower()
        names = [row.snake_name if snake else row.name for row in PROPERTIES.values()]
        names += [*EXTENSIONS, *(definition.name for definition in definitions)]
        raise PropertyError(f"there is no property {name!r}{nearest(name, names)}")
    return found


def _find_message_property(name: str) -> Property:
    if isinstance(name, str):
        found = _MESSAGE_SPELLINGS.get(fold(name))
        if found is not None:
            return found
        other = _SPELLINGS.get(fold(name))
        if other is not None:
            raise PropertyError(f"{other.name} is a {other.kind.words}, not a Message Property")
        full = fold(name).startswith("msg")
        names = [
            row.name if full else row.keyword
            for row in PROPERTIES.values()
            if row.kind is Kind.MESSAGE and not row.read_only
        ]
        raise PropertyError(f"there is no Message Property {name!r}{nearest(name, names)}")
    raise PropertyError(f"the name of a property is a string, not {name!r}")


def message_name(name: str) -> str:
    """Canonical name of a Message Property; namespaced names stay as they are.

    Raises:
        PropertyError: There is none; names the nearest ones.
    """
    found = _MESSAGE_SPELLINGS.get(name)
    if found is None:
        if isinstance(name, str) and "." in name:
            return name
        found = _find_message_property(name)
    return found.name


def message_property(name: str, value: Any) -> tuple[str, Any]:
    """Canonical name and checked value of a Message Property that is to be set.

    Args:
        name: In any spelling, also without ``msg`` (``priority``). A
            namespaced one is for the stack to judge.
        value: What it is set to.

    Raises:
        PropertyError: No such Message Property, a read-only one, or a value
            that it cannot have.
    """
    found = _MESSAGE_SPELLINGS.get(name)
    if found is None:
        if isinstance(name, str) and "." in name:
            return name, value
        found = _find_message_property(name)
    if found.read_only:
        raise PropertyError(f"{found.name} is read-only: it describes a received Message")
    return found.name, found.check(value)


def connection_property(
    name: str, value: Any, definitions: Iterable[Property] = ()
) -> tuple[Property, Any]:
    """Declaration and checked value of what ``set_property`` sets on a Connection.

    Connection Properties, and Message Properties as defaults of the
    Connection (RFC 9622, section 8).

    Args:
        name: In any spelling.
        value: What it is set to.
        definitions: The protocol-specific properties of the Connection's stack.

    Raises:
        PropertyError: No such property (on this stack), a read-only one, one
            that can only be set before establishment, or a value that it
            cannot have.
    """
    definitions = (*EXTENSIONS.values(), *definitions)
    if isinstance(name, str) and "." in name and among(name, definitions) is None:
        near = nearest(name, [definition.name for definition in definitions])
        raise PropertyError(f"{name} means nothing to the stack of this Connection{near}")
    found = find_property(name, definitions)
    if found.read_only:
        raise PropertyError(f"{found.name} is read-only")
    if found.kind is Kind.SELECTION:
        raise PropertyError(
            f"{found.name} is a Selection Property: it can only be set before establishment"
        )
    return found, found.check(value)
