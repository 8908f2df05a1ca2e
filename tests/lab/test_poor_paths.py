"""TCP and UDP between two hosts, with delay and loss on the way."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.sockets import preconnection, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import taps_core as taps
    from taps_core.testing.fixtures import Run
    from tests.lab.network import Network

pytestmark = pytest.mark.lab
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


@contextlib.asynccontextmanager
async def between(
    network: Network, stack: str, version: int = 4
) -> AsyncIterator[tuple[taps.Connection[Any], taps.Connection[Any]]]:
    """A Connection of the client's and one of the server's, which said hello."""
    address = network.server.address(version)
    with network.server.use():
        local = f"[{address}]:0" if version == 6 else f"{address}:0"
        listening = preconnection(stack, local=local).listen()
    async with listening as listener:
        with network.client.use():
            client = preconnection(stack, remote=listener.remote_endpoint).initiate()
        ends = [client]
        try:
            await client
            await client.send(b"hello")
            ends.append(await listener.accept())
            assert (await ends[1].receive()).data == b"hello"
            yield client, ends[1]
        finally:
            for connection in ends:
                connection.abort()


@VERSIONS
def test_tcp_is_established_after_a_round_trip(run: Run, two_hosts: Network, version: int) -> None:
    two_hosts.path.set(latency=0.1)

    async def main() -> None:
        began = time.monotonic()
        async with between(two_hosts, "length-prefix/TCP", version) as (client, server):
            # SYN, its answer, and the Message.
            assert time.monotonic() - began >= 0.3
            assert client.local_endpoint.ip_address == two_hosts.client.address(version)
            assert server.remote_endpoint.ip_address == two_hosts.client.address(version)

    run(main)


@VERSIONS
def test_messages_over_tcp_are_whole_and_in_order_whatever_is_lost(
    run: Run, two_hosts: Network, version: int
) -> None:
    two_hosts.path.set(latency=0.05)
    messages = [bytes([number]) * 3000 for number in range(20)]

    async def main() -> None:
        async with between(two_hosts, "length-prefix/TCP", version) as (client, server):
            two_hosts.path.there.set(loss=0.2)
            for message in messages:
                await client.send(message)
            assert [(await server.receive()).data for _ in messages] == messages

    run(main, timeout=None)


@VERSIONS
def test_what_udp_does_not_lose_arrives_whole(run: Run, two_hosts: Network, version: int) -> None:
    # All of them fit into the server's buffer, and each is longer than the one before: those of
    # one length leave in one packet that is divided behind the loss.
    messages = [bytes([number]) * (50 + number) for number in range(200)]

    async def main() -> None:
        async with between(two_hosts, "UDP", version) as (client, server):
            two_hosts.path.set(loss=0.2)
            for message in messages:
                await client.send(message)
            await settle()
            two_hosts.path.set(loss=0.0)
            await client.send(b"the end")
            got = []
            while (message := (await server.receive()).data) != b"the end":
                got.append(message)
            # Six standard deviations to each side.
            assert 126 <= len(got) <= 194
            assert got == [message for message in messages if message in got]

    run(main)


def test_tcp_outlives_a_path_that_is_dead_for_a_while(run: Run, two_hosts: Network) -> None:
    async def main() -> None:
        async with between(two_hosts, "length-prefix/TCP") as (client, server):
            two_hosts.path.blackhole()
            await client.send(b"into the hole")
            two_hosts.path.up()
            assert (await server.receive()).data == b"into the hole"

    run(main)


def test_the_race_goes_round_a_version_that_is_a_black_hole(run: Run, two_hosts: Network) -> None:
    two_hosts.path.blackhole(6)

    async def main() -> None:
        four, six = (two_hosts.server.address(version) for version in (4, 6))
        with two_hosts.server.use():
            here = preconnection("TCP", local=[f"{four}:7000", f"[{six}]:7000"]).listen()
        async with here:
            with two_hosts.client.use():
                there = preconnection("TCP", remote=[f"[{six}]:7000", f"{four}:7000"]).initiate()
            async with there:
                assert there.remote_endpoint.ip_address == four
                there.abort()

    run(main)
