"""Records and fates of Sends that a framer changes on their way down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.model.messages import SendRecord

if TYPE_CHECKING:
    from taps_core.model.errors import SendError
    from taps_core.model.flow import Flow

__all__ = ["Fates", "FramedRecord"]


class FramedRecord(SendRecord):
    """What the layer below a framer is told of a Send: it has another length there.

    Attributes:
        upper: The record that the framer was given.
        layer: The framer's flow, which turns it back into ``upper``.
    """

    __slots__ = ("layer", "upper")

    def __init__(self, upper: SendRecord, layer: Flow, length: int | None) -> None:
        super().__init__(upper.context, upper.properties, length)
        self.upper = upper
        self.layer = layer


class _Fate:
    __slots__ = ("error", "left", "wanted")

    def __init__(self, left: int, wanted: bool) -> None:
        self.left = left
        self.wanted = wanted
        self.error: SendError | None = None


class Fates:
    """Makes one outcome of those of the pieces that a Send was passed down in."""

    __slots__ = ("_fates",)

    def __init__(self) -> None:
        self._fates: dict[SendRecord, _Fate] = {}

    def expect(self, record: SendRecord, pieces: int, wanted: bool) -> None:
        """So many outcomes come for ``record``; nobody waits for them unless ``wanted``."""
        self._fates[record] = _Fate(pieces, wanted)

    def settle(self, record: SendRecord, error: SendError | None) -> tuple[bool, SendError | None]:
        """One of them came.

        Returns:
            Whether to pass it up, and with which error: the first one.
        """
        fate = self._fates.get(record)
        if fate is None:
            return True, error
        fate.left -= 1
        fate.error = fate.error or error
        if fate.left:
            return False, None
        del self._fates[record]
        return fate.wanted, fate.error
