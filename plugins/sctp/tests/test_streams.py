"""Connection Groups are streams of one association (RFC 9623, section 10.6)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from taps_sctp import options

import taps_core as taps

from .conftest import over_sctp, until
from .plain import SCTP, Plain

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = pytest.mark.lab


async def said(connection: taps.Connection[Any]) -> bytes:
    """The next Message."""
    data: bytes = (await connection.receive()).data
    return data


async def end_of(connection: taps.Connection[Any]) -> None:
    """Until the peer has closed it."""
    with pytest.raises(taps.EndOfData):
        await connection.receive()


async def stream_to(
    client: taps.Connection[Any], server: taps.Connection[Any]
) -> tuple[taps.Connection[Any], taps.Connection[Any]]:
    """A clone that has said hello, and the other end of it."""
    clone = await client.clone()
    incoming = server.incoming()
    await clone.send(b"hello")
    twin = await anext(incoming)
    assert await said(twin) == b"hello"
    return clone, twin


@contextlib.asynccontextmanager
async def to_plain(lab: Lab, **how: Any) -> Any:
    """Our Connection, from the client, and a plain peer; and where that has listened."""
    door = Plain.listen(lab.network.server, **how)
    there = over_sctp(remote=f"{lab.network.server.address()}:{door.port}")
    with lab.network.client.use():
        connection = await there.initiate()
    peer = await door.accept()
    try:
        yield connection, peer
    finally:
        connection.abort_group()
        peer.close()
        door.close()


# -- which stream


def test_a_clone_costs_no_packet(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            await client.send(b"first")
            assert await said(server) == b"first"
            await asyncio.sleep(0.5)  # the last acknowledgement
            with (
                lab.network.server.capture("path1") as there,
                lab.network.client.capture("path1") as here,
            ):
                clone = await client.clone()
                assert clone.state is taps.ConnectionState.ESTABLISHED
                await asyncio.sleep(0.2)
                assert not there.look(lambda packet: packet.protocol == SCTP)
                assert not here.look(lambda packet: packet.protocol == SCTP)

    lab.run(main)


@pytest.mark.requirement("R-9623-10.6-02", "R-9623-10.6-04", "R-9623-10.6-05", "R-9623-10.6-06")
def test_who_connects_uses_even_streams_the_lowest_free_one_first(lab: Lab) -> None:
    async def main() -> None:
        async with to_plain(lab) as (first, peer):
            members = [first, *[await first.clone() for _ in range(3)]]
            for member in members:
                await member.send(b"x")
            assert [got.stream for got in await peer.receive_all(4)] == [0, 2, 4, 6]

    lab.run(main)


@pytest.mark.requirement("R-9623-10.6-06", "R-9623-10.6-08")
def test_a_number_is_free_again_when_both_ends_have_reset_it(lab: Lab) -> None:
    async def main() -> None:
        async with to_plain(lab) as (first, peer):
            second, third = await first.clone(), await first.clone()
            closing = second.close()
            await until(lambda: peer.look() or peer.resets)
            assert peer.resets == [("theirs", (2,))]
            # As long as the peer has not answered, the number is taken.
            fourth = await first.clone()
            await fourth.send(b"x")
            assert (await peer.receive()).stream == 6
            peer.reset(2)
            await closing
            fifth = await first.clone()
            for member, stream in ((fifth, 2), (third, 4), (first, 0)):
                await member.send(b"x")
                assert (await peer.receive()).stream == stream

    lab.run(main)


@pytest.mark.requirement("R-9623-10.6-05", "R-9623-10.6-09")
def test_who_listens_uses_odd_streams_and_answers_resets(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            peer = Plain.open(lab.network.client)
            await peer.connect(lab.network.server.address(), ends.port)
            server = await ends.listener.accept()
            ends.connections.append(server)
            incoming = server.incoming()
            for number in (1, 3):
                clone = await server.clone()
                await clone.send(b"x")
                assert (await peer.receive()).stream == number
            peer.send(b"hello", stream=4)
            stream = await anext(incoming)
            assert await said(stream) == b"hello"
            await stream.send(b"welcome")
            assert (await peer.receive()).stream == 4
            peer.reset(4)
            await end_of(stream)
            await until(lambda: peer.look() or ("theirs", (4,)) in peer.resets)
            peer.close()

    lab.run(main)


@pytest.mark.requirement("R-9623-10.6-07")
def test_streams_are_added_when_they_run_out(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "STREAMS", 4)

    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            incoming = server.incoming()
            clones = await asyncio.gather(*(client.clone() for _ in range(80)))
            for number, clone in enumerate(clones):
                await clone.send(b"%d" % number)
            twins = [await anext(incoming) for _ in clones]
            assert [await said(twin) for twin in twins] == [b"%d" % n for n in range(80)]
            for twin in twins:
                await twin.send(b"and back")
            assert {await said(clone) for clone in clones} == {b"and back"}

    lab.run(main)


def test_numbers_are_used_again_and_again(rough: Lab) -> None:
    rough.network.path.set(latency=0.002, loss=0.03)

    async def main() -> None:
        async with rough.listening() as ends:
            client, server = await ends.pair()
            incoming = server.incoming()

            async def answer() -> None:
                async for stream in incoming:
                    await stream.send((await said(stream)) + b" to you, too")
                    _ = stream.close()

            answering = asyncio.ensure_future(answer())
            for number in range(30):
                clone = await client.clone()
                await clone.send(b"%d" % number)
                assert await said(clone) == b"%d to you, too" % number
                await clone.close()
            answering.cancel()
            await asyncio.wait([answering])

    rough.run(main)


def test_nothing_is_lost_on_a_stream_that_the_peer_uses_again_before_this_end_could(
    rough: Lab,
) -> None:
    """The peer knows that both ends have reset it; its answer that tells so is lost."""
    server_host = rough.network.server

    async def main() -> None:
        async with rough.listening() as ends:
            peer = Plain.open(rough.network.client)
            await peer.connect(server_host.address(), ends.port)
            server = await ends.listener.accept()
            ends.connections.append(server)
            incoming = server.incoming()
            peer.send(b"hello", stream=4)
            stream = await anext(incoming)
            assert await said(stream) == b"hello"
            # Of what the peer asks and answers, the second.
            server_host.run(
                *("iptables-legacy", "-A", "INPUT", "-p", "sctp"),
                *("--chunk-types", "any", "RE_CONFIG", "-m", "statistic"),
                *("--mode", "nth", "--every", "10000", "--packet", "1", "-j", "DROP"),
            )
            peer.reset(4)
            await until(lambda: peer.look() or ("theirs", (4,)) in peer.resets)
            peer.send(b"hello again", stream=4)
            await end_of(stream)
            again = await anext(incoming)
            assert await said(again) == b"hello again"
            await again.send(b"welcome")
            assert await peer.receive() == (b"welcome", 4, 0, False)
            peer.close()

    rough.run(main)


# -- the end of one


@pytest.mark.requirement("R-9623-10.6-08", "R-9623-10.6-09")
def test_what_was_sent_arrives_before_one_of_several_closes(rough: Lab) -> None:
    rough.network.path.set(latency=0.03, loss=0.05)

    async def main() -> None:
        async with rough.listening() as ends:
            client, server = await ends.pair()
            clone, twin = await stream_to(client, server)
            for number in range(200):
                clone.send_nowait(b"%d" % number)
            closing = clone.close()
            assert [await said(twin) for _ in range(200)] == [b"%d" % n for n in range(200)]
            await end_of(twin)
            await closing
            await until(lambda: twin.state is taps.ConnectionState.CLOSED)
            assert server.grouped_connections() == {server}
            await client.send(b"still here")
            assert await said(server) == b"still here"

    rough.run(main)


def test_many_close_at_once_with_few_requests(rough: Lab) -> None:
    rough.network.path.set(latency=0.1)

    async def main() -> None:
        async with rough.listening() as ends:
            client, server = await ends.pair()
            incoming = server.incoming()
            clones = [await client.clone() for _ in range(50)]
            for clone in clones:
                await clone.send(b"x")
            twins = [await anext(incoming) for _ in clones]
            began = asyncio.get_running_loop().time()
            await asyncio.gather(*(clone.close() for clone in clones))
            # Far less than the 50 round trips of a request for each.
            assert asyncio.get_running_loop().time() - began < 5
            await until(lambda: server.grouped_connections() == {server})
            assert {twin.state for twin in twins} == {taps.ConnectionState.CLOSED}

    rough.run(main)


def test_abort_of_one_leaves_the_others(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            clone, twin = await stream_to(client, server)
            third, third_twin = await stream_to(client, server)
            clone.abort()
            await until(lambda: twin.state is taps.ConnectionState.CLOSED)
            third.send_nowait(b"third")
            client.send_nowait(b"first")
            assert (await said(third_twin), await said(server)) == (b"third", b"first")

    lab.run(main)


def test_an_abort_takes_nothing_from_one_that_closes(rough: Lab) -> None:
    rough.network.path.set(latency=0.1)

    async def main() -> None:
        async with rough.listening() as ends:
            client, server = await ends.pair()
            clone, twin = await stream_to(client, server)
            for number in range(50):
                clone.send_nowait(bytes(1000) + b"%d" % number)
            closing = clone.close()
            client.abort()
            assert [len(await said(twin)) for _ in range(50)] == [1001] * 10 + [1002] * 40
            await end_of(twin)
            await closing

    rough.run(main)


@pytest.mark.parametrize("group", [False, True], ids=["member by member", "as a group"])
def test_the_last_one_that_closes_ends_the_association(lab: Lab, group: bool) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            clone, twin = await stream_to(client, server)
            for member in (client, clone):
                await member.send(b"last words")
            if group:
                client.close_group()
            else:
                closing = [member.close() for member in (clone, client)]
                await asyncio.gather(*closing)
            for member in (server, twin):
                assert await said(member) == b"last words"
                await end_of(member)
                await member.close()
            await until(lambda: not client.grouped_connections())

    lab.run(main)


@pytest.mark.parametrize("group", [False, True], ids=["member by member", "as a group"])
def test_the_last_one_that_aborts_aborts_the_association(lab: Lab, group: bool) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            clone, _ = await stream_to(client, server)
            if group:
                client.abort_group()
            else:
                clone.abort()
                client.abort()
            with pytest.raises(taps.ConnectionError) as caught:
                await server.receive()
            assert caught.value.reason is taps.Reason.CONNECTION_ABORTED

    lab.run(main)


# -- streams of the peer


def test_either_end_opens_streams(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            one, one_twin = await stream_to(client, server)
            other, other_twin = await stream_to(server, client)
            for here, there in ((one, one_twin), (other, other_twin)):
                await there.send(b"and back")
                assert await said(here) == b"and back"
            assert server.grouped_connections() == {server, one_twin, other}
            assert client.grouped_connections() == {client, one, other_twin}

    lab.run(main)


def test_what_is_too_much_for_the_limit_is_reset_and_others_go_on(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening(groupConnLimit=2) as ends:
            client, server = await ends.pair()
            incoming = server.incoming()
            clones = [await client.clone() for _ in range(4)]
            for number, clone in enumerate(clones):
                await clone.send(b"%d" % number)
            twins = [await anext(incoming) for _ in range(2)]
            assert [await said(twin) for twin in twins] == [b"0", b"1"]
            for refused in clones[2:]:
                await until(lambda refused=refused: refused.state is taps.ConnectionState.CLOSED)
            for twin, clone in zip(twins, clones, strict=False):
                await twin.send(b"goes on")
                assert await said(clone) == b"goes on"
            server.set_property("groupConnLimit", 1)
            late = await client.clone()
            await late.send(b"late")
            assert await said(await anext(incoming)) == b"late"

    lab.run(main)


def test_streams_that_nobody_takes_are_few_and_end_with_the_last_member(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            clones = [await client.clone() for _ in range(40)]
            for clone in clones:
                await clone.send(bytes(1000))
            refused = clones[16:]
            await until(lambda: all(c.state is taps.ConnectionState.CLOSED for c in refused))
            await server.close()
            await until(lambda: all(c.state is taps.ConnectionState.CLOSED for c in clones))
            assert client.state is not taps.ConnectionState.ESTABLISHED

    lab.run(main)


@pytest.mark.parametrize("wish", ["prefer", "require"])
def test_who_reads_first_gets_an_association_of_its_own(lab: Lab, wish: str) -> None:
    """Of a stream the peer learns by its first Message: it could not send first."""

    async def main() -> None:
        there = {"activeReadBeforeSend": wish}
        async with lab.listening(there=there) as ends:
            client, _ = await ends.pair()
            with lab.network.client.use():
                clone = await client.clone()
            twin = await ends.listener.accept()
            ends.connections.append(twin)
            await twin.send(b"I begin")
            assert await said(clone) == b"I begin"
            # The peer's streams are taken on both.
            streams = client.incoming()
            of_clone = await twin.clone()
            await of_clone.send(b"a stream")
            assert await said(await anext(streams)) == b"a stream"

    lab.run(main)


# -- who is sent first


def order_of(rough: Lab, scheduler: str) -> list[str]:
    """Whose Messages arrive when, on a narrow path, of two that have much to send."""
    rough.network.path.there.set(bandwidth=500_000.0)
    order: list[str] = []

    async def main() -> None:
        async with rough.listening(there={"connScheduler": scheduler}) as ends:
            client, server = await ends.pair()
            clone, twin = await stream_to(client, server)
            client.set_property("connPriority", 200)
            clone.set_property("connPriority", 10)
            for _ in range(60):
                client.send_nowait(bytes(10_000))
            await asyncio.sleep(0.05)
            for _ in range(20):
                clone.send_nowait(bytes(10_000))

            async def note(member: Any, name: str, number: int) -> None:
                for _ in range(number):
                    await member.receive()
                    order.append(name)

            await asyncio.gather(note(server, "first", 60), note(twin, "urgent", 20))

    rough.run(main)
    return order


def test_first_come_is_first_served_by_the_kernel(rough: Lab) -> None:
    order = order_of(rough, "First-Come, First-Served")
    assert order == ["first"] * 60 + ["urgent"] * 20


def test_the_kernel_sends_by_priority(rough: Lab) -> None:
    order = order_of(rough, "Priority-Based")
    last = max(place for place, name in enumerate(order) if name == "urgent")
    # What was under way when the urgent ones came is not called back.
    assert last < 45


def test_the_kernel_takes_turns(rough: Lab) -> None:
    order = order_of(rough, "Round-Robin")
    last = max(place for place, name in enumerate(order) if name == "urgent")
    assert 38 < last < 65


# -- peers that know nothing of this


def test_with_a_peer_that_cannot_reset_streams_messages_tell_their_stream(lab: Lab) -> None:
    async def main() -> None:
        async with to_plain(lab, resets=False) as (connection, peer):
            peer.send(b"hello", stream=5, ppid=47)
            message = await connection.receive()
            assert message.data == b"hello"
            assert message.context.get("_taps.streamIdentifier") == 5
            assert message.context.get("_taps.ppid") == 47
            peer.send(bytes(300_000), stream=7, ppid=1 << 31)
            message = await connection.receive()
            assert len(message.data) == 300_000
            assert message.context.get("_taps.streamIdentifier") == 7
            assert message.context.get("_taps.ppid") == 1 << 31
            context = taps.MessageContext()
            context.add("_taps.streamIdentifier", 9).add("_taps.ppid", 0x12345678)
            await connection.send(b"to nine", context)
            assert await peer.receive() == (b"to nine", 9, 0x12345678, False)
            await connection.send(b"to none")
            assert await peer.receive() == (b"to none", 0, 0, False)
            connection.set_property("_taps.ppid", 3)
            await connection.send(b"by default")
            assert (await peer.receive()).ppid == 3
            context = taps.MessageContext().add("_taps.streamIdentifier", 64)
            with pytest.raises(taps.SendError, match="no stream 64") as caught:
                await connection.send(b"to nowhere", context)
            assert caught.value.reason is taps.Reason.INVALID_MESSAGE_PROPERTIES
            await connection.send(b"goes on")
            assert (await peer.receive()).data == b"goes on"

    lab.run(main)


def test_with_a_peer_that_cannot_reset_streams_a_clone_is_an_association(lab: Lab) -> None:
    async def main() -> None:
        door = Plain.listen(lab.network.server, resets=False)
        there = over_sctp(remote=f"{lab.network.server.address()}:{door.port}")
        with lab.network.client.use():
            connection = await there.initiate()
            clone = await connection.clone()
        peers = [await door.accept(), await door.accept()]
        for member, peer in zip((connection, clone), peers, strict=True):
            await member.send(b"x")
            assert (await peer.receive()).data == b"x"
        connection.abort_group()
        for each in (*peers, door):
            each.close()

    lab.run(main)
