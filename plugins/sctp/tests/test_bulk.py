"""Long Messages and many streams under loss: whole, in order, none lost."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import taps_core as taps

    from .conftest import Lab

pytestmark = pytest.mark.lab


def content(name: str, size: int) -> bytes:
    """Always the same for a name."""
    return random.Random(name).randbytes(size)


async def check(connection: taps.Connection[Any], name: str, sizes: list[int]) -> None:
    """These Messages arrive, in this order."""
    for number, size in enumerate(sizes):
        data = (await connection.receive()).data
        assert len(data) == size
        expected = hashlib.sha256(content(f"{name}.{number}", size)).digest()
        assert hashlib.sha256(data).digest() == expected


async def send(connection: taps.Connection[Any], name: str, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        await connection.send(content(f"{name}.{number}", size))


@pytest.mark.parametrize("loss", [0.02, pytest.param(0.2, marks=pytest.mark.slow)])
def test_a_message_of_three_megabytes(rough: Lab, loss: float) -> None:
    """With a fifth of all packets lost the kernel takes some 45 s, for a plain socket, too."""
    rough.network.path.set(latency=0.002)

    async def main() -> None:
        async with rough.listening() as ends:
            client, server = await ends.pair()
            rough.network.path.set(loss=loss)
            await asyncio.gather(
                send(client, "long", [3_000_000]), check(server, "long", [3_000_000])
            )

    rough.run(main, patience=300)


def test_long_messages_both_ways_under_loss(rough: Lab) -> None:
    rough.network.path.set(latency=0.002)
    sizes = [200_000]

    async def main() -> None:
        async with rough.listening() as ends:
            client, server = await ends.pair()
            rough.network.path.set(loss=0.2)
            await asyncio.gather(
                send(client, "there", sizes),
                check(server, "there", sizes),
                send(server, "back", sizes),
                check(client, "back", sizes),
            )

    rough.run(main)


def test_64_streams_interleaved_under_loss(rough: Lab) -> None:
    rough.network.path.set(latency=0.002)
    random_sizes = random.Random(0)

    async def main() -> None:
        async with rough.listening() as ends:
            client, server = await ends.pair()
            rough.network.path.set(loss=0.2)
            incoming = server.incoming()
            clones = [await client.clone() for _ in range(63)]
            for clone in clones:
                await clone.send(b"hello")
            twins = [await anext(incoming) for _ in clones]
            for twin in twins:
                assert (await twin.receive()).data == b"hello"
            # Streams come up as their first Messages do.
            numbers = {}
            for clone in clones:
                await clone.send(b"%d" % clones.index(clone))
            for twin in twins:
                numbers[int((await twin.receive()).data)] = twin
            jobs = []
            for number, clone in enumerate([client, *clones]):
                sizes = [random_sizes.choice((1, 100, 4000)) for _ in range(4)]
                other = server if number == 0 else numbers[number - 1]
                jobs += [
                    send(clone, f"s{number}", sizes),
                    check(other, f"s{number}", sizes),
                ]
            await asyncio.gather(*jobs)

    rough.run(main)
