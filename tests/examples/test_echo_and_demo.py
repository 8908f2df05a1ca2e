"""The other examples, as a user runs them."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_echo_server_answers_its_client_and_a_plain_socket(
    run_example: Callable[..., str],
) -> None:
    server = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / "echo.py"), "--listen", "127.0.0.1:0"],
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
        address = found[0]
        assert run_example("echo.py", address, "hello", "world") == "hello\nworld\n"
        with socket.create_connection(("127.0.0.1", int(found[1]))) as stranger:
            stranger.sendall(b"by hand\n")
            assert stranger.recv(100) == b"by hand\n"
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert server.stdout.read() == ""
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_the_demonstration_shows_exchange_ranking_and_report(
    run_example: Callable[..., str],
) -> None:
    printed = run_example("demo.py")
    assert "length-prefix/TCP" in printed
    assert "ready" in printed
    assert "Traceback" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.isprintable() is False  # newlines …
    assert "\x1b" not in printed  # … but no colours when it is piped
