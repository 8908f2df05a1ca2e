"""Connections over DTLS, and a relay on their way that does what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any, Final

import taps_core as taps

from .conftest import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from typing import Self

#: Transport Properties for which UDP is the only answer.
DATAGRAMS: Final[dict[str, Any]] = {
    "reliability": "prohibit",
    "preserve_order": "no preference",
    "congestion_control": "no preference",
    "preserve_msg_boundaries": "require",
}


class Relay:
    """Carries datagrams between one client and a server, and remembers them.

    Args:
        treat: What becomes of each datagram: any number of others, each with the
            seconds that it takes.

    Attributes:
        server: Where to carry to, once it is known.
        up: What the client has sent, in order; ``down``: the server.
    """

    def __init__(
        self, treat: Callable[[bytes], Iterable[tuple[float, bytes]]] | None = None
    ) -> None:
        self.treat = treat or (lambda datagram: [(0.0, datagram)])
        self.server: tuple[str, int] | None = None
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.handshake_up: list[bytes] = []
        self.handshake_down: list[bytes] = []
        self._client: Any = None
        self._near: asyncio.DatagramTransport | None = None
        self._far: asyncio.DatagramTransport | None = None
        self._timers: set[asyncio.TimerHandle] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._near, _ = await loop.create_datagram_endpoint(
            lambda: _Side(self._from_client), local_addr=("127.0.0.1", 0)
        )
        self._far, _ = await loop.create_datagram_endpoint(
            lambda: _Side(self._from_server), local_addr=("127.0.0.1", 0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
        for side in (self._near, self._far):
            assert side is not None
            side.close()
        await asyncio.sleep(0)

    @property
    def port(self) -> int:
        """Where clients come to."""
        assert self._near is not None
        port: int = self._near.get_extra_info("sockname")[1]
        return port

    def send_up(self, datagram: bytes) -> None:
        """As if the client had sent it."""
        assert self._far is not None
        self._far.sendto(datagram, self.server)

    def send_down(self, datagram: bytes) -> None:
        """As if the server had sent it."""
        assert self._near is not None
        self._near.sendto(datagram, self._client)

    def _from_client(self, datagram: bytes, address: Any) -> None:
        self._client = address
        self.up.append(datagram)
        self.handshake_up.append(datagram)
        self._carry(datagram, self.send_up)

    def _from_server(self, datagram: bytes, _: Any) -> None:
        self.down.append(datagram)
        self.handshake_down.append(datagram)
        self._carry(datagram, self.send_down)

    def _carry(self, datagram: bytes, send: Callable[[bytes], None]) -> None:
        for delay, each in self.treat(datagram):
            if delay:
                self._later(delay, send, each)
            else:
                send(each)

    def _later(self, delay: float, send: Callable[[bytes], None], datagram: bytes) -> None:
        def carry() -> None:
            self._timers.discard(timer)
            send(datagram)

        timer = asyncio.get_running_loop().call_later(delay, carry)
        self._timers.add(timer)


class _Side(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, Any], None]) -> None:
        self.datagram_received = received  # type: ignore[method-assign]  # one protocol for both sides


def lossy(share: float, seed: int) -> Callable[[bytes], Iterable[tuple[float, bytes]]]:
    """Loses this share of all datagrams, and holds some back behind others."""
    generator = random.Random(seed)

    def treat(datagram: bytes) -> Iterable[tuple[float, bytes]]:
        if generator.random() >= share:
            yield generator.choice((0.0, 0.0, 0.005, 0.02)), datagram

    return treat


@contextlib.asynccontextmanager
async def listening(
    server: Any,
    system: taps.System | None = None,
    handler: Callable[[taps.Connection[Any]], Awaitable[None]] | None = None,
    **properties: Any,
) -> AsyncIterator[taps.Listener]:
    """A Listener for DTLS."""
    here = taps.Preconnection(
        local="127.0.0.1:0",
        security=server,
        transport=taps.TransportProperties(**DATAGRAMS, **properties),
        system=system or taps.System(),
    )
    async with here.listen(handler) as listener:
        yield listener


def calling_at(
    port: int,
    client: Any,
    *,
    name: str = "localhost",
    system: taps.System | None = None,
    **properties: Any,
) -> taps.Preconnection:
    """Whoever calls there."""
    remote = taps.RemoteEndpoint(hostname=name, ip_address="127.0.0.1", port=port, protocol="udp")
    return taps.Preconnection(
        remote=remote,
        security=client,
        transport=taps.TransportProperties(**DATAGRAMS, **properties),
        system=system or taps.System(),
    )


@contextlib.asynccontextmanager
async def pair(
    server: Any,
    client: Any,
    *,
    relay: Relay | None = None,
    timeout: float = PATIENCE,
    **more: Any,
) -> AsyncIterator[tuple[taps.Connection[Any], taps.Connection[Any]]]:
    """Both ends of a Connection over DTLS and UDP, the client's first; aborted at the end."""
    name = more.pop("name", "localhost")
    async with listening(server, **more) as listener:
        port = listener.local_endpoints[0].port
        assert port is not None
        if relay is not None:
            relay.server = ("127.0.0.1", port)
            port = relay.port
        first = await calling_at(port, client, name=name, **more).initiate(timeout=timeout)
        try:
            async with asyncio.timeout(PATIENCE):
                second = await listener.accept()
            try:
                yield first, second
            finally:
                second.abort()
        finally:
            first.abort()
