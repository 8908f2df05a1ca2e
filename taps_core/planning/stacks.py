"""Protocol Stacks: each transport with each security layer that fits, under the framers.

A stack's capability table is the fold of its layers' tables from the bottom
up. It keeps two of them: what the application gets, framers included, and
what transport and security are by themselves. Framers count for the
application, never against it: a framer that finds boundaries helps to satisfy
Require and Prefer ``preserveMsgBoundaries``, while Prohibit and Avoid are
matched without it. (RFC 9622, section 6.2.2, matches the transport only.)
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from taps_core.model.capabilities import (
    Capabilities,
    DataUnit,
    LayerCapabilities,
    Support,
    renoted,
)
from taps_core.model.properties import SECURITY_RESULTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeAlias

    from taps_core.model.layers import (
        Availability,
        Connector,
        FramerDefinition,
        SecurityLayer,
        Transport,
    )
    from taps_core.model.properties import Property

    Layer: TypeAlias = Transport | SecurityLayer | FramerDefinition

__all__ = [
    "EVERYWHERE",
    "OF_PATHS",
    "SHARING",
    "Installed",
    "Plugins",
    "Stack",
    "compose",
    "effect_of",
    "note_of",
]

#: Properties that the Connection or the system see to, whatever the stack, and how.
EVERYWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "interface": "each attempt is bound to an interface (SO_BINDTODEVICE, else to an address "
        "of it); a Listener heeds Require and Prohibit alone",
        "pvd": "each attempt is bound to an interface or address of the domain, and names are "
        "asked of its resolvers; system policy says which domains there are",
        "useTemporaryLocalAddress": "IPV6_ADDR_PREFERENCES (Linux); Require leaves out IPv4, which "
        "has none; not on a Listener, where the peer chooses",
        "isolateSession": "names are asked for anew: no cached answer is used, none is left; what "
        "the system's kernel and resolver remember is shared all the same",
        "connState": "told by the Connection",
        "canSend": "told by the Connection",
        "canReceive": "told by the Connection",
        "final": "no Send is taken after it",
        "msgLifetime": "a Message that still waits when its time is over is Expired, not sent",
        "msgPriority": "Messages that wait leave in this order",
        "maxSendRate": "the Connection holds back what it sends",
        "_taps.racing": "the race's; between classes of security it is Failover anyway",
        "_taps.groupMaxSendRate": "the group holds back what its Connections send",
    }
)
#: Those that divide what the Connections of a group have together: one transport
#: connection, or ``_taps.groupMaxSendRate``.
SHARING: Final = dict.fromkeys(
    ("connPriority", "connScheduler"),
    "its group has nothing in common to divide, until it has a limit, _taps.groupMaxSendRate",
)
#: Those that decide among the system's paths, which only transports over IP take.
OF_PATHS: Final = frozenset({"interface", "pvd", "useTemporaryLocalAddress"})
_OVER_IP: Final = frozenset({"ip", "multicast"})
_NO_PATHS: Final = "it takes none of the system's paths"
_UNSECURED: Final = "None: nothing secures the Connection"


_TWICE: Final = "demanded of every Message: the peer may get it twice"
_EARLY: Final = "what InitiateWithSend was given may go with the handshake"
_ONCE: Final = "the peer gets every Message once"
_REPLAYING: Final = {
    _TWICE: Support.ALWAYS,
    _EARLY: Support.OPTIONAL,
    _ONCE: Support.NEVER,
}


_FRAMED_EFFECTS: Final = dict.fromkeys(("sendMsgMaxLen", "recvMsgMaxLen"), Support.ALWAYS)
_FRAMED_NOTES: Final = {
    "preserveMsgBoundaries": "a framer finds them",
    "sendMsgMaxLen": "the framer's max_length",
    "recvMsgMaxLen": "the framer's max_length",
}


class Plugins(Protocol):
    """What there is to compose from; the plugin registry is one."""

    @property
    def transports(self) -> Mapping[str, Transport]:
        """Name → declaration, available or not."""

    @property
    def security_layers(self) -> Mapping[str, SecurityLayer]:
        """Name → declaration, available or not."""

    def availability(self, declaration: Layer, /) -> Availability:
        """Can this machine run it? Remembered, and never raises."""


class Installed:
    """Plugins given one by one, for explanations and tests."""

    def __init__(
        self, transports: Iterable[Transport] = (), security_layers: Iterable[SecurityLayer] = ()
    ) -> None:
        self.transports = {each.name: each for each in transports}
        self.security_layers = {each.name: each for each in security_layers}
        self._answers: dict[Layer, Availability] = {}

    def availability(self, declaration: Layer) -> Availability:
        """The declaration's own answer, asked once until :meth:`refresh`."""
        answer = self._answers.get(declaration)
        if answer is None:
            answer = self._answers[declaration] = declaration.availability()
        return answer

    def refresh(self) -> None:
        """Ask anew from now on."""
        self._answers.clear()


class Stack:
    """A Protocol Stack: a transport and the layers above it. Do not change it.

    Attributes:
        transport: The transport.
        security: The security layer, if there is one.
        framers: In the order in which they were added; the last is on top.
        layers: Security layer and framers from the bottom up.
        name: Written from the application down, ``"line/TLS/TCP"``.
        capabilities: What the application gets.
        connector: Of all layers, once one was needed; kept by whoever connects.
        bare: The same without the boundaries that framers find: what
            transport and security are by themselves.
        preserves_boundaries: Whether what comes up has Message boundaries.
        takes_objects: Whether the top framer takes and makes objects.
        handshakes: Whether it is established only when the peer has answered. One that
            is not proves nothing about the peer (RFC 9623, section 4.6).
    """

    __slots__ = (
        "_security_table",
        "_table",
        "bare",
        "capabilities",
        "connector",
        "framers",
        "handshakes",
        "layers",
        "name",
        "preserves_boundaries",
        "security",
        "takes_objects",
        "transport",
    )

    def __init__(
        self,
        transport: Transport,
        table: Capabilities,
        security: SecurityLayer | None = None,
        security_table: LayerCapabilities | None = None,
        framers: Sequence[FramerDefinition] = (),
    ) -> None:
        """Stack the layers up.

        Args:
            transport: The transport.
            table: Its effective table.
            security: A security layer that fits (see :func:`fits`).
            security_table: Its effective table.
            framers: In the order in which they were added.
        """
        self.transport = transport
        self.security = security
        self.framers = tuple(framers)
        self._table = table
        self._security_table = security_table
        below, above = _divided(self.framers)
        middle = () if security is None else (security,)
        self.layers: tuple[SecurityLayer | FramerDefinition, ...] = (*below, *middle, *above)
        self.name = "/".join([each.label for each in reversed(self.layers)] + [transport.label])
        self.bare = table if security_table is None else _secured(table, security_table)
        if not below:
            self.capabilities = _framed(self.bare, above)
        elif security_table is None:
            self.capabilities = _framed(table, self.framers)
        else:
            self.capabilities = _framed(_secured(_framed(table, below), security_table), above)
        self.preserves_boundaries = self.capabilities.data_unit is not DataUnit.BYTE_STREAM
        self.takes_objects = bool(framers) and self.framers[-1].objects
        self.handshakes = self.capabilities.connected or any(
            framer.handshakes for framer in self.framers
        )
        self.connector: Connector | None = None

    @property
    def protocols(self) -> tuple[str, ...]:
        """Names of its transport and its security layer: what policy speaks of."""
        if self.security is None:
            return (self.transport.name,)
        return (self.transport.name, self.security.name)

    def support(self, name: str) -> Support:
        """How far the application gets a selection property."""
        return self.capabilities.support.get(name, Support.NEVER)

    def gave(self, name: str) -> str:
        """Label of the layer that has the last word on a selection property."""
        support = self.bare.support.get(name, Support.NEVER)
        if name == "preserveMsgBoundaries" and self.support(name) is not support:
            return next(framer.label for framer in reversed(self.framers) if framer.boundaries)
        table = self._security_table
        if self.security is not None and table is not None and name in table.changes:
            return self.security.label
        return self.transport.label

    def effect(self, name: str) -> Support:
        """How far setting (or reading, if that is all) a property does something here.

        Args:
            name: Canonical name of a Connection or Message Property, or one of OF_PATHS.
        """
        if name in OF_PATHS and not self.takes_paths:
            return Support.NEVER
        return effect_of(self.capabilities, name, self.definitions)

    def has_effect(self, name: str) -> bool:
        """Whether setting a Connection or Message Property does something here.

        Those in :data:`SHARING`: even if nothing else limits the group.

        Args:
            name: Canonical name.
        """
        return self.effect(name) is not Support.NEVER

    def explain(self, name: str) -> str:
        """How the stack has a property, or why not: part of a sentence, perhaps empty.

        Args:
            name: Canonical name of a property of any kind.
        """
        if name in OF_PATHS and not self.takes_paths:
            return _NO_PATHS
        return note_of(self.capabilities, name)

    def no_effect(self, name: str) -> str | None:
        """«no effect on UDP: why», or ``None`` if the property has effect.

        Args:
            name: Canonical name of a Connection or Message Property.
        """
        if self.has_effect(name):
            return None
        why = self.explain(name)
        return f"no effect on {self}: {why}" if why else f"no effect on {self}"

    @property
    def takes_paths(self) -> bool:
        """Whether interfaces and addresses of this machine mean anything to it."""
        return not self.transport.serves.isdisjoint(_OVER_IP)

    @property
    def definitions(self) -> tuple[Property, ...]:
        """The protocol-specific properties that its layers understand."""
        own = tuple(self.transport.properties)
        return own if self.security is None else (*own, *self.security.properties)

    @property
    def reaches(self) -> frozenset[str]:
        """Kinds of endpoint: those of the transport, but security is between two ends."""
        served = self.transport.serves
        return served if self.security is None else served - {"multicast"}

    def serves(self, kinds: frozenset[str], protocol: str | None = None) -> bool:
        """Whether it reaches an endpoint with these ``kinds`` and ``protocol``.

        An endpoint that says nothing but an interface is reached by all.
        """
        return (not kinds or not kinds.isdisjoint(self.reaches)) and (
            protocol is None or protocol == self.transport.name
        )

    def with_framers(self, framers: Sequence[FramerDefinition]) -> Stack:
        """The same transport and security under other framers, for a clone."""
        return Stack(self.transport, self._table, self.security, self._security_table, framers)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Stack {self.name}>"


def effect_of(table: Capabilities, name: str, own: Iterable[Property] = ()) -> Support:
    """How far setting (or reading, if that is all) a property does something.

    Args:
        table: Of a transport or of a whole stack.
        name: Canonical name of a Connection or Message Property.
        own: Protocol-specific properties that are known there.
    """
    if name in EVERYWHERE:
        return Support.ALWAYS
    if name == "safelyReplayable":
        return _REPLAYING[_replaying(table)]
    if name in SHARING:
        streams = table.support.get("multistreaming", Support.NEVER)
        return Support.NEVER if streams is Support.NEVER else Support.ALWAYS
    support = table.effects.get(name)
    if support is None:
        folded = name.lower()
        known = any(each.name.lower() == folded for each in own)
        return Support.ALWAYS if known else Support.NEVER
    return support


def note_of(table: Capabilities, name: str) -> str:
    """How a property of any kind is there, or why not: part of a sentence, perhaps empty."""
    if name == "safelyReplayable":
        return _replaying(table)
    if name in SECURITY_RESULTS and table.protection is None:
        return _UNSECURED
    return table.notes.get(name) or EVERYWHERE.get(name, "") or SHARING.get(name, "")


def _replaying(table: Capabilities) -> str:
    if table.may_duplicate:
        return _TWICE
    return _EARLY if table.early_data else _ONCE


def compose(plugins: Plugins, framers: Sequence[FramerDefinition] = ()) -> list[Stack]:
    """All stacks that fit together, available or not; sorted by name.

    A transport with security of its own gets no security layer on top.
    """
    framers = tuple(framers)
    below, _ = _divided(framers)
    stacks: list[Stack] = []
    for transport in plugins.transports.values():
        table = plugins.availability(transport).capabilities
        if not isinstance(table, Capabilities):
            table = transport.capabilities
        stacks.append(Stack(transport, table, framers=framers))
        if table.protection is not None:
            continue
        lower = _framed(table, below)
        for layer in plugins.security_layers.values():
            effective = plugins.availability(layer).capabilities
            changes = effective if isinstance(effective, LayerCapabilities) else layer.capabilities
            if _fits(lower, changes):
                stacks.append(Stack(transport, table, layer, changes, framers))
    stacks.sort(key=_by_name)
    return stacks


def _by_name(stack: Stack) -> str:
    return stack.name


def _divided(
    framers: tuple[FramerDefinition, ...],
) -> tuple[tuple[FramerDefinition, ...], tuple[FramerDefinition, ...]]:
    """Those below security, and those above it."""
    return (
        tuple(framer for framer in framers if framer.below_security),
        tuple(framer for framer in framers if not framer.below_security),
    )


def _fits(lower: Capabilities, layer: LayerCapabilities) -> bool:
    return lower.data_unit in layer.over and all(
        lower.support.get(name, Support.NEVER) is not Support.NEVER for name in layer.needs
    )


def _secured(lower: Capabilities, layer: LayerCapabilities) -> Capabilities:
    return Capabilities(
        data_unit=layer.data_unit or lower.data_unit,
        support={**lower.support, **layer.changes},
        effects={**lower.effects, **layer.effects},
        notes=renoted(lower.notes, layer.changes, layer.effects, layer.notes),
        connected=lower.connected if layer.connected is None else layer.connected,
        may_duplicate=(lower.may_duplicate if layer.may_duplicate is None else layer.may_duplicate),
        half_close=lower.half_close if layer.half_close is None else layer.half_close,
        early_data=layer.early_data,
        protection=layer.protection,
    )


def _framed(lower: Capabilities, framers: Iterable[FramerDefinition]) -> Capabilities:
    """The table above the framers; ``lower`` itself if they change nothing."""
    if lower.data_unit is not DataUnit.BYTE_STREAM:
        return lower
    if not any(framer.boundaries for framer in framers):
        return lower
    # Not but(): every candidate stack is made like this.
    return dataclasses.replace(
        lower,
        data_unit=DataUnit.MESSAGE,
        support={**lower.support, "preserveMsgBoundaries": Support.ALWAYS},
        effects={**lower.effects, **_FRAMED_EFFECTS},
        notes={**lower.notes, **_FRAMED_NOTES},
    )
