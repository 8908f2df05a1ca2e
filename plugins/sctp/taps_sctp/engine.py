"""What carries an association: the kernel's socket, or one in user space.

Both say the same in the same words, so that everything above them, streams, queues and
outcomes, is there once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import LocalEndpoint, RemoteEndpoint

__all__ = [
    "Dry",
    "Engine",
    "Notice",
    "PathNews",
    "Reset",
    "ResetFailed",
    "StreamsAdded",
    "Unsent",
    "User",
]

T = TypeVar("T")


class Dry(NamedTuple):
    """All that was sent has been acknowledged or given up (SENDER_DRY)."""

    up_to: int | None = None
    """The last ``number`` for which this is certain; ``None``: for all. What was sent after
    this has happened and before it was told is not among them."""


class Unsent(NamedTuple):
    """A Message was given up (SEND_FAILED)."""

    number: int
    """What ``label`` was given."""
    was_on_wire: bool


class Reset(NamedTuple):
    """Streams begin anew (RFC 6525)."""

    streams: Sequence[int]
    incoming: bool
    """Those that the peer sends on, or those that this end does."""


class ResetFailed(NamedTuple):
    """The peer will not, or cannot now, reset or add streams."""

    for_good: bool = False
    """Whether it need not be asked again."""


class StreamsAdded(NamedTuple):
    """There are more streams now (RFC 6525)."""


class PathNews(NamedTuple):
    """The state of an address of the peer."""

    address: str
    state: str
    """``"available"``, ``"unreachable"``, ``"removed"``, ``"added"``, ``"primary"``,
    ``"confirmed"`` or ``"potentially-failed"``."""


Notice: TypeAlias = Dry | Unsent | Reset | ResetFailed | StreamsAdded | PathNews


class User(Protocol):
    """Whom an engine calls, from callbacks of the loop and never from inside its methods."""

    def arrived(
        self, data: bytes, stream: int, ppid: int, unordered: bool, end_of_message: bool
    ) -> None:
        """A Message, or a part of one."""

    def noticed(self, notice: Notice) -> None:
        """Something happened."""

    def has_room(self) -> None:
        """What was refused may be tried again."""

    def said_goodbye(self) -> None:
        """The peer sends no more; what this end has sent is delivered still."""

    def ended(self, error: OSError | None) -> None:
        """The association is over, in order or not. The last call."""


class Engine(ABC):
    """One association.

    Attributes:
        user: Whom it calls.
        local_endpoint: This end.
        remote_endpoint: The other end.
        words: What the peer gave as its reason when it aborted.
    """

    words: str = ""
    user: User
    local_endpoint: LocalEndpoint
    remote_endpoint: RemoteEndpoint

    @abstractmethod
    def start(self) -> None:
        """Begin to call ``user``."""

    @abstractmethod
    def label(
        self,
        stream: int,
        *,
        ppid: int = 0,
        unordered: bool = False,
        lifetime: float | None = None,
        reliable: bool = True,
        number: int = 0,
    ) -> Any:
        """What ``send`` needs to know beside the data.

        Args:
            stream: Number of the stream.
            ppid: Payload protocol identifier.
            unordered: Whether it may overtake others.
            lifetime: Seconds after which it is given up; ``None``: never.
            reliable: False: it is sent once.
            number: Comes back with :class:`Unsent`; 0: nobody asks.
        """

    def hurried(self, label: Any) -> Any:
        """The same label for a Message that the peer is to acknowledge at once."""
        return label

    @abstractmethod
    def send(self, data: bytes, label: Any) -> bool:
        """Send a Message; False if there is no room: ``has_room`` follows.

        Raises:
            OSError: It cannot be sent, now or ever.
        """

    def tell_when_dry(self) -> None:  # noqa: B027  # optional: an engine that always tells has nothing to do
        """Tell :class:`Dry` from now on; once at once, if all is acknowledged now."""

    @abstractmethod
    def hold(self, on: bool) -> None:
        """Read nothing more for now, or read again."""

    @abstractmethod
    def shutdown(self) -> None:
        """Deliver what was sent, then end in order; ``ended`` follows."""

    @abstractmethod
    def abort(self, reason: bytes = b"") -> None:
        """End at once; ``ended`` does not follow."""

    @abstractmethod
    def streams(self) -> tuple[int, int]:
        """How many there are: inbound, outbound."""

    @abstractmethod
    def reset_streams(self, streams: Sequence[int], *, incoming: bool = False) -> None:
        """Let outgoing streams begin anew, or ask the peer for those it sends on.

        Raises:
            BlockingIOError: Not now: something is outstanding.
            OSError: Not at all.
        """

    @abstractmethod
    def add_streams(self, number: int) -> None:
        """Ask for so many more streams, in both directions.

        Raises:
            BlockingIOError: Not now: something is outstanding.
            OSError: Not at all.
        """

    def prioritize(self, stream: int, priority: int) -> None:  # noqa: B027  # optional: most engines have no scheduler
        """Where ``apply`` took connScheduler for Priority-Based: a lower one is sent first."""

    @property
    @abstractmethod
    def can_reset(self) -> bool:
        """Whether both ends can reset and add streams (RFC 6525)."""

    @property
    @abstractmethod
    def can_give_up(self) -> bool:
        """Whether both ends can give up Messages (RFC 3758)."""

    @property
    @abstractmethod
    def most(self) -> int:
        """Bytes of a Message at the most."""

    def is_dry(self) -> bool:
        """Whether nothing is outstanding now; :class:`Dry` tells of a moment before."""
        return True

    def install_key(self, key: bytes) -> bool:
        """As ``RecordCarrier.install_key``."""
        return False

    def use_key(self) -> None:  # noqa: B027  # optional: as install_key, which takes none
        """As ``RecordCarrier.use_key``."""

    def change_endpoints(
        self, verb: str, local: Sequence[LocalEndpoint], remote: Sequence[RemoteEndpoint]
    ) -> bool:
        """As ``Flow.change_endpoints``."""
        return False

    def find(self, wanted: type[T]) -> T | None:
        """As ``Flow.find``."""
        return None

    def read(self, property: str) -> Any:
        """As ``Flow.read``."""
        return None

    def apply(self, property: str, value: Any) -> bool:
        """As ``Flow.apply``."""
        return False
