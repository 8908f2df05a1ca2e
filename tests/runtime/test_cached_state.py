"""What Connections teach the next ones, on a virtual network and its clock."""

from __future__ import annotations

import asyncio
import errno
import json
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.planning.history import HALF_LIFE
from taps_core.testing import MemoryStream

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest, Flow
    from taps_core.testing import MemoryNetwork, VirtualNetwork
    from taps_core.testing.fixtures import Run, VirtualRun

SERVER = "server.example:7000"
SIX, FOUR = "2001:db8::1", "192.0.2.1"


async def until_the_end(connection: taps.Connection[Any]) -> None:
    async for _ in connection:
        pass


async def serve(net: VirtualNetwork, latency: float = 0.05) -> None:
    """One host with two addresses, of which one is a black hole."""
    net.path(latency=latency)
    net.host("server.example", SIX, FOUR)
    net.path("client", SIX).blackhole()
    await net.serve(SERVER, until_the_end, framers="line")


async def tried(transport: dict[str, Any] | None = None) -> tuple[list[str], float]:
    """Addresses in the order of their attempts, and how long it took until Ready."""
    async with taps.Preconnection(
        remote=SERVER, framers="line", transport=transport
    ).initiate() as connection:
        ready = connection.report.ended
        assert ready is not None
        return [
            each.as_json()["remote"].rpartition(":")[0].strip("[]") for each in connection.report
        ], round(ready, 6)


def test_a_stack_that_failed_comes_after_one_that_worked(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Other(MemoryStream):
        name = "a-better-stream"

        async def connect(self, request: ConnectRequest) -> Flow:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    def stacks(connection: taps.Connection[Any]) -> list[str]:
        return [each.as_json()["stack"] for each in connection.report]

    async def main() -> None:
        here = world(MemoryStream(memory_network), Other(memory_network))
        async with here.listen(until_the_end) as listener:
            async with here.to(listener).initiate() as connection:
                assert stacks(connection) == ["A-BETTER-STREAM", "MEMORY-STREAM"]
            async with here.to(listener).initiate() as connection:
                assert stacks(connection) == ["MEMORY-STREAM"]
            selection = here.to(listener).select()
            assert "has failed here lately" in str(selection)
            alone = here.to(listener)
            alone.transport.set("isolateSession", True)
            assert "lately" not in str(alone.select())

    run(main, memory_network)


@pytest.mark.requirement("R-9623-9.2-01", "R-9623-9.2-04")
def test_the_next_connection_goes_straight_to_what_worked(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await serve(net)
        assert await tried() == ([SIX, FOUR], 0.35)
        assert await tried() == ([FOUR], 0.1)
        assert "server.example" in json.dumps(taps.System.current().cached.as_json())

    virtual_run(scenario)


def test_a_failure_fades_and_what_worked_is_still_known(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await serve(net)
        await tried()
        cached = taps.System.current().cached

        def trouble() -> float:
            (told,) = cached.as_json()["destinations"]
            return float(told["addresses"][SIX]["trouble"])

        assert trouble() == pytest.approx(1.0, abs=0.01)
        await asyncio.sleep(HALF_LIFE)
        assert trouble() == pytest.approx(0.5, abs=0.01)
        assert await tried() == ([FOUR], 0.1)

    virtual_run(scenario)


def test_a_failed_address_is_tried_again_when_its_failure_has_faded(
    virtual_run: VirtualRun,
) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05)
        net.host("server.example", SIX, FOUR)
        path = net.path("client", SIX)
        path.down()
        other = net.path("client", FOUR)
        other.down()
        await net.serve(SERVER, until_the_end, framers="line")
        with pytest.raises(taps.EstablishmentError):
            await tried()
        other.up()
        # Both have failed, so neither is better than the other.
        assert await tried() == ([SIX, FOUR], 0.1)
        assert await tried() == ([FOUR], 0.1)
        path.up()
        # What has worked lately stays first as long as it works.
        await asyncio.sleep(4 * HALF_LIFE)
        assert await tried() == ([FOUR], 0.1)
        other.down()
        assert await tried() == ([FOUR, SIX], 0.1)
        assert await tried() == ([SIX], 0.1)

    virtual_run(scenario)


def test_the_delay_is_made_of_the_handshake_that_is_known(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.1)
        net.host("server.example", SIX, FOUR)
        await net.serve(SERVER, until_the_end, framers="line")
        assert await tried() == ([SIX], 0.2)
        net.path("client", SIX).blackhole()
        # Twice the 200 ms in place of 250.
        assert await tried() == ([SIX, FOUR], 0.6)

    virtual_run(scenario)


def test_isolated_connections_neither_use_nor_leave_anything(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await serve(net)
        alone = {"isolateSession": True}
        cached = taps.System.current().cached
        assert await tried(alone) == ([SIX, FOUR], 0.35)
        assert not cached
        await tried()
        before = cached.as_json()["destinations"]
        assert len(cached) == 1
        assert await tried(alone) == ([SIX, FOUR], 0.35)
        after = cached.as_json()["destinations"]
        assert [each["addresses"].keys() for each in after] == [
            each["addresses"].keys() for each in before
        ]
        assert after[0]["used"] > before[0]["used"]

    virtual_run(scenario)


def test_it_can_be_forgotten_and_kept(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await serve(net)
        await tried()
        cached = taps.System.current().cached
        saved = json.loads(json.dumps(cached.as_json()))
        assert repr(cached) == "<CachedState about 1 destinations>"
        cached.forget("server.example")
        assert len(cached) == 0
        assert await tried() == ([SIX, FOUR], 0.35)
        cached.forget()
        cached.restore(saved)
        assert await tried() == ([FOUR], 0.1)
        for nonsense in ({}, {"saved": 1, "destinations": [{}]}, {"saved": "now"}, []):
            with pytest.raises(ValueError, match="not what CachedState"):
                cached.restore(nonsense)  # type: ignore[arg-type]  # the point of it

    virtual_run(scenario)


def test_what_an_application_ended_is_no_failure(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await serve(net)
        net.path("client", FOUR).blackhole()
        with pytest.raises(taps.EstablishmentTimeout):
            await taps.Preconnection(remote=SERVER, framers="line").initiate(timeout=5)
        assert not taps.System.current().cached

    virtual_run(scenario)


def test_where_there_was_one_thing_to_try_nothing_is_remembered(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05)
        net.host("server.example", FOUR)
        await net.serve(SERVER, until_the_end, framers="line")
        assert await tried() == ([FOUR], 0.1)
        assert not taps.System.current().cached

    virtual_run(scenario)
