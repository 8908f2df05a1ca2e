"""Five thousand Connections in each of two processes: all work, and nothing of them stays."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from taps_core.testing import LoopName

ROOT = Path(__file__).parents[2]

COUNT = 5000
#: Of Connections at a time: everybody at the beginning and at the end. Some more at the
#: beginning: CPython's sets grow from 128 KiB to 512 at 4,916 entries, and whether that
#: many tasks are alive at once is a matter of chance with 5,000.
ROUNDS = (COUNT + 1000, *[150] * 18, COUNT)
#: Descriptors that a process needs besides those of its Connections.
BESIDES = 200
#: Bytes by which a process may be larger after any round than after the first one: the
#: sets of tasks and Connections keep their tables, and asyncio and the interpreter have caches.
TOLERANCE = 256 * 1024
#: Bytes by which it may grow in the nine small rounds before the last one, in which no
#: table grows: less than one object, the smallest, for each Connection.
DRIFT = 16 * 1024
#: Objects, of those that the garbage collector knows, that may come with the same caches;
#: there were seven thousand Connections more.
OBJECTS = 500


class End:
    """One of the two processes."""

    def __init__(self, role: str, *arguments: object) -> None:
        self.looks: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [
                sys.executable,
                *("-W", "error", "-m", "tests.integration.many_connections"),
                *map(str, (role, *arguments)),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self) -> Any:
        """A line of it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            pytest.fail(self._process.stderr.read())
        return json.loads(line)

    def ask(self, order: str) -> Any:
        """Its answer to an order."""
        assert self._process.stdin is not None
        print(order, file=self._process.stdin, flush=True)
        return self.read()

    def look(self) -> None:
        """Remember what is left in it now."""
        self.looks.append(self.ask("look"))

    def end(self) -> None:
        """Let it end by itself: without a word, if nothing is left."""
        _, said = self._process.communicate(timeout=60)
        assert (self._process.returncode, said) == (0, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:
            pass


@pytest.mark.slow
@pytest.mark.linux
@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_five_thousand_connections_in_each_of_two_processes_leave_nothing(
    loop_name: LoopName,
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < max(ROUNDS) + BESIDES:
        pytest.skip(f"needs {max(ROUNDS) + BESIDES} file descriptors, the hard limit is {hard}")

    with End("server", loop_name) as server, End("client", loop_name, *server.read()) as client:
        for count in ROUNDS:
            played = client.ask(f"round {count}")
            assert played["echoes"] == count
            assert played["opened"] > count  # at the same time
            for end in (client, server):
                end.look()
        for end in (client, server):
            end.end()

    for end in (client, server):
        # The first round fills every cache and pool there is.
        first, *later = end.looks
        assert {look["tasks"] for look in end.looks} == {0}
        assert {look["connections"] for look in end.looks} == {0}
        assert {look["descriptors"] for look in later} == {first["descriptors"]}
        memory = [look["memory"] for look in end.looks]
        assert max(look["objects"] for look in later) - first["objects"] < OBJECTS
        assert max(memory) - memory[0] < TOLERANCE, memory
        assert memory[-2] - memory[len(memory) // 2] < DRIFT, memory
