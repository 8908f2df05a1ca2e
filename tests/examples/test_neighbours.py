"""Two programs that find each other by a group, and notice when one has gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taps_core.testing import KernelNetwork

EXAMPLE = Path(__file__).parents[2] / "examples" / "neighbours.py"


def test_neighbours_are_seen_to_come_and_go(
    kernel_network: KernelNetwork,
) -> None:
    kernel_network.lay_cable()

    def start(name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, EXAMPLE, "--every", "0.2", name],
            stdout=subprocess.PIPE,
            text=True,
        )

    with start("Alice") as alice, start("Bob") as bob:
        assert alice.stdout is not None
        assert bob.stdout is not None
        try:
            for program in (alice, bob):
                assert program.stdout is not None
                seen = sorted(program.stdout.readline().rpartition(":")[0] for _ in range(2))
                assert seen == ["Alice is here: 192.0.2.1", "Bob is here: 192.0.2.1"]
            bob.send_signal(signal.SIGINT)
            assert alice.stdout.readline().startswith("Bob has gone: 192.0.2.1:")
            assert bob.wait() == 0
        finally:
            alice.send_signal(signal.SIGINT)
            bob.kill()
        assert alice.wait() == 0
