"""Peers that are not ours at the other end: OpenSSL's and GnuTLS's programs, nginx, curl."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_tls import TLSInfo

from .conftest import Authority
from .peers import Files, Peers, conversation, gnutls_client, openssl_client, to

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterator

    from taps_core.testing.fixtures import Run

VERSIONS = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


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


@VERSIONS
def test_openssl_serves_us(run: Run, peers: Peers, authority: Authority, version: str) -> None:
    port = peers.openssl(version, "-alpn", "acme/1,acme/2")

    async def main() -> None:
        preconnection = to(port, authority.client(alpn=["acme/2"]))
        for attempt in range(3):
            async with preconnection.initiate() as connection:
                await connection.send(b"hello")
                assert (await connection.receive()).data == b"olleh"
                info = info_of(connection)
                assert (info.version, info.alpn) == (version, "acme/2")
                assert info.resumed is (attempt > 0)

    run(main)


@VERSIONS
def test_gnutls_serves_us(run: Run, peers: Peers, authority: Authority, version: str) -> None:
    port = peers.gnutls(version, "--alpn", "acme/2", "--alpn-fatal", "--sni-hostname", "localhost")

    async def main() -> None:
        preconnection = to(port, authority.client(alpn=["acme/1", "acme/2"]))
        for attempt in range(3):
            async with preconnection.initiate() as connection:
                for words in (b"hello", b"x" * 1000):
                    await connection.send(words)
                    assert (await connection.receive()).data == words
                info = info_of(connection)
                assert (info.version, info.alpn) == (version, "acme/2")
                assert info.resumed is (attempt > 0)
        with pytest.raises(taps.EstablishmentError) as caught:
            await to(port, authority.client(alpn="acme/3")).initiate()
        assert caught.value.detail == "no-application-protocol"
        assert "speaks none of the application protocols offered" in str(caught.value)
        assert "Given server name[1]: localhost" in peers.log(port)

    run(main)


@VERSIONS
@pytest.mark.parametrize("program", ["openssl", "gnutls"])
def test_servers_get_our_certificate_or_refuse(
    run: Run, peers: Peers, files: Files, authority: Authority, version: str, program: str
) -> None:
    if program == "openssl":
        demands = ("-Verify", "2", "-verify_return_error", "-CAfile", files.ca)
        port = peers.openssl(version, *demands)
        answer = b"olleh"
    else:
        demands = ("--require-client-cert", "--verify-client-cert", "--x509cafile", files.ca)
        port = peers.gnutls(version, *demands)
        answer = b"hello"

    async def main() -> None:
        client = authority.client(client_certificate=taps.Certificate(files.me))
        async with to(port, client).initiate() as connection:
            await connection.send(b"hello")
            assert (await connection.receive()).data == answer
        with pytest.raises(taps.TapsError) as caught:
            async with to(port, authority.client()).initiate() as connection:
                await connection.receive()
        # TLS 1.2 has no word for it: GnuTLS says that it cannot read an empty list.
        vaguely = {"openssl": "handshake-refused", "gnutls": "alert"}[program]
        expected = {"TLSv1.2": vaguely, "TLSv1.3": "client-certificate-required"}
        assert caught.value.detail == expected[version]

    run(main)


def test_a_peer_that_has_tls_1_1_only_is_refused(
    run: Run, peers: Peers, authority: Authority
) -> None:
    port = peers.openssl("TLSv1.1", "-cipher", "ALL:@SECLEVEL=0")

    async def main() -> None:
        with pytest.raises(taps.EstablishmentError) as caught:
            await to(port, authority.client()).initiate()
        assert caught.value.detail == "no-shared-protocol"

    run(main)


@contextlib.asynccontextmanager
async def answering(authority: Authority, version: str) -> AsyncIterator[tuple[int, list[bool]]]:
    """A Listener for clients with a certificate; its port, and who resumed a session so far."""
    server = authority.server(trusted_certificates=authority.pem, alpn=["acme/1"])
    here = taps.Preconnection(
        local="127.0.0.1:0", security=server, framers="line", system=taps.System()
    )
    resumed: list[bool] = []

    async def echo(connection: taps.Connection[Any]) -> None:
        info = info_of(connection)
        assert (info.version, info.alpn, info.verified) == (version, "acme/1", True)
        resumed.append(info.resumed)
        message = await connection.receive()
        await connection.send(b"you said " + message.data)

    async with here.listen(echo) as listener:
        port = listener.local_endpoints[0].port
        assert port is not None
        yield port, resumed


@VERSIONS
def test_we_serve_openssl(run: Run, files: Files, authority: Authority, version: str) -> None:
    ticket = str(files.folder / "ticket")

    async def main() -> None:
        async with answering(authority, version) as (port, resumed):
            for options in (("-sess_out", ticket), ("-sess_in", ticket)):
                command = openssl_client(files, port, version, "-alpn", "acme/1", *options)
                _, printed = await conversation(command, b"hello\n")
                assert "you said hello\n" in printed
                # It got the end in order: with less it would complain of an unexpected one.
                assert "unexpected eof" not in printed
            assert resumed == [False, True]

    run(main)


@VERSIONS
def test_a_peer_that_takes_small_records_only_gets_all_the_same(
    run: Run, files: Files, authority: Authority, version: str
) -> None:
    async def main() -> None:
        async with answering(authority, version) as (port, _):
            options = ("-alpn", "acme/1", "-maxfraglen", "512")
            command = openssl_client(files, port, version, *options)
            words = b"0123456789" * 500
            _, printed = await conversation(command, words + b"\n")
            assert f"you said {words.decode()}\n" in printed

    run(main)


@VERSIONS
def test_we_serve_gnutls(run: Run, files: Files, authority: Authority, version: str) -> None:
    async def main() -> None:
        async with answering(authority, version) as (port, _):
            command = gnutls_client(files, port, version, "--alpn", "acme/1")
            status, printed = await conversation(command, b"hello\n")
            assert "- Application protocol: acme/1\n" in printed
            assert "you said hello\n- Peer has closed the GnuTLS connection\n" in printed
            assert status == 0

    run(main)


@VERSIONS
@pytest.mark.parametrize("program", ["openssl", "gnutls"])
def test_clients_that_trust_another_authority_refuse_us(
    run: Run, files: Files, tmp_path: pathlib.Path, version: str, program: str
) -> None:
    stranger = Authority()
    command = {"openssl": openssl_client, "gnutls": gnutls_client}[program]

    async def main() -> None:
        async with answering(stranger, version) as (port, resumed):
            status, printed = await conversation(command(files, port, version), b"hello\n")
            assert status
            assert "you said" not in printed
            assert not resumed

    run(main)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_nginx_answers_whom_it_knows(
    run: Run, peers: Peers, files: Files, authority: Authority, version: str
) -> None:
    port = peers.nginx(
        f"""
        ssl_client_certificate {files.ca}; ssl_verify_client optional;
        location / {{
            return 200 "$ssl_client_verify $ssl_protocol $ssl_server_name $ssl_session_reused";
        }}
        """
    )

    async def ask(preconnection: Any) -> bytes:
        async with preconnection.initiate() as connection:
            assert info_of(connection).alpn == "http/1.1"
            await connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            # Until the peer's end, which nginx says with close_notify.
            answer = b""
            with contextlib.suppress(taps.EndOfData):
                while True:
                    answer += (await connection.receive(max_length=65536)).data
            return answer.partition(b"\r\n\r\n")[2]

    async def main() -> None:
        limited = {"alpn": "http/1.1", "allowed_security_protocols": version}
        unknown = to(port, authority.client(**limited), framers=())
        assert await ask(unknown) == f"NONE {version} localhost .".encode()
        mine = taps.Certificate(files.me)
        known = to(port, authority.client(client_certificate=mine, **limited), framers=())
        assert await ask(known) == f"SUCCESS {version} localhost .".encode()
        assert await ask(known) == f"SUCCESS {version} localhost r".encode()

    run(main)
