"""Trouble on the path, on a network where the test decides what becomes of segments."""

from __future__ import annotations

import asyncio
import errno
import math

import pytest

import taps_core as taps
import taps_tcp.watching
from taps_core.plugin import Preference, Reason, SoftError
from taps_core.testing import run as run_strictly

# Slow: most of it is the kernel's retransmission timer, the same under every Python.
pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.usefixtures("kernel_network"),
]

WANTED = {"softErrorNotify": Preference.PREFER}


def towards(peer, what):
    """A rule for the segments that go to this peer."""
    return f"tcp dport {peer.getsockname()[1]} {what}"


async def watched(tcp, **more):
    flow, recorder, peer = await tcp.started(**WANTED, **more)
    recorder.soft_errors = []
    return flow, recorder, peer


def send(flow, data):
    flow.send(data, None, True)
    flow.flush()


@pytest.mark.parametrize(
    ("tcp", "reject", "code"),
    [
        ("127.0.0.1", "icmp host-unreachable", errno.EHOSTUNREACH),
        ("127.0.0.1", "icmp net-unreachable", errno.ENETUNREACH),
        ("127.0.0.1", "icmp admin-prohibited", errno.EHOSTUNREACH),
        ("::1", "icmpv6 no-route", errno.ENETUNREACH),
        ("::1", "icmpv6 addr-unreachable", errno.EHOSTUNREACH),
    ],
    indirect=["tcp"],
)
def test_an_icmp_error_is_a_soft_error_and_the_connection_lives_on(
    kernel_network, run, tcp, reject, code
):
    async def main():
        flow, recorder, peer = await watched(tcp)
        kernel_network.filter(towards(peer, f"reject with {reject}"))
        send(flow, b"can you hear me?")
        await recorder.until(lambda r: r.soft_errors)
        (event, *_) = recorder.soft_errors
        assert isinstance(event, SoftError)
        assert event.error.errno == code
        kernel_network.filter()
        assert await tcp.recv(peer) == b"can you hear me?"
        await tcp.sendall(peer, b"now I can")
        await recorder.until(lambda r: r.data == b"now I can")
        await tcp.end(flow, recorder, peer)
        assert recorder.error is None

    run(main)


def test_every_further_icmp_error_is_told_and_none_without_one(kernel_network, run, tcp4):
    async def main():
        flow, recorder, peer = await watched(tcp4)
        flow.apply("_taps.excessiveRetransmissions", math.inf)
        kernel_network.filter(towards(peer, "reject with icmp host-unreachable"))
        send(flow, b"1")
        await recorder.until(lambda r: len(r.soft_errors) == 3)
        # Segments that are dropped in silence go on being sent again, and nothing is told.
        kernel_network.filter(towards(peer, "drop"))
        await tcp4.settle()
        told = len(recorder.soft_errors)
        before = flow.read("_taps.retransmissions")
        await tcp4.until(lambda: flow.read("_taps.retransmissions") >= before + 2)
        assert len(recorder.soft_errors) <= told + 1  # one may have waited to be seen
        kernel_network.filter()
        assert await tcp4.recv(peer) == b"1"
        await tcp4.end(flow, recorder, peer)

    run(main)


def test_those_who_do_not_want_to_know_are_not_told(kernel_network, run, tcp4):
    async def main():
        for wanted in (Preference.NO_PREFERENCE, Preference.AVOID):
            # Recorder.notified fails.
            flow, recorder, peer = await tcp4.started(softErrorNotify=wanted)
            kernel_network.filter(towards(peer, "reject with icmp host-unreachable"))
            send(flow, b"can you hear me?")
            await tcp4.until(lambda flow=flow: flow.read("_taps.retransmissions") >= 4)
            kernel_network.filter()
            assert await tcp4.recv(peer) == b"can you hear me?"
            await tcp4.end(flow, recorder, peer)
            assert recorder.names == ["closed"]

    run(main)


def test_an_accepted_connection_tells_if_its_listener_wanted_it(kernel_network, run, tcp4):
    async def main():
        taken = []
        listener = await tcp4.listen(lambda flow, _: taken.append(flow), **WANTED)
        peer = await tcp4.dial(listener.local_endpoint.port)
        await tcp4.until(lambda: taken)
        (flow,) = taken
        recorder = tcp4.Recorder()
        recorder.soft_errors = []
        flow.start(recorder)
        kernel_network.filter(towards(peer, "reject with icmp host-unreachable"))
        flow.write_through(b"welcome")
        await recorder.until(lambda r: r.soft_errors)
        kernel_network.filter()
        assert await tcp4.recv(peer) == b"welcome"
        await listener.close()
        await tcp4.end(flow, recorder, peer)

    run(main)


def test_excessive_retransmissions_are_told_once_for_each_time_of_trouble(
    kernel_network, run, tcp4
):
    async def main():
        flow, recorder, peer = await watched(tcp4, _taps__excessiveRetransmissions=1)
        for turn in (1, 2):
            kernel_network.filter(towards(peer, "drop"))
            send(flow, b"are you there?")
            await recorder.until(lambda r, turn=turn: len(r.soft_errors) == turn)
            event = recorder.soft_errors[-1]
            assert "no acknowledgement" in event.error
            assert event.info["retransmissions"] >= 1
            before = flow.read("_taps.retransmissions")
            await tcp4.until(lambda before=before: flow.read("_taps.retransmissions") > before)
            kernel_network.filter()
            assert await tcp4.recv(peer) == b"are you there?"
            await tcp4.until(lambda: flow._watch is None)
            assert len(recorder.soft_errors) == turn
        await tcp4.end(flow, recorder, peer)
        assert recorder.error is None

    run(main)


def test_the_threshold_can_be_changed_and_disabled(kernel_network, run, tcp4):
    async def main():
        flow, recorder, peer = await watched(tcp4, _taps__excessiveRetransmissions=1)
        assert flow.apply("_taps.excessiveRetransmissions", math.inf) is True
        kernel_network.filter(towards(peer, "drop"))
        send(flow, b"are you there?")
        await tcp4.until(lambda: flow.read("_taps.retransmissions") >= 4)
        assert not recorder.soft_errors
        flow.apply("_taps.excessiveRetransmissions", 3)
        await recorder.until(lambda r: r.soft_errors)
        assert recorder.soft_errors[0].info["retransmissions"] >= 3
        kernel_network.filter()
        await tcp4.end(flow, recorder, peer)

    run(main)


def test_of_a_healthy_connection_nothing_is_told_even_if_its_peer_is_slow(run, tcp4):
    async def main():
        flow, recorder, peer = await watched(tcp4, _taps__excessiveRetransmissions=1)
        for number in range(100):
            flow.write_through(b"%d" % number)
            await tcp4.sendall(peer, await tcp4.recv(peer))
        await tcp4.until(lambda: flow._watch is None)
        # Far more than the peer takes: its window closes, and is probed.
        data = bytes(16 * 1024 * 1024)
        send(flow, data)
        looks = set()
        while len(looks) < 8:
            looks.add(flow._watch)
            await tcp4.settle()
        assert not flow.find(taps_tcp.TCPInfo).unacknowledged
        received = 0
        while received < len(data):
            received += len(await tcp4.recv(peer, 1024 * 1024))
        await tcp4.until(lambda: flow._watch is None)
        assert not recorder.soft_errors
        await tcp4.end(flow, recorder, peer)

    run(main)


@pytest.mark.parametrize("late", [False, True])
def test_an_error_that_ends_the_connection_is_not_taken_for_a_soft_one(
    run, tcp4, monkeypatch, late
):
    async def main():
        flow, recorder, peer = await watched(tcp4)
        flow.write_through(b"hello")
        assert await tcp4.recv(peer) == b"hello"
        states = [taps_tcp.watching.tcp_info(flow.sock)] if late else []
        tcp4.reset(peer)

        def before_the_reset(sock):
            return states.pop() if states else taps_tcp.info.tcp_info(sock)

        monkeypatch.setattr(taps_tcp.watching, "tcp_info", before_the_reset)
        flow._watch.cancel()
        flow._look()  # before the loop has heard of it
        await recorder.until(lambda r: r.ended)
        assert recorder.error.reason is Reason.CONNECTION_ABORTED
        assert recorder.error.errno == errno.ECONNRESET
        assert not recorder.soft_errors

    run(main)


def test_a_connection_that_is_given_up_has_told_why_before(kernel_network, run, tcp4):
    async def main():
        flow, recorder, peer = await watched(tcp4, connTimeout=1.0)
        kernel_network.filter(towards(peer, "reject with icmp host-unreachable"))
        send(flow, b"can you hear me?")
        await recorder.until(lambda r: r.ended)
        assert recorder.soft_errors
        assert recorder.error.reason is Reason.TIMEOUT
        kernel_network.filter()
        peer.close()

    run(main)


def test_an_application_sees_both_as_events(kernel_network):
    async def greet(connection):
        await connection.receive(max_length=5)
        await connection.send(b"hello")
        await connection.receive(max_length=1)

    async def main():
        plain = taps.SecurityParameters.disabled()
        wanted = taps.TransportProperties().require("softErrorNotify")
        wanted.set("_taps.excessiveRetransmissions", 1)
        here = taps.Preconnection(local="127.0.0.1:0", security=plain)
        async with here.listen(greet, grace=0) as listener:
            there = taps.Preconnection(
                remote=listener.remote_endpoint, security=plain, transport=wanted
            )
            async with asyncio.timeout(30), there.initiate() as connection:
                assert connection.properties["softErrorNotify"] is True
                assert connection.properties["_taps.excessiveRetransmissions"] == 1
                events = connection.events()
                port = listener.local_endpoints[0].port
                kernel_network.filter(f"tcp dport {port} reject with icmp host-unreachable")
                await connection.send(b"hello")
                icmp = retransmissions = False
                async for event in events:
                    if isinstance(event, taps.SoftError):
                        retransmissions |= "retransmissions" in event.info
                        icmp |= isinstance(event.error, OSError)
                    if icmp and retransmissions:
                        break
                kernel_network.filter()
                assert (await connection.receive(max_length=5)).data == b"hello"

    run_strictly(main)
