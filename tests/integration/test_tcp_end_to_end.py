"""The main job over real TCP: Messages between taps ends, and with plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import Codec, Framer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from taps_core.plugin import SendRecord
    from taps_core.testing.fixtures import Run

PLAIN = taps.SecurityParameters.disabled()


def preconnection(**arguments: Any) -> taps.Preconnection:
    return taps.Preconnection(security=PLAIN, **arguments)


async def echo(connection: taps.Connection[bytes]) -> None:
    async for message in connection:
        await connection.send(message.data)


@contextlib.asynccontextmanager
async def plain_server(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[str, int]]:
    """A peer that we did not write: asyncio's own streams on loopback."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        await server.wait_closed()


def test_a_message_comes_back_whole(run: Run) -> None:
    async def main() -> None:
        async with preconnection(local="127.0.0.1:0", framers="line").listen(echo) as listener:
            there = preconnection(remote=listener.remote_endpoint, framers="line")
            async with there.initiate(timeout=10) as connection:
                await connection.send(b"hello", priority=10, lifetime=2.5)
                message = await connection.receive()
                assert message.data == b"hello"
                assert message.end_of_message
                assert str(connection.stack) == "line/TCP"

    run(main)


def test_localhost_listens_on_both_families_with_one_port(run: Run) -> None:
    async def main() -> None:
        async with preconnection(local="localhost:0", framers="line").listen(echo) as listener:
            ports = {endpoint.port for endpoint in listener.local_endpoints}
            assert len(ports) == 1
            assert listener.remote_endpoint.hostname == "localhost"
            for endpoint in listener.local_endpoints:
                remote = taps.RemoteEndpoint(ip_address=endpoint.ip_address, port=endpoint.port)
                there = preconnection(remote=remote, framers="line")
                async with there.initiate(timeout=10) as connection:
                    await connection.send(b"x")
                    assert (await connection.receive()).data == b"x"

    run(main)


@pytest.mark.requirement("R-9621-3.4-01")
def test_a_plain_socket_peer_works_both_ways(run: Run) -> None:
    async def main() -> None:
        async with preconnection(local="127.0.0.1:0", framers="length-prefix").listen(
            echo
        ) as listener:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", listener.local_endpoints[0].port
            )
            # Two frames in one segment, then a header split over segments.
            writer.write(b"\0\0\0\3one\0\0\0\3two\0\0")
            assert await reader.readexactly(14) == b"\0\0\0\3one\0\0\0\3two"
            writer.write(b"\0\5three")
            assert await reader.readexactly(9) == b"\0\0\0\5three"
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(main)


def test_two_thousand_connections_at_once_get_every_echo_right(run: Run) -> None:
    count = 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * count + 200:
        pytest.skip(f"needs {2 * count + 200} file descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * count + 200), hard))

    async def one(remote: taps.RemoteEndpoint, number: int) -> bool:
        payload = f"client {number}".encode()
        there = preconnection(remote=remote, framers="length-prefix")
        async with there.initiate(timeout=60) as connection:
            await connection.send(payload)
            first = (await connection.receive()).data
            await connection.send(payload * 10)
            second = (await connection.receive()).data
            return (first, second) == (payload, payload * 10)

    async def main() -> None:
        async with preconnection(local="127.0.0.1:0", framers="length-prefix").listen(
            echo
        ) as listener:
            remote = listener.remote_endpoint
            async with asyncio.TaskGroup() as group:
                clients = [group.create_task(one(remote, number)) for number in range(count)]
            assert all(client.result() for client in clients)

    try:
        run(main)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_handler_that_raises_touches_no_other_connection(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(connection: taps.Connection[bytes]) -> None:
        async for message in connection:
            if message.data == b"fail":
                raise RuntimeError("the application's own mistake")
            await connection.send(message.data)

    async def main() -> None:
        async with preconnection(local="127.0.0.1:0", framers="line").listen(handler) as listener:
            there = preconnection(remote=listener.remote_endpoint, framers="line")
            async with there.initiate() as good:
                bad = await there.initiate()
                await bad.send(b"fail")
                with pytest.raises(taps.ConnectionError):
                    await bad.receive()
                await good.send(b"still here")
                assert (await good.receive()).data == b"still here"

    run(main)
    assert "its handler raised" in caplog.text


@pytest.fixture
def packets_are_lost() -> bool:
    """Whether loopback loses packets; tests/lab has one that does."""
    return False


def test_a_peer_that_speaks_first_loses_no_byte_through_a_race(
    run: Run, packets_are_lost: bool
) -> None:
    greeting = b"".join(b"greeting %d\n" % number for number in range(500))

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await writer.drain()
        writer.write_eof()
        await reader.read()
        writer.close()

    async def main() -> None:
        async with plain_server(speak) as (address, port):
            # Nobody listens at the first address: the second one wins the race.
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))
                closed = unused.getsockname()[1]
            remotes = [f"127.0.0.1:{closed}", f"{address}:{port}"]
            async with preconnection(remote=remotes, framers="line").initiate() as connection:
                await asyncio.sleep(0.05)
                lines = [message.data async for message in connection]
                assert b"".join(line + b"\n" for line in lines) == greeting
                first, *others = [attempt.outcome for attempt in connection.report]
                if packets_are_lost:
                    # So is a refusal, or an answer, and more are begun.
                    assert first in ("failed", "cancelled")
                    assert others.count("ready") == 1
                else:
                    assert (first, others) == ("failed", ["ready"])

    run(main)


@pytest.mark.requirement("G-9622-7.2-01")
def test_a_peer_that_speaks_first_loses_no_byte_at_limit_0(run: Run) -> None:
    async def main() -> None:
        async with preconnection(local="127.0.0.1:0", framers="line").listen() as listener:
            listener.set_new_connection_limit(0)
            _, writer = await asyncio.open_connection("127.0.0.1", listener.local_endpoints[0].port)
            writer.write(b"early\nbird\n")
            await writer.drain()
            await asyncio.sleep(0.05)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await listener.accept()
            listener.set_new_connection_limit(1)
            async with await listener.accept() as connection:
                assert (await connection.receive()).data == b"early"
                assert (await connection.receive()).data == b"bird"
                writer.close()
                await writer.wait_closed()

    run(main)


@pytest.mark.requirement("R-9622-6.3-01", "R-9621-3.3-03")
def test_security_asked_for_without_a_plugin_fails_before_any_packet(run: Run) -> None:
    async def main() -> None:
        seen: list[bytes] = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.read())
            writer.close()

        async with plain_server(listen) as (address, port):
            system = taps.System(block=("tls", "taps_tls"))
            there = taps.Preconnection(remote=f"{address}:{port}", framers="line", system=system)
            with pytest.raises(taps.EstablishmentError) as caught:
                await there.initiate_with_send(b"secret")
            assert "taps-tls" in str(caught.value)
            assert "SecurityParameters.disabled()" in str(caught.value)
            await asyncio.sleep(0.05)
        assert seen == []

    run(main)


def test_a_reset_by_the_peer_is_a_connection_error(run: Run) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async def main() -> None:
        async with plain_server(reset) as (address, port):
            connection = await preconnection(remote=f"{address}:{port}", framers="line").initiate()
            await connection.send(b"x")
            with pytest.raises(taps.ConnectionError) as caught:
                await connection.receive()
            assert caught.value.reason is taps.Reason.CONNECTION_ABORTED
            with pytest.raises(ConnectionError):  # the builtin: existing except clauses work
                await connection.send(b"more")

    run(main)


@pytest.mark.requirement("R-9623-10.1-02", "R-9623-10.1-03")
def test_final_half_closes_and_the_answer_still_comes(run: Run) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(b"%d\n" % len(data))
        writer.close()

    async def main() -> None:
        async with (
            plain_server(count) as (address, port),
            preconnection(remote=f"{address}:{port}", framers="line").initiate() as connection,
        ):
            await connection.send(b"12345")
            await connection.send(b"67890", final=True)
            assert connection.state is taps.ConnectionState.ESTABLISHED
            with pytest.raises(taps.SendError):
                await connection.send(b"too late")
            assert (await connection.receive()).data == b"12"
            with pytest.raises(taps.EndOfData):
                await connection.receive()

    run(main)


def test_two_hundred_megabytes_of_awaited_sends_stay_bounded_when_the_peer_never_reads(
    run: Run,
) -> None:
    piece = bytes(64 * 1024)

    def sleepy_peer(server: socket.socket, stop: threading.Event) -> None:
        peer, _ = server.accept()
        with peer:
            stop.wait()

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            stop = threading.Event()
            thread = threading.Thread(target=sleepy_peer, args=(server, stop))
            thread.start()
            try:
                port = server.getsockname()[1]
                there = preconnection(remote=f"127.0.0.1:{port}", framers="length-prefix")
                connection = await there.initiate()
                sent = 0
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        for _ in range(3200):
                            await connection.send(piece)
                            sent += len(piece)
                # What left is in the kernel's buffers and one high-water mark of ours.
                assert sent < 64 * 1024 * 1024
                waiting, _ = connection.queued
                assert waiting <= len(piece) + 4
                connection.abort()
                await connection._released()
            finally:
                stop.set()
                thread.join()

    run(main)


def test_an_application_that_never_receives_holds_its_peer_back(run: Run) -> None:
    piece = bytes(64 * 1024)

    async def main() -> None:
        async with preconnection(local="127.0.0.1:0", framers="length-prefix").listen() as listener:
            there = preconnection(remote=listener.remote_endpoint, framers="length-prefix")
            sender = await there.initiate()
            receiver = await listener.accept()
            sent = 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    for _ in range(3200):
                        await sender.send(piece)
                        sent += 1
            assert sent * len(piece) < 64 * 1024 * 1024
            assert receiver._inbox.size < 4 * 1024 * 1024
            # Nothing was lost: all that was sent comes once it is received.
            for _ in range(sent):
                assert (await receiver.receive()).data == piece
            for connection in (sender, receiver):
                connection.abort()
                await connection._released()

    run(main)


def test_a_timeout_fires_on_time_around_an_endless_send_loop(run: Run) -> None:
    async def drain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 20):
            pass
        writer.close()

    async def main() -> None:
        async with plain_server(drain) as (address, port):
            there = preconnection(remote=f"{address}:{port}", framers="length-prefix")
            async with there.initiate() as connection:
                turns = 0

                def tick() -> None:
                    nonlocal turns
                    turns += 1
                    asyncio.get_running_loop().call_later(0.001, tick)

                tick()
                while turns <= 10:
                    await connection.send(b"x" * 100)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        while True:
                            await connection.send(b"x" * 100)

    run(main)


def test_the_largest_message_is_the_framers_where_there_is_one(run: Run) -> None:
    async def main() -> None:
        from taps_framers import LengthPrefix

        framer = LengthPrefix(2, max_length=1000)
        async with preconnection(local="127.0.0.1:0", framers=framer).listen(echo) as listener:
            there = preconnection(remote=listener.remote_endpoint, framers=framer)
            async with there.initiate() as connection:
                assert connection.properties["sendMsgMaxLen"] == 1000
                assert connection.properties["recvMsgMaxLen"] == 1000
                with pytest.raises(taps.SendError) as caught:
                    await connection.send(bytes(1001))
                assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
                await connection.send(bytes(1000))
                assert len(await connection.receive()) == 1000

    run(main)


class Shouting(Codec):
    """An application's own: a Message ends with an exclamation mark, which it may not contain."""

    max_length = 1000

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes:
        return bytes(data) + b"!"

    def decode(self, data: bytes, parts: list[Any], /) -> int:
        *whole, rest = data.split(b"!")
        parts += [(each, None, True) for each in whole]
        return len(data) - len(rest)


class Greeting(Framer):
    """An application's own, with the RFC's events: one byte for another, then as it comes."""

    boundaries = False

    def start(self) -> None:
        self.send(b"?")

    def handle_received_data(self) -> None:
        if self.parse(1, 1) is not None:
            self.advance_receive_cursor(1)
            self.start_passthrough()
            self.make_connection_ready()


@pytest.mark.requirement("R-9623-6-01")
def test_applications_bring_framers_of_their_own(run: Run) -> None:
    async def main() -> None:
        framers = [Greeting, Shouting]
        async with preconnection(local="127.0.0.1:0", framers=framers).listen(echo) as listener:
            there = preconnection(remote=listener.remote_endpoint, framers=framers)
            async with there.initiate(timeout=10) as connection:
                assert str(connection.stack) == "Shouting/Greeting/TCP"
                for data in (b"hello", b"", b"again"):
                    await connection.send(data)
                    message = await connection.receive()
                    assert (message.data, message.end_of_message) == (data, True)
            # On the wire it is what they made of it.
            port = listener.local_endpoints[0].port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"?plain!")
            assert await reader.readexactly(7) == b"?plain!"
            writer.close()
            await writer.wait_closed()

    run(main)
