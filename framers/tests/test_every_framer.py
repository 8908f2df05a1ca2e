"""What holds for every framer: over a stream, over datagrams, above another framer."""

import dataclasses
import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taps_core.plugin import (
    Codec,
    Flow,
    FramerDefinition,
    Reason,
    ReceiveError,
    SendError,
    SendRecord,
)
from taps_core.plugin import MessageContext as Context
from taps_core.runtime.framing import CodecFlow
from taps_core.testing import CheckedFlow, Recorder
from taps_core.testing.scripted import ScriptedFlow
from taps_framers import TLV, JSONLines, LengthPrefix, Line, Netstring, Varint, taps_framers

# Every combination there is, which takes its time.
pytestmark = pytest.mark.slow

FRAMERS: dict[str, FramerDefinition] = {
    "length-prefix": LengthPrefix(),
    "length-prefix-1": LengthPrefix(1),
    "length-prefix-2-little": LengthPrefix(2, byteorder="little"),
    "length-prefix-8": LengthPrefix(8),
    "line": Line(),
    "line-no-crlf": Line(accept_crlf=False),
    "line-crlf": Line(b"\r\n"),
    "line-self-overlapping": Line(b"aba"),
    "tlv": TLV(),
    "tlv-2-1-little": TLV(2, 1, byteorder="little"),
    "netstring": Netstring(),
    "varint": Varint(),
    "json-lines": JSONLines(),
}
BYTE_FRAMERS = [name for name, definition in FRAMERS.items() if not definition.objects]

every_framer = pytest.mark.parametrize("name", FRAMERS)
every_byte_framer = pytest.mark.parametrize("name", BYTE_FRAMERS)

OBJECTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\n", max_size=3), inner),
    max_leaves=6,
)


def messages_for(name: str) -> st.SearchStrategy[list[Any]]:
    """Messages that the framer can carry."""
    definition = FRAMERS[name]
    if definition.objects:
        return st.lists(OBJECTS, max_size=6)
    if isinstance(definition, Line):
        # Bytes that delimiters are made of, so that what is nearly one occurs.
        near = st.lists(st.sampled_from([b"a", b"b", b"\r", b"\n", b"xyz"]), max_size=8)
        return st.lists(near.map(b"".join), max_size=6).map(
            lambda found: [message for message in found if can_send(definition, message)]
        )
    return st.lists(st.binary(max_size=200), max_size=6)


def can_send(definition: FramerDefinition, message: Any) -> bool:
    try:
        codec_of(definition).encode(message, None)
    except SendError:
        return False
    return True


def codec_of(definition: FramerDefinition) -> Codec:
    codec = definition.create()
    assert isinstance(codec, Codec)
    return codec


def frame(definition: FramerDefinition, message: Any) -> bytes:
    encoded = codec_of(definition).encode(message, None)
    return encoded if isinstance(encoded, bytes) else b"".join(encoded)


class Rig:
    """A framer between a scripted flow and a recorder, both sides watched."""

    def __init__(self, *definitions: FramerDefinition, datagrams: bool = False) -> None:
        self.below = ScriptedFlow()
        self.watched = [CheckedFlow(self.below)]
        top: Flow = self.watched[0]
        self.codecs = [codec_of(definition) for definition in definitions]
        for codec in self.codecs:
            top = CodecFlow(top, codec, datagrams=datagrams)
        if not self.codecs[-1].objects:  # those watch that bytes come up
            top = CheckedFlow(top)
            self.watched.append(top)
        self.top = top
        self.above = Recorder()
        top.start(self.above)

    def feed(self, *chunks: bytes, end_of_message: bool = False) -> None:
        self.below.feed(*chunks, end_of_message=end_of_message)

    @property
    def messages(self) -> list[Any]:
        if self.codecs[-1].objects:
            return [data for data, _, _ in self.above.parts]
        return self.above.messages

    @property
    def failures(self) -> list[tuple[Reason, bool]]:
        return [
            (call.arguments[0].reason, call.arguments[1]) for call in self.above.named("failed")
        ]

    def check(self) -> None:
        for flow in self.watched:
            flow.check()


def chunked(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)] or [data]


# -- over a stream


@every_framer
@given(data=st.data())
def test_any_segments_give_the_same_messages(name: str, data: st.DataObject) -> None:
    messages = data.draw(messages_for(name))
    rig = Rig(FRAMERS[name])
    for message in messages:
        rig.top.send(message, None, True)
    cuts = data.draw(st.lists(st.integers(0, 1000), max_size=12))
    for chunk in chunked(rig.below.wire, cuts):
        rig.feed(chunk)
    rig.below.receiver.finished()
    assert rig.messages == messages
    assert rig.above.is_finished
    assert not rig.failures
    rig.check()


@every_framer
@given(data=st.data())
def test_one_byte_at_a_time_gives_the_same_messages(name: str, data: st.DataObject) -> None:
    messages = data.draw(messages_for(name))
    rig = Rig(FRAMERS[name])
    for message in messages:
        for byte in frame(FRAMERS[name], message):
            rig.feed(bytes((byte,)))
    assert rig.messages == messages
    rig.check()


@every_framer
def test_two_frames_in_one_segment_come_up_in_one_call(name: str) -> None:
    rig = Rig(FRAMERS[name])
    rig.feed(frame(FRAMERS[name], "one" if FRAMERS[name].objects else b"one") * 2)
    assert len(rig.above.named("received")) == 1
    assert len(rig.messages) == 2


@every_byte_framer
def test_parts_of_a_message_come_up_as_they_arrive(name: str) -> None:
    rig = Rig(FRAMERS[name])
    wire = frame(FRAMERS[name], b"x" * 200)
    rig.feed(wire[:150])
    here = len(rig.above.data)
    assert here >= 130
    assert all(not end for _, _, end in rig.above.parts)
    rig.feed(wire[150:])
    assert rig.messages == [b"x" * 200]


@every_framer
def test_nothing_already_seen_is_shown_to_the_codec_again(name: str) -> None:
    definition = FRAMERS[name]
    codec = codec_of(definition)
    sizes: list[int] = []
    decode = codec.decode

    def watched(data: bytes, parts: list[Any]) -> int:
        sizes.append(len(data))
        return decode(data, parts)

    codec.decode = watched  # type: ignore[method-assign]  # a spy
    flow = CodecFlow(below := ScriptedFlow(), codec, datagrams=False)
    flow.start(above := Recorder())
    message: Any = "a" * 250 if definition.objects else b"a" * 250
    for byte in frame(definition, message):
        below.feed(bytes((byte,)))
    # At most a header and a byte: so a long Message is neither searched nor copied again.
    assert max(sizes) <= 16
    assert [message] == ([above.parts[0][0]] if definition.objects else above.messages)


@every_framer
def test_a_stream_that_ends_inside_a_frame_is_an_error(name: str) -> None:
    wire = frame(FRAMERS[name], "xyz" if FRAMERS[name].objects else b"xyz")
    for length in range(1, len(wire)):
        rig = Rig(FRAMERS[name])
        rig.feed(wire + wire[:length])
        rig.below.receiver.finished()
        assert rig.failures == [(Reason.DEFRAMING_FAILED, True)]
        assert not rig.above.is_finished
        assert len([part for part in rig.above.parts if part[2]]) == 1
        rig.below.receiver.closed(None)
        assert rig.above.is_closed
        rig.check()


@every_byte_framer
def test_zero_length_messages_are_messages(name: str) -> None:
    rig = Rig(FRAMERS[name])
    for message in (b"", b"x", b"", ()):
        rig.top.send(message, None, True)
    rig.feed(rig.below.wire)
    assert rig.messages == [b"", b"x", b"", b""]


@every_byte_framer
def test_several_buffers_are_one_message(name: str) -> None:
    rig = Rig(FRAMERS[name])
    rig.top.send((b"one", b"", b"two"), None, True)
    assert len(rig.below.sent) == 1
    rig.feed(rig.below.wire)
    assert rig.messages == [b"onetwo"]


@pytest.mark.parametrize("name", ["length-prefix", "tlv", "netstring", "varint"])
def test_a_large_message_is_not_copied_behind_its_header(name: str) -> None:
    rig = Rig(FRAMERS[name])
    large = b"x" * 100_000
    rig.top.send(large, None, True)
    assert any(buffer is large for buffer in rig.below.sent[0].buffers)
    rig.feed(rig.below.wire)
    assert rig.messages == [large]


# -- over datagrams


@every_framer
@given(data=st.data())
def test_a_datagram_holds_any_number_of_frames(name: str, data: st.DataObject) -> None:
    datagrams = data.draw(st.lists(messages_for(name), max_size=4))
    rig = Rig(FRAMERS[name], datagrams=True)
    for messages in datagrams:
        rig.feed(b"".join(frame(FRAMERS[name], m) for m in messages), end_of_message=True)
    assert rig.messages == [message for messages in datagrams for message in messages]
    assert not rig.failures
    rig.check()


@every_framer
def test_each_message_is_one_datagram(name: str) -> None:
    rig = Rig(FRAMERS[name], datagrams=True)
    message: Any = {"a": 1} if FRAMERS[name].objects else b"hello"
    rig.top.send(message, None, True)
    rig.top.send(message, None, True)
    assert rig.below.messages == [frame(FRAMERS[name], message)] * 2


@every_framer
def test_a_frame_that_is_cut_off_costs_its_datagram_alone(name: str) -> None:
    one, two = ("one", "two") if FRAMERS[name].objects else (b"one", b"two")
    good = frame(FRAMERS[name], one)
    bad = frame(FRAMERS[name], two)
    for length in range(1, len(bad)):
        rig = Rig(FRAMERS[name], datagrams=True)
        rig.feed(good + bad[:length], good, end_of_message=True)
        assert [data for data, _, end in rig.above.parts if end] == [one, one]
        assert all(end for _, _, end in rig.above.parts)
        assert rig.failures == [(Reason.DEFRAMING_FAILED, False)]
        assert [call.name for call in rig.above.calls] == ["received", "failed", "received"]
        rig.check()


# -- above another framer


@pytest.mark.requirement("G-9622-9.1.2.1-01")
@every_framer
@pytest.mark.parametrize("below", BYTE_FRAMERS)
@settings(max_examples=15)
@given(data=st.data())
def test_above_another_framer_and_any_segments(name: str, below: str, data: st.DataObject) -> None:
    messages = [
        message
        for message in data.draw(messages_for(name))
        if can_send(FRAMERS[below], frame(FRAMERS[name], message))
    ]
    rig = Rig(FRAMERS[below], FRAMERS[name])
    for message in messages:
        rig.top.send(message, None, True)
    # The one added last ran first: its frame is inside the other's.
    assert rig.below.messages == [
        frame(FRAMERS[below], frame(FRAMERS[name], message)) for message in messages
    ]
    for chunk in chunked(rig.below.wire, data.draw(st.lists(st.integers(0, 1000), max_size=8))):
        rig.feed(chunk)
    assert rig.messages == messages
    assert not rig.failures
    rig.check()


@every_framer
def test_a_frame_may_not_span_messages_of_the_framer_below(name: str) -> None:
    rig = Rig(LengthPrefix(2), FRAMERS[name])
    wire = frame(FRAMERS[name], "xyz" if FRAMERS[name].objects else b"xyz")
    rig.feed(frame(LengthPrefix(2), wire), frame(LengthPrefix(2), wire[:-1]))
    assert rig.failures == [(Reason.DEFRAMING_FAILED, True)]
    assert len([part for part in rig.above.parts if part[2]]) == 1


# -- bounds and garbage


def limited(name: str, max_length: Any) -> FramerDefinition:
    definition: Any = FRAMERS[name]
    limited: FramerDefinition = dataclasses.replace(definition, max_length=max_length)
    return limited


def json_of(length: int) -> str:
    return "a" * (length - 2)


@every_framer
def test_max_length_is_the_largest_message_both_ways(name: str) -> None:
    make: Callable[[int], Any] = json_of if FRAMERS[name].objects else (lambda n: b"x" * n)
    small = Rig(limited(name, 50))
    large = Rig(limited(name, 100))
    for rig in (small, large):
        rig.top.send(make(50), None, True)
    with pytest.raises(SendError) as refused:
        small.top.send(make(51), None, True)
    assert refused.value.reason is Reason.MESSAGE_TOO_LARGE
    large.top.send(make(51), None, True)

    small.feed(small.below.wire)
    assert small.messages == [make(50)]
    small.feed(large.below.wire)
    assert small.failures == [(Reason.DEFRAMING_FAILED, True)]
    assert [data for data, _, end in small.above.parts if end] == [make(50)] * 2


@every_framer
@pytest.mark.parametrize("datagrams", [False, True])
@given(garbage=st.lists(st.binary(max_size=40) | st.text('0123456789:,{}[\n\r"').map(str.encode)))
def test_garbage_is_parsed_or_refused(name: str, datagrams: bool, garbage: list[bytes]) -> None:
    rig = Rig(limited(name, 20), datagrams=datagrams)
    for chunk in garbage:
        rig.feed(chunk, end_of_message=datagrams)
    rig.below.receiver.closed(None)
    assert all(reason is Reason.DEFRAMING_FAILED for reason, _ in rig.failures)
    assert rig.above.is_closed
    rig.check()


@every_framer
@pytest.mark.parametrize("byte", [b"\x00", b"\xff", b"1", b"{", b"\r"])
def test_an_endless_message_keeps_memory_bounded(name: str, byte: bytes) -> None:
    definition = limited(name, 10_000)

    class Forgets(Recorder):
        def received(self, parts: Any) -> None:
            pass

    flow = CodecFlow(below := ScriptedFlow(), codec_of(definition), datagrams=False)
    flow.start(Forgets())
    chunk = byte * 1000
    below.feed(chunk)
    tracemalloc.start()
    try:
        for _ in range(400):
            below.feed(chunk)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000


@every_framer
def test_after_a_fatal_failure_only_closed_comes_up(name: str) -> None:
    rig = Rig(limited(name, 20))
    wire = frame(FRAMERS[name], "x" * 100 if FRAMERS[name].objects else b"x" * 100)
    rig.feed(wire)
    assert rig.failures == [(Reason.DEFRAMING_FAILED, True)]
    before = len(rig.above.calls)
    rig.feed(wire)
    rig.below.receiver.finished()
    assert len(rig.above.calls) == before
    rig.top.send(None if FRAMERS[name].objects else b"still", None, True)
    rig.below.receiver.closed(None)
    assert rig.above.is_closed
    rig.check()


# -- in parts


@every_byte_framer
@given(data=st.data())
def test_a_message_sent_in_parts_is_one_frame(name: str, data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
    whole = b"".join(parts)
    if not can_send(FRAMERS[name], whole):
        return
    length = len(whole) if data.draw(st.booleans()) else None
    record = None if length is None else SendRecord(Context(), {}, length)
    rig = Rig(FRAMERS[name])
    for part in parts[:-1]:
        rig.top.send(part, record, False)
    rig.top.send(parts[-1], record, True)
    assert rig.below.messages == [frame(FRAMERS[name], whole)]
    rig.check()


@pytest.mark.parametrize("name", ["length-prefix", "tlv", "netstring", "varint"])
def test_with_the_length_known_parts_leave_as_they_come(name: str) -> None:
    rig = Rig(FRAMERS[name])
    record = SendRecord(Context(), {}, 6)
    rig.top.send(b"abc", record, False)
    assert rig.below.wire.endswith(b"abc")
    rig.top.send(b"def", record, True)
    assert rig.below.messages == [frame(FRAMERS[name], b"abcdef")]


@pytest.mark.parametrize("outer", BYTE_FRAMERS)
@pytest.mark.parametrize("inner", BYTE_FRAMERS)
def test_a_known_length_reaches_the_framer_below(outer: str, inner: str) -> None:
    record = SendRecord(Context(), {}, 6)
    rig = Rig(FRAMERS[outer], FRAMERS[inner])
    if not can_send(FRAMERS[outer], frame(FRAMERS[inner], b"abcdef")):
        return
    rig.top.send(b"abc", record, False)
    rig.top.send(b"def", record, True)
    assert rig.below.messages == [frame(FRAMERS[outer], frame(FRAMERS[inner], b"abcdef"))]
    if not any(name.startswith("line") for name in (outer, inner)):
        assert len(rig.below.sent) == 2


@every_byte_framer
def test_parts_beyond_max_length_are_refused_and_forgotten(name: str) -> None:
    rig = Rig(limited(name, 10))
    rig.top.send(b"xxxxxx", None, False)
    for end in (False, True):
        with pytest.raises(SendError) as refused:
            rig.top.send(b"xxxxx", None, end)
        assert refused.value.reason is Reason.MESSAGE_TOO_LARGE
    assert not rig.below.sent
    rig.top.send(b"next", None, True)
    assert rig.below.messages == [frame(FRAMERS[name], b"next")]


# -- definitions


def test_names_are_those_of_the_documentation() -> None:
    assert [definition.name for definition in taps_framers()] == [
        "length-prefix", "line", "tlv", "netstring", "varint", "json-lines",
    ]  # fmt: skip


@pytest.mark.requirement("G-9622-7.4-04")
@every_framer
def test_each_connection_gets_a_framer_of_its_own(name: str) -> None:
    definition: Any = FRAMERS[name]
    first, second = definition.create(), definition.create()
    assert first is not second
    assert definition == dataclasses.replace(definition)
    assert hash(definition) == hash(dataclasses.replace(definition))
    with pytest.raises(dataclasses.FrozenInstanceError):
        definition.max_length = 1


@every_framer
@pytest.mark.parametrize("bad", [0, -1, None, 1.5, True, "10"])
def test_a_max_length_that_bounds_nothing_is_refused(name: str, bad: Any) -> None:
    with pytest.raises(ValueError, match="max_length"):
        limited(name, bad)


def test_a_deframing_error_says_what_is_wrong() -> None:
    with pytest.raises(ReceiveError, match=r"netstring: b'x' is no length"):
        codec_of(Netstring()).decode(b"x:", [])
    with pytest.raises(ReceiveError, match="at most 1000 allowed"):
        codec_of(LengthPrefix(max_length=1000)).decode(b"\0\0\xff\xff", [])
    with pytest.raises(ReceiveError, match="not JSON"):
        codec_of(JSONLines()).decode(json.dumps("x").encode()[:-1] + b"\n", [])
