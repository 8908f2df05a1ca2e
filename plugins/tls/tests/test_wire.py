"""What a wiretap finds of a secured Connection: nothing, not even eight bytes in a row."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_framers import LengthPrefix

from .conftest import PATIENCE, Authority
from .wire import datagram_tap, marker, stream_tap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from taps_core.testing.fixtures import Run

    from .wire import Tap

#: What there is between the ends, and the properties that lead there.
STREAM: tuple[Any, dict[str, Any]] = (stream_tap, {})
DATAGRAM: tuple[Any, dict[str, Any]] = (
    datagram_tap,
    {
        **dict.fromkeys(("reliability", "preserve_order", "congestion_control"), "prohibit"),
        "safely_replayable": True,
    },
)
PLAIN = taps.SecurityParameters.disabled()


class Scene:
    """Two ends and a tap between them.

    Attributes:
        tap: What it saw.
        listener: The server.
        said: Markers that were sent.
    """

    def __init__(
        self, tap: Tap, listener: taps.Listener[Any], security: Any, how: dict[str, Any]
    ) -> None:
        self.tap = tap
        self.listener = listener
        self.said: list[bytes] = []
        self.there = taps.Preconnection(
            remote=taps.RemoteEndpoint(hostname="localhost", ip_address="127.0.0.1", port=tap.port),
            **how,
            security=security,
        )

    def mark(self, length: int = 64) -> bytes:
        """A new marker, that is about to be sent."""
        self.said.append(marker(length))
        return self.said[-1]

    async def accept(self) -> taps.Connection[Any]:
        async with asyncio.timeout(PATIENCE):
            return await self.listener.accept()

    async def pair(self) -> tuple[taps.Connection[Any], taps.Connection[Any]]:
        """Both ends, the client's first; over datagrams, too."""
        client = self.there.initiate_with_send(self.mark())
        server = await self.accept()
        assert (await received(server)) == self.said[-1]
        await client
        return client, server


async def received(connection: taps.Connection[Any], length: int = 64) -> bytes:
    """The next Message, or as many bytes where there are none."""
    async with asyncio.timeout(PATIENCE):
        if connection.stack.preserves_boundaries:
            return bytes((await connection.receive()).data)
        return bytes((await connection.receive_exactly(length)).data)


@contextlib.asynccontextmanager
async def scene(
    over: tuple[Any, dict[str, Any]], server: Any, client: Any, framers: Any = "line"
) -> AsyncIterator[Scene]:
    make, properties = over
    how = {
        "transport": taps.TransportProperties(**properties),
        "framers": framers,
        "system": taps.System(),
    }
    here = taps.Preconnection(local="127.0.0.1:0", security=server, **how)
    async with here.listen() as listener, make(listener.local_endpoints[0].port) as tap:
        yield Scene(tap, listener, client, how)


# -- what ends do


async def messages_both_ways(scene: Scene) -> None:
    client, server = await scene.pair()
    for sender, receiver in ((client, server), (server, client)) * 3:
        await sender.send(scene.mark())
        assert await received(receiver) == scene.said[-1]
    await asyncio.gather(client.close(), server.close())


async def batches(scene: Scene) -> None:
    client, server = await scene.pair()
    for sender, receiver in ((client, server), (server, client)):
        with sender.batch():
            for _ in range(50):
                await sender.send(scene.mark())
        assert [await received(receiver) for _ in range(50)] == scene.said[-50:]
    client.abort()
    server.abort()


async def early_sends(scene: Scene) -> None:
    for _ in range(2):  # the second may resume the first one's session
        client = scene.there.initiate_with_send(scene.mark())
        for _ in range(3):
            client.send_nowait(scene.mark())
        await client
        server = await scene.accept()
        assert [await received(server) for _ in range(4)] == scene.said[-4:]
        await server.send(scene.mark())
        assert await received(client) == scene.said[-1]
        await asyncio.gather(client.close(), server.close())


async def unusual_messages(scene: Scene) -> None:
    client, server = await scene.pair()
    for properties in ({"priority": 1}, {"lifetime": 60.0}, {"no_fragmentation": True}):
        await client.send(scene.mark(), **properties)
        assert await received(server) == scene.said[-1]
    await asyncio.gather(client.close(), server.close())


async def prompt_closes(scene: Scene) -> None:
    client = scene.there.initiate_with_send(scene.mark())
    closing = asyncio.ensure_future(client.close())
    server = await scene.accept()
    assert await received(server) == scene.said[-1]
    with contextlib.suppress(taps.SendError):  # over datagrams the end is that of both
        await server.send(scene.mark())
    await asyncio.gather(closing, server.close())


async def aborts(scene: Scene) -> None:
    client, server = await scene.pair()
    for end in (client, server):
        for _ in range(10):
            end.send_nowait(scene.mark())
        end.abort()
    never = scene.there.initiate_with_send(scene.mark())
    await asyncio.sleep(0.01)
    never.abort()


async def half_closes(scene: Scene) -> None:
    client, server = await scene.pair()
    await client.send(scene.mark(), final=True)
    assert await received(server) == scene.said[-1]
    await server.send(scene.mark())
    assert await received(client) == scene.said[-1]
    await asyncio.gather(client.close(), server.close())


async def parts_and_large_messages(scene: Scene) -> None:
    client, server = await scene.pair()
    whole = scene.mark(min(50_000, client.properties["sendMsgMaxLen"] // 2))
    async with client.sending(len(whole)) as sending:
        for at in range(0, len(whole), 7000):
            await sending.send(whole[at : at + 7000])
    assert await received(server, len(whole)) == whole
    await asyncio.gather(client.close(), server.close())


ACTS = [
    *(messages_both_ways, batches, early_sends, unusual_messages, prompt_closes, aborts),
    *(half_closes, parts_and_large_messages),
]
OVER = pytest.mark.parametrize(
    "over", [pytest.param(STREAM, id="TCP"), pytest.param(DATAGRAM, id="UDP")]
)
FRAMERS = pytest.mark.parametrize(
    "framers", [pytest.param("line"), pytest.param(LengthPrefix(4), id="length"), pytest.param(())]
)


@pytest.mark.filterwarnings("ignore::taps_core.PartialMessageWarning")
@FRAMERS
@pytest.mark.parametrize(
    ("over", "versions"),
    [
        pytest.param(STREAM, (), id="TCP"),
        pytest.param(STREAM, ("TLSv1.2",), id="TCP-TLSv1.2"),
        pytest.param(DATAGRAM, (), id="UDP"),
    ],
)
@pytest.mark.parametrize("act", ACTS)
def test_nothing_of_the_application_is_on_the_wire(
    run: Run,
    authority: Authority,
    act: Callable[[Scene], Awaitable[None]],
    over: tuple[Any, dict[str, Any]],
    framers: Any,
    versions: tuple[str, ...],
) -> None:
    async def main() -> None:
        client = authority.client(allowed_security_protocols=versions)
        async with scene(over, authority.server(), client, framers) as stage:
            await act(stage)
            assert stage.tap.seen(stage.said) == []
            assert sum(map(len, stage.tap.streams)) > 1000

    run(main)


@OVER
def test_nor_is_it_where_security_is_opportunistic(
    run: Run, authority: Authority, over: tuple[Any, dict[str, Any]]
) -> None:
    async def main() -> None:
        client = taps.SecurityParameters.opportunistic()
        async with scene(over, authority.server("other.example"), client) as stage:
            await messages_both_ways(stage)
            assert stage.tap.seen(stage.said) == []

    run(main)


@OVER
def test_nor_is_it_for_a_server_that_is_refused(
    run: Run, authority: Authority, over: tuple[Any, dict[str, Any]]
) -> None:
    async def slowly(_: Any) -> bool:
        await asyncio.sleep(0.01)
        return False

    async def main() -> None:
        pin = authority.identity("localhost")
        for client in (
            Authority().client(),
            authority.client(pinned_server_certificate=pin),
            authority.client().set_trust_verification_callback(slowly),
        ):
            async with scene(over, authority.server(), client) as stage:
                connection = stage.there.initiate_with_send(stage.mark())
                connection.send_nowait(stage.mark())
                with pytest.raises(taps.EstablishmentError):
                    await connection
                assert stage.tap.seen(stage.said) == []

    run(main)


@pytest.mark.parametrize("over", [pytest.param(STREAM, id="TCP"), pytest.param(DATAGRAM, id="UDP")])
def test_the_tap_would_see_it(run: Run, over: tuple[Any, dict[str, Any]]) -> None:
    async def main() -> None:
        async with scene(over, PLAIN, PLAIN) as stage:
            await messages_both_ways(stage)
            assert len(stage.tap.seen(stage.said)) == len(stage.said) * (64 - 8 + 1)

    run(main)
