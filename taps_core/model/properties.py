"""Transport Properties: what an application asks for (RFC 9622, section 6.2).

One table holds every generic property; protocol-specific ones (``tcp.…``,
``_vendor.…``) are declared by plugins with the same :class:`Property`.

Names are the RFC's camelCase names; everything that takes a name takes it in
camelCase, PascalCase, snake_case and kebab-case, in any case. Durations are
seconds, sizes bytes, rates bits per second; ``math.inf`` stands for Disabled,
Unlimited, infinite and Full Coverage, ``None`` for «Not applicable».
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import PropertyError
from taps_core.model.property import (
    CapacityProfile,
    ConnectionState,
    Direction,
    Ecn,
    Kind,
    Multipath,
    MultipathPolicy,
    Preference,
    Property,
    Racing,
    Role,
    Scheduler,
    ValueType,
    fold,
)
from taps_core.model.property_names import (
    among,
    connection_property,
    find_property,
    message_name,
    message_property,
    nearest,
)
from taps_core.model.property_table import (
    DSCP,
    EXTENSIONS,
    PROFILES,
    PROPERTIES,
    SECURITY_RESULTS,
)

if TYPE_CHECKING:
    from typing import Self, Unpack

    from taps_core.model.keywords import TransportKeywords

__all__ = [
    "DSCP",
    "EXTENSIONS",
    "PROPERTIES",
    "SECURITY_RESULTS",
    "CapacityProfile",
    "ConnectionState",
    "Direction",
    "Ecn",
    "Kind",
    "Multipath",
    "MultipathPolicy",
    "Preference",
    "Property",
    "Racing",
    "Role",
    "Scheduler",
    "TransportProperties",
    "ValueType",
    "connection_property",
    "find_property",
    "message_name",
    "message_property",
    "nearest",
]

_EXTENSIONS: Final = tuple(EXTENSIONS.values())
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    role: {
        row.name: row.default_for(role)
        for row in (*PROPERTIES.values(), *EXTENSIONS.values())
        if not row.read_only
    }
    for role in ("initiate", "listen", "rendezvous", "clone")
}


class _Profile:
    """A property profile: ``TransportProperties.x()`` makes one, ``properties.x()`` applies it."""

    def __init__(self, name: str, doc: str) -> None:
        self._contents = PROFILES[name]
        self.__doc__ = doc

    def __get__(
        self, instance: TransportProperties | None, owner: type[TransportProperties]
    ) -> Callable[[], TransportProperties]:
        def apply() -> TransportProperties:
            properties = owner() if instance is None else instance
            for name, value in self._contents.items():
                properties.set(name, value)
            return properties

        apply.__doc__ = self.__doc__
        return apply


class TransportProperties:
    """What an application asks for (RFC 9622, section 6.2). Unset is not a value.

    ``TransportProperties(multistreaming="require", conn_timeout=30)``, or
    chained: ``TransportProperties().require("multistreaming")``.

    Raises:
        PropertyError: A name that does not exist, with the nearest ones, or a
            value that the property cannot have.
    """

    __slots__ = ("_key", "_values")

    def __init__(self, **properties: Unpack[TransportKeywords]) -> None:
        self._values: dict[str, Any] = {}
        self._key: tuple[tuple[str, Any], ...] | None = None
        for name, value in properties.items():
            self.set(name, value)

    # -- setting

    def set(self, name: str, value: Any) -> Self:
        """Set a property; setting it again replaces the earlier value.

        Names in a plugin's namespace (``tcp.userTimeoutValue``) are checked when
        it is known which plugins there are.

        Raises:
            PropertyError: No such property, a read-only one, or a value that
                it cannot have.
        """
        found = PROPERTIES.get(name)
        if found is None:
            if isinstance(name, str) and "." in name and among(name, _EXTENSIONS) is None:
                folded = fold(name)
                for earlier in [each for each in self._values if fold(each) == folded]:
                    del self._values[earlier]
                self._values[name] = value
                self._key = None
                return self
            found = find_property(name)
        if found.read_only:
            raise PropertyError(f"{found.name} is read-only")
        self._values[found.name] = found.check(value)
        self._key = None
        return self

    def unset(self, *names: str) -> Self:
        """Back to the default, which may depend on the later call."""
        for name in names:
            self._values.pop(self._spelling(name), None)
        self._key = None
        return self

    def require(self, *names: str, **choices: str | Iterable[str]) -> Self:
        """Only with these: ``require("reliability")``, ``require(interface="wlan0")``."""
        return self._prefer(Preference.REQUIRE, names, choices)

    def prefer(self, *names: str, **choices: str | Iterable[str]) -> Self:
        """With these if possible."""
        return self._prefer(Preference.PREFER, names, choices)

    def no_preference(self, *names: str, **choices: str | Iterable[str]) -> Self:
        """Whether or not with these."""
        return self._prefer(Preference.NO_PREFERENCE, names, choices)

    def avoid(self, *names: str, **choices: str | Iterable[str]) -> Self:
        """Without these if possible."""
        return self._prefer(Preference.AVOID, names, choices)

    def prohibit(self, *names: str, **choices: str | Iterable[str]) -> Self:
        """Only without these."""
        return self._prefer(Preference.PROHIBIT, names, choices)

    def _prefer(
        self,
        preference: Preference,
        names: tuple[str, ...],
        choices: Mapping[str, str | Iterable[str]],
    ) -> Self:
        for name in names:
            found = find_property(name)
            if found.value_type is ValueType.PREFERENCE_SET:
                verb = preference.name.lower()
                raise PropertyError(f"{found.name}: say which, {verb}({found.name}='…')")
            if found.value_type is not ValueType.PREFERENCE:
                raise PropertyError(
                    f"{found.name} takes {found.expects}, not a preference: use set()"
                )
            self.set(found.name, preference)
        for name, which in choices.items():
            found = find_property(name)
            if found.value_type is not ValueType.PREFERENCE_SET:
                raise PropertyError(f"{found.name} is not a set of names: use set()")
            pairs = {each: earlier for earlier, each in self._values.get(found.name, ())}
            pairs.update(dict.fromkeys([which] if isinstance(which, str) else which, preference))
            self.set(found.name, pairs)
        return self

    reliable_inorder_stream = _Profile(
        "reliable_inorder_stream", "The profile of that name: what TCP offers (appendix B.2)."
    )
    reliable_message = _Profile(
        "reliable_message", "The profile of that name: what SCTP offers (appendix B.2)."
    )
    unreliable_datagram = _Profile(
        "unreliable_datagram", "The profile of that name: what UDP offers (appendix B.2)."
    )

    # -- reading

    def get(self, name: str, role: str | None = None) -> Any:
        """What was set, else the default.

        Args:
            name: In any spelling.
            role: For defaults that depend on the later call; without it these
                are ``None``, like those that derive from another property.

        Raises:
            PropertyError: No such property.
        """
        spelling = self._spelling(name)
        if spelling in self._values:
            return self._values[spelling]
        found = PROPERTIES.get(spelling) or EXTENSIONS.get(spelling)
        if found is None:
            return None
        return found.default if role is None else found.default_for(role)

    def is_set(self, name: str) -> bool:
        """Whether the application set it.

        Raises:
            PropertyError: No such property.
        """
        return self._spelling(name) in self._values

    def _spelling(self, name: str) -> str:
        if isinstance(name, str) and "." in name and among(name, _EXTENSIONS) is None:
            folded = fold(name)
            return next((each for each in self._values if fold(each) == folded), name)
        return find_property(name).name

    @property
    def explicit(self) -> Mapping[str, Any]:
        """What the application set, by canonical name. A view."""
        return MappingProxyType(self._values)

    @property
    def key(self) -> tuple[tuple[str, Any], ...]:
        """Equal for equal contents; hashable if the values of namespaced ones are."""
        if not self._values:
            return ()
        key = self._key
        if key is None:
            key = self._key = tuple(sorted(self._values.items(), key=_first))
        return key

    def effective(self, role: str, definitions: Iterable[Property] = ()) -> dict[str, Any]:
        """Every property that can be set, by canonical name, with its value or default.

        Until a stack is chosen ``msgOrdered`` and ``msgReliable`` follow the
        preference that they derive from: True where it is Require or Prefer.

        Args:
            role: What the Connection is made by; a clone counts as initiated.
            definitions: Protocol-specific properties of the plugins there are.
                Namespaced names whose namespace none of them has are kept.

        Raises:
            PropertyError: A namespaced name that a plugin would know does not
                exist or has a value that it cannot have.
        """
        values = dict(_DEFAULTS[role])
        definitions = tuple(definitions)
        for definition in definitions:
            if not definition.read_only:
                values[definition.name] = definition.default_for(role)
        for name, value in self._values.items():
            if "." in name and name not in EXTENSIONS:
                canonical, checked = _check_namespaced(name, value, definitions)
                values[canonical] = checked
            else:
                values[name] = value
        if values["msgOrdered"] is None:
            values["msgOrdered"] = values["preserveOrder"].wanted
        if values["msgReliable"] is None:
            values["msgReliable"] = values["reliability"].wanted
        if values["msgCapacityProfile"] is None:
            values["msgCapacityProfile"] = values["connCapacityProfile"]
        return values

    def copy(self) -> TransportProperties:
        """An independent copy."""
        properties = TransportProperties()
        properties._values = dict(self._values)
        properties._key = self._key
        return properties

    @classmethod
    def coerce(cls, value: TransportProperties | Mapping[str, Any] | None) -> TransportProperties:
        """A copy of ``value``; of nothing for ``None``; from names → values.

        Raises:
            PropertyError: As the constructor.
            TypeError: It is something else.
        """
        if value is None:
            return cls()
        if isinstance(value, TransportProperties):
            return value.copy()
        if isinstance(value, Mapping):
            properties = cls()
            for name, each in value.items():
                properties.set(name, each)
            return properties
        raise TypeError(f"TransportProperties expected, not {value!r}")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TransportProperties):
            return self._values == other._values
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={_plain(value)}" for name, value in self._values.items())
        return f"TransportProperties({listed})"


def _first(item: tuple[str, Any]) -> str:
    return item[0]


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, Preference) else repr(value)


def _check_namespaced(name: str, value: Any, definitions: tuple[Property, ...]) -> tuple[str, Any]:
    found = among(name, definitions)
    if found is None:
        namespace = fold(name).rpartition(".")[0] + "."
        known = [each.name for each in definitions if each.folded.startswith(namespace)]
        if known:
            near = nearest(name, [*known, *EXTENSIONS])
            raise PropertyError(f"there is no property {name!r}{near}")
        return name, value  # of a plugin that is not there: without effect
    if found.read_only:
        raise PropertyError(f"{found.name} is read-only")
    return found.name, found.check(value)
