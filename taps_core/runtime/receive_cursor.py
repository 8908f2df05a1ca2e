"""The receive buffer of a :class:`~taps_core.model.framer.Framer` and its cursor.

Bytes from below wait here until the framer discards or delivers them (RFC
9623, section 6.3). It may do that with bytes that have not arrived yet: such
claims are settled from what comes, without a copy and without asking again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from taps_core.model.framer import Parsed, cut_off, deframing_failed

if TYPE_CHECKING:
    from taps_core.model.flow import PartTuple
    from taps_core.model.messages import MessageContext

__all__ = ["ReceiveCursor"]


class _Claim:
    """Bytes that are spoken for before they arrive."""

    __slots__ = ("context", "deliver", "end_of_message", "left")

    def __init__(
        self, length: int, deliver: bool, context: MessageContext | None, end_of_message: bool
    ) -> None:
        self.left = length
        self.deliver = deliver
        self.context = context
        self.end_of_message = end_of_message


class ReceiveCursor:
    """What arrived and was not parsed yet, seen from the cursor.

    Attributes:
        out: What was delivered and has to go up.
        moved: Whether anything was discarded, delivered or claimed; whoever
            wants to know sets it to False before.
        midway: Whether the last part delivered was not the end of its Message.
    """

    __slots__ = (
        "_buffer",
        "_claims",
        "_context",
        "_ended",
        "_max_length",
        "_open_context",
        "midway",
        "moved",
        "out",
    )

    def __init__(self, max_length: int) -> None:
        self.out: list[PartTuple] = []
        self.moved = False
        self.midway = False
        self._max_length = max_length
        self._buffer = bytearray()
        self._claims: deque[_Claim] = deque()
        # Of the part below that the buffer's bytes came with.
        self._context: MessageContext | None = None
        self._ended = False
        self._open_context: MessageContext | None = None

    @property
    def unparsed(self) -> int:
        """Bytes that wait for the framer."""
        return len(self._buffer)

    @property
    def claiming(self) -> bool:
        """Whether bytes are spoken for that have not arrived."""
        return bool(self._claims)

    @property
    def context(self) -> MessageContext | None:
        """What the layers below say of the bytes here."""
        return self._context

    # -- from below

    def take(self, data: bytes, context: MessageContext | None, end_of_message: bool) -> bool:
        """A part arrived; it settles claims first.

        Returns:
            Whether there is something for the framer to look at.

        Raises:
            ReceiveError: The Message below ends before what was claimed of it.
        """
        # On a stream, a context stays until the bytes that it came with are gone:
        # rather call too much early data than too little.
        if context is not None or not self._buffer:
            self._context = context
        self._ended = end_of_message
        claims = self._claims
        settled = bool(claims)
        while claims and (data or not claims[0].left):
            claim = claims[0]
            if len(data) < claim.left:
                claim.left -= len(data)
                if claim.deliver:
                    self.append(data, claim.context, False)
                data = b""
            else:
                piece, data = data[: claim.left], data[claim.left :]
                if claim.deliver:
                    self.append(piece, claim.context, claim.end_of_message)
                claims.popleft()
        if claims and end_of_message:
            raise cut_off()
        self._buffer += data
        return bool(self._buffer) or (end_of_message and not settled)

    def end_message(self) -> None:
        """The Message below has been parsed as far as the framer would.

        Raises:
            ReceiveError: Something is left of it, or was claimed beyond it.
        """
        self._ended = False
        if self._buffer or self._claims:
            raise cut_off()

    def drop(self) -> None:
        """The Message below is lost; so is the one above that is not complete."""
        self._buffer.clear()
        self._claims.clear()
        self._ended = False
        while self.out and not self.out[-1][2]:
            self.out.pop()
        self.midway = False

    def pass_on(self) -> None:
        """Deliver what is left as it came."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            self.append(data, None, self._ended)

    # -- the framer's actions

    def parse(self, minimum: int, maximum: int) -> Parsed | None:
        """Look at what is there."""
        _check(minimum)
        _check(maximum)
        buffer = self._buffer
        if len(buffer) < minimum:
            return None
        return Parsed(
            bytes(memoryview(buffer)[:maximum]),
            self._context,
            self._ended and len(buffer) <= maximum,
        )

    def advance(self, length: int) -> None:
        """Discard."""
        self._claim(_Claim(length, False, None, False))

    def deliver_and_advance(
        self, context: MessageContext | None, length: int, end_of_message: bool
    ) -> None:
        """Deliver bytes of the buffer and what will come behind it.

        Raises:
            ReceiveError: More than ``max_length``.
        """
        if length > self._max_length:
            raise deframing_failed(
                f"a Message of {length} bytes, at most {self._max_length} allowed",
                detail="too-large",
            )
        self._claim(_Claim(length, True, context, end_of_message))

    def _claim(self, claim: _Claim) -> None:
        length = claim.left
        _check(length)
        self.moved = True
        if self._claims:
            self._claims.append(claim)
            return
        buffer = self._buffer
        here = min(length, len(buffer))
        if claim.deliver and (here or not length):
            self.append(
                bytes(memoryview(buffer)[:here]),
                claim.context,
                claim.end_of_message and here == length,
            )
        del buffer[:here]
        if here < length:
            claim.left -= here
            self._claims.append(claim)
            if self._ended:
                raise cut_off()

    def append(self, data: Any, context: MessageContext | None, end_of_message: bool) -> None:
        """Deliver ``data``, with what the layers below say of it."""
        self.moved = True
        below = self._open_context if self.midway else self._context
        if context is None:
            context = below
        elif below is not None and below is not context:
            context.inherit(below)
        self.out.append((data, context, end_of_message))
        self.midway = not end_of_message
        self._open_context = context if self.midway else None


def _check(length: int) -> None:
    if length < 0:
        raise ValueError(f"{length}: a length is at least 0")
