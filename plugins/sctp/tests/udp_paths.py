"""For tests of ``sctp-udp``: Connections over it, and a UDP path that loses packets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from taps_sctp import SCTPOverUDP

import taps_core as taps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAME = "sctp-udp"
UDP_PORT = "_taps.encapsulationPort"
#: How long a test may wait for what must happen. Only a failing test gets there.
PATIENCE = 60.0
OPEN = taps.SecurityParameters.disabled()


def needed() -> None:
    """Skip what needs the library, or fail if TAPS_REQUIRE names it."""
    here = SCTPOverUDP().availability()
    if not here.available:
        if "usrsctp" in os.environ.get("TAPS_REQUIRE", "").split(","):
            pytest.fail(f"{here.reason}, and TAPS_REQUIRE demands it", pytrace=False)
        pytest.skip(f"{here.reason}: {here.remedy}", allow_module_level=True)


def at(port: int = 0, udp_port: int = 0, address: str | None = "127.0.0.1") -> taps.LocalEndpoint:
    """Where to listen."""
    return taps.LocalEndpoint(
        ip_address=address, port=port, protocol=NAME, identifiers={UDP_PORT: udp_port}
    )


def to(
    listener: taps.Listener[Any], *, udp_port: int | None = None, address: str = "127.0.0.1"
) -> taps.RemoteEndpoint:
    """Where a Listener is found, by its own UDP port or by another one that leads there."""
    (local,) = listener.local_endpoints
    return taps.RemoteEndpoint(
        ip_address=address,
        port=local.port,
        protocol=NAME,
        identifiers={UDP_PORT: udp_port or local.identifiers[UDP_PORT]},
    )


def listening(local: taps.LocalEndpoint | None = None, security: Any = OPEN) -> Any:
    """An async context manager: a Listener."""
    return taps.Preconnection(local=local or at(), security=security).listen()


async def connected(
    remote: taps.RemoteEndpoint, security: Any = OPEN, **properties: Any
) -> taps.Connection[Any]:
    """A Connection."""
    transport = taps.TransportProperties(**properties)
    there = taps.Preconnection(remote=remote, security=security, transport=transport)
    return await there.initiate(timeout=PATIENCE)


@contextlib.asynccontextmanager
async def pair(
    *, loss: float = 0.0, security: tuple[Any, Any] = (OPEN, OPEN), **properties: Any
) -> AsyncIterator[tuple[taps.Connection[Any], taps.Connection[Any]]]:
    """Both ends of an association, over a path that loses packets once it is up.

    Args:
        loss: The part that is lost.
        security: The server's and the client's.
        properties: The client's.
    """
    async with contextlib.AsyncExitStack() as stack:
        listener = await stack.enter_async_context(listening(security=security[0]))
        udp_port = None
        if loss:
            (local,) = listener.local_endpoints
            relay = await stack.enter_async_context(relayed(local.identifiers[UDP_PORT]))
            udp_port = relay.udp_port
        client = await connected(to(listener, udp_port=udp_port), security[1], **properties)
        server = await listener.accept()
        if loss:
            relay.loss = loss
        try:
            yield client, server
        finally:
            for end in (client, server):
                end.abort_group()


class Relay(asyncio.DatagramProtocol):
    """Between whoever sends first and one port; what is lost is decided by a seed."""

    def __init__(self, there: int) -> None:
        self._there = ("127.0.0.1", there)
        self._here: Any = None
        self.loss = 0.0
        self._random = random.Random(7)
        self._transport: Any = None

    @property
    def udp_port(self) -> int:
        """Where it is."""
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if address != self._there:
            self._here = address
        if self._random.random() >= self.loss:
            self._transport.sendto(data, self._here if address == self._there else self._there)

    def send(self, data: bytes) -> None:
        """One more datagram for the port."""
        self._transport.sendto(data, self._there)


@contextlib.asynccontextmanager
async def relayed(there: int) -> AsyncIterator[Relay]:
    """A UDP port that leads to one."""
    loop = asyncio.get_running_loop()
    transport, relay = await loop.create_datagram_endpoint(
        lambda: Relay(there), local_addr=("127.0.0.1", 0)
    )
    try:
        yield relay
    finally:
        transport.close()
