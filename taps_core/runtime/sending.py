"""One Message in parts: what ``Connection.sending()`` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from taps_core.model.arguments import check_length
from taps_core.model.errors import Reason, SendError
from taps_core.runtime.awaitables import DONE

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from taps_core.model.messages import MessageContext
    from taps_core.runtime.sending_half import SendingHalf

__all__ = ["Sending"]


class Sending:
    """A Message that is sent in parts (RFC 9622, section 9.2.3).

    Parts leave as they come; leaving the block sends an empty last part.
    """

    __slots__ = ("_connection", "_context", "_ended", "_length", "_sent", "_started")

    def __init__(
        self, connection: SendingHalf[Any], context: MessageContext, length: int | None
    ) -> None:
        if length is not None:
            check_length("length", length, 0)
        self._connection = connection
        self._context = context
        self._length = length
        self._sent = 0
        self._started = False
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    def send(self, data: bytes | bytearray | memoryview) -> Coroutine[Any, Any, None]:
        """The next part; as ``Connection.send``.

        A part that fails fails the Message: so do the parts after it, and
        leaving the block.

        Raises:
            SendError: More than the declared length; the block was left.
            TypeError: Not bytes: objects have no parts.
        """
        if self._ended:
            raise SendError("the Message has ended", reason=Reason.INVALID_MESSAGE_PROPERTIES)
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"only bytes can be sent in parts, not {type(data).__name__}")
        size = memoryview(data).nbytes
        if self._length is not None and self._sent + size > self._length:
            raise self._mismatch(self._sent + size)
        if not size:
            return DONE
        self._sent += size
        self._started = True
        return self._part(data, False)

    def _part(self, data: Any, end: bool) -> Coroutine[Any, Any, None]:
        return self._connection._send(data, self._context, end, {}, self._length)

    def _mismatch(self, size: int) -> SendError:
        return SendError(
            f"{size} bytes of a Message declared as {self._length}",
            reason=Reason.INVALID_MESSAGE_PROPERTIES,
            context=self._context,
        )

    async def __aexit__(self, typ: type[BaseException] | None, *_: object) -> None:
        self._ended = True
        complete = self._length is None or self._sent == self._length
        if typ is None and complete:
            await self._part(b"", True)
            return
        if self._started:
            self._connection._abandon(self._context)
        if typ is None:
            raise self._mismatch(self._sent)
