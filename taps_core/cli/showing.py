"""``taps-plugins show NAME``: everything that one declaration advertises."""

from __future__ import annotations

import json
import math
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from taps_core.cli.listing import TONES, row_as_json
from taps_core.cli.output import WIDTH, Cell, Plain, Tone
from taps_core.model.capabilities import Capabilities, LayerCapabilities, Support
from taps_core.model.layers import FramerDefinition, SecurityLayer, Transport
from taps_core.model.properties import EXTENSIONS, PROPERTIES, Kind, Property
from taps_core.planning.stacks import effect_of, note_of
from taps_core.runtime.discovery import normalised
from taps_core.runtime.sources import PolicySource, ResolverSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from taps_core.cli.output import Output
    from taps_core.runtime.registry import Registry, Row

__all__ = ["show"]

_INDENT: Final = 2
#: Widths of columns: what says how far there is something, a section, the least of what explains.
_LONGEST: Final = max(len(support.value) for support in Support)
_SECTION: Final = len("8.1.11.4")
_LEAST: Final = 20
_GAPS: Final = 6
_TONES: Final = {
    Support.ALWAYS: Tone.GOOD,
    Support.OPTIONAL: Tone.NONE,
    Support.NEVER: Tone.FAINT,
}


def show(registry: Registry, output: Output, name: str, *, as_json: bool) -> int:
    """Print all that is known of a name.

    Args:
        registry: Where to look.
        output: Where to.
        name: Of a transport, security layer or framer, of a plugin (its entry
            point), or of a distribution.
        as_json: A JSON array of objects in place of text.

    Returns:
        0, or 1 if there is nothing of that name.
    """
    rows = [row for row in registry.rows if row.name == name] or [
        row
        for row in registry.rows
        if row.source.plugin == name or normalised(row.source.distribution) == normalised(name)
    ]
    if not rows:
        Plain(sys.stderr).text(registry.explain_absence(name), hang=2)
        return 1
    if as_json:
        print(json.dumps([_as_json(registry, row) for row in rows], indent=2))
        return 0
    for row in rows:
        _show_row(registry, output, row)
    return 0


def _show_row(registry: Registry, output: Output, row: Row) -> None:
    output.heading(name=f"{row.name} ({row.kind})")
    facts: list[tuple[Cell | str, Cell | str]] = [("status", Cell(row.status, TONES[row.status]))]
    facts += [(what, text) for what, text in _plain_facts(row) if text]
    declaration = row.declaration
    if declaration is None:
        output.table(("", ""), facts, indent=2)
        return
    if not isinstance(declaration, Transport | SecurityLayer):
        if isinstance(declaration, FramerDefinition):
            facts += _framer_facts(declaration)
        output.table(("", ""), facts, indent=2)
        return
    if isinstance(declaration, Transport):
        facts += [
            ("reaches", ", ".join(sorted(declaration.serves))),
            (
                "deployable",
                _deployability(declaration),
            ),
        ]
        if declaration.alpn:
            facts.append(("alone speaks", f"{', '.join(declaration.alpn)} (ALPN)"))
    table = registry.capabilities(declaration)
    facts += _stack_facts(table)
    output.table(("", ""), facts, indent=2)
    _show_table(output, table, {each.name: each for each in declaration.properties})
    _show_properties(output, declaration.properties)


def _deployability(transport: Transport) -> str:
    if transport.on_request:
        return "on request only: by protocol= of an Endpoint, or by policy"
    if transport.deployable:
        return "yes: any peer may be expected to speak it"
    return "needs evidence that the peer speaks it: ranked after the others"


def _plain_facts(row: Row) -> Iterator[tuple[str, str]]:
    source = row.source
    yield "reason", row.reason
    yield "remedy", row.remedy
    yield "note", row.note
    yield "plugin", source.plugin
    yield "distribution", f"{source.distribution} {source.version}".strip()
    yield "from", source.location + (" (editable)" if source.editable else "")
    yield "hooks", ", ".join(row.hooks)
    if row.declaration is not None:
        yield "interface", f"version {row.declaration.api_version} of taps_core.plugin"
        if not isinstance(row.declaration, PolicySource | ResolverSource):
            yield "written as", f"{row.declaration.label}, in the names of stacks"


def _framer_facts(framer: FramerDefinition) -> Iterator[tuple[str, str]]:
    yield "boundaries", "finds Message boundaries" if framer.boundaries else "finds none"
    yield "belongs", "below security" if framer.below_security else "above security"
    yield "Messages", "objects" if framer.objects else "bytes"
    if framer.handshakes:
        yield "handshake", "ready when the peer has answered"
    if framer.alpn:
        yield "ALPN", ", ".join(framer.alpn)


def _stack_facts(table: Capabilities | LayerCapabilities) -> Iterator[tuple[str, str]]:
    if isinstance(table, LayerCapabilities):
        yield "runs over", ", ".join(sorted(unit.value for unit in table.over))
        if table.needs:
            yield "needs below", ", ".join(sorted(table.needs))
        yield "carries", "as below it" if table.data_unit is None else table.data_unit.value
    else:
        yield "carries", table.data_unit.value
    if table.connected is not None:
        yield (
            "connection",
            "establishment exchanges packets: Ready proves a peer"
            if table.connected
            else "none: Ready proves nothing about the peer",
        )
    if table.may_duplicate:
        yield "duplicates", "the peer may get a Message twice"
    if table.half_close is not None:
        yield "half-close", "yes" if table.half_close else "no"
    yield "early data", "a Message may go with the handshake" if table.early_data else "no"
    protection = table.protection
    if protection is None:
        yield "security", "none of its own"
    else:
        peer = "the peer is verified" if protection.authenticates else "the peer is not verified"
        yield "security", f"{', '.join(protection.protocols)}; {peer}"


def _show_table(
    output: Output, table: Capabilities | LayerCapabilities, own: Mapping[str, Property]
) -> None:
    layer = isinstance(table, LayerCapabilities)
    support: Mapping[str, Support] = table.changes if layer else table.support  # type: ignore[union-attr]  # mypy does not follow the flag
    if support:
        output.heading("Changes what is below" if layer else "Selection Properties")
        _show_supports(output, "SUPPORT", support, table.notes, own)
    effects, notes = (table.effects, table.notes) if layer else _effects(table, own)  # type: ignore[arg-type]  # likewise
    if effects:
        output.heading("Connection and Message Properties")
        _show_supports(output, "EFFECT", effects, notes, own)


def _effects(
    table: Capabilities, own: Mapping[str, Property]
) -> tuple[Mapping[str, Support], Mapping[str, str]]:
    """What becomes of every Connection and Message Property, and how or why not."""
    generic = (*PROPERTIES.values(), *EXTENSIONS.values())
    names = [row.name for row in generic if row.kind is not Kind.SELECTION]
    names += [name for name in (*own, *table.effects) if name not in names]
    effects = {name: effect_of(table, name, own.values()) for name in names}
    return effects, {name: note_of(table, name) for name in names}


def _show_supports(
    output: Output,
    what: str,
    support: Mapping[str, Support],
    notes: Mapping[str, str],
    own: Mapping[str, Property],
) -> None:
    known = {**PROPERTIES, **EXTENSIONS, **own}
    order = {name: place for place, name in enumerate(known)}
    rows: list[Sequence[Cell | str]] = []
    for name in sorted(support, key=lambda name: (order.get(name, len(order)), name)):
        section, meaning = "", ""
        if name in known:
            section, meaning = known[name].rfc_section, known[name].meaning
        cell = Cell(support[name].value, _TONES[support[name]])
        rows.append((name, cell, section, notes.get(name) or meaning))
    # Names are not broken, however long the explanations are.
    narrow = (max(map(len, support)), _LONGEST, _SECTION)
    rest = max(WIDTH - _INDENT - sum(narrow) - _GAPS, _LEAST)
    columns = ("PROPERTY", what, "RFC 9622", "HOW, OR WHY NOT")
    output.table(columns, rows, indent=_INDENT, widths=(*narrow, rest))


def _show_properties(output: Output, properties: Sequence[Property]) -> None:
    if not properties:
        return
    output.heading("Properties of its own")
    for definition in properties:
        output.text(definition.name, Tone.STRONG, indent=2)
        output.text(_described(definition), indent=6)


def _described(definition: Property) -> str:
    section = definition.rfc_section
    cited = f" (RFC 9622, {section})" if section[:1].isdigit() else f" ({section})" * bool(section)
    kind = f"{definition.kind.value.capitalize()} Property"
    access = ", read-only" if definition.read_only else ""
    default = definition.default
    told = "" if default is None else f" Default: {_value(definition, default)}."
    return f"{definition.meaning}{cited} {kind}{access}: {definition.expects}.{told}"


def _value(definition: Property, value: Any) -> str:
    if value == math.inf and definition.special is not None:
        return definition.special
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return f"{value:g} {definition.unit}".rstrip()
    return str(value)


# -- for programs


def _as_json(registry: Registry, row: Row) -> dict[str, Any]:
    told = row_as_json(registry, row)
    declaration = row.declaration
    if declaration is None:
        return told
    told["label"] = declaration.label
    told["api_version"] = declaration.api_version
    if isinstance(declaration, FramerDefinition):
        told["boundaries"] = declaration.boundaries
        told["below_security"] = declaration.below_security
        told["objects"] = declaration.objects
        told["handshakes"] = declaration.handshakes
        told["alpn"] = list(declaration.alpn)
    if not isinstance(declaration, Transport | SecurityLayer):
        return told
    if isinstance(declaration, Transport):
        told["serves"] = sorted(declaration.serves)
        told["deployable"] = declaration.deployable
        told["on_request"] = declaration.on_request
        told["alpn"] = list(declaration.alpn)
    told["properties"] = [_property_as_json(each) for each in declaration.properties]
    return told


def _property_as_json(definition: Property) -> dict[str, Any]:
    default = definition.default
    if isinstance(default, Enum):
        default = str(default)
    elif default == math.inf:
        # JSON has no infinity.
        default = definition.special
    return {
        "name": definition.name,
        "kind": Kind(definition.kind).value,
        "value_type": definition.value_type.value,
        "expects": definition.expects,
        "default": default,
        "unit": definition.unit or None,
        "read_only": definition.read_only,
        "rfc_section": definition.rfc_section or None,
        "meaning": definition.meaning,
    }
