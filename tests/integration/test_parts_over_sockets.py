"""Messages in parts over TCP, framed TCP and UDP: rows of docs/reference/parts.md."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from tests.integration.sockets import PLAIN, pair, preconnection, settle

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run

STACKS = pytest.mark.parametrize("stack", ["TCP", "length-prefix/TCP", "UDP"])
#: Those on which a Message has an end.
BOUNDED = pytest.mark.parametrize("stack", ["length-prefix/TCP", "UDP"])


async def everything(connection: taps.Connection[Any], length: int) -> bytes:
    """So many bytes, of as many Messages and parts as they come in."""
    found = b""
    while len(found) < length:
        found += (await connection.receive(max_length=length - len(found))).data
    return found


# ------------------------------------------------------------------- sending


@STACKS
@pytest.mark.requirement("G-9622-9.2.3-01", "G-9622-9.2.2-01", "R-9623-5.1.2-01")
def test_parts_of_one_context_are_one_message_and_each_has_its_sent(run: Run, stack: str) -> None:
    async def main() -> None:
        async with pair(stack) as (client, server):
            told: list[Any] = []
            client.on(taps.Sent, told.append)
            client.on(taps.TapsError, told.append)
            context = taps.MessageContext(priority=5)
            await client.send(b"one ", context, end_of_message=False)
            other = asyncio.ensure_future(client.send(b"urgent", priority=0))
            await client.send(b"two ", context, end_of_message=False)
            await settle()
            assert not other.done()  # nothing goes between the parts of a Message
            await client.send(b"three", context)
            await other
            await settle()
            assert [type(event) for event in told] == [taps.Sent] * 4
            of_parts = [event.context for event in told[:3]]
            assert of_parts[0] is of_parts[1] is of_parts[2] is not told[3].context
            if stack == "TCP":
                assert await everything(server, 19) == b"one two threeurgent"
            else:
                messages = [await server.receive() for _ in range(2)]
                assert [each.data for each in messages] == [b"one two three", b"urgent"]
                assert all(each.end_of_message for each in messages)

    run(main)


@STACKS
def test_messages_that_were_begun_together_do_not_mix(run: Run, stack: str) -> None:
    async def main() -> None:
        async with pair(stack) as (client, server):
            contexts = [taps.MessageContext(priority=priority) for priority in (3, 1, 2)]
            sends = [
                client.send(b"%s%d" % (name, number), context, end_of_message=number == 2)
                for number in range(3)
                for name, context in zip((b"a", b"b", b"c"), contexts, strict=True)
            ]
            for send in sends:
                await send
            # «a» had begun when the others came.
            whole = [b"a0a1a2", b"b0b1b2", b"c0c1c2"]
            if stack == "TCP":
                assert await everything(server, 18) == b"".join(whole)
            else:
                assert [(await server.receive()).data for _ in range(3)] == whole

    run(main)


@STACKS
def test_when_parts_leave(run: Run, stack: str) -> None:
    async def main() -> None:
        async with pair(stack) as (client, server):
            first = asyncio.ensure_future(server.receive(min_incomplete_length=1, max_length=100))
            async with client.sending(length=6) as message:
                await message.send(b"abc")
                if stack == "UDP":
                    # A datagram is whole or not at all.
                    await settle()
                    assert not first.done()
                else:
                    part = await first
                    assert (part.data, part.end_of_message) == (b"abc", False)
                await message.send(b"def")
            if stack == "UDP":
                assert ((await first).data, first.result().end_of_message) == (b"abcdef", True)
            else:
                rest = await server.receive(min_incomplete_length=1, max_length=100)
                assert (rest.data, rest.end_of_message) == (b"def", stack != "TCP")
                assert (rest.context is part.context) or stack == "TCP"
            # Without a length a prefix cannot go first: the last part lets all leave.
            again = asyncio.ensure_future(server.receive(min_incomplete_length=1, max_length=100))
            async with client.sending() as message:
                await message.send(b"abc")
                await settle()
                assert again.done() is (stack == "TCP")
                await message.send(b"def")
            assert (await again).data == (b"abc" if stack == "TCP" else b"abcdef")

    run(main)


@BOUNDED
def test_a_message_that_is_given_up_before_it_left_costs_nothing_else(run: Run, stack: str) -> None:
    async def main() -> None:
        async with pair(stack) as (client, server):
            with pytest.raises(RuntimeError):
                async with client.sending() as message:
                    await message.send(b"never")
                    raise RuntimeError("changed my mind")
            await client.send(b"next")
            assert (await server.receive()).data == b"next"

    run(main)


def test_a_datagram_that_grows_too_long_fails_with_its_part(run: Run) -> None:
    async def main() -> None:
        async with pair("UDP") as (client, server):
            told: list[Any] = []
            client.on(taps.SendError, told.append)
            context = taps.MessageContext()
            await client.send(bytes(40_000), context, end_of_message=False)
            with pytest.raises(taps.SendError) as caught:
                await client.send(bytes(40_000), context, end_of_message=False)
            assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
            with pytest.raises(taps.SendError) as caught:
                await client.send(b"end", context)
            assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
            await client.send(b"next")
            assert (await server.receive()).data == b"next"
            await settle()
            assert len(told) == 2

    run(main)


# ------------------------------------------------------------------- Messages without a byte


@BOUNDED
def test_an_empty_message_is_a_message_where_messages_have_ends(run: Run, stack: str) -> None:
    async def main() -> None:
        async with pair(stack) as (client, server):
            told: list[Any] = []
            client.on(taps.Sent, told.append)
            received: list[Any] = []
            server.on(taps.Received, received.append)
            context = taps.MessageContext()
            await client.send(b"")
            await client.send(b"", context, end_of_message=False)
            await client.send(b"", context)
            async with client.sending(length=0):
                pass
            await client.send(b"x")
            messages = [await server.receive() for _ in range(4)]
            assert [each.data for each in messages] == [b"", b"", b"", b"x"]
            assert all(each.end_of_message for each in messages)
            await settle()
            assert len(told) == 5
            assert [event.message.data for event in received] == [b"", b"", b"", b"x"]

    run(main)


def test_an_empty_datagram_is_one_on_the_wire(run: Run) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.setblocking(False)
            here, port = peer.getsockname()
            async with (
                asyncio.timeout(30),
                preconnection("UDP", remote=f"{here}:{port}").initiate() as client,
            ):
                await client.send(b"")
                await settle()
                data, address = peer.recvfrom(100)
                assert data == b""
                peer.sendto(b"", address)
                message = await client.receive(max_length=4)
                assert (message.data, message.end_of_message) == (b"", True)

    run(main)


def test_on_a_bare_stream_an_empty_message_is_sent_and_is_nothing(run: Run) -> None:
    async def main() -> None:
        async with pair("TCP") as (client, server):
            told: list[Any] = []
            client.on(taps.Sent, told.append)
            await client.send(b"")
            await client.send(b"after")
            message = await server.receive(max_length=100)
            assert (message.data, message.end_of_message) == (b"after", False)
            await settle()
            assert len(told) == 2

    run(main)


# ------------------------------------------------------------------- receiving


@STACKS
@pytest.mark.requirement("G-9622-9.3.2-01", "G-9622-9.3.2.2-01", "G-9622-9.3-01")
def test_each_receive_has_one_event_and_lengths_divide_a_message(run: Run, stack: str) -> None:
    async def main() -> None:
        async with pair(stack) as (client, server):
            told: list[Any] = []
            for kind in (taps.Received, taps.ReceivedPartial, taps.ReceiveError):
                server.on(kind, told.append)
            await client.send(b"0123456789")
            await settle()
            parts = [await server.receive(max_length=4) for _ in range(3)]
            assert [each.data for each in parts] == [b"0123", b"4567", b"89"]
            ends = [each.end_of_message for each in parts]
            # Of a bare stream nobody knows the end before it has come.
            assert ends == [False, False, stack != "TCP"]
            assert parts[0].context is parts[1].context is parts[2].context
            await settle()
            assert [event.message for event in told] == parts
            assert [type(event) for event in told] == [taps.ReceivedPartial] * 3
            if stack != "TCP":
                await client.send(b"whole")
                await server.receive(max_length=5)
                await settle()
                assert type(told[-1]) is taps.Received

    run(main)


@STACKS
def test_a_least_length_is_waited_for_or_the_end_of_the_message(run: Run, stack: str) -> None:
    async def main() -> None:
        async with pair(stack) as (client, server):
            waiting = asyncio.ensure_future(server.receive(min_incomplete_length=4, max_length=6))
            async with client.sending(length=9) as message:
                await message.send(b"012")
                await settle()
                assert not waiting.done()
                await message.send(b"345678")
            first = await waiting
            if stack == "UDP":
                assert (first.data, first.end_of_message) == (b"012345", False)
            else:
                assert 4 <= len(first.data) <= 6
            rest = 9 - len(first.data)
            if stack != "TCP":
                # The end of the Message is as good as the least length.
                last = await server.receive(min_incomplete_length=8, max_length=100)
                assert last.end_of_message
                assert first.data + last.data == b"012345678"
            else:
                assert first.data + await everything(server, rest) == b"012345678"
                await client.finish()
                last = await server.receive(min_incomplete_length=8, max_length=100)
                assert (last.data, last.end_of_message) == (b"", True)

    run(main)


@pytest.mark.requirement("G-9622-9.3.2.2-02", "R-9623-5.2-02")
def test_the_end_of_a_bare_stream_is_the_end_of_its_message(run: Run) -> None:
    async def main() -> None:
        async with pair("TCP") as (client, server):
            for number in range(3):
                await client.send(b"%d" % number)  # each of them the end of a Message, here
            await client.send(b"3", final=True)
            message = await server.receive_exactly(4)
            assert (message.data, message.end_of_message) == (b"0123", False)
            last = await server.receive(max_length=100)
            assert (last.data, last.end_of_message) == (b"", True)
            assert last.context is message.context
            with pytest.raises(taps.EndOfData):
                await server.receive(max_length=100)

    run(main)


def test_a_message_that_the_end_cuts_off_goes_to_those_who_take_parts_over_sockets(
    run: Run,
) -> None:
    async def main() -> None:
        for takes_parts in (True, False):
            with socket.create_server(("127.0.0.1", 0)) as server:
                server.setblocking(False)
                there = taps.Preconnection(
                    remote=f"127.0.0.1:{server.getsockname()[1]}",
                    security=PLAIN,
                    framers="length-prefix",
                )
                async with asyncio.timeout(30), there.initiate() as client:
                    loop = asyncio.get_running_loop()
                    peer, _ = await loop.sock_accept(server)
                    with peer:
                        await loop.sock_sendall(peer, b"\0\0\0\x09cut o")
                    if takes_parts:
                        part = await client.receive(min_incomplete_length=8)
                        assert (part.data, part.end_of_message) == (b"cut o", False)
                    with pytest.raises(taps.ReceiveError) as caught:
                        await client.receive()
                    assert caught.value.detail == "cut-off"

    run(main)
