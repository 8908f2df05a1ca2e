"""``taps-plugins list``: everything that was found, usable or not."""

from __future__ import annotations

import json
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from taps_core.cli.output import WIDTH, Cell, Tone, printable
from taps_core.model.capabilities import Capabilities, LayerCapabilities, Support
from taps_core.model.layers import SecurityLayer, Transport
from taps_core.model.properties import PROPERTIES
from taps_core.runtime.registry import PluginKind, Row, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taps_core.cli.output import Output
    from taps_core.runtime.discovery import Source
    from taps_core.runtime.registry import Registry

__all__ = ["TONES", "list_plugins", "origin", "row_as_json", "table_as_json"]

TONES: Final = {
    Status.AVAILABLE: Tone.GOOD,
    Status.UNAVAILABLE: Tone.CAREFUL,
    Status.FAILED: Tone.BAD,
    Status.REFUSED: Tone.BAD,
    Status.CONFLICT: Tone.BAD,
    Status.MISSING: Tone.BAD,
    Status.BLOCKED: Tone.FAINT,
}

_SIGNS: Final = {
    Support.ALWAYS: Cell("A"),
    Support.OPTIONAL: Cell("o"),
    Support.NEVER: Cell("-", Tone.FAINT),
}
_UNCHANGED: Final = Cell(".", Tone.FAINT)

_WELCOME: Final = """\
No plugin is installed, so there is nothing yet that a Connection could run over. The core knows \
no protocol; each comes as a package of its own:\
"""
_PACKAGES: Final = (
    ("pip install taps-tcp", "TCP"),
    ("pip install taps-tls", "TLS and DTLS: without them only unencrypted stacks"),
    ("pip install taps-framers", "Message boundaries on byte streams"),
    ("pip install taps-udp", "UDP, UDP-Lite"),
    ("pip install taps-sctp", "SCTP"),
)


def list_plugins(
    registry: Registry, output: Output, *, kind: str | None, everything: bool, as_json: bool
) -> int:
    """Print the rows.

    Args:
        registry: Whose.
        output: Where to.
        kind: Only these; ``None``: all.
        everything: Also what is blocked, and the hooks of each plugin.
        as_json: A JSON array of objects in place of tables.

    Returns:
        0.
    """
    found = registry.rows
    rows = [
        row
        for row in found
        if (kind is None or row.kind == kind) and (everything or row.status is not Status.BLOCKED)
    ]
    if as_json:
        print(json.dumps([row_as_json(registry, row) for row in rows], indent=2))
    elif rows:
        _print_rows(registry, output, rows, everything)
    elif kind is not None:
        print(f"no {kind} plugin is installed", file=sys.stderr)
    if not found and not as_json:
        _welcome(output)
    if not everything:
        hidden = sum(row.status is Status.BLOCKED for row in found)
        if hidden:
            print(f"{hidden} left out by choice; list --all shows them", file=sys.stderr)
    if kind is not None:
        failed = sum(
            row.kind is PluginKind.PLUGIN and row.status is not Status.BLOCKED for row in found
        )
        if failed:
            print(f"{failed} declared nothing; list without --kind shows why", file=sys.stderr)
    return 0


def _welcome(output: Output) -> None:
    output.text(_WELCOME)
    output.table(
        ("", ""), [(Cell(command, Tone.STRONG), what) for command, what in _PACKAGES], indent=2
    )


def _print_rows(registry: Registry, output: Output, rows: Sequence[Row], everything: bool) -> None:
    output.table(
        ("NAME", "KIND", "STATUS", "DISTRIBUTION", "FROM"),
        [
            (
                Cell(row.name, Tone.STRONG if row.declaration is not None else Tone.NONE),
                row.kind,
                Cell(row.status, TONES[row.status]),
                f"{row.source.distribution} {row.source.version}".strip() or "-",
                origin(row.source),
            )
            for row in rows
        ],
    )
    _print_remarks(output, rows)
    _print_matrix(registry, output, rows)
    if everything:
        output.heading("Hooks")
        plugins = {row.source: row.hooks for row in rows if row.hooks}
        output.table(
            ("", ""),
            [
                (f"{source.plugin} ({source})", ", ".join(hooks))
                for source, hooks in plugins.items()
            ],
            indent=2,
        )


def _print_remarks(output: Output, rows: Sequence[Row]) -> None:
    unused = [row for row in rows if row.reason]
    if unused:
        output.heading("Not in use, and why")
        for row in unused:
            output.text(
                f"{row.name} ({row.source}): {row.reason}", TONES[row.status], indent=2, hang=4
            )
            if row.remedy:
                output.text(f"to do: {row.remedy}", indent=6, hang=7)
    noted = [row for row in rows if row.note]
    if noted:
        output.heading("Worth knowing")
        for row in noted:
            output.text(f"{row.name} ({row.source}): {row.note}", indent=2, hang=4)


def _print_matrix(registry: Registry, output: Output, rows: Sequence[Row]) -> None:
    columns = [
        (row.name, registry.capabilities(row.declaration))
        for row in rows
        if isinstance(row.declaration, Transport | SecurityLayer)
    ]
    if not columns:
        return
    output.heading("Capabilities")
    names = [
        name
        for name in PROPERTIES
        if any(name in table.support for _, table in columns if isinstance(table, Capabilities))
        or any(
            name in table.changes for _, table in columns if isinstance(table, LayerCapabilities)
        )
    ]
    for block in _blocks(columns, max(map(len, names), default=0)):
        output.table(
            ("", *(printable(column) for column, _ in block)),
            [(name, *(_sign(table, name) for _, table in block)) for name in names],
            indent=2,
        )
    legend = "A always, o optional (can be had or left out), - never"
    if any(isinstance(table, LayerCapabilities) for _, table in columns):
        legend += ", . as below it"
    output.text(legend, Tone.FAINT, indent=2)


def _blocks(columns: list[tuple[str, Any]], first: int) -> Iterator[list[tuple[str, Any]]]:
    """As many columns at a time as fit beside the names of properties."""
    block: list[tuple[str, Any]] = []
    width = room = WIDTH - first - 4
    for column in columns:
        needed = len(column[0]) + 3
        if block and needed > room:
            yield block
            block, room = [], width
        block.append(column)
        room -= needed
    yield block


def _sign(table: Capabilities | LayerCapabilities, name: str) -> Cell:
    if isinstance(table, Capabilities):
        return _SIGNS[table.support.get(name, Support.NEVER)]
    return _SIGNS[table.changes[name]] if name in table.changes else _UNCHANGED


def origin(source: Source, room: int = 19) -> str:
    """Where it was installed from, short: the whole is in ``show`` and ``--json``."""
    path = PurePath(source.location)
    if path.name in ("site-packages", "dist-packages"):
        return path.name
    prefix = "editable " if source.editable else ""
    if len(prefix) + len(source.location) <= room or "://" in source.location:
        return f"{prefix}{source.location}" or "-"
    short = path.name
    for part in reversed(path.parts[1:-1]):
        if len(prefix) + len(".../") + len(part) + 1 + len(short) > room:
            break
        short = f"{part}/{short}"
    return f"{prefix}.../{short}"


# -- for programs


def row_as_json(registry: Registry, row: Row) -> dict[str, Any]:
    """The row with the table in force, as values that ``json`` can write."""
    told = row.as_json()
    declaration = row.declaration
    if isinstance(declaration, Transport | SecurityLayer):
        told["capabilities"] = table_as_json(registry.capabilities(declaration))
    return told


def table_as_json(table: Capabilities | LayerCapabilities) -> dict[str, Any]:
    """A capability table as values that ``json`` can write."""
    protection = table.protection
    told: dict[str, Any] = {
        "effects": {name: support.value for name, support in table.effects.items()},
        "notes": dict(table.notes),
        "early_data": table.early_data,
        "protection": None
        if protection is None
        else {
            "protocols": list(protection.protocols),
            "authenticates": protection.authenticates,
        },
    }
    if isinstance(table, Capabilities):
        return {
            "data_unit": table.data_unit.value,
            "support": {name: support.value for name, support in table.support.items()},
            "connected": table.connected,
            "may_duplicate": table.may_duplicate,
            "half_close": table.half_close,
            **told,
        }
    return {
        "over": sorted(unit.value for unit in table.over),
        "needs": sorted(table.needs),
        "data_unit": None if table.data_unit is None else table.data_unit.value,
        "changes": {name: support.value for name, support in table.changes.items()},
        # None: as below.
        "connected": table.connected,
        "may_duplicate": table.may_duplicate,
        "half_close": table.half_close,
        **told,
    }
