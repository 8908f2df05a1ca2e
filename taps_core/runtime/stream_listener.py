"""A ListeningFlow ready-made, for transports that listen on a stream socket.

Not ``loop.create_server``: its acceptance cannot be paused on uvloop, and a
Listener at its limit must leave further connections in the kernel's backlog.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from taps_core.model.layers import ListeningFlow
from taps_core.runtime.stream_flow import StreamFlow
from taps_core.runtime.system_errors import EXHAUSTED, establishment_failed

if TYPE_CHECKING:
    import socket
    from typing import Self

    from taps_core.model.endpoints import LocalEndpoint
    from taps_core.model.flow import Flow
    from taps_core.model.layers import ListenRequest

__all__ = ["StreamListener"]

#: The kernel cuts it to its own limit (net.core.somaxconn).
BACKLOG: Final = 65535
#: Connections taken per turn of the loop; others come in between.
BATCH: Final = 64

_log: Final = logging.getLogger("taps_core")


class StreamListener(ListeningFlow):
    """One listening socket, and what it accepts.

    Made by :meth:`open`. Override :meth:`flow` for flows of another class,
    :meth:`adopt` for flows that own their socket themselves, and :meth:`stopping`
    for what has to go when the listener goes.

    Args:
        sock: Listening, non-blocking. Belongs to the listener.
        request: As ``Transport.listen`` was given it.
        local: What was really bound; ``None``: as the request says.

    Attributes:
        sock: The listening socket.
        request: As given.
        rest: Seconds to leave the backlog alone when descriptors or memory have
            run out.
    """

    rest: ClassVar[float] = 0.1

    def __init__(
        self, sock: socket.socket, request: ListenRequest, local: LocalEndpoint | None = None
    ) -> None:
        self.sock = sock
        self.request = request
        self._local = local or request.local
        self._loop = asyncio.get_running_loop()
        # In the moment between accept(2) and connection_made.
        self._adopting: dict[asyncio.Task[None], socket.socket] = {}
        # Accepted before a pause took effect; they wait, unstarted.
        self._waiting: deque[Flow] = deque()
        self._paused = False
        self._closed = False
        self._rest: asyncio.TimerHandle | None = None
        self._watch()

    @classmethod
    def open(cls, sock: socket.socket, address: Any, request: ListenRequest) -> Self:
        """Bind a socket, and listen.

        Args:
            sock: Not bound. Belongs to the listener; closed if there will be none.
            address: As ``socket.bind`` takes it.
            request: As ``Transport.listen`` was given it.

        Raises:
            EstablishmentError: It failed, in our words.
        """
        try:
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(BACKLOG)
            return cls(sock, request)
        except OSError as error:
            sock.close()
            raise establishment_failed(error, f"listen at {request.local}") from error
        except BaseException:
            sock.close()
            raise

    def flow(self, sock: socket.socket, address: Any) -> Flow:
        """What becomes of an accepted socket.

        Args:
            sock: Connected. Belongs to the flow once the loop has it.
            address: The peer's, as ``accept`` gave it.

        Returns:
            A flow that is also the :class:`asyncio.Protocol` to give the socket to.
        """
        return StreamFlow(sock, local=self._local)

    async def adopt(self, sock: socket.socket, address: Any) -> Flow:
        """Let a flow have an accepted socket; here by the loop, as the transport's protocol.

        Args:
            sock: Connected. Belongs to the flow when this returns.
            address: The peer's, as ``accept`` gave it.

        Raises:
            OSError: The connection is gone again.
        """
        flow = self.flow(sock, address)
        protocol = cast("asyncio.Protocol", flow)
        await self._loop.connect_accepted_socket(lambda: protocol, sock)
        return flow

    def stopping(self) -> None:
        """Called once, right before the listening socket is closed."""

    @property
    def local_endpoint(self) -> LocalEndpoint:
        """Where it listens."""
        return self._local

    def pause(self) -> None:
        """Leave further connections in the kernel's backlog."""
        self._paused = True
        self._unwatch()

    def resume(self) -> None:
        """Take connections again."""
        if self._paused and not self._closed:
            self._paused = False
            self._loop.call_soon(self._hand_over_waiting)
            self._watch()

    async def close(self) -> None:
        """Free the place; connections that were not handed out yet are dropped."""
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        self.stopping()
        self.sock.close()
        while self._waiting:
            self._waiting.popleft().abort()
        adopting = tuple(self._adopting)
        for task in adopting:
            task.cancel()
        await asyncio.gather(*adopting, return_exceptions=True)

    def _watch(self) -> None:
        self._loop.add_reader(self.sock.fileno(), self._accept)

    def _unwatch(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self.sock.fileno() != -1:
            self._loop.remove_reader(self.sock.fileno())

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                sock, address = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause_for_resources(error)
                    return
                # Errors of a connection that is gone already (ECONNABORTED; on
                # Linux also what its network reported): the next one may be fine.
                continue
            task = self._loop.create_task(self._adopt(sock, address))
            self._adopting[task] = sock
            task.add_done_callback(self._adopted)

    def _pause_for_resources(self, error: OSError) -> None:
        # The socket stays readable: without a pause the loop would spin.
        _log.warning("cannot accept connections at %s for now: %s", self._local, error.strerror)
        self._unwatch()
        self._rest = self._loop.call_later(self.rest, self._watch_again)

    def _watch_again(self) -> None:
        self._rest = None
        self._watch()

    async def _adopt(self, sock: socket.socket, address: Any) -> None:
        try:
            flow = await self.adopt(sock, address)
        except OSError:  # gone again; some systems refuse options then
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        # Before it is handed over: from then on it is not the listener's to close.
        self._adopted(asyncio.current_task())
        if self._paused or self._waiting:
            self._waiting.append(flow)
        else:
            self._hand_over(flow)

    def _adopted(self, task: asyncio.Task[None] | None) -> None:
        sock = None if task is None else self._adopting.pop(task, None)
        if sock is not None and task is not None and task.cancelled():
            # Perhaps before it began. Here, since whoever closes may be cancelled too.
            sock.close()

    def _hand_over_waiting(self) -> None:
        while self._waiting and not self._paused:
            self._hand_over(self._waiting.popleft())

    def _hand_over(self, flow: Flow) -> None:
        try:
            self.request.incoming(flow, None)
        except Exception as error:  # noqa: BLE001  # it costs that connection, and no other
            flow.abort()
            self._loop.call_exception_handler(
                {"message": f"the taker of {self._local} raised", "exception": error}
            )
