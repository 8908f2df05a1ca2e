"""Peers that are not ours: OpenSSL's and GnuTLS's programs, and nginx.

Servers are started by :class:`Peers` and end with the test; ``conversation`` runs a
client. Those of OpenSSL and GnuTLS go by the version, also where it is one of DTLS.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps

from .conftest import PATIENCE

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Sequence
    from typing import Self

    from .conftest import Authority

#: Versions as ``allowedSecurityProtocols`` has them → as the programs want them.
OPENSSL = {
    "TLSv1.1": "-tls1_1",
    "TLSv1.2": "-tls1_2",
    "TLSv1.3": "-tls1_3",
    "DTLSv1.0": "-dtls1",
    "DTLSv1.2": "-dtls1_2",
}
GNUTLS = {
    version: f"NORMAL:-VERS-ALL:+VERS-{name}"
    for version, name in (("TLSv1.2", "TLS1.2"), ("TLSv1.3", "TLS1.3"), ("DTLSv1.2", "DTLS1.2"))
}


def needed(program: str) -> str:
    """Where the program is; without it the test is skipped, or fails if it has to be there."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(program, path=path)
    if found is None:
        if program in os.environ.get("TAPS_REQUIRE", "").split(","):
            pytest.fail(f"{program} is not installed, and TAPS_REQUIRE demands it", pytrace=False)
        pytest.skip(f"{program} is not installed")
    return found


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """One that nobody has now, for programs that cannot choose themselves."""
    with socket.socket(type=kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Files:
    """The authority's certificate and identities, as programs want them.

    Attributes:
        ca: Path of the authority's certificate.
        localhost: Path of a certificate for that name, with its key.
        me: Path of a client's, with its key.
    """

    def __init__(self, folder: pathlib.Path, authority: Authority) -> None:
        self.folder = folder
        self._authority = authority
        self.ca = self._file("ca.pem", authority.pem)
        self.localhost = self._file("localhost.pem", self._identity("localhost"))
        self.me = self._file("me.pem", self._identity("me.example"))

    def _identity(self, name: str) -> bytes:
        made = self._authority.identity(name)
        assert isinstance(made.chain, bytes)
        assert isinstance(made.key, bytes)
        return made.chain + made.key

    def _file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)


class Peers:
    """Starts servers; leaving it as a context manager ends them.

    Args:
        files: What they show.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started.values():
            process.kill()
            process.communicate()

    def openssl(self, version: str, *options: str) -> int:
        """Start ``openssl s_server``, which sends each line back reversed; its port.

        That of DTLS cannot: it logs what it gets, and sends what it is told by ``say``.
        """
        port = free_port(kind_of(version))
        mine = self.files.localhost
        command = [
            *(needed("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", OPENSSL[version]),
            *("-cert", mine, "-key", mine, *options),
            *([] if version.startswith("DTLS") else ["-rev"]),
        ]
        return self._start(command, port, b"ACCEPT")

    def gnutls(self, version: str, *options: str) -> int:
        """Start ``gnutls-serv``, which sends each line back; its port."""
        port = free_port(kind_of(version))
        mine = self.files.localhost
        command = [
            *(needed("gnutls-serv"), "--port", str(port), "--priority", GNUTLS[version]),
            *("--x509certfile", mine, "--x509keyfile", mine, "--echo"),
            *(["--udp"] if version.startswith("DTLS") else []),
            *options,
        ]
        # It is there for IPv4 first.
        return self._start(command, port, b"...done")

    def nginx(self, server: str) -> int:
        """Start nginx with TLS and these lines in its ``server``; its port."""
        port, folder, mine = free_port(), self.files.folder, self.files.localhost
        temporary = "".join(
            f"{each}_temp_path {folder};"
            for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"""
            daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
            events {{}}
            http {{
                access_log off; {temporary}
                server {{
                    listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.2 TLSv1.3;
                    ssl_certificate {mine}; ssl_certificate_key {mine};
                    {server}
                }}
            }}
            """
        )
        command = [needed("nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder)]

        def answers() -> bool:
            with socket.socket() as sock:
                return not sock.connect_ex(("127.0.0.1", port))

        return self._start(command, port, answers)

    def say(self, port: int, words: bytes) -> None:
        """Type something into the server at this port."""
        typing = self._started[port].stdin
        assert typing is not None
        typing.write(words)
        typing.flush()

    def log(self, port: int) -> str:
        """What the server at this port has said so far."""
        return self._path(port).read_text(errors="replace")

    def _path(self, port: int) -> pathlib.Path:
        return self.files.folder / f"{port}.log"

    def _start(self, command: Sequence[str], port: int, ready: bytes | Callable[[], bool]) -> int:
        path = self._path(port)
        with path.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )
        self._started[port] = process
        deadline = time.monotonic() + PATIENCE
        while not (ready in path.read_bytes() if isinstance(ready, bytes) else ready()):
            assert process.poll() is None, f"{command[0]} does not start: {self.log(port)}"
            assert time.monotonic() < deadline, f"{command[0]} is not ready: {self.log(port)}"
            time.sleep(0.02)
        return port


def kind_of(version: str) -> int:
    """The kind of socket that a version runs over."""
    return socket.SOCK_DGRAM if version.startswith("DTLS") else socket.SOCK_STREAM


def openssl_client(files: Files, port: int, version: str, *options: str) -> list[str]:
    """The command that connects to ``localhost`` here, verifies it and is ``me.example``."""
    return [
        *(needed("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", OPENSSL[version]),
        *("-servername", "localhost", "-verify_hostname", "localhost", "-verify_return_error"),
        *("-CAfile", files.ca, "-cert", files.me, "-key", files.me, "-quiet", *options),
    ]


def gnutls_client(files: Files, port: int, version: str, *options: str) -> list[str]:
    """The same by ``gnutls-cli``."""
    return [
        *(needed("gnutls-cli"), "--port", str(port), "--priority", GNUTLS[version]),
        *("--sni-hostname", "localhost", "--verify-hostname", "localhost"),
        *("--x509cafile", files.ca, "--x509certfile", files.me, "--x509keyfile", files.me),
        *(["--udp"] if version.startswith("DTLS") else []),
        *(*options, "127.0.0.1"),
    ]


async def conversation(command: Sequence[str], words: bytes) -> tuple[int, str]:
    """Run a client that says ``words`` and goes when the peer does; status and all it printed.

    Its input does not end before: it would hang up then.
    """
    reading, writing = os.pipe()
    try:
        os.write(writing, words)
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    return done.returncode, done.stdout.decode(errors="replace")


def to(port: int, security: taps.SecurityParameters, framers: Any = "line") -> Any:
    """A Preconnection to ``localhost`` here."""
    remote = taps.RemoteEndpoint(hostname="localhost", ip_address="127.0.0.1", port=port)
    return taps.Preconnection(
        remote=remote, security=security, framers=framers, system=taps.System()
    )
