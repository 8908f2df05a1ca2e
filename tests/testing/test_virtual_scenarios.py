"""Whole programs on the virtual network: exact times, byte counts, and the same run each time."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import taps_core as taps
from taps_core.testing import VirtualClockLoop, VirtualNetwork, run
from tests.testing.story import story

if TYPE_CHECKING:
    from taps_core.testing.fixtures import VirtualRun

ROOT = Path(__file__).parents[2]
SERVER = "server.example:7000"


def now() -> float:
    return asyncio.get_running_loop().time()


def exactly(seconds: Any) -> Any:
    """Floats that were added up in another order."""
    return pytest.approx(seconds, abs=1e-9, rel=0)


async def echo(connection: taps.Connection[Any]) -> None:
    async for message in connection:
        await connection.send(message.data)


async def until_the_end(connection: taps.Connection[Any]) -> None:
    async for _ in connection:
        pass


def initiate(**transport: Any) -> taps.Connection[Any]:
    return taps.Preconnection(remote=SERVER, framers="line", transport=transport).initiate()


# -- racing


def two_families(net: VirtualNetwork) -> tuple[str, str]:
    net.path(latency=0.05)
    net.host("server.example", "2001:db8::1", "192.0.2.1")
    return "2001:db8::1", "192.0.2.1"


def test_an_ipv6_black_hole_costs_one_attempt_delay(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        six, four = two_families(net)
        net.path("client", six).blackhole()
        await net.serve(SERVER, echo, framers="line")
        async with initiate() as connection:
            # 250 ms until the second address is tried (RFC 8305), and a round trip.
            assert now() == exactly(0.25 + 0.1)
            assert connection.remote_endpoint.ip_address == four
            first, second = connection.report
            assert (first.started, first.outcome) == (0.0, "cancelled")
            assert (second.started, second.outcome) == (0.25, "ready")
            assert second.ended == exactly(0.35)
        await asyncio.sleep(100)
        assert len([e for e in net.log.named("sent", "syn") if six in e.target]) == 1

    virtual_run(scenario)


def test_an_address_that_fails_at_once_costs_nothing(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        six, _ = two_families(net)
        net.path("client", six).down()
        await net.serve(SERVER, echo, framers="line")
        async with initiate():
            assert now() == exactly(0.1)

    virtual_run(scenario)


def test_a_refusal_costs_one_round_trip(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        _, four = two_families(net)
        await net.serve(f"{four}:7000", echo, framers="line")
        async with initiate():
            assert now() == exactly(0.2)

    virtual_run(scenario)


def test_the_slower_family_is_overtaken_and_its_late_flow_is_closed(
    virtual_run: VirtualRun,
) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        six, four = two_families(net)
        net.path("client", six, latency=0.2)
        await net.serve(SERVER, echo, framers="line")
        async with initiate() as connection:
            assert now() == exactly(0.35)
            assert connection.remote_endpoint.ip_address == four
        await asyncio.sleep(10)
        assert net.open_flows == 0

    virtual_run(scenario)


def test_the_faster_first_family_wins_without_a_second_attempt(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        six, _ = two_families(net)
        net.path("client", six, latency=0.1)
        await net.serve(SERVER, echo, framers="line")
        async with initiate() as connection:
            assert now() == exactly(0.2)
            assert len(connection.report) == 1

    virtual_run(scenario)


def test_nobody_there_is_an_error_with_every_attempt(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        two_families(net)
        with pytest.raises(taps.EstablishmentError) as caught:
            await initiate()
        assert [attempt.outcome for attempt in caught.value.attempts] == ["failed", "failed"]
        assert "refused by 2001:db8::1 port 7000" in str(caught.value)
        assert now() == exactly(0.2)

    virtual_run(scenario)


def test_a_timeout_of_initiate_is_exact(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        two_families(net)
        net.path().blackhole()
        net.path("client").blackhole()
        with pytest.raises(taps.EstablishmentTimeout):
            await initiate()
        assert now() == 30.0

    virtual_run(scenario)


def test_cancelling_leaves_nothing_at_any_time(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        two_families(net)
        await net.serve(SERVER, until_the_end, framers="line")
        for step in range(40):
            task = asyncio.ensure_future(initiate()._wait_ready())
            await asyncio.sleep(0.005 * step)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                await (await task).close()
            await asyncio.sleep(10)
            assert net.open_flows == 0, step

    virtual_run(scenario)


# -- a long life


def test_ten_thousand_seconds_of_keep_alives_cost_three_jumps_each(
    virtual_run: VirtualRun, virtual_network: VirtualNetwork
) -> None:
    async def scenario(net: VirtualNetwork) -> int:
        net.path(latency=0.05)
        await net.serve(SERVER, echo, framers="line")
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        async with initiate(keepAlive="require", keepAliveTimeout=1) as connection:
            before = loop.jumps
            await asyncio.sleep(10_000)
            jumps = loop.jumps - before
            assert connection.state is taps.ConnectionState.ESTABLISHED
        return jumps

    jumps = virtual_run(scenario)
    # Each takes a second and a round trip: the alarm, the probe and the answer arrive.
    # The server's own end of the handshake is one more.
    probes = virtual_network.log.named("sent", "probe")
    assert len(probes) == int(10_000 / 1.1 + 0.1)
    assert jumps <= 3 * len(probes) + 3
    assert virtual_network.counts.sent_bytes == 0


def test_a_dead_path_ends_a_connection_with_its_timeout_as_an_error_for_people(
    virtual_run: VirtualRun,
) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05)
        await net.serve(SERVER, until_the_end, framers="line")
        async with initiate(connTimeout=20) as connection:
            await asyncio.sleep(100)
            net.path().blackhole()
            await connection.send(b"into the void")
            with pytest.raises(taps.ConnectionError, match="no acknowledgement") as caught:
                await connection.receive()
            assert caught.value.reason is taps.Reason.TIMEOUT
            assert now() == exactly(0.1 + 100 + 20)
        net.path().up()

    virtual_run(scenario)


def test_a_path_that_comes_and_goes_is_an_event(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await net.serve(SERVER, echo, framers="line")
        told: list[tuple[float, str]] = []
        async with initiate() as connection:
            connection.on(taps.PathChange, lambda event: told.append((now(), event.reason)))
            await asyncio.sleep(5)
            net.path().down()
            await asyncio.sleep(5)
            net.path().up()
            await asyncio.sleep(5)
        assert told == [(5.0, "the path is down"), (10.0, "the path is up")]

    virtual_run(scenario)


def test_backpressure_reaches_the_application_over_a_distance(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05, bandwidth=100_000)
        await net.serve(SERVER, until_the_end, framers="line")
        async with initiate() as connection:
            for _ in range(100):
                await connection.send(bytes(9999))
            waited = now()
        # A million bytes take ten seconds, and at most four windows of them do not have
        # to have left when the last send is done.
        assert 10.1 - 2.7 < waited < 10.1
        assert now() == exactly(0.1 + 10 + 0.1)
        assert net.counts.sent_bytes == 1_000_000

    virtual_run(scenario)


# -- unedited programs


def test_the_echo_example_runs_as_it_is(
    virtual_run: VirtualRun, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "echo.py"))

    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05, loss=0.1)
        server = net.host("server.example", "192.0.2.1")
        # Virtual transports count as TLS.
        secure = taps.SecurityParameters()
        serving = asyncio.create_task(server.run(example["serve"]("server.example:7007", secure)))
        await asyncio.sleep(1)
        await example["ask"]("server.example:7007", secure, ["hello", "and", "good-bye"])
        serving.cancel()
        await asyncio.wait([serving])

    virtual_run(scenario)
    assert capsys.readouterr().out.split() == [
        *("listening", "on", "192.0.2.1:7007"),
        *("hello", "and", "good-bye"),
    ]


# -- the same run each time


def test_the_same_seed_gives_the_same_log_and_another_another() -> None:
    first = story(1)
    assert first == story(1)
    assert first != story(2)
    entries = [json.loads(line) for line in first.splitlines()]
    times = [entry["time"] for entry in entries]
    assert times == sorted(times)
    assert {entry["event"] for entry in entries} == {"sent", "lost", "delivered", "resolved"}
    details = {word for entry in entries for word in entry.get("detail", "").split(", ")}
    assert {"again", "reordered", "duplicated", "chance"} <= details


@pytest.mark.parametrize("virtual_seed", [0, "another", 7])
def test_the_fixtures_take_a_seed(
    virtual_seed: int | str, virtual_network: VirtualNetwork, virtual_run: VirtualRun
) -> None:
    async def scenario(net: VirtualNetwork) -> int | str:
        assert net is virtual_network
        return net.seed

    assert virtual_run(scenario) == virtual_seed


@pytest.mark.parametrize("hash_seed", ["1", "4711"])
def test_the_same_seed_gives_the_same_log_in_a_fresh_process(hash_seed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.testing.story", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == story(1)


async def patient_echo(connection: taps.Connection[Any]) -> None:
    connection.close_timeout = 1e6
    await echo(connection)


probabilities = st.floats(min_value=0, max_value=1)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(min_value=0, max_value=0.2),  # lest a handshake is given up
    duplicate=probabilities,
    reorder=probabilities,
    latency=st.floats(min_value=0, max_value=0.5),
    jitter=st.floats(min_value=0, max_value=0.5),
    mtu=st.integers(1, 2000),
    messages=st.lists(st.binary(max_size=1000), max_size=8),
)
def test_whatever_the_path_does_the_stream_is_intact_and_every_packet_accounted_for(
    seed: int, messages: list[bytes], mtu: int, **conditions: float
) -> None:
    mtu = max(mtu, sum(map(len, messages)) // 20 + 1)  # not to take long

    async def scenario(net: VirtualNetwork) -> None:
        net.path(mtu=mtu, bandwidth=1e6, **conditions)
        await net.serve(SERVER, patient_echo, framers="length-prefix")
        there = taps.Preconnection(remote=SERVER, framers="length-prefix")
        async with there.initiate(timeout=None) as connection:
            connection.close_timeout = 1e6
            for message in messages:
                await connection.send(message)
            for message in messages:
                assert (await connection.receive()).data == message
        await asyncio.sleep(1e4)
        counts = net.counts
        assert counts.sent + counts.duplicated == counts.lost + counts.delivered

    run(scenario, seed=seed, timeout=None)
