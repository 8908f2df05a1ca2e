"""What the command line asks for, as the values of a Preconnection: for all that take it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import PropertyError
from taps_core.model.properties import Preference, TransportProperties, ValueType, find_property
from taps_core.model.security import Certificate, SecurityParameters, security_parameter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from taps_core.model.layers import FramerDefinition
    from taps_core.runtime.registry import Registry

__all__ = ["Demands", "demands"]


class Demands(NamedTuple):
    """What a Preconnection is made of."""

    properties: TransportProperties
    security: SecurityParameters
    framers: Sequence[FramerDefinition]
    local: Sequence[LocalEndpoint]
    remote: Sequence[RemoteEndpoint]


def demands(registry: Registry, arguments: argparse.Namespace) -> Demands:
    """What the options say.

    Args:
        registry: Whose properties and framers may be named.
        arguments: As parsed.

    Raises:
        PropertyError: A name or value that cannot be.
        PluginError: No framer of a name.
    """
    security = _security(arguments.security, arguments.parameters)
    framers = [registry.framer(name) for name in arguments.framer]
    return Demands(
        _properties(registry, arguments),
        security,
        framers,
        LocalEndpoint.coerce_all(arguments.local),
        RemoteEndpoint.coerce_all(arguments.remote),
    )


def _security(mode: str, assignments: Sequence[str]) -> SecurityParameters:
    if mode == "disabled":
        security = SecurityParameters.disabled()
    elif mode == "opportunistic":
        security = SecurityParameters.opportunistic()
    else:
        security = SecurityParameters()
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise PropertyError(f"--parameter {assignment}: say NAME=VALUE")
        name = security_parameter(name)
        value = _parameter(name, text)
        if isinstance(value, list):  # said again, there is more of it
            value = [*security.get(name), *value]
        security.set(name, value)
    return security


def _parameter(name: str, text: str) -> Any:
    """What ``text`` stands for; what it cannot be is left for the parameter to refuse."""
    match name:
        case "context":
            raise PropertyError("context: an object of a program's, which no text stands for")
        case "preSharedKey":
            # Secrets are not for command lines, and nothing is sent.
            return b"(not asked for)", text
        case "maxCachedSessions" | "cachedSessionLifetimeSeconds":
            return _guessed(text)
        case "serverCertificate" | "clientCertificate":
            chain, comma, key = text.partition(",")
            return [Certificate(chain, key if comma else None)]
        case _:
            return [each.strip() for each in text.split(",")]


def _properties(registry: Registry, arguments: argparse.Namespace) -> TransportProperties:
    properties = TransportProperties()
    if arguments.profile is not None:
        getattr(properties, arguments.profile.replace("-", "_"))()
    for assignment in arguments.values:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise PropertyError(f"--set {assignment}: say NAME=VALUE")
        properties.set(name, _value(registry, name, text))
    for preference in (
        Preference.REQUIRE,
        Preference.PREFER,
        Preference.AVOID,
        Preference.PROHIBIT,
    ):
        verb = preference.name.lower()
        for given in getattr(arguments, verb):
            name, equals, which = given.partition("=")
            if equals:
                # The canonical name is what the method takes as a keyword.
                getattr(properties, verb)(**{find_property(name).name: which})
            else:
                getattr(properties, verb)(name)
    return properties


def _value(registry: Registry, name: str, text: str) -> Any:
    """What ``text`` stands for; what it cannot be is left for the property to refuse."""
    definitions = registry.properties.values()
    if "." in name and not any(each.name.lower() == name.lower() for each in definitions):
        return _guessed(text)
    definition = find_property(name, definitions)
    match definition.value_type:
        case ValueType.BOOLEAN | ValueType.INTEGER | ValueType.NUMERIC:
            return _guessed(text)
        case ValueType.PREFERENCE_SET:
            # "require:wlan0,avoid:cellular"
            return [tuple(pair.strip().split(":", 1)) for pair in text.split(",")]
        case _:
            return text


def _guessed(text: str) -> Any:
    word = text.strip().lower()
    if word in ("true", "yes", "on"):
        return True
    if word in ("false", "no", "off"):
        return False
    if word in ("inf", "disabled", "unlimited"):
        return math.inf
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            continue
    return text
