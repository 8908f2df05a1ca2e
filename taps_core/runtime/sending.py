"""One Message in parts: what ``Connection.sending()`` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from taps_core.model.errors import Reason, SendError
from taps_core.runtime.awaitables import DONE

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from taps_core.model.messages import MessageContext
    from taps_core.runtime.connection import Connection

__all__ = ["Sending"]


class Sending:
    """A Message that is sent in parts (RFC 9622, section 9.2.3).

    Parts leave as they come; leaving the block sends an empty last part.
    """

    __slots__ = ("_connection", "_context", "_ended", "_length", "_sent", "_started")

    def __init__(
        self, connection: Connection[Any], context: MessageContext, length: int | None
    ) -> None:
        if length is not None and length < 0:
            raise ValueError("a Message has at least 0 bytes")
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

        Raises:
            SendError: More than the declared length; the block was left.
        """
        if self._ended:
            raise SendError("the Message has ended", reason=Reason.INVALID_MESSAGE_PROPERTIES)
        size = len(data)
        if self._length is not None and self._sent + size > self._length:
            raise SendError(
                f"{self._sent + size} bytes of a Message declared as {self._length}",
                reason=Reason.INVALID_MESSAGE_PROPERTIES,
            )
        if not size:
            return DONE
        self._sent += size
        self._started = True
        return self._part(data, False)

    def _part(self, data: Any, end: bool) -> Coroutine[Any, Any, None]:
        return self._connection._send(data, self._context, end, {}, self._length, id(self._context))

    async def __aexit__(self, typ: type[BaseException] | None, *_: object) -> None:
        self._ended = True
        if typ is None:
            if self._length is not None and self._sent != self._length:
                self._give_up()
                raise SendError(
                    f"{self._sent} bytes of a Message declared as {self._length}",
                    reason=Reason.INVALID_MESSAGE_PROPERTIES,
                )
            await self._part(b"", True)
        else:
            self._give_up()

    def _give_up(self) -> None:
        # A part that has left cannot be recalled, and what follows would be
        # taken for its rest: the Connection ends rather than lie.
        outbox = self._connection._outbox
        if self._started and (outbox is None or not outbox.forget(id(self._context))):
            self._connection.abort()
