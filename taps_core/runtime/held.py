"""For flows that are up before anything is above them: what comes up meanwhile is held."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.flow import LayerFlow
from taps_core.runtime.system_errors import receiver_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taps_core.model.errors import ReceiveError, SendError
    from taps_core.model.events import Event
    from taps_core.model.flow import Flow, PartTuple, Receiver
    from taps_core.model.messages import SendRecord

__all__ = ["HeldCalls", "HoldingFlow"]

#: What an object that is not ``bytes`` counts for, and every part besides its data.
PART_SIZE: Final = 128
#: SoftErrors and PathChanges that are kept; they are news, not data.
MAX_EVENTS: Final = 64


class HeldCalls:
    """Keeps what comes up, in order, for the Receiver to come.

    Attributes:
        calls: Name and arguments of each call.
    """

    __slots__ = ("_events", "_full", "_limit", "_size", "calls")

    def __init__(self, limit: int = 0, full: Callable[[], None] | None = None) -> None:
        """Keep about ``limit`` bytes.

        Args:
            limit: Above this much, call ``full``.
            full: Lets no more come, say by pausing the flow below; ``None``: whoever has
                this does so by itself.
        """
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._limit = limit
        self._full = full
        self._size = 0
        self._events = 0

    def give(self, up: Callable[..., None]) -> Exception | None:
        """Give the Receiver all that was held; nothing is any more.

        Args:
            up: Is called with name and arguments of each call.

        Returns:
            What it raised, for ``closed``: the flow ends by it, and gets no more here but
            ``closed`` itself, if that was held.
        """
        calls, self.calls = self.calls, []
        try:
            for call, arguments in calls:
                up(call, *arguments)
        except Exception as error:  # noqa: BLE001  # entry of the push: what escapes ends this flow only
            failure = receiver_failed(error)
            name, _ = calls[-1]
            if name == "closed" and call != "closed":
                up("closed", failure)
            return failure
        return None

    def _grow(self, size: int) -> None:
        self._size += size
        if self._full is not None and self._size > self._limit:
            self._full()

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Keep."""
        self.calls.append(("received", (parts,)))
        for data, _, _ in parts:
            self._grow(PART_SIZE + (len(data) if isinstance(data, bytes) else 0))

    def finished(self) -> None:
        """Keep."""
        self.calls.append(("finished", ()))

    def writable(self, writable: bool, /) -> None:
        """Keep."""
        self.calls.append(("writable", (writable,)))

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """Keep."""
        self.calls.append(("outcome", (record, error)))

    def notified(self, event: Event) -> None:
        """Keep, unless there are too many already."""
        self._events += 1
        if self._events <= MAX_EVENTS:
            self.calls.append(("notified", (event,)))

    def failed(self, error: ReceiveError, fatal: bool) -> None:
        """Keep."""
        self.calls.append(("failed", (error, fatal)))
        self._grow(PART_SIZE)

    def closed(self, error: Exception | None) -> None:
        """Keep."""
        self.calls.append(("closed", (error,)))


class HoldingFlow(LayerFlow):
    """A layer that starts the flow below by itself: to shake hands, or to see who is there.

    What goes up before ``start`` is held, and given to the layer above in the turn of the
    loop after it; the flow below is resumed then. Let it be paused meanwhile, so that little
    comes. After ``close`` and ``abort`` nothing goes up but outcomes and the end.

    A subclass calls ``self.lower.start(self)``, and passes up by ``_up`` whatever it does
    not leave to this class.
    """

    __slots__ = ("_ending", "_error", "_held", "_paused")

    def __init__(self, lower: Flow) -> None:
        super().__init__(lower)
        #: None once the layer above has it.
        self._held: HeldCalls | None = HeldCalls()
        self.receiver = self._held
        #: By the layer above.
        self._paused = False
        #: Closed or aborted from above.
        self._ending = False
        #: What ``closed`` will say, where this layer itself broke.
        self._error: Exception | None = None

    # -- down

    def start(self, receiver: Receiver) -> None:
        """Give ``receiver`` what was held, from the next turn on; if nothing was, what comes."""
        held = self._held
        assert held is not None
        if held.calls:
            asyncio.get_running_loop().call_soon(self._give, receiver)
        else:
            self._held = None
            self.receiver = receiver
            self._released()

    def _give(self, receiver: Receiver) -> None:
        # Whatever comes up from in here calls down at will, but nothing else comes up
        # meanwhile: the flow below has its own turns.
        held, self._held = self._held, None
        assert held is not None
        self.receiver = receiver
        error = held.give(self._up)
        if error is not None:
            self._error = error
            self.abort()
        else:
            self._released()

    def _released(self) -> None:
        """From now on everything goes up as it comes."""
        if not self._paused:
            self.lower.resume()

    def pause(self) -> None:
        """Pass down."""
        self._paused = True
        self.lower.pause()

    def resume(self) -> None:
        """Pass down, once what was held is up."""
        self._paused = False
        if self._held is None:
            self.lower.resume()

    def close(self) -> None:
        """Pass down."""
        self._ending = True
        self.lower.close()

    def abort(self) -> None:
        """Pass down."""
        self._ending = True
        self.lower.abort()

    # -- up

    def _up(self, name: str, *arguments: Any) -> None:
        """Call the layer above, now or once it is there; nothing if it does not want it."""
        if not self._ending or name in ("outcome", "closed"):
            getattr(self.receiver, name)(*arguments)

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Pass up."""
        self._up("received", parts)

    def finished(self) -> None:
        """Pass up."""
        self._up("finished")

    def writable(self, writable: bool, /) -> None:
        """Pass up."""
        self._up("writable", writable)

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """Pass up."""
        self.receiver.outcome(record, error)

    def notified(self, event: Event) -> None:
        """Pass up."""
        self._up("notified", event)

    def failed(self, error: ReceiveError, fatal: bool) -> None:
        """Pass up."""
        self._up("failed", error, fatal)

    def closed(self, error: Exception | None) -> None:
        """Pass up."""
        self.receiver.closed(self._error or error)
