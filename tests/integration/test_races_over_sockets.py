"""Races over the kernel's sockets: whatever ends them, nothing of them is left."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import os
import random
import socket
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.testing import local_identity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taps_core.testing.fixtures import Run

RACES = 1000


@pytest.fixture
def refusing() -> str:
    """Where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def mute() -> Iterator[str]:
    """Who accepts, as far as the kernel can tell, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def hole() -> Iterator[str]:
    """Who does not answer: there is no room for further handshakes."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        filling = [socket.socket() for _ in range(2)]
        for each in filling:
            each.setblocking(False)
            each.connect_ex(address)
        yield f"127.0.0.1:{address[1]}"
        for each in filling:
            each.close()


def timers() -> collections.Counter[str]:
    """Timers that are still to fire, whatever the loop."""
    return collections.Counter(
        type(each).__name__
        for each in gc.get_objects()
        if type(each).__name__ == "TimerHandle" and not each.cancelled()
    )


def open_sockets() -> int:
    """Of this process."""
    found = 0
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found += os.readlink(f"/proc/self/fd/{each}").startswith("socket:")
    return found


async def echo(connection: taps.Connection[Any]) -> None:
    async for message in connection:
        await connection.send(message.data)


@pytest.mark.linux
@pytest.mark.requirement("R-9623-4.4-02")
def test_a_thousand_races_cancelled_or_out_of_time_leave_no_socket_no_task_and_no_timer(
    run: Run, refusing: str, mute: str, hole: str
) -> None:
    chance = random.Random(8305)
    server, client = local_identity("localhost", "127.0.0.1")

    async def race(remotes: list[str], system: taps.System) -> str:
        there = taps.Preconnection(
            remote=remotes,
            security=client,
            framers="line",
            transport={"_taps.racing": chance.choice(["staggered", "simultaneous", "failover"])},
            system=system,
        )
        in_time = chance.random() < 0.5
        connection = there.initiate(timeout=chance.uniform(0, 0.02) if in_time else None)
        waiting = asyncio.ensure_future(connection._wait_ready())
        if not in_time:
            await asyncio.sleep(chance.uniform(0, 0.015))
            waiting.cancel()
        try:
            await waiting
        except asyncio.CancelledError:
            return "cancelled"
        except taps.EstablishmentTimeout:
            return "out of time"
        except taps.EstablishmentError:
            return "failed"
        connection.abort()
        await connection._released()
        return "won"

    async def main() -> None:
        system = taps.System(staggering=taps.Staggering(delay=0.01))
        here = taps.Preconnection(
            local="127.0.0.1:0", security=server, framers="line", system=system
        )
        async with here.listen(echo, grace=1.0) as listener:
            alive = f"127.0.0.1:{listener.local_endpoints[0].port}"
            ends: collections.Counter[str] = collections.Counter()
            await race([alive], system)  # what is made once
            before = timers()
            for _ in range(RACES // 10):
                ends.update(
                    await asyncio.gather(
                        *(
                            race(
                                chance.choices(
                                    [alive, refusing, mute, hole], k=chance.choice([1, 2, 4])
                                ),
                                system,
                            )
                            for _ in range(10)
                        )
                    )
                )
            assert sum(ends.values()) == RACES
            assert ends["cancelled"] > 100
            assert ends["out of time"] > 100
            # The ends that the Listener accepted close by themselves.
            while len(asyncio.all_tasks()) > 2:
                await asyncio.sleep(0.01)
            gc.collect()
            assert timers() - before == collections.Counter()

    run(main)  # looks for tasks, sockets and threads


@pytest.mark.linux
def test_losers_are_closed_before_the_winner_is_handed_over_also_sockets(
    run: Run, mute: str, hole: str
) -> None:
    server, client = local_identity("localhost", "127.0.0.1")

    async def main() -> None:
        system = taps.System(staggering=taps.Staggering(delay=0.02))
        here = taps.Preconnection(
            local="127.0.0.1:0", security=server, framers="line", system=system
        )
        async with here.listen(echo) as listener:
            alive = f"127.0.0.1:{listener.local_endpoints[0].port}"
            before = open_sockets()
            there = taps.Preconnection(
                remote=[hole, mute, alive], security=client, framers="line", system=system
            )
            connection = there.initiate()
            counted: list[int] = []
            connection.on(taps.Ready, lambda _: counted.append(open_sockets() - before))
            async with connection:
                await asyncio.sleep(0)
                assert [each.outcome for each in connection.report] == [
                    "cancelled",
                    "cancelled",
                    "ready",
                ]
                # Both ends of the one that won.
                assert counted == [2]
                first, second, third = connection.report
                assert first.connected is None
                # TCP was, and its TLS never came: the next one had to wait from then on.
                assert second.connected is not None
                # uvloop's clock has milliseconds.
                assert third.started - second.connected > 0.019

    run(main)
