"""What a property is: the declaration, its kinds of value, the enumerations (RFC 9622)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, StrEnum
from typing import Any, Final, Literal, TypeAlias

from taps_core.model.errors import PropertyError

__all__ = [
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
    "ValueType",
    "fold",
]

#: What the Connection is made by; some defaults depend on it.
Role: TypeAlias = Literal["initiate", "listen", "rendezvous", "clone"]


class Preference(Enum):
    """How much a selection property is wanted (RFC 9622, table 1)."""

    __hash__ = object.__hash__  # Enum's is a Python function, and these are keys

    REQUIRE = 2
    PREFER = 1
    NO_PREFERENCE = 0
    AVOID = -1
    PROHIBIT = -2

    def __init__(self, value: int) -> None:
        #: Whether it is Require or Prefer; an attribute, as ``value`` is a Python function.
        self.wanted = value > 0
        #: Whether it is Avoid or Prohibit.
        self.unwanted = value < 0

    def __str__(self) -> str:
        return self.name.replace("_", " ").title()


class CapacityProfile(StrEnum):
    """The network treatment that the traffic wants (section 8.1.6)."""

    DEFAULT = "Default"
    SCAVENGER = "Scavenger"
    LOW_LATENCY_INTERACTIVE = "Low Latency/Interactive"
    LOW_LATENCY_NON_INTERACTIVE = "Low Latency/Non-Interactive"
    CONSTANT_RATE_STREAMING = "Constant-Rate Streaming"
    CAPACITY_SEEKING = "Capacity-Seeking"


class Multipath(StrEnum):
    """Whether several paths may be used (section 6.2.14)."""

    DISABLED = "Disabled"
    ACTIVE = "Active"
    PASSIVE = "Passive"


class MultipathPolicy(StrEnum):
    """How data is spread over several paths (section 8.1.7)."""

    HANDOVER = "Handover"
    INTERACTIVE = "Interactive"
    AGGREGATE = "Aggregate"


class Direction(StrEnum):
    """In which direction data will flow (section 6.2.16)."""

    BIDIRECTIONAL = "Bidirectional"
    UNIDIRECTIONAL_SEND = "Unidirectional send"
    UNIDIRECTIONAL_RECEIVE = "Unidirectional receive"


class Scheduler(StrEnum):
    """How a group shares its sending capacity (section 8.1.5; RFC 8260, section 3)."""

    FIRST_COME_FIRST_SERVED = "First-Come, First-Served"
    ROUND_ROBIN = "Round-Robin"
    ROUND_ROBIN_PER_PACKET = "Round-Robin per Packet"
    PRIORITY_BASED = "Priority-Based"
    FAIR_CAPACITY = "Fair Capacity"
    WEIGHTED_FAIR_QUEUEING = "Weighted Fair Queueing"


class Racing(StrEnum):
    """When the next candidate of a race is tried (RFC 9623, section 4.3)."""

    STAGGERED = "Staggered"
    """After a delay, or at once when one has failed. The usual choice."""
    SIMULTANEOUS = "Simultaneous"
    """Together with the first. Loads the network: only where it is asked for."""
    FAILOVER = "Failover"
    """Only when all that were started have failed."""


class ConnectionState(StrEnum):
    """Where a Connection is in its life (section 8.1.11.1)."""

    ESTABLISHING = "Establishing"
    ESTABLISHED = "Established"
    CLOSING = "Closing"
    CLOSED = "Closed"


class Ecn(StrEnum):
    """ECN field of the packet that carried a Message (section 9.3.3.1)."""

    NOT_ECT = "Not-ECT"
    ECT_1 = "ECT(1)"
    ECT_0 = "ECT(0)"
    CE = "CE"


class Kind(StrEnum):
    """Which of the RFC's three kinds a property is."""

    SELECTION = "selection"
    CONNECTION = "connection"
    MESSAGE = "message"

    @property
    def words(self) -> str:
        """``"Selection Property"`` and so on."""
        return f"{self.value.capitalize()} Property"


class ValueType(Enum):
    """What values a property takes."""

    PREFERENCE = "preference"
    PREFERENCE_SET = "set of (preference, name)"
    BOOLEAN = "boolean"
    INTEGER = "integer"
    NUMERIC = "number"
    ENUMERATION = "enumeration"
    TEXT = "text"
    CERTIFICATES = "certificates"


class Property:
    """Declaration of one property. Plugins make these for ``tcp.…`` and ``_vendor.…``.

    Attributes:
        name: Canonical name: the RFC's camelCase; after a namespace and a dot
            for protocol-specific ones.
        kind: Selection, Connection or Message Property.
        value_type: What values it takes.
        default: Value where nothing is set; ``None`` if it is by role,
            derived, or the protocol's own.
        by_role: Role → default, where the default depends on it.
        derived_from: The property whose value decides where nothing is set.
        values: The enumeration, for :attr:`ValueType.ENUMERATION`.
        minimum: Smallest number.
        exclusive: Whether ``minimum`` itself is outside the range.
        special: What ``math.inf`` means here (``"Disabled"``), or ``None``
            where it is not a value.
        unit: Unit of the number; empty for none.
        read_only: Whether it only tells the state of things.
        group_shared: Whether setting it sets it for the whole Connection Group.
        rfc_section: Section of RFC 9622 (or, for a plugin's, what it cites).
        meaning: One line.
        snake_name: The name in snake_case.
    """

    __slots__ = (
        "by_role",
        "default",
        "derived_from",
        "exclusive",
        "folded",
        "group_shared",
        "kind",
        "meaning",
        "minimum",
        "name",
        "read_only",
        "rfc_section",
        "snake_name",
        "special",
        "unit",
        "value_type",
        "values",
    )

    def __init__(
        self,
        name: str,
        kind: Kind,
        value_type: ValueType,
        default: Any = None,
        *,
        meaning: str,
        rfc_section: str = "",
        by_role: Mapping[str, Any] | None = None,
        derived_from: str | None = None,
        values: type[StrEnum] | None = None,
        minimum: float | None = None,
        exclusive: bool = False,
        special: str | None = None,
        unit: str = "",
        read_only: bool = False,
        group_shared: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.value_type = value_type
        self.default = default
        self.meaning = meaning
        self.rfc_section = rfc_section
        self.by_role = by_role
        self.derived_from = derived_from
        self.values = values
        self.minimum = minimum
        self.exclusive = exclusive
        self.special = special
        self.unit = unit
        self.read_only = read_only
        self.group_shared = group_shared
        self.snake_name = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
        #: For comparing names; see :func:`fold`.
        self.folded = fold(name)

    def __repr__(self) -> str:
        return f"<Property {self.name}>"

    @property
    def keyword(self) -> str:
        """The keyword of ``send`` for Message Properties: snake_case without ``msg``."""
        return self.snake_name.removeprefix("msg_")

    @property
    def expects(self) -> str:
        """What values it takes, in words."""
        if self.value_type is ValueType.PREFERENCE:
            return "one of " + ", ".join(str(p) for p in Preference)
        if self.value_type is ValueType.PREFERENCE_SET:
            return "pairs (preference, name)"
        if self.value_type is ValueType.BOOLEAN:
            return "True or False"
        if self.values is not None:
            return "one of " + ", ".join(f"{v.value!r}" for v in self.values)
        if self.value_type is ValueType.TEXT:
            return "a string"
        if self.value_type is ValueType.CERTIFICATES:
            return "a tuple of certificates in DER"
        words = "an integer" if self.value_type is ValueType.INTEGER else "a number"
        if self.unit:
            words = f"{words} of {self.unit}"
        if self.minimum is not None:
            words += f" {'above' if self.exclusive else 'of at least'} {self.minimum:g}"
        if self.special is not None:
            words += f", or math.inf for {self.special}"
        return words

    def default_for(self, role: str) -> Any:
        """The default when the Connection is made by ``role``."""
        if self.by_role is None:
            return self.default
        return self.by_role["initiate" if role == "clone" else role]

    def check(self, value: Any) -> Any:
        """The value as it is stored.

        Raises:
            PropertyError: The property cannot have it.
        """
        return _CHECKS[self.value_type](self, value)


# -- values


def _wrong(definition: Property, value: Any, hint: str = "") -> PropertyError:
    return PropertyError(f"{definition.name}: {value!r} is not {definition.expects}{hint}")


def _check_preference(definition: Property, value: Any) -> Preference:
    if type(value) is Preference:
        return value
    if isinstance(value, str):
        found = _PREFERENCES.get(fold(value))
        if found is not None:
            return found
    hint = ""
    if isinstance(value, bool):
        hint = f" (did you mean {'Require' if value else 'Prohibit'}?)"
    raise _wrong(definition, value, hint)


def _check_set(definition: Property, value: Any) -> frozenset[tuple[Preference, str]]:
    # Also a mapping of names to preferences: {"wlan0": "require"}.
    if isinstance(value, Mapping):
        value = [(preference, name) for name, preference in value.items()]
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise _wrong(definition, value)
    pairs: dict[str, Preference] = {}
    for pair in value:
        if isinstance(pair, str) or not isinstance(pair, Iterable):
            raise _wrong(definition, value)
        match tuple(pair):
            case (preference, str(name)) if name and name not in pairs:
                pairs[name] = _check_preference(definition, preference)
            case (_, str(name)) if name:
                raise PropertyError(f"{definition.name}: {name!r} is given twice")
            case _:
                raise _wrong(definition, value)
    return frozenset((preference, name) for name, preference in pairs.items())


def _check_boolean(definition: Property, value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise _wrong(definition, value)


def _check_number(definition: Property, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value == math.inf:
            if definition.special is not None:
                return math.inf
        elif isinstance(value, int) or definition.value_type is ValueType.NUMERIC:
            minimum = definition.minimum
            # A comparison with NaN is False, so NaN never passes.
            if value > (-math.inf if minimum is None else minimum) or (
                value == minimum and not definition.exclusive
            ):
                return value
    raise _wrong(definition, value)


def _check_text(definition: Property, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _wrong(definition, value)


def _check_certificates(definition: Property, value: Any) -> tuple[bytes, ...]:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        certificates = tuple(value)
        if all(isinstance(each, bytes) for each in certificates):
            return certificates
    raise _wrong(definition, value)


def _check_enumeration(definition: Property, value: Any) -> StrEnum:
    values = definition.values
    assert values is not None, definition
    if type(value) is values:
        return value
    if isinstance(value, str):
        wanted = fold(value)
        for member in values:
            if wanted in (fold(member.value), fold(member.name)):
                return member
    raise _wrong(definition, value)


_CHECKS: Final[Mapping[ValueType, Callable[[Property, Any], Any]]] = {
    ValueType.PREFERENCE: _check_preference,
    ValueType.PREFERENCE_SET: _check_set,
    ValueType.BOOLEAN: _check_boolean,
    ValueType.INTEGER: _check_number,
    ValueType.NUMERIC: _check_number,
    ValueType.ENUMERATION: _check_enumeration,
    ValueType.TEXT: _check_text,
    ValueType.CERTIFICATES: _check_certificates,
}


def fold(name: str) -> str:
    """Spellings of one name fold to the same; a namespace is kept apart.

    The underscore that begins a vendor's namespace is part of it.
    """
    namespace, dot, rest = name.rpartition(".")
    rest = rest.replace("_", "").replace("-", "").replace(" ", "").lower()
    return f"{namespace.lower()}{dot}{rest}"


_PREFERENCES: Final = {fold(preference.name): preference for preference in Preference}
