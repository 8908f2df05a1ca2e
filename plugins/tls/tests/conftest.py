"""Certificates of a throw-away authority, and Connections over the kernel's TCP."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.testing import LocalAuthority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: How long a test may wait for what must happen. Only a failing test gets there.
PATIENCE = 30.0


class Authority(LocalAuthority):
    """Also vouches for what it should not any more."""

    def expired(self, *names: str) -> taps.Certificate:
        """One that was good until the last day of the year 2020."""
        return self.identity(*names, not_after=datetime.datetime(2020, 12, 31, tzinfo=datetime.UTC))


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@contextlib.asynccontextmanager
async def calling(
    server: Any,
    client: Any,
    *,
    name: str = "localhost",
    framers: Any = "line",
    client_framers: Any = None,
    timeout: float = PATIENCE,
    system: taps.System | None = None,
    **properties: Any,
) -> AsyncIterator[tuple[taps.Connection[Any], taps.Listener[Any]]]:
    """A Connection over TLS and TCP that is Ready, and the Listener; aborted at the end."""
    system = system or taps.System()
    transport = taps.TransportProperties(**properties)
    here = taps.Preconnection(
        local="127.0.0.1:0", security=server, framers=framers, transport=transport, system=system
    )
    async with here.listen() as listener:
        remote = taps.RemoteEndpoint(
            hostname=name, ip_address="127.0.0.1", port=listener.local_endpoints[0].port
        )
        there = taps.Preconnection(
            remote=remote,
            security=client,
            framers=client_framers or framers,
            transport=transport,
            system=system,
        )
        connection = await there.initiate(timeout=timeout)
        try:
            yield connection, listener
        finally:
            connection.abort()


@contextlib.asynccontextmanager
async def pair(
    server: Any, client: Any, **more: Any
) -> AsyncIterator[tuple[taps.Connection[Any], taps.Connection[Any]]]:
    """Both ends of a Connection, the client's first; ``more`` as ``calling`` takes it."""
    async with calling(server, client, **more) as (first, listener):
        async with asyncio.timeout(PATIENCE):
            second = await listener.accept()
        try:
            yield first, second
        finally:
            second.abort()


async def talked_out() -> None:
    """Once what TLS itself has to say after the handshake has left: a few turns of the loop."""
    for _ in range(10):
        await asyncio.sleep(0)
