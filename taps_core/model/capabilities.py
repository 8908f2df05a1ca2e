"""Capability tables: what a transport can do, what a layer needs and changes.

For a selection property (RFC 9622, section 6.2) a table says whether the
stack has it ALWAYS (inherent: Prohibit removes the stack), OPTIONALly (can be
had or left out) or NEVER (Require removes the stack). For a Connection or
Message Property it says whether setting it has an effect: ALWAYS, OPTIONAL
(depends on negotiation, platform or configuration) or NEVER («no effect»).
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Capabilities", "DataUnit", "LayerCapabilities", "Protection", "Support"]


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
        return cls(data_unit=DataUnit.BYTE_STREAM, support=_column(0, support))

    @classmethod
    def messages(cls, **support: Support) -> Capabilities:
        """Reliable, ordered, congestion-controlled Messages."""
        return cls(data_unit=DataUnit.MESSAGE, support=_column(1, support))

    @classmethod
    def datagrams(cls, **support: Support) -> Capabilities:
        """Datagrams that may be lost, reordered or duplicated."""
        return cls(
            data_unit=DataUnit.DATAGRAM,
            support=_column(2, support),
            connected=False,
            may_duplicate=True,
            half_close=False,
            early_data=False,
        )

    def but(self, **changes: object) -> Capabilities:
        """A copy with fields changed; ``support`` and ``effects`` are merged in."""
        for field in ("support", "effects"):
            if field in changes:
                merged = {**getattr(self, field), **changes[field]}  # type: ignore[dict-item]  # mappings, as the fields are
                changes[field] = MappingProxyType(merged)
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]  # checked by the dataclass


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
    protection: Protection
    early_data: bool = False
    may_duplicate: bool | None = None
    """``None``: as below. False for a layer that drops what it has seen."""
    half_close: bool | None = None
    """``None``: as below."""


def _column(index: int, overrides: Mapping[str, Support]) -> Mapping[str, Support]:
    unknown = overrides.keys() - _STARTING_POINTS.keys()
    if unknown:
        raise TypeError(f"no selection property: {', '.join(sorted(unknown))}")
    table = {name: row[index] for name, row in _STARTING_POINTS.items()}
    return MappingProxyType({**table, **overrides})
