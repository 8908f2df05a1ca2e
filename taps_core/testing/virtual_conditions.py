"""What a path is like, and what went over it."""

from __future__ import annotations

import dataclasses
import math
from typing import TypedDict

__all__ = ["ConditionKeywords", "Conditions", "Counts"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What a path is like, in one direction."""

    latency: float = 0.0
    """Seconds that a packet takes once it has left."""
    jitter: float = 0.0
    """Seconds that it may take in addition, each value as likely as any other."""
    bandwidth: float = math.inf
    """Bytes per second."""
    loss: float = 0.0
    """Probability that a packet is lost."""
    reorder: float = 0.0
    """Probability that a packet is overtaken."""
    reorder_delay: float = 0.01
    """Seconds that a packet which is overtaken is late."""
    duplicate: float = 0.0
    """Probability that a packet arrives twice."""
    mtu: int = 1500
    """Largest packet in bytes, overhead included. Senders know it."""
    queue: float = math.inf
    """Bytes that may wait for the bandwidth; what comes beyond is lost."""
    overhead: int = 0
    """Bytes of each packet beyond its payload."""

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability from 0 to 1, not {getattr(self, name)}")
        for name in ("latency", "jitter", "reorder_delay", "queue", "overhead"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is not below 0, not {getattr(self, name)}")
        if not self.bandwidth > 0:
            raise ValueError(f"bandwidth is above 0, not {self.bandwidth}")
        if self.mtu <= self.overhead:
            raise ValueError(f"an mtu of {self.mtu} has no room beside {self.overhead} of overhead")

    @property
    def longest(self) -> float:
        """Seconds that a packet takes at most which waits for nobody and needs no time to leave."""
        return self.latency + self.jitter + (self.reorder_delay if self.reorder else 0.0)


class ConditionKeywords(TypedDict, total=False):
    """The fields of :class:`Conditions` as keywords."""

    latency: float
    jitter: float
    bandwidth: float
    loss: float
    reorder: float
    reorder_delay: float
    duplicate: float
    mtu: int
    queue: float
    overhead: int


@dataclasses.dataclass(kw_only=True, slots=True)
class Counts:
    """Packets and bytes, overhead included."""

    sent: int = 0
    sent_bytes: int = 0
    lost: int = 0
    lost_bytes: int = 0
    delivered: int = 0
    """Every copy that arrived counts."""
    delivered_bytes: int = 0
    duplicated: int = 0
    reordered: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            **{
                field.name: getattr(self, field.name) + getattr(other, field.name)
                for field in dataclasses.fields(self)
            }
        )
