"""Errors of the network are news: they end no flow, and lose no Message in silence."""

from __future__ import annotations

import errno

import pytest

from taps_core.plugin import Preference, SoftError


def closed_port(udp):
    peer = udp.peer()
    address = peer.getsockname()
    peer.close()
    return address


@pytest.mark.linux
@pytest.mark.parametrize(("address", "origin"), [("127.0.0.1", "ICMP"), ("::1", "ICMPv6")])
def test_an_unreachable_port_is_a_soft_error_and_the_flow_lives_on(udp, address, origin):
    async def main():
        peer = udp.peer(address)
        place = peer.getsockname()
        end = await udp.connect(peer)
        for _ in range(3):
            peer.close()
            end.recorder.forget()
            end.send(b"anybody there?")
            await end.recorder.until(lambda: end.recorder.named("notified"))
            (call,) = end.recorder.named("notified")
            (event,) = call.arguments
            assert isinstance(event, SoftError)
            assert event.error.errno == errno.ECONNREFUSED
            assert event.info["origin"] == origin
            assert event.info["from"] == address
            assert event.info["datagram"] == b"anybody there?"
            peer = udp.peer(address, place[1])
            end.send(b"now?")
            data, source = await udp.recv(peer)
            assert data == b"now?"
            peer.sendto(b"yes", source)
            await udp.until(lambda: b"yes" in end.recorder.messages)

    udp.run(main)


@pytest.mark.linux
def test_the_send_that_is_told_of_an_earlier_error_is_tried_again(udp):
    async def main():
        place = closed_port(udp)
        end = await udp.connect("{}:{}".format(*place))
        end.send(b"nobody is there")  # the error comes back at once, on loopback
        peer = udp.peer(port=place[1])
        sock = udp.counted(end)
        end.send(b"somebody is")
        assert sock.calls == ["send", "send"]
        assert (await udp.recv(peer))[0] == b"somebody is"
        await end.recorder.until(lambda: end.recorder.named("notified"))
        assert "lost" not in end.recorder.named("notified")[0].arguments[0].info

    udp.run(main)


@pytest.mark.linux
def test_errors_behind_lone_datagrams_are_told_once_each(udp):
    async def main():
        peer = udp.peer()
        place = peer.getsockname()
        end = await udp.connect(peer)
        end.send(b"hello")
        _, there = await udp.recv(peer)
        for number in range(40):
            end.recorder.forget()
            peer.sendto(b"%d" % number, there)
            await end.recorder.until(lambda: end.recorder.named("received"))
            if number % 3 == 2:
                peer.close()
                end.send(b"anybody there?")
                await end.recorder.until(lambda: end.recorder.named("notified"))
                peer = udp.peer(port=place[1])
            assert len(end.recorder.named("notified")) == (number % 3 == 2)

    udp.run(main)


@pytest.mark.linux
def test_those_who_do_not_want_to_know_are_not_told(udp):
    async def main():
        place = closed_port(udp)
        end = await udp.connect("{}:{}".format(*place), soft_error_notify=Preference.AVOID)
        end.send(b"nobody is there")
        await udp.settle()
        assert not end.recorder.calls
        peer = udp.peer(port=place[1])
        end.send(b"somebody is")
        assert (await udp.recv(peer))[0] == b"somebody is"

    udp.run(main)


@pytest.mark.linux
def test_a_listener_tells_the_flow_that_is_concerned(udp):
    async def main():
        for local in ("127.0.0.1:0", ":0"):
            ends = []
            listener = await udp.listen(
                lambda flow, _, ends=ends: ends.append(udp.adopt(flow)), local=local
            )
            gone, here = udp.peer(), udp.peer()
            place = ("127.0.0.1", listener.local_endpoint.port)
            for peer in (gone, here):
                peer.sendto(b"hello", place)
            await udp.until(lambda ends=ends: len(ends) == 2)
            gone.close()
            ends[0].send(b"are you there?")
            await udp.until(lambda ends=ends: ends[0].recorder.named("notified"))
            ends[1].send(b"and you?")
            assert (await udp.recv(here))[0] == b"and you?"
            here.sendto(b"yes", place)
            await udp.until(lambda ends=ends: b"yes" in ends[1].recorder.messages)
            assert not ends[1].recorder.named("notified")
            assert not any(end.recorder.is_closed for end in ends)

    udp.run(main)


def test_a_datagram_that_cannot_leave_is_told_of_and_the_next_one_leaves(udp):
    async def main():
        peer = udp.peer()
        end = await udp.connect(peer)
        sock = udp.counted(end)
        refused = OSError(errno.EPERM, "Operation not permitted")
        sock.refusals = [refused, refused]
        end.send(b"forbidden", b"allowed!!!")
        assert (await udp.recv(peer))[0] == b"allowed!!!"
        await end.recorder.until(lambda: end.recorder.named("notified"))
        (event,) = end.recorder.named("notified")[0].arguments
        assert event.error is refused
        assert event.info["lost"] == len(b"forbidden")

    udp.run(main)
