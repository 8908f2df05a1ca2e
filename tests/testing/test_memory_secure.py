"""What is particular to a transport with security of its own: early data."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from taps_core.model.errors import EstablishmentError
from taps_core.model.layers import EarlyData
from taps_core.testing import MemoryNetwork, MemorySecure, Rig, connect_request

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run


def test_it_says_what_protects_it() -> None:
    capabilities = MemorySecure(MemoryNetwork()).capabilities
    assert capabilities.protection is not None
    assert capabilities.protection.protocols == ("memory-tls",)
    assert capabilities.early_data


def test_a_wiretap_does_not_understand_it(run: Run, memory_network: MemoryNetwork) -> None:
    seen: list[bytes] = []
    memory_network.wiretap = seen.append

    async def main() -> None:
        async with Rig(MemorySecure(memory_network)) as rig:
            client, server = await rig.pair()
            client.send(b"secret")
            await server.has_data(b"secret")
            early = EarlyData(b"secret")
            await rig.connect(early=early)
            assert early.taken
            server.send(b"secret")
            await client.has_data(b"secret")

    run(main)
    assert len(seen) == 4
    assert not any(b"secret" in data or b"first" in data for data in seen)


def test_without_a_ticket_early_data_is_left_to_the_layer_above(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemorySecure(memory_network)) as rig:
            early = EarlyData(b"early")
            client = await rig.connect(early=early)
            assert not early.taken
            client.send(b"late")
            await (await rig.accept()).has_data(b"late")

    run(main)


@pytest.mark.parametrize("data", [b"early", (b"ear", b"ly")])
def test_with_a_ticket_early_data_comes_first_and_is_marked(
    run: Run, memory_network: MemoryNetwork, data: bytes | tuple[bytes, ...]
) -> None:
    async def main() -> None:
        async with Rig(MemorySecure(memory_network)) as rig:
            await rig.pair()
            memory_network.delay("127.0.0.1", 0.02)
            early = EarlyData(data)
            connecting = asyncio.create_task(rig.connect(early=early))
            server = await rig.accept()
            assert not connecting.done(), "it came as early as everything else"
            await server.has_data(b"early")
            server.send(b"answer")
            client = await connecting
            assert early.taken
            client.send(b"more")
            await server.has_data(b"earlymore")
            await client.has_data(b"answer")
            contexts = [context for _, context, _ in server.recorder.parts]
            assert contexts[0] is not None
            assert contexts[0].early_data
            assert contexts[1:] == [None]

    run(main)


def test_chunks_of_early_data_share_a_context(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemorySecure(memory_network, chunk=2)) as rig:
            await rig.pair()
            await rig.connect(early=EarlyData(b"early"))
            server = await rig.accept()
            await server.has_data(b"early")
            contexts = {id(context) for _, context, _ in server.recorder.parts}
            assert len(server.recorder.parts) == 3
            assert len(contexts) == 1

    run(main)


def test_a_server_may_refuse_early_data(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        for transport in (
            MemorySecure(memory_network, accepts_early=False),
            MemorySecure(memory_network, most_early=4),
        ):
            async with Rig(transport) as rig:
                await rig.pair()
                early = EarlyData(b"early")
                client = await rig.connect(early=early)
                assert not early.taken
                client.send(b"on time")
                await (await rig.accept()).has_data(b"on time")

    run(main)


def test_a_ticket_is_good_for_its_server_only(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with (
            Rig(MemorySecure(memory_network)) as one,
            Rig(MemorySecure(memory_network)) as other,
        ):
            await one.pair()
            early = EarlyData(b"early")
            await other.connect(early=early)
            assert not early.taken

    run(main)


def test_a_server_that_vanishes_during_the_handshake_refuses(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemorySecure(memory_network)) as rig:
            connecting = asyncio.create_task(rig.connect())
            for _ in range(2):
                await asyncio.sleep(0)
            assert memory_network.open_flows == 2, "it is shaking hands"
            await rig.listener.close()
            with pytest.raises(EstablishmentError):
                await connecting

    run(main, memory_network)


def test_a_cancelled_handshake_resets_who_got_early_data(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemorySecure(memory_network)) as rig:
            await rig.pair()
            memory_network.delay("127.0.0.1", 0.02)
            connecting = asyncio.create_task(rig.connect(early=EarlyData(b"early")))
            server = await rig.accept()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            await server.has_closed()
            assert server.recorder.error is not None

    run(main, memory_network)


def test_the_handshake_takes_one_more_round_trip(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        memory_network.delay("127.0.0.1", 0.02)
        async with Rig(MemorySecure(memory_network)) as rig:
            begun = loop.time()
            flow = await MemorySecure(memory_network).connect(connect_request(rig.remote))
            assert loop.time() - begun >= 0.04 - 0.002
            flow.abort()

    run(main)
