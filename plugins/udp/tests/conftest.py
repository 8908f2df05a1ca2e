"""Real sockets on loopback, on both event loops; peers are plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.testing import End, connect_request, listen_request, run
from taps_udp import UDP

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.plugin import Flow
    from taps_udp.listening import UDPListeningFlow

#: How long a test may wait for what must happen. Only a failing test gets there.
PATIENCE = 30.0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``linux`` are for Linux."""
    if item.get_closest_marker("linux") and sys.platform != "linux":
        pytest.skip("needs Linux' options or behaviour")


class Bench:
    """What most tests need: a transport, plain peers, flows that are ended in the end."""

    def __init__(self, loop: str) -> None:
        self.loop = loop
        self._ends: list[End] = []
        self._sockets: list[socket.socket] = []
        self._listeners: list[UDPListeningFlow] = []

    def run(self, main: Callable[[], Any]) -> None:
        """Run a test's coroutine; nothing may be left when it is done."""

        async def whole() -> None:
            async with asyncio.timeout(PATIENCE):
                try:
                    await main()
                finally:
                    for listener in self._listeners:
                        await listener.close()
                    for end in self._ends:
                        if not end.started:
                            end.start()
                        end.flow.abort()
                    for end in self._ends:
                        await end.recorder.until(lambda end=end: end.recorder.is_closed)
                    for sock in self._sockets:
                        sock.close()
            broken = [each for end in self._ends for each in end.flow.violations]
            assert not broken, broken[0]

        run(whole, loop=self.loop)

    def peer(
        self, address: str = "127.0.0.1", port: int = 0, *, protocol: int = 0
    ) -> socket.socket:
        """A plain, bound, non-blocking socket."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
        self._sockets.append(sock)
        sock.setblocking(False)
        sock.bind((address, port))
        return sock

    async def recv(self, sock: socket.socket) -> tuple[bytes, Any]:
        """The next datagram that a plain socket gets, and from where."""
        while True:
            with contextlib.suppress(BlockingIOError):
                return sock.recvfrom(65535)
            await asyncio.sleep(0.001)

    def adopt(self, flow: Flow, *, start: bool = True) -> End:
        end = End(flow, start)
        self._ends.append(end)
        return end

    async def connect(self, remote: Any, *, transport: UDP | None = None, **more: Any) -> End:
        """A started flow to a plain socket, or to an address."""
        if isinstance(remote, socket.socket):
            address = remote.getsockname()
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            remote = f"{host}:{address[1]}"
        flow = await (transport or UDP()).connect(connect_request(remote, **more))
        return self.adopt(flow)

    async def listen(
        self,
        incoming: Callable[[Any, Any], None],
        local: str = "127.0.0.1:0",
        *,
        transport: UDP | None = None,
        **more: Any,
    ) -> UDPListeningFlow:
        listener = await (transport or UDP()).listen(listen_request(local, incoming, **more))
        self._listeners.append(listener)
        return listener

    def counted(self, end: End) -> CountingSocket:
        """Put a counting socket below a flow."""
        port: Any = end.flow.lower._port
        port.sock = CountingSocket(port.sock)
        return port.sock

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():  # noqa: ASYNC110  # no event: often it is the kernel's state
            await asyncio.sleep(0.001)

    async def settle(self) -> None:
        """Turns of the loop, and a moment for the kernel, so that nothing is still coming."""
        for _ in range(5):
            await asyncio.sleep(0.005)


class CountingSocket:
    """In place of a flow's socket: counts what is called, refuses what it is told to.

    Attributes:
        calls: The names of the methods called, in order.
        sizes: How many bytes each ``sendmsg`` was given.
        refusals: Raised instead of sending, one for each call, ``None`` for none.
        full: Whether there is no room.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.calls: list[str] = []
        self.sizes: list[int] = []
        self.refusals: list[OSError | None] = []
        self.full = False

    def send(self, *arguments: Any) -> int:
        self._refuse("send")
        return self._sock.send(*arguments)

    def sendto(self, *arguments: Any) -> int:
        self._refuse("sendto")
        return self._sock.sendto(*arguments)

    def sendmsg(self, buffers: Any, *arguments: Any) -> int:
        self.sizes.append(sum(map(len, buffers)))
        self._refuse("sendmsg")
        return self._sock.sendmsg(buffers, *arguments)

    def _refuse(self, name: str) -> None:
        self.calls.append(name)
        if self.full:
            raise BlockingIOError
        if self.refusals:
            refusal = self.refusals.pop(0)
            if refusal is not None:
                raise refusal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.fixture(params=["asyncio", "uvloop"])
def udp(request: pytest.FixtureRequest) -> Bench:
    """A bench on each loop."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed")
    return Bench(request.param)
