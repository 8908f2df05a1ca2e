"""A scenario in which much is left to chance; printed as a log, for fresh processes too."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import taps_core as taps
from taps_core.testing import VirtualNetwork, run

__all__ = ["story"]


async def _double(connection: taps.Connection[Any]) -> None:
    async for message in connection:
        await connection.send(message.data * 2)


async def _ask(number: int) -> None:
    there = taps.Preconnection(remote="server.example:7000", framers="line")
    async with there.initiate() as connection:
        for length in range(5):
            await connection.send(b"x" * (300 * length + number))
            await connection.receive()


async def _scenario(net: VirtualNetwork) -> None:
    net.path(latency=0.03, jitter=0.02, loss=0.1, duplicate=0.05, reorder=0.1, bandwidth=50_000)
    net.name("server.example", net.host("server.example"), delay=0.01)
    await net.serve("server.example:7000", _double, framers="line")
    hosts = [net.host(f"{name}.example") for name in "abc"]
    async with asyncio.TaskGroup() as group:
        for number in range(9):
            group.create_task(hosts[number % 3].run(_ask(number)))


def story(seed: int | str) -> str:
    """The log of a run with this seed."""
    net = VirtualNetwork(seed)
    run(_scenario, network=net)
    return net.log.as_json()


if __name__ == "__main__":
    sys.stdout.write(story(int(sys.argv[1])))
