"""The bytes of RFC 1055."""

import pytest

from taps_core.plugin import ReceiveError, SendError
from taps_slip import Slip


def decoded(codec, *reads):
    parts, rest = [], b""
    for read in reads:
        rest += read
        rest = rest[codec.decode(rest, parts) :]
    messages, begun = [], b""
    for data, _, end in parts:
        begun += data
        if end:
            messages.append(begun)
            begun = b""
    return messages, begun + rest


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (b"hello", b"hello\xc0"),
        (b"\xc0", b"\xdb\xdc\xc0"),
        (b"\xdb", b"\xdb\xdd\xc0"),
        (b"a\xdb\xdcb\xc0c", b"a\xdb\xdd\xdcb\xdb\xdcc\xc0"),
        ((b"in ", b"two"), b"in two\xc0"),
    ],
)
def test_the_wire_format(message, wire):
    assert Slip().create().encode(message, None) == wire
    whole = message if isinstance(message, bytes) else b"".join(message)
    assert decoded(Slip().create(), wire) == ([whole], b"")
    assert decoded(Slip().create(), *(bytes([byte]) for byte in wire)) == ([whole], b"")


def test_ends_in_a_row_are_no_messages():
    assert decoded(Slip().create(), b"\xc0\xc0one\xc0\xc0", b"\xc0two\xc0") == (
        [b"one", b"two"],
        b"",
    )


def test_a_long_message_goes_up_as_it_comes():
    codec = Slip().create()
    assert decoded(codec, b"be", b"gun\xdb") == ([], b"begun\xdb")
    assert codec.incomplete
    codec.reset()
    assert not codec.incomplete


@pytest.mark.parametrize("wire", [b"\xdb\xc0", b"\xdbx\xc0", b"ab\xdbx", b"\xdb\xdb"])
def test_what_follows_esc_is_one_of_two(wire):
    with pytest.raises(ReceiveError, match="follows ESC"):
        decoded(Slip().create(), wire + b"\xc0")


def test_a_message_has_a_byte_at_least_and_max_length_at_most():
    codec = Slip(max_length=3).create()
    assert decoded(codec, codec.encode(b"\xc0\xc0\xc0", None)) == ([b"\xc0\xc0\xc0"], b"")
    for message in (b"", b"four"):
        with pytest.raises(SendError):
            codec.encode(message, None)
    for reads in ([b"four\xc0"], [b"fo", b"ur"]):
        with pytest.raises(ReceiveError, match="more than 3 bytes"):
            decoded(Slip(max_length=3).create(), *reads)
