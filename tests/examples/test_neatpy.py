"""The programs of NEATPy's documentation talk to each other, and to plain sockets."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = "neatpy/client_server.py"
EXAMPLES = Path(__file__).parents[2] / "examples"


@contextlib.contextmanager
def server() -> Iterator[int]:
    """The documented server, on a port that is free; interrupted in the end."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / PROGRAM), "server"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores SIGINT, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    try:
        announced = process.stdout.readline()
        found = re.search(r"port (\d+)", announced)
        assert found, announced
        yield int(found[1])
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
        assert complaints.rstrip().endswith("KeyboardInterrupt")
        assert "neatpy" not in complaints.replace(PROGRAM, "").partition("Traceback")[0]
    finally:
        process.kill()
        process.communicate()


def test_the_documented_client_and_server_talk_to_each_other(
    run_example: Callable[..., str],
) -> None:
    with server() as port:
        for _ in range(3):
            said = run_example(PROGRAM, "client", str(port))
            assert said == "Got message 17: Hello from server\n"


def test_the_documented_server_answers_a_plain_socket() -> None:
    with server() as port, socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(b"Hello server")
        assert peer.recv(100) == b"Hello from server"
        assert peer.recv(100) == b""  # an orderly end


def test_the_documented_client_asks_a_plain_socket(run_example: Callable[..., str]) -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            peer, _ = plain.accept()
            with peer:
                asked.append(peer.recv(100))
                peer.sendall(b"Hello from a socket")
                asked.append(peer.recv(100))

        thread = threading.Thread(target=answer)
        thread.start()
        said = run_example(PROGRAM, "client", str(plain.getsockname()[1]))
        thread.join()
    assert said == "Got message 19: Hello from a socket\n"
    assert asked == [b"Hello server", b""]


def test_a_framer_and_a_clone(run_example: Callable[..., str]) -> None:
    assert run_example("neatpy/framer_and_clone.py") == "first: TO BE\nclone: OR NOT TO BE\n"
