"""Datagrams go and come one by one, whatever is done to save system calls."""

from __future__ import annotations

import errno
import socket

import pytest

from taps_core.plugin import CapacityProfile, Reason, SendError, SendRecord
from taps_udp import UDP

DATAGRAMS = [b"%04d" % number for number in range(50)]


def test_a_plain_peer_gets_and_gives_datagrams(udp):
    async def main():
        for address in ("127.0.0.1", "::1"):
            peer = udp.peer(address)
            end = await udp.connect(peer)
            end.send(b"one", b"", (b"in ", b"parts"))
            received = [await udp.recv(peer) for _ in range(3)]
            assert [data for data, _ in received] == [b"one", b"", b"in parts"]
            for datagram in (b"", b"answer", bytes(1000)):
                peer.sendto(datagram, received[0][1])
            await end.recorder.until(lambda end=end: len(end.recorder.messages) == 3)
            assert end.recorder.messages == [b"", b"answer", bytes(1000)]

    udp.run(main)


@pytest.mark.requirement("R-9623-4.6-01")
def test_connecting_sends_nothing(udp):
    async def main():
        peer = udp.peer()
        await udp.connect(peer)
        await udp.settle()
        with pytest.raises(BlockingIOError):
            peer.recv(1)

    udp.run(main)


def test_a_local_endpoint_is_bound(udp):
    async def main():
        peer, other = udp.peer(), udp.peer()
        port = other.getsockname()[1]
        other.close()
        end = await udp.connect(peer, local=f"127.0.0.1:{port}")
        assert end.flow.local_endpoint.port == port
        end.send(b"from there")
        assert await udp.recv(peer) == (b"from there", ("127.0.0.1", port))

    udp.run(main)


def test_one_wake_up_hands_up_all_that_waits_at_once(udp):
    async def main():
        peer = udp.peer()
        end = await udp.connect(peer)
        end.send(b"hello")
        _, address = await udp.recv(peer)
        for datagram in DATAGRAMS:
            peer.sendto(datagram, address)
        await end.recorder.until(lambda: len(end.recorder.parts) == len(DATAGRAMS))
        assert end.recorder.messages == DATAGRAMS
        assert len(end.recorder.named("received")) == 1

    udp.run(main)


def test_lone_datagrams_cost_one_read_and_bursts_are_found_again(udp):
    async def main():
        peer = udp.peer()
        end = await udp.connect(peer)
        recorder = end.recorder
        end.send(b"hello")
        _, address = await udp.recv(peer)
        for count in range(1, 41):
            peer.sendto(b"alone", address)
            await recorder.until(lambda count=count: len(recorder.parts) == count)
        for datagram in DATAGRAMS:
            peer.sendto(datagram, address)
        await recorder.until(lambda: len(recorder.parts) == 40 + len(DATAGRAMS))
        assert recorder.messages[40:] == DATAGRAMS
        # The burst is looked for at every eighth of them.
        assert len(recorder.named("received")) <= 40 + 8

    udp.run(main)


@pytest.mark.linux
def test_equal_datagrams_leave_with_one_call(udp):
    async def main():
        peer = udp.peer()
        end = await udp.connect(peer)
        sock = udp.counted(end)
        end.send(*DATAGRAMS, b"end", b"another length")
        received = [(await udp.recv(peer))[0] for _ in range(len(DATAGRAMS) + 2)]
        assert received == [*DATAGRAMS, b"end", b"another length"]
        assert sock.calls == ["sendmsg", "send"]
        assert sock.sizes == [sum(map(len, DATAGRAMS)) + len(b"end")]

    udp.run(main)


@pytest.mark.linux
def test_a_call_has_64_datagrams_and_65507_bytes_at_most(udp):
    async def main():
        peer = udp.peer()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        end = await udp.connect(peer)
        sock = udp.counted(end)
        end.send(*[b"small"] * 65)
        for _ in range(65):
            assert (await udp.recv(peer))[0] == b"small"
        assert sock.sizes == [64 * len(b"small")]
        end.send(*[bytes(20000)] * 4)
        for _ in range(4):
            assert (await udp.recv(peer))[0] == bytes(20000)
        assert sock.sizes == [64 * len(b"small"), 3 * 20000]
        assert sock.calls == ["sendmsg", "send", "sendmsg", "send"]

    udp.run(main)


@pytest.mark.linux
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_where_they_cannot_they_leave_one_by_one(udp, code):
    async def main():
        peer = udp.peer()
        end = await udp.connect(peer)
        sock = udp.counted(end)
        sock.refusals = [OSError(code, "no segments")]
        end.send(*[b"same"] * 3)
        assert [(await udp.recv(peer))[0] for _ in range(3)] == [b"same"] * 3
        assert sock.calls == ["sendmsg", "send", "send", "send"]
        end.send(*[b"same"] * 2)  # it was asked once
        assert sock.calls[4:] == ["send", "send"]
        assert not end.recorder.named("notified")

    udp.run(main)


@pytest.mark.linux
def test_bursts_are_joined_by_the_kernel_and_divided_again(udp):
    async def main():
        peer = udp.peer()
        end = await udp.connect(peer)
        back = await udp.connect(end.flow.local_endpoint.ip_address + ":1")
        end.send(b"hello")
        _, address = await udp.recv(peer)
        segments = [(socket.IPPROTO_UDP, 103, (1000).to_bytes(2, "little"))]
        for turn in range(20):
            sent = [bytes([turn]) * 1000 for _ in range(9)] + [b"short"]
            end.recorder.forget()
            peer.sendmsg(sent, segments, 0, address)
            await end.recorder.until(lambda: len(end.recorder.parts) >= 10)
            assert end.recorder.messages == sent
        assert end.flow.lower._port.sock.getsockopt(socket.IPPROTO_UDP, 104) == 1
        assert not back.recorder.calls

    udp.run(main)


def test_a_full_kernel_makes_datagrams_wait_and_says_so(udp):
    async def main():
        peer = udp.peer()
        end = await udp.connect(peer)
        sock = udp.counted(end)
        sock.full = True
        for number in range(10):
            end.send(b"%d" % number * 10000)
        await udp.until(lambda: not end.recorder.is_writable)
        assert end.flow.read("_taps.undelivered") > 100_000
        sock.full = False
        for number in range(10):
            assert (await udp.recv(peer))[0] == b"%d" % number * 10000
        await udp.until(lambda: end.recorder.is_writable)
        assert end.flow.read("_taps.undelivered") == 0

    udp.run(main)


def test_close_waits_for_what_waits_and_abort_drops_it(udp):
    async def main():
        for verb in ("close", "abort"):
            peer = udp.peer()
            end = await udp.connect(peer)
            sock = udp.counted(end)
            sock.full = True
            end.send(b"last words")
            getattr(end.flow, verb)()
            await udp.settle()
            assert end.recorder.is_closed == (verb == "abort")
            sock.full = False
            if verb == "close":
                assert (await udp.recv(peer))[0] == b"last words"
                await end.has_closed()
                assert end.recorder.error is None
            else:
                assert end.recorder.error.reason is Reason.LOCAL_ABORT
                await udp.settle()
                with pytest.raises(BlockingIOError):
                    peer.recv(1)

    udp.run(main)


def test_after_finish_nothing_is_sent_and_what_comes_is_received(udp):
    async def main():
        peer = udp.peer()
        end = await udp.connect(peer)
        end.send(b"final")
        end.flow.finish()
        _, address = await udp.recv(peer)
        with pytest.raises(SendError) as refusal:
            end.flow.lower.send(b"more", None, True)  # no layer above would do that
        assert refusal.value.reason is Reason.CONNECTION_CLOSED
        peer.sendto(b"answer", address)
        await end.has_data(b"answer")

    udp.run(main)


@pytest.mark.requirement("G-9622-9.2.1-01")
@pytest.mark.linux
def test_lengths_are_those_of_the_path(udp):
    async def main():
        for address, longest in (("127.0.0.1", 65507), ("::1", 65536 - 48)):
            peer = udp.peer(address)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            end = await udp.connect(peer)
            assert end.flow.read("sendMsgMaxLen") == longest
            assert end.flow.read("singularTransmissionMsgMaxLen") == longest
            assert end.flow.read("recvMsgMaxLen") >= longest
            with pytest.raises(SendError, match=f"at most {longest} do") as refusal:
                end.send(bytes(longest + 1))
            assert refusal.value.reason is Reason.MESSAGE_TOO_LARGE
            end.send(bytes(longest))
            assert len((await udp.recv(peer))[0]) == longest

    udp.run(main)


async def received_class(udp, peer):
    while True:
        try:
            data, ancillary, _, _ = peer.recvmsg(2048, 64)
        except BlockingIOError:
            await udp.settle()
        else:
            return data, [item[2][0] for item in ancillary]


@pytest.mark.linux
@pytest.mark.requirement("G-9622-9.1.3-03")
def test_capacity_profiles_become_code_points(udp):
    async def main():
        for address, option in (("127.0.0.1", (0, 13)), ("::1", (41, 66))):
            peer = udp.peer(address)
            peer.setsockopt(*option, 1)
            end = await udp.connect(peer, conn_capacity_profile=CapacityProfile.SCAVENGER)
            end.send(b"scavenger")
            assert await received_class(udp, peer) == (b"scavenger", [1 << 2])
            end.send(b"one", msg_capacity_profile=CapacityProfile.LOW_LATENCY_INTERACTIVE)
            assert await received_class(udp, peer) == (b"one", [34 << 2])
            end.send(b"scavenger")
            assert await received_class(udp, peer) == (b"scavenger", [1 << 2])
            assert end.flow.apply("connCapacityProfile", CapacityProfile.CAPACITY_SEEKING)
            end.send(*[b"same"] * 2)
            for _ in range(2):
                assert await received_class(udp, peer) == (b"same", [10 << 2])
            assert end.flow.read("connCapacityProfile") is CapacityProfile.CAPACITY_SEEKING

    udp.run(main)


WITH_ECN = {"definitions": UDP().properties, "_taps.receiveEcn": True}
WITHOUT_ECN: dict[str, object] = {}
FAMILIES = pytest.mark.parametrize(
    ("address", "option"), [("127.0.0.1", (0, 1)), ("::1", (41, 67))], ids=["IPv4", "IPv6"]
)


async def ecn_fields(end, peer, there, option):
    """What is told of four datagrams with each value of the field."""
    end.recorder.parts.clear()
    for value in (0, 1, 2, 3):
        peer.setsockopt(*option, value)
        peer.sendto(b"%d" % value, there)
    await end.recorder.until(lambda: len(end.recorder.parts) == 4)
    contexts = [context for _, context, _ in end.recorder.parts]
    return [None if context is None else context.get("ecn").value for context in contexts]


TOLD = [None, "ECT(1)", "ECT(0)", "CE"]


@pytest.mark.linux
@FAMILIES
def test_the_ecn_field_comes_with_a_message_where_it_is_wanted(udp, address, option):
    async def main():
        peer = udp.peer(address)
        for properties, told in [(WITH_ECN, TOLD), (WITHOUT_ECN, [None] * 4)]:
            end = await udp.connect(peer, **properties)
            end.send(b"hello")
            _, there = await udp.recv(peer)
            assert await ecn_fields(end, peer, there, option) == told
            assert end.flow.apply("_taps.receiveEcn", True)
            assert await ecn_fields(end, peer, there, option) == TOLD

    udp.run(main)


@pytest.mark.linux
@FAMILIES
def test_the_ecn_field_comes_with_the_messages_of_a_listener(udp, address, option):
    async def main():
        host = f"[{address}]" if ":" in address else address
        for where in (f"{host}:0", ":0"):
            peer = udp.peer(address)
            ends = []
            listener = await udp.listen(
                lambda flow, _, ends=ends: ends.append(udp.adopt(flow)), where, **WITH_ECN
            )
            there = (address, listener.local_endpoint.port)
            peer.sendto(b"hello", there)
            await udp.until(lambda ends=ends: ends and ends[0].recorder.parts)
            assert await ecn_fields(ends[0], peer, there, option) == TOLD

    udp.run(main)


def test_a_record_without_wishes_changes_nothing(udp):
    async def main():
        peer = udp.peer()
        end = await udp.connect(peer)
        record = end.send(b"hello", safely_replayable=True)
        assert isinstance(record, SendRecord)
        assert (await udp.recv(peer))[0] == b"hello"

    udp.run(main)
