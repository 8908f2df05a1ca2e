"""The other examples, as a user runs them."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.examples.conftest import IdentityFiles

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextlib.contextmanager
def echo_server(*options: str) -> Iterator[tuple[str, int]]:
    """A server that is interrupted in the end, which is no error; its port."""
    program = [sys.executable, "-W", "error", str(EXAMPLES / "echo.py")]
    server = subprocess.Popen(
        [*program, "--listen", "127.0.0.1:0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test run in the background ignores SIGINT, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert server.stdout is not None
    try:
        announced = server.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", announced)
        assert found, announced
        yield found[0], int(found[1])
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert server.stdout.read() == ""
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_the_echo_server_answers_its_client_and_any_other_over_tls(
    run_example: Callable[..., str], identity_files: IdentityFiles
) -> None:
    trusted = str(identity_files.trusted)
    with echo_server("--certificate", str(identity_files.mine)) as (address, port):
        said = run_example("echo.py", "--trust", trusted, address, "hello", "world")
        assert said == "hello\nworld\n"
        context = ssl.create_default_context(cafile=trusted)
        with (
            socket.create_connection(("127.0.0.1", port)) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as stranger,
        ):
            stranger.sendall(b"by hand\n")
            assert stranger.recv(100) == b"by hand\n"
        assert "trusted_certificates" in run_example("echo.py", address, "hello", status=1)


def test_the_echo_server_answers_its_client_and_a_plain_socket(
    run_example: Callable[..., str],
) -> None:
    with echo_server("--plain") as (address, port):
        assert run_example("echo.py", "--plain", address, "hello", "world") == "hello\nworld\n"
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"by hand\n")
            assert stranger.recv(100) == b"by hand\n"


def test_an_echo_server_without_a_certificate_says_what_is_missing(
    run_example: Callable[..., str],
) -> None:
    said = run_example("echo.py", "--listen", "127.0.0.1:0", status=1)
    assert "server_certificate" in said
    assert "Traceback" not in said


def test_the_demonstration_shows_exchange_ranking_and_report(
    run_example: Callable[..., str],
) -> None:
    printed = run_example("demo.py")
    assert "connected over length-prefix/TLS/TCP" in printed
    assert "the server's certificate was verified" in printed
    assert "trusted_certificates" in printed  # to whom it is a stranger
    assert "ready" in printed
    assert "Traceback" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.isprintable() is False  # newlines …
    assert "\x1b" not in printed  # … but no colours when it is piped
