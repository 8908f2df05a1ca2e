"""The interface that established layers share: Flow downwards, Receiver upwards.

::

                Connection                 Messages, states, groups, the application
          received(parts) ↑   ↓ send
                  Framer(s)                finds and marks Message boundaries
          received(parts) ↑   ↓ send
             security layer                bytes or datagrams in, the same out
          received(parts) ↑   ↓ send
                transport                  owns the socket

Rules of the data path (a conformance test stands behind each):

* Nothing comes up before ``start``; what arrives meanwhile is held.
* A layer never calls up from inside a downward call. What a downward call
  causes comes up from a later turn of the loop.
* ``closed`` comes up exactly once for a flow that was started, however it
  ends, and is the last thing that comes up. After ``close`` or ``abort``
  nothing but ``outcome`` and ``closed`` comes up.
* ``send`` takes everything or raises; it never takes a part. A layer that is
  full says so with ``writable(False)`` *after* having taken; whoever sends
  all the same only makes it hold more.
* ``send`` may gather; ``flush`` lets everything gathered leave. Whoever sends
  flushes: after a lone Message, at the end of a loop turn, of a batch, at
  64 KiB, and before ``finish`` and ``close``.
* Data that comes up is exactly ``bytes`` (or a framer's object). Data that
  goes down is ``bytes`` or a sequence of ``bytes``: the Connection copies what
  its caller may change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from taps_core.model.messages import MessageContext, SendRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.errors import ReceiveError, SendError
    from taps_core.model.events import Event

__all__ = [
    "Data",
    "Flow",
    "LayerFlow",
    "Part",
    "PartTuple",
    "Receiver",
    "RecordCarrier",
    "Session",
]

T = TypeVar("T")

#: What goes down: the bytes of a Message, or several buffers that follow each
#: other (a header and its body), so that no layer has to join them. Above a
#: framer that makes objects, the object.
Data: TypeAlias = bytes | tuple[bytes, ...] | Any

#: What comes up for each Message or part. Hot loops make bare tuples.
PartTuple: TypeAlias = tuple[Any, MessageContext | None, bool]


class Part(NamedTuple):
    """A Message, or a part of one, on its way up.

    Parts of one Message follow each other without parts of another between
    them, unless they carry contexts that tell them apart (one and the same
    context object on all parts of a Message).
    """

    data: Any
    """``bytes``, or the object that a framer made."""
    context: MessageContext | None = None
    """Metadata, ``None`` where there is none: the usual case."""
    end_of_message: bool = True
    """True on the last part of a Message; always False on a bare byte stream."""


class Receiver(Protocol):
    """What a flow calls upwards. Implemented by the Connection and by layers."""

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Messages or parts arrived; one call per read, or a few for a long one."""

    def finished(self) -> None:
        """The peer will send no more (half-close, Final); sending may go on."""

    def writable(self, writable: bool, /) -> None:
        """The layer is full (False), or takes more again (True)."""

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """The fate of a Send whose ``send`` had returned True; ``None`` is Sent."""

    def notified(self, event: Event) -> None:
        """A SoftError or PathChange."""

    def failed(self, error: ReceiveError, fatal: bool) -> None:
        """A Message could not be received.

        If the last part that came up was not the end of its Message, that is
        the Message which failed: no more of it comes, drop what there is. (Not where
        ``error.detail`` is ``"cut-off"``: only its end is missing, and whoever asks for
        parts may have what there is.)

        Args:
            error: Why.
            fatal: True: nothing more comes up, neither ``received`` nor
                ``finished``; only ``closed`` at the end. Sending goes on.
                False: this Message alone is lost; receiving goes on.
        """

    def closed(self, error: Exception | None) -> None:
        """It is over, in order (None) or by ``error``; resources are released."""


class Flow(ABC):
    """An established layer, seen from above.

    A plugin translates foreign exceptions: what it raises or passes to
    ``closed`` is an error of :mod:`taps_core` or an ``OSError``.
    """

    __slots__ = ()  # for flows that want to be small

    #: Streams of one association or connection, where the protocol has them.
    session: Session | None = None

    @property
    def local_endpoint(self) -> LocalEndpoint | None:
        """The address really used, or ``None`` where there is no such thing."""
        return None

    @property
    def remote_endpoint(self) -> RemoteEndpoint | None:
        """The peer's address, or ``None`` where there is no such thing."""
        return None

    @abstractmethod
    def start(self, receiver: Receiver) -> None:
        """Begin to call ``receiver``; called once, before everything below."""

    @abstractmethod
    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Take a Message or a part of one.

        Args:
            data: ``bytes`` or a tuple of ``bytes`` (an object above a framer
                that takes objects). Never changed by the caller afterwards.
            record: What is special about this Send; ``None`` for defaults.
            end_of_message: False for a part that others will follow.

        Returns:
            True if the fate of this Send comes later by ``outcome`` (only
            with a record); otherwise it is Sent.

        Raises:
            SendError: The Message was not taken; the flow is as it was.
        """

    def write_through(self, data: Data, /) -> None:
        """Take a whole Message without a record, and let everything leave: both in one call.

        What a lone Message costs is calls more than anything else; a layer that
        cares overrides this beside ``send`` and ``flush``.

        Raises:
            SendError: As ``send``; then nothing leaves.
        """
        self.send(data, None, True)
        self.flush()

    def withdraw(self) -> bool:
        """Drop the Message whose first parts were taken and whose last part was not.

        Called when it can never be whole: a part was refused, be it the first
        one, or the application gave it up. What is sent next is another Message.
        A layer passes it down only when it knows that it keeps nothing itself.

        Returns:
            True if nothing of it has left, and nothing is left of it. False if it
            cannot be called back: whoever sends must then abort, as the peer would
            take the next Message for its rest.
        """
        return False

    def flush(self) -> None:  # noqa: B027  # not every layer gathers
        """Let everything gathered leave now."""

    def pause(self) -> None:  # noqa: B027  # a layer without a source has nothing to pause
        """Deliver no more for now. What is on its way up may still come."""

    def resume(self) -> None:  # noqa: B027  # likewise
        """Deliver again."""

    def finish(self) -> None:  # noqa: B027  # documented no-op where there is no half-close
        """Send no more (Final): half-close where the protocol has it."""

    @abstractmethod
    def close(self) -> None:
        """Deliver what was sent, then end in order; ``closed`` follows."""

    @abstractmethod
    def abort(self) -> None:
        """End at once and drop what is pending; ``closed`` follows."""

    def apply(self, property: str, value: Any, /) -> bool:
        """Let a Connection Property take effect; True if it now has one here.

        Raises:
            PropertyError: The stack knows the property and refuses the value.
        """
        return False

    def read(self, property: str, /) -> Any:
        """The live value of a Connection Property, ``None`` if it is not known here.

        Who tells a ``maxSendRate`` keeps it; what no layer keeps, the Connection does.

        Beyond properties, ``_taps.undelivered`` is asked when Close takes too
        long: the bytes taken that the peer is not known to have;
        and ``_taps.multipathInUse`` where ``multipath`` is not Disabled: False if there is
        one path, so that ``path_changed`` would be of no use.
        """
        return None

    def change_endpoints(
        self, verb: str, local: Sequence[LocalEndpoint], remote: Sequence[RemoteEndpoint], /
    ) -> bool:
        """The application adds or removes endpoints (RFC 9622, section 7.5).

        Args:
            verb: ``"add"`` or ``"remove"``.
            local: Local Endpoints concerned.
            remote: Remote Endpoints concerned.

        Returns:
            False where the stack has one pair of addresses, fixed at establishment.

        Raises:
            PropertyError: The stack refuses these.
        """
        return False

    def path_changed(self, event: Event) -> None:  # noqa: B027  # most protocols just go on
        """The system's paths changed (RFC 9623, section 7.2)."""

    def find(self, wanted: type[T], /) -> T | None:
        """Something of type ``wanted`` that this layer or one below offers, or ``None``."""
        return self if isinstance(self, wanted) else None


class LayerFlow(Flow):
    """A Flow made from a Flow: passes everything through, both ways.

    Override what the layer changes. ``lower`` is the flow below, ``receiver``
    what is above (set by ``start``).
    """

    __slots__ = ("lower", "receiver")

    lower: Flow
    receiver: Receiver

    def __init__(self, lower: Flow) -> None:
        self.lower = lower

    @property
    def local_endpoint(self) -> LocalEndpoint | None:
        """That of the flow below."""
        return self.lower.local_endpoint

    @property
    def remote_endpoint(self) -> RemoteEndpoint | None:
        """That of the flow below."""
        return self.lower.remote_endpoint

    # -- down

    def start(self, receiver: Receiver) -> None:
        """Remember the receiver and start the flow below."""
        self.receiver = receiver
        self.lower.start(self)

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Pass down."""
        return self.lower.send(data, record, end_of_message)

    def flush(self) -> None:
        """Pass down."""
        self.lower.flush()

    def pause(self) -> None:
        """Pass down."""
        self.lower.pause()

    def resume(self) -> None:
        """Pass down."""
        self.lower.resume()

    def finish(self) -> None:
        """Pass down."""
        self.lower.finish()

    def close(self) -> None:
        """Pass down."""
        self.lower.close()

    def abort(self) -> None:
        """Pass down."""
        self.lower.abort()

    def apply(self, property: str, value: Any, /) -> bool:
        """Pass down."""
        return self.lower.apply(property, value)

    def read(self, property: str, /) -> Any:
        """Pass down."""
        return self.lower.read(property)

    def change_endpoints(
        self, verb: str, local: Sequence[LocalEndpoint], remote: Sequence[RemoteEndpoint], /
    ) -> bool:
        """Pass down."""
        return self.lower.change_endpoints(verb, local, remote)

    def path_changed(self, event: Event) -> None:
        """Pass down."""
        self.lower.path_changed(event)

    def find(self, wanted: type[T], /) -> T | None:
        """This layer, or what the layers below offer."""
        return self if isinstance(self, wanted) else self.lower.find(wanted)

    # -- up

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Pass up."""
        self.receiver.received(parts)

    def finished(self) -> None:
        """Pass up."""
        self.receiver.finished()

    def writable(self, writable: bool, /) -> None:
        """Pass up."""
        self.receiver.writable(writable)

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """Pass up."""
        self.receiver.outcome(record, error)

    def notified(self, event: Event) -> None:
        """Pass up."""
        self.receiver.notified(event)

    def failed(self, error: ReceiveError, fatal: bool) -> None:
        """Pass up."""
        self.receiver.failed(error, fatal)

    def closed(self, error: Exception | None) -> None:
        """Pass up."""
        self.receiver.closed(error)


class RecordCarrier:
    """What a transport of Messages does for a security layer whose records it carries.

    A layer finds it by ``find(RecordCarrier)``; what it says holds for all streams of
    the association. (RFC 6083: DTLS over SCTP.) As it is here, it is that of a transport
    where nothing overtakes, and where there are no packets to authenticate.
    """

    def identify(self, protocol: int) -> None:
        """The payload protocol identifier of all that is sent from now on."""

    def install_key(self, key: bytes) -> bool:
        """Accept what the peer authenticates by this key (RFC 4895), beside what was accepted.

        Returns:
            False if packets are not authenticated here; then there is no use for it.
        """
        return False

    def use_key(self) -> None:
        """Authenticate what is sent by the key that was installed last."""

    def bound_disorder(self, most: int) -> None:
        """Let none overtake, or be overtaken by, so many others: what would has to wait.

        For layers that take a Message for a repetition if too many newer ones have come.
        As long as there is one ordered stream alone nothing has to wait.
        """


class Session(ABC):
    """The streams of one association (SCTP) or connection (QUIC, HTTP/2).

    A security layer that protects streams wraps the session and the flows it
    gives out.
    """

    @abstractmethod
    async def open_stream(self, properties: Mapping[str, Any]) -> Flow:
        """A further stream; normally nothing is sent for it.

        Args:
            properties: As ``ConnectRequest.properties``.

        Raises:
            EstablishmentError: The peer or the protocol allows no more.
        """

    @abstractmethod
    def accept_streams(self, incoming: Callable[[Flow], None] | None, limit: float) -> None:
        """Hand every stream that the peer opens to ``incoming``, unstarted.

        Args:
            incoming: ``None``: nobody takes streams now, so the peer may open
                none (where the protocol can say so) or they wait, bounded.
            limit: How many more the peer may open (``groupConnLimit``).
        """

    @abstractmethod
    def close(self) -> None:
        """CloseGroup: each flow ends in order, then the association."""

    @abstractmethod
    def abort(self) -> None:
        """AbortGroup: the association and all its flows end at once."""

    def apply(self, property: str, value: Any, /) -> bool:
        """Let a Connection Property of the whole group take effect; True if it has."""
        return False
