"""Transport Properties: Selection, Connection and Message Properties together."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

import taps_core as taps
from neatpy._flat import one_module
from neatpy._translation import (
    DEFAULT_PRIORITY,
    connection_settings,
    message_settings,
    selection_settings,
)
from neatpy.connection_properties import CapacityProfiles, ConnectionProperties, TCPUserTimeout
from neatpy.message_properties import MessageProperties
from neatpy.selection_properties import (
    CommunicationDirections,
    PreferenceLevel,
    SelectionProperties,
)
from neatpy.utils import shim_print

one_module(__name__)

__all__ = [
    "CapacityProfiles",
    "CommunicationDirections",
    "ConnectionProperties",
    "MessageProperties",
    "PreferenceLevel",
    "SelectionProperties",
    "TCPUserTimeout",
    "TransportProperties",
    "TransportPropertyProfiles",
    "shim_print",
]


class TransportPropertyProfiles(Enum):
    """Sets of properties that are often wanted together."""

    RELIABLE_INORDER_STREAM = auto()
    """A reliable stream of bytes in order, with congestion control: what TCP is."""
    RELIABLE_MESSAGE = auto()
    """Messages, reliable and in order, with congestion control: what SCTP offers."""
    UNRELIABLE_DATAGRAM = auto()
    """Datagrams that may get lost: what UDP is."""


_PROFILES: Final[dict[TransportPropertyProfiles, dict[Any, Any]]] = {
    TransportPropertyProfiles.RELIABLE_INORDER_STREAM: {
        SelectionProperties.RELIABILITY: PreferenceLevel.REQUIRE,
        SelectionProperties.PRESERVE_ORDER: PreferenceLevel.REQUIRE,
        SelectionProperties.CONGESTION_CONTROL: PreferenceLevel.REQUIRE,
        SelectionProperties.PRESERVE_MSG_BOUNDARIES: PreferenceLevel.PROHIBIT,
    },
    TransportPropertyProfiles.RELIABLE_MESSAGE: {
        SelectionProperties.RELIABILITY: PreferenceLevel.REQUIRE,
        SelectionProperties.PRESERVE_ORDER: PreferenceLevel.REQUIRE,
        SelectionProperties.CONGESTION_CONTROL: PreferenceLevel.REQUIRE,
        SelectionProperties.PRESERVE_MSG_BOUNDARIES: PreferenceLevel.REQUIRE,
    },
    TransportPropertyProfiles.UNRELIABLE_DATAGRAM: {
        SelectionProperties.RELIABILITY: PreferenceLevel.PROHIBIT,
        SelectionProperties.PRESERVE_ORDER: PreferenceLevel.IGNORE,
        SelectionProperties.CONGESTION_CONTROL: PreferenceLevel.IGNORE,
        SelectionProperties.PRESERVE_MSG_BOUNDARIES: PreferenceLevel.REQUIRE,
        MessageProperties.IDEMPOTENT: True,
    },
}
#: Defaults that differ from RFC 9622's and count all the same.
_OWN_DEFAULTS: Final = (SelectionProperties.PRESERVE_MSG_BOUNDARIES,)


class TransportProperties:
    """What is wanted, and by how much.

    Args:
        property_profile: Properties to begin with; ``None``: the defaults.

    Attributes:
        selection_properties: Each Selection Property with its value.
        connection_properties: Each Connection Property with its value.
        message_properties: Each Message Property with its default for all Messages.
    """

    def __init__(self, property_profile: TransportPropertyProfiles | None = None) -> None:
        self.selection_properties: dict[SelectionProperties, Any]
        self.connection_properties: dict[ConnectionProperties, Any]
        self.message_properties: dict[MessageProperties, Any]
        self.selection_properties = SelectionProperties.get_default()
        self.connection_properties = ConnectionProperties.get_default()
        self.message_properties = MessageProperties.get_default()
        self._chosen: dict[Any, None] = {}
        if property_profile is not None:
            for prop, value in _PROFILES[TransportPropertyProfiles(property_profile)].items():
                self.add(prop, value)

    def add(
        self, prop: SelectionProperties | MessageProperties | ConnectionProperties, value: Any
    ) -> None:
        """Give a property a value.

        Args:
            prop: A member of one of the three enumerations.
            value: For most Selection Properties a PreferenceLevel.

        Raises:
            taps_core.PropertyError: It is no property, is read-only, or cannot have this value.
        """
        held = self._of(prop)
        for name, each in _settings(prop, value).items():
            taps.TransportProperties().set(name, each)  # it knows what cannot be
        if prop is ConnectionProperties.USER_TIMEOUT_TCP:
            value = {**held[prop], **value}
        elif isinstance(value, dict):
            value = dict(value)
        held[prop] = value
        self._chosen[prop] = None

    def require(self, prop: SelectionProperties) -> None:
        """Only with it.

        Args:
            prop: A Selection Property that takes a PreferenceLevel, here and below.
        """
        self._prefer(prop, PreferenceLevel.REQUIRE)

    def prefer(self, prop: SelectionProperties) -> None:
        """With it, if possible."""
        self._prefer(prop, PreferenceLevel.PREFER)

    def ignore(self, prop: SelectionProperties) -> None:
        """With it or without."""
        self._prefer(prop, PreferenceLevel.IGNORE)

    def avoid(self, prop: SelectionProperties) -> None:
        """Without it, if possible."""
        self._prefer(prop, PreferenceLevel.AVOID)

    def prohibit(self, prop: SelectionProperties) -> None:
        """Only without it."""
        self._prefer(prop, PreferenceLevel.PROHIBIT)

    def default(self, prop: SelectionProperties) -> None:
        """Back to the default.

        Raises:
            taps_core.PropertyError: It is no Selection Property.
        """
        _check_selection(prop)
        default = SelectionProperties.get_default(prop)
        if default is None:
            self.selection_properties.pop(prop, None)
        else:
            self.selection_properties[prop] = default
        self._chosen.pop(prop, None)

    def _prefer(self, prop: SelectionProperties, level: PreferenceLevel) -> None:
        _check_selection(prop)
        self.add(prop, level)

    def _of(self, prop: Any) -> dict[Any, Any]:
        if isinstance(prop, SelectionProperties):
            return self.selection_properties
        if isinstance(prop, ConnectionProperties):
            return self.connection_properties
        if isinstance(prop, MessageProperties):
            return self.message_properties
        raise taps.PropertyError(
            f"SelectionProperties, ConnectionProperties or MessageProperties expected, not {prop!r}"
        )

    def _snapshot(self) -> TransportProperties:
        """A copy that nobody else has."""
        made = TransportProperties.__new__(TransportProperties)
        for name, held in vars(self).items():
            setattr(made, name, dict(held))
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TransportProperties) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    @property
    def _priority(self) -> int:
        """That of Messages which say nothing of theirs, as the core has it."""
        prop = MessageProperties.PRIORITY
        return int(message_settings([(prop, self.message_properties[prop])])["msgPriority"])

    def _to_taps(self) -> taps.TransportProperties:
        """As the core has them; what is at RFC 9622's default is not set.

        Raises:
            PropertyError: A value that cannot be.
        """
        made = taps.TransportProperties(msg_priority=DEFAULT_PRIORITY)
        notify: list[taps.Preference] = []
        for prop in (*_OWN_DEFAULTS, *self._chosen):
            for name, value in _settings(prop, self._of(prop)[prop]).items():
                if name == "softErrorNotify":
                    notify.append(value)  # two properties there, the stronger of them counts here
                    value = max(notify, key=lambda each: each.value)
                made.set(name, value)
        return made


def _settings(prop: Any, value: Any) -> dict[str, Any]:
    if isinstance(prop, SelectionProperties):
        return selection_settings(prop, value)
    if isinstance(prop, ConnectionProperties):
        return connection_settings(prop, value)
    return message_settings([(prop, value)])


def _check_selection(prop: Any) -> None:
    if not isinstance(prop, SelectionProperties):
        raise taps.PropertyError(f"a Selection Property is expected, not {prop!r}")
