"""Whose a name is: two plugins with one name, or with one property, are a named conflict.

So are two resolvers, of which one has to go before the other, and a property in the namespace
of a protocol that its plugin is not.
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from taps_core.model.layers import SecurityLayer, Transport
from taps_core.model.namespaces import is_foreign
from taps_core.model.properties import Property
from taps_core.runtime.discovery import BLOCK_VARIABLE, normalised
from taps_core.runtime.loading import PluginKind, Row, Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taps_core.runtime.loading import Declaration

__all__ = ["KNOWN", "distribution_of", "properties_of", "settled"]

#: Names that are taken, and the distribution that they belong to: for «install
#: taps-quic», and for who wins where two plugins declare one name.
KNOWN: Final[Mapping[PluginKind, Mapping[str, str]]] = MappingProxyType(
    {
        PluginKind.TRANSPORT: {
            "tcp": "taps-tcp",
            "udp": "taps-udp",
            "udp-lite": "taps-udp",
            "sctp": "taps-sctp",
            "sctp-udp": "taps-sctp",
            "quic": "taps-quic",
        },
        PluginKind.SECURITY: {"tls": "taps-tls", "dtls": "taps-tls"},
        PluginKind.FRAMER: {
            "length-prefix": "taps-framers",
            "line": "taps-framers",
            "tlv": "taps-framers",
            "netstring": "taps-framers",
            "varint": "taps-framers",
            "json-lines": "taps-framers",
        },
        PluginKind.POLICY: {},
        PluginKind.RESOLVER: {},
    }
)


def distribution_of(name: str, kind: PluginKind | None = None) -> str | None:
    """The distribution that a well-known name belongs to: ``"tls"`` → ``"taps-tls"``."""
    kinds = KNOWN if kind is None else [kind]
    return next((KNOWN[each][name] for each in kinds if name in KNOWN[each]), None)


def settled(rows: list[Row]) -> list[Row]:
    """Where two plugins have one name or one property, or both resolve names, one keeps it.

    Args:
        rows: In the fixed order of sources; changed in place, and returned.
    """
    names: dict[tuple[PluginKind, str], list[int]] = {}
    for index, row in enumerate(rows):
        if row.declaration is not None:
            names.setdefault((row.kind, row.name), []).append(index)
    for (kind, name), rivals in names.items():
        if len(rivals) > 1:
            owner = distribution_of(name, kind) or f"taps-{name}"
            winner = _first_of(rows, rivals, owner)
            _keep(rows, winner, [i for i in rivals if i != winner], f'the name "{name}"')
    properties = {
        definition.folded: definition.name
        for row in rows
        for definition in properties_of(row.declaration)
    }
    for folded, name in properties.items():
        rivals = [i for i, row in enumerate(rows) if _definition(row, folded) is not None]
        if len(rivals) > 1:
            namespace = name.partition(".")[0]
            owner = distribution_of(namespace) or f"taps-{namespace}"
            winner = _first_of(rows, rivals, owner)
            kept = _definition(rows[winner], folded)
            # The transports and layers of one plugin may share a property.
            losers = [i for i in rivals if not _same(_definition(rows[i], folded), kept)]
            _keep(rows, winner, losers, f"the property {name}")
    resolvers = [
        index
        for index, row in enumerate(rows)
        if row.declaration is not None and row.kind is PluginKind.RESOLVER
    ]
    if len(resolvers) > 1:
        _keep(rows, resolvers[0], resolvers[1:], "a resolver")
    _keep_to_own_namespaces(rows)
    return rows


def _keep_to_own_namespaces(rows: list[Row]) -> None:
    """A protocol's properties are declared by itself; what runs over it may share them."""
    own = {
        definition.folded
        for row in rows
        for definition in properties_of(row.declaration)
        if not is_foreign(definition.name, row.name)
    }
    for index, row in enumerate(rows):
        for definition in properties_of(row.declaration):
            if definition.folded in own:
                continue
            namespace, _, rest = definition.name.partition(".")
            rows[index] = dataclasses.replace(
                row,
                declaration=None,
                status=Status.FAILED,
                reason=f"wrong declaration: the namespace of {definition.name} is for properties "
                f"of the protocol {namespace}, which {row.name} is not (RFC 9622, section 4.1)",
                remedy=f"let its authors call it _VENDOR.{rest}, after who adds it",
            )
            break


def _first_of(rows: list[Row], rivals: list[int], owner: str) -> int:
    # min is stable: where none is the owner, the first in the fixed order keeps it.
    return min(rivals, key=lambda i: normalised(rows[i].source.distribution) != owner)


def _keep(rows: list[Row], winner: int, losers: list[int], what: str) -> None:
    """Take the declaration from the losers; say so in the rows of all."""
    kept = rows[winner]
    for index in losers:
        row = rows[index]
        if row.source == kept.source:
            reason = f"{row.source} declares {what} twice; the first is used"
            remedy = f"tell the authors of {row.source}"
        else:
            reason = f"{kept.source} declares {what} too, and is used"
            remedy = "uninstall one of the two"
            if row.source.plugin != kept.source.plugin:
                remedy += f", or hide this one: {BLOCK_VARIABLE}={row.source.plugin}"
        rows[index] = dataclasses.replace(
            row, declaration=None, status=Status.CONFLICT, reason=reason, remedy=remedy
        )
    others = sorted({str(rows[i].source) for i in losers if rows[i].source != kept.source})
    if others:
        verb = "declare" if len(others) > 1 else "declares"
        note = f"{' and '.join(others)} {verb} {what} too, unused"
        rows[winner] = dataclasses.replace(kept, note="; ".join(filter(None, (kept.note, note))))


def properties_of(declaration: Declaration | None) -> Sequence[Property]:
    """The protocol-specific properties that it declares; none if it is no protocol."""
    return declaration.properties if isinstance(declaration, Transport | SecurityLayer) else ()


def _definition(row: Row, folded: str) -> Property | None:
    return next((each for each in properties_of(row.declaration) if each.folded == folded), None)


def _same(one: Property | None, other: Property | None) -> bool:
    return all(
        getattr(one, field, None) == getattr(other, field, None) for field in Property.__slots__
    )
