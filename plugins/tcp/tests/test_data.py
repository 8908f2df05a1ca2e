from __future__ import annotations

import asyncio
import errno

import pytest

from taps_core.plugin import ConnectionError, Reason, SendError
from taps_core.runtime.stream_flow import HELD_BYTES

BLOCK = bytes(range(256)) * 256  # 64 KiB


async def peer_is_blocked(peer, *, offered):
    """Send until the kernel takes no more; how much it took."""
    sent = still = 0
    while still < 20:
        try:
            sent += peer.send(BLOCK)
            still = 0
        except BlockingIOError:
            still += 1
            await asyncio.sleep(0.005)
        assert sent < offered, "the peer was never held back"
    return sent


def test_what_a_peer_says_first_is_held_until_start(tcp, run):
    async def main():
        flow, peer = await tcp.pair()
        await tcp.sendall(peer, b"220 ready\r\n")
        peer.close()
        await tcp.settle()
        recorder = tcp.Recorder()
        flow.start(recorder)
        await recorder.until(lambda r: r.names == ["received", "finished"])
        assert recorder.data == b"220 ready\r\n"
        flow.close()
        await recorder.until(lambda r: r.ended)
        assert recorder.error is None

    run(main)


def test_start_delivers_nothing_before_it_returns(tcp4, run):
    async def main():
        flow, peer = await tcp4.pair()
        await tcp4.sendall(peer, b"early")
        await tcp4.settle()
        recorder = tcp4.Recorder()
        recorder.downward = True
        flow.start(recorder)
        recorder.downward = False
        assert recorder.events == []
        await recorder.until(lambda r: r.data == b"early")
        await tcp4.end(flow, recorder, peer)

    run(main)


def test_bytes_keep_their_order_across_a_late_start(tcp4, run):
    async def main():
        flow, peer = await tcp4.pair()
        sender = asyncio.create_task(tcp4.sendall(peer, BLOCK * 32))
        await tcp4.settle()
        recorder = tcp4.Recorder()
        flow.start(recorder)
        await recorder.until(lambda r: len(r.data) == len(BLOCK) * 32)
        await sender
        assert recorder.data == BLOCK * 32
        await tcp4.end(flow, recorder, peer)

    run(main)


def test_what_is_held_before_start_is_bounded(tcp4, run):
    async def main():
        flow, peer = await tcp4.pair()
        sent = await peer_is_blocked(peer, offered=200 * 1024 * 1024)
        # One read may go beyond the mark.
        assert flow._held_size < HELD_BYTES + 512 * 1024
        recorder = tcp4.Recorder()
        flow.start(recorder)
        await recorder.until(lambda r: sum(map(len, r.chunks)) == sent)
        await tcp4.end(flow, recorder, peer)

    run(main)


def test_a_pause_right_after_start_holds_what_came_before(tcp4, run):
    async def main():
        flow, peer = await tcp4.pair()
        await tcp4.sendall(peer, b"early")
        await tcp4.settle()
        recorder = tcp4.Recorder()
        flow.start(recorder)
        flow.pause()
        await tcp4.settle()
        assert recorder.events == []
        flow.resume()
        await recorder.until(lambda r: r.data == b"early")
        await tcp4.end(flow, recorder, peer)

    run(main)


def test_a_peer_that_spoke_and_reset_before_start_is_heard_first(tcp, run):
    async def main():
        flow, peer = await tcp.pair()
        await tcp.sendall(peer, b"go away")
        await tcp.settle()
        tcp.reset(peer)
        await tcp.settle()
        recorder = tcp.Recorder()
        flow.start(recorder)
        await recorder.until(lambda r: r.ended)
        assert recorder.data == b"go away"
        assert recorder.names == ["received", "closed"]
        assert recorder.error.reason is Reason.CONNECTION_ABORTED

    run(main)


def test_gathered_buffers_leave_in_order(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        flow.send(b"a", None, True)
        flow.send((b"b", b"c"), None, True)
        flow.send(b"", None, True)
        flow.send((), None, True)
        await tcp.settle()
        with pytest.raises(BlockingIOError):
            peer.recv(1)  # nothing leaves before flush
        flow.flush()
        flow.send(b"d", None, False)
        flow.flush()
        flow.flush()
        peer_got = b""
        while len(peer_got) < 4:
            peer_got += await tcp.recv(peer)
        assert peer_got == b"abcd"
        await tcp.end(flow, recorder, peer)

    run(main)


def test_pause_holds_the_peer_back_and_resume_loses_nothing(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        flow.pause()
        flow.pause()
        sent = await peer_is_blocked(peer, offered=200 * 1024 * 1024)
        assert recorder.events == []
        flow.resume()
        flow.resume()
        await recorder.until(lambda r: sum(map(len, r.chunks)) == sent)
        assert recorder.data == BLOCK * (sent // len(BLOCK)) + BLOCK[: sent % len(BLOCK)]
        await tcp.end(flow, recorder, peer)

    run(main)


def test_pausing_from_inside_a_delivery_stops_after_it(tcp4, run):
    async def main():
        flow, recorder, peer = await tcp4.started()
        received = recorder.received

        def once(parts):
            received(parts)
            flow.pause()

        recorder.received = once
        await tcp4.sendall(peer, b"first")
        await recorder.until(lambda r: r.data == b"first")
        await tcp4.sendall(peer, b"second")
        await tcp4.settle()
        assert recorder.data == b"first"
        flow.resume()
        await recorder.until(lambda r: r.data == b"firstsecond")
        flow.resume()
        await tcp4.end(flow, recorder, peer)

    run(main)


def test_an_endless_sender_is_told_to_stop_and_memory_stays_bounded(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        sent = 0
        while not any(name == "writable" for name, _ in recorder.events):
            recorder.downward = True
            flow.send(BLOCK, None, True)
            flow.flush()
            recorder.downward = False
            sent += len(BLOCK)
            assert flow._transport.get_write_buffer_size() <= 1024 * 1024
            await asyncio.sleep(0)
        assert recorder.events == [("writable", False)]
        reader = asyncio.create_task(tcp.recv_all(peer))
        await recorder.until(lambda r: len(r.events) == 2)
        assert recorder.events[1] == ("writable", True)
        flow.finish()
        assert await reader == BLOCK * (sent // len(BLOCK))
        await tcp.end(flow, recorder, peer)

    run(main)


def test_full_and_empty_again_within_one_turn_is_not_told(tcp4, run):
    async def main():
        flow, recorder, peer = await tcp4.started()
        flow.pause_writing()
        flow.resume_writing()
        await tcp4.settle()
        flow.pause_writing()
        await tcp4.settle()
        flow.resume_writing()
        flow.pause_writing()
        await tcp4.settle()
        assert recorder.events == [("writable", False)]
        flow.resume_writing()
        await tcp4.settle()
        assert recorder.events == [("writable", False), ("writable", True)]
        await tcp4.end(flow, recorder, peer)

    run(main)


@pytest.mark.parametrize("cause", ["received", "finished", "held"])
def test_what_escapes_from_a_layer_above_ends_that_flow_only(tcp4, run, cause):
    async def main():
        flow, peer = await tcp4.pair()
        other = await tcp4.started()
        recorder = tcp4.Recorder()
        recorder.raising = ValueError("a bug above")
        if cause == "held":
            await tcp4.sendall(peer, b"x")
            await tcp4.settle()
        flow.start(recorder)
        if cause == "received":
            await tcp4.sendall(peer, b"x")
        elif cause == "finished":
            peer.shutdown(1)
        await recorder.until(lambda r: r.ended)
        assert isinstance(recorder.error, ConnectionError)
        assert recorder.error.reason is Reason.PROTOCOL_FAILED
        assert recorder.error.__cause__ is recorder.raising
        assert "a bug above" in str(recorder.error)
        with pytest.raises(ConnectionResetError):
            await tcp4.recv(peer)
        peer.close()

        flow, recorder, peer = other
        await tcp4.sendall(peer, b"still here")
        await recorder.until(lambda r: r.data == b"still here")
        await tcp4.end(flow, recorder, peer)

    run(main)


def test_an_error_of_taps_from_above_is_reported_as_it_is(tcp4, run):
    async def main():
        _, recorder, peer = await tcp4.started()
        recorder.raising = ConnectionError("no such frame", reason=Reason.DEFRAMING_FAILED)
        await tcp4.sendall(peer, b"x")
        await recorder.until(lambda r: r.ended)
        assert recorder.error is recorder.raising
        peer.close()

    run(main)


def test_an_answer_of_a_peer_that_hung_up_is_delivered_before_the_error(tcp, run):
    async def main():
        flow, recorder, peer = await tcp.started()
        flow.pause()  # as if it had not come round to reading
        flow.send(b"a request that nobody reads", None, True)
        flow.flush()
        await tcp.settle()
        await tcp.sendall(peer, b"413 too large")
        peer.close()  # with unread data: RST
        await tcp.settle()
        while not recorder.ended:
            if flow._out is not None:
                flow.send(BLOCK, None, True)
                flow.flush()
            await asyncio.sleep(0.001)
        assert recorder.data == b"413 too large"
        assert recorder.names == ["received", "closed"]
        assert recorder.error.errno in (errno.EPIPE, errno.ECONNRESET)

    run(main)


def test_nothing_can_be_sent_after_finish_close_or_loss(tcp4, run):
    async def main():
        flow, recorder, peer = await tcp4.started()
        flow.finish()
        with pytest.raises(SendError) as caught:
            flow.send(b"x", None, True)
        assert caught.value.reason is Reason.CONNECTION_CLOSED
        await tcp4.end(flow, recorder, peer)
        with pytest.raises(SendError):
            flow.send(b"x", None, True)
        flow.flush()
        flow.finish()
        flow.pause()
        flow.resume()
        flow.close()
        flow.abort()
        await tcp4.settle()
        assert recorder.names == ["closed"]

    run(main)
