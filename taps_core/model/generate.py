"""Writes ``keywords.py``: ``python -m taps_core.model.generate``.

The typed keywords of ``send``, ``set_property``, TransportProperties and
SecurityParameters come from the tables, so that type checkers and the run
time never disagree. A test fails when the file is stale.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from taps_core.model.property import Kind, Property, ValueType
from taps_core.model.property_table import PROPERTIES
from taps_core.model.security import SECURITY_PARAMETERS, snake_case

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import StrEnum

__all__ = ["TARGET", "main", "render"]

TARGET = Path(__file__).with_name("keywords.py")

_HEAD = '''"""Typed keywords. Written by ``python -m taps_core.model.generate``: do not edit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, TypeAlias, TypedDict

from taps_core.model.property import (
    CapacityProfile,
    Direction,
    Multipath,
    MultipathPolicy,
    Preference,
    Scheduler,
)
from taps_core.model.security import Certificate, HasPublicBytes

__all__ = [
    "ConnectionKeywords",
    "MessageKeywords",
    "SecurityKeywords",
    "TransportKeywords",
]

'''

_ALIASES = (
    # Not Iterable: type checkers then take a dict for an iterable of its keys.
    "Preferences: TypeAlias = (\n"
    "    Mapping[str, PreferenceValue]\n"
    "    | Sequence[tuple[PreferenceValue, str]]\n"
    "    | AbstractSet[tuple[PreferenceValue, str]]\n"
    ")\n"
    "Objects: TypeAlias = HasPublicBytes | Sequence[HasPublicBytes]\n"
    "Chain: TypeAlias = str | os.PathLike[str] | bytes | Objects | Certificate\n"
)

_SECURITY_TYPES = {
    "serverCertificate": "Certificate | Iterable[Certificate]",
    "clientCertificate": "Certificate | Iterable[Certificate]",
    "pinnedServerCertificate": "Chain | Iterable[Chain]",
    "trustedCertificates": "Chain | Iterable[Chain]",
    "maxCachedSessions": "int | None",
    "cachedSessionLifetimeSeconds": "int | None",
    "preSharedKey": "tuple[bytes, str | bytes] | None",
    "context": "Any",
}


def _literal(name: str, values: Iterable[str], enumeration: str) -> str:
    lines = "".join(f'        "{value}",\n' for value in values)
    return f"{name}: TypeAlias = (\n    {enumeration}\n    | Literal[\n{lines}    ]\n)\n"


def _value(row: Property) -> str:
    if row.value_type is ValueType.PREFERENCE:
        return "PreferenceValue"
    if row.value_type is ValueType.PREFERENCE_SET:
        return "Preferences"
    if row.value_type is ValueType.BOOLEAN:
        return "bool"
    if row.values is not None:
        return f"{row.values.__name__}Value"
    # math.inf is a float.
    return "float" if row.special or row.value_type is ValueType.NUMERIC else "int"


def _typed_dict(name: str, doc: str, fields: Iterable[tuple[str, str, str]]) -> str:
    lines = "".join(f'    {field}: {kind}\n    """{text}"""\n' for field, kind, text in fields)
    return f'\n\nclass {name}(TypedDict, total=False):\n    """{doc}"""\n\n{lines}'


def _transport(rows: Iterable[Property]) -> list[tuple[str, str, str]]:
    return [(row.snake_name, _value(row), row.meaning) for row in rows]


def render() -> str:
    """The text of ``keywords.py`` as the tables demand it."""
    settable = [row for row in PROPERTIES.values() if not row.read_only]
    enumerations: dict[str, type[StrEnum]] = {}
    for row in settable:
        if row.values is not None:
            enumerations[row.values.__name__] = row.values
    preferences = ["require", "prefer", "no_preference", "avoid", "prohibit"]
    preferences += ["Require", "Prefer", "No Preference", "Avoid", "Prohibit"]
    parts = [_HEAD, _literal("PreferenceValue", preferences, "Preference")]
    for name, values in sorted(enumerations.items()):
        parts.append(_literal(f"{name}Value", [value.value for value in values], name))
    parts.append(_ALIASES)
    parts.append(
        _typed_dict(
            "MessageKeywords",
            "Message Properties of a Send: the names without ``msg``.",
            [
                (row.keyword, _value(row), row.meaning)
                for row in settable
                if row.kind is Kind.MESSAGE
            ],
        )
    )
    parts.append(
        _typed_dict(
            "ConnectionKeywords",
            "What can be set on a Connection: Connection Properties, and Message defaults.",
            _transport(row for row in settable if row.kind is not Kind.SELECTION),
        )
    )
    parts.append(
        _typed_dict(
            "TransportKeywords",
            "What can be set before establishment: every property that is not read-only.",
            _transport(settable),
        )
    )
    parts.append(
        _typed_dict(
            "SecurityKeywords",
            "Security parameters.",
            [
                (snake_case(name), _SECURITY_TYPES.get(name, "str | Iterable[str]"), text)
                for name, (_, _, text) in SECURITY_PARAMETERS.items()
            ],
        )
    )
    return "".join(parts)


def main() -> None:
    """Write the file."""
    TARGET.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
