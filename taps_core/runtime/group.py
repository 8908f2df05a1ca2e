"""Connection Groups (RFC 9622, section 7.4): shared properties, clones, streams of the peer."""

from __future__ import annotations

import asyncio
import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import CloneError, EstablishmentError, PropertyError, Reason, TapsError
from taps_core.model.events import ConnectionReceived
from taps_core.model.properties import ConnectionState, Kind, Preference, connection_property
from taps_core.runtime.arrivals import Arrivals
from taps_core.runtime.race import is_transient

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taps_core.model.flow import Flow, Session
    from taps_core.model.properties import Property
    from taps_core.planning.stacks import Stack
    from taps_core.runtime.arbiter import Arbiter
    from taps_core.runtime.blueprint import Blueprint
    from taps_core.runtime.connection import Connection
    from taps_core.runtime.establishment import Won

__all__ = ["Group", "IncomingStreams"]

logger = logging.getLogger("taps_core")

#: Streams of the peer that may wait for somebody to take them.
MAX_WAITING: Final = 128
#: Seconds that framers may take to set up a stream that the peer opened.
STREAM_TIMEOUT: Final = 30.0


class Group:
    """The Connections that share one session, or at least their properties.

    Args:
        properties: What the group begins with. Never changed in place: all
            Connections of one Listener begin with the same mapping.

    Attributes:
        properties: Connection Properties by canonical name, one store for all
            members; what each member has for itself (connPriority, settings of
            its stream) is with the member.
        arbiter: Decides who sends, while that has to be decided.
    """

    __slots__ = (
        "_arrivals",
        "_closing",
        "_first",
        "_iterators",
        "_others",
        "_session",
        "_shaking",
        "_taken",
        "arbiter",
        "properties",
    )

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self.properties = properties
        self.arbiter: Arbiter | None = None
        #: Open Connections; most groups have one, and a dict for it takes more than all
        #: the rest of a group.
        self._first: Connection[Any] | None = None
        self._others: dict[int, Connection[Any]] | None = None
        self._session: Session | None = None
        self._closing = False
        #: Streams of the peer for ``incoming()``, once somebody wants streams.
        self._arrivals: Arrivals | None = None
        #: Whose streams are taken. More than one where a clone wanted an association of its own.
        self._taken: tuple[Session, ...] = ()
        self._shaking = 0
        self._iterators = 0

    # -- members

    @property
    def members(self) -> tuple[Connection[Any], ...]:
        """Open Connections, the oldest first."""
        if self._first is None:
            return ()
        return (self._first, *(self._others or {}).values())

    def join(self, member: Connection[Any]) -> None:
        """A further member."""
        if self._first is None:
            self._first = member
            return
        if self._others is None:
            self._others = {}
        self._others[id(member)] = member

    def _remove(self, member: Connection[Any]) -> None:
        others = self._others
        if member is not self._first:
            if others:
                others.pop(id(member), None)
        elif others:
            self._first = others.pop(next(iter(others)))
        else:
            self._first = None

    def established(self, member: Connection[Any]) -> None:
        """``member`` is Ready: there may be a session now."""
        if self._arrivals is not None:
            self._take_streams(member)
        blueprint = member._blueprint
        plain = self.properties is blueprint.group_properties and blueprint.unlimited
        if not plain or self.arbiter is not None:
            self._keep_rates(member)

    def left(self, member: Connection[Any]) -> None:
        """A member reached its end."""
        self._remove(member)
        if self.arbiter is not None:
            self.arbiter.left(member)
        arrivals = self._arrivals
        if arrivals is not None:
            arrivals.ended(member)
            if not self._iterators and all(each in arrivals for each in self.members):
                # Nobody can know of these any more.
                arrivals.drop_untold()
        if self._first is None:
            self._end()

    def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None and self._closing:
            session.close()
        if self._arrivals is not None:
            self._arrivals.end()
        if self.arbiter is not None:
            self._dismiss(self.arbiter)

    def close(self) -> None:
        """CloseGroup."""
        self._find_session()
        self._closing = True
        for member in self.members:
            _ = member.close()

    def abort(self) -> None:
        """AbortGroup."""
        session = self._find_session()
        for member in self.members:
            member.abort()
        if session is not None:
            session.abort()

    # -- properties

    def learn(self, blueprint: Blueprint) -> None:
        """Take in the properties of plugins that were not known before."""
        self.properties = {**blueprint.group_properties, **self.properties}

    def requested(self, member: Connection[Any]) -> Mapping[str, Any]:
        """Every property as ``member`` wants it now: what a stack is asked for with.

        One and the same object as long as nothing is set that differs from the Preconnection.
        """
        blueprint = member._blueprint
        effective = blueprint.effective
        if (
            self.properties is blueprint.group_properties
            and member._settings is None
            and member._defaults is blueprint.message_defaults
            and member._priority == effective["connPriority"]
        ):
            return effective
        return {
            **effective,
            **self.properties,
            "connPriority": member._priority,
            **(member._settings or {}),
            **member._defaults,
        }

    def catch_up(self, member: Connection[Any], asked: Mapping[str, Any]) -> None:
        """Let what was set while ``member`` was establishing take effect.

        Args:
            member: It is Ready.
            asked: What its stack was asked for with.
        """
        wanted = self.requested(member)
        if wanted is asked or wanted == asked or member._state is ConnectionState.CLOSED:
            return
        for name, value in wanted.items():
            if asked.get(name) == value or name in member._defaults:
                continue
            try:
                member._apply(name, value)
            except PropertyError as error:
                member._group._fall_back(member, name, asked.get(name), error)
        member._group._keep_rates(member)

    def _fall_back(
        self, member: Connection[Any], name: str, value: Any, error: PropertyError
    ) -> None:
        """What was set while ``member`` was establishing stays ``value`` there."""
        own = name == "connPriority" or name in (member._settings or ())
        if not own and len(self.members) > 1:
            # The others have what was set: this one cannot follow.
            self._let_go(member, name, self.properties.get(name), value, error)
            return
        # Too late to say no: reading it back tells, as the log does.
        logger.warning("%r: %s stays %r: %s", member, name, value, error)
        if name == "connPriority":
            member._priority = value
        elif own:
            member._settings = {**(member._settings or {}), name: value}
        else:
            self.properties = {**self.properties, name: value}

    def set_property(self, member: Connection[Any], name: str, value: Any) -> None:
        """Set on ``member``; what the group shares reaches every member.

        Raises:
            PropertyError: Nothing was changed.
        """
        if member._state is ConnectionState.CLOSED:
            raise PropertyError("the Connection is closed")
        self._set(member, *connection_property(name, value, member._definitions))

    def _set(self, member: Connection[Any], definition: Property, value: Any) -> None:
        name = definition.name
        if definition.kind is Kind.MESSAGE:
            member._set_default(name, value)
            return
        if not definition.group_shared:
            member._apply(name, value)
            if name != "connPriority":
                member._settings = {**(member._settings or {}), name: value}
                return
            member._priority = value
            if self.arbiter is not None:
                self.arbiter.set_priority(member, value)
            return
        session = self._find_session()
        by_session = session is not None and session.apply(name, value)
        if not by_session:
            member._apply(name, value)
        before = self.properties.get(name)
        self.properties = {**self.properties, name: value}
        if name == "groupConnLimit":
            for taken in self._taken:
                taken.accept_streams(self._stream, value)
        if not by_session:
            for other in self.members:
                if other is not member:
                    self._entangle(other, name, value, before)
        if name in ("maxSendRate", "_taps.groupMaxSendRate"):
            self._keep_rates(*self.members)
        elif name == "connScheduler" and self.arbiter is not None:
            self.arbiter.set_scheduler(value)

    def _entangle(self, other: Connection[Any], name: str, value: Any, before: Any) -> None:
        try:
            other._apply(name, value)
        except PropertyError as error:
            self._let_go(other, name, value, before, error)

    def _let_go(
        self, other: Connection[Any], name: str, value: Any, before: Any, error: PropertyError
    ) -> None:
        """RFC 9622, 7.4: what cannot follow leaves the group and is told so."""
        self._remove(other)
        if self.arbiter is not None:
            self.arbiter.left(other)
        alone = Group({**self.properties, name: before})
        alone.join(other)
        other._group = alone
        alone._keep_rates(other)
        other._resume()
        left = CloneError(
            f"{name} cannot be {value!r} here, so this Connection left its group: {error}",
            reason=error.reason,
            detail="left-group",
        )
        left.__cause__ = error
        other._notify_error(left)

    # -- who sends when

    def wait_turn(self, member: Connection[Any]) -> None:
        """Something of ``member`` waits, for its turn or for room in the stack."""
        if self.arbiter is None:
            flow = member._flow
            if not self._others or flow is None or flow.session is None:
                return
            self.arbiter = self._new_arbiter(member)
        self.arbiter.waits(member)

    def _keep_rates(self, *members: Connection[Any]) -> None:
        """Limit what the stacks of ``members`` do not limit themselves."""
        together = self.properties.get("_taps.groupMaxSendRate", math.inf)
        each = self.properties["maxSendRate"]
        arbiter = self.arbiter
        if arbiter is None or not arbiter.limited:
            if together == each == math.inf:
                return
            members = self.members
        own = {
            member: math.inf if each == math.inf or _limited(member._flow) else each
            for member in members
            if member._flow is not None
        }
        if arbiter is None:
            if not own or (together == math.inf and min(own.values()) == math.inf):
                return
            arbiter = self.arbiter = self._new_arbiter(next(iter(own)))
        for member, rate in own.items():
            arbiter.take_in(member, rate)
        # Also where nothing is limited any more: then it lets everything go.
        arbiter.limit(together)

    def _new_arbiter(self, member: Connection[Any]) -> Arbiter:
        from taps_core.runtime.arbiter import Arbiter  # few groups ever need one

        return Arbiter(member._loop, self.properties["connScheduler"], self._dismiss)

    def _dismiss(self, arbiter: Arbiter) -> None:
        if arbiter is self.arbiter:
            self.arbiter = None
            arbiter.end()

    # -- clones

    def clone(
        self,
        parent: Connection[Any],
        framers: Any,
        connection_properties: Mapping[str, Any] | None,
    ) -> Connection[Any]:
        """A further member, establishing.

        Raises:
            PropertyError: A setting that cannot be.
            PluginError, TypeError: A framer that cannot be.
        """
        from taps_core.runtime.connection import Connection

        settings = dict(connection_properties or {})
        for name, value in settings.items():
            if parent._stack is not None or "." not in name:
                connection_property(name, value, parent._definitions)
        blueprint = parent._blueprint
        changes: dict[str, Any] = {"role": "clone", "message_defaults": parent._defaults}
        if framers is not None:
            changes["framers"] = blueprint.runtime.system.framers(framers)
        blueprint = blueprint.but(**changes)
        clone: Connection[Any] = Connection(blueprint, self)
        clone._priority = parent._priority
        clone._begin(partial(self._establish_clone, parent, clone, settings))
        return clone

    async def _establish_clone(
        self, parent: Connection[Any], clone: Connection[Any], settings: Mapping[str, Any]
    ) -> None:
        from taps_core.runtime.establishment import over

        try:
            won = await self._connect_clone(parent, clone, settings)
        except Exception as error:  # noqa: BLE001  # a plugin's bug must reach whoever waits
            failure = _as_clone_error(parent, error)
            over(clone.report, failure, clone._loop.time())
            told = parent._dispatcher is not None and parent._dispatcher.wants(CloneError)
            parent._notify_error(failure)
            clone._establishment_failed(failure)
            if told:
                clone._error_is_known()  # to the handler
        except BaseException:
            failure = CloneError("cancelled", reason=Reason.LOCAL_ABORT)
            over(clone.report, failure, clone._loop.time())
            clone._establishment_failed(failure)
            raise
        else:
            clone.report.over("ready", clone._loop.time())
            won.establish(clone)

    async def _connect_clone(
        self, parent: Connection[Any], clone: Connection[Any], settings: Mapping[str, Any]
    ) -> Won:
        from taps_core.runtime.establishment import connect_again, open_stream

        if parent._state is ConnectionState.ESTABLISHING:
            try:
                await parent._settled()
            except EstablishmentError as error:
                failure = CloneError(
                    f"the Connection it was cloned from failed: {error}",
                    reason=error.reason,
                    detail="parent-failed",
                    attempts=error.attempts,
                    transient=error.transient,
                )
                raise failure from error
        if parent._state is not ConnectionState.ESTABLISHED:
            raise CloneError(
                f"the Connection is {parent._state.value.lower()}", detail="parent-closed"
            )
        stack = _stack_of(parent, clone)
        session = None if parent._flow is None else parent._flow.session
        if session is None and parent.accepted:
            raise CloneError(
                f"{parent.stack} has no streams, and a Connection that the peer opened cannot "
                "be opened again from here",
                detail="accepted",
            )
        for name, value in settings.items():
            definition, checked = connection_property(name, value, parent._definitions)
            # What the group shares is set on an open Connection, which can refuse it.
            self._set(parent if definition.group_shared else clone, definition, checked)
        if session is not None and (parent.accepted or not _reads_first(clone)):
            return await open_stream(session, clone, stack)
        return await connect_again(parent, clone, stack)

    def _find_session(self) -> Session | None:
        if self._session is None:
            for member in self.members:
                if member._flow is not None and member._flow.session is not None:
                    self._session = member._flow.session
                    break
        return self._session

    # -- streams that the peer opens

    def take_streams(self) -> Arrivals:
        """Somebody wants the peer's streams, now and from now on."""
        if self._arrivals is None:
            self._arrivals = Arrivals()
            for member in self.members:
                self._take_streams(member)
        return self._arrivals

    def _take_streams(self, member: Connection[Any]) -> None:
        session = None if member._flow is None else member._flow.session
        if session is not None and session not in self._taken:
            self._taken += (session,)
            session.accept_streams(self._stream, self.properties["groupConnLimit"])

    def _stream(self, flow: Flow) -> None:
        member = self._first
        full = self.take_streams().untold + self._shaking >= MAX_WAITING
        if member is None or self._closing or full:
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
            async with asyncio.timeout(STREAM_TIMEOUT):
                framed = await frame(flow, stack)
        except (TapsError, OSError) as error:
            # A framer's set-up failed on this stream; the others are not concerned.
            logger.info("a stream of %r could not be taken: %s", member, error)
            flow.abort()
            return
        except BaseException:
            flow.abort()
            raise
        finally:
            self._shaking -= 1
        if self._first is None or self._closing:
            framed.abort()
            return
        connection: Connection[Any] = Connection(member._blueprint, self, accepted=True)
        connection._established(framed, stack)
        self._announce(connection)

    def _announce(self, connection: Connection[Any]) -> None:
        event = ConnectionReceived(connection)
        told = claimed = False
        for member in self.members:
            dispatcher = member._dispatcher
            if member is not connection and dispatcher is not None:
                told = told or dispatcher.wants(ConnectionReceived)
                claimed = claimed or dispatcher.handles(ConnectionReceived)
                dispatcher.emit(event)
        if not claimed:
            self.take_streams().put(connection, told=told)

    def incoming(self) -> IncomingStreams:
        """Streams of the peer, until the group has no member any more."""
        return IncomingStreams(self, self.take_streams())


class IncomingStreams:
    """``async for stream in connection.incoming()``; each stream goes to one taker.

    Cancelling a wait loses none. While there is one of these, streams that
    wait for it outlive the other Connections of the group.
    """

    def __init__(self, group: Group, arrivals: Arrivals) -> None:
        self._group: Group | None = group
        self._arrivals = arrivals
        group._iterators += 1

    def __aiter__(self) -> IncomingStreams:
        return self

    async def __anext__(self) -> Connection[Any]:
        stream = None if self._group is None else await self._arrivals.take()
        if stream is None:
            raise StopAsyncIteration
        return stream

    async def aclose(self) -> None:
        """Take no more. Dropping it does the same."""
        self._release()

    def _release(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group._iterators -= 1

    def __del__(self) -> None:
        self._release()


def _stack_of(parent: Connection[Any], clone: Connection[Any]) -> Stack:
    """What ``clone`` stands on: the parent's stack, under its own framers.

    Raises:
        CloneError: With these framers the stack does not do what was required.
    """
    blueprint = clone._blueprint
    stack = parent._stack_for(blueprint.framers)
    if stack is parent._stack:
        return stack
    selection = blueprint.runtime.system.select(
        blueprint.properties,
        role=parent._blueprint.role,
        security=blueprint.security,
        local=(),
        remote=(),
        framers=blueprint.framers,
    )
    for rejected in selection.rejected:
        if rejected.stack.name == stack.name:
            raise CloneError(
                f"{stack} is not what was asked for: {'; '.join(map(str, rejected.reasons))}",
                reason=Reason.NO_CANDIDATES,
                detail="framers",
            )
    return stack


def _reads_first(clone: Connection[Any]) -> bool:
    """Whether the peer may have to send first: of a new stream it knows only by a Message."""
    wish: Preference = clone._blueprint.effective["activeReadBeforeSend"]
    return wish in (Preference.PREFER, Preference.REQUIRE)


def _limited(flow: Flow) -> bool:
    """Whether the stack itself keeps maxSendRate: then it knows the rate that it keeps."""
    rate = flow.read("maxSendRate")
    return rate is not None and rate != math.inf


def _as_clone_error(parent: Connection[Any], error: Exception) -> CloneError:
    reason = Reason.ESTABLISHMENT_FAILED
    if isinstance(error, TapsError):
        reason = error.reason
    elif isinstance(error, TimeoutError):
        reason = Reason.TIMEOUT
    attempts: Sequence[Any] = getattr(error, "attempts", ())
    sentence = str(error) or type(error).__name__
    failure = CloneError(
        f"no clone of {parent!r}: {sentence}",
        reason=reason,
        detail=getattr(error, "detail", None),
        attempts=attempts,
        transient=is_transient(error),
    )
    if isinstance(error, OSError):
        failure.errno, failure.strerror = error.errno, error.strerror
    failure.__cause__ = error
    return failure
