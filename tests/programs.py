"""Real servers on loopback that tests run: other people's programs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["program", "serve"]

# Debian keeps servers where the path of a user does not lead.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def program(name: str) -> str:
    """Where it is. A missing one skips the test, or fails it if TAPS_REQUIRE names it."""
    found = shutil.which(name, path=SEARCH)
    if found is None:
        if name in os.environ.get("TAPS_REQUIRE", "").split(","):
            pytest.fail(f"{name} is not installed, and TAPS_REQUIRE demands it", pytrace=False)
        pytest.skip(f"{name} is not installed")
    return found


def serve(command: Callable[[int], list[str]], log: Path) -> Iterator[int]:
    """Run a server that cannot choose its port itself; the port it answers on."""
    for _ in range(5):  # somebody else may take the port between our look and its bind
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with log.open("wb") as output:
            server = subprocess.Popen(
                command(port), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            if answers(server, port):
                yield port
                return
        finally:
            server.terminate()
            server.wait()
    pytest.fail(f"{server.args} does not start: {log.read_text(errors='replace')}", pytrace=False)


def answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it takes connections before it ends (or before half a minute is over)."""
    for _ in range(600):
        if server.poll() is not None:
            return False
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False
