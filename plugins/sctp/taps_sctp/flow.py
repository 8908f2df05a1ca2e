"""One stream of an association, in both directions, as a Flow."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from taps_core.plugin import (
    ConnectionError,
    Flow,
    MessageContext,
    Reason,
    RecordCarrier,
    SendError,
    receiver_failed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taps_core.plugin import (
        Data,
        Event,
        LocalEndpoint,
        PartTuple,
        Receiver,
        RemoteEndpoint,
        SendRecord,
    )
    from taps_sctp.association import Association

__all__ = ["SCTPFlow"]

T = TypeVar("T")

#: What a part that is held costs beyond its bytes.
OVERHEAD: Final = 64


class SCTPFlow(Flow):
    """A stream; or, with a peer that knows no Connections on streams, all of them.

    Args:
        association: What it is a stream of.
        number: Of the stream.
        priority: Its connPriority.

    Attributes:
        number: Of the stream.
        priority: Its connPriority.
        is_leaving: It was closed or aborted.
        is_over: Nothing more happens to it.
        is_reset: The peer has let its direction begin anew.
    """

    __slots__ = (
        "_above",
        "_association",
        "_contexts",
        "_error",
        "_finished",
        "_full",
        "_goodbye",
        "_held",
        "_held_size",
        "_open",
        "_partial",
        "_paused",
        "_receiver",
        "_reset_out",
        "_usual",
        "is_leaving",
        "is_over",
        "is_reset",
        "number",
        "priority",
        "session",
    )

    def __init__(self, association: Association, number: int, priority: int) -> None:
        self._association = association
        self.number = number
        self.priority = priority
        self.session = association if association.mapped else None
        self._usual = association.engine.label(number, ppid=association.protocol)
        #: Who was given to ``start`` and has not been told ``closed`` yet.
        self._above: Receiver | None = None
        #: Where Messages go at once; None before start, while paused, after the end.
        self._receiver: Receiver | None = None
        self._held: list[PartTuple] = []
        self._held_size = 0
        self._partial: list[bytes] = []
        #: Of Messages that come in parts, by stream and order.
        self._contexts: dict[tuple[int, bool], MessageContext] | None = None
        self._open = True  # for sending
        self._paused = self._full = False
        self._finished = self._goodbye = False
        self._reset_out = False
        self._error: Exception | None = None
        self.is_leaving = self.is_over = self.is_reset = False

    def __repr__(self) -> str:
        return f"<SCTPFlow {self.number} of {self._association!r}>"

    @property
    def local_endpoint(self) -> LocalEndpoint:
        """This end of the association."""
        return self._association.engine.local_endpoint

    @property
    def remote_endpoint(self) -> RemoteEndpoint:
        """The other end."""
        return self._association.engine.remote_endpoint

    # -- down: data

    def start(self, receiver: Receiver) -> None:
        """Deliver to ``receiver`` from now on; what is held comes first."""
        self._above = receiver
        self._association.loop.call_soon(self._release)

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Send; all parts of a Message become one, as the protocol takes it whole."""
        if not self._open:
            raise SendError("nothing can be sent any more", reason=Reason.CONNECTION_CLOSED)
        whole = data if isinstance(data, bytes) else b"".join(data)
        partial = self._partial
        association = self._association
        length = len(whole) + sum(map(len, partial)) if partial else len(whole)
        if length > association.engine.most:
            raise SendError(
                f"{length} bytes are more than the send buffer of {association.engine.most}",
                reason=Reason.MESSAGE_TOO_LARGE,
            )
        if partial or not end_of_message:
            partial.append(whole)
            if not end_of_message:
                return None
            whole = b"".join(partial)
        if not whole:
            raise SendError(
                "SCTP has no empty Messages",
                reason=Reason.PROTOCOL_FAILED,
                detail="empty-message",
            )
        partial.clear()
        if record is None:
            association.send(self, whole, self._usual)
            return None
        return self._send_marked(whole, record)

    def _send_marked(self, whole: bytes, record: SendRecord) -> bool | None:
        association = self._association
        lifetime = record.properties.get("msgLifetime", math.inf)
        if not association.mapped:
            _, streams = association.engine.streams()
            stream = record.properties.get("_taps.streamIdentifier", 0)
            if stream >= streams:
                raise SendError(
                    f"there is no stream {stream}: the peer takes {streams}",
                    reason=Reason.INVALID_MESSAGE_PROPERTIES,
                )
        if lifetime < math.inf and association.gives_up:
            association.send_while(self, whole, record, lifetime)
            return True
        association.send(self, whole, self.label_of(record))
        return None

    def label_of(
        self, record: SendRecord, *, lifetime: float | None = None, number: int = 0
    ) -> Any:
        """What the engine needs to know of a Message that is special."""
        properties: Mapping[str, Any] = record.properties
        association = self._association
        stream = self.number
        if not association.mapped:
            stream = properties.get("_taps.streamIdentifier", stream)
        if not properties.get("msgOrdered", True):
            association.is_disordered()
        return association.engine.label(
            stream,
            ppid=properties.get("_taps.ppid", association.protocol),
            unordered=not properties.get("msgOrdered", True),
            lifetime=lifetime,
            reliable=properties.get("msgReliable", True) or not association.gives_up,
            number=number,
        )

    def write_through(self, data: Data, /) -> None:
        """Send a lone Message: it never waits here."""
        if (
            self._open
            and type(data) is bytes
            and data
            and not self._partial
            and len(data) <= self._association.engine.most
        ):
            self._association.send(self, data, self._usual)
        else:
            self.send(data, None, True)

    def withdraw(self) -> bool:
        """Drop the parts of the Message that is not complete."""
        self._partial.clear()
        return True

    def pause(self) -> None:
        """Hold what comes; if all streams hold much, the kernel's window closes."""
        self._paused = True
        self._receiver = None

    def resume(self) -> None:
        """Deliver again; what was held comes first."""
        if self._paused:
            self._paused = False
            self._association.loop.call_soon(self._release)

    # -- down: the end

    def finish(self) -> None:
        """Send no more. The peer is not told: SCTP has no half-close."""
        self._open = False

    def close(self) -> None:
        """Let everything arrive, then end: by a reset of the stream, or as the last one."""
        if not self.is_leaving and not self.is_over:
            self.is_leaving = True
            self._open = False
            self._receiver = None
            self._forget_held()
            self._association.leave(self, at_once=False)

    def abort(self) -> None:
        """End at once. The peer hears of it by a reset, or as the last one by an ABORT."""
        if self.is_over:
            return
        association = self._association
        was_leaving, self.is_leaving = self.is_leaving, True
        association.drop(self)
        self._open = False
        self._error = ConnectionError("aborted", reason=Reason.LOCAL_ABORT)
        if not was_leaving or all(each.is_leaving for each in association.flows.values()):
            association.leave(self, at_once=True)
        self.end(self._error)

    # -- down: endpoints

    def change_endpoints(
        self, verb: str, local: Sequence[LocalEndpoint], remote: Sequence[RemoteEndpoint], /
    ) -> bool:
        """Let the association do it, for all its streams."""
        return self._association.change_endpoints(verb, local, remote)

    # -- down: properties

    def apply(self, property: str, value: Any, /) -> bool:
        """Let the engine do it."""
        if property == "connPriority":
            return self._association.prioritize(self, value)
        return self._association.engine.apply(property, value)

    def read(self, property: str, /) -> Any:
        """What the engine tells."""
        if property == "recvMsgMaxLen":
            return sys.maxsize
        value = self._association.engine.read(property)
        if property == "_taps.undelivered":
            return (value or 0) + self._association.undelivered(self)
        return value

    def find(self, wanted: type[T], /) -> T | None:
        """The flow itself, what a security layer asks for, or what the engine has."""
        if wanted is RecordCarrier:
            return cast("T", self._association.carrier)
        return super().find(wanted) or self._association.engine.find(wanted)

    # -- for the association

    def relabel(self) -> None:
        """What is sent has another payload protocol identifier."""
        association = self._association
        self._usual = association.engine.label(self.number, ppid=association.protocol)

    def context_of(self, stream: int, ppid: int, unordered: bool) -> MessageContext:
        """One and the same for all parts of a Message."""
        if self._contexts is None:
            self._contexts = {}
        context = self._contexts.get((stream, unordered))
        if context is None:
            told = {"_taps.streamIdentifier": stream, "_taps.ppid": ppid}
            context = MessageContext.received(told)
            self._contexts[stream, unordered] = context
        return context

    def forget_context(self, stream: int, unordered: bool) -> None:
        """The Message is whole."""
        if self._contexts is not None:
            self._contexts.pop((stream, unordered), None)

    def arrived(self, data: bytes, context: MessageContext | None, end_of_message: bool) -> None:
        """Pass up, or hold. From a callback of the loop."""
        receiver = self._receiver
        if receiver is None:
            if not (self.is_leaving or self.is_over):
                self._held.append((data, context, end_of_message))
                self._hold(len(data) + OVERHEAD)
            return
        try:
            self._association.push.up(receiver, ((data, context, end_of_message),))
        except Exception as error:  # noqa: BLE001  # entry of the push: what escapes ends this flow only
            self._break(error)

    def _hold(self, difference: int) -> None:
        self._held_size += difference
        self._association.holds(difference)

    def discard(self) -> None:
        """Nobody will ever have it; the association sees to the rest."""
        self.is_leaving = True
        self._forget_held()
        self.end(None)

    def _forget_held(self) -> None:
        self._held = []
        if self._held_size:
            self._hold(-self._held_size)

    def _release(self) -> None:
        """Deliver what was held, then go live."""
        if self.is_over:
            self._tell_closed()
            return
        if self._paused or self.is_leaving or self._above is None:
            return
        self._receiver = self._above
        held = self._held
        self._forget_held()
        if self._association.full:
            self.tell_writable(False)
        try:
            if held:
                self._association.push.up(self._above, held)
            if self._goodbye and not self._paused:
                self._tell_finished()
        except Exception as error:  # noqa: BLE001  # as in arrived
            self._break(error)

    def tell_writable(self, writable: bool) -> None:
        """The association is full, or takes more again."""
        if self._full is not writable or self._above is None or not self._open:
            return
        self._full = not writable
        try:
            self._above.writable(writable)
        except Exception as error:  # noqa: BLE001  # as in arrived
            self._break(error)

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """The fate of a Message is known."""
        if self._above is not None:
            try:
                self._above.outcome(record, error)
            except Exception as failure:  # noqa: BLE001  # as in arrived
                self._break(failure)

    def notified(self, event: Event) -> None:
        """A PathChange."""
        if self._above is not None and not self.is_leaving:
            try:
                self._above.notified(event)
            except Exception as error:  # noqa: BLE001  # as in arrived
                self._break(error)

    def peer_has_finished(self) -> None:
        """The peer sends no more, on no stream; what is held comes first."""
        self._goodbye = True
        self._open = False
        if self._receiver is not None and not self._held:
            try:
                self._tell_finished()
            except Exception as error:  # noqa: BLE001  # as in arrived
                self._break(error)

    def _tell_finished(self) -> None:
        if not self._finished and self._above is not None and not self.is_leaving:
            self._finished = True
            self._above.finished()

    def was_reset(self, *, incoming: bool) -> bool:
        """A direction begins anew; True if both have, and this flow is over."""
        if incoming:
            self.is_reset = True
        else:
            self._reset_out = True
        if incoming and not self.is_leaving:
            # The peer has closed it; RFC 9623 wants that answered.
            self.peer_has_finished()
            self.is_leaving = True
            self._association.leave(self, at_once=False)
        if self.is_reset and self._reset_out:
            self.end(None)
            return True
        return False

    def end(self, error: Exception | None) -> None:
        """It is over."""
        if self.is_over:
            return
        self.is_over = True
        self._open = False
        self.is_leaving = True
        if self._error is None:
            self._error = error
        self._receiver = None
        self._partial.clear()
        self._association.loop.call_soon(self._tell_closed)

    def _break(self, error: Exception) -> None:
        """A layer above raised: end this flow and no other."""
        self._error = receiver_failed(error)
        self.abort()

    def _tell_closed(self) -> None:
        above = self._above
        if above is None:
            return
        held = self._held
        self._forget_held()
        if held and self._error is None:
            # The peer has ended in order behind these.
            self._association.push.up(above, held)
        self._above = None
        above.closed(self._error)
