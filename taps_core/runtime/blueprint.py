"""What a Connection or Listener is made from: a frozen copy of a Preconnection.

Editing the Preconnection afterwards reaches nothing that was made before
(RFC 9622, sections 7.1 to 7.3).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from taps_core.model.properties import EXTENSIONS, PROPERTIES, Direction, Kind
from taps_core.model.security import SecurityMode

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.layers import FramerDefinition
    from taps_core.model.properties import Property, Role, TransportProperties
    from taps_core.model.security import SecurityParameters
    from taps_core.planning.candidates import Leaf
    from taps_core.runtime.system import LoopRuntime

__all__ = ["Blueprint", "WorkedOut", "with_protocols"]

#: ``effective`` and ``group_properties`` of a Blueprint.
WorkedOut: TypeAlias = "tuple[Mapping[str, Any], Mapping[str, Any]]"

_GENERIC: Final = {**PROPERTIES, **EXTENSIONS}

#: How many of these a System remembers; what comes again and again is what it is for.
_REMEMBERED: Final = 256


class Blueprint:
    """Copies of all that a Preconnection says, for one role on one loop.

    Attributes:
        effective: Every property by canonical name, defaults of the role
            resolved. Never changed in place.
        group_properties: Connection Properties that a new group begins with,
            ``tcp.…`` included once they are known. Never changed in place.
        only: The one candidate that gathering found last, with what it depends on; kept by
            :mod:`taps_core.runtime.gathering`.
        receives_only, sends_only: Whether ``direction`` says so.
        learned: Whether the plugins' own properties (``tcp.…``) are known.
        message_defaults: Message Properties that the application set.
        offered_security: ``security``, where ``alpn`` was left alone with the application
            protocols of the framers.
        unlimited: Whether ``group_properties`` limit no rate.
    """

    __slots__ = (
        "close_timeout",
        "effective",
        "event_log",
        "framers",
        "group_properties",
        "learned",
        "local",
        "message_defaults",
        "offered_security",
        "only",
        "properties",
        "receives_only",
        "remote",
        "role",
        "runtime",
        "security",
        "sends_only",
        "unlimited",
    )

    def __init__(
        self,
        runtime: LoopRuntime,
        *,
        role: Role,
        local: tuple[LocalEndpoint, ...],
        remote: tuple[RemoteEndpoint, ...],
        properties: TransportProperties,
        security: SecurityParameters,
        framers: tuple[FramerDefinition, ...],
    ) -> None:
        self.runtime = runtime
        self.close_timeout = runtime.system.close_timeout
        self.event_log = runtime.system.event_log
        self.role = role
        self.local = local
        self.remote = remote
        self.properties = properties
        self.security = security
        self.offered_security = with_protocols(security, framers)
        self.framers = framers
        self.learned = False
        self.only: tuple[object, Leaf] | None = None
        self.effective: Mapping[str, Any] = {}
        self.group_properties: Mapping[str, Any] = {}
        # Connections made alike share them.
        registry = runtime.system.registry
        if registry.loaded:
            self.learn(registry.properties.values())
        else:
            self.effective, self.group_properties = self._work_out((), own=False)
            self._note()
        self.message_defaults: dict[str, Any] = {
            name: value
            for name, value in properties.explicit.items()
            if name in PROPERTIES and PROPERTIES[name].kind is Kind.MESSAGE
        }

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it is for. Not kept: whoever keeps this must not keep that."""
        return self.runtime.loop

    def is_of(
        self,
        runtime: LoopRuntime,
        *,
        role: Role,
        local: tuple[LocalEndpoint, ...],
        remote: tuple[RemoteEndpoint, ...],
        properties: TransportProperties,
        security: SecurityParameters,
        framers: tuple[FramerDefinition, ...],
    ) -> bool:
        """Whether one made of these would be just the same."""
        return (
            # Before, nobody knows yet what is wrong with what was said.
            self.learned
            and self.runtime is runtime
            and self.role == role
            and self.local == local
            and self.remote == remote
            and self.framers == framers
            and self.properties == properties
            and self.security == security
            and self.close_timeout == runtime.system.close_timeout
            and self.event_log == runtime.system.event_log
        )

    def learn(self, definitions: Iterable[Property]) -> None:
        """Add the protocol-specific properties of the plugins there are.

        Raises:
            PropertyError: The application set one to a value that it cannot have.
        """
        if self.learned:
            return
        known = self.runtime.system.worked_out
        key: Any = (self.role, self.properties.key)
        try:
            found = known.get(key)
        except TypeError:  # the value of a namespaced property cannot be hashed
            key = found = None
        if found is None:
            found = self._work_out(definitions, own=True)
            if key is not None:
                if len(known) >= _REMEMBERED:
                    known.clear()
                known[key] = found
        self.effective, self.group_properties = found
        self.learned = True
        self._note()

    def _note(self) -> None:
        """What is asked for again and again."""
        direction = self.effective["direction"]
        self.sends_only = direction is Direction.UNIDIRECTIONAL_SEND
        self.receives_only = direction is Direction.UNIDIRECTIONAL_RECEIVE
        rates = map(self.group_properties.get, ("maxSendRate", "_taps.groupMaxSendRate"))
        self.unlimited = all(rate in (None, math.inf) for rate in rates)

    def _work_out(self, definitions: Iterable[Property], *, own: bool) -> WorkedOut:
        """All properties, and those of Connections; ``own``: of plugins, too."""
        effective = self.properties.effective(self.role, definitions)
        return effective, {
            name: value
            for name, value in effective.items()
            if (_GENERIC[name].kind is Kind.CONNECTION if name in _GENERIC else own)
        }

    def but(self, **changes: Any) -> Blueprint:
        """A copy with attributes changed, for a clone."""
        copy = Blueprint.__new__(Blueprint)
        for name in self.__slots__:
            setattr(copy, name, changes.get(name, getattr(self, name)))
        copy.only = None
        if "framers" in changes:
            copy.offered_security = with_protocols(copy.security, copy.framers)
        return copy


def with_protocols(
    security: SecurityParameters, framers: tuple[FramerDefinition, ...]
) -> SecurityParameters:
    """``alpn`` is automatic unless it is set (RFC 9622, section 6.3.4): what the framers speak."""
    spoken = tuple(dict.fromkeys(name for framer in reversed(framers) for name in framer.alpn))
    if (
        not spoken
        or security.mode is SecurityMode.DISABLED
        # Whoever brings a context of their own has settled it there.
        or not security.explicit.keys().isdisjoint(("alpn", "context"))
    ):
        return security
    return security.copy().set("alpn", spoken)
