"""``CheckedFlow`` names each breach of the rules, ``Recorder`` remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from taps_core.model.errors import ReceiveError
from taps_core.model.flow import Flow
from taps_core.model.messages import MessageContext, SendRecord
from taps_core.testing import CheckedFlow, Recorder

if TYPE_CHECKING:
    from taps_core.model.flow import Data, Receiver


class Obedient(Flow):
    """Does what the test makes it do."""

    receiver: Receiver
    promises = False

    def start(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        return self.promises or None

    def close(self) -> None: ...

    def abort(self) -> None: ...


RECORD = SendRecord(MessageContext(), {})


Step = Callable[[CheckedFlow, Obedient, "Receiver"], object]


def promise(flow: CheckedFlow, lower: Obedient, up: Receiver) -> None:
    lower.promises = True


def call_up_from_flush(flow: CheckedFlow, lower: Obedient, up: Receiver) -> None:
    lower.flush = lambda: up.writable(False)  # type: ignore[method-assign]  # the breach
    flow.flush()


BREACHES: dict[str, list[Step]] = {
    "start was called twice": [lambda flow, lower, up: flow.start(Recorder())],
    "send after finish": [
        lambda flow, lower, up: flow.finish(),
        lambda flow, lower, up: flow.send(b"", None, True),
    ],
    "send of something else": [lambda flow, lower, up: flow.send(bytearray(), None, True)],
    "promised for no record": [promise, lambda flow, lower, up: flow.send(b"", None, True)],
    "received nothing": [lambda flow, lower, up: up.received([])],
    "received something else": [lambda flow, lower, up: up.received([("text", None, True)])],
    "received after finished": [
        lambda flow, lower, up: up.finished(),
        lambda flow, lower, up: up.received([(b"", None, True)]),
    ],
    "finished twice": [
        lambda flow, lower, up: up.finished(),
        lambda flow, lower, up: up.finished(),
    ],
    "writable(True) twice": [lambda flow, lower, up: up.writable(True)],
    "outcome that was not promised": [lambda flow, lower, up: up.outcome(RECORD, None)],
    "outcomes outstanding": [
        promise,
        lambda flow, lower, up: flow.send(b"", RECORD, True),
        lambda flow, lower, up: up.closed(None),
    ],
    "received after close": [
        lambda flow, lower, up: flow.close(),
        lambda flow, lower, up: up.received([(b"", None, True)]),
    ],
    "finished after abort": [
        lambda flow, lower, up: flow.abort(),
        lambda flow, lower, up: up.finished(),
    ],
    "closed after closed": [
        lambda flow, lower, up: up.closed(None),
        lambda flow, lower, up: up.closed(None),
    ],
    "finished after closed": [
        lambda flow, lower, up: up.closed(None),
        lambda flow, lower, up: up.finished(),
    ],
    "received after a fatal failed": [
        lambda flow, lower, up: up.failed(ReceiveError(), True),
        lambda flow, lower, up: up.received([(b"", None, True)]),
    ],
    "writable from inside flush": [call_up_from_flush],
}


@pytest.mark.parametrize("sentence", BREACHES)
def test_a_breach_is_named(sentence: str) -> None:
    lower = Obedient()
    flow = CheckedFlow(lower)
    flow.start(Recorder())
    for step in BREACHES[sentence]:
        step(flow, lower, lower.receiver)
    with pytest.raises(AssertionError) as caught:
        flow.check()
    assert sentence in str(caught.value)


def test_a_life_by_the_rules_is_no_breach() -> None:
    lower, recorder = Obedient(), Recorder()
    flow = CheckedFlow(lower)
    flow.start(recorder)
    up = lower.receiver
    lower.promises = True
    flow.send(b"x", RECORD, True)
    up.writable(False)
    up.writable(True)
    up.received([(b"a", None, False), (b"b", None, True), (b"c", None, False)])
    up.finished()
    flow.close()
    up.outcome(RECORD, None)
    up.closed(None)
    flow.check()
    assert recorder.data == b"abc"
    assert recorder.messages == [b"ab"]
    assert recorder.outcomes == [(RECORD, None)]
    assert [call.name for call in recorder.calls] == [
        "writable",
        "writable",
        "received",
        "finished",
        "outcome",
        "closed",
    ]


def test_until_waits_for_its_condition() -> None:
    async def main() -> None:
        recorder = Recorder()
        waiting = asyncio.create_task(recorder.until(lambda: recorder.data == b"ab"))
        for byte in (b"a", b"b"):
            await asyncio.sleep(0)
            assert not waiting.done()
            recorder.received([(byte, None, False)])
        await waiting
        await recorder.until(lambda: True)

    asyncio.run(main())
