"""Peers that are not ours at the other end: OpenSSL's programs, and nginx."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_tls import TLSInfo

from .conftest import PATIENCE

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

    from taps_core.testing.fixtures import Run

    from .conftest import Authority

VERSIONS = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
FLAGS = {"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}


def needed(program: str) -> str:
    """Where the program is; without it the test is skipped, or fails if it has to be there."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(program, path=path)
    if found is None:
        if program in os.environ.get("TAPS_REQUIRE", "").split(","):
            pytest.fail(f"{program} is not installed, and TAPS_REQUIRE demands it", pytrace=False)
        pytest.skip(f"{program} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def until_it_listens(port: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.socket() as sock:
                sock.connect(("127.0.0.1", port))
                return
            await asyncio.sleep(0.05)


class Files:
    """The authority's certificate and identities, as programs want them."""

    def __init__(self, folder: pathlib.Path, authority: Authority) -> None:
        self.folder = folder
        self.authority = authority
        self.ca = str(folder / "ca.pem")
        (folder / "ca.pem").write_bytes(authority.pem)
        (folder / "localhost.pem").write_bytes(self.pem("localhost"))
        (folder / "me.pem").write_bytes(self.pem("me.example"))
        self.localhost = str(folder / "localhost.pem")
        self.me = str(folder / "me.pem")

    def pem(self, name: str) -> bytes:
        made = self.authority.identity(name)
        assert isinstance(made.chain, bytes)
        assert isinstance(made.key, bytes)
        return made.chain + made.key


@pytest.fixture
def files(tmp_path: pathlib.Path, authority: Authority) -> Files:
    return Files(tmp_path, authority)


@pytest.fixture
def s_server(files: Files) -> Iterator[Callable[..., int]]:
    """Starts ``openssl s_server``, which sends each line back reversed; gives its port."""
    openssl = needed("openssl")
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> int:
        port = free_port()
        process = subprocess.Popen(
            [
                *(openssl, "s_server", "-accept", f"127.0.0.1:{port}"),
                *("-cert", files.localhost, "-key", files.localhost, "-rev", *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        assert process.stdout is not None
        while line := process.stdout.readline():
            if line.startswith(b"ACCEPT"):
                return port
        raise AssertionError("s_server does not start")

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def to(port: int, security: taps.SecurityParameters, framers: Any = "line") -> Any:
    remote = taps.RemoteEndpoint(hostname="localhost", ip_address="127.0.0.1", port=port)
    return taps.Preconnection(
        remote=remote, security=security, framers=framers, system=taps.System()
    )


def info_of(connection: taps.Connection[Any]) -> TLSInfo:
    info = connection.find(TLSInfo)
    assert info is not None
    return info


@VERSIONS
def test_openssl_serves_us(run: Run, s_server: Any, authority: Authority, version: str) -> None:
    port = s_server(FLAGS[version], "-alpn", "acme/1,acme/2")

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
def test_openssl_wants_our_certificate(
    run: Run, s_server: Any, files: Files, authority: Authority, version: str
) -> None:
    port = s_server(FLAGS[version], "-Verify", "2", "-verify_return_error", "-CAfile", files.ca)

    async def main() -> None:
        client = authority.client(client_certificate=taps.Certificate(files.me))
        async with to(port, client).initiate() as connection:
            await connection.send(b"hello")
            assert (await connection.receive()).data == b"olleh"
        with pytest.raises(taps.TapsError) as caught:
            async with to(port, authority.client()).initiate() as connection:
                await connection.receive()
        expected = {"TLSv1.2": "handshake-refused", "TLSv1.3": "client-certificate-required"}
        assert caught.value.detail == expected[version]

    run(main)


def test_a_peer_that_has_tls_1_1_only_is_refused(
    run: Run, s_server: Any, authority: Authority
) -> None:
    port = s_server("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")

    async def main() -> None:
        with pytest.raises(taps.EstablishmentError) as caught:
            await to(port, authority.client()).initiate()
        assert caught.value.detail == "no-shared-protocol"

    run(main)


@VERSIONS
def test_we_serve_openssl(run: Run, files: Files, authority: Authority, version: str) -> None:
    openssl = needed("openssl")

    async def main() -> None:
        server = authority.server(trusted_certificates=authority.pem, alpn=["acme/1"])
        here = taps.Preconnection(
            local="127.0.0.1:0", security=server, framers="line", system=taps.System()
        )

        async def echo(connection: taps.Connection[Any]) -> None:
            info = info_of(connection)
            assert (info.version, info.alpn, info.verified) == (version, "acme/1", True)
            message = await connection.receive()
            await connection.send(b"you said " + message.data)

        async with here.listen(echo) as listener:
            port = listener.local_endpoints[0].port
            command = [
                *(openssl, "s_client", "-connect", f"127.0.0.1:{port}", FLAGS[version]),
                *("-servername", "localhost", "-verify_hostname", "localhost"),
                *("-verify_return_error", "-CAfile", files.ca, "-cert", files.me),
                *("-key", files.me, "-alpn", "acme/1", "-quiet"),
            ]
            done = await asyncio.to_thread(
                subprocess.run,
                command,
                input=b"hello\n",
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.stdout == b"you said hello\n", done.stderr
            # It got the end in order: with less it would complain of an unexpected one.
            assert b"unexpected eof" not in done.stderr

    run(main)


def test_nginx_answers_whom_it_knows(
    run: Run, files: Files, authority: Authority, tmp_path: pathlib.Path
) -> None:
    nginx = needed("nginx")
    port = free_port()
    (tmp_path / "nginx.conf").write_text(
        f"""
        daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; worker_processes 1;
        events {{}}
        http {{
            access_log off; client_body_temp_path {tmp_path}; proxy_temp_path {tmp_path};
            fastcgi_temp_path {tmp_path}; uwsgi_temp_path {tmp_path}; scgi_temp_path {tmp_path};
            server {{
                listen 127.0.0.1:{port} ssl;
                ssl_certificate {files.localhost}; ssl_certificate_key {files.localhost};
                ssl_protocols TLSv1.2 TLSv1.3;
                ssl_client_certificate {files.ca}; ssl_verify_client optional;
                location / {{ return 200 "$ssl_client_verify $ssl_protocol"; }}
            }}
        }}
        """
    )
    process = subprocess.Popen(
        [nginx, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    async def ask(security: taps.SecurityParameters) -> bytes:
        async with to(port, security, framers=()).initiate() as connection:
            assert info_of(connection).alpn == "http/1.1"
            await connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            # Until the peer's end, which nginx says with close_notify.
            answer = b""
            with contextlib.suppress(taps.EndOfData):
                while True:
                    answer += (await connection.receive(max_length=65536)).data
            return answer.partition(b"\r\n\r\n")[2]

    async def main() -> None:
        await until_it_listens(port)
        answer = await ask(authority.client(alpn="http/1.1"))
        assert answer == b"NONE TLSv1.3"
        mine = taps.Certificate(files.me)
        client = authority.client(client_certificate=mine, alpn="http/1.1")
        assert await ask(client) == b"SUCCESS TLSv1.3"

    try:
        run(main)
    finally:
        process.terminate()
        process.wait()
