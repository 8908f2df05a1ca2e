"""What is particular to bytes: nothing of the sender's pieces is left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from taps_core.testing import MemoryNetwork, MemoryStream, Rig, random_chunks, run

if TYPE_CHECKING:
    from taps_core.testing import Chunk
    from taps_core.testing.fixtures import Run


@settings(deadline=None, max_examples=200)
@given(
    pieces=st.lists(st.lists(st.binary(max_size=400), max_size=5), max_size=8),
    chunk=st.one_of(
        st.none(), st.integers(min_value=1, max_value=50), st.integers().map(random_chunks)
    ),
    window=st.integers(min_value=1, max_value=300),
)
def test_the_same_bytes_arrive_however_they_are_cut(
    pieces: list[list[bytes]], chunk: Chunk | None, window: int
) -> None:
    network = MemoryNetwork()
    whole = b"".join(piece for turn in pieces for piece in turn)

    async def main() -> None:
        async with Rig(MemoryStream(network, chunk=chunk, window=window)) as rig:
            client, server = await rig.pair()
            for turn in pieces:
                client.send(*turn)
                await asyncio.sleep(0)
            client.flow.close()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert server.recorder.data == whole
            assert all(data and not end for data, _, end in server.recorder.parts)
            if isinstance(chunk, int):
                assert all(len(data) <= chunk for data, _, _ in server.recorder.parts)

    run(main, network)


def test_chunks_come_one_in_a_turn(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryStream(memory_network, chunk=3)) as rig:
            client, server = await rig.pair()
            client.send(b"01", b"234567")
            await server.has_data(b"01234567")
            calls = [call.arguments[0] for call in server.recorder.named("received")]
            assert calls == [
                [(b"012", None, False)],
                [(b"345", None, False)],
                [(b"67", None, False)],
            ]

    run(main, memory_network)


def test_a_flow_paused_between_chunks_delivers_no_more(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryStream(memory_network, chunk=1)) as rig:
            client, server = await rig.pair()
            client.send(b"abc")
            client.flow.finish()
            await server.recorder.until(lambda: server.recorder.data == b"a")
            server.flow.pause()
            await asyncio.sleep(0.01)
            assert server.recorder.data == b"a"
            server.flow.resume()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert server.recorder.data == b"abc"

    run(main, memory_network)


def test_the_same_seed_gives_the_same_chunks() -> None:
    def sizes(seed: int) -> list[int]:
        chunk = random_chunks(seed)
        return [chunk(1000) for _ in range(50)]

    assert sizes(1) == sizes(1)
    assert sizes(1) != sizes(2)
    assert all(size >= 1 for size in sizes(3))


def test_nothing_is_nothing_on_a_byte_stream(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryStream(memory_network)) as rig:
            client, server = await rig.pair()
            client.send(b"", ())
            client.flow.finish()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert not server.recorder.parts

    run(main, memory_network)
