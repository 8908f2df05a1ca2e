"""An association: its streams as flows, and who of them sends, resets and ends when.

With a peer that can reset streams (RFC 6525), which ours always can, each Connection of a
group is a pair of streams, one in each direction, that have the same number (RFC 9623,
section 10.6): the first is 0, further ones are even where this end has connected, odd
where it has listened, the lowest free one first. A stream that ends is reset by both ends,
and its number is free again. With other peers there is one Connection, and Messages tell
their stream.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    ConnectionError,
    EstablishmentError,
    Expired,
    MessageContext,
    PathChange,
    Push,
    Reason,
    RecordCarrier,
    RemoteEndpoint,
    SendError,
    Session,
    connection_failed,
)
from taps_sctp.engine import Dry, PathNews, Reset, ResetFailed, StreamsAdded, Unsent
from taps_sctp.flow import SCTPFlow

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from taps_core.plugin import Flow, LocalEndpoint, SendRecord
    from taps_sctp.engine import Engine, Notice

__all__ = ["Association"]

#: Bytes that all streams hold for receivers that do not take them; then nothing is read.
HELD: Final = 1024 * 1024
#: Bytes that wait for room in the kernel, from which on all flows are full.
FULL: Final = 64 * 1024
#: Streams of the peer that wait where nobody has said yet whether streams are welcome.
WAITING: Final = 16
#: Seconds until a request that could not be made is made again, unless something happens.
AGAIN: Final = 0.05
#: Streams that are added at a time.
MORE: Final = 64
MOST_STREAMS: Final = 65535


class _Carrier(RecordCarrier):
    """What a security layer asks of an association."""

    def __init__(self, association: Association) -> None:
        self._association = association

    def identify(self, protocol: int) -> None:
        """Of all streams, also those to come."""
        self._association.protocol = protocol
        for flow in self._association.flows.values():
            flow.relabel()

    def install_key(self, key: bytes) -> bool:
        """Where the engine can."""
        return self._association.engine.install_key(key)

    def use_key(self) -> None:
        """Likewise."""
        self._association.engine.use_key()

    def bound_disorder(self, most: int) -> None:
        """Counted from the last moment when nothing was outstanding."""
        self._association.most_outstanding = most


class Association(Session):
    """One association, as an engine's user.

    Args:
        loop: Where it runs.
        engine: Established, unstarted.
        connected: Whether this end has connected (or has listened).

    Attributes:
        protocol: Payload protocol identifier of what is sent.
        most_outstanding: Messages that may be on their way where one can overtake
            another; ``None``: any number.
        carrier: For a security layer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Engine, *, connected: bool) -> None:
        self.loop = loop
        self.engine = engine
        self.push = Push.of(loop)
        self._connected = connected
        self.protocol = 0
        self.most_outstanding: int | None = None
        self._outstanding = 0
        self._disordered = False
        self.carrier: RecordCarrier = _Carrier(self)
        #: Whether streams are Connections.
        self.mapped = engine.can_reset
        self.gives_up = engine.can_give_up
        engine.user = self
        self.flows: dict[int, SCTPFlow] = {}
        #: What waits for room: data and label, and of which flow.
        self._queue: deque[tuple[SCTPFlow, bytes, Any, SendRecord | None]] = deque()
        self._queued = 0
        self._full = False
        #: Of Messages that may be given up, by number.
        self._uncertain: dict[int, tuple[SCTPFlow, SendRecord]] = {}
        self._numbers = itertools.count(1)
        #: Streams to reset as soon as that can be, and those whose reset is under way.
        self._to_reset: set[int] = set()
        self._resetting: set[int] = set()
        self._again: asyncio.TimerHandle | None = None
        #: Who waits for more streams.
        self._wanting: list[asyncio.Future[None]] = []
        self._held = 0
        self._holds = False
        self._incoming: Callable[[Flow], None] | None = None
        self._budget: float = WAITING
        self._waiting: deque[SCTPFlow] = deque()
        self._ending = False
        self.over = False
        self.first = self._new_flow(0)
        engine.start()

    def __repr__(self) -> str:
        return f"<Association with {self.engine.remote_endpoint}, {len(self.flows)} streams>"

    def _new_flow(self, number: int) -> SCTPFlow:
        flow = self.flows[number] = SCTPFlow(self, number)
        return flow

    # -- as a session

    async def open_stream(self, properties: Mapping[str, Any]) -> SCTPFlow:
        """The lowest stream that is free; the peer learns of it by its first Message."""
        while True:
            if self.over or self._ending:
                raise EstablishmentError("the association is over", reason=Reason.NOT_CLONEABLE)
            inbound, outbound = self.engine.streams()
            number = 2 if self._connected else 1
            while number in self.flows or number in self._resetting:
                number += 2
            if number < min(inbound, outbound):
                return self._new_flow(number)
            await self._add_streams(min(inbound, outbound))

    async def _add_streams(self, now: int) -> None:
        if now + MORE > MOST_STREAMS:
            raise EstablishmentError("there are no more streams", reason=Reason.NOT_CLONEABLE)
        added = self.loop.create_future()
        self._wanting.append(added)
        try:
            if len(self._wanting) == 1:
                self._ask_for_streams()
            await added
        finally:
            self._wanting.remove(added)

    def _ask_for_streams(self) -> None:
        try:
            self.engine.add_streams(MORE)
        except BlockingIOError:
            self._try_again()
        except OSError as error:
            self._tell_wanting(
                EstablishmentError(
                    f"the peer allows no more streams: {error.strerror}",
                    reason=Reason.NOT_CLONEABLE,
                )
            )

    def _tell_wanting(self, error: EstablishmentError | None) -> None:
        for wanting in self._wanting:
            if not wanting.done():
                if error is None:
                    wanting.set_result(None)
                else:
                    wanting.set_exception(error)

    def accept_streams(self, incoming: Callable[[Flow], None] | None, limit: float) -> None:
        """Hand every stream that the peer opens to ``incoming``, from the loop."""
        self._incoming = incoming
        self._budget = limit if incoming is not None else min(limit, WAITING)
        if incoming is not None and self._waiting:
            self.loop.call_soon(self._hand_out)

    def _hand_out(self) -> None:
        while self._waiting and self._incoming is not None and self._budget >= 1:
            self._budget -= 1
            flow = self._waiting.popleft()
            try:
                self._incoming(flow)
            except Exception as error:  # noqa: BLE001  # it costs that stream, and no other
                flow.abort()
                self.loop.call_exception_handler(
                    {"message": f"the taker of streams of {self!r} raised", "exception": error}
                )

    def close(self) -> None:
        """Close each flow; the association ends when all is delivered."""
        for flow in tuple(self.flows.values()):
            flow.close()

    def abort(self) -> None:
        """ABORT: all flows end at once."""
        if not self.over:
            self.over = True
            self.engine.abort()
            self._end_flows(ConnectionError("aborted", reason=Reason.LOCAL_ABORT))

    # -- down

    def send(self, flow: SCTPFlow, data: bytes, label: Any, record: SendRecord | None) -> None:
        """Send, or let wait for room. All streams wait in one line, as the kernel's do."""
        if not self._queue and self._may_overtake(flow):
            try:
                if self._send_now(data, label):
                    return
            except OSError as error:
                raise self._unsendable(error) from error
        self._queue.append((flow, data, label, record))
        self._queued += len(data)
        if not self._full and self._queued > FULL:
            self._full = True
            self.loop.call_soon(self._tell_writable)

    def _send_now(self, data: bytes, label: Any) -> bool:
        if self._disordered and self._outstanding + 1 == self.most_outstanding:
            # Everybody waits for the acknowledgement of this one.
            label = self.engine.hurried(label)
        if not self.engine.send(data, label):
            return False
        self._outstanding += 1
        return True

    def _may_overtake(self, flow: SCTPFlow) -> bool:
        """Whether one more may be on its way, that others could overtake."""
        most = self.most_outstanding
        if most is None:
            return True
        if flow is not self.first:
            self._disordered = True
        return not self._disordered or self._outstanding < most

    def is_disordered(self) -> None:
        """A Message may overtake others, on the one stream that there is."""
        self._disordered = True

    def _unsendable(self, error: OSError) -> SendError:
        peer = str(self.engine.remote_endpoint)
        failed = connection_failed(error, peer)
        return SendError(str(failed), reason=Reason.CONNECTION_CLOSED, detail=failed.detail)

    def number_for(self, flow: SCTPFlow, record: SendRecord) -> int:
        """Of a Message that may be given up: under it is told if it was."""
        number = next(self._numbers) & 0xFFFFFFFF
        self._uncertain[number] = (flow, record)
        return number

    def has_room(self) -> None:
        """Send what waits."""
        queue = self._queue
        while queue:
            flow, data, label, _ = queue[0]
            if not self._may_overtake(flow):
                break
            try:
                if not self._send_now(data, label):
                    break
            except OSError:
                # It is over; reading says why.
                break
            queue.popleft()
            self._queued -= len(data)
            flow.left()
        if self._full and self._queued <= FULL // 2:
            self._full = False
            self._tell_writable()
        if self._to_reset:
            self._reset()
        if self._ending and not queue:
            self.engine.shutdown()

    def waits(self, flow: SCTPFlow) -> bool:
        """Whether something of ``flow`` waits for room."""
        return any(each[0] is flow for each in self._queue)

    def drop(self, flow: SCTPFlow) -> None:
        """What waits of ``flow`` is not sent."""
        kept = [each for each in self._queue if each[0] is not flow]
        self._queue.clear()
        self._queue.extend(kept)
        self._queued = sum(len(each[1]) for each in kept)
        for number, (owner, _) in tuple(self._uncertain.items()):
            if owner is flow:
                del self._uncertain[number]

    def undelivered(self, flow: SCTPFlow) -> int:
        """Bytes of ``flow`` that wait here."""
        return sum(len(each[1]) for each in self._queue if each[0] is flow)

    def _tell_writable(self) -> None:
        for flow in tuple(self.flows.values()):
            flow.tell_writable(not self._full)

    # -- down: the end of a stream

    def leave(self, flow: SCTPFlow, *, at_once: bool) -> None:
        """A flow is closed or aborted: reset its stream, or end the association.

        Args:
            flow: It sends no more.
            at_once: What was sent need not arrive.
        """
        if self.over:
            return
        if all(each.is_leaving for each in self.flows.values()):
            if at_once:
                self.abort()
                return
            self._ending = True
            if not self._queue:
                self.engine.shutdown()
            return
        if self.mapped:
            self._to_reset.add(flow.number)
            self._reset()

    def _reset(self) -> None:
        """Ask for the resets that can be asked for now."""
        ready = [
            number
            for number in self._to_reset
            if number not in self.flows or not self.waits(self.flows[number])
        ]
        for number in ready:
            try:
                self.engine.reset_streams([number])
            except BlockingIOError:
                self._try_again()
                return
            except OSError:
                # Denied for good: it stays as it is until the association ends.
                self._to_reset.discard(number)
                self._was_reset(number, incoming=False)
                continue
            self._to_reset.discard(number)
            self._resetting.add(number)

    def _try_again(self) -> None:
        if self._again is None:
            self._again = self.loop.call_later(AGAIN, self._now)

    def _now(self) -> None:
        self._again = None
        if self.over:
            return
        if self._wanting:
            self._ask_for_streams()
        self._reset()

    def _was_reset(self, number: int, *, incoming: bool) -> None:
        flow = self.flows.get(number)
        if not incoming:
            self._resetting.discard(number)
        if flow is None:
            return
        if flow.was_reset(incoming=incoming):
            del self.flows[number]
            if number in (each.number for each in self._waiting):
                self._waiting = deque(each for each in self._waiting if each is not flow)

    # -- up

    def arrived(
        self, data: bytes, stream: int, ppid: int, unordered: bool, end_of_message: bool
    ) -> None:
        """To the flow of this stream, or to the first one."""
        context: MessageContext | None = None
        if not self.mapped:
            flow = self.first
            if (ppid and ppid != self.protocol) or stream:
                context = flow.context_of(stream, ppid, unordered)
        else:
            found = self.flows.get(stream)
            flow = self._appear(stream) if found is None else found
            if ppid and ppid != self.protocol:
                context = flow.context_of(stream, ppid, unordered)
        if end_of_message and context is not None:
            flow.forget_context(stream, unordered)
        flow.arrived(data, context, end_of_message)

    def _appear(self, number: int) -> SCTPFlow:
        """The first Message of a stream that the peer opened is here."""
        flow = self._new_flow(number)
        if len(self._waiting) >= max(WAITING, self._budget):
            # Nobody will have it: the peer hears so by a reset.
            flow.abort()
            return flow
        self._waiting.append(flow)
        if self._incoming is not None:
            self.loop.call_soon(self._hand_out)
        return flow

    def holds(self, difference: int) -> None:
        """A flow holds so many bytes more, or less, for its receiver."""
        self._held += difference
        if self._holds is not (self._held > HELD):
            self._holds = not self._holds
            self.engine.hold(self._holds)

    def noticed(self, notice: Notice) -> None:
        """What happened to Messages, streams and paths."""
        match notice:
            case Dry():
                # It waited to be read, and more may have been sent since.
                if self.engine.is_dry():
                    self._settle()
                    self._outstanding = 0
                if self._queue:
                    self.has_room()
                if self._to_reset:
                    self._reset()
            case Unsent(number, was_on_wire):
                self._given_up(number, was_on_wire)
            case Reset(streams, incoming):
                for number in streams or tuple(self.flows):
                    self._was_reset(number, incoming=incoming)
                self._reset()
            case ResetFailed():
                self._to_reset |= self._resetting & self.flows.keys()
                self._resetting.clear()
                self._tell_wanting(
                    EstablishmentError(
                        "the peer allows no more streams", reason=Reason.NOT_CLONEABLE
                    )
                )
                if self._to_reset:
                    self._try_again()
            case StreamsAdded():
                self._tell_wanting(None)
            case PathNews(address, state):
                self._tell_of_path(
                    PathChange(
                        f"{address} is {state}", remote=(RemoteEndpoint(ip_address=address),)
                    )
                )

    def change_endpoints(
        self, verb: str, local: Sequence[LocalEndpoint], remote: Sequence[RemoteEndpoint]
    ) -> bool:
        """As ``Flow.change_endpoints``."""
        if not self.engine.change_endpoints(verb, local, remote):
            return False
        if local:
            shown = ", ".join(str(each.ip_address) for each in local)
            done = "added" if verb == "add" else "removed"
            event = PathChange(f"{shown} of this end: {done}", local=tuple(local))
            self.loop.call_soon(self._tell_of_path, event)
        return True

    def _tell_of_path(self, event: PathChange) -> None:
        for flow in tuple(self.flows.values()):
            flow.notified(event)

    def _settle(self) -> None:
        """All that was sent has arrived, or was given up on the way."""
        uncertain, self._uncertain = self._uncertain, {}
        waiting = {id(each[3]) for each in self._queue if each[3] is not None}
        for number, (flow, record) in uncertain.items():
            if id(record) in waiting:
                self._uncertain[number] = (flow, record)
            else:
                flow.outcome(record, None)

    def _given_up(self, number: int, was_on_wire: bool) -> None:
        found = self._uncertain.pop(number, None)
        if found is not None:
            flow, record = found
            error = None
            if not was_on_wire:
                error = Expired("given up before it was sent", context=record.context)
            flow.outcome(record, error)

    def said_goodbye(self) -> None:
        """The peer has shut down: nothing more comes, and nothing more can be sent."""
        for flow in tuple(self.flows.values()):
            flow.peer_has_finished()

    def ended(self, error: OSError | None) -> None:
        """The association is over."""
        self.over = True
        if self._again is not None:
            self._again.cancel()
        self._tell_wanting(
            EstablishmentError("the association is over", reason=Reason.NOT_CLONEABLE)
        )
        if error is None:
            self._settle()
            self._end_flows(None)
        else:
            self._end_flows(connection_failed(error, str(self.engine.remote_endpoint)))

    def _end_flows(self, error: Exception | None) -> None:
        if self._again is not None:
            self._again.cancel()
        flows, self.flows = self.flows, {}
        self._queue.clear()
        for flow in flows.values():
            flow.end(error)
