"""FramerFlow: RFC 9623's events and cursor actions."""

import asyncio
import itertools
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taps_core.model.errors import (
    ConnectionError,
    EstablishmentError,
    Reason,
    ReceiveError,
    SendError,
)
from taps_core.model.events import SoftError
from taps_core.model.framer import HEADER_ROOM, Framer
from taps_core.model.messages import MessageContext, SendRecord
from taps_core.runtime.framer_flow import FramerFlow
from taps_core.runtime.framing import CodecFlow
from taps_core.testing import CheckedFlow, Recorder
from taps_core.testing.scripted import ScriptedFlow
from taps_framers import LengthPrefix


class Prefixed(Framer):
    """The example of RFC 9623, sections 6.2 and 6.3."""

    max_length = 1000

    def new_sent_message(
        self, data: Any, context: MessageContext | None, end_of_message: bool
    ) -> None:
        self.send((struct.pack(">I", len(data)), data))

    def handle_received_data(self) -> None:
        header = self.parse(4, 4)
        if header is None:
            return
        (length,) = struct.unpack(">I", header.data)
        self.advance_receive_cursor(4)
        self.deliver_and_advance_receive_cursor(header.context, length, True)


class Greeting(Framer):
    """Says HELO, wants OK; says BYE, wants BYE."""

    boundaries = False

    def __init__(self) -> None:
        self.up = False

    def start(self) -> None:
        self.send(b"HELO")

    def stop(self) -> None:
        self.send(b"BYE")

    def handle_received_data(self) -> None:
        if not self.up:
            answer = self.parse(2, 2)
            if answer is None:
                return
            if answer.data != b"OK":
                self.fail_connection(EstablishmentError(f"refused: {answer.data!r}"))
                return
            self.advance_receive_cursor(2)
            self.up = True
            self.make_connection_ready()
            return
        parsed = self.parse(3, 3)
        if parsed is not None and parsed.data == b"BYE":
            self.advance_receive_cursor(3)
            self.make_connection_closed()
            return
        super().handle_received_data()


class Sized(ScriptedFlow):
    def read(self, property: str, /) -> Any:
        return {"sendMsgMaxLen": 10_000, "recvMsgMaxLen": 100, "connTimeout": 7}.get(property)


def test_the_largest_message_is_what_framer_and_stack_both_allow() -> None:
    names = ("sendMsgMaxLen", "recvMsgMaxLen", "connTimeout")
    for framer, below, sizes in (
        (Prefixed(), Sized(), [1000, 100, 7]),
        (Prefixed(), ScriptedFlow(), [1000, 1000, None]),
        (Greeting(), Sized(), [10_000, 100, 7]),  # which finds no boundaries
    ):
        flow = FramerFlow(below, framer, datagrams=False, boundaries=framer.boundaries)
        assert [flow.read(name) for name in names] == sizes


class Rig:
    def __init__(self, framer: Framer, *, datagrams: bool = False) -> None:
        self.below = ScriptedFlow()
        self.watched = CheckedFlow(self.below)
        self.framer = framer
        self.flow = FramerFlow(
            self.watched, framer, datagrams=datagrams, boundaries=framer.boundaries
        )
        self.top = CheckedFlow(self.flow)
        self.above = Recorder()

    async def ready(self) -> None:
        """Set up and started, for framers that are ready at once."""
        await self.flow.negotiate()
        self.top.start(self.above)
        await turn()

    def names(self) -> list[str]:
        return [call.name for call in self.above.calls]

    def failures(self) -> list[tuple[ReceiveError, bool]]:
        return [(call.arguments[0], call.arguments[1]) for call in self.above.named("failed")]

    def check(self) -> None:
        self.watched.check()
        self.top.check()


async def turn() -> None:
    """Let the loop run once."""
    await asyncio.sleep(0)


def with_rig(
    framer: Framer, test: Callable[[Rig], Awaitable[None]], *, datagrams: bool = False
) -> Rig:
    """Run ``test`` with a framer that is ready, and check the rules of the data path."""
    rig = Rig(framer, datagrams=datagrams)

    async def main() -> None:
        await rig.ready()
        await test(rig)

    asyncio.run(main())
    rig.check()
    return rig


# -- the cursor


@given(
    messages=st.lists(st.binary(max_size=50), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=10),
)
@settings(max_examples=50)
def test_the_rfcs_example_does_what_the_codec_does(messages: list[bytes], cuts: list[int]) -> None:
    definition = LengthPrefix(max_length=1000)
    reference = ScriptedFlow()
    codec_flow = CodecFlow(reference, definition.create(), datagrams=False)
    codec_flow.start(expected := Recorder())

    async def test(rig: Rig) -> None:
        for message in messages:
            rig.top.send(message, None, True)
            codec_flow.send(message, None, True)
        assert rig.below.messages == reference.messages
        wire = rig.below.wire
        places = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
        for start, end in itertools.pairwise(places):
            rig.below.feed(wire[start:end])
            reference.feed(wire[start:end])
        assert rig.above.messages == expected.messages == messages
        assert rig.above.data == expected.data
        # Both pass parts on as they come.
        assert len(rig.above.named("received")) == len(expected.named("received"))

    with_rig(Prefixed(), test)


def test_claimed_bytes_are_delivered_as_they_come_and_uncopied() -> None:
    async def test(rig: Rig) -> None:
        rig.below.feed(struct.pack(">I", 10) + b"ab")
        chunk = b"cdefg"
        rig.below.feed(chunk)
        rig.below.feed(b"hij" + struct.pack(">I", 0))
        assert rig.above.parts == [
            (b"ab", None, False),
            (b"cdefg", None, False),
            (b"hij", None, True),
            (b"", None, True),
        ]
        assert rig.above.parts[1][0] is chunk

    with_rig(Prefixed(), test)


def test_bytes_that_have_not_arrived_can_be_discarded() -> None:
    class Skips(Framer):
        def handle_received_data(self) -> None:
            self.advance_receive_cursor(5)
            self.deliver_and_advance_receive_cursor(None, 2, True)
            self.advance_receive_cursor(1)

    async def test(rig: Rig) -> None:
        for byte in b"xxxxxabyxxxxxcdy":
            rig.below.feed(bytes((byte,)))
        assert rig.above.messages == [b"ab", b"cd"]

    with_rig(Skips(), test)


def test_parse_shows_and_does_not_move() -> None:
    seen: list[Any] = []

    class Looks(Framer):
        def handle_received_data(self) -> None:
            seen.append(self.parse(3, 5))
            seen.append(self.parse(0, 2))

    async def test(rig: Rig) -> None:
        rig.below.feed(b"ab")
        rig.below.feed(b"cdefg")
        assert seen[0] is None
        assert seen[1].data == b"ab"
        assert seen[2].data == b"abcde"
        assert seen[3].data == b"ab"
        assert not rig.above.calls

    with_rig(Looks(), test)


def test_data_is_shown_as_long_as_progress_is_made() -> None:
    calls: list[int] = []

    class OneByte(Framer):
        def handle_received_data(self) -> None:
            calls.append(1)
            parsed = self.parse(2, 2)
            if parsed is not None:
                self.deliver_and_advance_receive_cursor(None, 1, True)

    async def test(rig: Rig) -> None:
        rig.below.feed(b"abcde")
        assert rig.above.messages == [b"a", b"b", b"c", b"d"]
        assert len(calls) == 5

    with_rig(OneByte(), test)


def test_what_the_framer_makes_itself_is_delivered_in_order() -> None:
    class Upper(Framer):
        def handle_received_data(self) -> None:
            parsed = self.parse(1, 100)
            if parsed is not None:
                self.deliver(None, b"<", end_of_message=False)
                self.deliver_and_advance_receive_cursor(None, len(parsed.data), False)
                self.deliver(None, parsed.data.upper())

    async def test(rig: Rig) -> None:
        rig.below.feed(b"ab")
        assert rig.above.messages == [b"<abAB"]
        assert len(rig.above.named("received")) == 1

    with_rig(Upper(), test)


def test_the_default_passes_messages_and_their_ends_on() -> None:
    async def test(rig: Rig) -> None:
        rig.below.feed(b"a", end_of_message=True)
        rig.below.feed(b"", end_of_message=True)
        rig.below.feed(b"b")
        rig.below.feed(b"c")
        rig.below.feed(b"", end_of_message=True)
        assert rig.above.messages == [b"a", b"", b"bc"]
        rig.top.send(b"x", None, False)
        rig.top.send(b"y", None, True)
        assert rig.below.messages == [b"xy"]

    with_rig(Framer(), test, datagrams=True)


def test_contexts_of_the_layer_below_go_along() -> None:
    context = MessageContext.received({"ecn": 1})

    class Names(Framer):
        def handle_received_data(self) -> None:
            parsed = self.parse(1, 1)
            assert parsed is not None
            assert parsed.context is context
            self.deliver_and_advance_receive_cursor(None, 1, True)
            own = MessageContext().add("names", "key", parsed.data)
            self.deliver(own, b"own")

    async def test(rig: Rig) -> None:
        rig.below.feed(b"a", context=context, end_of_message=True)
        (_, first, _), (_, second, _) = rig.above.parts
        assert first is context
        assert second is not None
        assert second.get("ecn") == 1
        assert second.get("names", "key") == b"a"

    with_rig(Names(), test, datagrams=True)


# -- errors of the peer


def test_a_raised_receive_error_ends_a_stream() -> None:
    async def test(rig: Rig) -> None:
        good = struct.pack(">I", 1) + b"a"
        rig.below.feed(good + struct.pack(">I", 1001) + b"b")
        rig.below.feed(good)
        rig.below.receiver.finished()
        assert rig.names() == ["received", "failed"]
        ((error, fatal),) = rig.failures()
        assert fatal
        assert error.reason is Reason.DEFRAMING_FAILED
        rig.below.receiver.closed(None)
        assert rig.above.is_closed

    with_rig(Prefixed(), test)


def test_a_bad_datagram_costs_itself() -> None:
    async def test(rig: Rig) -> None:
        good = struct.pack(">I", 1) + b"a"
        for bad in (b"\0", good + b"\0\0", struct.pack(">I", 9) + b"x", struct.pack(">I", 5000)):
            rig.below.feed(good, bad, good, end_of_message=True)
        rig.below.feed(good)
        rig.below.feed(struct.pack(">I", 9))
        rig.below.feed(b"x", end_of_message=True)
        rig.below.feed(good, end_of_message=True)
        assert len(rig.failures()) == 5
        assert not any(fatal for _, fatal in rig.failures())
        assert rig.above.messages == [b"a"] * 11

    with_rig(Prefixed(), test, datagrams=True)


@pytest.mark.parametrize("cut", [b"\0", b"\0\0\0\3", b"\0\0\0\3ab"])
@pytest.mark.parametrize("end", ["finished", "closed"])
def test_the_end_may_not_cut_a_message(cut: bytes, end: str) -> None:
    async def test(rig: Rig) -> None:
        rig.below.feed(cut)
        if end == "finished":
            rig.below.receiver.finished()
        rig.below.receiver.closed(None)
        assert rig.names()[-2:] == ["failed", "closed"]

    with_rig(Prefixed(), test)


def test_unparsed_bytes_are_bounded() -> None:
    class Never(Framer):
        max_length = 1000

        def handle_received_data(self) -> None:
            pass

    async def test(rig: Rig) -> None:
        rig.below.feed(b"x" * (1000 + HEADER_ROOM))
        assert not rig.above.calls
        rig.below.feed(b"x")
        assert [fatal for _, fatal in rig.failures()] == [True]
        rig.below.feed(b"x" * 10_000)
        assert len(rig.above.calls) == 1

    with_rig(Never(), test)


def test_a_mistake_in_the_framer_ends_this_connection_with_its_cause() -> None:
    class Wrong(Framer):
        def handle_received_data(self) -> None:
            raise KeyError("oops")

    async def test(rig: Rig) -> None:
        rig.below.feed(b"x")
        assert rig.below.names[-1] == "abort"
        assert not rig.above.calls
        rig.below.receiver.closed(None)
        assert isinstance(rig.above.error, ConnectionError)
        assert isinstance(rig.above.error.__cause__, KeyError)

    with_rig(Wrong(), test)


@given(st.lists(st.binary(max_size=20), max_size=8), st.booleans())
@settings(max_examples=50)
def test_garbage_is_parsed_or_refused(chunks: list[bytes], datagrams: bool) -> None:
    async def test(rig: Rig) -> None:
        for chunk in chunks:
            rig.below.feed(chunk, end_of_message=datagrams)
        rig.below.receiver.closed(None)
        assert all(error.reason is Reason.DEFRAMING_FAILED for error, _ in rig.failures())
        assert rig.above.is_closed

    with_rig(Prefixed(), test, datagrams=datagrams)


# -- sending


def test_max_length_holds_for_what_is_sent() -> None:
    async def test(rig: Rig) -> None:
        rig.top.send(b"x" * 1000, None, True)
        with pytest.raises(SendError) as error:
            rig.top.send(b"x" * 1001, None, True)
        assert error.value.reason is Reason.MESSAGE_TOO_LARGE
        rig.top.send(b"x" * 600, None, False)
        with pytest.raises(SendError):
            rig.top.send(b"x" * 600, None, False)
        rig.top.send(b"x" * 400, None, True)
        rig.top.send(b"x" * 1000, None, True)

    with_rig(Prefixed(), test)


def test_a_send_error_of_the_framer_or_below_is_the_sends() -> None:
    class Picky(Framer):
        def new_sent_message(self, data: Any, context: Any, end_of_message: bool) -> None:
            if data == b"bad":
                raise SendError("picky")
            if data == b"bug":
                raise KeyError("oops")
            self.send(data)

    async def test(rig: Rig) -> None:
        with pytest.raises(SendError, match="picky"):
            rig.top.send(b"bad", None, True)
        with pytest.raises(SendError, match="oops"):
            rig.top.send(b"bug", None, True)
        rig.below.refusal = SendError("full")
        with pytest.raises(SendError, match="full"):
            rig.top.send(b"good", None, True)
        rig.below.refusal = None
        rig.top.send(b"good", None, True)
        assert rig.below.messages == [b"good"]

    with_rig(Picky(), test)


def test_a_send_that_leaves_in_pieces_has_one_outcome() -> None:
    class Splits(Framer):
        def new_sent_message(self, data: Any, context: Any, end_of_message: bool) -> None:
            for byte in data:
                self.send(bytes((byte,)))

    async def test(rig: Rig) -> None:
        rig.below.promises = True
        mine = SendRecord(MessageContext(), {}, 3)
        assert rig.top.send(b"abc", mine, True)
        lower = [part.record for part in rig.below.sent]
        assert all(record is not None and record.length is None for record in lower)
        error = SendError("expired")
        for record, fate in zip(lower, (None, error, None), strict=True):
            assert record is not None
            rig.below.receiver.outcome(record, fate)
        assert rig.above.outcomes == [(mine, error)]
        assert not rig.top.send(b"", SendRecord(MessageContext(), {}), True)

    with_rig(Splits(), test)


def test_pieces_of_a_framer_in_the_middle_have_one_outcome_at_the_top() -> None:
    class Splits(Framer):
        def new_sent_message(self, data: Any, context: Any, end_of_message: bool) -> None:
            for buffer in data if isinstance(data, tuple) else (data,):
                for byte in buffer:
                    self.send(bytes((byte,)))

    async def main() -> None:
        below = ScriptedFlow()
        below.promises = True
        flow: Any = CodecFlow(below, LengthPrefix(1).create(), datagrams=False)
        flow = FramerFlow(flow, Splits(), datagrams=False)
        await flow.negotiate()
        top = CheckedFlow(CodecFlow(flow, LengthPrefix(1).create(), datagrams=False))
        top.start(above := Recorder())
        first, last = (SendRecord(MessageContext(), {}, 4) for _ in range(2))
        assert top.send(b"ab", first, False)
        assert top.send(b"cd", last, True)
        assert below.wire == b"\1\4\1a\1b\1c\1d"
        for part in below.sent:
            assert part.record is not None
            below.receiver.outcome(part.record, None)
        assert [found for found, _ in above.outcomes] == [first, last]
        top.check()

    asyncio.run(main())


def test_a_refused_send_has_no_outcome_besides() -> None:
    class Half(Framer):
        def new_sent_message(self, data: Any, context: Any, end_of_message: bool) -> None:
            self.send(data)
            raise SendError("no more")

    async def test(rig: Rig) -> None:
        rig.below.promises = True
        with pytest.raises(SendError):
            rig.top.send(b"a", SendRecord(MessageContext(), {}), True)
        (part,) = rig.below.sent
        assert part.record is not None
        rig.below.receiver.outcome(part.record, None)
        assert not rig.above.outcomes

    with_rig(Half(), test)


def test_the_framer_sees_the_context_of_the_send() -> None:
    seen: list[Any] = []

    class Looks(Framer):
        def new_sent_message(self, data: Any, context: Any, end_of_message: bool) -> None:
            seen.append(context)

    async def test(rig: Rig) -> None:
        record = SendRecord(MessageContext(), {})
        rig.top.send(b"a", record, True)
        rig.top.send(b"a", None, True)
        assert seen == [record.context, None]

    with_rig(Looks(), test)


def test_what_a_send_delivers_comes_up_in_a_later_turn() -> None:
    class Echo(Framer):
        def new_sent_message(self, data: Any, context: Any, end_of_message: bool) -> None:
            self.deliver(None, data)

    async def test(rig: Rig) -> None:
        rig.top.send(b"a", None, True)
        rig.top.send(b"b", None, True)
        assert not rig.above.calls
        await turn()
        assert rig.above.messages == [b"a", b"b"]
        assert len(rig.above.calls) == 1

    with_rig(Echo(), test)


def test_answers_of_the_framer_leave_at_once() -> None:
    class Pong(Framer):
        def handle_received_data(self) -> None:
            self.advance_receive_cursor(1)
            self.send(b"pong")

    async def test(rig: Rig) -> None:
        rig.below.feed(b"!!")
        assert rig.below.messages == [b"pong", b"pong"]
        assert rig.below.names.count("flush") == 1

    with_rig(Pong(), test)


def test_actions_from_a_timer_take_effect() -> None:
    class Timer(Framer):
        armed = False

        def handle_received_data(self) -> None:
            if not self.armed:
                self.armed = True
                asyncio.get_running_loop().call_soon(self.fired)
            elif (parsed := self.parse(1, 1)) is not None:
                self.deliver_and_advance_receive_cursor(None, len(parsed.data), True)

        def fired(self) -> None:
            self.send(b"keep-alive")
            self.advance_receive_cursor(1)

    async def test(rig: Rig) -> None:
        rig.below.feed(b"xab")
        assert not rig.above.calls
        await turn()
        await turn()
        assert rig.below.messages == [b"keep-alive"]
        assert rig.below.names[-1] == "flush"
        assert rig.above.messages == [b"a", b"b"]

    with_rig(Timer(), test)


# -- start


def test_a_framer_that_is_ready_at_once_leaves_the_flow_below_unstarted() -> None:
    rig = Rig(Prefixed())
    asyncio.run(rig.flow.negotiate())
    assert not rig.below.calls


def test_ready_waits_for_the_framer() -> None:
    async def main() -> None:
        rig = Rig(Greeting())
        task = asyncio.create_task(rig.flow.negotiate())
        await turn()
        assert rig.below.wire == b"HELO"
        assert rig.below.names == ["start", "flush"]
        assert not task.done()
        rig.below.feed(b"O")
        rig.below.feed(b"Khello")
        rig.below.receiver.notified(SoftError("icmp"))
        await task
        rig.below.feed(b" world")
        rig.top.start(rig.above)
        rig.below.feed(b"!")
        assert not rig.above.calls
        await turn()
        assert rig.above.data == b"hello world!"
        assert rig.names() == ["received", "notified", "received", "received"]
        rig.check()

    asyncio.run(main())


def test_a_refusal_ends_the_candidate() -> None:
    async def main() -> None:
        rig = Rig(Greeting())
        task = asyncio.create_task(rig.flow.negotiate())
        await turn()
        rig.below.feed(b"NO")
        with pytest.raises(EstablishmentError, match="refused"):
            await task
        assert rig.below.names[-1] == "abort"
        rig.below.receiver.closed(None)
        rig.watched.check()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("finished", EstablishmentError),
        ("closed", ConnectionError),
        ("reset", OSError),
        ("garbage", EstablishmentError),
        ("bug", ConnectionError),
    ],
)
def test_whatever_ends_the_set_up_is_raised(what: str, error: type[Exception]) -> None:
    class Fragile(Greeting):
        def handle_received_data(self) -> None:
            if what == "garbage":
                raise ReceiveError("garbage", reason=Reason.DEFRAMING_FAILED)
            raise KeyError("bug")

    async def main() -> None:
        rig = Rig(Fragile())
        task = asyncio.create_task(rig.flow.negotiate())
        await turn()
        if what == "finished":
            rig.below.receiver.finished()
        elif what == "closed":
            rig.below.receiver.closed(None)
        elif what == "reset":
            rig.below.receiver.closed(ConnectionResetError("reset"))
        else:
            rig.below.feed(b"x")
        with pytest.raises(error):
            await task
        assert rig.below.names.count("abort") == (what not in ("closed", "reset"))
        rig.watched.check()

    asyncio.run(main())


def test_failing_at_once_never_starts_the_flow_below() -> None:
    class Refuses(Framer):
        def start(self) -> None:
            self.fail_connection(ValueError("not here"))

    rig = Rig(Refuses())
    with pytest.raises(EstablishmentError, match="not here"):
        asyncio.run(rig.flow.negotiate())
    assert rig.below.names == ["abort"]


def test_cancelling_the_set_up_aborts_the_flow_below() -> None:
    async def main() -> None:
        rig = Rig(Greeting())
        task = asyncio.create_task(rig.flow.negotiate())
        await turn()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert rig.below.names[-1] == "abort"
        rig.below.feed(b"OK")
        rig.below.receiver.closed(None)

    asyncio.run(main())


def test_what_is_held_for_a_late_start_is_bounded() -> None:
    async def main() -> None:
        rig = Rig(Greeting())
        task = asyncio.create_task(rig.flow.negotiate())
        await turn()
        rig.below.feed(b"OK")
        await task
        rig.below.feed(b"x" * 100_000)
        assert rig.below.names[-1] == "pause"
        rig.top.start(rig.above)
        await turn()
        assert rig.below.names[-1] == "resume"
        assert len(rig.above.data) == 100_000

    asyncio.run(main())


def test_what_escapes_from_above_ends_the_flow_also_where_it_was_held() -> None:
    class Breaks(Recorder):
        def received(self, parts: Any) -> None:
            raise ValueError("above broke")

    async def main() -> None:
        rig = Rig(Greeting())
        task = asyncio.create_task(rig.flow.negotiate())
        await turn()
        rig.below.feed(b"OKhello")
        await task
        above = Breaks()
        rig.top.start(above)
        await turn()
        assert rig.below.names[-1] == "abort"
        rig.below.receiver.closed(None)
        assert "above broke" in str(above.error)

    asyncio.run(main())


def test_an_end_before_start_is_not_lost() -> None:
    async def main() -> None:
        rig = Rig(Greeting())
        task = asyncio.create_task(rig.flow.negotiate())
        await turn()
        rig.below.feed(b"OKbye")
        await task
        rig.below.receiver.finished()
        rig.below.receiver.closed(None)
        rig.top.start(rig.above)
        assert not rig.above.calls
        await turn()
        assert rig.names() == ["received", "finished", "closed"]
        rig.check()

    asyncio.run(main())


def test_failing_between_ready_and_start_is_told_after_start() -> None:
    async def main() -> None:
        rig = Rig(Framer())
        await rig.flow.negotiate()
        rig.framer.fail_connection(ConnectionError("later"))
        assert rig.below.names == ["abort"]
        rig.top.start(rig.above)
        await turn()
        assert rig.names() == ["closed"]
        assert str(rig.above.error) == "later"

    asyncio.run(main())


class Dialogue(Framer):
    """A Message is a byte; the next is delivered when the one before is answered."""

    def __init__(self) -> None:
        self.asked = 0
        self.waits = False

    def handle_received_data(self) -> None:
        if not self.waits and self.parse(1, 1):
            self.waits = True
            self.deliver_and_advance_receive_cursor(None, 1, True)

    def handle_end_of_data(self) -> bool:
        self.asked += 1
        return not self.waits

    def new_sent_message(self, data: Any, context: Any, end_of_message: bool) -> None:
        super().new_sent_message(data, context, end_of_message)
        self.waits = False
        self.handle_received_data()


def test_the_end_waits_for_messages_that_a_framer_holds_back() -> None:
    async def main() -> None:
        rig = Rig(Dialogue())
        await rig.flow.negotiate()
        rig.top.start(rig.above)
        rig.below.feed(b"abc")
        rig.below.receiver.finished()
        for expected in (b"a", b"ab", b"abc"):
            assert rig.above.data == expected
            assert not rig.above.is_finished
            rig.top.send(b"yes", None, True)
            await turn()
        assert rig.names() == ["received"] * 3 + ["finished"]
        assert rig.framer.asked == 4
        rig.check()

    asyncio.run(main())


def test_a_framer_that_says_what_was_cut_off_is_heard() -> None:
    class Strict(Dialogue):
        def handle_end_of_data(self) -> bool:
            raise ReceiveError("half a frame", reason=Reason.DEFRAMING_FAILED)

    async def main() -> None:
        rig = Rig(Strict())
        await rig.flow.negotiate()
        rig.top.start(rig.above)
        rig.below.receiver.finished()
        assert rig.names() == ["failed"]
        assert "half a frame" in str(rig.above.calls[0].arguments[0])

    asyncio.run(main())


def test_a_framer_that_breaks_at_the_end_ends_its_connection() -> None:
    class Broken(Dialogue):
        def handle_end_of_data(self) -> bool:
            raise KeyError("bug")

    async def main() -> None:
        rig = Rig(Broken())
        await rig.flow.negotiate()
        rig.top.start(rig.above)
        rig.below.receiver.finished()
        assert rig.below.names[-1] == "abort"
        rig.below.receiver.closed(None)
        assert "KeyError" in str(rig.above.error)

    asyncio.run(main())


# -- stop and failure


async def greeted(rig: Rig) -> None:
    task = asyncio.create_task(rig.flow.negotiate())
    await turn()
    rig.below.feed(b"OK")
    await task
    rig.top.start(rig.above)
    await turn()


def test_close_waits_for_the_framer() -> None:
    async def main() -> None:
        rig = Rig(Greeting())
        await greeted(rig)
        rig.top.pause()
        rig.top.close()
        assert rig.below.wire == b"HELOBYE"
        assert "close" not in rig.below.names
        # An answer is waited for, so the flow below must deliver.
        assert rig.below.names[-2:] == ["resume", "flush"]
        rig.below.feed(b"late data, discarded")
        rig.below.feed(b"BYE")
        assert rig.below.names[-1] == "close"
        rig.below.receiver.closed(None)
        assert rig.names() == ["closed"]
        rig.check()

    asyncio.run(main())


@pytest.mark.parametrize("what", ["finished before", "finished after", "abort"])
def test_close_does_not_wait_for_an_answer_that_cannot_come(what: str) -> None:
    async def main() -> None:
        rig = Rig(Greeting())
        await greeted(rig)
        if what == "finished before":
            rig.below.receiver.finished()
        rig.top.close()
        if what == "finished after":
            rig.below.receiver.finished()
        if what == "abort":
            rig.top.abort()
        assert rig.below.names[-1] == ("abort" if what == "abort" else "close")
        rig.check()

    asyncio.run(main())


def test_finish_lets_the_framer_speak_before_the_half_close() -> None:
    async def main() -> None:
        rig = Rig(Greeting())
        await greeted(rig)
        rig.top.finish()
        assert rig.below.wire.endswith(b"BYE")
        assert "finish" not in rig.below.names
        rig.below.feed(b"more")
        rig.below.feed(b"BYE")
        assert rig.below.names[-2:] == ["flush", "finish"]
        rig.below.feed(b"still")
        assert rig.above.data == b"morestill"
        rig.top.close()
        assert rig.below.names[-1] == "close"
        assert rig.below.wire.count(b"BYE") == 1

    asyncio.run(main())


def test_the_default_closes_at_once() -> None:
    async def test(rig: Rig) -> None:
        rig.top.finish()
        rig.top.close()
        assert [name for name in rig.below.names if name != "flush"] == ["start", "finish", "close"]

    with_rig(Framer(), test)


@pytest.mark.parametrize("where", ["event", "send", "stop", "outside"])
def test_fail_connection_aborts_and_closed_tells_why(where: str) -> None:
    class Fails(Framer):
        def handle_received_data(self) -> None:
            self.deliver_and_advance_receive_cursor(None, 1, True)
            if where == "event":
                self.fail_connection(ValueError("protocol"))

        def new_sent_message(self, data: Any, context: Any, end_of_message: bool) -> None:
            self.fail_connection(ValueError("protocol"))

        def stop(self) -> None:
            self.fail_connection(ValueError("protocol"))

    async def test(rig: Rig) -> None:
        if where == "event":
            rig.below.feed(b"a")
            assert rig.above.messages == [b"a"]
        elif where == "send":
            rig.top.send(b"a", None, True)
        elif where == "stop":
            rig.top.close()
        else:
            rig.framer.fail_connection(ValueError("protocol"))
        assert rig.below.names[-1] == "abort"
        assert rig.below.names.count("abort") == 1
        await turn()
        rig.below.receiver.closed(None)
        assert rig.names()[-1] == "closed"
        assert isinstance(rig.above.error, ConnectionError)
        assert isinstance(rig.above.error.__cause__, ValueError)
        with pytest.raises(SendError):
            rig.framer.send(b"too late")

    with_rig(Fails(), test)


# -- pass-through and layers above


@pytest.mark.requirement("R-9623-6.2-01")
def test_passthrough_touches_nothing_both_ways() -> None:
    class Socks(Framer):
        boundaries = False

        def start(self) -> None:
            self.send(b"CONNECT")

        def handle_received_data(self) -> None:
            if self.parse(2, 2) is not None:
                self.advance_receive_cursor(2)
                self.start_passthrough()
                self.make_connection_ready()

    async def main() -> None:
        rig = Rig(Socks())
        task = asyncio.create_task(rig.flow.negotiate())
        await turn()
        rig.below.feed(b"O")
        rig.below.feed(b"Kleft over")
        await task
        rig.top.start(rig.above)
        await turn()
        chunk, data = b"chunk", b"data"
        rig.below.feed(chunk)
        assert rig.above.data == b"left overchunk"
        assert rig.above.parts[-1][0] is chunk
        record = SendRecord(MessageContext(), {}, 4)
        rig.top.send(data, record, False)
        assert rig.below.sent[-1].buffers[0] is data
        assert rig.below.sent[-1].record is record
        rig.below.receiver.finished()
        rig.top.close()
        assert rig.above.is_finished
        assert rig.below.names[-1] == "close"
        rig.check()

    asyncio.run(main())


def test_passthrough_begins_behind_what_was_claimed() -> None:
    class Header(Framer):
        def handle_received_data(self) -> None:
            self.advance_receive_cursor(4)
            self.deliver_and_advance_receive_cursor(None, 2, True)
            self.start_passthrough()

    async def test(rig: Rig) -> None:
        rig.below.feed(b"he")
        rig.below.feed(b"ada")
        rig.below.feed(b"braw", b"rest")
        assert rig.above.parts == [
            (b"a", None, False),
            (b"b", None, True),
            (b"raw", None, False),
            (b"rest", None, False),
        ]

    with_rig(Header(), test)


def test_passthrough_from_the_start() -> None:
    class Nothing(Framer):
        def start(self) -> None:
            self.start_passthrough()
            self.make_connection_ready()

        def handle_received_data(self) -> None:
            raise AssertionError

    async def test(rig: Rig) -> None:
        chunk = b"abc"
        rig.below.feed(chunk)
        assert rig.above.parts[0][0] is chunk

    with_rig(Nothing(), test)


def test_layers_can_only_be_prepended_before_ready() -> None:
    async def test(rig: Rig) -> None:
        with pytest.raises(RuntimeError, match="before make_connection_ready"):
            rig.framer.prepend_framer(LengthPrefix())

    with_rig(Framer(), test)


def test_nothing_goes_up_after_abort() -> None:
    async def test(rig: Rig) -> None:
        rig.framer.deliver(None, b"pending")
        rig.top.abort()
        await turn()
        rig.below.receiver.closed(ConnectionError("aborted"))
        assert rig.names() == ["closed"]

    with_rig(Framer(), test)
