"""Groups: sending, receiving from anybody or from one source, a Connection for each sender."""

from __future__ import annotations

import contextlib
import socket

import pytest

import taps_core as taps
from taps_core.plugin import EstablishmentError, LocalEndpoint, RemoteEndpoint
from taps_core.testing import listen_request, run
from taps_udp import UDP

pytestmark = pytest.mark.linux
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
#: A group, and two addresses to send to it from.
FAMILIES = pytest.mark.parametrize(
    ("group", "source", "other"),
    [
        ("239.255.7.1", "192.0.2.1", "192.0.2.2"),
        ("ff15::7:1", "2001:db8::1", "2001:db8::2"),
    ],
    ids=["IPv4", "IPv6"],
)
PORT = 7000
SENDING = taps.TransportProperties.unreliable_datagram()
RECEIVING = SENDING.copy().set("direction", "Unidirectional receive")
PLAIN = taps.SecurityParameters.disabled()


@pytest.fixture(autouse=True)
def network(kernel_network):
    """One with a cable; groups are at the other end of ``wire``."""
    kernel_network.lay_cable()
    return kernel_network


@contextlib.contextmanager
def sender(address):
    """A plain socket that sends to groups."""
    six = ":" in address
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if six:
            wire = socket.if_nametoindex("wire")
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, wire)
        sock.bind((address, 0))
        yield sock


def member(group, *, source=None, port=PORT, interface="wire"):
    return LocalEndpoint(
        multicast_group=group, multicast_source=source, port=port, interface=interface
    )


def listening(local):
    return taps.Preconnection(local=local, transport=RECEIVING, security=PLAIN)


def place(connection):
    return (connection.remote_endpoint.ip_address, connection.remote_endpoint.port)


@LOOPS
@FAMILIES
@pytest.mark.requirement("G-9622-6.1.1-02", "R-9623-10.5-02")
def test_each_sender_is_a_connection_and_all_are_one_group(loop, group, source, other):
    async def main():
        local = member(group)
        async with listening(local).listen() as listener:
            assert listener.local_endpoints == (local,)
            with sender(source) as one, sender(other) as two:
                one.sendto(b"one", (group, PORT))
                first = await listener.accept()
                two.sendto(b"two", (group, PORT))
                second = await listener.accept()
                one.sendto(b"one again", (group, PORT))
                for connection, sock, messages in [
                    (first, one, [b"one", b"one again"]),
                    (second, two, [b"two"]),
                ]:
                    assert [(await connection.receive()).data for _ in messages] == messages
                    assert place(connection) == sock.getsockname()[:2]
                    assert connection.local_endpoint == local
                assert set(first.grouped_connections()) == {first, second}
                first.set_property("groupConnLimit", 9)
                assert second.properties["groupConnLimit"] == 9
                await first.close()
                assert set(second.grouped_connections()) == {second}
                await second.close()

    run(main, loop=loop)


def test_a_group_takes_no_more_senders_than_it_may():
    async def main():
        local = member("239.255.7.2")
        properties = RECEIVING.copy().set("groupConnLimit", 2)
        there = taps.Preconnection(local=local, transport=properties, security=PLAIN)
        async with there.listen() as listener:
            with contextlib.ExitStack() as stack:
                for number in range(3):
                    sock = stack.enter_context(sender("192.0.2.1"))
                    sock.sendto(b"%d" % number, ("239.255.7.2", PORT))
                connections = [await listener.accept() for _ in range(2)]
                assert [(await each.receive()).data for each in connections] == [b"0", b"1"]
                await connections[0].close()
                sock.sendto(b"now", ("239.255.7.2", PORT))
                late = await listener.accept()
                assert (await late.receive()).data == b"now"
                await connections[1].close()
                await late.close()

    run(main)


@LOOPS
@FAMILIES
def test_of_one_source_only_what_that_sends_arrives(loop, group, source, other):
    async def main():
        async with (
            listening(member(group, source=source)).listen() as of_one,
            # Also where another program on this machine has joined for all.
            listening(member(group)).listen() as of_any,
        ):
            with sender(source) as wanted, sender(other) as unwanted:
                unwanted.sendto(b"unwanted", (group, PORT))
                stranger = await of_any.accept()
                assert place(stranger)[0] == other
                await stranger.close()
                wanted.sendto(b"wanted", (group, PORT))
                for listener in (of_one, of_any):
                    connection = await listener.accept()
                    assert (await connection.receive()).data == b"wanted"
                    assert place(connection) == wanted.getsockname()[:2]
                    await connection.close()
            (local,) = of_one.local_endpoints
            assert local.multicast_source == source

    run(main, loop=loop)


@LOOPS
@FAMILIES
@pytest.mark.requirement("G-9622-6.1.1-01")
def test_initiating_to_a_group_sends_and_never_receives(loop, group, source, other):
    async def main():
        remote = RemoteEndpoint(multicast_group=group, port=PORT, hop_limit=0, interface="wire")
        there = taps.Preconnection(
            remote=remote,
            transport=taps.TransportProperties.unreliable_datagram(),
            security=PLAIN,
        )
        async with listening(member(group)).listen() as listener, there.initiate() as sending:
            assert listener.remote_endpoint == RemoteEndpoint(
                multicast_group=group, port=PORT, interface="wire"
            )
            assert sending.remote_endpoint == remote
            assert sending.properties["canSend"]
            assert not sending.properties["canReceive"]
            await sending.send(b"to all")
            connection = await listener.accept()
            assert (await connection.receive()).data == b"to all"
            assert not connection.properties["canSend"]
            with pytest.raises(taps.SendError, match="Unidirectional receive"):
                await connection.send(b"answer")
            with pytest.raises(taps.TapsError, match="Unidirectional send"):
                await sending.receive()
            await connection.close()

    run(main, loop=loop)


def test_two_listeners_share_a_group_and_its_port():
    async def main():
        local = member("239.255.7.3")
        async with listening(local).listen() as one, listening(local).listen() as other:
            with sender("192.0.2.1") as sock:
                sock.sendto(b"both", ("239.255.7.3", PORT))
            for listener in (one, other):
                connection = await listener.accept()
                assert (await connection.receive()).data == b"both"
                await connection.close()

    run(main)


def test_what_is_sent_to_the_port_alone_is_no_news_from_the_group():
    async def main():
        async with listening(member("239.255.7.4")).listen() as listener:
            with sender("192.0.2.1") as sock:
                sock.sendto(b"to me", ("192.0.2.1", PORT))
                sock.sendto(b"to the group", ("239.255.7.4", PORT))
            connection = await listener.accept()
            assert (await connection.receive()).data == b"to the group"
            await connection.close()

    run(main)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"interface": "nowhere"}, "there is no network interface 'nowhere'"),
        ({"source": "2001:db8::1"}, "are of different address families"),
    ],
)
def test_what_cannot_be_joined_says_why(changes, sentence):
    async def main():
        local = member("239.255.7.5", **changes)
        with pytest.raises(EstablishmentError, match=sentence):
            await UDP().listen(listen_request(local, lambda flow, admitted: None))

    run(main)


def test_a_group_without_a_port_is_refused():
    async def main():
        for port in (None, 0):
            there = listening(member("239.255.7.6", port=port))
            with pytest.raises(EstablishmentError, match="a port is needed"):
                await there.listen()

    run(main)


@FAMILIES
@pytest.mark.parametrize("hop_limit", [None, 1, 7, 255])
def test_the_hop_limit_is_seen_on_the_wire(network, group, source, other, hop_limit):
    async def main():
        remote = RemoteEndpoint(multicast_group=group, port=PORT, hop_limit=hop_limit)
        there = taps.Preconnection(remote=remote, transport=SENDING, security=PLAIN)
        with network.capture("far") as capture:
            async with there.initiate() as sending:
                await sending.send(b"to all")
                packet = await capture.packet(lambda packet: packet.protocol == 17)
        assert packet.destination == (group, PORT)
        assert packet.hop_limit == (1 if hop_limit is None else hop_limit)

    run(main)


@FAMILIES
def test_an_interface_is_chosen_by_its_name_or_its_address(network, group, source, other):
    async def main():
        choices = [({}, {}, "wire"), ({"interface": "wire"}, {}, "far")]
        choices.append(({}, {"interface": "wire"}, "far"))
        if "." in group:
            choices.append(({"ip_address": source}, {}, "far"))
        for local, remote, arrives_at in choices:
            there = taps.Preconnection(
                local=LocalEndpoint(**local) if local else None,
                remote=RemoteEndpoint(multicast_group=group, port=PORT, **remote),
                transport=SENDING,
                security=PLAIN,
            )
            with network.capture(arrives_at) as capture:
                async with there.initiate() as sending:
                    await sending.send(b"by this one")
                    await capture.packet(lambda packet: packet.protocol == 17)

    # Where nobody says otherwise groups are behind the other end.
    if "." in group:
        network.ip("addr add 198.51.100.1/24 dev far")
        network.ip("route replace 224.0.0.0/4 dev far")
    else:
        network.ip("-6 addr add 2001:db8:1::1/64 dev far nodad")
        network.ip("-6 route add multicast ff00::/8 dev far table local metric 1")
    run(main)


@FAMILIES
def test_an_interface_restricts_what_is_received(network, group, source, other):
    async def main():
        async with (
            listening(member(group, interface="far")).listen() as of_far,
            listening(member(group, interface="wire")).listen() as of_wire,
        ):
            with sender(source) as sock:
                sock.sendto(b"by wire", (group, PORT))
            connection = await of_wire.accept()
            assert (await connection.receive()).data == b"by wire"
            await connection.close()
            assert not of_far._waiting

    run(main)


def test_where_there_are_too_many_the_one_that_is_silent_longest_goes(udp):
    async def main():
        ends = []
        group = "239.255.7.10"
        await udp.listen(
            lambda flow, _: ends.append(udp.adopt(flow)),
            member(group),
            transport=UDP(most_unanswered=2),
            direction="Unidirectional receive",
        )
        with contextlib.ExitStack() as stack:
            first, second, third = (stack.enter_context(sender("192.0.2.1")) for _ in range(3))
            for count, sock in enumerate((first, second), 1):
                sock.sendto(b"hello", (group, PORT))
                await udp.until(lambda count=count: len(ends) == count)
            first.sendto(b"again", (group, PORT))
            await ends[0].has_data(b"helloagain")
            third.sendto(b"me too", (group, PORT))
            await ends[1].has_closed()
            assert not ends[0].recorder.is_closed
            assert ends[1].recorder.error.reason is taps.Reason.QUEUE_FULL
            assert ends[2].recorder.messages == [b"me too"]

    udp.run(main)
