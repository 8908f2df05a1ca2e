"""Two ends of a transport, and ways to wait for what must come and to show what did not."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.layers import Transport
from taps_core.testing.requests import connect_request, listen_request
from taps_core.testing.rig import End

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from taps_core.model.endpoints import LocalEndpoint
    from taps_core.model.flow import Flow
    from taps_core.model.layers import ListeningFlow
    from taps_core.testing.conformance.base import TransportSuite

__all__ = ["Stage", "breaches", "names", "turns"]


async def turns(count: int = 10) -> None:
    """Let the loop run a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


class Stage:
    """A listener and flows of the transport that a suite tests, as a context manager.

    Leaving aborts what is open and waits for its end, yet fails for none of
    what other tests are about.
    """

    listener: ListeningFlow

    def __init__(self, suite: TransportSuite) -> None:
        self.suite = suite
        self.transport = suite.transport
        self.patience = suite.patience
        self.ends: list[End] = []
        self._inbound: deque[Flow] = deque()
        self._closed: set[int] = set()
        self._elsewhere: Stage | None = None

    async def __aenter__(self) -> Self:
        if type(self.transport).listen is Transport.listen:
            self.suite.not_claimed(f"{self.transport.label} does not listen")
        self.listener = await self.listen(self.place())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._elsewhere is not None:
            await self._elsewhere.__aexit__(kind, error, traceback)
        await self.close_listener()
        for end in self.ends:
            if not end.started:
                end.start()
            if not end.recorder.is_closed:
                end.flow.abort()
        for flow in self._inbound:
            self.drop(flow)
        deadline = asyncio.get_running_loop().time() + self.patience / 4
        for end in self.ends:
            try:
                async with asyncio.timeout_at(deadline):
                    await end.has_closed()
            except TimeoutError:
                pass  # a test of its own

    def place(self) -> LocalEndpoint:
        """A fresh place to listen at; without one the test ends here."""
        place = self.suite.place()
        if place is None:
            self.suite.not_claimed(
                "where two ends can meet is not known: loopback() of the transport says nothing, "
                "and the suite has neither `local` nor a `place()` of its own"
            )
        return place

    async def close_listener(self) -> None:
        """Close the listener, unless that was done: whether it may be twice has its own test."""
        if id(self.listener) not in self._closed:
            self._closed.add(id(self.listener))
            await self.listener.close()

    async def listen(
        self, local: LocalEndpoint, incoming: Callable[[Flow, Any], None] | None = None
    ) -> ListeningFlow:
        """A listener.

        Args:
            local: Where.
            incoming: Takes its flows; ``None``: they are accepted here.
        """
        return await self.transport.listen(
            listen_request(
                local,
                incoming or (lambda flow, _: self._inbound.append(flow)),
                definitions=self.transport.properties,
                **self.suite.properties,
            )
        )

    @property
    def remote(self) -> RemoteEndpoint:
        """Where a client finds the listener."""
        bound = self.listener.local_endpoint
        return RemoteEndpoint(
            ip_address=bound.ip_address,
            port=bound.port,
            interface=bound.interface,
            identifiers=bound.identifiers,
        )

    async def connect_to(self, remote: RemoteEndpoint) -> Flow:
        """What the transport makes of it."""
        return await self.transport.connect(
            connect_request(remote, definitions=self.transport.properties, **self.suite.properties)
        )

    async def connect(self, *, start: bool = True) -> End:
        """A client's end."""
        return self.adopt(await self.connect_to(self.remote), start)

    def drop(self, flow: Flow) -> None:
        """Start a flow that nobody needs, and abort it."""
        self.adopt(flow, start=True).flow.abort()

    @property
    def waiting(self) -> int:
        """Inbound flows that nobody has taken."""
        return len(self._inbound)

    def take(self) -> list[End]:
        """The server's ends of all flows that nobody has taken."""
        taken = [self.adopt(flow, start=True) for flow in self._inbound]
        self._inbound.clear()
        return taken

    async def accept(self, *, start: bool = True) -> End:
        """The server's end of the next flow."""
        await self.soon(lambda: self._inbound, "the listener hands over an inbound flow")
        return self.adopt(self._inbound.popleft(), start)

    async def pair(self, *, start: bool = True) -> tuple[End, End]:
        """Both ends of a new flow.

        Args:
            start: Whether the server's end is started.
        """
        while self._inbound:  # of what a test has sent too late
            self.drop(self._inbound.popleft())
        client = await self.connect()
        if not self.transport.capabilities.connected:
            # The peer learns of it by the first Message, which may be lost.
            await self.insist(lambda: client.send(b"first"), lambda: self._inbound, "a flow")
        server = await self.accept(start=start)
        if start and not self.transport.capabilities.connected:
            await self.soon(lambda: server.recorder.data, "the first Message comes")
            await turns()
            if self.suite.settling:
                await asyncio.sleep(self.suite.settling)
            server.recorder.forget()
        return client, server

    async def elsewhere(self) -> None:
        """Prove that time has passed: an exchange over a flow to a listener of its own.

        What was to happen before, by a transport that does not wait for
        anything, has happened then.
        """
        if self._elsewhere is None:
            stage = Stage(self.suite)
            await stage.__aenter__()
            self._elsewhere = stage
        client, server = await self._elsewhere.pair()
        for number in range(3):
            for sender, receiver in ((client, server), (server, client)):
                message = b"elsewhere %d" % number
                await self.insist(
                    partial(sender.send, message),
                    lambda receiver=receiver, message=message: message in receiver.recorder.data,  # type: ignore[misc]  # bound at once
                    "an exchange on another flow",
                )
        await turns()

    async def soon(self, condition: Callable[[], object], what: str) -> None:
        """Wait until ``condition()`` is true.

        Raises:
            AssertionError: It was not, for as long as the suite's patience goes.
        """
        assert await self.happens(condition), f"waited {self.patience:g} s in vain: {what}"

    async def happens(self, condition: Callable[[], object]) -> bool:
        """Whether ``condition()`` becomes true within the suite's patience."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        pause = 0.0
        while not condition():
            if loop.time() > deadline:
                return False
            # At first turn by turn, then less and less often.
            await asyncio.sleep(pause if pause > 0.0005 else 0)
            pause = min(0.01, pause + 0.00001)
        return True

    async def insist(
        self, act: Callable[[], object], condition: Callable[[], object], what: str
    ) -> None:
        """Do it until ``condition()`` is true: once, or again where Messages may be lost."""
        again = self.transport.capabilities.may_duplicate
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        act()
        while not condition():
            assert loop.time() < deadline, f"waited {self.patience:g} s in vain: {what}"
            before = loop.time() + min(0.05, self.patience / 10)
            while not condition() and loop.time() < before:  # noqa: ASYNC110  # conditions of all kinds
                await asyncio.sleep(0.0001)
            if again and not condition():
                act()

    def adopt(self, flow: Flow, start: bool = True) -> End:
        """Watch a flow, and end it when the stage is left."""
        end = End(flow, start)
        self.ends.append(end)
        return end


def breaches(end: End, what: str) -> list[str]:
    """The breaches of the data path's rules that mention ``what``."""
    return [violation for violation in end.flow.violations if what in violation]


def names(end: End) -> list[Any]:
    """The upward calls, by name."""
    return [call.name for call in end.recorder.calls]
