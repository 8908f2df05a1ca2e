"""A flow that does what the test says: the layer below whatever is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from taps_core.model.flow import Flow
from taps_core.testing.recorder import Call

if TYPE_CHECKING:
    from taps_core.model.errors import SendError
    from taps_core.model.flow import Data, Receiver
    from taps_core.model.messages import MessageContext, SendRecord

__all__ = ["ScriptedFlow", "SentPart"]


class SentPart(NamedTuple):
    """One ``send``."""

    data: bytes
    """The buffers, joined."""
    record: SendRecord | None
    end_of_message: bool
    buffers: tuple[bytes, ...]
    """As they were given; one, if it was plain ``bytes``."""


class ScriptedFlow(Flow):
    """Remembers what comes down; what goes up is up to the test.

    ::

        below = ScriptedFlow()
        flow = MyLayerFlow(below)
        flow.start(Recorder())
        flow.send(b"hello", None, True)
        assert below.wire == b"..."
        below.feed(b"...")
        below.receiver.closed(None)

    It needs no loop and answers nothing by itself, ``close`` and ``abort``
    included.

    Attributes:
        receiver: What ``start`` was given.
        sent: Every ``send`` that was taken.
        calls: Every other downward call, in order.
        refusal: What ``send`` raises, while it is set.
        promises: Whether the fate of a Send with a record comes later.
    """

    receiver: Receiver

    def __init__(self) -> None:
        self.sent: list[SentPart] = []
        self.calls: list[Call] = []
        self.refusal: SendError | None = None
        self.promises = False

    @property
    def wire(self) -> bytes:
        """All that was sent."""
        return b"".join([part.data for part in self.sent])

    @property
    def messages(self) -> list[bytes]:
        """What was sent, cut where a Message ended."""
        messages: list[bytes] = []
        begun: list[bytes] = []
        for part in self.sent:
            begun.append(part.data)
            if part.end_of_message:
                messages.append(b"".join(begun))
                begun.clear()
        return messages

    @property
    def names(self) -> list[str]:
        """The names of :attr:`calls`."""
        return [call.name for call in self.calls]

    def feed(
        self, *chunks: bytes, context: MessageContext | None = None, end_of_message: bool = False
    ) -> None:
        """Let ``chunks`` come up, each as a part, in one read."""
        self.receiver.received([(chunk, context, end_of_message) for chunk in chunks])

    # -- what the layer above calls

    def start(self, receiver: Receiver) -> None:
        """Remember it."""
        self.receiver = receiver
        self.calls.append(Call("start", (receiver,)))

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Remember it, or refuse."""
        if self.refusal is not None:
            raise self.refusal
        buffers = data if isinstance(data, tuple) else (data,)
        self.sent.append(SentPart(b"".join(buffers), record, end_of_message, buffers))
        return True if self.promises and record is not None else None

    def flush(self) -> None:
        """Remember it."""
        self.calls.append(Call("flush", ()))

    def pause(self) -> None:
        """Remember it."""
        self.calls.append(Call("pause", ()))

    def resume(self) -> None:
        """Remember it."""
        self.calls.append(Call("resume", ()))

    def finish(self) -> None:
        """Remember it."""
        self.calls.append(Call("finish", ()))

    def close(self) -> None:
        """Remember it."""
        self.calls.append(Call("close", ()))

    def abort(self) -> None:
        """Remember it."""
        self.calls.append(Call("abort", ()))
