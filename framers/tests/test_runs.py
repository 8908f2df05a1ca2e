"""Messages of one length in a row are cut in one go; nothing else may change by it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.plugin import ReceiveError
from taps_framers import LengthPrefix
from taps_framers.length_prefix import RUN

#: Long runs, short ones, and what just misses being one.
RUNS = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from([1, 2, 5, RUN - 1, RUN, RUN + 1, 3 * RUN])),
    min_size=1,
    max_size=8,
)


@given(RUNS, st.sampled_from([1, 2, 4, 8]), st.sampled_from(["big", "little"]), st.data())
def test_runs_of_messages_are_found_as_they_were_sent(
    runs: list[tuple[int, int]], width: int, byteorder: Any, data: st.DataObject
) -> None:
    definition = LengthPrefix(width, byteorder=byteorder)
    messages = [
        bytes([number % 256]) * min(length, definition.create().max_length)
        for number, (length, count) in enumerate(runs)
        for _ in range(count)
    ]
    sender = definition.create()
    wire = b"".join(sender.encode(message, None) for message in messages)  # type: ignore[misc]  # short ones are joined
    cut = data.draw(st.integers(0, len(wire)))
    receiver = definition.create()
    parts: list[Any] = []
    rest = b""
    for piece in (wire[:cut], wire[cut:]):
        consumed = receiver.decode(rest + piece, parts)
        rest = (rest + piece)[consumed:]
    assert rest == b""
    found, message = [], b""
    for payload, _, end in parts:
        assert type(payload) is bytes
        message += payload
        if end:
            found.append(message)
            message = b""
    assert found == messages


def test_a_run_of_messages_that_are_too_long_is_refused() -> None:
    codec = LengthPrefix(4, max_length=10).create()
    parts: list[Any] = []
    with pytest.raises(ReceiveError):
        codec.decode(((11).to_bytes(4) + bytes(11)) * 100, parts)
    assert parts == []
