"""DTLS with peers that are not ours at the other end: OpenSSL's and GnuTLS's programs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_tls import TLSInfo

from .conftest import PATIENCE, Authority
from .datagrams import calling_at, listening
from .peers import Files, Peers, conversation, gnutls_client, openssl_client

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterator

    from taps_core.testing.fixtures import Run

VERSION = "DTLSv1.2"


@pytest.fixture
def files(tmp_path: pathlib.Path, authority: Authority) -> Files:
    return Files(tmp_path, authority)


@pytest.fixture
def peers(files: Files) -> Iterator[Peers]:
    with Peers(files) as started:
        yield started


def info_of(connection: taps.Connection[Any]) -> TLSInfo:
    info = connection.find(TLSInfo)
    assert info is not None
    return info


async def answers(peers: Peers, port: int, connection: taps.Connection[Any]) -> None:
    """OpenSSL's server has what we said, and we have what it says."""
    words = b"hello from %d" % id(connection)
    await connection.send(words + b"\n")
    async with asyncio.timeout(PATIENCE):
        while words.decode() not in peers.log(port):  # noqa: ASYNC110  # a file is no event
            await asyncio.sleep(0.01)
        peers.say(port, b"and to you\n")
        assert (await connection.receive()).data == b"and to you\n"


@pytest.mark.parametrize("cookies", [True, False])
def test_openssl_serves_us(run: Run, peers: Peers, authority: Authority, cookies: bool) -> None:
    """With ``-listen`` it sends cookies, to one client; without, it serves one after another."""
    port = peers.openssl(VERSION, "-alpn", "acme/1,acme/2", *(["-listen"] if cookies else []))

    async def main() -> None:
        preconnection = calling_at(port, authority.client(alpn=["acme/2"]))
        for attempt in range(1 if cookies else 3):
            async with await preconnection.initiate(timeout=PATIENCE) as connection:
                await answers(peers, port, connection)
                info = info_of(connection)
                assert (info.version, info.alpn) == (VERSION, "acme/2")
                assert info.resumed is (attempt > 0)

    run(main)


def test_gnutls_serves_us(run: Run, peers: Peers, authority: Authority) -> None:
    port = peers.gnutls(VERSION, "--alpn", "acme/2", "--sni-hostname", "localhost")

    async def main() -> None:
        preconnection = calling_at(port, authority.client(alpn=["acme/1", "acme/2"]))
        async with await preconnection.initiate(timeout=PATIENCE) as connection:
            for words in (b"hello", b"x" * 200):
                await connection.send(words)
                assert (await connection.receive()).data == words
            info = info_of(connection)
            assert (info.version, info.alpn) == (VERSION, "acme/2")

    run(main)


@pytest.mark.parametrize("shown", [True, False])
def test_openssl_gets_our_certificate_or_refuses(
    run: Run, peers: Peers, files: Files, authority: Authority, shown: bool
) -> None:
    port = peers.openssl(VERSION, "-Verify", "2", "-verify_return_error", "-CAfile", files.ca)

    async def main() -> None:
        if shown:
            client = authority.client(client_certificate=taps.Certificate(files.me))
            async with await calling_at(port, client).initiate(timeout=PATIENCE) as connection:
                await answers(peers, port, connection)
            return
        with pytest.raises(taps.EstablishmentError) as caught:
            await calling_at(port, authority.client()).initiate(timeout=PATIENCE)
        assert caught.value.detail == "client-certificate-required"

    run(main)


def test_gnutls_gets_our_certificate(
    run: Run, peers: Peers, files: Files, authority: Authority
) -> None:
    demands = ("--require-client-cert", "--verify-client-cert", "--x509cafile", files.ca)
    port = peers.gnutls(VERSION, *demands)

    async def main() -> None:
        client = authority.client(client_certificate=taps.Certificate(files.me))
        async with await calling_at(port, client).initiate(timeout=PATIENCE) as connection:
            await connection.send(b"hello")
            assert (await connection.receive()).data == b"hello"

    run(main)


def test_a_peer_that_has_dtls_1_0_only_is_refused(
    run: Run, peers: Peers, authority: Authority
) -> None:
    port = peers.openssl("DTLSv1.0", "-cipher", "ALL:@SECLEVEL=0")

    async def main() -> None:
        with pytest.raises(taps.EstablishmentError) as caught:
            await calling_at(port, authority.client()).initiate(timeout=PATIENCE)
        # None of our suites goes with 1.0, so that the server does not get to the version.
        assert caught.value.detail == "handshake-refused"

    run(main)


@contextlib.asynccontextmanager
async def answering(authority: Authority) -> AsyncIterator[int]:
    """A Listener for clients with a certificate, which answers and closes; its port."""

    async def echo(connection: taps.Connection[Any]) -> None:
        info = info_of(connection)
        assert (info.version, info.alpn, info.verified) == (VERSION, "acme/1", True)
        message = await connection.receive()
        await connection.send(b"you said " + message.data)
        await connection.close()

    server = authority.server(trusted_certificates=authority.pem, alpn=["acme/1"])
    async with listening(server, handler=echo) as listener:
        port = listener.local_endpoints[0].port
        assert port is not None
        yield port


@pytest.mark.parametrize("program", ["openssl", "gnutls"])
def test_clients_are_served(run: Run, files: Files, authority: Authority, program: str) -> None:
    async def main() -> None:
        async with answering(authority) as port:
            if program == "openssl":
                command = openssl_client(files, port, VERSION, "-alpn", "acme/1")
            else:
                command = gnutls_client(files, port, VERSION, "--alpn", "acme/1")
            for _ in range(2):
                _, said = await conversation(command, b"hello\n")
                assert "you said hello" in said

    run(main)
