"""The toy security layers: held calls, failed handshakes, cookies at the door."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from taps_core.model.errors import EstablishmentError
from taps_core.testing import (
    End,
    MemoryCookies,
    MemoryDatagram,
    MemoryNetwork,
    MemoryStream,
    MemoryTLS,
    Rig,
    accept_request,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.model.layers import SecurityLayer
    from taps_core.testing.fixtures import Run

Stack = tuple[MemoryStream | MemoryDatagram, "SecurityLayer"]


@pytest.fixture(params=["memory-tls", "memory-cookies"])
def stack(request: pytest.FixtureRequest, memory_network: MemoryNetwork) -> Stack:
    if request.param == "memory-tls":
        return MemoryStream(memory_network), MemoryTLS()
    return MemoryDatagram(memory_network), MemoryCookies(interval=0.005)


async def turns(number: int = 8) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_no_plaintext_passes(run: Run, stack: Stack, memory_network: MemoryNetwork) -> None:
    seen: list[bytes] = []
    memory_network.wiretap = seen.append

    async def main() -> None:
        async with Rig(*stack) as rig:
            client, server = await rig.pair()
            client.send(b"secret", (b"sec", b"ret"))
            await server.has_data(b"secretsecret")
            server.send(b"secret")
            await client.has_data(b"secret")

    run(main, memory_network)
    assert seen
    assert not any(b"secret" in data or b"first" in data for data in seen)


def test_what_arrives_before_start_is_held(run: Run, stack: Stack) -> None:
    async def main() -> None:
        async with Rig(*stack) as rig:
            accepting = asyncio.create_task(rig.accept(start=False))
            client = await rig.connect()
            client.send(b"early bird")
            server = await accepting
            await turns()
            client.send(b", twice")
            await turns()
            assert not server.recorder.calls
            server.start()
            assert not server.recorder.calls, "up from inside start"
            await server.has_data(b"early bird, twice")

    run(main)


def test_a_pause_before_the_held_calls_are_up_holds_the_rest(run: Run, stack: Stack) -> None:
    async def main() -> None:
        async with Rig(*stack) as rig:
            accepting = asyncio.create_task(rig.accept(start=False))
            client = await rig.connect()
            server = await accepting
            server.start()
            server.flow.pause()
            await turns()
            client.send(b"held")
            await turns()
            assert not server.recorder.parts
            server.flow.resume()
            await server.has_data(b"held")

    run(main)


def test_closing_before_the_held_calls_are_up_drops_them(run: Run, stack: Stack) -> None:
    async def main() -> None:
        async with Rig(*stack) as rig:
            accepting = asyncio.create_task(rig.accept(start=False))
            client = await rig.connect()
            server = await accepting
            client.send(b"dropped")
            await turns()
            server.start()
            server.flow.close()
            client.flow.close()
            await server.has_closed()
            assert [call.name for call in server.recorder.calls] == ["closed"]

    run(main)


def test_half_close_passes_through(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryStream(memory_network, chunk=1), MemoryTLS()) as rig:
            client, server = await rig.pair()
            client.send(b"last")
            client.flow.finish()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert server.recorder.data == b"last"
            server.send(b"answer")
            await client.has_data(b"answer")
            server.flow.close()
            await server.has_closed()
            await client.has_closed()
            assert client.recorder.error is None

    run(main)


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n", b"x"])
def test_a_peer_that_speaks_something_else_fails_the_handshake(
    run: Run, memory_network: MemoryNetwork, words: bytes
) -> None:
    async def main() -> None:
        async with Rig(MemoryStream(memory_network)) as rig:
            client = await rig.connect()
            client.send(words)
            server = await rig.accept(start=False)
            with pytest.raises(EstablishmentError, match="does not speak"):
                await MemoryTLS().accept(server.flow.lower, accept_request())
            await client.has_closed()

    run(main, memory_network)


@pytest.mark.parametrize("end_it", ["finish", "close", "abort"])
def test_a_peer_that_leaves_fails_the_handshake(
    run: Run, memory_network: MemoryNetwork, end_it: str
) -> None:
    async def main() -> None:
        async with Rig(MemoryStream(memory_network)) as rig:
            client = await rig.connect()
            server = await rig.accept(start=False)
            getattr(client.flow, end_it)()
            with pytest.raises(EstablishmentError, match="handshake failed"):
                await MemoryTLS().accept(server.flow.lower, accept_request())

    run(main, memory_network)


def test_a_handshake_cancelled_at_any_turn_leaves_nothing(
    run: Run, stack: Stack, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        for number in range(15):
            async with Rig(*stack) as rig:
                accepting = asyncio.create_task(rig.accept())
                connecting = asyncio.create_task(rig.connect())
                await turns(number)
                for task in (connecting, accepting):
                    task.cancel()
                await asyncio.wait([connecting, accepting])
                for task in (connecting, accepting):
                    with contextlib.suppress(asyncio.CancelledError, EstablishmentError):
                        task.result()
            await turns()
            assert memory_network.open_flows == 0

    run(main, memory_network)


def test_the_door_keeps_nothing_of_strangers(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network), MemoryCookies()) as rig:
            plain = Rig(MemoryDatagram(memory_network))
            plain.listener = rig.listener
            strangers = [await plain.connect() for _ in range(20)]
            for stranger in strangers:
                stranger.send(b"?", b"junk", b"", b"+forged", b".data")
            await turns()
            assert not rig._inbound
            assert memory_network.open_flows == len(strangers)
            for stranger in strangers:
                (message,) = stranger.recorder.messages
                assert message.startswith(b"!")
                stranger.flow.abort()
            # Somebody else's cookie is good for nothing.
            cookie = strangers[0].recorder.messages[0][1:]
            thief = End((await plain.connect()).flow.lower, start=False)
            thief.flow.lower.send(b"+" + cookie, None, True)
            thief.flow.lower.flush()
            await turns()
            assert not rig._inbound
            for end in plain.ends:
                end.flow.abort()
            await rig.pair()

    run(main, memory_network)


class Clumsy:
    """Loses the first datagram of each kind, then doubles all and lets some be overtaken."""

    def __init__(self) -> None:
        self._lost: set[bytes] = set()

    def __call__(self, datagram: bytes) -> Sequence[int]:
        kind = datagram[:1]
        if kind not in self._lost:
            self._lost.add(kind)
            return ()
        return (0, 2)


def test_a_handshake_survives_loss_duplicates_and_disorder(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        transport = MemoryDatagram(memory_network, fate=Clumsy())
        async with Rig(transport, MemoryCookies(interval=0.005)) as rig:
            accepting = asyncio.create_task(rig.accept())
            client = await rig.connect()
            server = await accepting
            server.send(b"lost", b"hello")
            await client.recorder.until(lambda: len(client.recorder.messages) == 2)
            assert client.recorder.messages == [b"hello", b"hello"]

    run(main, memory_network)


def test_data_that_overtakes_the_welcome_is_not_lost(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        transport = MemoryDatagram(
            memory_network, fate=lambda data: (20,) if data == b"=" else (0,)
        )
        async with Rig(transport, MemoryCookies(interval=10)) as rig:
            accepting = asyncio.create_task(rig.accept())
            connecting = asyncio.create_task(rig.connect())
            server = await accepting
            server.send(b"hello")
            await (await connecting).has_data(b"hello")

    run(main, memory_network)


def test_nobody_at_home_fails_after_six_knocks(run: Run, memory_network: MemoryNetwork) -> None:
    seen: list[bytes] = []
    memory_network.wiretap = seen.append

    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network), MemoryCookies(interval=0.0005)) as rig:
            memory_network.blackhole("127.0.0.1")
            with pytest.raises(EstablishmentError, match="no answer"):
                await rig.connect()

    run(main, memory_network)
    assert seen == [b"?"] * 6


def test_cookies_need_a_door(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryDatagram(memory_network)) as rig:
            (await rig.connect()).send(b"?")
            server = await rig.accept(start=False)
            with pytest.raises(EstablishmentError, match="door"):
                await MemoryCookies().accept(server.flow.lower, accept_request())

    run(main, memory_network)


def test_lengths_are_less_what_the_layer_adds(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        transport = MemoryDatagram(memory_network, max_length=100)
        async with Rig(transport, MemoryCookies()) as rig:
            client, server = await rig.pair()
            longest = client.flow.read("sendMsgMaxLen")
            assert longest == 99
            client.flow.send(bytes(50), None, False)
            client.flow.send(bytes(49), None, True)
            client.flow.flush()
            await server.recorder.until(lambda: server.recorder.messages)
            assert server.recorder.messages == [bytes(longest)]

    run(main, memory_network)
