"""Certificates of a throw-away authority, and Connections over the kernel's TCP."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from typing import TYPE_CHECKING, Any

import pytest
import trustme

import taps_core as taps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: How long a test may wait for what must happen. Only a failing test gets there.
PATIENCE = 30.0


class Authority:
    """A certificate authority, and whom it vouches for."""

    def __init__(self) -> None:
        self.ca = trustme.CA()
        self.pem = self.ca.cert_pem.bytes()

    def identity(self, *names: str, **more: Any) -> taps.Certificate:
        """A certificate for these names and addresses, with its key; both as content."""
        made = self.ca.issue_cert(*names, **more)
        chain = b"".join(each.bytes() for each in made.cert_chain_pems)
        return taps.Certificate(chain, made.private_key_pem.bytes())

    def expired(self, *names: str) -> taps.Certificate:
        """One that was good until the last day of the year 2020."""
        return self.identity(*names, not_after=datetime.datetime(2020, 12, 31, tzinfo=datetime.UTC))

    def server(self, *names: str, **parameters: Any) -> taps.SecurityParameters:
        """What a Listener of these names is given."""
        if "server_certificate" not in parameters:
            parameters["server_certificate"] = self.identity(*(names or ("localhost",)))
        return taps.SecurityParameters(**parameters)

    def client(self, **parameters: Any) -> taps.SecurityParameters:
        """What whoever trusts this authority, and no other, is given."""
        return taps.SecurityParameters(**{"trusted_certificates": self.pem, **parameters})


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
