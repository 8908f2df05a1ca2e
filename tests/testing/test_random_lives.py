"""Whatever both ends do in whatever order, the rules hold and nothing is left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

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
    VirtualDatagram,
    VirtualStream,
    run,
)
from tests.testing.between import Between

if TYPE_CHECKING:
    from taps_core.model.layers import Transport

ACTIONS = ("send", "big", "gather", "flush", "pause", "resume", "finish", "close", "abort", "turn")
Lives = list[tuple[bool, str]]

lives = st.lists(st.tuples(st.booleans(), st.sampled_from(ACTIONS)), max_size=30)


KINDS = [MemoryStream, MemoryDatagram, MemoryMessages, MemorySecure]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(lives=lives)
def test_every_life_keeps_the_rules(kind: Any, lives: Lives) -> None:
    network = MemoryNetwork()
    live(kind(network), network, lives)


@pytest.mark.parametrize("kind", [VirtualStream, VirtualDatagram])
@settings(deadline=None, max_examples=150)
@given(lives=lives, loss=st.sampled_from([0.0, 0.3]), latency=st.sampled_from([0.0, 0.001, 0.3]))
def test_every_life_on_packets_keeps_the_rules(
    kind: Any, lives: Lives, loss: float, latency: float
) -> None:
    between = Between(kind, latency=latency)
    live(between, between.network, lives, loss)


def live(transport: Transport, network: Any, lives: Lives, loss: float = 0.0) -> None:
    datagrams = not transport.capabilities.connected

    async def main() -> None:
        local = transport.loopback()
        async with Rig(transport, local=str(local)) as rig:
            pair = await rig.pair()
            if isinstance(transport, Between):
                transport.path.set(loss=loss)
            sent = dict.fromkeys(pair, b"")
            mute = set()
            for which, action in lives:
                end = pair[which]
                match action:
                    case "turn":
                        await asyncio.sleep(0 if isinstance(network, MemoryNetwork) else 0.2)
                    case "send" | "big" | "gather":
                        size = 3 if action != "big" else 1000 if datagrams else 40_000
                        data = bytes([len(sent[end]) % 256]) * size
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
            if datagrams:
                return  # which may lose things, and find a new flow for a late one
            assert network.open_flows == 0
            for end, peer in (pair, pair[::-1]):
                # In order, without a hole; and whole, where the end says so.
                assert sent[peer].startswith(end.recorder.data)
                if peer.recorder.error is None and end.recorder.is_finished and not aborted:
                    assert end.recorder.data == sent[peer]

    run(main, network, loop="asyncio" if isinstance(network, MemoryNetwork) else "virtual")
