"""What all four kinds of transport in memory promise, on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.model.errors import ConnectionError, Reason, SendError
from taps_core.testing import (
    MemoryNetwork,
    Recorder,
    Rig,
    connect_request,
    listen_request,
    memory_transports,
)

if TYPE_CHECKING:
    from taps_core.model.flow import Flow
    from taps_core.model.layers import Transport
    from taps_core.testing.fixtures import Run


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def connect_to(transport: Transport, remote: Any) -> Flow:
    return await transport.connect(connect_request(remote))


def test_messages_arrive_in_order_both_ways(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()
            client.send(b"one", b"two")
            client.send((b"th", b"ree"))
            server.send(b"back")
            await server.has_data(b"onetwothree")
            await client.has_data(b"back")

    run(main)


def test_nothing_comes_up_before_start_and_nothing_is_lost(
    run: Run, memory_transport: Transport
) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client = await rig.connect(start=False)
            client.flow.lower.send(b"early bird", None, True)
            client.flow.lower.flush()
            server = await rig.accept(start=False)
            server.flow.lower.send(b"speaks first", None, True)
            server.flow.lower.flush()
            await turns()
            assert not client.recorder.calls
            assert not server.recorder.calls
            client.start()
            server.start()
            assert not client.recorder.calls, "up from inside start"
            await client.has_data(b"speaks first")
            await server.has_data(b"early bird")

    run(main)


def test_start_is_called_once(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client = await rig.connect()
            with pytest.raises(RuntimeError):
                client.flow.lower.start(Recorder())

    run(main)


def test_a_turn_brings_all_that_is_there_in_one_call(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()
            for number in range(10):
                client.send(b"%d" % number)
            await server.has_data(b"0123456789")
            assert len(server.recorder.named("received")) == 1

    run(main)


def test_what_is_gathered_leaves_at_flush(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()
            client.flow.send(b"gathered", None, True)
            await turns()
            assert not server.recorder.parts
            client.flow.flush()
            await server.has_data(b"gathered")

    run(main)


def test_a_paused_flow_holds_what_arrives(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.send(b"held")
            await turns()
            assert not server.recorder.parts
            server.flow.resume()
            await server.has_data(b"held")

    run(main)


def test_a_receiver_can_pause_and_send_from_received(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()

            def echo(parts: Any) -> None:
                server.flow.pause()
                for data, _, end_of_message in parts:
                    server.flow.send(data, None, end_of_message)
                server.flow.flush()

            server.recorder.received = echo  # type: ignore[method-assign]  # a receiver of this test's own
            client.send(b"ping")
            await client.has_data(b"ping")
            client.send(b"not yet")
            await turns()
            assert client.recorder.data == b"ping"

    run(main)


def test_closed_comes_up_once_and_last(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()
            client.send(b"last words")
            client.flow.close()
            client.flow.close()
            server.flow.close()
            assert not client.recorder.is_closed, "up from inside close"
            await client.has_closed()
            await server.has_closed()
            client.flow.lower.abort()
            client.flow.lower.close()
            await turns()
            for end in (client, server):
                assert len(end.recorder.named("closed")) == 1
                assert end.recorder.calls[-1].name == "closed"

    run(main)


def test_after_close_and_abort_nothing_but_closed_comes_up(
    run: Run, memory_transport: Transport
) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            for end_it in ("close", "abort"):
                client, server = await rig.pair()
                client.send(b"unread")
                server.send(b"unread")
                getattr(server.flow, end_it)()
                await server.has_closed()
                assert [call.name for call in server.recorder.calls] == ["closed"]
                client.flow.abort()

    run(main)


def test_an_aborted_flow_says_so(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, _ = await rig.pair()
            client.flow.abort()
            await client.has_closed()
            assert isinstance(client.recorder.error, ConnectionError)
            assert client.recorder.error.reason is Reason.LOCAL_ABORT

    run(main)


def test_close_delivers_what_was_sent(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()
            client.flow.send(b"not flushed", None, True)
            client.flow.close()
            await client.has_closed()
            await server.has_data(b"not flushed")
            assert client.recorder.error is None

    run(main)


def test_a_closed_flow_takes_nothing(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, _ = await rig.pair()
            client.flow.close()
            with pytest.raises(SendError) as caught:
                client.flow.lower.send(b"late", None, True)
            assert caught.value.reason is Reason.CONNECTION_CLOSED

    run(main)


def test_only_bytes_go_down(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()
            with pytest.raises(TypeError):
                client.flow.lower.send(bytearray(b"mutable"), None, True)
            client.send(b"fine")
            await server.has_data(b"fine")

    run(main)


def test_unstarted_flows_end_silently(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        for transport in memory_transports(memory_network):
            for end_it in ("close", "abort"):
                async with Rig(transport) as rig:
                    client = await rig.connect(start=False)
                    client.flow.lower.send(b"x", None, True)
                    getattr(client.flow.lower, end_it)()
                    await turns()
            assert memory_network.open_flows == 0

    run(main, memory_network)


def test_a_receiver_that_raises_loses_its_flow_only(run: Run, memory_transport: Transport) -> None:
    reported: list[dict[str, Any]] = []

    def break_down(parts: Any) -> None:
        raise ZeroDivisionError("a bug above")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()
            other_client, other_server = await rig.pair()
            server.recorder.received = break_down  # type: ignore[method-assign]  # a receiver of this test's own
            client.send(b"boom")
            other_client.send(b"fine")
            await server.has_closed()
            assert isinstance(server.recorder.error, ConnectionError)
            await other_server.has_data(b"fine")
            if memory_transport.capabilities.connected:
                await client.has_closed()
                assert isinstance(client.recorder.error, ConnectionError)

    run(main)
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


def test_inbound_flows_see_nothing_of_the_clients_context(
    run: Run, memory_transport: Transport
) -> None:
    whose = contextvars.ContextVar("whose", default="nobody's")
    seen: list[str] = []

    async def main() -> None:
        whose.set("server's")
        async with Rig(memory_transport) as rig:

            async def client() -> None:
                whose.set("client's")
                end = await rig.connect()
                end.recorder.received = lambda parts: seen.append(whose.get())  # type: ignore[method-assign]  # likewise
                end.send(b"x")

            await asyncio.create_task(client())
            server = await rig.accept()

            def answer(parts: Any) -> None:
                seen.append(whose.get())
                server.send(b"y")

            server.recorder.received = answer  # type: ignore[method-assign]  # a receiver of this test's own
            await turns(10)

    run(main)
    assert seen == ["server's", "client's"]


def test_endpoints_are_those_of_both_ends(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()
            assert client.flow.remote_endpoint == rig.remote
            for mine, theirs in ((client, server), (server, client)):
                local, remote = mine.flow.local_endpoint, theirs.flow.remote_endpoint
                assert local is not None
                assert remote is not None
                assert (local.ip_address, local.port) == (remote.ip_address, remote.port)

    run(main)


def test_an_ipv6_listener_is_reached(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport, local="[::1]:7000") as rig:
            client, _ = await rig.pair()
            assert str(client.flow.remote_endpoint) == "[::1]:7000"

    run(main)


def test_a_listener_that_fails_to_take_a_flow_goes_on(
    run: Run, memory_transport: Transport
) -> None:
    taken: list[Flow] = []
    reported: list[dict[str, Any]] = []

    def incoming(flow: Flow, admitted: Any) -> None:
        taken.append(flow)
        if len(taken) == 1:
            raise ZeroDivisionError("a bug above")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        listener = await memory_transport.listen(listen_request("127.0.0.1:80", incoming))
        clients = [await connect_to(memory_transport, "127.0.0.1:80") for _ in range(2)]
        for client in clients:
            with contextlib.suppress(SendError):  # the first was reset, if it had a peer
                client.send(b"x", None, True)
                client.flush()
        await turns()
        for flow in (*clients, taken[1]):
            flow.abort()
        await listener.close()

    run(main)
    assert len(taken) == 2
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


def test_paused_listeners_hold_back_new_flows(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            rig.listener.pause()
            client = await rig.connect()
            client.send(b"waits")
            await turns()
            assert not rig._inbound
            rig.listener.resume()
            await (await rig.accept()).has_data(b"waits")

    run(main)


def test_flows_outlive_their_listener(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as rig:
            client, server = await rig.pair()
            await rig.listener.close()
            client.send(b"still")
            server.send(b"here")
            await server.has_data(b"still")
            await client.has_data(b"here")

    run(main)


def test_a_closed_listener_frees_its_port(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        for _ in range(2):
            request = listen_request("127.0.0.1:7000", lambda flow, admitted: None)
            listener = await memory_transport.listen(request)
            with pytest.raises(OSError, match="in use"):
                await memory_transport.listen(request)
            with pytest.raises(OSError, match="in use"):
                await memory_transport.listen(
                    listen_request("0.0.0.0:7000", lambda flow, admitted: None)
                )
            await listener.close()
            await listener.close()

    run(main)


def test_unset_ports_are_chosen_and_can_be_read(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        async with Rig(memory_transport) as one, Rig(memory_transport, local="127.0.0.1") as other:
            ports = {one.listener.local_endpoint.port, other.listener.local_endpoint.port}
            assert len(ports) == 2
            assert all(ports)

    run(main)


def test_wildcards_are_reached_at_every_address(run: Run, memory_transport: Transport) -> None:
    async def main() -> None:
        for wildcard, address in (
            ("0.0.0.0", "192.0.2.7"),
            ("[::]", "2001:db8::7"),
            ("[::]", "192.0.2.7"),
            ("", "192.0.2.7"),
        ):
            async with Rig(memory_transport, local=f"{wildcard}:7000") as rig:
                client = await connect_to(memory_transport, rig.remote.with_ip_address(address))
                client.send(b"x", None, True)
                client.flush()
                server = await rig.accept()
                await server.has_data(b"x")
                assert server.flow.local_endpoint is not None
                assert server.flow.local_endpoint.ip_address == address
                client.abort()

    run(main)
