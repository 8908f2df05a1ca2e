"""Preconnection: what is wanted, before anything is done (RFC 9622, section 6)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from taps_core.model.arguments import check_seconds
from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint, added, without
from taps_core.model.errors import EstablishmentError, Reason
from taps_core.model.messages import MessageContext
from taps_core.model.properties import TransportProperties
from taps_core.model.security import SecurityParameters
from taps_core.runtime.connection import Connection
from taps_core.runtime.establishment import TIMEOUT, establish
from taps_core.runtime.gathering import resolve_all
from taps_core.runtime.group import Group
from taps_core.runtime.listener import Listener
from taps_core.runtime.outbox import Entry
from taps_core.runtime.system import System

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taps_core.model.keywords import MessageKeywords
    from taps_core.model.layers import FramerDefinition
    from taps_core.model.properties import Role
    from taps_core.planning.selection import Selection
    from taps_core.runtime.blueprint import Blueprint
    from taps_core.runtime.listener import Handler

__all__ = ["Preconnection"]


class Preconnection:
    """Endpoints, properties, security and framers of Connections to be made.

    Can be used any number of times. Everything given is copied in: editing it
    afterwards, or this object, reaches nothing that was made before.

    Args:
        local: Local Endpoints: one or several, objects or ``"host:port"``.
        remote: Remote Endpoints, likewise.
        transport: TransportProperties, or a mapping of names to values.
        security: SecurityParameters; ``None``: secure defaults.
        framers: Names, frozen definitions or Framer classes. The one added
            last is nearest the application: it runs first outbound and last
            inbound (RFC 9622, section 9.1.2.1).
        system: Plugins and policy; ``None``: those of the context.

    Raises:
        PropertyError: A name or value that cannot be.
        TypeError: A live framer instance, or arguments of another type.
    """

    def __init__(
        self,
        *,
        local: Any = None,
        remote: Any = None,
        transport: TransportProperties | Mapping[str, Any] | None = None,
        security: Any = None,
        framers: Any = None,
        system: System | None = None,
    ) -> None:
        if system is not None and not isinstance(system, System):
            raise TypeError(f"system: a System, not {system!r}")
        self._system = system
        self._local = LocalEndpoint.coerce_all(local)
        self._remote = RemoteEndpoint.coerce_all(remote)
        self.transport = TransportProperties.coerce(transport)
        self.security = SecurityParameters.coerce(security)
        self._framers: tuple[FramerDefinition, ...] = self.system.framers(framers)
        self._last: Blueprint | None = None

    @property
    def system(self) -> System:
        """The System that will be used: the one given, else that of the context."""
        return self._system or System.current()

    @property
    def local_endpoints(self) -> tuple[LocalEndpoint, ...]:
        """The Local Endpoints so far."""
        return self._local

    @property
    def remote_endpoints(self) -> tuple[RemoteEndpoint, ...]:
        """The Remote Endpoints so far."""
        return self._remote

    @property
    def framers(self) -> tuple[FramerDefinition, ...]:
        """The framers so far, in the order in which they were added."""
        return self._framers

    def add_local(self, *endpoints: LocalEndpoint | str) -> Preconnection:
        """Add Local Endpoints; ones that are there already are ignored."""
        self._local = added(self._local, map(LocalEndpoint.coerce, endpoints))
        return self

    def add_remote(self, *endpoints: RemoteEndpoint | str) -> Preconnection:
        """Add Remote Endpoints; ones that are there already are ignored."""
        self._remote = added(self._remote, map(RemoteEndpoint.coerce, endpoints))
        return self

    def remove_local(self, *endpoints: LocalEndpoint | str) -> Preconnection:
        """Take Local Endpoints away; ones that are not there are ignored."""
        self._local = without(self._local, map(LocalEndpoint.coerce, endpoints))
        return self

    def remove_remote(self, *endpoints: RemoteEndpoint | str) -> Preconnection:
        """Take Remote Endpoints away; ones that are not there are ignored."""
        self._remote = without(self._remote, map(RemoteEndpoint.coerce, endpoints))
        return self

    def add_framer(self, framer: Any) -> Preconnection:
        """Put a framer on top; has no effect on what was made before."""
        self._framers += self.system.framers(framer)
        return self

    def select(self, role: str = "initiate") -> Selection:
        """The ranking, with the reason for each place and each rejection. Sends nothing.

        Where something is asked for about paths it has those of this machine now, too.

        Raises:
            PropertyError, EstablishmentError: What is asked for contradicts itself.
        """
        selection = self.system.select(
            self.transport,
            role=role,
            security=self.security,
            local=self._local,
            remote=self._remote,
            framers=self._framers,
            isolated=self.transport.get("isolateSession"),
        )
        asked = {name: self.transport.get(name) for name in ("interface", "pvd")}
        remotes = () if role == "listen" else self._remote
        if self.system.chooses_paths(asked, remotes):
            return selection.on_paths(self.system.paths.choose(asked, remotes))
        return selection

    async def resolve(self) -> tuple[list[LocalEndpoint], list[RemoteEndpoint]]:
        """Resolve names now (RFC 9622, section 6.1); empty lists where nothing is given.

        Names without an address are left out as long as there are others.

        Raises:
            EstablishmentError: RESOLUTION_FAILED.
        """
        if not self.system.registry.loaded:  # one of them may resolve names
            await asyncio.to_thread(self.system.load_plugins)
        resolver = self.system.resolver_for(isolated=self.transport.get("isolateSession"))
        return (
            list(await resolve_all(resolver, self._local)),
            list(await resolve_all(resolver, self._remote)),
        )

    def initiate(self, timeout: float | None = TIMEOUT) -> Connection[Any]:
        """Active open (RFC 9622, section 7.1).

        Returns at once; await the Connection, or ``async with`` it, for Ready.
        Messages may be sent from now on: they leave in order once it is Ready.

        Args:
            timeout: Seconds for all of it; ``None``: as long as the candidates take.

        Raises:
            EstablishmentError: INVALID_CONFIGURATION: no Remote Endpoint.
                Everything else comes when the Connection is awaited.
            TypeError, ValueError: ``timeout`` is no number of seconds.
        """
        return self._establish("initiate", timeout)

    def initiate_with_send(
        self,
        data: Any,
        context: MessageContext | None = None,
        *,
        timeout: float | None = TIMEOUT,
        **message_properties: Unpack[MessageKeywords],
    ) -> Connection[Any]:
        """Active open with a Message that may travel with the handshake (section 9.2.5).

        It does so only if it is ``safely_replayable`` and the stack can; else
        it is the first Message after Ready. If nothing can be established
        there is an EstablishmentError and no SendError.

        Raises:
            EstablishmentError, PropertyError, TypeError: As :meth:`initiate`
                and ``Connection.send``.
        """
        early = MessageContext() if context is None else context.copy()
        for name, value in message_properties.items():
            early.add(name, value)
        if isinstance(data, bytes | bytearray | memoryview):
            data = bytes(data)
        elif not (self._framers and self._framers[-1].objects):
            raise TypeError(
                f"bytes are sent, not {type(data).__name__}; a framer such as json-lines "
                "takes objects"
            )
        entry = Entry(data, None, True, early, len(data) if isinstance(data, bytes) else 0)
        entry.silent = True
        return self._establish("initiate", timeout, entry)

    def _establish(
        self, role: Role, timeout: float | None, early: Entry | None = None
    ) -> Connection[Any]:
        if not self._remote:
            raise EstablishmentError(
                f"{role}() needs a Remote Endpoint", reason=Reason.INVALID_CONFIGURATION
            )
        if timeout is not None and timeout is not TIMEOUT:
            check_seconds("timeout", timeout)
        blueprint = self._blueprint(role)
        connection: Connection[Any] = Connection(blueprint, Group(blueprint.group_properties))
        connection._early = early
        connection._begin(partial(establish, connection, timeout))
        return connection

    def listen(
        self,
        handler: Handler | None = None,
        *,
        max_connections: int | None = None,
        grace: float = 10.0,
    ) -> Listener:
        """Passive open (RFC 9622, section 7.2).

        Args:
            handler: ``async def handler(connection)``: runs in a task of its
                own per Connection, which is closed when it returns and
                aborted when it raises. Without one: ``accept()``, iteration
                or ``on(ConnectionReceived, …)``.
            max_connections: How many Connections may be open at a time;
                further ones wait.
            grace: Seconds that leaving ``async with`` gives running handlers.

        Raises:
            EstablishmentError: INVALID_CONFIGURATION: no Local Endpoint.
                Everything else comes when the Listener is awaited.
            TypeError, ValueError: One of the arguments cannot be.
        """
        if not self._local:
            raise EstablishmentError(
                "listen() needs a Local Endpoint", reason=Reason.INVALID_CONFIGURATION
            )
        listener = Listener(
            self._blueprint("listen"), handler, max_connections=max_connections, grace=grace
        )
        listener._begin()
        return listener

    def rendezvous(self, timeout: float | None = TIMEOUT) -> Connection[Any]:
        """Peer-to-peer open: both sides call it (RFC 9622, section 7.3).

        Only transports that declare ``rendezvous`` are candidates.

        Returns:
            A Connection that is establishing.

        Raises:
            EstablishmentError: INVALID_CONFIGURATION: Local or Remote Endpoint missing.
        """
        if not self._local or not self._remote:
            raise EstablishmentError(
                "rendezvous() needs a Local and a Remote Endpoint",
                reason=Reason.INVALID_CONFIGURATION,
            )
        return self._establish("rendezvous", timeout, None)

    def _blueprint(self, role: Role) -> Blueprint:
        """A copy of all this; Connections that are made alike share one."""
        runtime = self.system.runtime()
        last = self._last
        if last is not None and last.is_of(
            runtime,
            role=role,
            local=self._local,
            remote=self._remote,
            properties=self.transport,
            security=self.security,
            framers=self._framers,
        ):
            return last
        made = self._last = runtime.blueprint(
            role, self._local, self._remote, self.transport, self.security, self._framers
        )
        return made

    def __repr__(self) -> str:
        local = ", ".join(map(str, self._local)) or "any"
        remote = ", ".join(map(str, self._remote)) or "any"
        return f"<Preconnection local={local} remote={remote}>"
