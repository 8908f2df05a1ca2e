"""Selection Properties: what an application asks of the protocols and paths to be chosen."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

from neatpy._flat import one_module

one_module(__name__)

__all__ = [
    "AddressPreference",
    "CommunicationDirections",
    "PreferenceLevel",
    "SelectionProperties",
]


class PreferenceLevel(Enum):
    """How much a Selection Property matters: from «only with it» to «only without it»."""

    REQUIRE = 2
    """Only protocols and paths that have it; otherwise there is no Connection."""
    PREFER = 1
    """Those that have it go first."""
    IGNORE = 0
    """It does not matter."""
    AVOID = -1
    """Those that do not have it go first."""
    PROHIBIT = -2
    """Only protocols and paths that do not have it, or can do without."""


class CommunicationDirections(Enum):
    """Values of ``SelectionProperties.DIRECTION``."""

    BIDIRECTIONAL = auto()
    """Data goes both ways."""
    UNIDIRECTIONAL_SEND = auto()
    """The application sends, and receives nothing."""
    UNIDIRECTIONAL_RECEIVE = auto()
    """The application receives, and sends nothing."""


class AddressPreference(Enum):
    """Values of ``SelectionProperties.LOCAL_ADDRESS_PREFERENCE``, besides PreferenceLevels."""

    STABLE = auto()
    """Addresses that stay."""
    TEMPORARY = auto()
    """Temporary ones (IPv6 privacy addresses), if there are any."""


class SelectionProperties(Enum):
    """What can be asked for. Values are the names that NEATPy's draft of the RFC had.

    Each takes a :class:`PreferenceLevel` but for those that say otherwise.
    """

    RELIABILITY = "reliability"
    """Every byte arrives, once. Default: REQUIRE."""
    PRESERVE_MSG_BOUNDARIES = "preserve-msg-boundaries"
    """The protocols themselves carry the boundaries of Messages. Default: PREFER."""
    PER_MSG_RELIABILITY = "per-msg-reliability"
    """Reliability can differ from Message to Message. Default: IGNORE."""
    PRESERVE_ORDER = "preserve-order"
    """Data arrives in the order in which it was sent. Default: REQUIRE."""
    ZERO_RTT_MSG = "zero-rtt-msg"
    """A replay-safe Message can go with the handshake. Default: IGNORE."""
    MULTISTREAMING = "multistreaming"
    """Clones are streams of one transport connection. Default: PREFER."""
    PER_MSG_CHECKSUM_LEN_SEND = "per-msg-checksum-len-send"
    """Checksums of what is sent can cover less than all of it. Default: IGNORE."""
    PER_MSG_CHECKSUM_LEN_RECV = "per-msg-checksum-len-recv"
    """Checksums of what arrives may cover less than all of it. Default: IGNORE."""
    CONGESTION_CONTROL = "congestion-control"
    """The protocols control congestion. Default: REQUIRE."""
    INTERFACE = "interface"
    """Interfaces, or types of them: ``{"wlan0": PreferenceLevel.PREFER}``. Default: none."""
    PVD = "pvd"
    """Provisioning Domains, or types of them, in the same form. Default: none."""
    LOCAL_ADDRESS_PREFERENCE = "local-address-preference"
    """Temporary local addresses; an :class:`AddressPreference` will do, too.

    Default: what RFC 9622 says, temporary ones for clients.
    """
    MULTIPATH = "multipath"
    """Several paths at a time. Default: PREFER."""
    DIRECTION = "direction"
    """Which way data goes: a :class:`CommunicationDirections`. Default: BIDIRECTIONAL."""
    RETRANSMIT_NOTIFY = "retransmit-notify"
    """Tell of excessive retransmissions. Default: IGNORE."""
    SOFT_ERROR_NOTIFY = "soft-error-notify"
    """Tell of ICMP errors that end nothing. Default: IGNORE."""

    def __str__(self) -> str:
        return self.value

    @staticmethod
    def get_default(prop: SelectionProperties | None = None) -> Any:
        """The default of one property (``None``: it has none), or a dict of all that have one."""
        return dict(_DEFAULTS) if prop is None else _DEFAULTS.get(prop)


_DEFAULTS: Final[dict[SelectionProperties, Any]] = {
    SelectionProperties.RELIABILITY: PreferenceLevel.REQUIRE,
    SelectionProperties.PRESERVE_MSG_BOUNDARIES: PreferenceLevel.PREFER,
    SelectionProperties.PER_MSG_RELIABILITY: PreferenceLevel.IGNORE,
    SelectionProperties.PRESERVE_ORDER: PreferenceLevel.REQUIRE,
    SelectionProperties.ZERO_RTT_MSG: PreferenceLevel.IGNORE,
    SelectionProperties.MULTISTREAMING: PreferenceLevel.PREFER,
    SelectionProperties.PER_MSG_CHECKSUM_LEN_SEND: PreferenceLevel.IGNORE,
    SelectionProperties.PER_MSG_CHECKSUM_LEN_RECV: PreferenceLevel.IGNORE,
    SelectionProperties.CONGESTION_CONTROL: PreferenceLevel.REQUIRE,
    SelectionProperties.MULTIPATH: PreferenceLevel.PREFER,
    SelectionProperties.DIRECTION: CommunicationDirections.BIDIRECTIONAL,
    SelectionProperties.RETRANSMIT_NOTIFY: PreferenceLevel.IGNORE,
    SelectionProperties.SOFT_ERROR_NOTIFY: PreferenceLevel.IGNORE,
}
