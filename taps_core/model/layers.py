"""What plugins declare: transports, security layers, framers.

The objects are stateless declarations, made once. A Protocol Stack is a
transport and an ordered list of layers above it; each layer connects through
the :class:`Connector` below it, and so decides when the lower one starts.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taps_core.model.capabilities import Capabilities, LayerCapabilities
    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.flow import Flow
    from taps_core.model.framer import Codec, Framer
    from taps_core.model.properties import Property
    from taps_core.model.security import SecurityParameters

__all__ = [
    "API_VERSION",
    "AVAILABLE",
    "AcceptRequest",
    "Availability",
    "ConnectRequest",
    "Connector",
    "Door",
    "EarlyData",
    "FramerDefinition",
    "ListenRequest",
    "ListeningFlow",
    "Offer",
    "SecurityLayer",
    "Transport",
]

#: Version of this interface. A plugin that states another one is refused.
API_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Availability:
    """Can this machine run it now?"""

    available: bool = True
    reason: str = ""
    """If not: why, one line («the kernel has no SCTP»)."""
    remedy: str = ""
    """If not: what to do, one line («modprobe sctp»)."""
    capabilities: Capabilities | LayerCapabilities | None = None
    """The effective table where it differs from the declared one."""


AVAILABLE = Availability()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What a security layer would offer a peer, for explanations: ``SecurityLayer.offers``."""

    protocols: tuple[str, ...]
    """As ``allowedSecurityProtocols`` names them, best first."""
    ciphersuites: tuple[str, ...] | None
    """Best first; ``None``: the layer does not know."""
    groups: tuple[str, ...] | None
    """Likewise."""
    signature_algorithms: tuple[str, ...] | None
    """Likewise."""
    alpn: tuple[str, ...]
    """Application protocols, best first; empty: none."""
    certificate: str
    """What this end would show and to whom: part of a sentence."""
    trust: str
    """Whom it would take for what it says: part of a sentence."""
    refusals: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What was asked for and cannot be honoured → why, in a sentence. As long as there is
    any, no Connection comes to be."""


class EarlyData:
    """One replay-safe Message that may travel with the handshake (RFC 9623, section 5.3).

    Each leaf of a race gets its own copy. A layer either takes the whole
    (``taken = True``: it is responsible from then on) or leaves it; what is
    not taken is sent by the layer above once the flow is there.

    Attributes:
        data: ``bytes`` or a tuple of ``bytes``: already framed for this layer.
        end_of_message: Always True at present.
        taken: Set by the layer that carries it.
    """

    __slots__ = ("data", "end_of_message", "taken")

    def __init__(self, data: Any) -> None:
        self.data = data
        self.end_of_message = True
        self.taken = False


# Requests are made for every Connection, and their classes with every import: they have
# no more than they need. Nobody changes what it was handed: dataclasses.replace() it is.


@dataclasses.dataclass(kw_only=True, slots=True, eq=False, repr=False)
class ConnectRequest:
    """What a layer is to reach."""

    remote: RemoteEndpoint
    """Resolved: ``ip_address`` and ``port``, or a plugin's own ``identifiers``."""
    local: LocalEndpoint | None = None
    """Address, port or interface to use; ``None``: the system chooses."""
    other_remotes: Sequence[RemoteEndpoint] = ()
    """Further addresses of the same host as far as anybody knows, best first: for a
    transport that can use several. Each is also tried by itself, as ``remote``."""
    other_locals: Sequence[LocalEndpoint] = ()
    """Further local ones that may be used beside ``local``, likewise."""
    properties: Mapping[str, Any]
    """Every property (selection, connection, message default, ``tcp.…``) by
    canonical name, defaults that depend on the role already resolved."""
    security: SecurityParameters
    server_name: str | None = None
    """The name that the peer's certificate must carry; ``None``: its address."""
    role: str = "initiate"
    """``"initiate"``, ``"rendezvous"`` or ``"clone"``."""
    deadline: float | None = None
    """``loop.time()`` at which the whole establishment ends; enforced above."""
    early: EarlyData | None = None


@dataclasses.dataclass(kw_only=True, slots=True, eq=False, repr=False)
class AcceptRequest:
    """What a layer is to make of an inbound flow."""

    properties: Mapping[str, Any]
    security: SecurityParameters
    admitted: Any = None
    """What the layer's :class:`Door` returned for this remote."""
    deadline: float | None = None


class Door(ABC):
    """A security layer at the door of a connectionless listener (DTLS cookies)."""

    @abstractmethod
    def admit(
        self, datagram: bytes, remote: RemoteEndpoint, reply: Callable[[bytes], None]
    ) -> Any | None:
        """Judge a datagram of an unknown remote without keeping state.

        Returns:
            ``None``: no Connection (a reply may have been sent). Anything
            else lets the transport make a flow, whose first part is this
            datagram, and becomes ``AcceptRequest.admitted``.
        """


@dataclasses.dataclass(kw_only=True, slots=True, eq=False, repr=False)
class ListenRequest:
    """Where and how to listen."""

    local: LocalEndpoint
    """Resolved. Port ``None`` or 0: the system chooses."""
    other_locals: Sequence[LocalEndpoint] = ()
    """What else is to be listened at: for a transport whose door can have several
    addresses, which says which ones it took (``ListeningFlow.also``). The others get
    doors of their own."""
    properties: Mapping[str, Any]
    security: SecurityParameters
    incoming: Callable[[Flow, Any], None]
    """Called with each inbound, unstarted flow and what the door returned
    (``None`` without one). Must be called from the loop, never from ``listen``."""
    door: Door | None = None
    """Given to connectionless transports when the layer above has one."""


class ListeningFlow(ABC):
    """An open door: what ``Transport.listen`` returns."""

    @property
    @abstractmethod
    def local_endpoint(self) -> LocalEndpoint:
        """With the address and port really bound."""

    @property
    def also(self) -> Sequence[LocalEndpoint]:
        """Those of ``ListenRequest.other_locals`` that this door has, too, as they were given."""
        return ()

    @property
    def dropped(self) -> Mapping[str, int]:
        """What came and was dropped for lack of room, so far: cause → how many.

        The words are the transport's; what never happened is not there.
        """
        return {}

    def pause(self) -> None:  # noqa: B027  # a transport without a backlog has nothing to pause
        """Take no more inbound flows for now; let the system queue or refuse them."""

    def resume(self) -> None:  # noqa: B027  # likewise
        """Take them again."""

    @abstractmethod
    async def close(self) -> None:
        """Stop; returns when the port is free. Flows handed out live on."""


class Connector(Protocol):
    """What a layer connects through."""

    async def connect(self, request: ConnectRequest) -> Flow:
        """An established, unstarted flow.

        Cancelling it leaves nothing behind.

        Raises:
            EstablishmentError, OSError: It cannot be established.
        """


class _Declaration(ABC):
    """What transports, security layers and framer definitions have in common."""

    #: Lower case, unique among its kind: ``"tcp"``.
    name: str
    #: The interface that it was written for.
    api_version: int = API_VERSION

    @property
    def label(self) -> str:
        """How stacks are written: ``"TCP"`` in ``"line/TLS/TCP"``."""
        return self.name

    def availability(self) -> Availability:
        """Can this machine run it now? Cheap, without privileges, no network traffic."""
        return AVAILABLE

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class Transport(_Declaration):
    """A transport protocol: owns sockets, reaches endpoints."""

    #: Kinds of endpoint identifier that it reaches: ``"ip"`` (names, addresses
    #: and ports), ``"multicast"`` (groups), or own kinds such as ``"_unix.path"``.
    serves: frozenset[str] = frozenset({"ip"})
    #: What it can do wherever it is available at all.
    capabilities: Capabilities
    #: Protocol-specific properties that it understands (``tcp.…``, ``_vendor.…``).
    properties: Sequence[Property] = ()
    #: False for protocols that need evidence that the peer speaks them
    #: (a cached success, an SVCB record, ``protocol=``): ranked after the others.
    deployable: bool = True
    #: True for protocols that are tried, or listened on, only where they are asked for:
    #: by ``protocol=`` of an Endpoint or by a system policy that prefers them.
    on_request: bool = False

    #: Application protocols, by their ALPN names, that run over this transport only, as
    #: ``"h3"`` does over QUIC: an HTTPS or SVCB record with one says that the peer speaks it.
    alpn: Sequence[str] = ()

    #: Whether ``connect`` does a simultaneous open for ``role="rendezvous"``.
    rendezvous: bool = False

    @property
    def label(self) -> str:
        """Upper case by habit."""
        return self.name.upper()

    def loopback(self) -> LocalEndpoint | None:
        """Where two ends on this machine can meet, for checks; a fresh place each time.

        ``None`` where that is not known: then whoever checks has to say it.
        """
        from taps_core.model.endpoints import LocalEndpoint

        return LocalEndpoint(ip_address="127.0.0.1", port=0) if "ip" in self.serves else None

    @abstractmethod
    async def connect(self, request: ConnectRequest) -> Flow:
        """An established, unstarted flow to ``request.remote``.

        Cancelling it leaves nothing behind.

        Raises:
            EstablishmentError, OSError: It cannot be established.
        """

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        """Open a door for inbound flows.

        Raises:
            EstablishmentError, OSError: It cannot be opened, or never can.
        """
        from taps_core.model.errors import EstablishmentError, Reason

        raise EstablishmentError(f"{self.label} cannot listen", reason=Reason.INVALID_CONFIGURATION)


class SecurityLayer(_Declaration):
    """A security protocol over what a transport (or a layer) provides."""

    #: The table of the layer: how it changes that of the stack below, what it needs.
    capabilities: LayerCapabilities
    #: Protocol-specific properties that it understands.
    properties: Sequence[Property] = ()

    @property
    def label(self) -> str:
        """Upper case by habit."""
        return self.name.upper()

    @abstractmethod
    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        """Connect ``lower``, shake hands, return the protected, unstarted flow.

        A failed or cancelled handshake aborts the flow below. Nothing of the
        application leaves before the handshake is done, early data excepted
        that the request carries. When cancelled it may say what it had not done yet, by a
        CancelledError whose cause is an EstablishmentError: its ``detail`` is that of the
        EstablishmentTimeout if the time is over.

        Raises:
            EstablishmentError, OSError: As the layer below, or the handshake failed.
        """

    @abstractmethod
    async def accept(self, lower: Flow, request: AcceptRequest) -> Flow:
        """The other side: shake hands over the inbound, unstarted ``lower``."""

    def door(self, properties: Mapping[str, Any], security: SecurityParameters) -> Door | None:
        """What judges unknown remotes of a connectionless listener, if anything.

        Asked once for each listener, before it opens: whatever is wrong with ``security``
        on this side can be said here.

        Raises:
            EstablishmentError: The listener cannot be.
        """
        return None

    def offers(self, security: SecurityParameters, *, server: bool) -> Offer | None:
        """What would be offered with these parameters; nothing is sent. May read files.

        Args:
            security: As the application gave it, ALPN from framers included.
            server: Whether this end is the server.

        Returns:
            ``None``: the layer does not say.
        """
        return None

    def acquainted(self) -> tuple[SecurityParameters, SecurityParameters]:
        """Security Parameters of a server and of a client that trust each other, for checks.

        Made anew each time. The client calls the server by an address of this machine.
        """
        from taps_core.model.security import SecurityParameters

        return SecurityParameters(), SecurityParameters()


class FramerDefinition(_Declaration):
    """A framer with its parameters: frozen, named, makes a framer per Connection."""

    #: Whether it finds Message boundaries.
    boundaries: bool = True
    #: Whether it takes and makes objects rather than bytes (then no framer can
    #: be added after it). As that of what ``create`` makes.
    objects: bool = False
    #: True for a framer that belongs between transport and security
    #: (a proxy handshake, STARTTLS).
    below_security: bool = False
    #: ALPN protocol names that go with it.
    alpn: tuple[str, ...] = ()
    #: True for a framer that is ready only when the peer has answered: over a
    #: connectionless transport it proves that there is a peer (RFC 9623, section 4.6).
    handshakes: bool = False

    @abstractmethod
    def create(self) -> Codec | Framer:
        """A new framer, for one Connection."""
