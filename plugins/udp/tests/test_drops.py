"""What finds no room is counted where a program can read it, and the log says so."""

from __future__ import annotations

import asyncio
import logging

import pytest

import taps_core as taps
import taps_udp.drops
from taps_udp import UDP


def target(listener):
    local = listener.local_endpoint
    return (local.ip_address, local.port)


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "taps_udp"]


@pytest.mark.linux
def test_a_connection_counts_what_its_socket_had_no_room_for(udp):
    async def main():
        peer = udp.peer()
        end = await udp.connect(peer)
        end.send(b"hello")
        _, source = await udp.recv(peer)
        assert end.flow.read("_taps.dropped") == 0
        end.flow.pause()
        for _ in range(1000):
            peer.sendto(bytes(1000), source)
        dropped = end.flow.read("_taps.dropped")
        assert dropped > 0
        end.flow.resume()
        await udp.until(lambda: len(end.recorder.parts) == 1000 - dropped)
        assert end.flow.read("_taps.dropped") == dropped
        end.flow.close()
        await end.has_closed()
        assert end.flow.read("_taps.dropped") is None

    udp.run(main)


@pytest.mark.linux
def test_a_listener_counts_by_cause_and_its_connections_count_their_own(udp):
    async def main():
        ends = []
        listener = await udp.listen(
            lambda flow, _: ends.append(udp.adopt(flow)), transport=UDP(most_unanswered=2)
        )
        assert listener.dropped == {}
        peers = [udp.peer() for _ in range(3)]
        for number, peer in enumerate(peers):
            peer.sendto(b"hello", target(listener))
            await udp.until(lambda number=number: len(ends) == number + 1)
        assert listener.dropped == {"displaced": 1}
        ends[1].flow.pause()
        listener.pause()
        stranger = udp.peer()
        for _ in range(50):
            for peer in (peers[1], stranger):
                peer.sendto(bytes(8000), target(listener))
            await udp.settle()
        unread = ends[1].flow.read("_taps.dropped")
        assert unread == 50 - 256 * 1024 // 8064
        assert ends[2].flow.read("_taps.dropped") == 0
        assert listener.dropped == {"displaced": 1, "unread": unread, "paused": unread}
        # While the loop is busy with something else, the socket runs over.
        for _ in range(500):
            peers[2].sendto(bytes(1000), target(listener))
        in_kernel = listener.dropped["kernel"]
        await udp.until(lambda: len(ends[2].recorder.parts) == 501 - in_kernel)
        assert listener.dropped["kernel"] == in_kernel

    udp.run(main)


def test_the_log_tells_of_drops_once_in_a_while_and_in_the_end(udp, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, logger="taps_udp")
    monkeypatch.setattr(taps_udp.drops, "SOON", 0.01)

    async def main():
        ends = []
        listener = await udp.listen(
            lambda flow, _: ends.append(udp.adopt(flow)), transport=UDP(most_unanswered=1)
        )

        async def come(number):
            for _ in range(number):
                before = len(ends)
                udp.peer().sendto(b"hello", target(listener))
                await udp.until(lambda before=before: len(ends) == before + 1)

        await come(1)
        await udp.settle()
        assert not lines(caplog)
        await come(1)
        await udp.until(lambda: lines(caplog))
        where = str(listener.local_endpoint)
        assert lines(caplog) == [f"{where}: dropped for lack of room: 1 displaced"]
        # Not another one so soon, but none is forgotten.
        await come(3)
        await udp.settle()
        assert len(lines(caplog)) == 1
        await listener.close()
        ends[-1].flow.close()
        await ends[-1].has_closed()
        assert lines(caplog)[1:] == [f"{where}: dropped for lack of room: 3 displaced"]

    udp.run(main)


@pytest.mark.linux
def test_what_only_the_kernel_dropped_is_told_too(udp, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, logger="taps_udp")
    monkeypatch.setattr(taps_udp.drops, "SOON", 0.01)

    async def main():
        ends = []
        listener = await udp.listen(lambda flow, _: ends.append(udp.adopt(flow)))
        peer = udp.peer()
        for _ in range(1000):
            peer.sendto(bytes(1000), target(listener))
        await udp.until(lambda: lines(caplog))
        (line,) = lines(caplog)
        assert line.endswith(f"{listener.dropped['kernel']} kernel")

    udp.run(main)


@pytest.mark.linux
@pytest.mark.parametrize("read", [True, False], ids=["a program has read", "nobody has asked for"])
def test_what_the_kernel_dropped_is_in_the_log_in_the_end(udp, caplog, read):
    caplog.set_level(logging.WARNING, logger="taps_udp")

    async def main():
        listener = await udp.listen(lambda flow, _: udp.adopt(flow))
        peer = udp.peer()
        for _ in range(1000):
            peer.sendto(bytes(1000), target(listener))
        dropped = listener.dropped["kernel"] if read else None
        where = str(listener.local_endpoint)
        # Before the loop has read anything.
        await listener.close()
        (line,) = lines(caplog)
        assert line.startswith(f"{where}: dropped for lack of room: ")
        assert line.endswith(f"{dropped} kernel" if read else " kernel")

    udp.run(main)


def test_an_application_reads_it_on_connections_and_listeners(udp):
    async def main():
        common = {
            "transport": taps.TransportProperties.unreliable_datagram(),
            "security": taps.SecurityParameters.disabled(),
            "system": taps.System([UDP(most_unanswered=1)]),
        }
        here = taps.Preconnection(local="127.0.0.1:0", **common)
        async with here.listen() as listener:
            there = taps.Preconnection(remote=listener.remote_endpoint, **common)
            async with asyncio.timeout(30):
                for _ in range(2):
                    async with there.initiate() as connection:
                        await connection.send(b"hello")
                        assert connection.properties["_taps.dropped"] == 0
                        taken = await listener.accept()
                        assert taken.properties["_taps.dropped"] == 0
                assert listener.dropped == {"displaced": 1}
        assert listener.dropped == {"displaced": 1}
        taken.abort()

    udp.run(main)
