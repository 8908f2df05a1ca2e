"""Messages with streams in memory: what SCTP is to the layers above.

Each Connection of a group is a stream of one association, the
:class:`MemorySession`. A stream costs no handshake and is not announced: the
peer learns of it by its first Message.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, cast

from taps_core.model.capabilities import Capabilities, Support
from taps_core.model.errors import EstablishmentError, Expired, Reason
from taps_core.model.flow import RecordCarrier, Session
from taps_core.model.layers import Transport
from taps_core.testing.memory import MemoryListener, answered, hand_over
from taps_core.testing.memory_connected import WINDOW, ConnectedFlow
from taps_core.testing.memory_flow import joined
from taps_core.testing.memory_wire import Item, MemoryWire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.model.flow import Data, Flow
    from taps_core.model.layers import ConnectRequest, ListeningFlow, ListenRequest
    from taps_core.model.messages import SendRecord
    from taps_core.testing.memory import MemoryNetwork
    from taps_core.testing.memory_connected import Chunk
    from taps_core.testing.ports import Address

__all__ = ["MemoryMessages", "MemoryMessagesFlow", "MemorySession"]

T = TypeVar("T")

#: Streams that wait where nobody has said yet whether streams are welcome.
_WAITING_STREAMS = 16


class _MessageItem(Item):
    __slots__ = ("ordered", "timer", "unreliable")

    def __init__(self, data: bytes, end_of_message: bool, *, cost: int) -> None:
        super().__init__(data, end_of_message, cost=cost)
        self.ordered = True
        #: Whether it may be lost.
        self.unreliable = False
        #: When it is given up.
        self.timer: asyncio.TimerHandle | None = None


class MemoryMessagesFlow(ConnectedFlow):
    """One end of a stream of an association.

    Boundaries are kept; a Message that was sent in parts arrives in parts.
    With ``msgOrdered`` False a Message overtakes the ordered ones that wait for
    the peer's window. With ``msgReliable`` False, or a ``msgLifetime``, a whole
    Message may be given up while it waits: its ``send`` returned True, and its
    ``outcome`` is None or Expired.
    """

    overhead = 64  # zero-length Messages fill a window too
    session: MemorySession

    def __init__(
        self,
        session: MemorySession,
        number: int,
        *,
        hidden: bool = False,
    ) -> None:
        super().__init__(
            session.network,
            session.here,
            session.there,
            window=session.window,
            chunk=session.chunk,
            context=session.context.copy(),
            remote=session.remote,
        )
        self.session = session
        #: Which stream of the association.
        self.number = number
        #: The peer opened it and has sent nothing yet.
        self.hidden = hidden
        if hidden:
            self.network.remove_flow(self)
        self._unordered: deque[Item] = deque()
        self._continued: deque[Item] | None = None  # from which a Message was begun
        self._inside = False  # ``send`` is in the middle of a Message
        self._ordered = True  # that Message

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, stream {self.number}>"

    def find(self, wanted: type[T], /) -> T | None:
        """The flow itself, or a carrier for the records of a security layer."""
        if wanted is RecordCarrier:
            return cast("T", RecordCarrier())
        return super().find(wanted)

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Gather a Message or a part of one; it leaves at ``flush``.

        Returns:
            True for a whole Message that may be given up; see the class.
        """
        self._check_open()
        whole = joined(data)
        item = _MessageItem(whole, end_of_message, cost=len(whole) + self.overhead)
        properties = {} if record is None else record.properties
        begins, self._inside = not self._inside, not end_of_message
        if begins:
            self._ordered = properties.get("msgOrdered", True)
            if end_of_message and record is not None:
                self._allow_loss(item, record)
        item.ordered = self._ordered
        self._gather(item)
        return True if item.record is not None else None

    def _allow_loss(self, item: _MessageItem, record: SendRecord) -> None:
        item.unreliable = record.properties.get("msgReliable") is False
        lifetime = record.properties.get("msgLifetime", math.inf)
        if item.unreliable or lifetime < math.inf:
            item.record = record
        if lifetime < math.inf:
            item.timer = self._loop.call_later(lifetime, self._lifetime_over, item)

    def _enqueue(self, item: Item) -> None:
        (self._queue if _own(item).ordered else self._unordered).append(item)

    def _next(self, room: int) -> Item | None:
        while True:
            # No other Message between the parts of one, so its rest is awaited.
            source = self._continued
            if source is None:
                source = self._unordered or self._queue
            if not source:
                return None
            item = _own(source.popleft())
            self._continued = None if item.end_of_message else source
            _stop_timer(item)
            if not (item.unreliable and self.session.lose and self.session.lose(item.data)):
                return item
            self._give_up(item)

    def _lifetime_over(self, item: _MessageItem) -> None:
        for waiting in (self._gathered, self._queue, self._unordered):
            if item in waiting:
                waiting.remove(item)
                self._give_up(item)
                self.pump()

    def _give_up(self, item: _MessageItem) -> None:
        record = item.record
        assert record is not None  # by _allow_loss
        self._pending -= item.cost
        self.settled(record, Expired("given up before it was delivered", context=record.context))

    # -- appearing

    def arrived(self, item: Item) -> bool:
        """The first Message makes the stream known here."""
        self._appear()
        return super().arrived(item)

    def fin_came(self, closing: bool) -> None:
        """A stream that was opened and never used was never here."""
        if self.hidden and closing:
            self._end(None)
        else:
            self._appear()
            super().fin_came(closing)

    def _appear(self) -> None:
        if self.hidden and not self._over:
            self.hidden = False
            self.network.add_flow(self)
            self.session.appeared(self)

    def _end(self, error: Exception | None) -> bool:
        waiting = [*self._gathered, *self._queue, *self._unordered]
        self._unordered.clear()
        if not super()._end(error):
            return False
        for item in waiting:
            _stop_timer(_own(item))
        self.session.ended(self)
        return True


class MemorySession(Session):
    """One end of an association.

    Until ``accept_streams`` is called, up to 16 streams of the peer wait. It is
    over when it was closed or aborted, or when the last stream has ended that
    anybody here holds; streams that nobody took are aborted then.

    Args:
        network: Where its streams are counted.
        here: Address of this end.
        there: Address of the other end.
        window: Bytes that a stream of this end holds for its receiver.
        chunk: Most bytes that come up at once; longer Messages come in parts.
        lose: Whether an unreliable Message gets lost that this end sends.
        context: In which streams of the peer are handed out and call up.
        remote: The remote endpoint to report; ``None``: made from ``there``.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        here: Address,
        there: Address,
        *,
        window: int,
        chunk: Chunk | None,
        lose: Callable[[bytes], bool] | None,
        context: contextvars.Context,
        remote: RemoteEndpoint | None = None,
    ) -> None:
        self.network = network
        self.here = here
        self.there = there
        self.window = window
        self.chunk = chunk
        self.lose = lose
        self.context = context
        self.remote = remote
        self.peer = self
        #: Shared by both ends.
        self.numbers = itertools.count()
        self.streams: set[MemoryMessagesFlow] = set()
        #: No stream can be opened any more, by neither end.
        self.over = False
        self._loop = asyncio.get_running_loop()
        self._incoming: Callable[[Flow], None] | None = None
        self._budget: float = _WAITING_STREAMS
        self._waiting: deque[MemoryMessagesFlow] = deque()
        self._scheduled = False

    def __repr__(self) -> str:
        return f"<MemorySession {self.here} → {self.there}, {len(self.streams)} streams>"

    def first_streams(self) -> tuple[MemoryMessagesFlow, MemoryMessagesFlow]:
        """Both ends of the stream that comes with the association."""
        return self._open(hidden=False)

    async def open_stream(self, properties: Mapping[str, Any]) -> MemoryMessagesFlow:
        """A further stream, at once; the peer learns of it by its first Message."""
        if self.over or self.peer.over:
            raise EstablishmentError("the association is closed", reason=Reason.NOT_CLONEABLE)
        if self.peer.room < 1:
            raise EstablishmentError(
                "the peer allows no more streams", reason=Reason.NOT_CLONEABLE, transient=True
            )
        return self._open(hidden=True)[0]

    def accept_streams(self, incoming: Callable[[Flow], None] | None, limit: float) -> None:
        """Hand every stream that the peer opens to ``incoming``, from the loop."""
        self._incoming = incoming
        self._budget = limit if incoming is not None else min(limit, _WAITING_STREAMS)
        self._wake()

    def close(self) -> None:
        """Close each stream; neither end opens any more."""
        self.over = True
        for flow in tuple(self.streams):
            flow.close()

    def abort(self) -> None:
        """Abort each stream; neither end opens any more."""
        self.over = True
        for flow in tuple(self.streams):
            flow.abort()

    @property
    def room(self) -> float:
        """How many streams the peer may still open."""
        unseen = sum(flow.hidden for flow in self.streams) + len(self._waiting)
        return self._budget - unseen

    def appeared(self, flow: MemoryMessagesFlow) -> None:
        """The first Message of a stream that the peer opened is here."""
        self._waiting.append(flow)
        self._wake()

    def ended(self, flow: MemoryMessagesFlow) -> None:
        """A stream is over."""
        self.streams.discard(flow)
        if flow in self._waiting:
            self._waiting.remove(flow)
        elif not flow.hidden and all(
            other.hidden or other in self._waiting for other in self.streams
        ):
            self.abort()

    def _open(self, hidden: bool) -> tuple[MemoryMessagesFlow, MemoryMessagesFlow]:
        number = next(self.numbers)
        flow = MemoryMessagesFlow(self, number)
        peer = MemoryMessagesFlow(self.peer, number, hidden=hidden)
        MemoryWire.join(self.network, flow, peer)
        self.streams.add(flow)
        self.peer.streams.add(peer)
        return flow, peer

    def _wake(self) -> None:
        if not self._scheduled and self._waiting and self._incoming is not None:
            self._scheduled = True
            self._loop.call_soon(self._hand_out, context=self.context)

    def _hand_out(self) -> None:
        self._scheduled = False
        while self._waiting and self._incoming is not None and self._budget >= 1:
            self._budget -= 1
            hand_over(self._waiting.popleft(), self._incoming)


class MemoryMessages(Transport):
    """Transport ``memory-messages``: reliable Messages, streams, partial reliability.

    Args:
        network: Where its listeners are, and whom it reaches.
        window: Bytes that a stream holds for a receiver that does not take
            them; as much again waits at the sender before it says that it is full.
        chunk: Most bytes that come up at once: longer Messages are delivered in
            parts, one in each turn. ``None``: as they were sent.
        lose: Asked for each Message with ``msgReliable`` False that is about to
            leave: whether it gets lost.
        backlog: Associations that wait for a paused listener.
    """

    name = "memory-messages"
    capabilities = Capabilities.messages(
        perMsgReliability=Support.OPTIONAL, multistreaming=Support.ALWAYS
    ).but(
        effects={
            "final": Support.ALWAYS,
            "groupConnLimit": Support.ALWAYS,
            "msgLifetime": Support.ALWAYS,
            "msgOrdered": Support.ALWAYS,
            "msgReliable": Support.ALWAYS,
        }
    )

    def __init__(
        self,
        network: MemoryNetwork,
        *,
        window: int = WINDOW,
        chunk: Chunk | None = None,
        lose: Callable[[bytes], bool] | None = None,
        backlog: int = 128,
    ) -> None:
        self._network = network
        self._backlog = backlog
        self._facts: dict[str, Any] = {"window": window, "chunk": chunk, "lose": lose}

    async def connect(self, request: ConnectRequest) -> MemoryMessagesFlow:
        """The first stream of a new association, one round trip later."""
        here, there = self._network.ends(self.name, request)
        listener = await self._network.reach(self.name, here, there)
        session = MemorySession(
            self._network,
            here,
            there,
            context=contextvars.copy_context(),
            remote=request.remote,
            **self._facts,
        )
        session.peer = MemorySession(
            self._network, there, here, context=listener.context.copy(), **listener.facts
        )
        session.peer.peer = session
        session.peer.numbers = session.numbers
        flow, peer = session.first_streams()
        listener.offer(peer)
        return await answered(flow)

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        """A listener at ``request.local``."""
        return MemoryListener(
            self._network, self.name, request, backlog=self._backlog, **self._facts
        )


def _own(item: Item) -> _MessageItem:
    assert isinstance(item, _MessageItem)  # send makes no others
    return item


def _stop_timer(item: _MessageItem) -> None:
    if item.timer is not None:
        item.timer.cancel()
        item.timer = None
