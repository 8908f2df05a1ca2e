"""HoldingFlow: a layer that starts the flow below by itself."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from taps_core.plugin import ConnectionError, HoldingFlow, ReceiveError, SoftError
from taps_core.testing import Recorder
from taps_core.testing.scripted import ScriptedFlow


class Rig:
    """A HoldingFlow that listens, before anything is above it."""

    def __init__(self) -> None:
        self.below = ScriptedFlow()
        self.flow = HoldingFlow(self.below)
        self.below.start(self.flow)
        self.below.calls.clear()
        self.above = Recorder()

    @property
    def told(self) -> list[str]:
        return [call.name for call in self.above.calls]


async def turn() -> None:
    await asyncio.sleep(0)


def test_all_that_came_before_comes_up_in_order_in_the_turn_after_start() -> None:
    async def main() -> None:
        rig = Rig()
        rig.below.feed(b"a")
        rig.below.receiver.notified(SoftError("icmp"))
        rig.below.receiver.writable(False)
        rig.flow.start(rig.above)
        rig.below.feed(b"b")
        rig.below.receiver.failed(ReceiveError("garbage"), False)
        rig.below.receiver.finished()
        assert not rig.above.calls
        await turn()
        assert rig.told == ["received", "notified", "writable", "received", "failed", "finished"]
        assert rig.above.data == b"ab"
        rig.below.receiver.closed(None)
        assert rig.above.is_closed

    asyncio.run(main())


def test_the_flow_below_is_resumed_once_what_was_held_is_up() -> None:
    async def main() -> None:
        rig = Rig()
        rig.below.feed(b"held")
        rig.flow.start(rig.above)
        rig.flow.pause()
        rig.flow.resume()
        assert rig.below.names == ["pause"]
        await turn()
        assert rig.below.names == ["pause", "resume"]

    asyncio.run(main())


@pytest.mark.parametrize("held", [True, False])
def test_a_layer_above_that_pauses_at_once_stays_paused(held: bool) -> None:
    async def main() -> None:
        rig = Rig()
        if held:
            rig.below.feed(b"held")
        rig.flow.start(rig.above)
        rig.flow.pause()
        await turn()
        assert rig.below.names == (["pause"] if held else ["resume", "pause"])


def test_where_nothing_was_held_what_comes_goes_up_at_once() -> None:
    async def main() -> None:
        rig = Rig()
        rig.flow.start(rig.above)
        rig.below.feed(b"first")
        assert rig.above.data == b"first"
        assert rig.below.names == ["resume"]

    asyncio.run(main())


@pytest.mark.parametrize("verb", ["close", "abort"])
@pytest.mark.parametrize("early", [True, False])
def test_after_the_end_nothing_goes_up_but_that_it_is_over(verb: str, early: bool) -> None:
    async def main() -> None:
        rig = Rig()
        rig.flow.start(rig.above)
        if not early:
            await turn()
        getattr(rig.flow, verb)()
        rig.below.feed(b"late")
        rig.below.receiver.finished()
        rig.below.receiver.closed(None)
        await turn()
        assert rig.told == ["closed"]

    asyncio.run(main())


@pytest.mark.parametrize("already", [True, False])
def test_what_escapes_from_above_ends_this_flow_and_is_its_error(already: bool) -> None:
    class Breaks(Recorder):
        def received(self, parts: Sequence[Any]) -> None:
            raise ValueError("above broke")

    async def main() -> None:
        rig = Rig()
        rig.below.feed(b"x")
        if already:
            rig.below.receiver.closed(None)
        above = Breaks()
        rig.flow.start(above)
        await turn()
        assert rig.below.names == ["abort"]
        if not already:
            rig.below.receiver.closed(None)
        assert isinstance(above.error, ConnectionError)
        assert "above broke" in str(above.error)

    asyncio.run(main())
