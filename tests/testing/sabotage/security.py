"""Security layers with one defect each, and the test that has to name it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from taps_core.model.errors import ConnectionError
from taps_core.model.events import SoftError
from taps_core.testing import MemoryTLS
from taps_core.testing.memory_security import _ShakingFlow, _TLSFlow

if TYPE_CHECKING:
    from taps_core.model.flow import Data, Flow
    from taps_core.model.layers import Connector, ConnectRequest
    from taps_core.model.messages import SendRecord

__all__ = ["SABOTAGED"]

SABOTAGED: list[type[MemoryTLS]] = []
TASKS: list[asyncio.Task[None]] = []


def sabotage(caught_by: str) -> Any:
    """A decorator: a layer, or one whose flows are of the class below it."""

    def decorate(cls: type[Any]) -> type[Any]:
        flows = issubclass(cls, _TLSFlow)
        broken = type(cls.__name__, (MemoryTLS,), {"_flow": cls}) if flows else cls
        broken.caught_by = caught_by  # type: ignore[attr-defined]  # for the test
        SABOTAGED.append(broken)
        return cls

    return decorate


@sabotage("test_no_plaintext_is_on_the_wire")
class NullCipher(_TLSFlow):
    """Agrees on a cipher that does nothing."""

    def _heard(self, data: bytes) -> bytes:
        rest = super()._heard(data)
        if self._table:
            self._table = bytes(range(256))
        return rest


@sabotage("test_early_data_is_protected_too")
class LeaksEarlyData(MemoryTLS):
    """Lets early data travel below, as it is."""

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        flow = await super().connect(lower, request)
        if request.early is not None:
            flow.lower.send(request.early.data, None, False)  # type: ignore[attr-defined]  # a layer
            flow.lower.flush()  # type: ignore[attr-defined]  # likewise
        return flow


@sabotage("test_data_is_intact_both_ways")
class Corrupts(_TLSFlow):
    """Gets the end of a large Message wrong."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if len(data) > 4000:
            data = data[:-1] + b"?"
        return super().send(data, record, end_of_message)


@sabotage("test_a_sequence_of_buffers_is_one_message")
class JoinsBackwards(_TLSFlow):
    """Seals several buffers in the wrong order."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        data = data[::-1] if isinstance(data, tuple) else data
        return super().send(data, record, end_of_message)


@sabotage("test_the_tail_arrives")
class ForgetsTheEnd(_TLSFlow):
    """Closes without the end that the peer looks for."""

    def _say_goodbye(self) -> None:
        pass


@sabotage("test_truncation_is_an_error")
class AcceptsTruncation(_TLSFlow):
    """Takes the end of the flow below for the peer's."""

    def finished(self) -> None:
        _ShakingFlow.finished(self)


@sabotage("test_forged_data_does_not_come_up")
class TrustsAnybody(_TLSFlow):
    """Delivers what it could not verify."""

    def _opened(self, data: bytes) -> bytes | None:
        opened = super()._opened(data)
        return data if self._distrusted else opened

    def _up(self, name: str, *arguments: Any) -> None:
        _ShakingFlow._up(self, name, *arguments)


@sabotage("test_pause_holds_back")
class IgnoresPause(_TLSFlow):
    """Goes on while it is paused."""

    def pause(self) -> None:
        pass


@sabotage("test_a_failed_handshake_says_so_in_our_words")
class ForeignWords(MemoryTLS):
    """Lets an exception of its own escape."""

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        try:
            return await super().connect(lower, request)
        except Exception as error:
            raise LookupError("no shared cipher") from error


@sabotage("test_a_failed_handshake_leaves_nothing")
class LeavesAFailedTask(MemoryTLS):
    """Raises, and leaves a task to itself."""

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        try:
            return await super().connect(lower, request)
        except Exception:
            TASKS.append(asyncio.get_running_loop().create_task(asyncio.sleep(3600)))
            raise


@sabotage("test_a_cancelled_handshake_leaves_nothing")
class LeavesACancelledTask(MemoryTLS):
    """Is cancelled at the beginning, and leaves a task to itself."""

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            TASKS.append(asyncio.get_running_loop().create_task(asyncio.sleep(3600)))
            raise
        return await super().connect(lower, request)


@sabotage("test_a_cancelled_handshake_is_cancelled")
class SwallowsCancellation(MemoryTLS):
    """Connects all the same."""

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        with contextlib.suppress(asyncio.CancelledError):
            for _ in range(3):
                await asyncio.sleep(0)
        return await super().connect(lower, request)


@sabotage("test_nothing_comes_up_from_inside_a_call_down")
class CallsUpFromSend(_TLSFlow):
    """Tells something from inside send."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        later = super().send(data, record, end_of_message)
        if data == b"there":
            self.receiver.notified(SoftError("from inside"))
        return later


@sabotage("test_closed_comes_once")
class ClosedTwice(_TLSFlow):
    """Says closed from abort, and again."""

    def closed(self, error: Exception | None) -> None:
        super().closed(error)
        super().closed(error or ConnectionError("again"))


@sabotage("test_send_after_close_is_refused")
class SwallowsWhatComesTooLate(_TLSFlow):
    """Takes Messages after the end, in silence."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        return None if self._ending else super().send(data, record, end_of_message)
