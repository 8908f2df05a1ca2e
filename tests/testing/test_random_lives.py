"""Whatever both ends do in whatever order, the rules hold and nothing is left."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taps_core.model.errors import SendError
from taps_core.testing import (
    MemoryDatagram,
    MemoryMessages,
    MemoryNetwork,
    MemorySecure,
    MemoryStream,
    Rig,
    run,
)

ACTIONS = ("send", "big", "gather", "flush", "pause", "resume", "finish", "close", "abort", "turn")
Lives = list[tuple[bool, str]]

lives = st.lists(st.tuples(st.booleans(), st.sampled_from(ACTIONS)), max_size=30)


@pytest.mark.parametrize("kind", [MemoryStream, MemoryDatagram, MemoryMessages, MemorySecure])
@settings(deadline=None, max_examples=150)
@given(lives=lives)
def test_every_life_keeps_the_rules(
    kind: type[MemoryStream | MemoryDatagram | MemoryMessages], lives: Lives
) -> None:
    network = MemoryNetwork()

    async def main() -> None:
        async with Rig(kind(network)) as rig:
            pair = await rig.pair()
            sent = dict.fromkeys(pair, b"")
            mute = set()
            for which, action in lives:
                end = pair[which]
                match action:
                    case "turn":
                        await asyncio.sleep(0)
                    case "send" | "big" | "gather":
                        data = bytes([len(sent[end]) % 256]) * (40_000 if action == "big" else 3)
                        if end in mute:
                            continue
                        try:
                            end.flow.send(data, None, True)
                        except SendError:
                            continue  # the peer was faster
                        sent[end] += data
                        if action != "gather":
                            end.flow.flush()
                    case "flush" | "pause" | "resume":
                        getattr(end.flow, action)()
                    case _:
                        mute.add(end)
                        getattr(end.flow, action)()
            aborted = any(action == "abort" for _, action in lives)
            for end in pair:
                end.flow.resume()
                end.flow.close()
            for end in pair:
                await end.has_closed()
            if kind is MemoryDatagram:
                return  # which may lose things, and find a new flow for a late one
            assert network.open_flows == 0
            for end, peer in (pair, pair[::-1]):
                # In order, without a hole; and whole, where the end says so.
                assert sent[peer].startswith(end.recorder.data)
                if peer.recorder.error is None and end.recorder.is_finished and not aborted:
                    assert end.recorder.data == sent[peer]

    run(main, network)
