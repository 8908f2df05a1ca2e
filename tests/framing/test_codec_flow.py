"""CodecFlow: what drives a codec, whatever the codec does."""

import asyncio
from typing import Any

import pytest

from taps_core.model.errors import ConnectionError, Reason, ReceiveError, SendError
from taps_core.model.events import SoftError
from taps_core.model.framer import HEADER_ROOM, LONG_READ, Codec, deframing_failed, too_large
from taps_core.model.messages import MessageContext, SendRecord
from taps_core.runtime.framing import CodecFlow
from taps_core.testing import CheckedFlow, Recorder
from taps_core.testing.scripted import ScriptedFlow


class Digits(Codec):
    """One digit, then so many bytes; ``!`` is garbage. Parts go out as they come."""

    max_length = 9
    streams = True
    trailer = 1

    def __init__(self) -> None:
        self.left = 0
        self.contexts: list[MessageContext] | None = None

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes:
        if isinstance(data, tuple):
            data = b"".join(data)
        if len(data) > self.max_length:
            raise too_large("digits", len(data), self.max_length)
        return b"%d%b." % (len(data), data)

    def begin(self, length: int | None, record: SendRecord | None, /) -> bytes | None:
        if length is not None and length > self.max_length:
            raise too_large("digits", length, self.max_length)
        return None if length is None else b"%d" % length

    def finish(self) -> bytes:
        return b"."

    def decode(self, data: bytes, parts: list[Any], /) -> int:
        position = 0
        while position < len(data):
            if not self.left:
                head = data[position : position + 2]
                if not head[:1].isdigit():
                    raise deframing_failed("digits: no digit")
                if len(head) < 2:
                    return position
                self.left = int(head[:1]) + 1
                position += 1
            piece = data[position : position + self.left]
            position += len(piece)
            self.left -= len(piece)
            context = self.contexts.pop(0) if self.contexts else None
            parts.append((piece if self.left else piece[:-1], context, not self.left))
        return position

    @property
    def incomplete(self) -> bool:
        return self.left > 0

    def reset(self) -> None:
        self.left = 0


class Rig:
    def __init__(self, codec: Codec | None = None, *, datagrams: bool = False) -> None:
        self.below = ScriptedFlow()
        self.codec = codec or Digits()
        self.flow = CodecFlow(self.below, self.codec, datagrams=datagrams)
        self.top = CheckedFlow(self.flow)
        self.above = Recorder()
        self.top.start(self.above)

    def names(self) -> list[str]:
        return [call.name for call in self.above.calls]

    def only_error(self) -> tuple[ReceiveError, bool]:
        (call,) = self.above.named("failed")
        return call.arguments[0], call.arguments[1]


def record(length: int | None = None, **properties: Any) -> SendRecord:
    return SendRecord(MessageContext(), properties, length)


# -- receiving


def test_one_call_up_per_read() -> None:
    rig = Rig()
    rig.below.feed(b"1a.2bc.", b"3def.")
    assert rig.names() == ["received"]
    assert rig.above.messages == [b"a", b"bc", b"def"]


def test_a_read_without_a_frame_calls_nothing() -> None:
    rig = Rig()
    rig.below.feed(b"3")
    rig.below.feed(b"")
    assert rig.above.calls == []


def test_frames_before_garbage_are_delivered_then_the_receive_side_ends() -> None:
    rig = Rig()
    rig.below.feed(b"1a.2bc.!")
    assert rig.names() == ["received", "failed"]
    assert rig.above.messages == [b"a", b"bc"]
    error, fatal = rig.only_error()
    assert fatal
    assert error.reason is Reason.DEFRAMING_FAILED
    rig.below.feed(b"1a.")
    rig.below.receiver.finished()
    assert rig.names() == ["received", "failed"]
    rig.top.check()


def test_sending_goes_on_after_the_receive_side_has_ended() -> None:
    rig = Rig()
    rig.below.feed(b"!")
    rig.top.send(b"abc", None, True)
    assert rig.below.wire == b"3abc."


def test_a_broken_stream_is_read_on_so_that_its_end_is_noticed() -> None:
    rig = Rig()
    rig.below.feed(b"!")
    assert "pause" not in rig.below.names
    rig.below.receiver.closed(None)
    assert rig.above.is_closed


def test_garbage_in_a_datagram_costs_that_datagram() -> None:
    rig = Rig(datagrams=True)
    rig.below.feed(b"1a.!", b"1b.", b"!", b"", b"1c.", end_of_message=True)
    assert rig.above.messages == [b"a", b"b", b"c"]
    assert rig.names() == ["received", "failed", "received", "failed", "received"]
    assert not any(call.arguments[1] for call in rig.above.named("failed"))
    rig.top.check()


def test_a_datagram_in_parts_is_lost_as_a_whole() -> None:
    rig = Rig(datagrams=True)
    rig.below.feed(b"1a.!")
    rig.below.feed(b"1x.")
    rig.below.feed(b"1y.", end_of_message=True)
    rig.below.feed(b"1b.", end_of_message=True)
    assert rig.above.messages == [b"a", b"b"]
    assert len(rig.above.named("failed")) == 1


def test_an_error_tells_which_datagram_it_was() -> None:
    rig = Rig(datagrams=True)
    context = MessageContext()
    rig.below.feed(b"!", context=context, end_of_message=True)
    assert rig.only_error()[0].context is context


@pytest.mark.parametrize("cut", [b"3", b"3a", b"3abc"])
def test_messages_of_a_connected_stack_may_not_cut_frames(cut: bytes) -> None:
    rig = Rig()
    rig.below.feed(b"1a." + cut, end_of_message=True)
    rig.below.feed(b"1b.", end_of_message=True)
    assert rig.above.messages == [b"a"]
    assert rig.only_error()[1]


@pytest.mark.parametrize("cut", [b"3", b"3a", b"3abc"])
@pytest.mark.parametrize("end", ["finished", "closed"])
def test_the_end_of_the_stream_may_not_cut_frames(cut: bytes, end: str) -> None:
    rig = Rig()
    rig.below.feed(cut)
    if end == "finished":
        rig.below.receiver.finished()
    rig.below.receiver.closed(None)
    assert rig.only_error()[0].reason is Reason.DEFRAMING_FAILED
    assert rig.names()[-2:] == ["failed", "closed"]
    rig.top.check()


def test_a_connection_that_failed_says_only_that() -> None:
    rig = Rig()
    rig.below.feed(b"3a")
    error = ConnectionError("reset")
    rig.below.receiver.closed(error)
    assert rig.above.error is error
    assert not rig.above.named("failed")


def test_no_error_for_a_frame_that_was_cut_off_by_ones_own_close() -> None:
    for end in ("close", "abort"):
        rig = Rig()
        rig.below.feed(b"3a")
        getattr(rig.top, end)()
        assert rig.below.names[-1] == end
        rig.below.feed(b"bc.")
        rig.below.receiver.closed(None)
        assert rig.names() == ["received", "closed"]
        rig.top.check()


def test_nothing_follows_when_the_receiver_aborts_while_it_receives() -> None:
    rig = Rig()

    class Aborts(Recorder):
        def received(self, parts: Any) -> None:
            super().received(parts)
            flow.abort()

    flow = CodecFlow(rig.below, Digits(), datagrams=False)
    above = Aborts()
    flow.start(above)
    rig.below.feed(b"1a.!")
    assert [call.name for call in above.calls] == ["received"]


def test_a_codec_that_never_finds_a_frame_is_stopped() -> None:
    class Never(Digits):
        def decode(self, data: bytes, parts: list[Any], /) -> int:
            return 0

    rig = Rig(Never())
    rig.below.feed(b"x" * HEADER_ROOM)
    assert not rig.above.calls
    rig.below.feed(b"x" * 100)
    assert rig.only_error()[1]


def test_a_lost_message_of_the_framer_below_takes_ours_with_it() -> None:
    rig = Rig(datagrams=True)
    rig.below.feed(b"3a")
    error = deframing_failed("below")
    rig.below.receiver.failed(error, False)
    rig.below.feed(b"1b.", end_of_message=True)
    assert rig.names() == ["received", "failed", "received"]
    assert rig.above.parts[-1] == (b"b", None, True)
    rig.below.receiver.failed(error, True)
    rig.below.feed(b"1c.", end_of_message=True)
    assert rig.names() == ["received", "failed", "received", "failed"]


@pytest.mark.parametrize("consumed", [None, -1, 4, "all"])
def test_a_codec_that_uses_what_is_not_there_breaks_the_connection(consumed: Any) -> None:
    """What came was kept, or lost, and nothing ever came up."""

    class Wrong(Digits):
        def decode(self, data: bytes, parts: list[Any], /) -> int:
            parts.append((data, None, True))
            result: int = consumed
            return result

    rig = Rig(Wrong())
    with pytest.raises((ValueError, TypeError)):
        rig.below.feed(b"2ab")


def test_everything_else_passes_through() -> None:
    rig = Rig()
    event = SoftError("icmp")
    rig.below.receiver.notified(event)
    rig.below.receiver.writable(False)
    assert rig.names() == ["notified", "writable"]
    for name in ("flush", "pause", "resume", "finish", "close"):
        getattr(rig.top, name)()
        assert rig.below.names[-1] == name
    assert rig.top.find(ScriptedFlow) is rig.below


# -- contexts


def test_every_message_of_a_datagram_gets_its_context() -> None:
    rig = Rig(datagrams=True)
    context = MessageContext.received({"ecn": 3})
    rig.below.feed(b"1a.1b.1c.", context=context, end_of_message=True)
    assert [found for _, found, _ in rig.above.parts] == [context] * 3


def test_what_the_codec_says_is_kept_and_what_is_known_below_is_added() -> None:
    codec = Digits()
    rig = Rig(codec, datagrams=True)
    codec.contexts = [MessageContext().add("digits", "key", 1)]
    below = MessageContext.received({"earlyData": True})
    rig.below.feed(b"1a.", context=below, end_of_message=True)
    ((_, context, _),) = rig.above.parts
    assert context is not None
    assert context.get("digits", "key") == 1
    assert context.early_data
    assert below.get("digits", "key") is None


def test_all_parts_of_a_message_have_the_context_it_began_with() -> None:
    rig = Rig()
    early = MessageContext.received({"earlyData": True})
    other = MessageContext()
    rig.below.feed(b"2a", context=early)
    rig.below.feed(b"b.1c.2d")
    rig.below.feed(b"e.1f.", context=other)
    assert rig.above.parts == [
        (b"a", early, False),
        (b"b", early, True),
        (b"c", None, True),
        (b"d", None, False),
        (b"e", None, True),
        (b"f", other, True),
    ]


# -- sending


def test_the_record_goes_down_and_its_outcome_up() -> None:
    rig = Rig()
    rig.below.promises = True
    mine = record(msgPriority=1)
    assert rig.top.send(b"a", mine, True)
    assert rig.below.sent[0].record is mine
    rig.below.receiver.outcome(mine, None)
    assert rig.above.outcomes == [(mine, None)]


def test_a_length_below_counts_the_frame_and_the_outcome_finds_its_send() -> None:
    rig = Rig()
    rig.below.promises = True
    first, last = record(4), record(4)
    assert rig.top.send(b"ab", first, False)
    assert rig.top.send(b"cd", last, True)
    assert rig.below.messages == [b"4abcd."]
    assert [part.record.length for part in rig.below.sent if part.record] == [6, 6]
    for part in rig.below.sent:
        assert part.record is not None
        rig.below.receiver.outcome(part.record, None)
    assert rig.above.outcomes == [(first, None), (last, None)]
    rig.top.check()


def test_a_whole_message_is_held_to_its_declared_length() -> None:
    rig = Rig()
    for data in (b"ab", b"abcd"):
        with pytest.raises(SendError, match=f"{len(data)} bytes of a Message declared as 3"):
            rig.top.send(data, record(3), True)
    assert not rig.below.sent
    rig.top.send(b"abc", record(3), True)
    assert rig.below.messages == [b"3abc."]
    assert rig.below.sent[0].record is not None
    assert rig.below.sent[0].record.length is None


def test_a_part_that_exceeds_the_declared_length_is_refused_whole() -> None:
    rig = Rig()
    rig.top.send(b"ab", record(4), False)
    with pytest.raises(SendError, match="5 bytes of a Message declared as 4"):
        rig.top.send(b"cde", record(4), False)
    rig.top.send(b"cd", record(4), True)
    assert rig.below.messages == [b"4abcd."]


@pytest.mark.parametrize("last", [b"c", b"cde"])
def test_a_message_on_the_wire_that_cannot_be_completed_ends_the_connection(last: bytes) -> None:
    rig = Rig()
    rig.top.send(b"ab", record(4), False)
    with pytest.raises(SendError, match="declared as 4"):
        rig.top.send(last, record(4), True)
    assert rig.below.names[-1] == "abort"
    assert not rig.above.calls
    rig.below.receiver.closed(ConnectionError("aborted"))
    assert isinstance(rig.above.error, ConnectionError)
    assert "cannot be completed" in str(rig.above.error)


def test_a_message_of_which_nothing_has_left_is_only_refused() -> None:
    rig = Rig()
    with pytest.raises(SendError, match="at most 9"):
        rig.top.send(b"ab", record(10), False)
    for end in (False, True):
        with pytest.raises(SendError, match="at most 9"):
            rig.top.send(b"c", record(10), end)
    assert not rig.below.sent
    assert "abort" not in rig.below.names
    rig.top.send(b"next", None, True)
    assert rig.below.messages == [b"4next."]


def test_a_refusal_below_leaves_the_message_as_it_was() -> None:
    rig = Rig()
    rig.top.send(b"ab", record(4), False)
    rig.below.refusal = SendError("full", reason=Reason.QUEUE_FULL)
    with pytest.raises(SendError, match="full"):
        rig.top.send(b"c", record(4), False)
    rig.below.refusal = None
    rig.top.send(b"cd", record(4), True)
    assert rig.below.messages == [b"4abcd."]


def test_without_a_length_parts_are_collected_and_leave_as_one() -> None:
    rig = Rig()
    assert not rig.top.send(b"ab", None, False)
    assert not rig.top.send((b"c", b"d"), record(), False)
    assert not rig.below.sent
    rig.top.send(b"", None, True)
    assert rig.below.messages == [b"4abcd."]
    assert len(rig.below.sent) == 1


def test_a_refused_collection_is_forgotten() -> None:
    rig = Rig()
    rig.top.send(b"abcd", None, False)
    with pytest.raises(SendError) as error:
        rig.top.send(b"efghij", None, True)
    assert error.value.reason is Reason.MESSAGE_TOO_LARGE
    rig.top.send(b"next", None, True)
    assert rig.below.messages == [b"4next."]


def test_objects_cannot_be_sent_in_parts() -> None:
    rig = Rig()
    part: Any = {"a": 1}
    with pytest.raises(SendError, match="only bytes"):
        rig.top.send(part, None, False)


def test_parts_end_once_on_a_stack_with_messages() -> None:
    rig = Rig(datagrams=True)
    rig.top.send(b"ab", record(4), False)
    rig.top.send(b"cd", record(4), True)
    assert [part.end_of_message for part in rig.below.sent] == [False, True]


def test_outcomes_find_their_send_through_several_framers() -> None:
    below = ScriptedFlow()
    below.promises = True
    flow: Any = below
    for _ in range(3):
        flow = CodecFlow(flow, Digits(), datagrams=False)
    top = CheckedFlow(flow)
    top.start(above := Recorder())
    whole, declared, first, last = record(), record(1), record(2), record(2)
    top.send(b"a", whole, True)
    top.send(b"b", declared, True)
    top.send(b"c", first, False)
    top.send(b"d", last, True)
    for part in below.sent:
        assert part.record is not None
        below.receiver.outcome(part.record, None)
    assert [found for found, _ in above.outcomes] == [whole, declared, first, last]
    top.check()


class Pausing(Recorder):
    """Pauses the flow below whenever something comes."""

    flow: CodecFlow

    def received(self, parts: Any) -> None:
        super().received(parts)
        self.flow.pause()


def many() -> tuple[Rig, Pausing, bytes]:
    rig = Rig()
    rig.above = pausing = Pausing()
    pausing.flow = rig.flow
    rig.flow.start(pausing)
    read = b"0." * (4 * LONG_READ)
    return rig, pausing, read


def test_a_read_of_many_small_messages_is_decoded_as_far_as_the_layer_above_takes_it() -> None:
    rig, above, read = many()
    rig.below.feed(read)
    assert len(above.parts) == LONG_READ // 2
    assert rig.below.names[-1] == "pause"


def test_what_was_read_comes_up_after_resume_in_later_turns() -> None:
    async def main() -> None:
        rig, above, read = many()
        rig.below.feed(read)
        rounds = 1
        while len(above.parts) < len(read) // 2:
            before = len(above.parts)
            rig.flow.resume()
            assert len(above.parts) == before  # not from inside resume
            await asyncio.sleep(0)
            assert len(above.parts) > before
            rounds += 1
        assert rounds == len(read) // LONG_READ
        assert set(above.parts) == {(b"", None, True)}

    asyncio.run(main())


def test_the_flow_below_goes_on_only_when_everything_that_was_read_is_decoded() -> None:
    async def main() -> None:
        rig, _, read = many()
        rig.below.feed(read)
        for _ in range(len(read) // LONG_READ - 1):
            rig.flow.resume()
            await asyncio.sleep(0)
            assert "resume" not in rig.below.names
        rig.flow.resume()
        assert rig.below.names[-1] == "resume"

    asyncio.run(main())


def test_an_end_waits_behind_what_was_read() -> None:
    async def main() -> None:
        rig, above, read = many()
        rig.below.feed(read)
        rig.below.receiver.finished()
        while len(above.parts) < len(read) // 2:
            assert not above.is_finished
            rig.flow.resume()
            await asyncio.sleep(0)
        assert above.is_finished

    asyncio.run(main())


def test_closed_comes_behind_all_that_was_read_though_the_layer_above_has_paused() -> None:
    rig, above, read = many()
    rig.below.feed(read)
    rig.below.receiver.finished()
    rig.below.receiver.closed(None)
    assert len(above.parts) == len(read) // 2
    assert [call.name for call in above.calls][-2:] == ["finished", "closed"]


@pytest.mark.parametrize("verb", ["close", "abort"])
def test_what_was_read_is_dropped_when_the_layer_above_ends(verb: str) -> None:
    rig, above, read = many()
    rig.below.feed(read)
    count = len(above.parts)
    getattr(rig.flow, verb)()
    rig.below.receiver.closed(None)
    assert len(above.parts) == count


def test_a_failure_above_while_the_backlog_is_decoded_ends_the_flow() -> None:
    async def main() -> None:
        rig, above, read = many()
        rig.below.feed(read)

        def fail(parts: Any) -> None:
            raise ValueError("a bug above")

        above.received = fail  # type: ignore[method-assign]  # the point of it
        rig.flow.resume()
        await asyncio.sleep(0)
        assert rig.below.names[-1] == "abort"
        rig.below.receiver.closed(None)
        assert "a bug above" in str(above.error)

    asyncio.run(main())


class Lines(Codec):
    """Keeps a line until it is whole: nothing is consumed before."""

    max_length = 1 << 20

    def __init__(self) -> None:
        self.seen = 0

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes:
        return bytes(data) + b"."

    def decode(self, data: bytes, parts: list[Any], /) -> int:
        self.seen += len(data)
        *lines, rest = data.split(b".")
        parts += [(line, None, True) for line in lines]
        return len(data) - len(rest)


def test_a_long_message_is_looked_at_in_growing_slices() -> None:
    codec = Lines()
    rig = Rig(codec)
    line = bytes(8 * LONG_READ)
    rig.below.feed(line + b"." + line + b".")
    assert rig.above.parts == [(line, None, True)] * 2
    assert codec.seen < 8 * len(line)


def test_a_long_read_may_end_inside_a_message() -> None:
    rig = Rig(Lines())
    line = bytes(3 * LONG_READ)
    rig.below.feed(line + b"." + line)
    assert rig.above.parts == [(line, None, True)]
    rig.below.feed(b".")
    assert rig.above.parts == [(line, None, True)] * 2
