"""What ``connection.properties`` shows (RFC 9622, section 8: GetProperties)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.capabilities import Support
from taps_core.model.errors import EndOfData, PropertyError
from taps_core.model.properties import (
    EXTENSIONS,
    PROPERTIES,
    ConnectionState,
    Direction,
    Kind,
    Preference,
    Property,
    ValueType,
    find_property,
)
from taps_core.planning.stacks import OF_PATHS, SHARING

if TYPE_CHECKING:
    from taps_core.runtime.connection import Connection

__all__ = ["ConnectionProperties"]


class ConnectionProperties(Mapping[str, Any]):
    """A live, read-only view of all properties of one Connection.

    Preferences read as Booleans once the Connection is established: whether
    the property is provided or used. Values that the system knows better than
    we do (socket options, figures) are asked for when they are read.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection

    def __getitem__(self, name: str) -> Any:
        definition = find_property(name, self._definitions())
        reader = _READERS.get(definition.name)
        if reader is not None:
            return reader(self._connection)
        if definition.kind is Kind.MESSAGE:
            return self._message_default(definition)
        if definition.kind is Kind.SELECTION:
            return self._selection(definition)
        flow = self._connection._flow
        live = None if flow is None else flow.read(definition.name)
        if live is not None or definition.name in _MAY_BE_NONE:
            return live
        if definition.name == "connPriority":
            return self._connection._priority
        own = self._connection._settings
        if own is not None and definition.name in own:
            return own[definition.name]
        return self._connection._group.properties.get(
            definition.name, definition.default_for("initiate")
        )

    def __contains__(self, name: object) -> bool:
        try:
            find_property(name, self._definitions())  # type: ignore[arg-type]  # refuses what is no string
        except PropertyError:
            return False
        return True

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or ``default`` where no such property exists here."""
        try:
            return self[name]
        except PropertyError:
            return default

    def has(self, name: str) -> bool:
        """Whether a Boolean or a Preference reads as true (RFC 9622: Has).

        Raises:
            PropertyError: No such property, or one of another type.
        """
        value = self[name]
        if isinstance(value, Preference):
            return value.wanted
        if not isinstance(value, bool):
            raise PropertyError(f"{name} is {value!r}: has() is for Booleans and Preferences")
        return value

    def effect(self, name: str) -> str | None:
        """A sentence if setting this property has no effect on this stack, else ``None``.

        Before Ready there is no stack yet, and no sentence: ``select()`` tells of all candidates.
        It says why where that is known: «no effect on UDP: the protocol has no keep-alive packets».
        What has effect, and how, is in the reference, and in ``taps-plugins show``.
        What divides capacity among a group (connPriority, connScheduler) has one where it
        has capacity in common: streams of one session, or ``_taps.groupMaxSendRate``.

        Raises:
            PropertyError: No such property.
        """
        definition = find_property(name, self._definitions())
        stack = self._connection._stack
        if stack is None or definition.read_only:
            return None
        if definition.kind is Kind.SELECTION:
            return self._effect_of_paths(definition.name) if definition.name in OF_PATHS else None
        if definition.name in SHARING and self["_taps.groupMaxSendRate"] < math.inf:
            return None
        return stack.no_effect(definition.name)

    def _effect_of_paths(self, name: str) -> str | None:
        stack, local = self._connection._stack, self._connection.local_endpoint
        assert stack is not None
        if name == "useTemporaryLocalAddress" and stack.takes_paths:
            if self._connection.accepted:
                return f"no effect on {stack}: the peer chose the address"
            if local is not None and local.ip_address is not None and ":" not in local.ip_address:
                return f"no effect on {stack}: IPv4 has no temporary addresses"
        return stack.no_effect(name)

    def __iter__(self) -> Iterator[str]:
        yield from PROPERTIES
        yield from EXTENSIONS
        for definition in self._definitions():
            yield definition.name

    def __len__(self) -> int:
        return len(PROPERTIES) + len(EXTENSIONS) + len(self._definitions())

    def _definitions(self) -> tuple[Property, ...]:
        return self._connection._definitions

    def _message_default(self, definition: Property) -> Any:
        connection = self._connection
        if definition.name in connection._defaults:
            return connection._defaults[definition.name]
        if definition.name == "msgOrdered":
            return bool(self.has("preserveOrder"))
        if definition.name == "msgReliable":
            return bool(self.has("reliability"))
        if definition.name == "msgCapacityProfile":
            return self["connCapacityProfile"]
        return definition.default

    def _selection(self, definition: Property) -> Any:
        connection = self._connection
        wanted = connection._blueprint.effective[definition.name]
        stack = connection._stack
        if stack is None or definition.value_type is not ValueType.PREFERENCE:
            return wanted
        support = stack.capabilities.support.get(definition.name, Support.NEVER)
        if support is Support.OPTIONAL:
            return wanted.wanted
        return support is Support.ALWAYS

    def __repr__(self) -> str:
        return f"<properties of {self._connection!r}>"


def _can_send(connection: Connection[Any]) -> bool:
    return (
        connection._state in (ConnectionState.ESTABLISHING, ConnectionState.ESTABLISHED)
        and not connection._final
        and connection._blueprint.effective["direction"] != Direction.UNIDIRECTIONAL_RECEIVE
    )


def _is_temporary(connection: Connection[Any]) -> Any:
    """Whether the address in use is one, as the system says now."""
    if connection._stack is None:
        return connection._blueprint.effective["useTemporaryLocalAddress"]
    local = connection.local_endpoint
    address = None if local is None else local.ip_address
    if address is None or ":" not in address:
        return False
    return connection._blueprint.runtime.system.paths.is_temporary(address)


def _can_receive(connection: Connection[Any]) -> bool:
    inbox = connection._inbox
    ended = inbox.end is not None and (inbox.stopped or not inbox.available)
    return (
        not ended
        and (connection._state is not ConnectionState.CLOSED or bool(inbox.available))
        and connection._blueprint.effective["direction"] != Direction.UNIDIRECTIONAL_SEND
    )


def _maximum(connection: Connection[Any], name: str, possible: bool) -> Any:
    if not possible:
        return 0
    flow = connection._flow
    return None if flow is None else flow.read(name)


_READERS: Final[Mapping[str, Callable[[Connection[Any]], Any]]] = {
    "connState": lambda connection: connection._state,
    "canSend": _can_send,
    "canReceive": _can_receive,
    "useTemporaryLocalAddress": _is_temporary,
    "sendMsgMaxLen": lambda c: _maximum(c, "sendMsgMaxLen", _can_send(c)),
    "recvMsgMaxLen": lambda c: _maximum(c, "recvMsgMaxLen", _can_receive(c)),
    "receivedFinal": lambda connection: isinstance(connection._inbox.end, EndOfData),
}
_MAY_BE_NONE = frozenset({"singularTransmissionMsgMaxLen"})
