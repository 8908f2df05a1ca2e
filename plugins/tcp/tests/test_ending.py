from __future__ import annotations

import asyncio
import errno
import socket
import sys

import pytest

from taps_core.plugin import ConnectionError, Reason

MEGABYTE = b"0123456789abcdef" * 65536


def small_window(peer):
    """Accept little, so that most of what is sent stays unacknowledged."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


@pytest.mark.requirement("R-9623-10.1-02", "R-9623-10.1-03")
def test_half_close_of_this_end_leaves_the_other_direction_open(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        flow.send(MEGABYTE, None, True)
        flow.finish()
        flow.finish()
        assert await tcp.recv_all(peer) == MEGABYTE
        await tcp.sendall(peer, b"and still")
        await recorder.until(lambda r: r.data == b"and still")
        peer.shutdown(socket.SHUT_WR)
        await recorder.until(lambda r: r.names == ["received", "finished"])
        await tcp.settle()
        assert not recorder.ended
        flow.close()
        await recorder.until(lambda r: r.ended)
        assert recorder.error is None
        peer.close()

    run(main)


@pytest.mark.requirement("R-9623-10.1-03")
def test_half_close_of_the_peer_leaves_this_direction_open(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        await tcp.sendall(peer, b"question")
        peer.shutdown(socket.SHUT_WR)
        await recorder.until(lambda r: r.names == ["received", "finished"])
        flow.pause()
        flow.resume()
        flow.send(MEGABYTE, None, True)
        flow.flush()
        flow.close()
        assert await tcp.recv_all(peer) == MEGABYTE
        await recorder.until(lambda r: r.ended)
        assert recorder.names == ["received", "finished", "closed"]
        assert recorder.error is None
        peer.close()

    run(main)


@pytest.mark.requirement("R-9623-10.1-04")
def test_close_sends_a_fin_and_waits_for_that_of_the_peer(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        flow.send(b"bye", None, True)
        flow.close()
        flow.close()
        assert await tcp.recv_all(peer) == b"bye"
        await tcp.settle()
        assert not recorder.ended
        peer.close()
        await recorder.until(lambda r: r.ended)
        assert recorder.names == ["closed"]
        assert recorder.error is None

    run(main)


@pytest.mark.parametrize("how", ["finish", "close"])
@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_the_fin_comes_after_what_the_kernel_could_not_take_yet(tcp, run, size, how):
    # Below and above the mark where the transport calls its buffer full.
    async def main():
        with tcp.server() as server:
            small_window(server)
            flow = await tcp.connect(server.getsockname()[1])
            peer = await tcp.accept(server)
        recorder = tcp.Recorder()
        flow.start(recorder)
        flow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        flow.send(MEGABYTE[:size], None, True)
        flow.flush()
        assert flow._transport.get_write_buffer_size() > 0
        getattr(flow, how)()
        assert await tcp.recv_all(peer) == MEGABYTE[:size]
        await tcp.end(flow, recorder, peer)
        assert recorder.names == ["closed"]
        assert recorder.error is None

    run(main)


def test_closed_waits_for_a_peer_that_reads_late(tcp, run):
    async def main():
        with tcp.server() as server:
            small_window(server)
            flow = await tcp.connect(server.getsockname()[1])
            peer = await tcp.accept(server)
        recorder = tcp.Recorder()
        flow.start(recorder)
        # Its FIN comes first, so that only acknowledgements are missing.
        peer.shutdown(socket.SHUT_WR)
        await recorder.until(lambda r: r.names == ["finished"])
        flow.send(MEGABYTE, None, True)
        flow.close()
        await tcp.settle()
        assert not recorder.ended
        assert flow.read("_taps.undelivered") > 0
        assert await tcp.recv_all(peer) == MEGABYTE
        await recorder.until(lambda r: r.ended)
        assert recorder.error is None
        peer.close()

    run(main)


def test_closed_does_not_come_while_a_peer_never_reads(tcp, run):
    async def main():
        with tcp.server() as server:
            small_window(server)
            flow = await tcp.connect(server.getsockname()[1])
            peer = await tcp.accept(server)
        recorder = tcp.Recorder()
        flow.start(recorder)
        flow.send(MEGABYTE * 8, None, True)
        peer.shutdown(socket.SHUT_WR)
        flow.close()
        await tcp.settle()
        assert "closed" not in recorder.names
        flow.abort()
        assert "closed" not in recorder.names
        await recorder.until(lambda r: r.ended)
        assert recorder.error is None
        peer.close()

    run(main)


def test_data_of_the_peer_after_close_neither_comes_up_nor_destroys_our_tail(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        flow.pause()
        sender = asyncio.create_task(tcp.sendall(peer, MEGABYTE * 4))
        await tcp.settle()
        flow.send(MEGABYTE, None, True)
        flow.close()
        await sender
        assert await tcp.recv_all(peer) == MEGABYTE
        peer.close()
        await recorder.until(lambda r: r.ended)
        assert recorder.names == ["closed"]
        assert recorder.error is None

    run(main)


def test_a_reset_ends_the_flow_with_its_reason(tcp, run):
    async def main():
        _, recorder, peer = await tcp.started()
        host, port = peer.getsockname()[:2]
        tcp.reset(peer)
        await recorder.until(lambda r: r.ended)
        assert isinstance(recorder.error, ConnectionError)
        assert recorder.error.reason is Reason.CONNECTION_ABORTED
        assert recorder.error.detail == "ECONNRESET"
        assert host in str(recorder.error)
        assert str(port) in str(recorder.error)
        assert "reset" in str(recorder.error)

    run(main)


@pytest.mark.linux
def test_a_reset_after_everything_was_acknowledged_is_an_orderly_end(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        flow.send(b"the tail", None, True)
        flow.close()
        assert await tcp.recv_all(peer) == b"the tail"
        tcp.reset(peer)
        await recorder.until(lambda r: r.ended)
        assert recorder.error is None

    run(main)


@pytest.mark.parametrize("size", [1, 16])
def test_a_reset_with_bytes_outstanding_is_an_error_even_while_closing(tcp, run, size):
    async def main():
        with tcp.server() as server:
            small_window(server)
            flow = await tcp.connect(server.getsockname()[1])
            peer = await tcp.accept(server)
        recorder = tcp.Recorder()
        flow.start(recorder)
        flow.send(MEGABYTE * size, None, True)  # in the kernel, or beyond it
        flow.close()
        await tcp.settle()
        tcp.reset(peer)
        await recorder.until(lambda r: r.ended)
        assert recorder.error.reason is Reason.CONNECTION_ABORTED

    run(main)


@pytest.mark.linux
def test_a_reset_that_follows_the_peers_fin_is_noticed_while_closing(tcp, run):
    async def main():
        with tcp.server() as server:
            small_window(server)
            flow = await tcp.connect(server.getsockname()[1])
            peer = await tcp.accept(server)
        recorder = tcp.Recorder()
        flow.start(recorder)
        peer.shutdown(socket.SHUT_WR)
        await recorder.until(lambda r: r.names == ["finished"])
        flow.send(MEGABYTE[: 256 * 1024], None, True)
        flow.close()
        await tcp.settle()
        tcp.reset(peer)
        await recorder.until(lambda r: r.ended)
        assert recorder.error.reason is Reason.CONNECTION_ABORTED

    run(main)


@pytest.mark.linux
def test_a_peer_that_stops_acknowledging_is_a_timeout_after_conn_timeout(tcp4, run):
    async def main():
        with tcp4.server() as server:
            small_window(server)
            flow = await tcp4.connect(server.getsockname()[1], connTimeout=0.5)
            peer = await tcp4.accept(server)
        recorder = tcp4.Recorder()
        flow.start(recorder)
        flow.send(MEGABYTE * 8, None, True)  # never read: the window stays closed
        flow.flush()
        await recorder.until(lambda r: r.ended)
        assert recorder.error.reason is Reason.TIMEOUT
        assert "no acknowledgement" in str(recorder.error)
        peer.close()

    run(main)


@pytest.mark.requirement("R-9623-10.1-05")
@pytest.mark.parametrize("before", ["nothing", "finish", "close"])
def test_abort_sends_a_reset_and_closed_comes_once_and_later(tcp, run, before):
    async def main():
        flow, recorder, peer = await tcp.started()
        recorder.downward = True
        if before == "finish":
            flow.finish()
        elif before == "close":
            flow.close()
        else:
            flow.send(b"dropped", None, True)
        flow.abort()
        flow.abort()
        flow.close()
        recorder.downward = False
        await recorder.until(lambda r: r.ended)
        await tcp.settle()
        assert recorder.names == ["closed"]
        assert recorder.error is None
        # After a FIN the peer's error is EPIPE, and only asking shows it.
        fatal = peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert fatal in (errno.ECONNRESET, errno.EPIPE)
        peer.close()

    run(main)


def test_data_that_arrives_after_abort_does_not_come_up(tcp4, run):
    async def main():
        flow, recorder, peer = await tcp4.started()
        await tcp4.sendall(peer, b"on its way")
        flow.abort()
        await recorder.until(lambda r: r.ended)
        assert recorder.names == ["closed"]
        peer.close()

    run(main)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_flow_that_was_never_started_is_just_released(tcp, run, how):
    async def main():
        flow, peer = await tcp.pair()
        await tcp.settle()
        getattr(flow, how)()
        getattr(flow, how)()
        if how == "close":
            assert await tcp.recv_all(peer) == b""
        else:
            with pytest.raises(ConnectionResetError):
                await tcp.recv(peer)
        peer.close()

    run(main)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_flow_that_broke_before_start_still_closes_once(tcp4, run, how):
    async def main():
        flow, peer = await tcp4.pair()
        tcp4.reset(peer)
        await tcp4.settle()
        recorder = tcp4.Recorder()
        flow.start(recorder)
        getattr(flow, how)()
        await recorder.until(lambda r: r.ended)
        await tcp4.settle()
        assert recorder.names == ["closed"]

    run(main)


def test_closing_from_inside_a_delivery_comes_up_later(tcp4, run):
    async def main():
        flow, recorder, peer = await tcp4.started()
        received = recorder.received

        def and_close(parts):
            received(parts)
            recorder.downward = True
            flow.close()
            recorder.downward = False

        recorder.received = and_close
        await tcp4.sendall(peer, b"x")
        peer.close()
        await recorder.until(lambda r: r.ended)
        assert recorder.names == ["received", "closed"]
        assert recorder.error is None

    run(main)


def test_both_ends_may_close_at_once(tcp, run):
    async def main():
        flows = []
        listening = await tcp.listen(lambda flow, _: flows.append(flow))
        near = await tcp.connect(listening.local_endpoint.port)
        await tcp.until(lambda: flows)
        pair = [(near, tcp.Recorder()), (flows[0], tcp.Recorder())]
        for flow, recorder in pair:
            flow.start(recorder)
        for flow, _ in pair:
            flow.send(MEGABYTE, None, True)
            flow.close()
        for _, recorder in pair:
            await recorder.until(lambda r: r.ended)
            assert recorder.names == ["closed"]
            assert recorder.error is None
        await listening.close()

    run(main)


def test_without_the_kernels_account_the_peers_fin_is_enough(tcp4, run, monkeypatch):
    monkeypatch.setattr(sys, "platform", "elsewhere")

    async def main():
        flow, recorder, peer = await tcp4.started()
        flow.send(b"tail", None, True)
        flow.close()
        assert await tcp4.recv_all(peer) == b"tail"
        peer.close()
        await recorder.until(lambda r: r.ended)
        assert recorder.error is None

    run(main)
