"""Messages and their contexts (RFC 9622, section 9.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from taps_core.model.properties import message_name, message_property

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint

__all__ = ["Message", "MessageContext", "SendRecord"]

T_co = TypeVar("T_co", covariant=True)
_ABSENT: Any = object()


class MessageContext:
    """Properties and annotations of one or several Messages (RFC 9622, section 9.1.1).

    For sending: ``context.add("msgPriority", 10)`` sets a Message Property for
    every Message sent with this context; editing it after a Send does not
    touch that Send. For receiving: what the stack tells about a Message.

    ``context.add(framer, key, value)`` and ``context.get(framer, key)`` carry
    values to and from a framer, which is named by its registered name; keys
    carry a namespace (section 9.1.2.2).
    """

    __slots__ = ("_framers", "_local", "_properties", "_remote")

    def __init__(self, **message_properties: Any) -> None:
        self._properties: dict[str, Any] = {}
        self._framers: dict[tuple[str, str], Any] | None = None
        self._remote: RemoteEndpoint | None = None
        self._local: LocalEndpoint | None = None
        for name, value in message_properties.items():
            self.add(name, value)

    @classmethod
    def received(
        cls,
        properties: Mapping[str, Any],
        *,
        remote: RemoteEndpoint | None = None,
        local: LocalEndpoint | None = None,
    ) -> MessageContext:
        """What a stack says of a Message that came in. For plugins.

        Args:
            properties: Canonical names → values; read-only ones (``ecn``,
                ``earlyData``, ``receivedFinal``, a plugin's own) included.
            remote: The sender, where it differs from Message to Message.
            local: The address it came to, likewise.
        """
        context = cls.__new__(cls)
        context._properties = dict(properties)
        context._framers = None
        context._remote = remote
        context._local = local
        return context

    def add(self, *args: Any) -> MessageContext:
        """``add(property, value)`` or ``add(framer, key, value)``; returns itself.

        Raises:
            PropertyError: No such Message Property, a value it cannot have, or
                a read-only one.
        """
        if len(args) == 2:
            name, value = message_property(*args)
            self._properties[name] = value
        elif len(args) == 3:
            framer, key, value = args
            if self._framers is None:
                self._framers = {}
            self._framers[str(framer), key] = value
        else:
            raise TypeError("add(property, value) or add(framer, key, value)")
        return self

    def get(self, *args: Any, default: Any = None) -> Any:
        """``get(property)`` or ``get(framer, key)``; ``default`` where it was not set."""
        if len(args) == 1:
            name = args[0]
            value = self._properties.get(name, _ABSENT)
            if value is _ABSENT:
                value = self._properties.get(message_name(name), default)
            return value
        if len(args) != 2:
            raise TypeError("get(property) or get(framer, key)")
        framer, key = args
        return (self._framers or {}).get((str(framer), key), default)

    @property
    def properties(self) -> Mapping[str, Any]:
        """What was set, by canonical name. A view: do not change it."""
        return self._properties

    @property
    def early_data(self) -> bool:
        """Whether the Message came as early data, before establishment finished."""
        return bool(self._properties.get("earlyData", False))

    @property
    def final(self) -> bool:
        """Whether this is the last Message of its sender (sent or received)."""
        return bool(self._properties.get("receivedFinal", self._properties.get("final", False)))

    @property
    def remote_endpoint(self) -> RemoteEndpoint | None:
        """Who sent it; on contexts that come with events."""
        return self._remote

    @property
    def local_endpoint(self) -> LocalEndpoint | None:
        """Where it arrived; on contexts that come with events."""
        return self._local

    def copy(self) -> MessageContext:
        """An independent copy; sends work on one."""
        context = type(self).received(self._properties, remote=self._remote, local=self._local)
        context._framers = None if self._framers is None else dict(self._framers)
        return context

    def inherit(self, below: MessageContext) -> None:
        """Take over what a lower layer says of the Message. For layers.

        What this context says itself stays.
        """
        self._properties = {**below._properties, **self._properties}
        if below._framers is not None:
            self._framers = {**below._framers, **(self._framers or {})}
        self._remote = self._remote or below._remote
        self._local = self._local or below._local

    def __repr__(self) -> str:
        return f"MessageContext({', '.join(f'{k}={v!r}' for k, v in self._properties.items())})"


class Message(Generic[T_co]):
    """What ``receive()`` gives: data, its context, and whether it is complete.

    Attributes:
        data: Exactly ``bytes``, or what a parsing framer makes of it.
        end_of_message: False for a part that others follow.
    """

    __slots__ = ("_context", "_origin", "data", "end_of_message")

    data: T_co
    end_of_message: bool

    def __init__(
        self,
        data: T_co,
        context: MessageContext | None = None,
        end_of_message: bool = True,
        origin: Any = None,
    ) -> None:
        self.data = data
        self.end_of_message = end_of_message
        self._context = context
        self._origin = origin

    @property
    def context(self) -> MessageContext:
        """Metadata of the Message (RFC 9622, section 9.3.3); made on first use."""
        context = self._context
        if context is None:
            context = self._context = MessageContext()
        origin = self._origin
        if origin is not None:
            if context._remote is None:
                context._remote = origin.remote_endpoint
            if context._local is None:
                context._local = origin.local_endpoint
            self._origin = None
        return context

    def __bytes__(self) -> bytes:
        return bytes(self.data)  # type: ignore[call-overload, no-any-return]  # object data raises TypeError, as it should

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # likewise

    def __bool__(self) -> bool:
        # A zero-length Message is still a Message.
        return True

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Message):
            return bool(self.data == other.data) and self.end_of_message == other.end_of_message
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # compares by value, may hold anything

    def __repr__(self) -> str:
        more = "" if self.end_of_message else ", end_of_message=False"
        return f"Message({self.data!r}{more})"


class Taken(Message[T_co]):
    """A whole Message, whose maker sets ``data``, ``_context`` and ``_origin``.

    One is made for every Message that is received, and Python takes longer to
    call a constructor of its own than to set what is in it.
    """

    __slots__ = ()
    end_of_message = True  # in place of the slot
    __init__ = object.__init__  # the point of it


class Rest(Message[T_co]):
    """What is left of a Message of which a part was received before: its last part."""

    __slots__ = ()


# Which they are to everybody else.
Taken.__name__ = Taken.__qualname__ = "Message"
Rest.__name__ = Rest.__qualname__ = "Message"


class SendRecord:
    """What a stack is told about a Send beyond its data; never changed after Send.

    A Send with nothing but defaults carries no record.

    Attributes:
        context: Frozen copy of the MessageContext; all parts of one Message
            share it.
        properties: Every Message Property that applies to this Send and is not
            at its RFC default, by canonical name.
        length: Bytes of the whole Message where that is known before its end
            (``sending(length=…)``), else ``None``.
    """

    __slots__ = ("context", "length", "properties")

    def __init__(
        self,
        context: MessageContext,
        properties: Mapping[str, Any],
        length: int | None = None,
    ) -> None:
        self.context = context
        self.properties = properties
        self.length = length
