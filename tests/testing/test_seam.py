"""One program for all four kinds of transport: nothing above the seam knows which it is."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.model.layers import Transport
from taps_core.testing import (
    CheckedFlow,
    MemoryCookies,
    MemoryDatagram,
    MemoryNetwork,
    MemorySecure,
    MemoryStream,
    MemoryTLS,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from taps_core.model.flow import Flow
    from taps_core.model.layers import ConnectRequest, ListeningFlow, ListenRequest, SecurityLayer
    from taps_core.testing.fixtures import Run


class Watched(Transport):
    """A transport whose flows are watched, so that those above keep to the rules as well."""

    def __init__(self, transport: Transport) -> None:
        self.name = transport.name
        self.capabilities = transport.capabilities
        self.flows: list[CheckedFlow] = []
        self._transport = transport

    async def connect(self, request: ConnectRequest) -> Flow:
        return self._watch(await self._transport.connect(request))

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        def incoming(flow: Flow, admitted: Any) -> None:
            request.incoming(self._watch(flow), admitted)

        return await self._transport.listen(dataclasses.replace(request, incoming=incoming))

    def _watch(self, flow: Flow) -> CheckedFlow:
        watched = CheckedFlow(flow)
        self.flows.append(watched)
        return watched


class Place:
    """A System with one transport, a Listener on it, and how to reach it."""

    def __init__(
        self,
        transport: Transport,
        layer: SecurityLayer | None = None,
    ) -> None:
        self.transport = transport
        self.security = None if layer is not None else taps.SecurityParameters.disabled()
        self.system = taps.System(plugins=[transport] if layer is None else [transport, layer])
        self.properties = taps.TransportProperties(
            reliability="no_preference",
            preserve_order="no_preference",
            congestion_control="no_preference",
            per_msg_reliability="no_preference",
            # Datagrams may come twice: a Message that minds that is refused there.
            safely_replayable=True,
        )

    def preconnection(self, **endpoints: Any) -> taps.Preconnection:
        return taps.Preconnection(
            transport=self.properties,
            security=self.security,
            system=self.system,
            **endpoints,
        )

    def listen(self) -> taps.Listener:
        return self.preconnection(local="127.0.0.1:0").listen()

    def reach(self, listener: taps.Listener) -> taps.Preconnection:
        return self.preconnection(remote=listener.remote_endpoint)


@pytest.fixture
def place(memory_transport: Transport) -> Iterator[Place]:
    watched = Watched(memory_transport)
    yield Place(watched)
    assert watched.flows
    for flow in watched.flows:
        flow.check()


async def read(connection: taps.Connection[Any], data: bytes) -> None:
    """Receive just this, however it is divided."""
    got = b""
    while len(got) < len(data):
        got += (await connection.receive(max_length=100_000)).data
    assert got == data


async def ends(connection: taps.Connection[Any]) -> None:
    """Nothing but the end is left to come."""
    async for message in connection:
        assert not message.data


async def joined(listener: taps.Listener, member: taps.Connection[Any]) -> taps.Connection[Any]:
    """The next Connection of the peer, as a stream of its group or by itself."""
    streams = member.incoming()
    both = {asyncio.ensure_future(anext(streams)), asyncio.ensure_future(listener.accept())}
    done, waiting = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.wait(both)
    await close_streams(streams)
    connection: taps.Connection[Any] = done.pop().result()
    return connection


async def close_streams(streams: AsyncIterator[Any]) -> None:
    await streams.aclose()  # type: ignore[attr-defined]  # an asynchronous generator


def watch_end(
    connection: taps.Connection[Any], last: dict[taps.Connection[Any], type[object]]
) -> None:
    def ended(event: object) -> None:
        assert connection not in last
        last[connection] = type(event)

    connection.on(taps.Closed, ended)
    connection.on(taps.ConnectionError, ended)


def test_initiate_and_listen(run: Run, place: Place, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with place.listen() as listener, place.reach(listener).initiate() as client:
            assert client.stack is not None
            assert client.stack.transport is place.transport
            await client.send(b"hello")
            async with await listener.accept() as server:
                await read(server, b"hello")
                await server.send(b"welcome")
                await read(client, b"welcome")

    run(main, memory_network)


def test_initiate_with_send(run: Run, place: Place, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with place.listen() as listener:
            for _ in range(2):  # the second time there may be a ticket
                connection = place.reach(listener).initiate_with_send(
                    b"first", safely_replayable=True
                )
                async with connection as client:
                    await client.send(b"second")
                    async with await listener.accept() as server:
                        await read(server, b"firstsecond")

    run(main, memory_network)


def test_sends_before_ready_go_out_in_order(
    run: Run, place: Place, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with place.listen() as listener:
            client = place.reach(listener).initiate()
            for number in range(5):
                client.send_nowait(b"%d" % number)
            async with client, await listener.accept() as server:
                await read(server, b"01234")

    run(main, memory_network)


def test_final(run: Run, place: Place, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with place.listen() as listener, place.reach(listener).initiate() as client:
            await client.send(b"last", final=True)
            with pytest.raises(taps.SendError):
                await client.send(b"more")
            async with await listener.accept() as server:
                await read(server, b"last")
                await server.send(b"answer")
                await read(client, b"answer")
                if place.transport.capabilities.half_close:
                    await ends(server)

    run(main, memory_network)


def test_clone(run: Run, place: Place, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with place.listen() as listener, place.reach(listener).initiate() as client:
            await client.send(b"x")
            async with await listener.accept() as server:
                await read(server, b"x")
                async with client.clone() as clone:
                    assert client.grouped_connections() == {client, clone}
                    await clone.send(b"y")
                    async with await joined(listener, server) as other:
                        await read(other, b"y")
                        await other.send(b"z")
                        await read(clone, b"z")
                        await client.send(b"x")
                        await read(server, b"x")

    run(main, memory_network)


@pytest.mark.parametrize("action", ["close_group", "abort_group"])
def test_close_group_and_abort_group(
    run: Run, place: Place, memory_network: MemoryNetwork, action: str
) -> None:
    async def main() -> None:
        async with place.listen() as listener:
            client = await place.reach(listener).initiate()
            await client.send(b"x")
            server = await listener.accept()
            await read(server, b"x")
            clone = await client.clone()
            await clone.send(b"y")
            other = await joined(listener, server)
            await read(other, b"y")
            last: dict[taps.Connection[Any], type[object]] = {}
            for member in (client, clone):
                watch_end(member, last)
            getattr(client, action)()
            connected = place.transport.capabilities.connected
            for end in (server, other):
                if not connected:
                    end.abort()
                elif action == "abort_group":
                    with pytest.raises(taps.ConnectionError):
                        await end.receive(max_length=1)
                else:
                    await ends(end)
                    await end.close()
            for member in (client, clone):
                if action == "close_group":
                    await member.close()
                assert member.state is taps.ConnectionState.CLOSED
            await asyncio.sleep(0)
            expected = taps.Closed if action == "close_group" else taps.ConnectionError
            assert last == {client: expected, clone: expected}

    run(main, memory_network)


def test_early_data_is_taken_when_there_is_a_ticket(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        place = Place(MemorySecure(memory_network))
        early = []
        async with place.listen() as listener:
            for _ in range(2):
                client = place.reach(listener).initiate_with_send(b"first", safely_replayable=True)
                async with client, await listener.accept() as server:
                    message = await server.receive(max_length=100)
                    assert message.data == b"first"
                    early.append(message.context.early_data)
        assert early == [False, True]

    run(main, memory_network)


@pytest.mark.parametrize("kind", ["stream", "datagram"])
def test_security_layers_protect_by_default(
    run: Run, memory_network: MemoryNetwork, kind: str
) -> None:
    seen: list[bytes] = []
    memory_network.wiretap = seen.append

    async def main() -> None:
        if kind == "stream":
            place = Place(MemoryStream(memory_network), MemoryTLS())
        else:
            place = Place(MemoryDatagram(memory_network), MemoryCookies())
        async with place.listen() as listener, place.reach(listener).initiate() as client:
            await client.send(b"secret")
            async with await listener.accept() as server:
                await read(server, b"secret")
                await server.send(b"secret")
                await read(client, b"secret")

    run(main, memory_network)
    assert seen
    assert not any(b"secret" in data for data in seen)
