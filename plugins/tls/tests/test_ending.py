"""How a Connection over TLS ends: nobody but the peer can end it, or change what it said."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import Flow
from taps_core.testing import MemoryNetwork, MemoryStream
from taps_core.testing.conformance.security import below
from taps_core.testing.rig import Rig
from taps_tls import TLS

from .conftest import pair

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run
    from taps_core.testing.rig import End

    from .conftest import Authority


def lowest(connection: taps.Connection[Any]) -> Flow:
    """The transport's flow."""
    flow = connection.find(Flow)
    assert flow is not None
    while (lower := getattr(flow, "lower", None)) is not None:
        flow = lower
    return flow


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_one_direction_ends_and_the_other_goes_on(
    run: Run, authority: Authority, version: str
) -> None:
    async def main() -> None:
        client_parameters = authority.client(allowed_security_protocols=version)
        async with pair(authority.server(), client_parameters) as (client, server):
            await client.send(b"question")
            await client.finish()
            assert (await server.receive()).data == b"question"
            with pytest.raises(taps.EndOfData):
                await server.receive()
            for number in range(100):
                await server.send(b"answer %d" % number)
            await server.close()
            for number in range(100):
                assert (await client.receive()).data == b"answer %d" % number
            with pytest.raises(taps.EndOfData):
                await client.receive()
            await client.close()

    run(main)


def test_close_on_both_sides_is_in_order(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (client, server):
            await client.send(b"last words")
            closing = asyncio.ensure_future(client.close())
            assert [message.data async for message in server] == [b"last words"]
            await server.close()
            await closing
            assert client.state is server.state is taps.ConnectionState.CLOSED

    run(main)


def test_a_stream_that_is_cut_off_is_no_end(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (client, server):
            await client.send(b"transfer 100 to Bob")
            assert (await server.receive()).data == b"transfer 100 to Bob"
            lowest(client).finish()  # as a stranger's FIN looks
            with pytest.raises(taps.ReceiveError) as caught:
                await server.receive()
            assert caught.value.detail == "truncated"
            assert not isinstance(caught.value, taps.EndOfData)
            # Only receiving has ended.
            await server.send(b"are you there?")
            assert (await client.receive()).data == b"are you there?"

    run(main)


def test_a_record_that_was_changed_ends_the_connection(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (client, server):
            flow = lowest(client)
            flow.send(b"\x17\x03\x03\x00\x20" + bytes(32), None, False)
            flow.flush()
            with pytest.raises(taps.ReceiveError) as caught:
                await server.receive()
            assert caught.value.detail == "bad-record"
            # The peer is told, and both are over.
            with pytest.raises((taps.ReceiveError, taps.ConnectionError)):
                await client.receive()

    run(main)


def hasty(port: int, authority: Authority) -> None:
    """A client that says something and its end, and hangs up before it has read any ticket."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port)) as sock:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
            else:
                break
        tls.write(b"last words\n")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        sock.sendall(outgoing.read())
        sock.recv(1, socket.MSG_PEEK)  # the tickets are there


def test_a_peer_that_hangs_up_on_our_tickets_has_ended_in_order(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        here = taps.Preconnection(
            local="127.0.0.1:0", security=authority.server(), framers="line", system=taps.System()
        )
        async with here.listen() as listener:
            port = listener.local_endpoints[0].port
            assert port is not None
            await asyncio.to_thread(hasty, port, authority)
            server = await listener.accept()
            assert [message.data async for message in server] == [b"last words"]
            await server.close()
            assert server.state is taps.ConnectionState.CLOSED

    run(main)


def test_a_reset_is_an_abort(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (client, server):
            client.abort()
            with pytest.raises(taps.ConnectionError) as caught:
                await server.receive()
            assert caught.value.reason is taps.Reason.CONNECTION_ABORTED

    run(main)


def test_what_was_paused_comes_before_the_end(run: Run) -> None:
    async def main() -> None:
        layer = TLS()
        async with Rig(MemoryStream(MemoryNetwork()), layer, parameters=layer.acquainted()) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.send(b"one", b"two")
            client.flow.finish()
            for _ in range(10):
                await asyncio.sleep(0)
            server.flow.resume()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert server.recorder.data == b"onetwo"

    run(main)


def test_data_that_came_with_the_handshake_is_held_until_start(run: Run) -> None:
    async def main() -> None:
        layer = TLS()
        async with Rig(MemoryStream(MemoryNetwork()), layer, parameters=layer.acquainted()) as rig:
            accepting = asyncio.ensure_future(rig.accept(start=False))
            client = await rig.connect()
            client.send(b"early bird")
            client.flow.finish()
            server: End = await accepting
            for _ in range(10):
                await asyncio.sleep(0)
            assert not server.recorder.data
            server.start()
            # Our own end, before anything was read, loses nothing of the peer's.
            server.flow.finish()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert server.recorder.data == b"early bird"
            assert below(server) is not None

    run(main)


def test_a_connection_that_is_closed_keeps_no_keys(run: Run, authority: Authority) -> None:
    def with_keys() -> int:
        return sum(isinstance(each, ssl.SSLObject) for each in gc.get_objects())

    async def main() -> None:
        before = with_keys()
        async with pair(authority.server(), authority.client()) as (client, server):
            assert with_keys() == before + 2
            closing = asyncio.ensure_future(client.close())
            await server.close()
            await closing
            # Both are still held here, and in a cycle of their own besides.
            assert with_keys() == before

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()
