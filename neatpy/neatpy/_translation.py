"""NEATPy's properties and values as RFC 9622 has them, and back: every difference is here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import taps_core as taps
from neatpy._values import SendErrorReason
from neatpy.connection_properties import CapacityProfiles, ConnectionProperties, TCPUserTimeout
from neatpy.message_properties import MessageProperties
from neatpy.selection_properties import (
    AddressPreference,
    CommunicationDirections,
    PreferenceLevel,
    SelectionProperties,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "DEFAULT_PRIORITY",
    "connection_settings",
    "connection_values",
    "message_settings",
    "read_message",
    "selection_settings",
    "selection_values",
    "send_error_reason",
]

#: In NEATPy the larger number goes first, in RFC 9622 the smaller one, from 0.
_PRIORITIES: Final = 1 << 40
#: What RFC 9622 has for a Message of NEATPy's default priority.
DEFAULT_PRIORITY: Final = _PRIORITIES - 100

_S: Final = SelectionProperties
_C: Final = ConnectionProperties
_M: Final = MessageProperties

#: Those that mean the same, and take a preference.
_PREFERENCES: Final[Mapping[SelectionProperties, str]] = {
    _S.RELIABILITY: "reliability",
    _S.PRESERVE_MSG_BOUNDARIES: "preserveMsgBoundaries",
    _S.PER_MSG_RELIABILITY: "perMsgReliability",
    _S.PRESERVE_ORDER: "preserveOrder",
    _S.ZERO_RTT_MSG: "zeroRttMsg",
    _S.MULTISTREAMING: "multistreaming",
    _S.CONGESTION_CONTROL: "congestionControl",
    # Excessive retransmissions are soft errors since (RFC 9622, appendix C).
    _S.RETRANSMIT_NOTIFY: "softErrorNotify",
    _S.SOFT_ERROR_NOTIFY: "softErrorNotify",
    _S.LOCAL_ADDRESS_PREFERENCE: "useTemporaryLocalAddress",
}
#: The wish for less than a full checksum there, the demand for a full one here.
_CHECKSUMS: Final[Mapping[SelectionProperties, str]] = {
    _S.PER_MSG_CHECKSUM_LEN_SEND: "fullChecksumSend",
    _S.PER_MSG_CHECKSUM_LEN_RECV: "fullChecksumRecv",
}
_SETS: Final[Mapping[SelectionProperties, str]] = {_S.INTERFACE: "interface", _S.PVD: "pvd"}
_ADDRESSES: Final = {
    AddressPreference.STABLE: taps.Preference.AVOID,
    AddressPreference.TEMPORARY: taps.Preference.PREFER,
}
#: There is no demand for several paths: a protocol that has one only will do.
_MULTIPATH: Final = {
    PreferenceLevel.REQUIRE: taps.Multipath.ACTIVE,
    PreferenceLevel.PREFER: taps.Multipath.ACTIVE,
    PreferenceLevel.IGNORE: taps.Multipath.PASSIVE,
    PreferenceLevel.AVOID: taps.Multipath.DISABLED,
    PreferenceLevel.PROHIBIT: taps.Multipath.DISABLED,
}

#: Numbers that mean the same but for -1.
_NUMBERS: Final[Mapping[ConnectionProperties, str]] = {
    _C.REQUIRED_MINIMUM_CORRUPTION_PROTECTION_COVERAGE_FOR_RECEIVING: "recvChecksumLen",
    _C.TIMEOUT_FOR_ABORTING_CONNECTION: "connTimeout",
    _C.PRIORITY: "connPriority",
    _C.RETRANSMISSION_THRESHOLD_BEFORE_EXCESSIVE_RETRANSMISSION_NOTIFICATION: (
        "_taps.excessiveRetransmissions"
    ),
}
_SIZES: Final[Mapping[ConnectionProperties, str]] = {
    _C.MAXIMUM_MESSAGE_SIZE_BEFORE_FRAGMENTATION_OR_SEGMENTATION: "singularTransmissionMsgMaxLen",
    _C.MAXIMUM_MESSAGE_SIZE_ON_SEND: "sendMsgMaxLen",
    _C.MAXIMUM_MESSAGE_SIZE_ON_RECEIVE: "recvMsgMaxLen",
}
_TCP: Final[Mapping[TCPUserTimeout, str]] = {
    TCPUserTimeout.ADVERTISED_USER_TIMEOUT: "tcp.userTimeoutValue",
    TCPUserTimeout.USER_TIMEOUT_ENABLED: "tcp.userTimeoutEnabled",
    TCPUserTimeout.CHANGEABLE: "tcp.userTimeoutChangeable",
}

_REASONS: Final = {
    taps.Reason.CONNECTION_CLOSED: SendErrorReason.CONNECTION_CLOSING,
    taps.Reason.LOCAL_ABORT: SendErrorReason.CONNECTION_CLOSING,
    taps.Reason.MESSAGE_TOO_LARGE: SendErrorReason.MESSAGE_TOO_LARGE,
    taps.Reason.INVALID_MESSAGE_PROPERTIES: SendErrorReason.INCONSISTENT_PROPERTIES_PASSED,
    taps.Reason.EXPIRED: SendErrorReason.MESSAGE_TIMEOUT,
}


def _preference(level: PreferenceLevel) -> taps.Preference:
    return taps.Preference(level.value)


def _level(prop: SelectionProperties, value: Any) -> PreferenceLevel:
    if not isinstance(value, PreferenceLevel):
        raise taps.PropertyError(f"{prop.name} takes a PreferenceLevel, not {value!r}")
    return value


def selection_settings(prop: SelectionProperties, value: Any) -> dict[str, Any]:
    """What a Selection Property of NEATPy's sets.

    Raises:
        PropertyError: A value that it cannot have.
    """
    if prop is _S.DIRECTION:
        if not isinstance(value, CommunicationDirections):
            raise taps.PropertyError(f"DIRECTION takes CommunicationDirections, not {value!r}")
        return {"direction": taps.Direction[value.name]}
    if prop in _SETS:
        return {_SETS[prop]: _named(prop, value)}
    if prop is _S.LOCAL_ADDRESS_PREFERENCE and isinstance(value, AddressPreference):
        return {_PREFERENCES[prop]: _ADDRESSES[value]}
    level = _level(prop, value)
    if prop is _S.MULTIPATH:
        return {"multipath": _MULTIPATH[level]}
    if prop in _CHECKSUMS:
        wish = -max(level.value, 0) or PreferenceLevel.REQUIRE.value
        return {_CHECKSUMS[prop]: taps.Preference(wish)}
    return {_PREFERENCES[prop]: _preference(level)}


def _named(prop: SelectionProperties, value: Any) -> dict[str, taps.Preference]:
    if not isinstance(value, dict):
        raise taps.PropertyError(
            f"{prop.name} takes names and how much each is wanted, such as "
            f"{{'wlan0': PreferenceLevel.PREFER}}, not {value!r}"
        )
    return {str(name): _preference(_level(prop, level)) for name, level in value.items()}


def selection_values(properties: Mapping[str, Any]) -> dict[SelectionProperties, Any]:
    """What was chosen: whether the protocols of a Connection have each property."""
    values: dict[SelectionProperties, Any] = {
        prop: properties[name]
        for prop, name in _PREFERENCES.items()
        if prop is not _S.LOCAL_ADDRESS_PREFERENCE
    }
    for prop, name in _CHECKSUMS.items():
        values[prop] = not properties[name]
    values[_S.MULTIPATH] = properties["multipath"] is not taps.Multipath.DISABLED
    values[_S.DIRECTION] = CommunicationDirections[properties["direction"].name]
    return values


def _number(value: Any) -> Any:
    # Whether it is a number, the core says.
    return math.inf if value == -1 else value


def connection_settings(prop: ConnectionProperties, value: Any) -> dict[str, Any]:
    """What a Connection Property of NEATPy's sets.

    Raises:
        PropertyError: It is read-only, or cannot have this value.
    """
    if ConnectionProperties.is_read_only(prop):
        raise taps.PropertyError(f"{prop.name} is read-only")
    if prop in _NUMBERS:
        return {_NUMBERS[prop]: _number(value)}
    if prop is _C.CAPACITY_PROFILE:
        return {"connCapacityProfile": _profile(prop, value)}
    if prop is _C.CONNECTION_GROUP_TRANSMISSION_SCHEDULER:
        return {"connScheduler": value}
    if prop is _C.BOUNDS_ON_SEND_OR_RECEIVE_RATE:
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise taps.PropertyError(
                f"{prop.name} takes a pair, for sending and for receiving, not {value!r}"
            )
        return dict(zip(("maxSendRate", "maxRecvRate"), map(_number, value), strict=True))
    if not isinstance(value, dict) or not value.keys() <= _TCP.keys():
        raise taps.PropertyError(f"{prop.name} takes a dict of TCPUserTimeout, not {value!r}")
    return {_TCP[part]: each for part, each in value.items()}


def _profile(prop: ConnectionProperties | MessageProperties, value: Any) -> taps.CapacityProfile:
    if not isinstance(value, CapacityProfiles):
        raise taps.PropertyError(f"{prop.name} takes CapacityProfiles, not {value!r}")
    return taps.CapacityProfile[value.name]


def connection_values(properties: Mapping[str, Any]) -> dict[ConnectionProperties, Any]:
    """What holds for a Connection now, of what its protocols know."""

    def number(name: str) -> Any:
        value = properties.get(name)
        return -1 if value in (None, math.inf) else value

    values: dict[ConnectionProperties, Any] = {
        prop: number(name) for prop, name in {**_NUMBERS, **_SIZES}.items()
    }
    values[_C.MAXIMUM_MESSAGE_SIZE_CONCURRENT_WITH_CONNECTION_ESTABLISHMENT] = -1
    values[_C.CAPACITY_PROFILE] = CapacityProfiles[properties["connCapacityProfile"].name]
    values[_C.CONNECTION_GROUP_TRANSMISSION_SCHEDULER] = (
        properties["connScheduler"].value.replace(",", "").capitalize()
    )
    values[_C.BOUNDS_ON_SEND_OR_RECEIVE_RATE] = (number("maxSendRate"), number("maxRecvRate"))
    defaults = ConnectionProperties.get_default(_C.USER_TIMEOUT_TCP)
    user_timeout = {part: properties.get(name, defaults[part]) for part, name in _TCP.items()}
    values[_C.USER_TIMEOUT_TCP] = user_timeout
    return values


def message_settings(items: Iterable[tuple[MessageProperties, Any]]) -> dict[str, Any]:
    """What Message Properties of NEATPy's set.

    Raises:
        PropertyError: One is read-only, or cannot have its value.
    """
    settings: dict[str, Any] = {}
    for prop, value in items:
        if prop is _M.PRIORITY:
            if not isinstance(value, int) or isinstance(value, bool):
                raise taps.PropertyError(f"PRIORITY takes an integer, not {value!r}")
            settings["msgPriority"] = max(_PRIORITIES - value, 0)
        elif prop is _M.CORRUPTION_PROTECTION_LENGTH:
            settings["msgChecksumLen"] = _number(value)
        elif prop is _M.MESSAGE_CAPACITY_PROFILE_OVERRIDE:
            settings["msgCapacityProfile"] = _profile(prop, value)
        elif prop is _M.SINGULAR_TRANSMISSION:
            settings["noSegmentation"] = settings["noFragmentation"] = value
        elif prop in _MESSAGES:
            settings[_MESSAGES[prop]] = value
        else:
            raise taps.PropertyError(f"{prop.name} is read-only")
    return settings


_MESSAGES: Final[Mapping[MessageProperties, str]] = {
    _M.LIFETIME: "msgLifetime",
    _M.ORDERED: "msgOrdered",
    _M.IDEMPOTENT: "safelyReplayable",
    _M.FINAL: "final",
    _M.RELIABLE_DATA_TRANSFER: "msgReliable",
}


def read_message(context: taps.MessageContext, prop: MessageProperties) -> Any:
    """What a received Message says of a read-only property; ``None``: it does not say."""
    if prop is _M.RECEIVING_FINAL_MESSAGE:
        return context.final
    if prop is _M.EARLY_DATA:
        return context.early_data
    ecn = context.get("ecn")
    return None if ecn is None else ecn.value


def send_error_reason(error: BaseException, *, after_final: bool) -> SendErrorReason:
    """The reason that a sent handler is told.

    Args:
        error: What became of the Send.
        after_final: Whether a Final Message had been sent before.
    """
    reason = getattr(error, "reason", None)
    if after_final and reason is taps.Reason.INVALID_MESSAGE_PROPERTIES:
        return SendErrorReason.FINAL_MESSAGE_PASSED
    return _REASONS.get(reason, SendErrorReason.FAILURE_UNDERLYING_STACK)  # type: ignore[arg-type]  # None has none
