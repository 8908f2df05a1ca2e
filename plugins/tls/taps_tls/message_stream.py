"""One ordered, reliable stream of Messages as the byte stream that TLS needs (RFC 3436)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import LayerFlow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import Data, Flow, PartTuple, SendRecord

__all__ = ["MessageStream"]

_LENGTHS: Final = frozenset({"sendMsgMaxLen", "recvMsgMaxLen"})


class MessageStream(LayerFlow):
    """Cuts what goes down into Messages, and forgets where those that come up end.

    Every Message is ordered and reliable, whatever was asked of it: without one of them
    nothing behind it could be decrypted. Further streams are connections of their own.
    """

    __slots__ = ("_most",)

    def __init__(self, lower: Flow) -> None:
        super().__init__(lower)
        self._most = lower.read("sendMsgMaxLen") or sys.maxsize

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> None:
        """As one Message, or as many as it takes."""
        whole = data if isinstance(data, bytes) else b"".join(data)
        if len(whole) <= self._most:
            if whole:
                self.lower.send(whole, None, True)
            return
        for at in range(0, len(whole), self._most):
            self.lower.send(whole[at : at + self._most], None, True)

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Bytes, in their order."""
        self.receiver.received([(data, None, False) for data, _, _ in parts if data])

    def read(self, property: str, /) -> Any:
        """Of a byte stream."""
        return sys.maxsize if property in _LENGTHS else self.lower.read(property)
