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
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
    Scheduler,
    SendError,
    Session,
    connection_failed,
)
from taps_sctp.engine import Dry, PathNews, Reset, ResetFailed, StreamsAdded, Unsent
from taps_sctp.flow import OVERHEAD, SCTPFlow

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
#: Messages whose fate only the kernel knows; then it has to tell of all of them first.
UNCERTAIN: Final = 1024
#: Seconds beyond a Message's lifetime after which it has to, likewise.
PATIENCE: Final = 1.0
_NUMBERS: Final = 1 << 32
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class _Waiting(NamedTuple):
    """What waits for room, or for its turn."""

    flow: SCTPFlow
    data: bytes
    label: Any
    """``None``: it is made when it is known how much of the lifetime is left."""
    record: SendRecord | None = None
    """Of a Message whose lifetime is limited."""
    deadline: float = 0.0
    """Of such a one, in the loop's time."""


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
        self._association.engine.tell_when_dry()


class Association(Session):
    """One association, as an engine's user.

    Args:
        loop: Where it runs.
        engine: Established, unstarted.
        connected: Whether this end has connected (or has listened).
        properties: Of the Connection, by canonical name.

    Attributes:
        protocol: Payload protocol identifier of what is sent.
        most_outstanding: Messages that may be on their way where one can overtake
            another; ``None``: any number.
        carrier: For a security layer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        engine: Engine,
        *,
        connected: bool,
        properties: Mapping[str, Any] = _NOTHING,
    ) -> None:
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
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        #: Whether what is sent has to wait: behind others, or until fates are known.
        self._stopped = False
        self.full = False
        #: Messages that may be given up, by number: also when their lifetime ends.
        self._uncertain: dict[int, tuple[SCTPFlow, SendRecord, float]] = {}
        self._numbers = itertools.count(1)
        #: Whether nothing is sent until the fate of all of these is known.
        self._settling = False
        self._overdue: asyncio.TimerHandle | None = None
        #: Streams to reset as soon as that can be, and those whose reset is under way.
        self._to_reset: dict[int, SCTPFlow] = {}
        self._resetting: dict[int, SCTPFlow] = {}
        self._soon: asyncio.Handle | None = None
        self._again: asyncio.TimerHandle | None = None
        #: What came on streams that the peer uses again before this end could.
        self._early: dict[int, list[tuple[bytes, int, bool, bool]]] = {}
        #: Who waits for more streams, and whether the peer was asked.
        self._wanting: list[asyncio.Future[None]] = []
        self._asked = False
        self._held = 0
        self._holds = False
        self._incoming: Callable[[Flow], None] | None = None
        self._budget: float = WAITING
        self._waiting: deque[SCTPFlow] = deque()
        self._ending = False
        self.over = False
        #: Whether the engine sends by connPriority.
        self._by_priority = False
        self._usual_priority: int = properties.get("connPriority", 0)
        self.first = self._new_flow(0)
        scheduler = properties.get("connScheduler")
        if scheduler is not None:
            self.apply("connScheduler", scheduler)
        engine.start()

    def __repr__(self) -> str:
        return f"<Association with {self.engine.remote_endpoint}, {len(self.flows)} streams>"

    def _new_flow(self, number: int) -> SCTPFlow:
        flow = self.flows[number] = SCTPFlow(self, number, self._usual_priority)
        if self._by_priority:
            self.engine.prioritize(number, flow.priority)
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
                flow = self._new_flow(number)
                priority = properties.get("connPriority", flow.priority)
                if priority != flow.priority:
                    self.prioritize(flow, priority)
                return flow
            await self._add_streams(min(inbound, outbound))

    async def _add_streams(self, now: int) -> None:
        if now + MORE > MOST_STREAMS:
            raise EstablishmentError("there are no more streams", reason=Reason.NOT_CLONEABLE)
        added = self.loop.create_future()
        self._wanting.append(added)
        try:
            if not self._asked:
                self._asked = True
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
        self._asked = False
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
        while self._waiting and len(self._waiting) > self._budget:
            self._refuse(self._waiting.pop())
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

    def apply(self, property: str, value: Any, /) -> bool:
        """Who sends first of those that wait in the engine, if it can do it so."""
        if property != "connScheduler" or not self.engine.apply(property, value):
            return False
        self._by_priority = value is Scheduler.PRIORITY_BASED
        if self._by_priority:
            for flow in self.flows.values():
                self.engine.prioritize(flow.number, flow.priority)
        return True

    def prioritize(self, flow: SCTPFlow, priority: int) -> bool:
        """Set connPriority of a flow; True if the engine sends by it."""
        flow.priority = priority
        if self._by_priority:
            self.engine.prioritize(flow.number, priority)
        return self._by_priority

    # -- down

    def send(self, flow: SCTPFlow, data: bytes, label: Any) -> None:
        """Send, or let wait for room. All streams wait in one line, as the kernel's do."""
        if not self._stopped:
            try:
                if self._send_now(flow, data, label):
                    return
            except OSError as error:
                raise self._unsendable(error) from error
        self._wait(_Waiting(flow, data, label))

    def send_while(self, flow: SCTPFlow, data: bytes, record: SendRecord, lifetime: float) -> None:
        """Send while it is worth it; the outcome comes later."""
        waiting = _Waiting(flow, data, None, record, self.loop.time() + lifetime)
        if not self._stopped:
            try:
                if self._hand_over(waiting):
                    return
            except OSError as error:
                raise self._unsendable(error) from error
        self._wait(waiting)

    def _hand_over(self, waiting: _Waiting) -> bool:
        flow, data, _, record, deadline = waiting
        assert record is not None
        number = next(self._numbers) % _NUMBERS
        left = max(deadline - self.loop.time(), 0.0)
        label = flow.label_of(record, lifetime=left, number=number)
        if not self._send_now(flow, data, label):
            return False
        self._uncertain[number] = (flow, record, deadline)
        if len(self._uncertain) >= UNCERTAIN:
            self._settle_first()
        elif self._overdue is None:
            self.engine.tell_when_dry()
            self._look_at(deadline + PATIENCE)
        return True

    def _look_at(self, when: float) -> None:
        self._overdue = self.loop.call_at(when, self._look)

    def _look(self) -> None:
        """Nobody waits for an outcome for ever, however much the others send."""
        self._overdue = None
        if self._uncertain and not self.over:
            # The first one left first; what comes later may last shorter, and wait longer.
            _, _, deadline = next(iter(self._uncertain.values()))
            when = deadline + PATIENCE
            if when > self.loop.time():
                self._look_at(when)
            elif not self._settling:
                self._settle_first()

    def _settle_first(self) -> None:
        """Send nothing until the fate of what was sent is known."""
        self._settling = self._stopped = True
        self.engine.tell_when_dry()

    def _wait(self, waiting: _Waiting) -> None:
        self._stopped = True
        self._queue.append(waiting)
        self._queued += len(waiting.data)
        if not self.full and self._queued > FULL:
            self.full = True
            self.loop.call_soon(self._tell_writable)

    def _send_now(self, flow: SCTPFlow, data: bytes, label: Any) -> bool:
        """False: it has to wait, for room or because others could overtake it."""
        if self.most_outstanding is None:
            return self.engine.send(data, label)
        if flow is not self.first:
            self._disordered = True
        if self._disordered:
            if self._outstanding >= self.most_outstanding:
                return False
            if self._outstanding + 1 == self.most_outstanding:
                # Everybody waits for the acknowledgement of this one.
                label = self.engine.hurried(label)
        if not self.engine.send(data, label):
            return False
        self._outstanding += 1
        return True

    def is_disordered(self) -> None:
        """A Message may overtake others, on the one stream that there is."""
        self._disordered = True

    def _unsendable(self, error: OSError) -> SendError:
        peer = str(self.engine.remote_endpoint)
        failed = connection_failed(error, peer)
        return SendError(str(failed), reason=Reason.CONNECTION_CLOSED, detail=failed.detail)

    def has_room(self) -> None:
        """Send what waits."""
        queue = self._queue
        refused = False
        while queue and not self._settling:
            waiting = queue.popleft()
            try:
                taken = self._take(waiting)
            except OSError:
                # The peer has shut down, or it is over; reading says so.
                taken, refused = False, True
            if not taken:
                queue.appendleft(waiting)
                break
            self._queued -= len(waiting.data)
        self._stopped = self._settling or bool(queue)
        if self.full and self._queued <= FULL // 2:
            self.full = False
            self._tell_writable()
        if self._to_reset:
            self._reset()
        if self._ending and (refused or not queue):
            self.engine.shutdown()

    def _take(self, waiting: _Waiting) -> bool:
        if waiting.record is None:
            return self._send_now(waiting.flow, waiting.data, waiting.label)
        if waiting.deadline > self.loop.time():
            return self._hand_over(waiting)
        waiting.flow.outcome(waiting.record, _expired(waiting.record))
        return True

    def waits(self, flow: SCTPFlow) -> bool:
        """Whether something of ``flow`` waits for room."""
        return any(each.flow is flow for each in self._queue)

    def drop(self, flow: SCTPFlow) -> None:
        """What waits of ``flow`` is not sent."""
        kept = [each for each in self._queue if each.flow is not flow]
        self._queue.clear()
        self._queue.extend(kept)
        self._queued = sum(len(each.data) for each in kept)
        self._uncertain = {
            number: each for number, each in self._uncertain.items() if each[0] is not flow
        }
        # Perhaps others waited for these alone.
        self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self.over:
            if not self._uncertain:
                self._settling = False
            self.has_room()

    def undelivered(self, flow: SCTPFlow) -> int:
        """Bytes of ``flow`` that wait here."""
        return sum(len(each.data) for each in self._queue if each.flow is flow)

    def _tell_writable(self) -> None:
        for flow in tuple(self.flows.values()):
            flow.tell_writable(not self.full)

    # -- down: the end of a stream

    def leave(self, flow: SCTPFlow, *, at_once: bool) -> None:
        """A flow is closed or aborted: reset its stream, or end the association.

        Args:
            flow: It sends no more.
            at_once: What was sent need not arrive.
        """
        if self.over:
            return
        if self._incoming is None and self._waiting:
            staying = sum(not each.is_leaving for each in self.flows.values())
            if staying == len(self._waiting):
                # Nobody can take these any more.
                while self._waiting:
                    self._waiting.pop().discard()
        if all(each.is_leaving for each in self.flows.values()):
            if at_once and all(each is flow or each.is_over for each in self.flows.values()):
                self.abort()
                return
            self._ending = True
            if not self._queue:
                self.engine.shutdown()
            return
        if self.mapped:
            self._reset_soon(flow)

    def _reset_soon(self, flow: SCTPFlow) -> None:
        # Others may follow in this turn: one request is for all, or none is needed.
        self._to_reset[flow.number] = flow
        if self._soon is None:
            self._soon = self.loop.call_soon(self._reset)

    def _reset(self) -> None:
        """Ask for the resets that can be asked for now, of all in one request if that can be."""
        self._soon = None
        if self.over or self._ending:
            return
        ready = {number: flow for number, flow in self._to_reset.items() if not self.waits(flow)}
        requests = [ready] if ready else []
        while requests:
            streams = requests.pop()
            try:
                self.engine.reset_streams(list(streams))
            except BlockingIOError:
                if len(streams) > 1 and not self._resetting:
                    # Perhaps something of one of them is on its way down.
                    requests += [{number: flow} for number, flow in streams.items()]
                    continue
                self._try_again()
                continue
            except OSError:
                for number, flow in streams.items():
                    del self._to_reset[number]
                    self._stays(flow)
                continue
            for number, flow in streams.items():
                del self._to_reset[number]
                self._resetting[number] = flow

    def _stays(self, flow: SCTPFlow) -> None:
        """The peer does not let this stream begin anew: its number is never free again."""
        flow.end(None)

    def _try_again(self) -> None:
        if self._again is None:
            # Requests that cross are refused on both sides: one side is to be first.
            self._again = self.loop.call_later(AGAIN if self._connected else 2 * AGAIN, self._now)

    def _now(self) -> None:
        self._again = None
        if self.over:
            return
        if self._wanting:
            self._ask_for_streams()
        self._reset()

    def _was_reset(self, number: int, *, incoming: bool) -> None:
        found = self.flows if incoming else self._resetting
        flow = found.get(number)
        if not incoming:
            self._resetting.pop(number, None)
        if flow is None or not flow.was_reset(incoming=incoming):
            return
        del self.flows[number]
        if flow in self._waiting:
            self._waiting.remove(flow)
        for data, ppid, unordered, end_of_message in self._early.pop(number, ()):
            self.holds(-len(data) - OVERHEAD)
            self.arrived(data, number, ppid, unordered, end_of_message)

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
            if found is None:
                found = self._appear(stream)
            elif found.is_reset:
                # The peer knows that both ends have reset it; here that is still to come.
                early = self._early.setdefault(stream, [])
                early.append((data, ppid, unordered, end_of_message))
                self.holds(len(data) + OVERHEAD)
                return
            flow = found
            if ppid and ppid != self.protocol:
                context = flow.context_of(stream, ppid, unordered)
        if end_of_message and context is not None:
            flow.forget_context(stream, unordered)
        flow.arrived(data, context, end_of_message)

    def _appear(self, number: int) -> SCTPFlow:
        """The first Message of a stream that the peer opened is here."""
        flow = self._new_flow(number)
        if self._ending or len(self._waiting) + 1 > self._budget:
            # Nobody will have it: the peer hears so by a reset.
            self._refuse(flow)
            return flow
        self._waiting.append(flow)
        if self._incoming is not None:
            self.loop.call_soon(self._hand_out)
        return flow

    def _refuse(self, flow: SCTPFlow) -> None:
        flow.discard()
        if self.mapped:
            self._reset_soon(flow)

    def holds(self, difference: int) -> None:
        """A flow holds so many bytes more, or less, for its receiver."""
        self._held += difference
        if self._holds is not (self._held > HELD):
            self._holds = not self._holds
            self.engine.hold(self._holds)

    def noticed(self, notice: Notice) -> None:
        """What happened to Messages, streams and paths."""
        match notice:
            case Dry(up_to):
                self._settle(up_to)
                # It waited to be read, and more may have been sent since.
                if self._outstanding and self.engine.is_dry():
                    self._outstanding = 0
                    self.has_room()
            case Unsent(number, was_on_wire):
                self._given_up(number, was_on_wire)
            case Reset(streams, incoming):
                for number in streams or tuple(self.flows):
                    self._was_reset(number, incoming=incoming)
                self._reset()
            case ResetFailed(for_good):
                self._denied(for_good)
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

    def _denied(self, for_good: bool) -> None:
        """What was asked for last is not to be had, at least not now."""
        resetting, self._resetting = self._resetting, {}
        if not resetting:
            self._tell_wanting(
                EstablishmentError("the peer allows no more streams", reason=Reason.NOT_CLONEABLE)
            )
        elif for_good:
            for flow in resetting.values():
                self._stays(flow)
        else:
            self._to_reset |= resetting
            self._try_again()

    def _settle(self, up_to: int | None = None) -> None:
        """All that was sent, up to a number, has arrived, or was given up on the way."""
        for number in tuple(self._uncertain):
            # Numbers begin anew some day.
            if up_to is not None and (up_to - number) % _NUMBERS > _NUMBERS // 2:
                break
            found = self._uncertain.pop(number, None)
            if found is not None:
                flow, record, _ = found
                flow.outcome(record, None)
        if self._settling:
            self._go_on()

    def _given_up(self, number: int, was_on_wire: bool) -> None:
        found = self._uncertain.pop(number, None)
        if found is not None:
            flow, record, _ = found
            flow.outcome(record, None if was_on_wire else _expired(record))
            if self._settling:
                self._go_on()

    def said_goodbye(self) -> None:
        """The peer has shut down: nothing more comes, and nothing more can be sent."""
        for flow in tuple(self.flows.values()):
            flow.peer_has_finished()

    def ended(self, error: OSError | None) -> None:
        """The association is over."""
        self.over = True
        if error is None:
            self._settle()
            self._end_flows(None)
        else:
            failed = connection_failed(error, str(self.engine.remote_endpoint))
            if self.engine.words:
                failed.args = (f"{failed}, and says why: {self.engine.words}",)
            self._end_flows(failed)

    def _end_flows(self, error: Exception | None) -> None:
        for timer in (self._again, self._overdue):
            if timer is not None:
                timer.cancel()
        self._tell_wanting(
            EstablishmentError("the association is over", reason=Reason.NOT_CLONEABLE)
        )
        unsent = {each.flow for each in self._queue}
        flows, self.flows = self.flows, {}
        for lasting in (self._queue, self._waiting, self._uncertain, self._early):
            lasting.clear()
        for flow in flows.values():
            if error is None and flow in unsent:
                flow.end(_cut_short())
            else:
                flow.end(error)


def _expired(record: SendRecord) -> Expired:
    return Expired("the Message's lifetime was over before it was sent", context=record.context)


def _cut_short() -> ConnectionError:
    return ConnectionError(
        "the peer ended the association before all was sent", reason=Reason.CONNECTION_CLOSED
    )
