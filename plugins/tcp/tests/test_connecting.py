from __future__ import annotations

import asyncio
import errno
import socket

import pytest

import taps_tcp.connecting
from taps_core.plugin import (
    EstablishmentError,
    EstablishmentTimeout,
    LocalEndpoint,
    Reason,
    RemoteEndpoint,
)


@pytest.mark.requirement("R-9622-6-02", "R-9623-4.7-01")
def test_connects_and_carries_bytes_both_ways(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        flow.send(b"ping", None, True)
        flow.flush()
        assert await tcp.recv(peer) == b"ping"
        await tcp.sendall(peer, b"pong")
        await recorder.until(lambda r: r.data == b"pong")
        await tcp.end(flow, recorder, peer)
        assert recorder.error is None

    run(main)


def test_endpoints_are_those_that_the_peer_sees_and_stay_after_the_end(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        here, there = peer.getpeername()[:2], peer.getsockname()[:2]
        await tcp.end(flow, recorder, peer)
        assert (flow.local_endpoint.ip_address, flow.local_endpoint.port) == here
        assert (flow.remote_endpoint.ip_address, flow.remote_endpoint.port) == there

    run(main)


def test_a_refused_connection_says_by_whom(tcp, run):
    async def main():
        with tcp.server() as server:
            port = server.getsockname()[1]
        with pytest.raises(EstablishmentError, match=r"connection refused by .*:") as caught:
            await tcp.connect(port)
        assert caught.value.detail == "ECONNREFUSED"
        assert caught.value.errno == errno.ECONNREFUSED
        assert caught.value.transient
        assert str(port) in str(caught.value)

    run(main)


async def black_hole(tcp):
    """A listening socket whose backlog is full: further SYNs are dropped."""
    server = tcp.server(backlog=0)
    fillers = []
    for _ in range(4):
        filler = socket.socket(tcp.family, socket.SOCK_STREAM)
        filler.setblocking(False)
        filler.connect_ex(server.getsockname())
        fillers.append(filler)
    return server, fillers


@pytest.mark.linux
def test_a_cancelled_connect_leaves_nothing(tcp, run):
    async def main():
        server, fillers = await black_hole(tcp)
        attempt = asyncio.create_task(tcp.connect(server.getsockname()[1]))
        await tcp.settle()
        assert not attempt.done()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        for each in (server, *fillers):
            each.close()

    run(main)


@pytest.mark.linux
@pytest.mark.parametrize("outcome", ["connected", "cancelled"])
def test_no_writer_stays_registered_after_a_handshake(tcp4, run, monkeypatch, outcome):
    monkeypatch.setattr(taps_tcp.connecting, "_is_connected", lambda sock: False)

    async def main():
        loop = asyncio.get_running_loop()
        server, others = tcp4.server(), []
        if outcome == "cancelled":
            server.close()
            server, others = await black_hole(tcp4)
        with socket.socket() as sock:
            sock.setblocking(False)
            address = server.getsockname()
            handshake = asyncio.create_task(taps_tcp.connecting.connect_socket(loop, sock, address))
            await tcp4.settle()
            if outcome == "cancelled":
                handshake.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await handshake
            else:
                await handshake
                assert sock.getpeername() == address
            assert not loop.remove_writer(sock.fileno())
        for each in (server, *others):
            each.close()

    run(main)


@pytest.mark.parametrize("turns", range(6))
def test_cancelling_at_any_turn_of_the_loop_leaves_nothing(tcp4, run, turns):
    async def main():
        with tcp4.server() as server:
            attempt = asyncio.create_task(tcp4.connect(server.getsockname()[1]))
            for _ in range(turns):
                await asyncio.sleep(0)
            attempt.cancel()
            try:
                flow = await attempt
            except asyncio.CancelledError:
                return
            flow.abort()

    run(main)


@pytest.mark.linux
def test_a_peer_that_never_answers_is_a_timeout_after_conn_timeout(tcp4, run):
    async def main():
        server, fillers = await black_hole(tcp4)
        with pytest.raises(EstablishmentTimeout, match="no answer from") as caught:
            await tcp4.connect(server.getsockname()[1], connTimeout=0.5)
        assert caught.value.reason is Reason.TIMEOUT
        assert caught.value.transient
        assert isinstance(caught.value, TimeoutError)
        for each in (server, *fillers):
            each.close()

    run(main)


@pytest.mark.linux
def test_the_local_address_and_port_asked_for_are_used(tcp4, run):
    async def main():
        with tcp4.server() as server, socket.socket() as finder:
            finder.bind(("127.0.0.2", 0))
            port = finder.getsockname()[1]
            finder.close()
            local = LocalEndpoint(ip_address="127.0.0.2", port=port)
            flow = await tcp4.connect(server.getsockname()[1], local=local)
            peer = await tcp4.accept(server)
            assert peer.getpeername() == ("127.0.0.2", port)
            flow.abort()
            peer.close()

    run(main)


def test_a_local_port_in_use_is_named(tcp, run):
    async def main():
        with tcp.server() as server, tcp.server() as other:
            port = other.getsockname()[1]
            local = LocalEndpoint(ip_address=tcp.address, port=port)
            with pytest.raises(EstablishmentError, match=rf":{port} is in use") as caught:
                await tcp.connect(server.getsockname()[1], local=local)
        assert caught.value.detail == "EADDRINUSE"

    run(main)


def test_a_local_address_of_another_machine_is_refused(tcp4, run):
    async def main():
        local = LocalEndpoint(ip_address="192.0.2.1")
        with pytest.raises(EstablishmentError, match="not an address of this machine") as caught:
            await tcp4.connect(9, local=local)
        assert not caught.value.transient

    run(main)


def test_a_local_address_of_the_other_family_is_refused(tcp, run):
    async def main():
        local = LocalEndpoint(ip_address="127.0.0.1" if ":" in tcp.address else "::1")
        with pytest.raises(EstablishmentError, match="address family") as caught:
            await tcp.connect(9, local=local)
        assert caught.value.reason is Reason.INVALID_CONFIGURATION

    run(main)


@pytest.mark.requirement("G-9622-6.1.2-01")
@pytest.mark.linux
def test_the_interface_asked_for_is_bound(tcp, run):
    async def main():
        flow, peer = await tcp.pair(local=LocalEndpoint(interface="lo"))
        device = flow.sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert device.rstrip(b"\0") == b"lo"
        flow.abort()
        peer.close()

    run(main)


def test_an_interface_that_does_not_exist_is_named(tcp, run):
    async def main():
        local = LocalEndpoint(interface="nowhere0")
        with pytest.raises(EstablishmentError, match="no network interface 'nowhere0'") as caught:
            await tcp.connect(9, local=local)
        assert caught.value.reason is Reason.INVALID_CONFIGURATION

    run(main)


def test_binding_to_an_interface_says_so_where_the_platform_cannot(tcp4, run, monkeypatch):
    monkeypatch.delattr(socket, "SO_BINDTODEVICE", raising=False)
    name = socket.if_nameindex()[0][1]

    async def main():
        with pytest.raises(EstablishmentError, match="not on this platform"):
            await tcp4.connect(9, local=LocalEndpoint(interface=name))

    run(main)


@pytest.mark.linux
def test_a_zone_reaches_a_link_local_address(ipv6_loopback, tcp4, run):
    # Loopback has no link-local address of its own: the scope id is what counts.
    async def main():
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as server:
            server.setblocking(False)
            server.bind((ipv6_loopback, 0))
            server.listen()
            remote = RemoteEndpoint(
                ip_address=ipv6_loopback, port=server.getsockname()[1], interface="lo"
            )
            request = tcp4.request(1)
            request = type(request)(
                remote=remote, properties=request.properties, security=request.security
            )
            flow = await tcp4.transport.connect(request)
            peer = await tcp4.accept(server)
            flow.abort()
            peer.close()

    run(main)


@pytest.mark.parametrize(
    "remote", [RemoteEndpoint(hostname="example.net", port=1), RemoteEndpoint(ip_address="::1")]
)
def test_an_endpoint_without_address_or_port_is_refused_before_any_socket(tcp4, run, remote):
    async def main():
        request = tcp4.request(1)
        request = type(request)(
            remote=remote, properties=request.properties, security=request.security
        )
        with pytest.raises(EstablishmentError) as caught:
            await tcp4.transport.connect(request)
        assert caught.value.reason is Reason.INVALID_CONFIGURATION

    run(main)
