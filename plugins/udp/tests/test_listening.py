"""One socket, a flow for each remote, and what becomes of those that nobody wants."""

from __future__ import annotations

import pytest

from taps_core.plugin import ConnectionError, EstablishmentError, Reason
from taps_core.testing import connect_request, listen_request
from taps_udp import UDP


def target(listener):
    local = listener.local_endpoint
    return (local.ip_address, local.port)


class Door:
    """Takes flows as they come."""

    def __init__(self, udp, *, start=True):
        self.udp = udp
        self.start = start
        self.ends = []

    def __call__(self, flow, admitted):
        assert admitted is None
        self.ends.append(self.udp.adopt(flow, start=self.start))


@pytest.mark.requirement("R-9623-4.7.2-02")
def test_the_first_datagram_makes_one_flow_and_is_its_first_message(udp):
    async def main():
        door = Door(udp)
        listener = await udp.listen(door)
        peer = udp.peer()
        for datagram in (b"first", b"", b"third"):
            peer.sendto(datagram, target(listener))
        await udp.until(lambda: door.ends and len(door.ends[0].recorder.parts) == 3)
        (end,) = door.ends
        assert end.recorder.messages == [b"first", b"", b"third"]
        assert end.flow.remote_endpoint.port == peer.getsockname()[1]
        end.send(b"answer")
        assert await udp.recv(peer) == (b"answer", target(listener))

    udp.run(main)


@pytest.mark.requirement("R-9623-4.7.2-01")
def test_every_remote_has_its_own(udp):
    async def main():
        door = Door(udp)
        listener = await udp.listen(door)
        peers = [udp.peer() for _ in range(20)]
        for turn in range(3):
            for number, peer in enumerate(peers):
                peer.sendto(b"%d.%d" % (number, turn), target(listener))
        await udp.until(lambda: sum(len(end.recorder.parts) for end in door.ends) == 60)
        for number, end in enumerate(door.ends):
            assert end.recorder.messages == [b"%d.%d" % (number, turn) for turn in range(3)]

    udp.run(main)


@pytest.mark.linux
def test_without_an_address_answers_leave_from_the_address_that_was_written_to(udp):
    async def main():
        door = Door(udp)
        listener = await udp.listen(door, local=":0")
        port = listener.local_endpoint.port
        four, six = udp.peer(), udp.peer("::1")
        targets = [(four, "127.0.0.1"), (four, "127.0.0.2"), (six, "::1")]
        for peer, address in targets:
            peer.sendto(address.encode(), (address, port))
        await udp.until(lambda: len(door.ends) == 3)
        for end, (peer, address) in zip(door.ends, targets, strict=True):
            await end.has_data(address.encode())
            assert end.flow.local_endpoint.ip_address == address
            assert end.flow.remote_endpoint.ip_address == peer.getsockname()[0]
            end.send(*[b"answer"] * 2)
            for _ in range(2):
                data, source = await udp.recv(peer)
                assert (data, *source[:2]) == (b"answer", address, port)

    udp.run(main)


def test_the_oldest_that_was_never_answered_makes_room(udp):
    async def main():
        door = Door(udp)
        listener = await udp.listen(door, transport=UDP(most_unanswered=3))
        peers = [udp.peer() for _ in range(5)]
        for number, peer in enumerate(peers):
            peer.sendto(b"hello", target(listener))
            await udp.until(lambda number=number: len(door.ends) == number + 1)
            if number == 0:
                door.ends[0].send(b"answered")
        await door.ends[1].has_closed()
        error = door.ends[1].recorder.error
        assert isinstance(error, ConnectionError)
        assert error.reason is Reason.QUEUE_FULL
        await udp.settle()
        assert [end.recorder.is_closed for end in door.ends] == [False, True, False, False, False]
        peers[1].sendto(b"again", target(listener))
        await udp.until(lambda: len(door.ends) == 6)
        await door.ends[5].has_data(b"again")

    udp.run(main)


def test_whoever_is_turned_away_takes_nobodys_place(udp):
    async def main():
        door = Door(udp)
        turned_away = []

        def incoming(flow, admitted):
            if flow.remote_endpoint.ip_address == "127.0.0.3":
                turned_away.append(flow)
                flow.abort()
            else:
                door(flow, admitted)

        listener = await udp.listen(incoming, transport=UDP(most_unanswered=2))
        friends = [udp.peer(), udp.peer()]
        for peer in friends:
            peer.sendto(b"hello", target(listener))
        await udp.until(lambda: len(door.ends) == 2)
        strangers = [udp.peer("127.0.0.3") for _ in range(5)]
        for peer in strangers:
            peer.sendto(b"hello", target(listener))
        await udp.until(lambda: len(turned_away) == 5)
        await udp.settle()
        assert not any(end.recorder.is_closed for end in door.ends)

    udp.run(main)


def test_what_nobody_takes_is_given_up_and_what_is_taken_stays(udp):
    async def main():
        door = Door(udp, start=False)
        listener = await udp.listen(door, transport=UDP(idle=0.05))
        peers = [udp.peer(), udp.peer()]
        for number, peer in enumerate(peers):
            peer.sendto(b"hello", target(listener))
            await udp.until(lambda number=number: len(door.ends) == number + 1)
        taken, untaken = door.ends
        taken.start()
        await udp.until(lambda: untaken.flow.lower not in listener._flows.values())
        untaken.start()
        await untaken.has_closed()
        assert untaken.recorder.error.reason is Reason.TIMEOUT
        assert not taken.recorder.is_closed

    udp.run(main)


def test_a_flow_that_is_not_read_drops_and_its_siblings_go_on(udp):
    async def main():
        door = Door(udp)
        listener = await udp.listen(door)
        slow, quick = udp.peer(), udp.peer()
        for peer in (slow, quick):
            peer.sendto(b"hello", target(listener))
        await udp.until(lambda: len(door.ends) == 2)
        for end in door.ends:
            await end.has_data(b"hello")
            end.recorder.forget()
        door.ends[0].flow.pause()
        for number in range(100):
            slow.sendto(bytes(8000), target(listener))
            quick.sendto(b"%d" % number, target(listener))
            await udp.until(lambda number=number: len(door.ends[1].recorder.parts) == number + 1)
        assert not door.ends[0].recorder.parts
        dropped = door.ends[0].flow.lower.dropped
        assert 60 < dropped < 75
        door.ends[0].flow.resume()
        await udp.until(lambda: len(door.ends[0].recorder.parts) == 100 - dropped)
        slow.sendto(b"live", target(listener))
        await udp.until(lambda: door.ends[0].recorder.messages[-1] == b"live")

    udp.run(main)


def test_closing_leaves_live_flows_and_turns_away_the_unknown(udp):
    async def main():
        door = Door(udp)
        listener = await udp.listen(door)
        known, unknown = udp.peer(), udp.peer()
        place = target(listener)
        known.sendto(b"hello", place)
        await udp.until(lambda: door.ends)
        await listener.close()
        unknown.sendto(b"hello", place)
        known.sendto(b"still", place)
        await udp.until(lambda: b"still" in door.ends[0].recorder.messages)
        door.ends[0].send(b"here")
        assert await udp.recv(known) == (b"here", place)
        assert len(door.ends) == 1
        with pytest.raises(EstablishmentError, match="in use"):
            await UDP().listen(listen_request("{}:{}".format(*place), door))
        door.ends[0].flow.close()
        await door.ends[0].has_closed()
        again = await udp.listen(door, local="{}:{}".format(*place))
        assert target(again) == place

    udp.run(main)


def test_a_paused_listener_holds_within_bounds_and_forgets_nobody_it_holds(udp):
    async def main():
        door = Door(udp)
        listener = await udp.listen(door)
        listener.pause()
        peers = [udp.peer() for _ in range(3)]
        for peer in peers:
            peer.sendto(b"knock", target(listener))
            peer.sendto(b"knock", target(listener))
        await udp.settle()
        assert not door.ends
        for _ in range(60):
            peers[0].sendto(bytes(8000), target(listener))
            await udp.settle()
        assert listener.dropped
        listener.resume()
        await udp.until(lambda: len(door.ends) == 3)
        for end in door.ends[1:]:
            await end.has_data(b"knockknock")

    udp.run(main)


def test_a_door_is_asked_and_can_reply_without_a_flow(udp):
    class Cookies:
        def admit(self, datagram, remote, reply):
            if datagram == b"cookie":
                return f"admitted {remote.port}"
            reply(b"have a cookie")
            return None

    taken = []

    async def main():
        def incoming(flow, admitted):
            taken.append((udp.adopt(flow), admitted))

        listener = await udp.listen(incoming, door=Cookies())
        peer = udp.peer()
        peer.sendto(b"hello", target(listener))
        assert (await udp.recv(peer))[0] == b"have a cookie"
        assert not taken
        peer.sendto(b"cookie", target(listener))
        await udp.until(lambda: taken)
        end, admitted = taken[0]
        assert admitted == f"admitted {peer.getsockname()[1]}"
        await end.has_data(b"cookie")

    udp.run(main)


def test_an_address_of_another_machine_is_refused(udp):
    async def main():
        with pytest.raises(EstablishmentError, match="not an address of this machine"):
            await UDP().listen(listen_request("192.0.2.1:0", lambda *_: None))
        with pytest.raises(EstablishmentError, match="not of the peer's address family"):
            await UDP().connect(connect_request("127.0.0.1:9", local="[::1]:0"))

    udp.run(main)
