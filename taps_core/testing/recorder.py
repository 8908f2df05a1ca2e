"""A receiver that remembers, and a layer that watches the rules of the data path."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from taps_core.model.flow import LayerFlow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taps_core.model.errors import ReceiveError, SendError
    from taps_core.model.events import Event
    from taps_core.model.flow import Data, Flow, PartTuple, Receiver
    from taps_core.model.messages import SendRecord

__all__ = ["Call", "CheckedFlow", "Recorder"]


class Call(NamedTuple):
    """One upward call."""

    name: str
    arguments: tuple[Any, ...]


class Recorder:
    """A :class:`~taps_core.plugin.Receiver` that remembers all it was told.

    ::

        recorder = Recorder()
        flow.start(recorder)
        await recorder.until(lambda: recorder.data == b"hello")

    Attributes:
        calls: Everything, in order.
        parts: Every part that was received.
        is_writable: What ``writable`` said last.
        is_finished: Whether the peer will send no more.
        is_closed: Whether it is over; ``error`` says why.
        error: What ``closed`` gave.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.parts: list[PartTuple] = []
        self.is_writable = True
        self.is_finished = False
        self.is_closed = False
        self.error: Exception | None = None
        self._changed: asyncio.Future[None] | None = None

    @property
    def data(self) -> bytes:
        """All bytes that were received."""
        return b"".join([data for data, _, _ in self.parts])

    @property
    def messages(self) -> list[bytes]:
        """All Messages whose end was received."""
        messages: list[bytes] = []
        begun: list[bytes] = []
        for data, _, end_of_message in self.parts:
            begun.append(data)
            if end_of_message:
                messages.append(b"".join(begun))
                begun.clear()
        return messages

    @property
    def outcomes(self) -> list[tuple[SendRecord, SendError | None]]:
        """All that ``outcome`` gave."""
        return [(call.arguments[0], call.arguments[1]) for call in self.named("outcome")]

    def named(self, name: str) -> list[Call]:
        """The calls of one name."""
        return [call for call in self.calls if call.name == name]

    def forget(self) -> None:
        """Forget the calls and parts so far, not the states."""
        self.calls.clear()
        self.parts.clear()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until ``condition()`` is true; looked at after each call."""
        while not condition():
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed

    # -- what a flow calls

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Remember the parts."""
        self.parts.extend(parts)
        self._note("received", list(parts))

    def finished(self) -> None:
        """Remember it."""
        self.is_finished = True
        self._note("finished")

    def writable(self, writable: bool, /) -> None:
        """Remember it."""
        self.is_writable = writable
        self._note("writable", writable)

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """Remember it."""
        self._note("outcome", record, error)

    def notified(self, event: Event) -> None:
        """Remember it."""
        self._note("notified", event)

    def failed(self, error: ReceiveError, fatal: bool) -> None:
        """Remember it."""
        self._note("failed", error, fatal)

    def closed(self, error: Exception | None) -> None:
        """Remember it."""
        self.is_closed = True
        self.error = error
        self._note("closed", error)

    def _note(self, name: str, *arguments: Any) -> None:
        self.calls.append(Call(name, arguments))
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


class CheckedFlow(LayerFlow):
    """A layer that changes nothing and watches both sides of the seam.

    Put it above what is to be watched, a transport for instance, and look at
    :attr:`violations` at the end.

    Attributes:
        violations: A sentence for each breach of the rules in
            ``taps_core.model.flow``, in order.
    """

    def __init__(self, lower: Flow) -> None:
        super().__init__(lower)
        self.session = lower.session
        self.violations: list[str] = []
        self._started = False
        self._inside: str | None = None  # the downward call that is running
        self._ending: str | None = None  # close or abort, once called
        self._no_more_sends = False
        self._finished = False
        self._failed = False
        self._closed = False
        self._writable = True
        self._awaited: list[SendRecord] = []

    def check(self) -> None:
        """Fail with what was breached.

        Raises:
            AssertionError: Something was.
        """
        if self.violations:
            raise AssertionError("; ".join(self.violations))

    # -- down

    def start(self, receiver: Receiver) -> None:
        """Pass down."""
        self._expect(not self._started, "start was called twice")
        self._started = True
        self._down("start", super().start, receiver)

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Pass down."""
        self._expect(self._started, "send before start")
        self._expect(not self._no_more_sends, "send after finish, close or abort")
        buffers = data if type(data) is tuple else (data,)
        self._expect(
            all(type(buffer) is bytes for buffer in buffers), "send of something else than bytes"
        )
        later: bool | None = self._down("send", super().send, data, record, end_of_message)
        if later:
            self._expect(record is not None, "an outcome was promised for no record")
            if record is not None:
                self._awaited.append(record)
        return later

    def withdraw(self) -> bool:
        """Pass down."""
        withdrawn: bool = self._down("withdraw", self.lower.withdraw)
        return withdrawn

    def flush(self) -> None:
        """Pass down."""
        self._down("flush", super().flush)

    def pause(self) -> None:
        """Pass down."""
        self._expect(self._started, "pause before start")
        self._down("pause", super().pause)

    def resume(self) -> None:
        """Pass down."""
        self._expect(self._started, "resume before start")
        self._down("resume", super().resume)

    def finish(self) -> None:
        """Pass down."""
        self._no_more_sends = True
        self._down("finish", super().finish)

    def close(self) -> None:
        """Pass down."""
        self._no_more_sends = True
        self._ending = "close"
        self._down("close", super().close)

    def abort(self) -> None:
        """Pass down."""
        self._no_more_sends = True
        self._ending = "abort"
        self._down("abort", super().abort)

    # -- up

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Pass up."""
        self._up("received")
        self._expect(not self._finished, "received after finished")
        self._expect(len(parts) > 0, "received nothing")
        for part in parts:
            self._expect(len(part) == 3, "a part is (data, context, end_of_message)")
            self._expect(type(part[0]) is bytes, "received something else than bytes")
        self.receiver.received(parts)

    def finished(self) -> None:
        """Pass up."""
        self._up("finished")
        self._expect(not self._finished, "finished twice")
        self._finished = True
        self.receiver.finished()

    def writable(self, writable: bool, /) -> None:
        """Pass up."""
        self._up("writable")
        self._expect(writable is not self._writable, f"writable({writable}) twice")
        self._writable = writable
        self.receiver.writable(writable)

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """Pass up."""
        self._up("outcome")
        if record in self._awaited:
            self._awaited.remove(record)
        else:
            self.violations.append("an outcome that was not promised, or twice")
        self.receiver.outcome(record, error)

    def notified(self, event: Event) -> None:
        """Pass up."""
        self._up("notified")
        self.receiver.notified(event)

    def failed(self, error: ReceiveError, fatal: bool) -> None:
        """Pass up."""
        self._up("failed")
        self._failed = self._failed or fatal
        self.receiver.failed(error, fatal)

    def closed(self, error: Exception | None) -> None:
        """Pass up."""
        self._up("closed")
        if error is None:
            self._expect(not self._awaited, "closed in order with outcomes outstanding")
        self._closed = True
        self.receiver.closed(error)

    # -- the rules

    def _down(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        outer, self._inside = self._inside, name
        try:
            return call(*arguments)
        finally:
            self._inside = outer

    def _up(self, name: str) -> None:
        self._expect(self._started, f"{name} before start")
        self._expect(self._inside is None, f"{name} from inside {self._inside}")
        self._expect(not self._closed, f"{name} after closed")
        if name not in ("outcome", "closed"):
            self._expect(self._ending is None, f"{name} after {self._ending}")
        if name in ("received", "finished", "failed"):
            self._expect(not self._failed, f"{name} after a fatal failed")

    def _expect(self, claim: bool, sentence: str) -> None:
        if not claim:
            self.violations.append(sentence)
