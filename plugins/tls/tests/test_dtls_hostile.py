"""DTLS on networks that lose, reorder, repeat and forge, and among peers that mean no good."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

import taps_core as taps
from taps_core.testing import MemoryDatagram, MemoryNetwork
from taps_core.testing import run as run_once
from taps_core.testing.rig import Rig
from taps_tls import DTLS
from taps_tls.dtls_contexts import dtls_settings

from .conftest import PATIENCE
from .datagrams import Relay, calling_at, listening, lossy, pair

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taps_core.testing.fixtures import Run

    from .conftest import Authority

LAYER = DTLS()
ACQUAINTED = LAYER.acquainted()
HELLOS = 10_000


def client_hello(authority: Authority) -> bytes:
    """The first datagram of a client, without a cookie."""
    connection = dtls_settings(authority.client(), False).client("localhost")
    connection.set_ciphertext_mtu(1200)
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    return bytes(connection.bio_read(2048))


def connections_of_openssl() -> int:
    gc.collect()
    return sum(isinstance(each, SSL.Connection) for each in gc.get_objects())


@pytest.mark.slow
def test_who_brings_no_cookie_leaves_no_state(run: Run, authority: Authority) -> None:
    async def main() -> None:
        hello = client_hello(authority)
        generator = random.Random(1)
        async with listening(authority.server()) as listener:
            port = listener.local_endpoints[0].port
            before = connections_of_openssl()
            answers = longest = 0
            sockets = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(100)]
            tracemalloc.start()
            try:
                for sock in sockets:
                    sock.connect(("127.0.0.1", port))
                    sock.setblocking(False)
                for number in range(HELLOS):
                    # Of a random of its own, else it would be one and the same knock.
                    own = hello[:27] + generator.randbytes(32) + hello[59:]
                    sockets[number % len(sockets)].send(own)
                    if number % len(sockets) == 0:
                        await asyncio.sleep(0)
                        if number == HELLOS // 10:
                            early, _ = tracemalloc.get_traced_memory()
                await asyncio.sleep(0.05)
                late, _ = tracemalloc.get_traced_memory()
                for sock in sockets:
                    try:
                        while True:
                            longest = max(longest, len(sock.recv(2048)))
                            answers += 1
                    except BlockingIOError:
                        continue
            finally:
                tracemalloc.stop()
                for sock in sockets:
                    sock.close()
            # The kernel may have dropped some, on either way.
            assert answers > HELLOS // 10
            assert longest < len(hello)
            assert connections_of_openssl() - before <= 1
            assert late - early < 256 * 1024
            assert listener.dropped.get("displaced", 0) == 0
            # And whoever is honest comes in.
            connection = await calling_at(port, authority.client()).initiate(timeout=PATIENCE)
            connection.abort()

    run(main)


def test_a_handshake_gets_through_loss_and_reordering(run: Run, authority: Authority) -> None:
    """A fifth of all datagrams is lost, others overtake each other; real time."""

    async def one(seed: int) -> None:
        ends = authority.server(), authority.client()
        async with Relay(lossy(0.2, seed)) as relay, pair(*ends, relay=relay) as (first, second):
            relay.treat = lambda datagram: [(0.0, datagram)]
            for sender, receiver in ((first, second), (second, first)):
                await sender.send(b"through")
                assert (await receiver.receive()).data == b"through"

    async def main() -> None:
        # All at once: OpenSSL waits a second before it says anything again.
        await asyncio.gather(*map(one, range(8)))

    run(main)


def test_repeated_datagrams_are_one_message(run: Run, authority: Authority) -> None:
    def twice(datagram: bytes) -> Iterable[tuple[float, bytes]]:
        return [(0.0, datagram), (0.0, datagram), (0.01, datagram)]

    async def main() -> None:
        ends = authority.server(), authority.client()
        async with Relay(twice) as relay, pair(*ends, relay=relay) as (first, second):
            sent = [b"Message %d" % number for number in range(50)]
            for data in sent:
                await first.send(data)
                assert (await second.receive()).data == data
            # Nothing of what is repeated late comes up, and both live on.
            await asyncio.sleep(0.03)
            for sender, receiver in ((first, second), (second, first)):
                await sender.send(b"the last")
                assert (await receiver.receive()).data == b"the last"

    run(main)


def test_forged_and_garbled_datagrams_are_ignored(run: Run, authority: Authority) -> None:
    generator = random.Random(1)

    async def main() -> None:
        ends = authority.server(), authority.client()
        async with Relay() as relay, pair(*ends, relay=relay) as (first, second):
            await first.send(b"genuine")
            assert (await second.receive()).data == b"genuine"
            template = relay.up[-1]
            for _ in range(200):
                forged = bytearray(template)
                # A new sequence number, so that it is no repetition.
                forged[5:11] = generator.randbytes(6)
                for _ in range(generator.randrange(4)):
                    forged[generator.randrange(len(forged))] ^= 1 << generator.randrange(8)
                relay.send_up(bytes(forged[: generator.randrange(1, len(forged) + 1)]))
                relay.send_down(bytes(forged))
                relay.send_up(generator.randbytes(generator.randrange(60)))
            for number in range(20):
                for sender, receiver in ((first, second), (second, first)):
                    await sender.send(b"%d" % number)
                    assert (await receiver.receive()).data == b"%d" % number

    run(main)


def test_an_alert_that_anybody_can_write_ends_nothing(run: Run, authority: Authority) -> None:
    async def main() -> None:
        ends = authority.server(), authority.client()
        async with Relay() as relay, pair(*ends, relay=relay) as (first, second):
            for epoch in (0, 1):
                for level, description in ((1, 0), (2, 40)):
                    header = b"\x15\xfe\xfd" + epoch.to_bytes(2, "big") + bytes(5) + b"\x63\0\x02"
                    relay.send_up(header + bytes((level, description)))
                    relay.send_down(header + bytes((level, description)))
            for sender, receiver in ((first, second), (second, first)):
                await sender.send(b"still here")
                assert (await receiver.receive()).data == b"still here"

    run(main)


def test_a_peer_that_has_lost_its_state_comes_back_in(run: Run, authority: Authority) -> None:
    """From the same port; the old association ends with a reason of its own."""

    async def main() -> None:
        client = authority.client()
        async with listening(authority.server()) as listener, Relay() as relay:
            port = listener.local_endpoints[0].port
            assert port is not None
            relay.server = ("127.0.0.1", port)
            first = await calling_at(relay.port, client).initiate(timeout=PATIENCE)
            old = await listener.accept()
            hello = relay.up[1]
            # That which began it, repeated, begins nothing.
            relay.send_up(hello)
            await first.send(b"hello")
            assert (await old.receive()).data == b"hello"
            first.abort()
            again = await calling_at(relay.port, client).initiate(timeout=PATIENCE)
            new = await listener.accept()
            with pytest.raises(taps.ConnectionError) as caught:
                await old.receive()
            assert caught.value.detail == "superseded"
            await again.send(b"back")
            assert (await new.receive()).data == b"back"
            again.abort()
            new.abort()

    run(main)


@pytest.mark.slow
def test_a_thousand_associations_share_one_socket(run: Run, authority: Authority) -> None:
    many = 1000

    async def main() -> None:
        async with listening(authority.server()) as listener:
            port = listener.local_endpoints[0].port
            assert port is not None

            async def serve() -> None:
                async with asyncio.TaskGroup() as serving:
                    async for connection in listener:
                        serving.create_task(echo(connection))

            async def echo(connection: taps.Connection[Any]) -> None:
                async for message in connection:
                    await connection.send(message.data)

            server = asyncio.create_task(serve())
            there = calling_at(port, authority.client())
            connections: list[taps.Connection[Any]] = []
            for _ in range(0, many, 50):
                connections += await asyncio.gather(
                    *(there.initiate(timeout=PATIENCE) for _ in range(50))
                )
            assert len({each.local_endpoint.port for each in connections}) == many
            for at in range(0, many, 100):
                for number, connection in enumerate(connections[at : at + 100], at):
                    await connection.send(b"%d" % number)
                for number, connection in enumerate(connections[at : at + 100], at):
                    assert (await connection.receive()).data == b"%d" % number
            for connection in connections:
                await connection.close()
            listener.stop()
            await server

    run(main, timeout=300)


# -- random input


@pytest.mark.parametrize("role", ["client", "server"])
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    after=st.integers(0, 12),
    datagrams=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                lambda kind, epoch, body: (
                    bytes([kind, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 9])
                    + len(body).to_bytes(2, "big")
                    + body
                ),
                st.sampled_from([20, 21, 22, 23]),
                st.integers(0, 2),
                st.binary(max_size=80),
            ),
        ),
        max_size=5,
    ),
    flip=st.none() | st.tuples(st.integers(0, 12), st.integers(0, 3000)),
)
def test_random_datagrams_at_any_point_end_in_a_documented_error_or_in_nothing(
    role: str, after: int, datagrams: list[bytes], flip: tuple[int, int] | None
) -> None:
    """Injected behind the n-th datagram on the wire; another one has a bit flipped."""

    async def main() -> None:
        network = MemoryNetwork()
        rig = Rig(MemoryDatagram(network), LAYER, parameters=ACQUAINTED)
        seen = 0

        def tap(datagram: bytes) -> None:
            nonlocal seen
            seen += 1

        network.wiretap = tap
        await rig.__aenter__()
        try:
            connecting = asyncio.ensure_future(rig.connect())
            injected = False
            for _ in range(300):
                await asyncio.sleep(0)
                if not injected and seen >= after:
                    injected = True
                    port = rig.listener.local_endpoint.port
                    for flow in list(network.flows):
                        assert flow.local_endpoint is not None
                        is_server = flow.local_endpoint.port == port
                        if is_server == (role == "client"):
                            for datagram in datagrams:
                                flow.send(bytes(datagram), None, True)
                            flow.flush()
                if connecting.done() and injected:
                    break
            if not connecting.done():
                connecting.cancel()
            await asyncio.wait([connecting])
            if not connecting.cancelled():
                error = connecting.exception()
                assert error is None or isinstance(error, (taps.TapsError, OSError)), repr(error)
                if error is None:
                    client = connecting.result()
                    client.send(b"hello")
                    for _ in range(20):
                        await asyncio.sleep(0)
        finally:
            await rig.__aexit__(Exception, Exception(), None)

    run_once(main)


def test_other_associations_do_not_see_the_errors_of_one(run: Run, authority: Authority) -> None:
    """OpenSSL keeps what went wrong by thread; who reads next must not be blamed for it."""
    generator = random.Random(1)

    async def main() -> None:
        hello = client_hello(authority)
        async with listening(authority.server()) as listener:
            port = listener.local_endpoints[0].port
            assert port is not None
            first = await calling_at(port, authority.client()).initiate(timeout=PATIENCE)
            second = await listener.accept()
            with socket.socket(type=socket.SOCK_DGRAM) as stranger:
                stranger.connect(("127.0.0.1", port))
                for number in range(200):
                    broken = bytearray(hello)
                    for _ in range(1 + number % 5):
                        broken[generator.randrange(13, len(broken))] ^= 0xFF
                    stranger.send(broken)
                    # Not a record that is opened: whoever reads finds nothing, and no error.
                    await first.send(b"%d" % number)
                    assert (await second.receive()).data == b"%d" % number
            first.abort()
            second.abort()

    run(main)
