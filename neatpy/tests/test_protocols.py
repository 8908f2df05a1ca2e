"""The protocols that NEATPy had, as the kernel speaks them; plain sockets at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

import neatpy
from neatpy import ConnectionState, TransportProperties, TransportPropertyProfiles

from .conftest import World, all_of, called, environment, over, received, sent, turns, until

if TYPE_CHECKING:
    from pathlib import Path

    from taps_core.testing.fixtures import Run

STREAM = TransportPropertyProfiles.RELIABLE_INORDER_STREAM
DATAGRAM = TransportPropertyProfiles.UNRELIABLE_DATAGRAM


@pytest.fixture
def here(world: type[World]) -> Any:
    """Over loopback, with what is installed."""
    with world().use() as made:
        yield made


@pytest.fixture
def identity(tmp_path: Path) -> dict[str, str]:
    """Of this machine."""
    return environment(tmp_path)


@pytest.mark.parametrize(
    ("profile", "protocol"), [(STREAM, "TCP"), (DATAGRAM, "UDP"), (None, "TCP")]
)
def test_each_profile_has_its_protocol(run: Run, here: World, profile: Any, protocol: str) -> None:
    async def main() -> None:
        here.properties = TransportProperties(profile)
        async with here.pair() as (client, server):
            if profile is not None:
                assert client.stack == server.stack == protocol
            client.send(b"question")
            assert (await received(server)).data == b"question"
            server.send(b"answer")
            assert (await received(client)).data == b"answer"

    run(main)


def test_datagrams_are_messages_and_reach_a_plain_socket(run: Run, here: World) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            came: list[Any] = []

            def look() -> bool:
                with contextlib.suppress(BlockingIOError):
                    came.append(peer.recvfrom(100))
                return len(came) == 2

            peer.bind(("127.0.0.1", 0))
            peer.setblocking(False)
            remote = neatpy.RemoteEndpoint()
            remote.with_address("127.0.0.1")
            remote.with_port(peer.getsockname()[1])
            client = here.preconnection(
                remote_endpoint=remote, transport_properties=TransportProperties(DATAGRAM)
            ).initiate()
            outcome, handler = sent()
            client.send(b"one", handler)
            client.send(b"two")
            assert await outcome is None
            await until(look)
            assert [data for data, _ in came] == [b"one", b"two"]
            peer.sendto(b"back", came[0][1])
            got = await received(client)
            assert (got.data, got.end) == (b"back", None)
            client.stop()
            await over()

    run(main)


def test_a_server_of_datagrams_has_a_connection_for_each_peer(run: Run, here: World) -> None:
    async def main() -> None:
        here.properties = TransportProperties(DATAGRAM)

        def echo(connection: Any, message: Any, context: Any, end: Any, error: Any) -> None:
            if error is None:
                connection.send(message.data)

        listener = await here.listen(received=lambda connection: connection.receive(echo))
        clients = [here.initiate(listener) for _ in range(10)]
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        answers = await asyncio.gather(*map(received, clients))
        assert [each.data for each in answers] == [b"%d" % number for number in range(10)]
        assert listener.number_of_connections == 10
        clients[0].stop()
        await over()

    run(main)


def test_a_hundred_connections_over_tcp_and_two_listeners(run: Run, here: World) -> None:
    async def main() -> None:
        here.properties = TransportProperties(STREAM)
        came: list[list[neatpy.Connection]] = [[], []]
        listeners = [await here.listen(received=each.append) for each in came]
        clients = [here.initiate(listeners[number % 2]) for number in range(100)]
        for number, client in enumerate(clients):
            client.send(b"%02d" % number * 1000)
        await until(lambda: len(came[0]) == len(came[1]) == 50)
        data = await asyncio.gather(*(all_of(each, 2000) for each in (*came[0], *came[1])))
        assert sorted(data) == [b"%02d" % number * 1000 for number in range(100)]
        for each in came[0]:
            each.close()
        await until(lambda: all(c.state is ConnectionState.CLOSED for c in clients[::2]))
        assert all(each.state is ConnectionState.ESTABLISHED for each in clients[1::2])
        listeners[0].stop()
        clients[1].stop()
        await over()

    run(main)


@pytest.mark.parametrize(("profile", "stack"), [(STREAM, "TLS/TCP"), (DATAGRAM, "DTLS/UDP")])
def test_security_needed_is_encrypted_and_verified(
    run: Run,
    here: World,
    identity: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    profile: TransportPropertyProfiles,
    stack: str,
) -> None:
    """Programs say True and no more; the original verified nobody."""
    for name, value in identity.items():
        monkeypatch.setenv(name, value)

    async def main() -> None:
        here.properties = TransportProperties(profile)
        listener = await here.listen(security_needed=True)
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        client = await here.ready(listener, security_needed=True)
        client.send(b"question")
        server = (await accepted)[0]
        assert client.stack == server.stack == stack
        assert (await received(server)).data == b"question"
        server.send(b"answer")
        assert (await received(client)).data == b"answer"
        client.stop()
        await over()

    run(main)


@pytest.mark.parametrize("profile", [STREAM, DATAGRAM])
def test_who_is_not_trusted_is_not_talked_to(
    run: Run,
    here: World,
    identity: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    profile: TransportPropertyProfiles,
) -> None:
    monkeypatch.setenv("NEATPY_CERTIFICATE", identity["NEATPY_CERTIFICATE"])
    monkeypatch.setenv("NEATPY_PRIVATE_KEY", identity["NEATPY_PRIVATE_KEY"])

    async def main() -> None:
        here.properties = TransportProperties(profile)
        came: list[Any] = []
        listener = await here.listen(security_needed=True, received=came.append)
        client = here.initiate(listener, security_needed=True)
        client.send(b"secret")
        assert await called(client, "HANDLE_STATE_CONNECTION_ERROR") is client
        await turns()
        assert came == []
        listener.stop()
        await over()

    run(main)


def test_a_peer_without_security_reads_nothing_of_it(run: Run, here: World) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            remote = neatpy.RemoteEndpoint()
            remote.with_address("127.0.0.1")
            remote.with_port(server.getsockname()[1])
            client = here.preconnection(
                remote_endpoint=remote,
                transport_properties=TransportProperties(STREAM),
                security_needed=True,
            ).initiate()
            client.send(b"a secret that must not be read")
            peer, _ = await loop.sock_accept(server)
            with peer:
                hello = await loop.sock_recv(peer, 10_000)
                assert hello[0] == 0x16  # a handshake of TLS
                assert b"secret" not in hello
            await called(client, "HANDLE_STATE_CONNECTION_ERROR")
            await over()

    run(main)


def test_security_parameters_say_more(
    run: Run, here: World, identity: dict[str, str], tmp_path: Path
) -> None:
    async def main() -> None:
        here.properties = TransportProperties(STREAM)
        server = neatpy.SecurityParameters()
        server.add_identity(identity["NEATPY_CERTIFICATE"])
        server.add_private_key(identity["NEATPY_PRIVATE_KEY"], None)
        judged: list[Any] = []
        client = neatpy.SecurityParameters()
        client.add_trusted_certificate(identity["SSL_CERT_FILE"])
        client.set_trust_verification_callback(lambda peer: bool(judged.append(peer)) or True)
        listener = await here.listen(security_needed=server)
        connection = await here.ready(listener, security_needed=client)
        assert connection.stack == "TLS/TCP"
        assert len(judged) == 1
        refusing = neatpy.SecurityParameters()
        refusing.add_trusted_certificate(identity["SSL_CERT_FILE"])
        refusing.set_trust_verification_callback(lambda peer: False)
        refused = here.initiate(listener, security_needed=refusing)
        await called(refused, "HANDLE_STATE_CONNECTION_ERROR")
        connection.stop()
        await over()
        with pytest.raises(NotImplementedError, match="no policy"):
            client.set_session_cacahe_policy(None)

    run(main)


def test_a_server_without_a_certificate_says_so(
    run: Run, here: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NEATPY_CERTIFICATE", raising=False)

    async def main() -> None:
        listener = here.preconnection(local_endpoint=here.local(), security_needed=True).listen()
        await called(listener, "HANDLE_STATE_LISTEN_ERROR")
        await over()

    run(main)
    assert "certificate" in caplog.text
    assert os.environ.get("NEATPY_CERTIFICATE") is None


@pytest.mark.linux
def test_soft_errors_are_told_and_end_nothing(run: Run, here: World) -> None:
    """NEATPy had no such event."""

    async def main() -> None:
        properties = TransportProperties(DATAGRAM)
        properties.prefer(neatpy.SelectionProperties.SOFT_ERROR_NOTIFY)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            remote = neatpy.RemoteEndpoint()
            remote.with_address("127.0.0.1")
            remote.with_port(nobody.getsockname()[1])
        client = here.preconnection(
            remote_endpoint=remote, transport_properties=properties
        ).initiate()
        told = called(client, "HANDLE_SOFT_ERROR")
        client.send(b"is anybody there?")
        async with asyncio.timeout(30):
            connection, error = await told
        assert connection is client
        assert isinstance(error, OSError)
        assert client.state is ConnectionState.ESTABLISHED
        client.stop()
        await over()

    run(main)


def test_two_programs_that_call_each_other_meet(run: Run, here: World) -> None:
    """NEATPy had no rendezvous."""

    async def main() -> None:
        properties = TransportProperties(STREAM)
        ports = []
        for _ in range(2):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        ends = []
        for mine, theirs in (ports, reversed(ports)):
            remote = neatpy.RemoteEndpoint()
            remote.with_address("127.0.0.1")
            remote.with_port(theirs)
            preconnection = here.preconnection(
                local_endpoint=here.local(mine),
                remote_endpoint=remote,
                transport_properties=properties,
            )
            ends.append(preconnection.rendezvous())
        for end in ends:
            end.send(b"hello")
        answers = await asyncio.gather(*map(received, ends))
        assert [each.data for each in answers] == [b"hello", b"hello"]
        ends[0].stop()
        await over()

    run(main)
