"""What each framer writes and reads, byte for byte, and what is its own."""

from typing import Any

import pytest

from taps_core.plugin import (
    Codec,
    FramerDefinition,
    MessageContext,
    PropertyError,
    Reason,
    ReceiveError,
    SendError,
    SendRecord,
)
from taps_framers import TLV, JSONLines, LengthPrefix, Line, Netstring, Varint


def encode(definition: FramerDefinition, data: Any, record: SendRecord | None = None) -> bytes:
    codec = definition.create()
    assert isinstance(codec, Codec)
    encoded = codec.encode(data, record)
    return encoded if isinstance(encoded, bytes) else b"".join(encoded)


def decode(definition: FramerDefinition, data: bytes) -> list[Any]:
    codec = definition.create()
    assert isinstance(codec, Codec)
    parts: list[Any] = []
    assert codec.decode(data, parts) == len(data)
    assert not codec.incomplete
    assert all(end for _, _, end in parts)
    return [payload for payload, _, _ in parts]


def refused(definition: FramerDefinition, data: bytes) -> ReceiveError:
    codec = definition.create()
    assert isinstance(codec, Codec)
    with pytest.raises(ReceiveError) as error:
        codec.decode(data, [])
    assert error.value.reason is Reason.DEFRAMING_FAILED
    return error.value


@pytest.mark.parametrize(
    ("definition", "message", "wire"),
    [
        (LengthPrefix(), b"abc", b"\x00\x00\x00\x03abc"),
        (LengthPrefix(1), b"abc", b"\x03abc"),
        (LengthPrefix(2, byteorder="little"), b"abc", b"\x03\x00abc"),
        (LengthPrefix(8), b"", bytes(8)),
        (Line(), b"abc", b"abc\n"),
        (Line(b"\0"), b"a\nb", b"a\nb\0"),
        (TLV(), b"abc", b"\x00\x00\x00\x00\x03abc"),
        (TLV(2, 1, default_type=258), b"abc", b"\x01\x02\x03abc"),
        (Netstring(), b"hello world!", b"12:hello world!,"),
        (Netstring(), b"", b"0:,"),
        (Varint(), b"x" * 127, b"\x7f" + b"x" * 127),
        (Varint(), b"x" * 300, b"\xac\x02" + b"x" * 300),
        (JSONLines(), {"a": [1, None, "ü"]}, '{"a":[1,null,"ü"]}\n'.encode()),
        (JSONLines(), "line\nbreak", b'"line\\nbreak"\n'),
    ],
)
def test_the_wire_format(definition: FramerDefinition, message: Any, wire: bytes) -> None:
    assert encode(definition, message) == wire
    assert decode(definition, wire) == [message]


# -- length-prefix


def test_a_narrow_length_limits_the_message() -> None:
    assert encode(LengthPrefix(1), b"x" * 255)[0] == 255
    with pytest.raises(SendError) as error:
        encode(LengthPrefix(1), b"x" * 256)
    assert error.value.reason is Reason.MESSAGE_TOO_LARGE


@pytest.mark.parametrize("width", [0, 3, 16, -1, None])
def test_widths_that_are_none_are_refused(width: Any) -> None:
    with pytest.raises(PropertyError, match="1, 2, 4 or 8"):
        LengthPrefix(width)
    with pytest.raises(PropertyError, match="1, 2, 4 or 8"):
        TLV(1, width)


def test_byte_orders_that_are_none_are_refused() -> None:
    order: Any = "middle"
    with pytest.raises(PropertyError, match="byteorder"):
        LengthPrefix(byteorder=order)


def test_an_absurd_length_is_refused_before_anything_is_kept() -> None:
    refused(LengthPrefix(8), b"\xff" * 8)


# -- line


def test_crlf_is_a_line_end_too() -> None:
    assert decode(Line(), b"one\r\ntwo\n\r\n\n") == [b"one", b"two", b"", b""]
    assert decode(Line(accept_crlf=False), b"one\r\ntwo\n") == [b"one\r", b"two"]
    assert decode(Line(b"\r\n"), b"one\ntwo\r\n") == [b"one\ntwo"]


def test_a_return_inside_a_line_stays() -> None:
    assert decode(Line(), b"a\rb\r\r\n") == [b"a\rb\r"]


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (Line(), b"two\nlines"),
        (Line(), b"return\r"),
        (Line(b"--"), b"a--b"),
        (Line(b"--"), b"a-"),
    ],
)
def test_what_would_arrive_as_something_else_is_not_sent(
    definition: FramerDefinition, message: bytes
) -> None:
    with pytest.raises(SendError) as error:
        encode(definition, message)
    assert error.value.reason is Reason.INVALID_MESSAGE_PROPERTIES


def test_an_empty_delimiter_is_refused() -> None:
    with pytest.raises(PropertyError, match="delimiter"):
        Line(b"")
    text: Any = "\n"
    with pytest.raises(PropertyError, match="delimiter"):
        Line(text)


def test_the_limit_counts_a_line_without_its_end() -> None:
    definition = Line(max_length=3)
    assert decode(definition, b"abc\r\nabc\n") == [b"abc", b"abc"]
    assert refused(definition, b"abcd\n").detail == "too-large"
    assert refused(definition, b"abcd").detail == "too-large"


# -- tlv


@pytest.mark.requirement("R-9622-9.1.2.2-01")
def test_the_type_travels_in_the_context() -> None:
    context = MessageContext().add("tlv", "type", 7)
    wire = encode(TLV(), b"abc", SendRecord(context, {}))
    assert wire == b"\x07\x00\x00\x00\x03abc"
    codec = TLV().create()
    parts: list[Any] = []
    codec.decode(wire + b"\x08\x00\x00\x00\x00", parts)
    assert [(data, found.get("tlv", "type")) for data, found, _ in parts] == [(b"abc", 7), (b"", 8)]


def test_all_parts_of_a_message_share_one_context() -> None:
    codec = TLV().create()
    parts: list[Any] = []
    wire = encode(TLV(default_type=3), b"abc")
    codec.decode(wire[:6], parts)
    codec.decode(wire[6:], parts)
    assert len(parts) == 2
    assert parts[0][1] is parts[1][1]
    assert parts[0][1].get("tlv", "type") == 3


@pytest.mark.parametrize("kind", [-1, 256, "7", None, 1.0])
def test_types_that_do_not_fit_are_not_sent(kind: Any) -> None:
    context = MessageContext().add("tlv", "type", kind)
    with pytest.raises(SendError) as error:
        encode(TLV(), b"abc", SendRecord(context, {}))
    assert error.value.reason is Reason.INVALID_MESSAGE_PROPERTIES
    assert error.value.context is context


def test_a_default_type_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PropertyError, match="default_type"):
        TLV(default_type=256)


# -- netstring


@pytest.mark.parametrize(
    "wire",
    [b":", b"x", b"-1:,", b"+1:a,", b" 1:a,", b"1_0:", b"01:a,", b"00:", b"3:abc;", b"\xb2:"],
)
def test_what_is_no_netstring_is_refused_at_once(wire: bytes) -> None:
    refused(Netstring(), wire)


def test_a_length_without_end_is_refused_as_soon_as_it_is_too_long() -> None:
    assert Netstring(max_length=999).create().decode(b"123", []) == 0
    refused(Netstring(max_length=999), b"1234")


def test_a_message_does_not_end_before_its_comma() -> None:
    codec = Netstring().create()
    parts: list[Any] = []
    codec.decode(b"3:abc", parts)
    assert [end for _, _, end in parts] == [False]
    assert codec.incomplete
    with pytest.raises(ReceiveError, match="comma"):
        codec.decode(b";", parts)


# -- varint


def test_lengths_written_longer_than_needed_are_accepted() -> None:
    assert decode(Varint(), b"\x83\x00abc") == [b"abc"]
    assert decode(Varint(), b"\x83" + b"\x80" * 8 + b"\x00abc") == [b"abc"]


def test_lengths_of_more_than_ten_bytes_are_refused() -> None:
    refused(Varint(), b"\x80" * 10)
    assert Varint().create().decode(b"\x80" * 9, []) == 0


# -- json-lines


def test_blank_lines_are_ignored() -> None:
    assert decode(JSONLines(), b'\n \r\n{"a": 1}\r\n\n') == [{"a": 1}]


@pytest.mark.parametrize(
    "wire",
    [
        b"{\n",
        b"NaN\n",
        b"[Infinity]\n",
        b"'a'\n",
        b"1 2\n",
        b'"\xff"\n',
        b"\xef\xbb\xbf1\n",
        b"[" * 200_000 + b"\n",
        b"1" * 5000 + b"\n",
        '"a"\n'.encode("utf-16"),
    ],
)
def test_what_is_no_json_is_refused(wire: bytes) -> None:
    refused(JSONLines(), wire)


class _Foreign:
    pass


def _nested(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    "message",
    [
        _Foreign(),
        b"bytes",
        {1, 2},
        float("nan"),
        float("inf"),
        "\ud800",
        {(1,): 2},
        _nested(200_000),
    ],
    ids=["object", "bytes", "set", "nan", "inf", "surrogate", "key", "nested"],
)
def test_what_cannot_be_json_is_not_sent(message: Any) -> None:
    with pytest.raises(SendError) as error:
        encode(JSONLines(), message)
    assert error.value.reason is Reason.INVALID_MESSAGE_PROPERTIES


def test_the_limit_counts_bytes_not_characters() -> None:
    definition = JSONLines(max_length=4)
    assert encode(definition, "ü") == '"ü"\n'.encode()
    with pytest.raises(SendError) as error:
        encode(definition, "üü")
    assert error.value.reason is Reason.MESSAGE_TOO_LARGE
