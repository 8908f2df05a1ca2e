"""MessageContext: what is said of a Message, before it is sent and when it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import taps_core as taps
from neatpy._flat import one_module
from neatpy._translation import message_settings, read_message
from neatpy.endpoint import LocalEndpoint, RemoteEndpoint, from_local, from_remote
from neatpy.framer import Framer
from neatpy.message_properties import MessageProperties

one_module(__name__)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Framer", "LocalEndpoint", "MessageContext", "MessageProperties", "RemoteEndpoint"]

_NOTHING: Mapping[Any, Any] = {}


class MessageContext:
    """Properties of a Message, and values for and from framers.

    A context that is given to ``send`` sets properties of that Message; all parts of a Message are
    sent with the same context. One that comes with a received Message tells where it came from.
    """

    __slots__ = ("_framer_values", "_message", "_properties")

    def __init__(self) -> None:
        self._properties: Mapping[MessageProperties, Any] = _NOTHING
        self._framer_values: Mapping[tuple[type, Any], Any] = _NOTHING
        self._message: taps.Message[Any] | None = None

    @classmethod
    def _of(cls, message: taps.Message[Any] | None) -> MessageContext:
        """That of a received Message."""
        context = cls.__new__(cls)
        context._properties = context._framer_values = _NOTHING
        context._message = message
        return context

    @property
    def props(self) -> dict[MessageProperties, Any]:
        """All Message Properties and their values."""
        return {prop: self.get(prop) for prop in MessageProperties}

    def add(self, key: Any, value: Any, scope: Framer | None = None) -> None:
        """Set a Message Property, or a value for a framer.

        Args:
            key: A member of :class:`MessageProperties`, or the framer's own.
            value: The property's or the framer's.
            scope: The framer that the value is for; ``None``: it is a property.

        Raises:
            taps_core.PropertyError: No such property, a read-only one, or a value it cannot have.
        """
        if scope is not None:
            self._framer_values = {**self._framer_values, (type(scope), key): value}
            return
        if not isinstance(key, MessageProperties):
            raise taps.PropertyError(f"MessageProperties expected, not {key!r}")
        for name, each in message_settings([(key, value)]).items():
            taps.MessageContext().add(name, each)  # it knows what cannot be
        self._properties = {**self._properties, key: value}

    def get(self, key: Any, scope: Framer | None = None) -> Any:
        """A Message Property, or a framer's value.

        Args:
            key: A member of :class:`MessageProperties`, or the framer's own.
            scope: The framer, or another one of its class; ``None``: it is a property.

        Returns:
            What was set; else the default of the property, ``None`` for a framer's value.

        Raises:
            taps_core.PropertyError: No such property.
        """
        if scope is not None:
            return self._framer_values.get((type(scope), key))
        if not isinstance(key, MessageProperties):
            raise taps.PropertyError(f"MessageProperties expected, not {key!r}")
        if key in self._properties:
            return self._properties[key]
        default = MessageProperties.get_default(key)
        if default is None and self._message is not None:
            return read_message(self._message.context, key)
        return default

    def get_remote_endpoint(self) -> RemoteEndpoint | None:
        """Who sent it; ``None`` on contexts that did not come with a Message."""
        message = self._message
        return None if message is None else from_remote(message.context.remote_endpoint)

    def get_local_endpoint(self) -> LocalEndpoint | None:
        """Where it arrived, likewise."""
        message = self._message
        return None if message is None else from_local(message.context.local_endpoint)

    def _settings(self) -> dict[str, Any]:
        """What was set, as the core has it."""
        return message_settings(self._properties.items())
