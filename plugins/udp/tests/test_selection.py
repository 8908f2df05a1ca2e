"""Who is given UDP, who is not, and what it is like under a Connection."""

from __future__ import annotations

import asyncio
import errno

import pytest

import taps_core as taps
import taps_tcp
import taps_udp
from taps_core.testing import run

PLAIN = taps.SecurityParameters.disabled()
LITE = taps_udp.UDPLite().availability().available
needs_lite = pytest.mark.skipif(not LITE, reason="the kernel has no UDP-Lite")
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def system():
    return taps.System(plugins=[taps_tcp, taps_udp])


def select(properties=None, role="initiate"):
    return taps.Preconnection(
        local="127.0.0.1:0" if role == "listen" else None,
        remote="127.0.0.1:9" if role == "initiate" else None,
        transport=properties,
        security=PLAIN,
        system=system(),
    ).select(role)


def names(selection):
    return [each.stack.name for each in selection]


@pytest.mark.parametrize("role", ["initiate", "listen"])
def test_datagrams_are_udp(role):
    selection = select(taps.TransportProperties.unreliable_datagram(), role)
    assert next(iter(selection)).stack.name == "UDP"


def test_what_few_peers_speak_goes_behind_udp_and_is_not_listened_on():
    datagrams = taps.TransportProperties.unreliable_datagram()
    if LITE:
        assert names(select(datagrams)) == ["UDP", "UDP-Lite"]

    async def main():
        there = taps.Preconnection(
            local="127.0.0.1:0", transport=datagrams, security=PLAIN, system=system()
        )
        async with there.listen() as listener:
            assert [attempt.what.split()[0] for attempt in listener.report] == ["UDP"]

    run(main)


@needs_lite
@pytest.mark.parametrize("name", ["fullChecksumSend", "fullChecksumRecv"])
def test_whoever_does_not_want_full_checksums_is_given_udp_lite(name):
    avoiding = taps.TransportProperties.unreliable_datagram().avoid(name)
    assert names(select(avoiding)) == ["UDP-Lite", "UDP"]
    prohibiting = taps.TransportProperties.unreliable_datagram().prohibit(name)
    assert names(select(prohibiting)) == ["UDP-Lite"]


def test_where_the_kernel_has_no_udp_lite_it_says_so(monkeypatch):
    def refuse(family, protocol):
        raise OSError(errno.EPROTONOSUPPORT, "not supported")

    monkeypatch.setattr("taps_udp.transport.open_socket", refuse)
    rejected = select(taps.TransportProperties.unreliable_datagram()).rejected
    (why,) = [str(each.reasons[0]) for each in rejected if each.stack.name == "UDP-Lite"]
    assert why == "UDP-Lite cannot run here: the kernel has no UDP-Lite (use udp)"


def test_udp_goes_before_tcp_where_reliability_is_only_avoided():
    properties = taps.TransportProperties(
        reliability=taps.Preference.AVOID,
        preserve_order=taps.Preference.AVOID,
        congestion_control=taps.Preference.NO_PREFERENCE,
        safely_replayable=True,
    )
    assert [name for name in names(select(properties)) if name != "UDP-Lite"] == ["UDP", "TCP"]


@pytest.mark.parametrize("role", ["initiate", "listen"])
def test_the_defaults_never_lead_to_udp(role):
    assert names(select(role=role)) == ["TCP"]


def test_without_safely_replayable_it_is_refused_with_the_reason():
    properties = taps.TransportProperties.unreliable_datagram()
    properties.set("safelyReplayable", False)
    rejected = str(select(properties))
    assert "UDP may deliver a Message twice, so safelyReplayable must be set" in " ".join(
        rejected.split()
    )


@LOOPS
def test_messages_go_both_ways_between_connections(loop):
    async def echo(connection):
        async for message in connection:
            await connection.send(message.data)

    async def main():
        common = {
            "transport": taps.TransportProperties.unreliable_datagram(),
            "security": PLAIN,
            "system": system(),
        }
        async with taps.Preconnection(local="localhost:0", **common).listen(
            echo, grace=0
        ) as listener:
            there = taps.Preconnection(remote=listener.remote_endpoint, **common)
            async with asyncio.timeout(30), there.initiate() as connection:
                assert str(connection.stack) == "UDP"
                for data in (b"hello", b"", bytes(1000)):
                    await connection.send(data)
                    message = await connection.receive()
                    assert message.data == data
                    assert message.end_of_message
                with connection.batch():
                    for number in range(100):
                        _ = connection.send(b"%d" % number)
                got = {(await connection.receive()).data for _ in range(100)}
                assert got == {b"%d" % number for number in range(100)}
                with pytest.raises(taps.SendError) as refusal:
                    await connection.send(bytes(70000))
                assert refusal.value.reason is taps.Reason.MESSAGE_TOO_LARGE
                with pytest.raises(taps.SendError, match="must be safelyReplayable"):
                    await connection.send(b"once", safely_replayable=False)
                assert connection.properties.effect("msgChecksumLen")
                assert not connection.properties.effect("msgCapacityProfile")

    run(main, loop=loop)


@LOOPS
def test_a_soft_error_is_an_event_and_the_connection_lives_on(loop):
    class Peer(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            self.transport.sendto(data, address)

    async def main():
        running = asyncio.get_running_loop()
        peer, _ = await running.create_datagram_endpoint(Peer, local_addr=("127.0.0.1", 0))
        place = peer.get_extra_info("sockname")
        peer.close()
        await asyncio.sleep(0.01)
        properties = taps.TransportProperties.unreliable_datagram()
        properties.prefer("softErrorNotify")
        there = taps.Preconnection(
            remote="{}:{}".format(*place),
            transport=properties,
            security=PLAIN,
            system=system(),
        )
        async with asyncio.timeout(30), there.initiate() as connection:
            told = asyncio.Event()
            connection.on(taps.SoftError, lambda event: told.set())
            await connection.send(b"anybody there?")
            await told.wait()
            peer, _ = await running.create_datagram_endpoint(Peer, local_addr=place)
            await connection.send(b"now?")
            assert (await connection.receive()).data == b"now?"
            peer.close()

    run(main, loop=loop)
