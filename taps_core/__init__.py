"""Transport Services (RFC 9621, 9622, 9623) for Python: the door for applications.

Say what is needed from the network; get a Connection that speaks in Messages.
Plugin authors import :mod:`taps_core.plugin`, tests :mod:`taps_core.testing`.
"""

from typing import TYPE_CHECKING, Any

from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import (
    CloneError,
    ConnectionError,
    EndOfData,
    EstablishmentError,
    EstablishmentTimeout,
    Expired,
    NoCandidates,
    PartialMessageWarning,
    PluginError,
    PolicyError,
    PropertyError,
    Reason,
    ReceiveError,
    SendError,
    TapsError,
)
from taps_core.model.events import (
    Closed,
    ConnectionReceived,
    Event,
    PathChange,
    Ready,
    Received,
    ReceivedPartial,
    Sent,
    SoftError,
    Stopped,
)
from taps_core.model.messages import Message, MessageContext
from taps_core.model.properties import (
    CapacityProfile,
    ConnectionState,
    Direction,
    Multipath,
    MultipathPolicy,
    Preference,
    Racing,
    Scheduler,
    TransportProperties,
)
from taps_core.model.reports import Attempt, EstablishmentReport, Resolution
from taps_core.model.security import Certificate, SecurityParameters
from taps_core.planning.policy import Policy
from taps_core.planning.staggering import Staggering
from taps_core.runtime.cached import CachedState
from taps_core.runtime.connection import Connection
from taps_core.runtime.listener import Listener
from taps_core.runtime.preconnection import Preconnection
from taps_core.runtime.system import System

if TYPE_CHECKING:
    from taps_core.runtime.resolver import Resolver

__all__ = [
    "Attempt",
    "CachedState",
    "CapacityProfile",
    "Certificate",
    "CloneError",
    "Closed",
    "Connection",
    "ConnectionError",
    "ConnectionReceived",
    "ConnectionState",
    "Direction",
    "EndOfData",
    "EstablishmentError",
    "EstablishmentReport",
    "EstablishmentTimeout",
    "Event",
    "Expired",
    "Listener",
    "LocalEndpoint",
    "Message",
    "MessageContext",
    "Multipath",
    "MultipathPolicy",
    "NoCandidates",
    "PartialMessageWarning",
    "PathChange",
    "PluginError",
    "Policy",
    "PolicyError",
    "Preconnection",
    "Preference",
    "PropertyError",
    "Racing",
    "Ready",
    "Reason",
    "ReceiveError",
    "Received",
    "ReceivedPartial",
    "RemoteEndpoint",
    "Resolution",
    "Resolver",
    "Scheduler",
    "SecurityParameters",
    "SendError",
    "Sent",
    "SoftError",
    "Staggering",
    "Stopped",
    "System",
    "TapsError",
    "TransportProperties",
]

__version__ = "0.1.0"

# Tracebacks and documentation name what people import.
for _name in globals().keys() & {*__all__}:
    globals()[_name].__module__ = __name__
del _name


def __getattr__(name: str) -> Any:
    """Few programs bring options for it: its import is theirs."""
    if name != "Resolver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from taps_core.runtime.resolver import Resolver

    Resolver.__module__ = __name__
    globals()[name] = Resolver
    return Resolver
