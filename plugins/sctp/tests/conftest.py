"""Both ends of associations, on the lab's hosts, through the public interface."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from taps_sctp import SCTP
from taps_sctp.flow import SCTPFlow

import taps_core as taps
from tests.lab.network import Network

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from taps_core.testing.fixtures import Run

#: Seconds that a test may take inside; only a failing one does.
PATIENCE = 60.0


class Ends:
    """A Listener on the server, and all that was connected to it from the client."""

    def __init__(self, network: Network, listener: taps.Listener, **there: Any) -> None:
        self.network = network
        self.listener = listener
        self._there = there
        self.connections: list[taps.Connection[Any]] = []

    @property
    def port(self) -> int:
        port = self.listener.local_endpoints[0].port
        assert port is not None
        return port

    async def connect(self, **properties: Any) -> taps.Connection[Any]:
        """A further one."""
        server = self.network.server
        preconnection = over_sctp(
            remote=f"{server.address()}:{self.port}", **{**self._there, **properties}
        )
        with self.network.client.use():
            connection = await preconnection.initiate()
        self.connections.append(connection)
        return connection

    async def pair(self, **properties: Any) -> tuple[taps.Connection[Any], taps.Connection[Any]]:
        """A further one, and the server's end of it."""
        client = await self.connect(**properties)
        server = await self.listener.accept()
        self.connections.append(server)
        return client, server


def over_sctp(
    *, local: str | None = None, remote: str | None = None, **properties: Any
) -> taps.Preconnection:
    """SCTP and nothing else."""
    transport = taps.TransportProperties()
    transport.reliable_message()
    for name, value in {"perMsgReliability": "no_preference", **properties}.items():
        transport.set(name, value)
    return taps.Preconnection(
        local=local,
        remote=remote,
        transport=transport,
        security=taps.SecurityParameters.disabled(),
        system=taps.System(plugins=[SCTP()]),
    )


class Lab:
    """Runs a test's coroutine with the lab's network."""

    def __init__(self, run: Run, network: Network) -> None:
        self._run = run
        self.network = network

    def run(
        self, main: Callable[[], Coroutine[Any, Any, None]], patience: float = PATIENCE
    ) -> None:
        """Until it is done; nothing may be left."""

        async def whole() -> None:
            async with asyncio.timeout(patience):
                await main()

        self._run(whole, timeout=patience + 10)

    @contextlib.asynccontextmanager
    async def listening(self, *, there: Any = None, **properties: Any) -> AsyncIterator[Ends]:
        """A Listener; in the end everything is aborted.

        Args:
            there: Properties of those that connect.
            **properties: Of the Listener.
        """
        server = self.network.server
        here = over_sctp(local=f"{server.address()}:0", **properties)
        with server.use():
            listener = await here.listen()
        ends = Ends(self.network, listener, **(there or {}))
        try:
            yield ends
        finally:
            for connection in ends.connections:
                connection.abort_group()
            listener.stop()
            await listener.stopped()


@pytest.fixture(scope="module")
def _calm() -> Iterator[Network]:
    with Network() as network:
        network.lay()
        yield network


@pytest.fixture
def lab(run: Run, _calm: Network) -> Lab:
    """Two hosts and a path between them that stays as it is."""
    return Lab(run, _calm)


@pytest.fixture
def rough(run: Run, two_hosts: Network) -> Lab:
    """Two hosts and a path between them that is the test's own."""
    return Lab(run, two_hosts)


def kernel_socket(connection: taps.Connection[Any]) -> socket.socket:
    """Of its association: what the kernel counts is asked there."""
    association: Any = connection.find(SCTPFlow)._association  # type: ignore[union-attr]  # it is one
    sock: socket.socket = association.engine._sock
    return sock


async def until(condition: Callable[[], Any]) -> None:
    """Until it holds: often it is the kernel's state."""
    async with asyncio.timeout(PATIENCE):
        while True:  # there is no event
            if condition():
                return
            await asyncio.sleep(0.002)
