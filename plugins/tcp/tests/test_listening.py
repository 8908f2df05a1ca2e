from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket

import pytest

from taps_core.plugin import (
    CapacityProfile,
    EstablishmentError,
    LocalEndpoint,
    Preference,
    Reason,
)
from taps_tcp.listening import TCPListeningFlow


class Door:
    """What a Listener does with inbound flows, for tests."""

    def __init__(self, bench):
        self.bench = bench
        self.flows = []
        self.recorders = []

    def incoming(self, flow, admitted):
        assert admitted is None
        recorder = self.bench.Recorder()
        self.flows.append(flow)
        self.recorders.append(recorder)
        flow.start(recorder)

    async def end(self, *peers):
        for peer in peers:
            peer.close()
        for flow, recorder in zip(self.flows, self.recorders, strict=True):
            flow.close()
            await recorder.until(lambda r: r.ended)


def test_port_0_becomes_a_real_port_that_accepts(tcp, run):
    async def main():
        door = Door(tcp)
        listening = await tcp.listen(door.incoming)
        assert listening.local_endpoint.ip_address == tcp.address
        assert listening.local_endpoint.port > 0
        peer = await tcp.dial(listening.local_endpoint.port)
        await tcp.sendall(peer, b"first words")
        await tcp.until(lambda: door.flows)
        await door.recorders[0].until(lambda r: r.data == b"first words")
        flow = door.flows[0]
        here, there = peer.getsockname(), peer.getpeername()
        assert (flow.remote_endpoint.ip_address, flow.remote_endpoint.port) == here[:2]
        assert (flow.local_endpoint.ip_address, flow.local_endpoint.port) == there[:2]
        await door.end(peer)
        await listening.close()

    run(main)


def test_without_an_address_both_families_reach_the_one_port(ipv6_loopback, tcp4, run):
    async def main():
        door = Door(tcp4)
        listening = await tcp4.listen(door.incoming, LocalEndpoint(port=0))
        assert listening.local_endpoint.ip_address == "::"
        port = listening.local_endpoint.port
        peers = [await tcp4.dial(port, each) for each in ("127.0.0.1", ipv6_loopback)]
        await tcp4.until(lambda: len(door.flows) == 2)
        assert {flow.remote_endpoint.ip_address for flow in door.flows} == {
            "127.0.0.1",
            ipv6_loopback,
        }
        assert {flow.local_endpoint.ip_address for flow in door.flows} == {
            "127.0.0.1",
            ipv6_loopback,
        }
        await door.end(*peers)
        await listening.close()

    run(main)


def test_without_ipv6_the_wildcard_is_that_of_ipv4(tcp4, run, monkeypatch):
    real = socket.socket

    class WithoutIPv6(real):
        def __init__(self, family=-1, type=-1, proto=-1, fileno=None):  # noqa: A002  # socket's own names
            if family == socket.AF_INET6 and fileno is None:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, type, proto, fileno)

    async def main():
        door = Door(tcp4)
        monkeypatch.setattr(socket, "socket", WithoutIPv6)
        listening = await tcp4.listen(door.incoming, LocalEndpoint(port=0))
        monkeypatch.undo()
        assert listening.local_endpoint.ip_address == "0.0.0.0"
        peer = await tcp4.dial(listening.local_endpoint.port)
        await tcp4.until(lambda: door.flows)
        await door.end(peer)
        await listening.close()

    run(main)


def test_an_explicit_ipv6_wildcard_leaves_the_ipv4_port_to_others(ipv6_loopback, tcp4, run):
    async def main():
        door = Door(tcp4)
        for left in reversed(range(20)):
            six = await tcp4.listen(door.incoming, LocalEndpoint(ip_address="::", port=0))
            port = six.local_endpoint.port
            at = LocalEndpoint(ip_address="0.0.0.0", port=port)
            try:
                four = await tcp4.listen(door.incoming, at)
                break
            except EstablishmentError:
                # What was free for IPv6 may be taken for IPv4, by somebody else.
                await six.close()
                if not left:
                    raise
        peers = [await tcp4.dial(port, each) for each in ("127.0.0.1", ipv6_loopback)]
        await tcp4.until(lambda: len(door.flows) == 2)
        await door.end(*peers)
        await six.close()
        await four.close()

    run(main)


def test_a_peer_that_speaks_first_is_heard_by_a_late_start(tcp, run):
    async def main():
        flows = []
        listening = await tcp.listen(lambda flow, _: flows.append(flow))
        peer = await tcp.dial(listening.local_endpoint.port)
        await tcp.sendall(peer, b"EHLO")
        peer.shutdown(socket.SHUT_WR)
        await tcp.until(lambda: flows)
        await tcp.settle()
        recorder = tcp.Recorder()
        flows[0].start(recorder)
        await recorder.until(lambda r: r.names == ["received", "finished"])
        assert recorder.data == b"EHLO"
        await tcp.end(flows[0], recorder, peer)
        await listening.close()

    run(main)


def test_pause_leaves_connections_in_the_backlog_until_resume(tcp, run):
    async def main():
        door = Door(tcp)
        listening = await tcp.listen(door.incoming)
        listening.pause()
        listening.pause()
        peers = [await tcp.dial(listening.local_endpoint.port) for _ in range(5)]
        for number, peer in enumerate(peers):
            await tcp.sendall(peer, b"%d" % number)
        await tcp.settle()
        assert door.flows == []
        listening.resume()
        listening.resume()
        await tcp.until(lambda: len(door.flows) == 5)
        for number, recorder in enumerate(door.recorders):
            await recorder.until(lambda r: r.data)
            assert recorder.data == b"%d" % number
        await door.end(*peers)
        await listening.close()

    run(main)


def test_a_pause_from_inside_incoming_stops_after_that_flow(tcp4, run):
    async def main():
        flows = []

        def incoming(flow, _):
            flows.append(flow)
            listening.pause()

        listening = await tcp4.listen(incoming)
        peers = [await tcp4.dial(listening.local_endpoint.port) for _ in range(4)]
        for expected in range(1, 5):
            await tcp4.until(lambda least=expected: len(flows) >= least)
            await tcp4.settle()
            assert len(flows) == expected
            listening.resume()
            assert len(flows) == expected, "incoming was called from inside resume"
        for each in (*flows, *peers):
            each.close()
        await listening.close()

    run(main)


def test_close_frees_the_port_and_leaves_what_was_handed_out(tcp, run):
    async def main():
        door = Door(tcp)
        listening = await tcp.listen(door.incoming)
        port = listening.local_endpoint.port
        peer = await tcp.dial(port)
        await tcp.until(lambda: door.flows)
        await listening.close()
        await listening.close()
        listening.pause()
        listening.resume()
        assert listening.local_endpoint.port == port
        with socket.socket(tcp.family, socket.SOCK_STREAM) as successor:
            successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            successor.bind((tcp.address, port))
            successor.listen()
        await tcp.sendall(peer, b"still served")
        await door.recorders[0].until(lambda r: r.data == b"still served")
        await door.end(peer)

    run(main)


@pytest.mark.parametrize("turns", range(5))
def test_close_at_any_turn_leaves_no_connection_behind(tcp4, run, turns):
    async def main():
        flows = []
        listening = await tcp4.listen(lambda flow, _: flows.append(flow))
        peers = [await tcp4.dial(listening.local_endpoint.port) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await listening.close()
        handed_out = len(flows)
        await tcp4.settle()
        assert len(flows) == handed_out, "incoming was called after close"
        for each in (*flows, *peers):
            each.close()

    run(main)


def test_close_right_after_accepting_leaves_no_connection_behind(tcp4, run):
    async def main():
        flows = []
        listening = await tcp4.listen(lambda flow, _: flows.append(flow))
        peer = await tcp4.dial(listening.local_endpoint.port)
        listening._accept()
        await listening.close()
        assert await tcp4.recv(peer) == b""
        assert flows == []
        peer.close()

    run(main)


def test_what_waits_behind_a_pause_is_reset_by_close(tcp4, run):
    async def main():
        flows = []
        listening = await tcp4.listen(lambda flow, _: flows.append(flow))
        peer = await tcp4.dial(listening.local_endpoint.port)
        # Accepted by the next turn, finished after the pause.
        listening._accept()
        listening.pause()
        await tcp4.until(lambda: listening._waiting)
        await listening.close()
        with pytest.raises(ConnectionResetError):
            await tcp4.recv(peer)
        assert flows == []
        peer.close()

    run(main)


def test_a_failure_of_the_listener_above_drops_that_connection_and_is_reported(tcp4, run):
    async def main():
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reports.append(what))
        door = Door(tcp4)

        def incoming(flow, admitted):
            if not reports:
                raise ValueError("a bug above")
            door.incoming(flow, admitted)

        listening = await tcp4.listen(incoming)
        first = await tcp4.dial(listening.local_endpoint.port)
        with pytest.raises(ConnectionResetError):
            await tcp4.recv(first)
        first.close()
        gc.collect()
        await tcp4.until(lambda: reports)
        assert isinstance(reports[0]["exception"], ValueError)
        second = await tcp4.dial(listening.local_endpoint.port)
        await tcp4.until(lambda: door.flows)
        await door.end(second)
        await listening.close()

    run(main)


def test_a_port_in_use_is_named(tcp, run):
    async def main():
        with tcp.server() as server:
            port = server.getsockname()[1]
            local = LocalEndpoint(ip_address=tcp.address, port=port)
            with pytest.raises(EstablishmentError, match=rf":{port} is in use") as caught:
                await tcp.listen(lambda flow, _: None, local)
        assert caught.value.detail == "EADDRINUSE"

    run(main)


def test_an_address_of_another_machine_is_refused(tcp4, run):
    async def main():
        local = LocalEndpoint(ip_address="192.0.2.1", port=0)
        with pytest.raises(EstablishmentError, match="not an address of this machine"):
            await tcp4.listen(lambda flow, _: None, local)

    run(main)


def test_an_interface_that_does_not_exist_is_named(tcp4, run):
    async def main():
        local = LocalEndpoint(interface="nowhere0", port=0)
        with pytest.raises(EstablishmentError, match="nowhere0") as caught:
            await tcp4.listen(lambda flow, _: None, local)
        assert caught.value.reason is Reason.INVALID_CONFIGURATION

    run(main)


@pytest.mark.linux
def test_the_interface_asked_for_is_bound(tcp4, run):
    async def main():
        listening = await tcp4.listen(lambda flow, _: None, LocalEndpoint(interface="lo", port=0))
        device = listening.sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert device.rstrip(b"\0") == b"lo"
        assert listening.local_endpoint.interface == "lo"
        await listening.close()

    run(main)


@pytest.mark.linux
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("local", [None, LocalEndpoint(port=0)], ids=["literal", "wildcard"])
def test_accepted_connections_have_the_properties_of_the_listener(
    ipv6_loopback, tcp4, run, local, address
):
    async def main():
        door = Door(tcp4)
        listening = await tcp4.listen(
            door.incoming,
            local or LocalEndpoint(ip_address=address, port=0),
            connTimeout=12.0,
            keepAlive=Preference.PREFER,
            keepAliveTimeout=11.0,
            connCapacityProfile=CapacityProfile.CAPACITY_SEEKING,
            maxSendRate=8e9,
        )
        peer = await tcp4.dial(listening.local_endpoint.port, address)
        await tcp4.until(lambda: door.flows)
        flow = door.flows[0]
        assert flow.read("connTimeout") == 12.0
        assert flow.read("keepAlive") is True
        assert flow.read("keepAliveTimeout") == 11.0
        assert flow.read("connCapacityProfile") is CapacityProfile.CAPACITY_SEEKING
        assert flow.read("maxSendRate") == 8e9
        assert flow.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        if ":" not in address:  # also where the socket is an IPv6 one
            assert flow.sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 10 << 2
        await door.end(peer)
        await listening.close()

    run(main)


@pytest.mark.linux
def test_running_out_of_descriptors_rests_and_recovers(tcp4, run, caplog):
    async def main():
        door = Door(tcp4)
        listening = await tcp4.listen(door.incoming)
        listening.pause()
        peers = [await tcp4.dial(listening.local_endpoint.port) for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            with caplog.at_level(logging.WARNING, "taps_core"):
                listening.resume()
                await tcp4.until(lambda: caplog.records)
            assert "cannot accept connections" in caplog.text
            assert door.flows == []
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await tcp4.until(lambda: len(door.flows) == 3)
        await door.end(*peers)
        await listening.close()

    run(main)


@pytest.mark.linux
def test_running_out_of_descriptors_does_not_spin(tcp4, run, caplog, monkeypatch):
    monkeypatch.setattr(TCPListeningFlow, "rest", 3600.0)

    async def main():
        door = Door(tcp4)
        listening = await tcp4.listen(door.incoming)
        listening.pause()
        peer = await tcp4.dial(listening.local_endpoint.port)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            with caplog.at_level(logging.WARNING, "taps_core"):
                listening.resume()
                await tcp4.settle()
            assert len(caplog.records) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        listening.pause()
        listening.resume()
        await tcp4.until(lambda: door.flows)
        await door.end(peer)
        await listening.close()

    run(main)


def test_a_connection_that_failed_in_the_backlog_does_not_stop_the_others(tcp4, run):
    class Flaky:
        """The listening socket, with a failed connection at the head of its backlog."""

        def __init__(self, sock):
            self.sock = sock
            self.failures = 1

        def accept(self):
            if self.failures:
                self.failures -= 1
                raise ConnectionAbortedError(103, "Software caused connection abort")
            return self.sock.accept()

        def __getattr__(self, name):
            return getattr(self.sock, name)

    async def main():
        door = Door(tcp4)
        listening = await tcp4.listen(door.incoming)
        assert isinstance(listening, TCPListeningFlow)
        listening.sock = Flaky(listening.sock)
        peer = await tcp4.dial(listening.local_endpoint.port)
        await tcp4.until(lambda: door.flows)
        await door.end(peer)
        await listening.close()

    run(main)


@pytest.mark.linux
def test_2000_connections_at_once_are_all_served(tcp4, run):
    count = 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    async def client(listening, number):
        flow = await tcp4.connect(listening.local_endpoint.port)
        recorder = tcp4.Recorder()
        flow.start(recorder)
        flow.send(b"%06d" % number, None, True)
        flow.flush()
        await recorder.until(lambda r: len(r.data) == 6)
        flow.close()
        await recorder.until(lambda r: r.ended)
        assert recorder.error is None
        return int(recorder.data)

    async def main():
        done = []

        class Echo(tcp4.Recorder):
            def received(self, parts):
                super().received(parts)
                self.flow.send(parts[0][0], None, True)
                self.flow.flush()

            def finished(self):
                self.flow.close()

            def closed(self, error):
                super().closed(error)
                done.append(error)

        def incoming(flow, _):
            echo = Echo()
            echo.flow = flow
            flow.start(echo)

        listening = await tcp4.listen(incoming)
        answers = await asyncio.gather(*(client(listening, n) for n in range(count)))
        assert answers == list(range(count))
        await tcp4.until(lambda: len(done) == count)
        assert set(done) == {None}
        await listening.close()

    try:
        run(main)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("turns", range(1, 4))
def test_cancelling_close_loses_no_socket_that_was_just_accepted(tcp, run, turns):
    async def main():
        listening = await tcp.listen(lambda flow, admitted: flow.abort())
        # Without a turn of the loop, in which they would be accepted and adopted.
        address = (tcp.address, listening.local_endpoint.port)
        peers = [socket.create_connection(address) for _ in range(3)]
        closing = asyncio.ensure_future(listening.close())
        listening._accept()  # their tasks begin later than it
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await asyncio.sleep(0)
        for each in peers:
            each.close()

    run(main)
