"""Real sockets on loopback, on both event loops; peers are plain sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.plugin import (
    ConnectRequest,
    ListenRequest,
    LocalEndpoint,
    RemoteEndpoint,
    SecurityParameters,
)
from taps_tcp import TCP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from taps_core.plugin import Flow
    from taps_tcp.flow import TCPFlow
    from taps_tcp.listening import TCPListeningFlow

#: How long a test may wait for what must happen. Only a failing test gets there.
PATIENCE = 30.0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``linux`` are for Linux."""
    if item.get_closest_marker("linux") and sys.platform != "linux":
        pytest.skip("needs Linux' options or behaviour")


class Recorder:
    """A Receiver that notes everything, and whether it came at a wrong moment."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.chunks: list[bytes] = []
        self.downward = False
        self.raising: Exception | None = None
        #: A list where there may be some.
        self.soft_errors: list[Any] | None = None
        self._changed: asyncio.Future[None] | None = None

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def names(self) -> list[str]:
        """Events in order, runs of data as one."""
        names: list[str] = []
        for name, _ in self.events:
            if name != "received" or not names or names[-1] != "received":
                names.append(name)
        return names

    @property
    def ended(self) -> bool:
        return any(name == "closed" for name, _ in self.events)

    @property
    def error(self) -> Exception | None:
        """What ``closed`` reported; there must have been exactly one, as the last."""
        assert [name for name, _ in self.events].count("closed") == 1
        name, error = self.events[-1]
        assert name == "closed"
        return error

    def _note(self, name: str, value: Any = None) -> None:
        assert not self.downward, f"{name} came from inside a downward call"
        self.events.append((name, value))
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
        if self.raising is not None and name != "closed":
            raise self.raising

    def received(self, parts: Any) -> None:
        for data, context, end in parts:
            assert type(data) is bytes
            assert context is None
            assert end is False
            self.chunks.append(data)
        self._note("received", sum(len(part[0]) for part in parts))

    def finished(self) -> None:
        self._note("finished")

    def writable(self, writable: bool, /) -> None:
        self._note("writable", writable)

    def outcome(self, record: Any, error: Any) -> None:
        raise AssertionError("TCP reports no outcomes")

    def notified(self, event: Any) -> None:
        assert self.soft_errors is not None, f"{event!r}, which nobody wanted or expected"
        self.soft_errors.append(event)
        self._note("notified", event)

    def failed(self, error: Any, fatal: bool) -> None:
        raise AssertionError("a byte stream has no Message that could fail")

    def closed(self, error: Exception | None) -> None:
        self._note("closed", error)

    async def until(self, condition: Callable[[Recorder], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition(self):
                self._changed = asyncio.get_running_loop().create_future()
                await self._changed


class Bench:
    """What most tests need: the transport, its address, plain peers."""

    def __init__(self, address: str) -> None:
        self.transport = TCP()
        self.address = address
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.Recorder = Recorder

    def request(self, port: int, local: LocalEndpoint | None = None, **properties: Any) -> Any:
        named = {name.replace("__", "."): value for name, value in properties.items()}
        return ConnectRequest(
            remote=RemoteEndpoint(ip_address=self.address, port=port),
            local=local,
            properties=named,
            security=SecurityParameters.disabled(),
        )

    async def connect(self, port: int, **more: Any) -> TCPFlow:
        return await self.transport.connect(self.request(port, **more))

    async def listen(
        self,
        incoming: Callable[[Flow, Any], None],
        local: LocalEndpoint | None = None,
        **properties: Any,
    ) -> TCPListeningFlow:
        return await self.transport.listen(
            ListenRequest(
                local=local or LocalEndpoint(ip_address=self.address, port=0),
                properties=properties,
                security=SecurityParameters.disabled(),
                incoming=incoming,
            )
        )

    def server(self, backlog: int = 16) -> socket.socket:
        """A listening plain socket."""
        server = socket.socket(self.family, socket.SOCK_STREAM)
        server.setblocking(False)
        server.bind((self.address, 0))
        server.listen(backlog)
        return server

    async def pair(self, **more: Any) -> tuple[TCPFlow, socket.socket]:
        """A flow that is not started, and its peer."""
        with self.server() as server:
            flow = await self.connect(server.getsockname()[1], **more)
            peer = await self.accept(server)
        return flow, peer

    async def started(self, **more: Any) -> tuple[TCPFlow, Recorder, socket.socket]:
        flow, peer = await self.pair(**more)
        recorder = Recorder()
        flow.start(recorder)
        return flow, recorder, peer

    async def accept(self, server: socket.socket) -> socket.socket:
        async with asyncio.timeout(PATIENCE):
            peer, _ = await asyncio.get_running_loop().sock_accept(server)
        return peer

    async def dial(self, port: int, address: str | None = None) -> socket.socket:
        """A plain client."""
        address = address or self.address
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        peer = socket.socket(family, socket.SOCK_STREAM)
        peer.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(peer, (address, port))
        except BaseException:
            peer.close()
            raise
        return peer

    async def recv(self, peer: socket.socket, size: int = 65536) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(peer, size)

    async def recv_all(self, peer: socket.socket) -> bytes:
        """Everything up to the FIN."""
        chunks = []
        while chunk := await self.recv(peer):
            chunks.append(chunk)
        return b"".join(chunks)

    async def sendall(self, peer: socket.socket, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_sendall(peer, data)

    def reset(self, peer: socket.socket) -> None:
        """Close with RST."""
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()

    async def end(self, flow: TCPFlow, recorder: Recorder, peer: socket.socket) -> None:
        """In order, from both sides."""
        flow.close()
        peer.close()
        await recorder.until(lambda r: r.ended)

    async def settle(self) -> None:
        """Turns of the loop, and a moment for the kernel, so that nothing is still coming."""
        for _ in range(5):
            await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  # no event: often it is the kernel's state
                await asyncio.sleep(0.001)


def _sockets() -> set[str]:
    links = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the one that listed them
            continue
        if link.startswith("socket:"):
            links.add(link)
    return links


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a coroutine function on one of the loops; afterwards no socket and task is left."""
    factory = None
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop", reason="uvloop is not installed").new_event_loop
    countable = os.path.isdir("/proc/self/fd")

    async def alone(main: Callable[[], Awaitable[Any]]) -> Any:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
        result = await main()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not problems
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    def runner(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        before = _sockets() if countable else set()
        with asyncio.Runner(loop_factory=factory) as loops:
            result = loops.run(alone(main))
        gc.collect()
        if countable:
            assert _sockets() <= before, "a socket was left open"
        return result

    return runner


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(params=["127.0.0.1", "::1"])
def tcp(request: pytest.FixtureRequest) -> Bench:
    """On IPv4 and on IPv6."""
    if ":" in request.param and not _has_ipv6():
        pytest.skip("there is no IPv6 loopback address")
    return Bench(request.param)


@pytest.fixture
def tcp4() -> Bench:
    """On IPv4, for what does not depend on the address family."""
    return Bench("127.0.0.1")


@pytest.fixture
def ipv6_loopback() -> str:
    """Only where there is IPv6."""
    if not _has_ipv6():
        pytest.skip("there is no IPv6 loopback address")
    return "::1"
