"""Capability tables: what a transport can do, what a layer needs and changes.

For a selection property (RFC 9622, section 6.2) a table says whether the
stack has it ALWAYS (inherent: Prohibit removes the stack), OPTIONALly (can be
had or left out) or NEVER (Require removes the stack). For a Connection or
Message Property it says whether setting it has an effect: ALWAYS, OPTIONAL
(depends on negotiation, platform or configuration) or NEVER («no effect»).
Beside that stands a note: how, or why not.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Capabilities", "DataUnit", "LayerCapabilities", "Protection", "Support", "renoted"]


class Support(Enum):
    """How far a stack has a property."""

    __hash__ = object.__hash__  # Enum's is a Python function, and these are keys

    ALWAYS = "always"
    OPTIONAL = "optional"
    NEVER = "never"


class DataUnit(Enum):
    """What a stack carries between its ends."""

    BYTE_STREAM = "byte stream"
    MESSAGE = "Message"
    DATAGRAM = "datagram"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Protection:
    """The security that a layer (or a transport by itself) gives."""

    protocols: tuple[str, ...]
    """Protocol versions as ``allowedSecurityProtocols`` names them, best first:
    ``("TLSv1.3", "TLSv1.2")``."""
    authenticates: bool = True
    """Whether the peer's identity is verified (unless opportunistic)."""

    @property
    def racing_class(self) -> tuple[bool, str]:
        """Authentication and version floor: only equals race each other."""
        return (self.authenticates, self.protocols[-1])


A, O, N = Support.ALWAYS, Support.OPTIONAL, Support.NEVER  # noqa: E741  # read as columns

#: Starting points. Every preference-typed or by-protocol selection property of
#: RFC 9622 is a row; path properties (interface, pvd, useTemporaryLocalAddress)
#: are the system's business, not the transport's. Columns: byte stream,
#: Messages, datagrams.
_STARTING_POINTS: Final[Mapping[str, tuple[Support, Support, Support]]] = {
    "reliability": (A, A, N),
    "preserveMsgBoundaries": (N, A, A),
    "perMsgReliability": (N, N, N),
    "preserveOrder": (A, A, N),
    "zeroRttMsg": (N, N, A),
    "multistreaming": (N, N, N),
    "fullChecksumSend": (A, A, O),
    "fullChecksumRecv": (A, A, O),
    "congestionControl": (A, A, N),
    "keepAlive": (N, N, N),
    "multipath": (N, N, N),
    "advertisesAltaddr": (N, N, N),
    "direction": (A, A, A),
    "softErrorNotify": (N, N, N),
    "activeReadBeforeSend": (O, O, N),
}


#: What follows from the data unit alone. Columns as above; one text is for all three.
_NOTES: Final[Mapping[str, str | tuple[str, str, str]]] = {
    "reliability": (
        "bytes are sent again until they are acknowledged, or the Connection ends",
        "Messages are sent again until they are acknowledged, or the Connection ends",
        "a datagram may be lost, and nobody is told",
    ),
    "preserveMsgBoundaries": (
        "the peer sees bytes; a framer can find the boundaries",
        "the protocol marks them",
        "a Message is a datagram",
    ),
    "perMsgReliability": (
        "every byte of a stream is as reliable as the others",
        "every Message is as reliable as the others",
        "no datagram is reliable",
    ),
    "preserveOrder": (
        "bytes arrive in their order",
        "Messages arrive in their order",
        "datagrams arrive as they come",
    ),
    "zeroRttMsg": (
        "the handshake carries no data",
        "the handshake carries no data",
        "there is no handshake to wait for",
    ),
    "multistreaming": "each Connection of a group is a transport connection of its own",
    "fullChecksumSend": (
        "the checksum covers everything",
        "the checksum covers everything",
        "full coverage, unless the checksum is left out or covers a part",
    ),
    "fullChecksumRecv": (
        "the checksum covers everything",
        "the checksum covers everything",
        "full coverage, unless the checksum was left out or covers a part",
    ),
    "congestionControl": (
        "the transport does it",
        "the transport does it",
        "it is the application's business (RFC 8085)",
    ),
    "keepAlive": "the protocol has no keep-alive packets",
    "multipath": "one path, chosen at establishment",
    "advertisesAltaddr": "the protocol tells the peer no further addresses",
    "direction": "data may flow both ways; the Connection refuses the other one",
    "softErrorNotify": "ICMP errors are not heard of",
    "activeReadBeforeSend": (
        "either side may write first",
        "either side may write first",
        "who listens does not know a peer before its first datagram",
    ),
    "recvChecksumLen": "the checksum covers everything that arrives",
    "multipathPolicy": "there is one path",
    "minSendRate": "nobody can promise a rate",
    "minRecvRate": "nobody can promise a rate",
    "maxRecvRate": "the peer is not told a rate",
    "groupConnLimit": "the peer cannot add Connections to a group",
    "singularTransmissionMsgMaxLen": (
        "not applicable: a stream has no packets to fill",
        "not known",
        "not known",
    ),
    "msgOrdered": (
        "the one stream keeps its order, for every Message",
        "all Messages keep their order",
        "no order is kept; a Message that demands it is refused",
    ),
    "msgChecksumLen": "the checksum covers everything that is sent",
    "msgReliable": (
        "True anyway; False is refused, as perMsgReliability is missing",
        "True anyway; False is refused, as perMsgReliability is missing",
        "False anyway; True is refused, as datagrams may be lost",
    ),
    "msgCapacityProfile": "all that a Connection sends is marked alike",
    "noFragmentation": "how packets are cut is up to the system",
    "noSegmentation": "how packets are cut is up to the system",
    "ecn": "the protocol keeps it to itself",
    "earlyData": (
        "the handshake carries no data",
        "the handshake carries no data",
        "there is no handshake",
    ),
    "receivedFinal": "the peer's end is not told",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a transport, or a whole stack, can do."""

    data_unit: DataUnit
    support: Mapping[str, Support]
    """Selection property (canonical name) → how far it is there. A property
    that is missing counts as NEVER."""
    effects: Mapping[str, Support] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    """Connection or Message Property (canonical name) → whether it has effect
    here. What the Connection itself does for every stack (msgLifetime,
    msgPriority, read-only state) need not be listed; what is missing beyond
    that counts as NEVER."""
    notes: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    """Any property (canonical name) → how the stack has it, or why not: part of a
    sentence, such as «TCP_USER_TIMEOUT, in milliseconds»; empty for none."""
    connected: bool = True
    """Whether establishment exchanges packets, so that Ready proves a peer."""
    may_duplicate: bool = False
    """Whether the peer may get a Message twice: safelyReplayable is demanded then."""
    half_close: bool = True
    """Whether Final can be signalled while receiving goes on."""
    early_data: bool = False
    """Whether ``ConnectRequest.early`` may be taken."""
    protection: Protection | None = None
    """Security of its own, or that of the stack's security layer."""

    @classmethod
    def byte_stream(cls, **support: Support) -> Capabilities:
        """Reliable, ordered, congestion-controlled bytes without boundaries."""
        return cls(
            data_unit=DataUnit.BYTE_STREAM,
            support=_column(0, support),
            notes=_notes(0, support),
        )

    @classmethod
    def messages(cls, **support: Support) -> Capabilities:
        """Reliable, ordered, congestion-controlled Messages."""
        return cls(
            data_unit=DataUnit.MESSAGE,
            support=_column(1, support),
            notes=_notes(1, support),
        )

    @classmethod
    def datagrams(cls, **support: Support) -> Capabilities:
        """Datagrams that may be lost, reordered or duplicated."""
        return cls(
            data_unit=DataUnit.DATAGRAM,
            support=_column(2, support),
            notes=_notes(2, support),
            connected=False,
            may_duplicate=True,
            half_close=False,
            early_data=False,
        )

    def but(self, **changes: Any) -> Capabilities:
        """A copy with fields changed; ``support``, ``effects`` and ``notes`` are merged in.

        The note of a property that is changed goes, unless there is a new one.
        """
        changes["notes"] = MappingProxyType(
            renoted(
                self.notes,
                changes.get("support", ()),
                changes.get("effects", ()),
                changes.get("notes"),
            )
        )
        for field in ("support", "effects"):
            if field in changes:
                changes[field] = MappingProxyType({**getattr(self, field), **changes[field]})
        return dataclasses.replace(self, **changes)

    def explained(self, rows: Mapping[str, tuple[Support, str]]) -> Capabilities:
        """A copy with ``rows`` merged in: what is so, and its note, side by side.

        Args:
            rows: Property of any kind (canonical name) → support or effect, and how or
                why not: ``{"connTimeout": (OPTIONAL, "TCP_USER_TIMEOUT"), …}``.
        """
        support = {name: row[0] for name, row in rows.items() if name in _STARTING_POINTS}
        return self.but(
            support=support,
            effects={name: row[0] for name, row in rows.items() if name not in support},
            notes={name: row[1] for name, row in rows.items()},
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LayerCapabilities:
    """What a security layer needs below itself, and how it changes the table."""

    over: frozenset[DataUnit]
    """Data units that it runs over."""
    needs: frozenset[str] = frozenset()
    """Selection properties that the stack below must have ALWAYS or OPTIONALly."""
    data_unit: DataUnit | None = None
    """The unit above it; ``None``: as below."""
    changes: Mapping[str, Support] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    """Selection properties → how they are above it; what is missing stays."""
    effects: Mapping[str, Support] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    """Connection and Message Properties likewise."""
    notes: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    """How the layer changes them, or why: as :attr:`Capabilities.notes`."""
    protection: Protection
    early_data: bool = False
    may_duplicate: bool | None = None
    """``None``: as below. False for a layer that drops what it has seen."""
    half_close: bool | None = None
    """``None``: as below."""
    connected: bool | None = None
    """``None``: as below. True for a layer that shakes hands over what is connectionless."""


def renoted(
    notes: Mapping[str, str],
    support: Iterable[str],
    effects: Iterable[str],
    added: Mapping[str, str] | None,
) -> Mapping[str, str]:
    """``notes`` without those of properties that are changed, and with those that are added."""
    return {**notes, **dict.fromkeys(support, ""), **dict.fromkeys(effects, ""), **(added or {})}


def _notes(index: int, overrides: Mapping[str, Support]) -> Mapping[str, str]:
    every = {name: note if isinstance(note, str) else note[index] for name, note in _NOTES.items()}
    return MappingProxyType(renoted(every, overrides, (), None))


def _column(index: int, overrides: Mapping[str, Support]) -> Mapping[str, Support]:
    unknown = overrides.keys() - _STARTING_POINTS.keys()
    if unknown:
        raise TypeError(f"no selection property: {', '.join(sorted(unknown))}")
    table = {name: row[index] for name, row in _STARTING_POINTS.items()}
    return MappingProxyType({**table, **overrides})
