"""Preconnection: what is wanted, before there is a Connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import taps_core as taps
from neatpy import _loop
from neatpy._flat import one_module
from neatpy.connection import (
    EARLY,
    CommunicationDirections,
    Connection,
    ConnectionProperties,
    ConnectionState,
    MessageDataObject,
    MessageProperties,
    PreferenceLevel,
    ReceiveError,
    SelectionProperties,
    SendErrorReason,
    TCPUserTimeout,
)
from neatpy.connection_properties import CapacityProfiles
from neatpy.endpoint import LocalEndpoint, RemoteEndpoint, to_local, to_remote
from neatpy.framer import ExampleFramer, Framer
from neatpy.listener import Listener, ListenErrorReasons
from neatpy.message_context import MessageContext
from neatpy.message_framer import MessageFramer
from neatpy.security_parameters import SecurityParameters, to_taps
from neatpy.transport_properties import TransportProperties, TransportPropertyProfiles
from neatpy.utils import shim_print

one_module(__name__)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CapacityProfiles",
    "CommunicationDirections",
    "Connection",
    "ConnectionProperties",
    "ConnectionState",
    "ExampleFramer",
    "Framer",
    "ListenErrorReasons",
    "Listener",
    "LocalEndpoint",
    "MessageContext",
    "MessageDataObject",
    "MessageFramer",
    "MessageProperties",
    "Preconnection",
    "PreferenceLevel",
    "ReceiveError",
    "RemoteEndpoint",
    "SecurityParameters",
    "SelectionProperties",
    "SendErrorReason",
    "TCPUserTimeout",
    "TransportProperties",
    "TransportPropertyProfiles",
    "shim_print",
]


class Preconnection:
    """Endpoints, properties, security and framers of Connections to be made.

    It can be used any number of times; changing it reaches nothing that was made before.

    Args:
        local_endpoint: Where to listen, or to connect from.
        remote_endpoint: Whom to reach.
        transport_properties: What is wanted; ``None``: the defaults.
        security_needed: Whether Connections are encrypted, and peers verified: never one without
            the other. :class:`neatpy.security_parameters.SecurityParameters` say more.
        unfulfilled_handler: Called without arguments when a Connection could not be established,
            or a Listener does not listen. Why, the log says.
    """

    def __init__(
        self,
        local_endpoint: LocalEndpoint | None = None,
        remote_endpoint: RemoteEndpoint | None = None,
        transport_properties: TransportProperties | None = None,
        security_needed: bool | SecurityParameters | taps.SecurityParameters = False,
        unfulfilled_handler: Callable[[], object] | None = None,
    ) -> None:
        self.local_endpoint = local_endpoint
        self.remote_endpoint = remote_endpoint
        self.transport_properties = transport_properties or TransportProperties()
        self.security_needed = security_needed
        self.unfulfilled_handler = unfulfilled_handler
        self._framers: tuple[Framer, ...] = ()
        # What was worked out last, and of what: many Connections are made alike.
        self._last: tuple[Any, TransportProperties, taps.Preconnection] | None = None

    def add_framer(self, framer: Framer) -> None:
        """Put a framer on top of the protocols, and of framers that were added before.

        The one added last comes first for what is sent, and last for what arrives.

        Args:
            framer: An object; Connections share it, so it is told for which of them it acts.

        Raises:
            TypeError: It is none.
        """
        if not isinstance(framer, Framer):
            raise TypeError(f"an object of a class that inherits Framer expected, not {framer!r}")
        self._framers += (framer,)

    def initiate(self, timeout: float | None = None) -> Connection:
        """Connect to the Remote Endpoint.

        Nothing happens before ``start()``, so the Connection's handlers can be assigned; if the
        loop runs already, nothing happens before the handler that calls this returns.

        Args:
            timeout: Seconds that it may take; ``None``: as long as it takes.

        Returns:
            A Connection that is establishing.

        Raises:
            taps_core.EstablishmentError: There is no Remote Endpoint.
            taps_core.PropertyError: Properties or endpoints that cannot be.
        """
        return self._initiate("initiate", timeout=timeout)

    def initiate_with_send(
        self,
        message_data: bytes | bytearray | memoryview,
        sent_handler: Callable[..., object] | None,
        message_context: MessageContext | None = None,
        timeout: float | None = None,
    ) -> Connection:
        """Connect, and send a Message as early as can be.

        If the Message is idempotent, and the protocols can, it goes with the handshake.

        Args:
            message_data: The Message.
            sent_handler: As for ``Connection.send``. It is not called if there is no Connection:
                that other handlers are told.
            message_context: Properties of the Message.
            timeout: As for :meth:`initiate`.

        Returns:
            A Connection that is establishing.

        Raises:
            TypeError: Something else than bytes.
            taps_core.EstablishmentError, taps_core.PropertyError: As :meth:`initiate`.
        """
        data = bytes(memoryview(message_data))
        if self._framers:
            # The Message is the framers' before it is the protocols'.
            connection = self.initiate(timeout)
            connection._send_otherwise(data, sent_handler, message_context, True, early=True)
            return connection
        context = taps.MessageContext()
        for name, value in () if message_context is None else message_context._settings().items():
            context.add(name, value)
        context.add(*EARLY, True)
        return self._initiate(
            "initiate_with_send", data, context, timeout=timeout, early_handler=sent_handler
        )

    def rendezvous(self) -> Connection:
        """Connect to a peer that does the same: both have a Local and a Remote Endpoint.

        Returns:
            A Connection that is establishing.

        Raises:
            taps_core.EstablishmentError: An Endpoint is missing.
            taps_core.PropertyError: As :meth:`initiate`.
        """
        if self.local_endpoint is None:
            raise taps.EstablishmentError(
                "rendezvous() needs a Local Endpoint", reason=taps.Reason.INVALID_CONFIGURATION
            )
        return self._initiate("rendezvous")

    def _initiate(
        self,
        verb: str,
        *arguments: Any,
        early_handler: Callable[..., object] | None = None,
        **how: Any,
    ) -> Connection:
        if self.remote_endpoint is None:
            raise taps.EstablishmentError(
                f"{verb}() needs a Remote Endpoint", reason=taps.Reason.INVALID_CONFIGURATION
            )
        wanted, properties = self._wanted("clientCertificate")
        connection = Connection(self, self._framers, properties, wanted.system)
        connection._early_handler = early_handler
        _loop.begin(lambda: connection._begin(lambda: getattr(wanted, verb)(*arguments, **how)))
        return connection

    def listen(self) -> Listener:
        """Take Connections at the Local Endpoint; with a Remote Endpoint, only from there.

        Nothing happens before ``start()``, as for :meth:`initiate`.

        Returns:
            A Listener.

        Raises:
            taps_core.EstablishmentError: There is no Local Endpoint.
            taps_core.PropertyError: Properties or endpoints that cannot be.
        """
        if self.local_endpoint is None:
            raise taps.EstablishmentError(
                "listen() needs a Local Endpoint", reason=taps.Reason.INVALID_CONFIGURATION
            )
        wanted, properties = self._wanted("serverCertificate")
        listener = Listener(self, self._framers, properties, wanted.system)
        _loop.begin(lambda: listener._begin(wanted.listen))
        return listener

    def _wanted(self, role: str) -> tuple[taps.Preconnection, TransportProperties]:
        """All this as the core has it, and a copy of the properties."""
        local, remote = self.local_endpoint, self.remote_endpoint
        system = taps.System.current()
        like = (
            None if local is None else dict(vars(local)),
            None if remote is None else dict(vars(remote)),
            self.security_needed,
            role,
            system,
        )
        if self._last is not None:
            before, properties, wanted = self._last
            if (
                before == like
                and properties == self.transport_properties
                and like[2] in (True, False)
            ):
                return wanted, properties
        properties = self.transport_properties._snapshot()
        wanted = taps.Preconnection(
            local=None if local is None else to_local(local),
            remote=None if remote is None else to_remote(remote),
            transport=properties._to_taps(),
            security=to_taps(self.security_needed, role),
            system=system,
        )
        self._last = like, properties, wanted
        return wanted, properties

    def start(self) -> None:
        """Run the event loop: of all Preconnections of this program, not of this one alone.

        Returns when ``Connection.stop()`` was called and everything has ended, or when there is
        nothing left that could call a handler. From a handler it returns at once, as the loop
        runs. Ctrl-C ends it with KeyboardInterrupt, as it ends any Python program.
        """
        _loop.run()
