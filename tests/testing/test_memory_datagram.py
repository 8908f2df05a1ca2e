"""What is particular to datagrams: boundaries, loss, nobody at the other end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.model.errors import Reason, SendError
from taps_core.model.layers import Door
from taps_core.testing import (
    MemoryDatagram,
    MemoryNetwork,
    Rig,
    accidents,
    connect_request,
    listen_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.model.flow import Flow
    from taps_core.testing.fixtures import Run


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_each_message_is_one_datagram(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network)) as rig:
            client, server = await rig.pair()
            client.send(b"one", b"", (b"tw", b"o"))
            await server.recorder.until(lambda: len(server.recorder.parts) == 3)
            assert server.recorder.parts == [
                (b"one", None, True),
                (b"", None, True),
                (b"two", None, True),
            ]

    run(main)


def test_a_message_sent_in_parts_is_one_datagram(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network)) as rig:
            client, server = await rig.pair()
            client.flow.send(b"be", None, False)
            client.flow.flush()
            client.flow.send(b"gin", None, True)
            client.flow.flush()
            await server.recorder.until(lambda: server.recorder.parts)
            assert server.recorder.messages == [b"begin"]

    run(main)


def test_what_does_not_fit_is_refused_and_the_flow_is_as_it_was(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network)) as rig:
            client, server = await rig.pair()
            assert client.flow.read("sendMsgMaxLen") == 65507
            with pytest.raises(SendError) as caught:
                client.flow.send(bytes(65508), None, True)
            assert caught.value.reason is Reason.MESSAGE_TOO_LARGE
            client.send(bytes(65507))
            await server.recorder.until(lambda: server.recorder.parts)
            assert server.recorder.messages == [bytes(65507)]

    run(main)


def test_nobody_there_is_no_error(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network)) as rig:
            client, server = await rig.pair()
            server.flow.close()
            await rig.listener.close()
            client.send(b"is anybody there?")
            await turns()
            assert not client.recorder.calls
            flow = await MemoryDatagram(memory_network).connect(connect_request("192.0.2.1:9"))
            flow.send(b"hello?", None, True)
            flow.flush()
            flow.close()

    run(main, memory_network)


def test_a_blackhole_swallows_datagrams(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network)) as rig:
            client, server = await rig.pair()
            memory_network.blackhole("127.0.0.1")
            client.send(b"gone")
            memory_network.blackhole("127.0.0.1", False)
            client.send(b"here")
            await server.has_data(b"here")

    run(main)


def test_a_remote_that_comes_back_gets_a_new_flow(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network)) as rig:
            client, server = await rig.pair()
            server.flow.close()
            client.send(b"again")
            await (await rig.accept()).has_data(b"again")

    run(main)


def test_each_remote_has_its_own_flow(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network)) as rig:
            pairs = [await rig.pair() for _ in range(3)]
            for number, (client, _) in enumerate(pairs):
                client.send(b"%d" % number)
            for number, (_, server) in enumerate(pairs):
                await server.has_data(b"%d" % number)

    run(main)


def test_two_flows_cannot_have_the_same_pair_of_addresses(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        transport = MemoryDatagram(memory_network)
        request = connect_request("127.0.0.1:9", local="127.0.0.1:8")
        flow = await transport.connect(request)
        with pytest.raises(OSError, match="in use"):
            await transport.connect(request)
        flow.abort()
        (await transport.connect(request)).abort()

    run(main, memory_network)


def test_over_the_cap_datagrams_are_dropped_and_counted(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network, queue_size=10 * 164)) as rig:
            client, server = await rig.pair()
            other_client, other_server = await rig.pair()
            server.flow.pause()
            client.send(*[bytes(100)] * 25)
            other_client.send(b"unharmed")
            await other_server.has_data(b"unharmed")
            server.flow.resume()
            await server.recorder.until(lambda: server.recorder.parts)
            assert len(server.recorder.parts) == 10
            assert memory_network.dropped == 15
            client.send(b"there is room again")
            await server.recorder.until(lambda: len(server.recorder.parts) == 11)

    run(main)


def test_a_paused_listener_drops_over_the_cap(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network, queue_size=10 * 65)) as rig:
            rig.listener.pause()
            clients = [await rig.connect() for _ in range(15)]
            for client in clients:
                client.send(b"x")
            assert memory_network.dropped == 5
            rig.listener.resume()
            for _ in range(10):
                await rig.accept()

    run(main)


def test_zero_length_datagrams_are_bounded_too(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network)) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.send(*[b""] * 100_000)
            assert memory_network.dropped > 90_000

    run(main)


def test_accidents_are_the_same_for_the_same_seed() -> None:
    def fates(seed: int) -> list[tuple[int, ...]]:
        fate = accidents(seed, loss=0.2, duplicate=0.2, reorder=0.2)
        return [tuple(fate(b"")) for _ in range(200)]

    assert fates(1) == fates(1)
    assert fates(1) != fates(2)
    kinds = set(fates(1))
    assert {(), (0,), (0, 0)} <= kinds
    assert any(len(fate) == 1 and fate[0] for fate in kinds)
    assert {tuple(accidents(1)(b"")) for _ in range(9)} == {(0,)}


def test_datagrams_get_lost_doubled_and_overtaken(run: Run, memory_network: MemoryNetwork) -> None:
    fates = {b"lost": (), b"twice": (0, 0), b"late": (2,)}

    async def main() -> None:
        transport = MemoryDatagram(memory_network, fate=lambda data: fates.get(data, (0,)))
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            client.send(b"lost", b"twice", b"late", b"last")
            await server.recorder.until(lambda: b"late" in server.recorder.messages)
            assert server.recorder.messages == [b"twice", b"twice", b"last", b"late"]

    run(main)


class Password(Door):
    """Admits whoever says the word, and gives it on."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, str]] = []

    def admit(
        self, datagram: bytes, remote: RemoteEndpoint, reply: Callable[[bytes], None]
    ) -> Any | None:
        self.asked.append((datagram, str(remote)))
        if datagram.startswith(b"please"):
            return datagram
        reply(b"say please")
        return None


def test_a_door_judges_whoever_is_unknown(run: Run, memory_network: MemoryNetwork) -> None:
    inbound: list[tuple[Flow, Any]] = []

    async def main() -> None:
        door = Password()
        transport = MemoryDatagram(memory_network)
        listener = await transport.listen(
            listen_request(
                "127.0.0.1:7000",
                lambda flow, admitted: inbound.append((flow, admitted)),
                door=door,
            )
        )
        async with Rig(transport) as rig:
            of_rig, rig.listener = rig.listener, listener
            await of_rig.close()
            client = await rig.connect()
            client.send(b"let me in")
            await client.has_data(b"say please")
            assert not inbound
            assert memory_network.open_flows == 1, "the door keeps nothing of the unknown"
            client.send(b"please let me in", b"thank you")
            await turns()
            ((flow, admitted),) = inbound
            assert admitted == b"please let me in"
            assert str(flow.remote_endpoint) == door.asked[0][1]
            assert [word for word, _ in door.asked] == [b"let me in", b"please let me in"]
            server = rig._end(flow, True)
            await server.has_data(b"please let me inthank you")

    run(main, memory_network)
