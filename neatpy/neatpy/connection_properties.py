"""Connection Properties: how the chosen protocols are to behave, and what they say."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from neatpy._flat import one_module

one_module(__name__)

__all__ = ["CapacityProfiles", "ConnectionProperties", "TCPUserTimeout"]


class CapacityProfiles(Enum):
    """What kind of treatment by the network is wanted. Values are the DSCPs that ask for it."""

    DEFAULT = 0
    """Nothing is said about it."""
    SCAVENGER = 1
    """Not interactive, no urgency: what others leave."""
    LOW_LATENCY_INTERACTIVE = 36
    """Interactive; rather lost than late."""
    LOW_LATENCY_NON_INTERACTIVE = 18
    """Rather lost than late, but nobody waits for each answer."""
    CONSTANT_RATE_STREAMING = 28
    """Data at a constant rate, with as little delay as can be."""
    CAPACITY_SEEKING = 10
    """As much as congestion control allows."""


class TCPUserTimeout(Enum):
    """Parts of ``ConnectionProperties.USER_TIMEOUT_TCP``, which is a dict of one or more of them.

    They count where TCP was chosen (RFC 5482)::

        transport_properties.add(
            ConnectionProperties.USER_TIMEOUT_TCP,
            {TCPUserTimeout.ADVERTISED_USER_TIMEOUT: 150},
        )
    """

    ADVERTISED_USER_TIMEOUT = "tcp.user-timeout-value"
    """The timeout, in seconds. Default: 300."""
    USER_TIMEOUT_ENABLED = "tcp.user-timeout"
    """Whether it is used. Default: False."""
    CHANGEABLE = "tcp.user-timeout-recv"
    """Whether the peer may change the timeout for aborting. Default: True."""


class ConnectionProperties(Enum):
    """What can be set before ``initiate()`` and ``listen()``, and later by ``set_property``.

    -1 stands for «all», «never», «unlimited», «not applicable» and «not known yet».
    """

    RETRANSMISSION_THRESHOLD_BEFORE_EXCESSIVE_RETRANSMISSION_NOTIFICATION = (
        "retransmit-notify-threshold"
    )
    """How many retransmissions in a row are worth telling. Default: -1, what TCP calls R1."""
    REQUIRED_MINIMUM_CORRUPTION_PROTECTION_COVERAGE_FOR_RECEIVING = "recv-checksum-len"
    """How many bytes of a Message must have been covered by a checksum. Default: -1, all."""
    PRIORITY = "conn-prio"
    """Rank among the Connections of a group; smaller goes first. Default: 100."""
    TIMEOUT_FOR_ABORTING_CONNECTION = "conn-timeout"
    """Seconds to try to deliver before the Connection has failed. Default: -1, for ever."""
    CONNECTION_GROUP_TRANSMISSION_SCHEDULER = "conn-scheduler"
    """How a group divides what it may send; a name of RFC 8260's.

    Default: "Weighted fair queueing".
    """
    MAXIMUM_MESSAGE_SIZE_CONCURRENT_WITH_CONNECTION_ESTABLISHMENT = "zero-rtt-msg-max-len"
    """Read-only, and always -1: RFC 9622 has it no more."""
    MAXIMUM_MESSAGE_SIZE_BEFORE_FRAGMENTATION_OR_SEGMENTATION = "singular-transmission-msg-max-len"
    """Largest Message that leaves in one packet. Read-only; -1: not applicable."""
    MAXIMUM_MESSAGE_SIZE_ON_SEND = "send-msg-max-len"
    """Largest Message that can be sent. Read-only; -1: unlimited."""
    MAXIMUM_MESSAGE_SIZE_ON_RECEIVE = "recv-msg-max-len"
    """Largest Message that can be received. Read-only; -1: unlimited."""
    CAPACITY_PROFILE = "conn-capacity-profile"
    """A :class:`CapacityProfiles`. Default: DEFAULT."""
    BOUNDS_ON_SEND_OR_RECEIVE_RATE = "max-send-rate / max-recv-rate"
    """The most to send and to receive, in bit/s. Default: (-1, -1), unlimited."""
    USER_TIMEOUT_TCP = "tcp-uto"
    """TCP's user timeout: a dict of :class:`TCPUserTimeout`."""

    def __str__(self) -> str:
        return self.value

    @staticmethod
    def get_default(prop: ConnectionProperties | None = None) -> Any:
        """The default of one property, or a dict of all."""
        if prop is None:
            return {each: ConnectionProperties.get_default(each) for each in ConnectionProperties}
        default = _DEFAULTS[prop]
        return dict(default) if isinstance(default, dict) else default

    @staticmethod
    def is_read_only(connection_property: ConnectionProperties) -> bool:
        """Whether the protocols say what it is, and the application does not."""
        return connection_property in _READ_ONLY

    @staticmethod
    def is_valid_property(given_property: object) -> bool:
        """Whether it is one of these."""
        return isinstance(given_property, ConnectionProperties)


_READ_ONLY: Final = frozenset(
    {
        ConnectionProperties.MAXIMUM_MESSAGE_SIZE_CONCURRENT_WITH_CONNECTION_ESTABLISHMENT,
        ConnectionProperties.MAXIMUM_MESSAGE_SIZE_BEFORE_FRAGMENTATION_OR_SEGMENTATION,
        ConnectionProperties.MAXIMUM_MESSAGE_SIZE_ON_SEND,
        ConnectionProperties.MAXIMUM_MESSAGE_SIZE_ON_RECEIVE,
    }
)

_DEFAULTS: Final[dict[ConnectionProperties, Any]] = {
    **dict.fromkeys(ConnectionProperties, -1),
    ConnectionProperties.PRIORITY: 100,
    ConnectionProperties.CONNECTION_GROUP_TRANSMISSION_SCHEDULER: "Weighted fair queueing",
    ConnectionProperties.CAPACITY_PROFILE: CapacityProfiles.DEFAULT,
    ConnectionProperties.BOUNDS_ON_SEND_OR_RECEIVE_RATE: (-1, -1),
    ConnectionProperties.USER_TIMEOUT_TCP: {
        TCPUserTimeout.ADVERTISED_USER_TIMEOUT: 300,
        TCPUserTimeout.USER_TIMEOUT_ENABLED: False,
        TCPUserTimeout.CHANGEABLE: True,
    },
}
