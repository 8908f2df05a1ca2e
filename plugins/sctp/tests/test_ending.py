"""Close waits for delivery, abort tells the peer, and why it ended is said."""

from __future__ import annotations

import select
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps

from .conftest import over_sctp, until
from .plain import SCTP, Plain

if TYPE_CHECKING:
    from .conftest import Lab

# The loops tell of a socket's end each in its own way.
pytestmark = [pytest.mark.lab, pytest.mark.both_loops]


def test_close_waits_until_all_is_delivered_under_loss(rough: Lab) -> None:
    rough.network.path.set(latency=0.02)

    async def main() -> None:
        async with rough.listening() as ends:
            client, server = await ends.pair()
            rough.network.path.set(loss=0.2)
            for number in range(100):
                client.send_nowait(b"%03d" % number * 100)
            closing = client.close()
            got = [(await server.receive()).data[:3] for _ in range(100)]
            assert got == [b"%03d" % number for number in range(100)]
            with pytest.raises(taps.EndOfData):
                await server.receive()
            await server.close()
            await closing

    rough.run(main)


def test_both_may_close_at_once(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            for _ in range(10):
                client, server = await ends.pair()
                client.send_nowait(b"to the server")
                server.send_nowait(b"to the client")
                one, other = client.close(), server.close()
                await one
                await other

    lab.run(main)


def test_an_abort_is_an_error_at_the_peer(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            client.abort()
            with pytest.raises(taps.ConnectionError) as caught:
                await server.receive()
            assert caught.value.reason is taps.Reason.CONNECTION_ABORTED
            assert caught.value.detail == "ECONNRESET"

    lab.run(main)


def test_what_a_peer_gives_as_its_reason_is_told(lab: Lab) -> None:
    async def main() -> None:
        # Only a one-to-many socket can give one.
        with lab.network.server.use():
            peer = socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET, SCTP)
        peer.setblocking(False)
        peer.bind((lab.network.server.address(), 0))
        peer.listen()
        there = over_sctp(remote=f"{lab.network.server.address()}:{peer.getsockname()[1]}")
        with lab.network.client.use():
            connection = await there.initiate()
        await connection.send(b"hello")
        _, _, _, address = await until_read(peer)
        abort = struct.pack("=HHIIi", 0, 4, 0, 0, 0)
        peer.sendmsg([b"no more room"], [(SCTP, 2, abort)], 0, address)
        with pytest.raises(taps.ConnectionError, match="no more room") as caught:
            await connection.receive()
        assert caught.value.reason is taps.Reason.CONNECTION_ABORTED
        peer.close()

    lab.run(main)


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


async def until_read(sock: socket.socket) -> Any:
    """A Message, from whomever."""
    got: list[Any] = []

    def attempt() -> bool:
        try:
            got.append(sock.recvmsg(1000, 256))
        except BlockingIOError:
            return False
        return True

    await until(attempt)
    return got[0]


def test_what_could_not_be_sent_before_the_peer_ended_is_an_error(lab: Lab) -> None:
    async def main() -> None:
        door = Plain.listen(lab.network.server)
        there = over_sctp(remote=f"{lab.network.server.address()}:{door.port}")
        with lab.network.client.use():
            connection = await there.initiate()
        peer = await door.accept()
        # More than both kernels hold.
        for _ in range(30):
            connection.send_nowait(bytes(250_000))
        await until(lambda: readable(peer.sock))
        peer.close()  # with unread data: an abort
        with pytest.raises(taps.ConnectionError):
            await connection.close()
        door.close()

    lab.run(main)


def test_a_peer_that_is_gone_is_given_up(rough: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from taps_sctp import options

    monkeypatch.setattr(options, "RTO", (100, 200, 100))

    async def main() -> None:
        async with rough.listening() as ends:
            client, _ = await ends.pair()
            rough.network.path.blackhole()
            client.send_nowait(b"is anybody there?")
            with pytest.raises(taps.ConnectionError) as caught:
                await client.receive()
            assert caught.value.reason is taps.Reason.TIMEOUT

    rough.run(main)


def test_final_ends_sending_and_is_not_told(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            await client.send(b"the last one", final=True)
            assert (await server.receive()).data == b"the last one"
            with pytest.raises(taps.SendError):
                await client.send(b"one more")
            await server.send(b"an answer")
            assert (await client.receive()).data == b"an answer"
            assert client.state is taps.ConnectionState.ESTABLISHED

    lab.run(main)
