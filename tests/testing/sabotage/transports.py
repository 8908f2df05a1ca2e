"""Transports with one defect each, and the test that has to name it.

Every one is an honest transport in memory with a layer around its flows that
does one thing wrong: what plugin authors get wrong, as they get it wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
from typing import TYPE_CHECKING, Any, ClassVar

from taps_core.model.capabilities import Support
from taps_core.model.errors import ConnectionError, Reason, SendError
from taps_core.model.events import SoftError
from taps_core.model.flow import LayerFlow
from taps_core.model.layers import AVAILABLE, Availability, ListeningFlow, Transport
from taps_core.model.properties import PROPERTIES
from taps_core.testing import MemoryDatagram, MemoryMessages, MemoryNetwork, MemoryStream
from taps_core.testing.requests import listen_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.model.endpoints import LocalEndpoint
    from taps_core.model.flow import Data, Flow, PartTuple, Receiver
    from taps_core.model.layers import ConnectRequest, ListenRequest
    from taps_core.model.messages import SendRecord

__all__ = ["SABOTAGED", "Sabotaged", "SabotagedFlow"]


class SabotagedFlow(LayerFlow):
    """Passes everything through; a subclass gets one thing wrong."""

    def __init__(self, lower: Flow, transport: Sabotaged, client: bool) -> None:
        super().__init__(lower)
        self.session = lower.session
        self.transport = transport
        self.client = client
        self.loop = asyncio.get_running_loop()
        self.sends = 0
        self.ending = False
        self.gone = False

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        self.sends += 1
        return self.lower.send(data, record, end_of_message)

    def withdraw(self) -> bool:
        return self.lower.withdraw()

    def close(self) -> None:
        self.ending = True
        self.lower.close()

    def abort(self) -> None:
        self.ending = True
        self.lower.abort()

    def closed(self, error: Exception | None) -> None:
        self.gone = True
        self.receiver.closed(error)


class SabotagedListener(ListeningFlow):
    """Passes everything through."""

    def __init__(self, lower: ListeningFlow, transport: Sabotaged) -> None:
        self.lower = lower
        self.transport = transport

    @property
    def local_endpoint(self) -> LocalEndpoint:
        return self.lower.local_endpoint

    def pause(self) -> None:
        self.lower.pause()

    def resume(self) -> None:
        self.lower.resume()

    async def close(self) -> None:
        await self.lower.close()


class Sabotaged(Transport):
    """Around an honest transport.

    Attributes:
        caught_by: The one test that fails.
        base: The honest one.
    """

    caught_by: ClassVar[str]
    base: ClassVar[type[Transport]] = MemoryStream
    flow: ClassVar[type[SabotagedFlow]] = SabotagedFlow
    listener: ClassVar[type[SabotagedListener]] = SabotagedListener
    name = "sabotaged"

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.honest = self.base(self.network)  # type: ignore[call-arg]  # those in memory take it
        self.capabilities = self.honest.capabilities
        self.flows: list[SabotagedFlow] = []

    async def connect(self, request: ConnectRequest) -> Flow:
        return self.wrap(await self.honest.connect(request), client=True)

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        def incoming(flow: Flow, admitted: Any) -> None:
            request.incoming(self.wrap(flow, client=False), admitted)

        honest = listen_request(request.local, incoming)
        return self.listener(await self.honest.listen(honest), self)

    def wrap(self, flow: Flow, client: bool) -> SabotagedFlow:
        wrapped = self.flow(flow, self, client)
        self.flows.append(wrapped)
        return wrapped


SABOTAGED: list[type[Sabotaged]] = []


def sabotage(caught_by: str, base: type[Transport] = MemoryStream) -> Any:
    """A decorator: a transport whose flows (or listeners) are of the class below it."""

    def decorate(cls: type[Any]) -> type[Any]:
        if issubclass(cls, Sabotaged):
            broken = cls
        else:
            kind = "flow" if issubclass(cls, SabotagedFlow) else "listener"
            broken = type(cls.__name__, (Sabotaged,), {kind: cls, "__doc__": cls.__doc__})
        broken.caught_by, broken.base = caught_by, base
        SABOTAGED.append(broken)
        return cls

    return decorate


# ---------------------------------------------------------------- what is sent


@sabotage("test_what_is_sent_arrives_in_order")
class Reorders(SabotagedFlow):
    """Lets one Message overtake another."""

    late: tuple[Any, ...] | None = None

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        self.sends += 1
        if self.sends == 50:
            self.late = data, record, end_of_message
            return None
        later = self.lower.send(data, record, end_of_message)
        if self.late is not None:
            self.lower.send(*self.late)
            self.late = None
        return later


@sabotage("test_nothing_arrives_twice")
class Duplicates(SabotagedFlow):
    """Sends one Message again."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        later = super().send(data, record, end_of_message)
        if self.sends == 150:
            self.lower.send(data, None, end_of_message)
        return later


@sabotage("test_nothing_is_lost")
class Loses(SabotagedFlow):
    """Loses one Message of many."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        self.sends += 1
        return None if self.sends == 150 else self.lower.send(data, record, end_of_message)


@sabotage("test_the_tail_arrives")
class DropsTheTail(SabotagedFlow):
    """Writes a turn later, and forgets that when it is closed."""

    late: list[tuple[Any, ...]]

    def __init__(self, lower: Flow, transport: Sabotaged, client: bool) -> None:
        super().__init__(lower, transport, client)
        self.late = []

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if self.ending:
            raise SendError("closed", reason=Reason.CONNECTION_CLOSED)
        self.late.append((data, record, end_of_message))
        return None

    def flush(self) -> None:
        self.loop.call_soon(self._write)

    def _write(self) -> None:
        late, self.late = self.late, []
        if not self.ending:
            with contextlib.suppress(SendError):
                for send in late:
                    self.lower.send(*send)
                self.lower.flush()

    def finish(self) -> None:
        self._write()
        self.ending = True
        self.lower.finish()


@sabotage("test_flush_lets_everything_leave")
class ForgetsTheRest(SabotagedFlow):
    """Takes 32 Messages in one flush, and leaves the rest for the next one."""

    waiting: list[tuple[Any, ...]]

    def __init__(self, lower: Flow, transport: Sabotaged, client: bool) -> None:
        super().__init__(lower, transport, client)
        self.waiting = []

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if self.sends >= 32:
            self.waiting.append((data, record, end_of_message))
            return None
        return super().send(data, record, end_of_message)

    def flush(self) -> None:
        self.lower.flush()
        self.sends = 0
        waiting, self.waiting = self.waiting, []
        for send in waiting:
            self.send(*send)


@sabotage("test_flows_do_not_mix")
class Mixes(SabotagedFlow):
    """Gathers the Messages of all flows in one place."""

    gathered: ClassVar[list[tuple[Any, ...]]] = []

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if self.ending:
            raise SendError("closed", reason=Reason.CONNECTION_CLOSED)
        self.gathered.append((data, record, end_of_message))
        return None

    def flush(self) -> None:
        gathered = list(self.gathered)
        self.gathered.clear()
        with contextlib.suppress(SendError):
            for send in gathered:
                self.lower.send(*send)
        self.lower.flush()

    def finish(self) -> None:
        self.ending = True
        self.lower.finish()


@sabotage("test_a_sequence_of_buffers_is_one_message")
class JoinsBackwards(SabotagedFlow):
    """Writes several buffers in the wrong order."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if isinstance(data, tuple):
            data = data[::-1]
        return super().send(data, record, end_of_message)


@sabotage("test_a_large_transfer_is_intact")
class Corrupts(SabotagedFlow):
    """Gets a byte wrong where buffers are large."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if len(data) > 16 * 1024:
            data = b"?" + data[1:]
        return super().send(data, record, end_of_message)


@sabotage("test_a_large_tail_arrives")
class ClosesWhatIsFull(SabotagedFlow):
    """Closes with what fits, and forgets what does not."""

    def close(self) -> None:
        self.drop_what_waits()
        super().close()

    def drop_what_waits(self) -> None:
        honest: Any = self.lower
        honest._queue.clear()
        honest._pending = 0


@sabotage("test_finish_waits_for_what_is_buffered")
class FinishesWhatIsFull(ClosesWhatIsFull):
    """Finishes with what fits, and forgets what does not."""

    def close(self) -> None:
        SabotagedFlow.close(self)

    def finish(self) -> None:
        self.drop_what_waits()
        self.lower.finish()


@sabotage("test_what_is_sent_to_a_full_flow_arrives")
class DropsWhenFull(SabotagedFlow):
    """Takes writable(False) for leave to drop."""

    full = False

    def writable(self, writable: bool, /) -> None:
        self.full = not writable
        self.receiver.writable(writable)

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if self.full and not self.ending:
            return None
        return super().send(data, record, end_of_message)


@sabotage("test_send_after_close_is_refused")
class SwallowsWhatComesTooLate(SabotagedFlow):
    """Takes Messages after the end, in silence."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        return None if self.ending else super().send(data, record, end_of_message)


@sabotage("test_send_after_finish_is_refused")
class SwallowsWhatComesAfterFinish(SabotagedFlow):
    """Takes Messages after Final, in silence."""

    finishing = False

    def finish(self) -> None:
        self.finishing = True
        self.lower.finish()

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if self.finishing and not self.ending:
            return None
        return super().send(data, record, end_of_message)


@sabotage("test_data_comes_up_as_bytes")
class BringsUpBytearrays(SabotagedFlow):
    """Hands up its read buffer."""

    def received(self, parts: Sequence[PartTuple]) -> None:
        self.receiver.received([(bytearray(data), context, end) for data, context, end in parts])


@sabotage("test_no_part_of_a_stream_ends_a_message")
class EndsMessages(SabotagedFlow):
    """Takes every read for a Message."""

    def received(self, parts: Sequence[PartTuple]) -> None:
        self.receiver.received([(data, context, True) for data, context, _ in parts])


# --------------------------------------------------------------- backpressure


@sabotage("test_pause_holds_back")
class PausesLate(SabotagedFlow):
    """Pauses after one more read."""

    wanted = False

    def pause(self) -> None:
        self.wanted = True

    def resume(self) -> None:
        self.wanted = False
        self.lower.resume()

    def received(self, parts: Sequence[PartTuple]) -> None:
        self.receiver.received(parts)
        if self.wanted:
            self.lower.pause()


@sabotage("test_a_transfer_with_pauses_is_intact")
class LosesAtResume(SabotagedFlow):
    """Loses the read that crosses the third resume."""

    resumes = 0

    def resume(self) -> None:
        self.resumes += 1
        self.lower.resume()

    def received(self, parts: Sequence[PartTuple]) -> None:
        if self.resumes == 3:
            self.resumes += 1
        else:
            self.receiver.received(parts)


@sabotage("test_pause_from_inside_received_holds")
class PausesFromOutside(SabotagedFlow):
    """Has an eye on pause, except while it delivers."""

    delivering = False

    def pause(self) -> None:
        if not self.delivering:
            self.lower.pause()

    def received(self, parts: Sequence[PartTuple]) -> None:
        self.delivering = True
        try:
            self.receiver.received(parts)
        finally:
            self.delivering = False


@sabotage("test_nothing_follows_an_end_from_inside_received")
class DeliversTheRest(SabotagedFlow):
    """Delivers a read in two pieces, whatever happens at the first."""

    def received(self, parts: Sequence[PartTuple]) -> None:
        for data, context, end in parts:
            self.receiver.received([(data[:1], context, False)])
            if data[1:]:
                self.receiver.received([(data[1:], context, end)])


@sabotage("test_writable_says_each_change_once")
class SaysItTwice(SabotagedFlow):
    """Says again that it is full."""

    def writable(self, writable: bool, /) -> None:
        self.receiver.writable(writable)
        if not writable:
            self.receiver.writable(writable)


@sabotage("test_resume_delivers_what_waited")
class NeverResumes(SabotagedFlow):
    """Stays paused."""

    def resume(self) -> None:
        pass


@sabotage("test_resume_delivers_what_waited", MemoryDatagram)
class DropsWhilePaused(SabotagedFlow):
    """Takes a pause for leave to drop."""

    paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def received(self, parts: Sequence[PartTuple]) -> None:
        if not self.paused:
            self.receiver.received(parts)


@sabotage("test_a_full_flow_says_so")
class NeverFull(SabotagedFlow):
    """Takes everything, without end."""

    def writable(self, writable: bool, /) -> None:
        pass


@sabotage("test_a_full_flow_recovers")
class NeverWritableAgain(SabotagedFlow):
    """Forgets to say that there is room."""

    def writable(self, writable: bool, /) -> None:
        if not writable:
            self.receiver.writable(writable)


# ---------------------------------------------------------------------- start


@sabotage("test_what_came_before_start_is_held")
class DropsBeforeStart(SabotagedFlow):
    """Reads from the beginning, whether or not somebody listens."""

    above: Receiver | None = None

    def __init__(self, lower: Flow, transport: Sabotaged, client: bool) -> None:
        super().__init__(lower, transport, client)
        self.late: list[tuple[str, tuple[Any, ...]]] = []
        self.lower.start(self)

    def start(self, receiver: Receiver) -> None:
        self.receiver = self.above = receiver
        self.loop.call_soon(self._tell)

    def _tell(self) -> None:
        for name, arguments in self.late:
            getattr(self.above, name)(*arguments)

    def received(self, parts: Sequence[PartTuple]) -> None:
        if self.above is not None:
            self.above.received(parts)

    def finished(self) -> None:
        if self.above is not None:
            self.above.finished()
        else:
            self.late.append(("finished", ()))

    def closed(self, error: Exception | None) -> None:
        if self.above is not None:
            self.above.closed(error)
        else:
            self.late.append(("closed", (error,)))


@sabotage("test_an_end_before_start_is_told")
class ForgetsAnEarlyEnd(SabotagedFlow):
    """Does not keep the end that came before start."""

    def start(self, receiver: Receiver) -> None:
        self.fresh = True
        super().start(receiver)
        self.loop.call_later(0.001, setattr, self, "fresh", False)

    def finished(self) -> None:
        if not self.fresh:
            self.receiver.finished()


@sabotage("test_an_abort_before_start_is_told")
class ForgetsAnEarlyAbort(SabotagedFlow):
    """Does not keep the error that came before start."""

    too_late = False

    def start(self, receiver: Receiver) -> None:
        honest: Any = self.lower
        self.too_late = honest.is_over
        super().start(receiver)

    def closed(self, error: Exception | None) -> None:
        self.gone = True
        if error is None or not self.too_late:
            self.receiver.closed(error)


@sabotage("test_a_flow_that_is_never_started_can_be_dropped")
class LeaksUnstarted(SabotagedFlow):
    """Has a task that only start would take over."""

    def __init__(self, lower: Flow, transport: Sabotaged, client: bool) -> None:
        super().__init__(lower, transport, client)
        self.task = self.loop.create_task(asyncio.sleep(3600))

    def start(self, receiver: Receiver) -> None:
        self.task.cancel()
        super().start(receiver)


# -------------------------------------------- calls up from inside calls down


class _CallsUp(SabotagedFlow):
    def call_up(self) -> None:
        if not self.gone:
            self.receiver.notified(SoftError("from inside"))


@sabotage("test_send_calls_nothing_up")
class CallsUpFromSend(_CallsUp):
    """Tells something from inside send."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if not self.ending:
            self.call_up()
        return super().send(data, record, end_of_message)


@sabotage("test_send_calls_nothing_up")
class CallsUpFromFlush(_CallsUp):
    """Tells something from inside flush."""

    def flush(self) -> None:
        self.lower.flush()
        if not self.ending:
            self.call_up()


@sabotage("test_start_calls_nothing_up")
class CallsUpFromStart(_CallsUp):
    """Tells something from inside start."""

    def start(self, receiver: Receiver) -> None:
        super().start(receiver)
        self.call_up()


@sabotage("test_pause_and_resume_call_nothing_up")
class CallsUpFromResume(_CallsUp):
    """Delivers from inside resume."""

    def resume(self) -> None:
        self.lower.resume()
        self.call_up()


@sabotage("test_close_calls_nothing_up")
class CallsUpFromClose(_CallsUp):
    """Tells something from inside close."""

    def close(self) -> None:
        if not self.ending and hasattr(self, "receiver"):
            self.call_up()
        super().close()


@sabotage("test_abort_calls_nothing_up")
class CallsUpFromAbort(SabotagedFlow):
    """Says that it is closed from inside abort."""

    def abort(self) -> None:
        super().abort()
        if not self.gone and hasattr(self, "receiver"):
            super().closed(ConnectionError("aborted", reason=Reason.LOCAL_ABORT))

    def closed(self, error: Exception | None) -> None:
        if not self.gone:
            super().closed(error)


# -------------------------------------------------------------------- the end


@sabotage("test_closed_follows_abort")
class NeverClosedAfterAbort(SabotagedFlow):
    """Thinks that whoever aborts knows."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True
        super().abort()

    def closed(self, error: Exception | None) -> None:
        if not self.aborted:
            super().closed(error)


@sabotage("test_abort_does_not_wait_for_room")
class AbortsInOrder(SabotagedFlow):
    """Waits with its abort until there is room."""

    full = False

    def writable(self, writable: bool, /) -> None:
        self.full = not writable
        self.receiver.writable(writable)

    def abort(self) -> None:
        if not self.full:
            super().abort()


@sabotage("test_close_after_finish_is_a_close")
class ClosesOnce(SabotagedFlow):
    """Has nothing left to do for close once it has finished."""

    finishing = False

    def finish(self) -> None:
        self.finishing = True
        self.lower.finish()

    def close(self) -> None:
        if not self.finishing:
            super().close()


@sabotage("test_calls_after_the_end_do_nothing")
class TripsAfterTheEnd(SabotagedFlow):
    """Has no transport to resume any more."""

    def resume(self) -> None:
        if self.gone:
            raise AttributeError("'NoneType' object has no attribute 'resume_reading'")
        self.lower.resume()


@sabotage("test_endpoints_can_be_asked_for_when_it_is_over")
class ForgetsWhereItWas(SabotagedFlow):
    """Asks a socket that is closed."""

    @property
    def local_endpoint(self) -> LocalEndpoint | None:
        if self.gone:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return self.lower.local_endpoint


@sabotage("test_close_is_no_error_at_the_peer")
class CloseLooksAborted(SabotagedFlow):
    """Takes the peer's close for a failure, since it will not read any more."""

    parted = False

    def close(self) -> None:
        for flow in self.transport.flows:
            ends = str(flow.local_endpoint), str(flow.remote_endpoint)
            if ends == (str(self.remote_endpoint), str(self.local_endpoint)):
                flow.parted = True  # type: ignore[attr-defined]  # of this class
        super().close()

    def finished(self) -> None:
        if not self.parted:
            self.receiver.finished()
            return
        self.closed(ConnectionError("the peer hung up"))
        self.lower.abort()

    def closed(self, error: Exception | None) -> None:
        if not self.gone:
            super().closed(error)


@sabotage("test_closed_follows_close")
class ClosedWithAnError(SabotagedFlow):
    """Calls an orderly end an error."""

    def closed(self, error: Exception | None) -> None:
        super().closed(error or ConnectionError("the peer is gone"))


@sabotage("test_closed_comes_once")
class ClosedTwice(SabotagedFlow):
    """Says closed again."""

    def closed(self, error: Exception | None) -> None:
        super().closed(error)
        self.loop.call_soon(self.receiver.closed, error)


@sabotage("test_nothing_follows_closed")
class DeliversAfterClosed(SabotagedFlow):
    """Has a read left over."""

    def closed(self, error: Exception | None) -> None:
        super().closed(error)
        self.loop.call_soon(self.receiver.notified, SoftError("left over"))


@sabotage("test_nothing_but_the_end_follows_close")
class DeliversAfterClose(SabotagedFlow):
    """Has a read left over when it is closed."""

    def closed(self, error: Exception | None) -> None:
        if self.ending:
            self.receiver.notified(SoftError("left over"))
        super().closed(error)


@sabotage("test_close_while_paused_ends")
class CannotCloseWhilePaused(SabotagedFlow):
    """Closes when it reads the next time."""

    paused = False
    wanted = False

    def pause(self) -> None:
        self.paused = True
        self.lower.pause()

    def resume(self) -> None:
        self.paused = False
        self.lower.resume()
        if self.wanted:
            super().close()

    def close(self) -> None:
        self.wanted = self.paused
        if not self.paused:
            super().close()


@sabotage("test_finish_reaches_the_peer")
class MissesALoneEnd(SabotagedFlow):
    """Notices the peer's end only beside data."""

    recent = False

    def received(self, parts: Sequence[PartTuple]) -> None:
        self.recent = True
        self.loop.call_soon(setattr, self, "recent", False)
        self.receiver.received(parts)

    def finished(self) -> None:
        if self.recent:
            self.receiver.finished()


@sabotage("test_finished_comes_behind_the_data")
class FinishesTooEarly(SabotagedFlow):
    """Tells the end on a shorter way than (binary) data."""

    def received(self, parts: Sequence[PartTuple]) -> None:
        if parts[0][0][:1] == b"\0":
            self.loop.call_soon(self.loop.call_soon, self._deliver, parts)
        else:
            self.receiver.received(parts)

    def _deliver(self, parts: Sequence[PartTuple]) -> None:
        if not self.ending and not self.gone:
            self.receiver.received(parts)


@sabotage("test_finished_comes_once")
class FinishedTwice(SabotagedFlow):
    """Tells the end again."""

    def finished(self) -> None:
        self.receiver.finished()
        self.loop.call_soon(self._again)

    def _again(self) -> None:
        if not self.ending and not self.gone:
            self.receiver.finished()


@sabotage("test_after_finish_the_other_way_goes_on")
class DeafAfterFinish(SabotagedFlow):
    """Takes its own Final for the end of both ways."""

    finishing = False

    def finish(self) -> None:
        self.finishing = True
        self.lower.finish()

    def received(self, parts: Sequence[PartTuple]) -> None:
        if not self.finishing:
            self.receiver.received(parts)


@sabotage("test_abort_is_an_error_at_the_peer")
class AbortLooksOrderly(SabotagedFlow):
    """Takes a reset for an end."""

    def closed(self, error: Exception | None) -> None:
        super().closed(None if "reset" in str(error) else error)


# ------------------------------------------------------------------- outcomes


@sabotage("test_no_outcome_comes_twice", MemoryMessages)
class ReportsTwice(SabotagedFlow):
    """Reports each outcome again."""

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        self.receiver.outcome(record, error)
        self.receiver.outcome(record, error)


@sabotage("test_each_promised_outcome_comes", MemoryMessages)
class NeverReports(SabotagedFlow):
    """Promises outcomes that never come."""

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        pass


# ------------------------------------------------------------- failures above


@sabotage("test_a_receivers_failure_ends_its_flow")
class SwallowsFailures(SabotagedFlow):
    """Goes on as if nothing had happened."""

    def received(self, parts: Sequence[PartTuple]) -> None:
        with contextlib.suppress(Exception):
            self.receiver.received(parts)


@sabotage("test_a_receivers_failure_ends_no_other_flow")
class FailsTogether(SabotagedFlow):
    """Ends all its flows when one fails."""

    def received(self, parts: Sequence[PartTuple]) -> None:
        try:
            self.receiver.received(parts)
        except Exception:
            for flow in self.transport.flows:
                if flow is not self and not flow.gone:
                    flow.lower.abort()
            raise


# ------------------------------------------------------------------- Messages


@sabotage("test_boundaries_are_kept", MemoryMessages)
class Merges(SabotagedFlow):
    """Writes small Messages that come together as one."""

    waiting = b""
    count = 0

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if record is not None or not end_of_message or not isinstance(data, bytes) or not data:
            return self.lower.send(data, record, end_of_message)
        if self.ending:
            raise SendError("closed", reason=Reason.CONNECTION_CLOSED)
        self.waiting += data
        return None

    def flush(self) -> None:
        if self.waiting:
            waiting, self.waiting = self.waiting, b""
            self.lower.send(waiting, None, True)
        self.lower.flush()

    def finish(self) -> None:
        self.ending = True
        self.lower.finish()


@sabotage("test_boundaries_are_kept", MemoryMessages)
class Splits(SabotagedFlow):
    """Makes two Messages of one that is long."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if len(data) > 400 and isinstance(data, bytes):
            self.lower.send(data[:400], None, True)
            data = data[400:]
        return super().send(data, record, end_of_message)


@sabotage("test_flush_alone_sends_nothing", MemoryMessages)
class FlushesNothing(SabotagedFlow):
    """Writes what it has gathered, be it nothing."""

    sent = False

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        self.sent = True
        return super().send(data, record, end_of_message)

    def flush(self) -> None:
        if not self.sent and not self.ending:
            self.lower.send(b"", None, True)
        self.sent = False
        self.lower.flush()


@sabotage("test_an_empty_message_arrives", MemoryMessages)
class LosesEmptyMessages(SabotagedFlow):
    """Has nothing to write for a Message without bytes."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        return None if data == b"" else super().send(data, record, end_of_message)


@sabotage("test_parts_make_one_message", MemoryMessages)
class EndsEveryPart(SabotagedFlow):
    """Takes every part for a Message."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        return super().send(data, record, True)


@sabotage("test_a_message_too_large_is_refused", MemoryDatagram)
class DropsWhatIsTooLarge(SabotagedFlow):
    """Loses a Message that does not fit, in silence."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        if len(data) > self.lower.read("sendMsgMaxLen"):
            return None
        return super().send(data, record, end_of_message)


@sabotage("test_after_a_refused_message_the_flow_goes_on", MemoryDatagram)
class KeepsARefusedMessage(SabotagedFlow):
    """Puts the beginning of a refused Message before the next one."""

    kept = b""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        kept, self.kept = self.kept, b""
        try:
            return super().send(kept + data if kept else data, record, end_of_message)
        except SendError:
            self.kept = data[:4]
            raise


@sabotage("test_a_withdrawn_message_never_arrives", MemoryDatagram)
class WithdrawsNothing(SabotagedFlow):
    """Says that it has withdrawn a Message, and has not."""

    def withdraw(self) -> bool:
        return True


@sabotage("test_closing_says_nothing_to_the_peer", MemoryDatagram)
class SaysGoodbye(SabotagedFlow):
    """Closes the other end too."""

    def close(self) -> None:
        if not self.ending:
            for flow in self.transport.flows:
                peers = str(flow.local_endpoint), str(flow.remote_endpoint)
                if peers == (str(self.remote_endpoint), str(self.local_endpoint)):
                    self.loop.call_soon(flow.lower.close)
        super().close()


# ----------------------------------------------------- endpoints and properties


@sabotage("test_endpoints_are_the_real_ones")
class WrongPort(SabotagedFlow):
    """Tells the port that was asked for."""

    @property
    def local_endpoint(self) -> LocalEndpoint | None:
        endpoint = self.lower.local_endpoint
        return endpoint if endpoint is None else endpoint.with_port(1)


@sabotage("test_unknown_properties_have_no_effect")
class AppliesEverything(SabotagedFlow):
    """Claims an effect for whatever it does not know."""

    def apply(self, property: str, value: Any, /) -> bool:
        return property not in PROPERTIES or self.lower.apply(property, value)


@sabotage("test_properties_have_the_effect_that_is_claimed")
class AppliesWhatItsTableDenies(SabotagedFlow):
    """Has an effect that its table says nothing of."""

    def apply(self, property: str, value: Any, /) -> bool:
        return property == "multipathPolicy" or self.lower.apply(property, value)


@sabotage("test_every_property_can_be_read")
class ReadsAClosedSocket(SabotagedFlow):
    """Asks a socket that is closed."""

    def read(self, property: str, /) -> Any:
        if self.gone and property == "connTimeout":
            raise OSError(errno.EBADF, "Bad file descriptor")
        return self.lower.read(property)


@sabotage("test_a_value_is_applied_or_refused_in_our_words")
class ConvertsInfinity(SabotagedFlow):
    """Takes every number of seconds for one of milliseconds that fits."""

    def apply(self, property: str, value: Any, /) -> bool:
        if property == "connTimeout":
            int(value * 1000)
        return self.lower.apply(property, value)


# ----------------------------------------------------------------- connecting


@sabotage("test_cancelled_connect_is_cancelled")
class SwallowsCancellation(Sabotaged):
    """Connects all the same."""

    async def connect(self, request: ConnectRequest) -> Flow:
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass
        return await super().connect(request)


class _Leaks(Sabotaged):
    left: ClassVar[list[asyncio.Task[None]]] = []

    def leak(self) -> None:
        self.left.append(asyncio.get_running_loop().create_task(asyncio.sleep(3600)))


@sabotage("test_cancelled_connect_leaves_nothing")
class LeaksWhenCancelled(_Leaks):
    """Leaves a task behind when it is cancelled."""

    async def connect(self, request: ConnectRequest) -> Flow:
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.leak()
            raise
        return await super().connect(request)


@sabotage("test_failed_connect_leaves_nothing")
class LeaksWhenRefused(_Leaks):
    """Leaves a task behind when it fails."""

    async def connect(self, request: ConnectRequest) -> Flow:
        try:
            return await super().connect(request)
        except Exception:
            self.leak()
            raise


@sabotage("test_failed_connect_says_so_in_our_words")
class ForeignWords(Sabotaged):
    """Lets an exception of its own escape."""

    async def connect(self, request: ConnectRequest) -> Flow:
        try:
            return await super().connect(request)
        except Exception as error:
            raise LookupError("no such listener") from error


# --------------------------------------------------------------- the listener


@sabotage("test_the_listener_frees_its_place")
class KeepsItsPlace(SabotagedListener):
    """Stops, yet stays bound."""

    async def close(self) -> None:
        place = self.lower.local_endpoint
        await self.lower.close()
        with contextlib.suppress(OSError):
            self.transport.network.bind(self.transport.honest.name, place, object())


class _NoListener(SabotagedListener):
    def __init__(self, place: LocalEndpoint) -> None:
        self.place = place

    @property
    def local_endpoint(self) -> LocalEndpoint:
        return self.place

    async def close(self) -> None:
        pass


@sabotage("test_two_listeners_do_not_share_a_place")
class SharesItsPlace(Sabotaged):
    """Opens a second listener that never hears anything."""

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        try:
            return await super().listen(request)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return _NoListener(request.local)


@sabotage("test_flows_outlive_the_listener")
class TakesItsFlowsAlong(SabotagedListener):
    """Ends the flows that it has handed over."""

    async def close(self) -> None:
        await self.lower.close()
        for flow in self.transport.flows:
            if not flow.client and not flow.gone:
                flow.lower.abort()


@sabotage("test_failed_listen_leaves_nothing")
class LeaksWhenInUse(_Leaks):
    """Leaves a task behind when its place is taken."""

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        try:
            return await super().listen(request)
        except OSError:
            self.leak()
            raise


@sabotage("test_cancelled_listen_leaves_nothing")
class LeaksWhenListenIsCancelled(_Leaks):
    """Leaves a task behind when listen is cancelled."""

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.leak()
            raise
        return await super().listen(request)


@sabotage("test_a_listener_can_be_closed_twice")
class ClosesOnlyOnce(SabotagedListener):
    """Has no socket to pause any more."""

    stopped = False

    async def close(self) -> None:
        self.stopped = True
        await self.lower.close()

    def pause(self) -> None:
        if self.stopped:
            raise ValueError("Invalid file descriptor: -1")
        self.lower.pause()


class _Takes(Sabotaged):
    """Stands between the listener and whoever takes its flows."""

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        def incoming(flow: Flow, admitted: Any) -> None:
            self.hand_over(request, flow, admitted)

        return await super().listen(listen_request(request.local, incoming))

    def hand_over(self, request: ListenRequest, flow: Flow, admitted: Any) -> None:
        request.incoming(flow, admitted)


@sabotage("test_a_failing_taker_costs_one_flow")
class GivesUpOnItsTaker(_Takes):
    """Hands over nothing any more once that has failed."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: list[ListenRequest] = []

    def hand_over(self, request: ListenRequest, flow: Flow, admitted: Any) -> None:
        if request in self.failed:
            flow.abort()
            return
        try:
            request.incoming(flow, admitted)
        except Exception:
            self.failed.append(request)
            raise


@sabotage("test_a_closed_listener_hands_over_nothing")
class HandsOverLate(_Takes):
    """Has a flow in its hands when it is closed."""

    def hand_over(self, request: ListenRequest, flow: Flow, admitted: Any) -> None:
        asyncio.get_running_loop().call_later(0.001, request.incoming, flow, admitted)


@sabotage("test_many_flows_at_once")
class TakesOnlySoMany(_Takes):
    """Has a limit of its own for what comes in one turn of the loop."""

    turn = 0

    def hand_over(self, request: ListenRequest, flow: Flow, admitted: Any) -> None:
        self.turn += 1
        if self.turn == 1:
            asyncio.get_running_loop().call_soon(setattr, self, "turn", 0)
        if self.turn > 32:
            flow.abort()
        else:
            request.incoming(flow, admitted)


class _Counted(SabotagedListener):
    def resume(self) -> None:
        transport: Any = self.transport
        transport.waited = 0
        asyncio.get_running_loop().call_later(0.001, setattr, transport, "waited", None)
        self.lower.resume()

    async def close(self) -> None:
        transport: Any = self.transport
        transport.waited = None
        await self.lower.close()


@sabotage("test_a_paused_listener_loses_nobody")
class ForgetsWhoWaits(_Takes):
    """Hands over the first ten of those who came while it was paused."""

    listener = _Counted
    waited: int | None = None

    def hand_over(self, request: ListenRequest, flow: Flow, admitted: Any) -> None:
        if self.waited is not None:
            self.waited += 1
            if self.waited > 10:
                flow.abort()
                return
        request.incoming(flow, admitted)


@sabotage("test_a_paused_listener_holds_back")
class NeverRests(SabotagedListener):
    """Goes on while it is paused."""

    def pause(self) -> None:
        pass


# ------------------------------------------------------------ the declaration


@sabotage("test_the_declaration_is_plain")
class Wavers(Sabotaged):
    """Says something else each time that it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.moods = itertools.cycle([AVAILABLE, Availability(available=False, reason="a mood")])

    def availability(self) -> Availability:
        return next(self.moods)


@sabotage("test_the_table_names_properties_that_exist")
class MisspeltTable(Sabotaged):
    """Claims a property that there is not."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = self.capabilities.but(support={"reliabilty": Support.ALWAYS})


@sabotage("test_the_data_unit_is_the_byte_stream")
class ClaimsBoundaries(Sabotaged):
    """Claims Message boundaries for a byte stream."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = self.capabilities.but(support={"preserveMsgBoundaries": Support.ALWAYS})
