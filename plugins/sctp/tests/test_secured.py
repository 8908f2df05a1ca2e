"""DTLS over SCTP (RFC 6083): each Message a record, packets authenticated, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import pytest
from taps_sctp.kernel import KernelEngine

import taps_core as taps
from taps_core.plugin import Flow
from taps_core.testing import local_identity
from taps_tls import TLSInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taps_core.testing.fixtures import Run
    from tests.lab.network import Network

pytestmark = pytest.mark.lab

#: How long a test may wait for what must happen. Only a failing test gets there.
PATIENCE: Final = 60.0


@contextlib.asynccontextmanager
async def pair(
    network: Network,
    timeout: float = PATIENCE,
    protocols: str | None = None,
    profile: str = "message",
) -> AsyncIterator[tuple[taps.Connection[Any], taps.Connection[Any]]]:
    """Both ends of a Connection over DTLS/SCTP, the client's first; aborted at the end."""
    server, client = local_identity(network.server.address())
    if protocols is not None:
        server.set("allowedSecurityProtocols", protocols)
        client.set("allowedSecurityProtocols", protocols)
    transport = taps.TransportProperties()
    if profile == "message":
        transport = taps.TransportProperties.reliable_message()
    with network.server.use():
        listener = await taps.Preconnection(
            local=taps.LocalEndpoint(ip_address=network.server.address(), port=0, protocol="sctp"),
            security=server,
            transport=transport,
        ).listen()
    async with listener:
        port = listener.local_endpoints[0].port
        with network.client.use():
            remote = taps.RemoteEndpoint(
                ip_address=network.server.address(), port=port, protocol="sctp"
            )
            first = await taps.Preconnection(
                remote=remote, security=client, transport=transport
            ).initiate(timeout=timeout)
        try:
            async with asyncio.timeout(PATIENCE):
                second = await listener.accept()
            try:
                yield first, second
            finally:
                second.abort_group()
        finally:
            first.abort_group()


async def converse(sender: Any, receiver: Any, number: int, size: int = 20) -> None:
    """So many Messages one way: each arrives once, in order."""

    async def send() -> None:
        for each in range(number):
            await sender.send(b"%0*d" % (size, each))

    sending = asyncio.ensure_future(send())
    for each in range(number):
        assert (await receiver.receive()).data == b"%0*d" % (size, each)
    await sending


def test_a_message_is_a_record_up_to_16_kib(run: Run, two_hosts: Network) -> None:
    async def main() -> None:
        async with pair(two_hosts) as (client, server):
            assert str(client.stack) == str(server.stack) == "DTLS/SCTP"
            info = client.find(TLSInfo)
            assert info is not None
            assert (info.version, info.verified) == ("DTLSv1.2", True)
            assert client.properties["sendMsgMaxLen"] == 16384
            for size in (1, 1200, 16384):
                for sender, receiver in ((client, server), (server, client)):
                    await sender.send(bytes(size))
                    assert (await receiver.receive()).data == bytes(size)
            with pytest.raises(taps.SendError) as caught:
                await client.send(bytes(16385))
            assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE

    run(main)


@pytest.mark.slow
@pytest.mark.parametrize(("streams", "loss"), [(1, 0.05), (4, 0.01)])
def test_nothing_is_lost_under_delay_and_loss(
    run: Run, two_hosts: Network, streams: int, loss: float
) -> None:
    """10,000 Messages: more than OpenSSL would let overtake each other."""
    two_hosts.path.set(latency=0.005, loss=loss)

    async def main() -> None:
        async with pair(two_hosts) as (client, server):
            ends = [(client, server)]
            for _ in range(streams - 1):
                clone = await client.clone()
                await clone.send(b"here")
                async for other in server.incoming():
                    assert (await other.receive()).data == b"here"
                    ends.append((clone, other))
                    break
            await asyncio.gather(*(converse(*each, 10_000 // streams) for each in ends))

    run(main, timeout=300)


def test_no_plaintext_is_on_the_wire(run: Run, two_hosts: Network) -> None:
    marker = b"this must not be seen by anybody"

    async def main() -> None:
        async with pair(two_hosts) as (client, server):
            for sender, receiver in ((client, server), (server, client)):
                await sender.send(marker)
                assert (await receiver.receive()).data == marker
            await client.close()

    (interface,) = two_hosts.client.interfaces
    with (
        two_hosts.client.capture(interface) as capture,
        two_hosts.server.capture(*two_hosts.server.interfaces) as other,
    ):
        run(main)
        packets = [*capture.look(), *other.look()]
    seen = b"".join(packet.payload for packet in packets)
    assert marker not in seen
    assert len(seen) > 2000


def test_streams_share_a_handshake_and_end_alone(run: Run, two_hosts: Network) -> None:
    async def main() -> None:
        async with pair(two_hosts) as (client, server):
            clone = await client.clone()
            await clone.send(b"second")
            async for other in server.incoming():
                assert (await other.receive()).data == b"second"
                await other.send(b"answer")
                break
            assert (await clone.receive()).data == b"answer"
            await clone.close()
            with pytest.raises(taps.EndOfData):
                await other.receive()
            await other.close()
            await converse(client, server, 50)
            closing = asyncio.ensure_future(client.close())
            with pytest.raises(taps.EndOfData):
                await server.receive()
            await server.close()
            await closing

    run(main)


def test_packets_are_authenticated_by_the_handshakes_key(run: Run, two_hosts: Network) -> None:
    """Both ends have the same, and use it."""
    keys: list[bytes] = []
    used: list[KernelEngine] = []
    install, use = KernelEngine.install_key, KernelEngine.use_key

    def noted(engine: KernelEngine, key: bytes) -> bool:
        keys.append(key)
        return install(engine, key)

    def noted_use(engine: KernelEngine) -> None:
        used.append(engine)
        use(engine)

    async def main() -> None:
        async with pair(two_hosts) as (client, server):
            await converse(client, server, 10)
            await converse(server, client, 10)
            assert client.find(Flow) is not None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KernelEngine, "install_key", noted)
        patch.setattr(KernelEngine, "use_key", noted_use)
        run(main)
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        assert first == second
        assert len(first) == 64
    assert len(used) == len(keys)


def test_tls_over_one_ordered_stream_is_the_alternative(run: Run, two_hosts: Network) -> None:
    """For whoever demands TLS; it keeps no boundaries."""

    async def main() -> None:
        async with pair(two_hosts, protocols="TLSv1.3", profile="stream") as (client, server):
            assert str(client.stack) == "TLS/SCTP"
            for sender, receiver in ((client, server), (server, client)):
                await sender.send(bytes(3_000_000))
                assert (await receiver.receive_exactly(3_000_000)).data == bytes(3_000_000)
            await client.send(b"the last")
            closing = asyncio.ensure_future(client.close())
            assert (await server.receive_exactly(8)).data == b"the last"
            await server.close()
            await closing

    run(main)


def test_selection_says_which_security_keeps_boundaries() -> None:
    security, _ = local_identity()
    messages = taps.Preconnection(
        local=taps.LocalEndpoint(port=0, protocol="sctp"),
        security=security,
        transport=taps.TransportProperties.reliable_message(),
    ).select()
    assert [str(each.stack) for each in messages] == ["DTLS/SCTP"]
    why = " ".join(str(messages).split())
    assert "TLS/SCTP: preserveMsgBoundaries is required by the application, and TLS lacks it" in why


def test_another_key_fails_cleanly(run: Run, two_hosts: Network) -> None:
    """Packets that are authenticated by it are dropped without a word: time ends that."""
    install = KernelEngine.install_key
    count = 0

    def half_altered(engine: KernelEngine, key: bytes) -> bool:
        nonlocal count
        count += 1
        return install(engine, key if count % 2 else key[::-1])

    async def main() -> None:
        with pytest.raises(taps.EstablishmentTimeout) as caught:
            async with pair(two_hosts, timeout=2):
                pass
        assert caught.value.detail == "handshake-timeout"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KernelEngine, "install_key", half_altered)
        run(main)
