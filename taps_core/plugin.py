"""The public door for plugin authors.

::

    from taps_core import plugin as tp

    class Echo(tp.Transport):
        name = "echo"
        api_version = 1
        capabilities = tp.Capabilities.messages()
        ...

    @tp.hookimpl
    def taps_transports() -> Sequence[tp.Transport]:
        return [Echo()]

with an entry point in the group ``taps`` that names the module. What the hooks
are and what they may do: :mod:`taps_core.runtime.hookspecs`. What a transport,
a security layer, a framer is: the classes here.

Everything in ``__all__`` is covered by :data:`API_VERSION`: it changes when a
plugin that was right before would not be right any more.
"""

from __future__ import annotations

from taps_core.model.capabilities import (
    Capabilities,
    DataUnit,
    LayerCapabilities,
    Protection,
    Support,
)
from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import (
    ConnectionError,
    EndOfData,
    EstablishmentError,
    EstablishmentRefused,
    EstablishmentTimeout,
    Expired,
    PluginError,
    PropertyError,
    Reason,
    ReceiveError,
    SendError,
    TapsError,
)
from taps_core.model.events import Event, PathChange, SoftError
from taps_core.model.flow import (
    Data,
    Flow,
    LayerFlow,
    Part,
    PartTuple,
    Receiver,
    RecordCarrier,
    Session,
)
from taps_core.model.framer import (
    LONG_READ,
    Codec,
    Framer,
    FramerControl,
    Parsed,
    deframing_failed,
    too_large,
)
from taps_core.model.layers import (
    API_VERSION,
    AVAILABLE,
    AcceptRequest,
    Availability,
    Connector,
    ConnectRequest,
    Door,
    EarlyData,
    FramerDefinition,
    ListeningFlow,
    ListenRequest,
    Offer,
    SecurityLayer,
    Transport,
)
from taps_core.model.messages import MessageContext, SendRecord
from taps_core.model.properties import (
    DSCP,
    CapacityProfile,
    Direction,
    Ecn,
    Kind,
    Multipath,
    MultipathPolicy,
    Preference,
    Property,
    Scheduler,
    ValueType,
)
from taps_core.model.security import (
    Certificate,
    HasPrivateBytes,
    HasPublicBytes,
    SecurityMode,
    SecurityParameters,
)
from taps_core.runtime.held import HoldingFlow
from taps_core.runtime.hookspecs import hookimpl
from taps_core.runtime.ip_sockets import (
    SocketAddress,
    address_family,
    ask_generic_netlink,
    ask_socket,
    bind_socket,
    choose_source,
    interface_index,
    open_bound_socket,
    set_hop_limit,
    show_address,
    socket_address,
    socket_local_endpoint,
    socket_remote_endpoint,
    source_address,
)
from taps_core.runtime.push import Push, Signal
from taps_core.runtime.resolver import Resolving
from taps_core.runtime.sources import PolicySource, ResolverSource
from taps_core.runtime.stream_flow import StreamFlow
from taps_core.runtime.stream_listener import StreamListener
from taps_core.runtime.system_errors import (
    connection_failed,
    establishment_failed,
    receiver_failed,
)

__all__ = [
    "API_VERSION",
    "AVAILABLE",
    "DSCP",
    "LONG_READ",
    "AcceptRequest",
    "Availability",
    "Capabilities",
    "CapacityProfile",
    "Certificate",
    "Codec",
    "ConnectRequest",
    "ConnectionError",
    "Connector",
    "Data",
    "DataUnit",
    "Direction",
    "Door",
    "EarlyData",
    "Ecn",
    "EndOfData",
    "EstablishmentError",
    "EstablishmentRefused",
    "EstablishmentTimeout",
    "Event",
    "Expired",
    "Flow",
    "Framer",
    "FramerControl",
    "FramerDefinition",
    "HasPrivateBytes",
    "HasPublicBytes",
    "HoldingFlow",
    "Kind",
    "LayerCapabilities",
    "LayerFlow",
    "ListenRequest",
    "ListeningFlow",
    "LocalEndpoint",
    "MessageContext",
    "Multipath",
    "MultipathPolicy",
    "Offer",
    "Parsed",
    "Part",
    "PartTuple",
    "PathChange",
    "PluginError",
    "PolicySource",
    "Preference",
    "Property",
    "PropertyError",
    "Protection",
    "Push",
    "Reason",
    "ReceiveError",
    "Receiver",
    "RecordCarrier",
    "RemoteEndpoint",
    "ResolverSource",
    "Resolving",
    "Scheduler",
    "SecurityLayer",
    "SecurityMode",
    "SecurityParameters",
    "SendError",
    "SendRecord",
    "Session",
    "Signal",
    "SocketAddress",
    "SoftError",
    "StreamFlow",
    "StreamListener",
    "Support",
    "TapsError",
    "Transport",
    "ValueType",
    "address_family",
    "ask_generic_netlink",
    "ask_socket",
    "bind_socket",
    "choose_source",
    "connection_failed",
    "deframing_failed",
    "establishment_failed",
    "hookimpl",
    "interface_index",
    "open_bound_socket",
    "receiver_failed",
    "set_hop_limit",
    "show_address",
    "socket_address",
    "socket_local_endpoint",
    "socket_remote_endpoint",
    "source_address",
    "too_large",
]
