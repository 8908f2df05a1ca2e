"""A group behind a limit over the kernel's TCP and UDP: shares do not depend on how fast it is."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_framers import LengthPrefix
from taps_tcp import TCP
from taps_udp import UDP
from tests.runtime.conftest import World
from tests.runtime.shares import GROUP, NAMES, SIZES, as_said, group, queue, sending, shares

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run


@pytest.mark.parametrize("scheduler", taps.Scheduler)
@pytest.mark.parametrize("awaited", [True, False])
@pytest.mark.parametrize(
    ("transport", "framers"), [(TCP, LengthPrefix(2)), (UDP, None)], ids=["tcp", "udp"]
)
def test_three_of_a_group_share_its_limit_as_the_scheduler_says(
    run: Run, transport: Any, framers: Any, awaited: bool, scheduler: taps.Scheduler
) -> None:
    async def main() -> None:
        how = {"conn_scheduler": scheduler, GROUP: 16e6}
        async with group(World, transport(), framers=framers, **how) as (members, far):
            # What is under way differs, so it is looked at on this side.
            if awaited:
                async with sending(members) as left:
                    while not all(member.queued[1] for member in members):
                        await asyncio.sleep(0)
                    left.clear()
                    while left.total() < 300_000:
                        await asyncio.sleep(0.001)
            else:
                queue(members)
                left = Counter()
                while left.total() < 300_000:
                    await asyncio.sleep(0.001)
                    for member, name, size in zip(members, NAMES, SIZES, strict=True):
                        left[name] = 2000 * size - member.queued[0]
            assert shares(left) == as_said(scheduler, datagrams=transport is UDP)
            if transport is TCP:
                while any(far.bytes[name] < left[name] for name in NAMES):
                    await far.until(1)

    run(main)


@pytest.mark.parametrize("transport", [TCP, UDP])
def test_max_send_rate_is_kept_by_the_kernel_or_by_the_connection(run: Run, transport: Any) -> None:
    async def main() -> None:
        here = World(transport(), properties={"max_send_rate": 8000})
        async with here.listen(grace=0) as listener:
            connection = await here.to(listener).initiate()
            assert connection.properties["maxSendRate"] == 8000
            assert connection.properties.effect("maxSendRate") is None
            for _ in range(3):
                connection.send_nowait(bytes(1000))
            paced = connection._flow.read("maxSendRate") == 8000
            assert paced or transport is UDP or sys.platform != "linux"
            assert connection.queued == ((0, 0) if paced else (2000, 2))
            connection.set_property("maxSendRate", 8e9)
            await connection.send(b"the last")
            assert connection.queued == (0, 0)
            connection.abort()

    run(main)
