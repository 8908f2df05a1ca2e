"""A byte stream in memory: what TCP is to the layers above."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from taps_core.model.capabilities import Capabilities, Support
from taps_core.model.layers import Transport
from taps_core.testing.memory import MemoryListener, answered
from taps_core.testing.memory_connected import WINDOW, ConnectedFlow
from taps_core.testing.memory_flow import joined
from taps_core.testing.memory_wire import Item, MemoryWire

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.model.flow import Data, PartTuple
    from taps_core.model.layers import ConnectRequest, ListeningFlow, ListenRequest
    from taps_core.model.messages import SendRecord
    from taps_core.testing.memory import MemoryNetwork
    from taps_core.testing.memory_connected import Chunk

__all__ = ["MemoryStream", "MemoryStreamFlow", "random_chunks"]


def random_chunks(seed: int, most: int = WINDOW) -> Callable[[int], int]:
    """Chunk sizes for :class:`MemoryStream`, small ones as likely as large ones.

    Args:
        seed: The same seed gives the same sizes.
        most: The largest one.
    """
    generator = random.Random(seed)  # to be repeatable, not to be secret

    def chunk(length: int) -> int:
        return generator.randint(1, 1 << generator.randint(0, min(length, most).bit_length()))

    return chunk


class MemoryStreamFlow(ConnectedFlow):
    """One end of a byte stream. Where Messages ended is lost on the way."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Gather the bytes; they leave at ``flush``, joined with what is there."""
        self._check_open()
        whole = joined(data)
        if whole:
            self._gather(Item(whole, False, cost=len(whole)))
        return None

    def flush(self) -> None:
        """Let everything gathered leave as one piece, as far as the peer's window goes."""
        if len(self._gathered) > 1:
            whole = b"".join([item.data for item in self._gathered])
            self._gathered = [Item(whole, False, cost=len(whole))]
        super().flush()

    def _next(self, room: int) -> Item | None:
        item = super()._next(room)
        if item is None or item.cost <= room:
            return item
        first = item.split(room)
        self._queue.appendleft(item)
        return first

    def _take(self) -> list[PartTuple]:
        # As a read from a socket: one piece, whatever pieces it was sent in.
        # Only what has a context (early data) stays by itself.
        first = self._inbox[0]
        if len(self._inbox) > 1 and all(item.context is first.context for item in self._inbox):
            whole = b"".join([item.data for item in self._inbox])
            self._inbox.clear()
            self._inbox.append(Item(whole, False, cost=len(whole), context=first.context))
        return super()._take()


class MemoryStream(Transport):
    """Transport ``memory-stream``: reliable ordered bytes, half-close, no boundaries.

    Args:
        network: Where its listeners are, and whom it reaches.
        window: Bytes that an end holds for a receiver that does not take them;
            as much again waits at the sender before it says that it is full.
        chunk: Most bytes that come up at once (of inbound and outbound flows):
            a number, or a function from the number of bytes that are there,
            such as :func:`random_chunks`. ``None``: all that is there.
        backlog: Connections that wait for a paused listener.
    """

    name = "memory-stream"
    capabilities = Capabilities.byte_stream().but(effects={"final": Support.ALWAYS})
    _flow: type[MemoryStreamFlow] = MemoryStreamFlow

    def __init__(
        self,
        network: MemoryNetwork,
        *,
        window: int = WINDOW,
        chunk: Chunk | None = None,
        backlog: int = 128,
    ) -> None:
        self._network = network
        self._window = window
        self._chunk = chunk
        self._backlog = backlog

    async def connect(self, request: ConnectRequest) -> MemoryStreamFlow:
        """A flow to the listener at ``request.remote``, one round trip later."""
        here, there = self._network.ends(self.name, request)
        listener = await self._network.reach(self.name, here, there)
        flow, peer = self._pair(request, here, there, listener)
        listener.offer(peer)
        return await answered(flow)

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        """A listener at ``request.local``."""
        return MemoryListener(
            self._network, self.name, request, backlog=self._backlog, **self._facts()
        )

    def _facts(self) -> dict[str, Any]:
        """What the clients need to know of a listener."""
        return {"window": self._window, "chunk": self._chunk}

    def _pair(
        self,
        request: ConnectRequest,
        here: tuple[str, int],
        there: tuple[str, int],
        listener: MemoryListener,
    ) -> tuple[MemoryStreamFlow, MemoryStreamFlow]:
        """Both ends of a new stream: the client's and the server's."""
        flow = self._flow(
            self._network,
            here,
            there,
            window=self._window,
            chunk=self._chunk,
            remote=request.remote,
        )
        peer = self._flow(
            self._network,
            there,
            here,
            window=listener.facts["window"],
            chunk=listener.facts["chunk"],
            context=listener.context.copy(),
        )
        MemoryWire.join(self._network, flow, peer)
        return flow, peer
