"""The API of NEATPy 1.0.0, on Transport Services as RFC 9622 has them.

::

    from neatpy import Preconnection, RemoteEndpoint

    def ready(connection):
        connection.send(b"hello")
        connection.receive(received)

    def received(connection, message, context, is_end_of_message, error):
        print(message.data.decode())
        connection.stop()

    there = RemoteEndpoint()
    there.with_address("127.0.0.1")
    there.with_port(5000)
    preconnection = Preconnection(remote_endpoint=there)
    connection = preconnection.initiate()
    connection.HANDLE_STATE_READY = ready
    preconnection.start()

For programs that are there already; new ones use :mod:`taps_core`, which this stands on.
"""

from neatpy.connection import Connection
from neatpy.connection_properties import CapacityProfiles, ConnectionProperties, TCPUserTimeout
from neatpy.endpoint import LocalEndpoint, RemoteEndpoint
from neatpy.enumerations import (
    AddressPreference,
    CommunicationDirections,
    ConnectionState,
    ListenErrorReasons,
    PreferenceLevel,
    SelectionProperties,
    SendErrorReason,
)
from neatpy.framer import ExampleFramer, Framer
from neatpy.listener import Listener
from neatpy.message_context import MessageContext
from neatpy.message_framer import MessageFramer
from neatpy.message_properties import MessageProperties
from neatpy.preconnection import MessageDataObject, Preconnection, ReceiveError
from neatpy.security_parameters import SecurityParameters
from neatpy.transport_properties import TransportProperties, TransportPropertyProfiles
from neatpy.utils import shim_print

__all__ = [
    "AddressPreference",
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

__version__ = "0.1.0"
