"""All enumerations in one place, and what came with them in NEATPy."""

from __future__ import annotations

from neatpy._flat import one_module
from neatpy._values import ConnectionState, ListenErrorReasons, SendErrorReason
from neatpy.connection_properties import CapacityProfiles, ConnectionProperties, TCPUserTimeout
from neatpy.message_properties import MessageProperties
from neatpy.selection_properties import (
    AddressPreference,
    CommunicationDirections,
    PreferenceLevel,
    SelectionProperties,
)
from neatpy.transport_properties import TransportPropertyProfiles
from neatpy.utils import shim_print

one_module(__name__)

__all__ = [
    "AddressPreference",
    "CapacityProfiles",
    "CommunicationDirections",
    "ConnectionProperties",
    "ConnectionState",
    "ListenErrorReasons",
    "MessageProperties",
    "PreferenceLevel",
    "SelectionProperties",
    "SendErrorReason",
    "TCPUserTimeout",
    "TransportPropertyProfiles",
    "shim_print",
]
