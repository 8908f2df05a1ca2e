"""Connection Groups (RFC 9622, section 7.4): shared properties, clones, streams of the peer."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from taps_core.model.errors import CloneError, EstablishmentError, PropertyError, Reason, TapsError
from taps_core.model.events import ConnectionReceived
from taps_core.model.properties import ConnectionState, Kind, connection_property, message_property

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from taps_core.model.flow import Flow, Session
    from taps_core.planning.stacks import Stack
    from taps_core.runtime.connection import Connection

__all__ = ["Group"]

#: Streams of the peer that may wait for somebody to take them.
MAX_WAITING = 128


class Group:
    """The Connections that share one session, or at least their properties.

    Attributes:
        properties: Connection Properties by canonical name, one store for all
            members (connPriority apart, which each member has for itself).
        members: Open Connections.
    """

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self.properties = dict(properties)
        self.members: dict[int, Connection[Any]] = {}
        self._session: Session | None = None
        self._taking = False
        self._shaking = 0
        self._incoming: deque[Connection[Any]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()

    # -- members

    def left(self, member: Connection[Any]) -> None:
        """A member reached its end."""
        self.members.pop(id(member), None)
        if not self.members:
            self._wake()

    def close(self) -> None:
        """CloseGroup."""
        for member in list(self.members.values()):
            _ = member.close()

    def abort(self) -> None:
        """AbortGroup."""
        session = self._find_session()
        for member in list(self.members.values()):
            member.abort()
        if session is not None:
            session.abort()

    # -- properties

    def set_property(self, member: Connection[Any], name: str, value: Any) -> None:
        """Set on ``member``; Connection Properties reach every member.

        Raises:
            PropertyError: Nothing was changed.
        """
        if member._state is ConnectionState.CLOSED:
            raise PropertyError("the Connection is closed")
        definition, checked = connection_property(name, value, member._definitions)
        if definition.kind is Kind.MESSAGE:
            member._set_default(*message_property(name, value))
            return
        member._apply(definition.name, checked)
        if definition.name == "connPriority":
            member._priority = checked
            return
        self.properties[definition.name] = checked
        for other in list(self.members.values()):
            if other is not member:
                self._entangle(other, definition.name, checked)

    def _entangle(self, other: Connection[Any], name: str, value: Any) -> None:
        try:
            other._apply(name, value)
        except PropertyError as error:
            # RFC 9622, 7.4: what cannot follow leaves the group and is told so.
            self.members.pop(id(other), None)
            alone = Group({**self.properties})
            alone.members[id(other)] = other
            other._group = alone
            other._notify_error(
                CloneError(f"{name} cannot be {value!r} here: this Connection left its group")
            )
            other._notify_error(error)

    # -- clones

    def clone(
        self,
        parent: Connection[Any],
        framers: Any,
        connection_properties: Mapping[str, Any] | None,
    ) -> Connection[Any]:
        """A further member, establishing."""
        from taps_core.runtime.connection import Connection

        blueprint = parent._blueprint
        changes: dict[str, Any] = {"role": "clone"}
        if framers is not None:
            changes["framers"] = blueprint.runtime.system.framers(framers)
        blueprint = blueprint.but(**changes)
        blueprint.message_defaults = dict(parent._defaults)
        clone: Connection[Any] = Connection(blueprint, self)
        clone._priority = parent._priority
        settings = dict(connection_properties or {})
        task = blueprint.runtime.spawn(self._establish_clone(parent, clone, settings))
        clone._begin(task)
        return clone

    async def _establish_clone(
        self, parent: Connection[Any], clone: Connection[Any], settings: dict[str, Any]
    ) -> None:
        try:
            flow, stack = await self._clone_flow(parent, clone, settings)
        except (TapsError, OSError) as error:
            failure = CloneError(
                f"no clone of {parent!r}: {error}",
                reason=Reason.NOT_CLONEABLE
                if isinstance(error, CloneError)
                else Reason.ESTABLISHMENT_FAILED,
                attempts=getattr(error, "attempts", ()),
            )
            failure.__cause__ = error
            parent._notify_error(failure)
            clone._establishment_failed(failure)
            return
        clone._established(flow, stack)
        for name, value in settings.items():
            self.set_property(clone, name, value)

    async def _clone_flow(
        self, parent: Connection[Any], clone: Connection[Any], settings: dict[str, Any]
    ) -> tuple[Flow, Stack]:
        from taps_core.runtime.establishment import connect_again, frame

        if parent._state is ConnectionState.ESTABLISHING:
            try:
                await parent._wait_established()
            except EstablishmentError as error:
                raise CloneError(f"the Connection it was cloned from failed: {error}") from error
        if parent._state is not ConnectionState.ESTABLISHED:
            raise CloneError(f"the Connection is {parent._state.value.lower()}")
        for name, value in settings.items():
            connection_property(name, value, parent._definitions)
        session = self._find_session()
        if session is not None:
            properties = {**clone._blueprint.effective, **self.properties, **settings}
            stack = parent._stack_for(clone._blueprint.framers)
            return await frame(await session.open_stream(properties), stack), stack
        if parent.accepted:
            raise CloneError(
                f"{parent.stack} has no streams, and a Connection that the peer opened cannot "
                "be opened again from here"
            )
        return await connect_again(parent, clone)

    def _find_session(self) -> Session | None:
        if self._session is None:
            for member in self.members.values():
                if member._flow is not None and member._flow.session is not None:
                    self._session = member._flow.session
                    break
        return self._session

    # -- streams that the peer opens

    def take_streams(self) -> None:
        """Somebody wants the peer's streams."""
        if self._taking:
            return
        session = self._find_session()
        if session is not None:
            self._taking = True
            session.accept_streams(self._stream, self.properties["groupConnLimit"])

    def _stream(self, flow: Flow) -> None:
        member = next(iter(self.members.values()), None)
        if member is None or len(self._incoming) + self._shaking >= MAX_WAITING:
            flow.abort()
            return
        self._shaking += 1
        _ = member._blueprint.runtime.spawn(self._take_stream(flow, member))

    async def _take_stream(self, flow: Flow, member: Connection[Any]) -> None:
        from taps_core.runtime.connection import Connection
        from taps_core.runtime.establishment import frame

        stack = member._stack
        assert stack is not None
        try:
            framed = await frame(flow, stack)
        except (TapsError, OSError):
            # A framer's handshake on this stream failed; the others are not concerned.
            flow.abort()
            return
        except BaseException:
            flow.abort()
            raise
        finally:
            self._shaking -= 1
        connection: Connection[Any] = Connection(member._blueprint, self, accepted=True)
        connection._established(framed, stack)
        told = False
        for each in list(self.members.values()):
            dispatcher = each._dispatcher
            if each is connection or dispatcher is None:
                continue
            if dispatcher.wants(ConnectionReceived):
                dispatcher.emit(ConnectionReceived(connection))
                told = True
        if not told:
            self._incoming.append(connection)
            self._wake()

    async def incoming(self) -> AsyncIterator[Connection[Any]]:
        """Streams of the peer, until the group has no member any more."""
        self.take_streams()
        while True:
            while not self._incoming:
                if not self.members:
                    return
                future = asyncio.get_running_loop().create_future()
                self._waiters.append(future)
                try:
                    await future
                finally:
                    if future in self._waiters:
                        self._waiters.remove(future)
            yield self._incoming.popleft()

    def _wake(self) -> None:
        while self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)
                if self.members:
                    return
