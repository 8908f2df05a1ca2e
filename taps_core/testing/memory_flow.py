"""What every flow in memory does the same way: its turns, its end, the way it sends.

All that comes up from a flow comes from its own callback of the loop, its
*turn*, at most one per iteration of the loop. So nothing ever comes up from
inside a downward call, neither one's own nor the peer's.
"""

from __future__ import annotations

import asyncio
import contextvars
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any

from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import ConnectionError
from taps_core.model.flow import Flow

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.model.events import Event
    from taps_core.model.flow import Data, Receiver
    from taps_core.testing.ports import Address, Ports

__all__ = ["Link", "MemoryFlow", "joined"]


def joined(data: Data) -> bytes:
    """The bytes of a Message.

    Raises:
        TypeError: It is not what the seam lets go down.
    """
    if type(data) is bytes:
        return data
    if type(data) is tuple:
        return b"".join(data)
    raise TypeError(f"bytes or a tuple of bytes go down, not {type(data).__name__}")


class Link:
    """One direction of a way: what goes in comes out in order, ``delay`` seconds later.

    Without a delay it comes out at once; whoever gets it waits for its turn.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._on_the_way: deque[tuple[float, Callable[..., None], tuple[Any, ...]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def carry(self, arrived: Callable[..., None], *what: Any) -> None:
        """Call ``arrived(*what)`` at the other end."""
        if not self._delay:
            arrived(*what)
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + self._delay
        self._on_the_way.append((due, arrived, what))
        if self._timer is None:
            self._timer = loop.call_at(due, self._due, loop)

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        # One timer for all, because those that are due together come in no
        # particular order. A loop may call early, by its clock's resolution.
        now = max(self._on_the_way[0][0], loop.time())
        while self._on_the_way and self._on_the_way[0][0] <= now:
            _, arrived, what = self._on_the_way.popleft()
            arrived(*what)
        self._timer = None
        if self._on_the_way:
            self._timer = loop.call_at(self._on_the_way[0][0], self._due, loop)


class MemoryFlow(Flow):
    """One end of a flow: its turns, and its end. Counted by the network until it is over.

    Args:
        network: Where it is counted.
        here: Address of this end.
        there: Address of the other end.
        context: In which it calls up; ``None``: a copy of the caller's.
        remote: The remote endpoint to report; ``None``: made from ``there``.
    """

    def __init__(
        self,
        network: Ports,
        here: Address,
        there: Address,
        *,
        context: contextvars.Context | None = None,
        remote: RemoteEndpoint | None = None,
    ) -> None:
        self.network = network
        self.here = here
        self.there = there
        self._local_endpoint = LocalEndpoint(ip_address=here[0], port=here[1])
        self._remote_endpoint = remote or RemoteEndpoint(ip_address=there[0], port=there[1])
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context() if context is None else context
        self._receiver: Receiver | None = None
        self._started = False
        self._scheduled = False
        self._paused = False
        #: ``close`` or ``abort`` was called: nothing but outcomes and ``closed`` comes up.
        self._closing = False
        #: Resources are released; ``closed`` came up or does at the next turn.
        self._over = False
        self._error: Exception | None = None
        self._news: deque[Event] = deque()
        network.add_flow(self)

    def __repr__(self) -> str:
        state = "over" if self._over else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {self.here} → {self.there} {state}>"

    @property
    def is_over(self) -> bool:
        """Whether it has ended; ``closed`` may still have to come up."""
        return self._over

    @property
    def local_endpoint(self) -> LocalEndpoint:
        """The address and port of this end."""
        return self._local_endpoint

    @property
    def remote_endpoint(self) -> RemoteEndpoint:
        """The address and port of the other end."""
        return self._remote_endpoint

    def start(self, receiver: Receiver) -> None:
        """Begin to call ``receiver``, from the next turn on.

        Raises:
            RuntimeError: It was started before.
        """
        if self._started:
            raise RuntimeError("start is called once")
        self._started = True
        self._receiver = receiver
        self._wake()

    def pause(self) -> None:
        """Hold what arrives, within bounds."""
        self._paused = True

    def resume(self) -> None:
        """Deliver again, from the next turn on."""
        self._paused = False
        self._wake()

    def tell(self, event: Event) -> None:
        """Let ``event``, a SoftError or PathChange, come up in the next turn."""
        if not self._closing and not self._over:
            self._news.append(event)
            self._wake()

    @property
    def _delivers(self) -> bool:
        return not (self._paused or self._closing or self._over)

    def _wake(self) -> None:
        """Have a turn: something may be there to come up."""
        if self._receiver is not None and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn, context=self._context)

    def _turn(self) -> None:
        self._scheduled = False
        receiver = self._receiver
        if receiver is None:
            return
        try:
            while self._news and not self._closing and not self._over:
                receiver.notified(self._news.popleft())
            self._up(receiver)
            if self._over:
                self._receiver = None
                receiver.closed(self._error)
        except Exception as error:  # noqa: BLE001  # the layers above are other people's: their failure ends this flow only
            self._loop.call_exception_handler(
                {"message": f"the receiver of {self!r} raised", "exception": error}
            )
            self._fail(ConnectionError(f"failed on what it received: {error}"))

    @abstractmethod
    def _up(self, receiver: Receiver) -> None:
        """Call up everything that is there, ``closed`` excepted."""

    @abstractmethod
    def _fail(self, error: Exception) -> None:
        """End it because of an error above."""

    def _end(self, error: Exception | None) -> bool:
        """Release everything; ``closed`` follows. False if that was done before."""
        if self._over:
            return False
        self._over = True
        self._error = error
        self.network.remove_flow(self)
        self._wake()
        return True
