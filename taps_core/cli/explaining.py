"""``taps-plugins explain``: what would be chosen for these properties, and why."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from taps_core.cli.output import Cell, Tone
from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import PropertyError
from taps_core.model.layers import Offer
from taps_core.model.properties import Preference, TransportProperties, ValueType, find_property
from taps_core.model.security import (
    Certificate,
    SecurityMode,
    SecurityParameters,
    security_parameter,
)
from taps_core.planning.candidates import chooses_paths
from taps_core.planning.selection import By, Selector
from taps_core.runtime.blueprint import with_protocols
from taps_core.runtime.paths import Paths

if TYPE_CHECKING:
    import argparse
    from collections.abc import Hashable, Sequence

    from taps_core.cli.output import Output, Row
    from taps_core.model.layers import FramerDefinition, SecurityLayer
    from taps_core.planning.paths import PathSelection
    from taps_core.planning.selection import Ranked, Selection, Why
    from taps_core.runtime.registry import Registry

__all__ = ["explain"]


def explain(registry: Registry, output: Output, arguments: argparse.Namespace) -> int:
    """Print the ranking and the rejections.

    Args:
        registry: What there is to choose from.
        output: Where to.
        arguments: As parsed: what a Preconnection would say.

    Returns:
        0, or 1 if there is no candidate.

    Raises:
        PropertyError: A name or value that cannot be.
        PluginError: No framer of a name.
        EstablishmentError: What is asked for contradicts itself.
    """
    security = _security(arguments.security, arguments.parameters)
    framers = [registry.framer(name) for name in arguments.framer]
    properties = _properties(registry, arguments)
    selection = Selector(registry).select(
        properties,
        role=arguments.role,
        security=security,
        local=LocalEndpoint.coerce_all(arguments.local),
        remote=RemoteEndpoint.coerce_all(arguments.remote),
        framers=framers,
    )
    asked = {name: properties.get(name) for name in ("interface", "pvd")}
    if chooses_paths(asked):
        selection = selection.on_paths(Paths().choose(asked))
    offers = _offers(selection, security, framers)
    if arguments.json:
        told = selection.as_json()
        told["offers"] = {
            layer.name: dataclasses.asdict(offer) if isinstance(offer, Offer) else offer
            for layer, offer in offers.items()
        }
        print(json.dumps(told, indent=2, default=_unlimited))
    else:
        _print(output, selection)
        for layer, offer in offers.items():
            _print_offer(output, layer, offer)
        stuck = selection.rejected and not selection.ranked
        if stuck and security.mode is SecurityMode.REQUIRED:
            print("--security disabled shows what there is without security", file=sys.stderr)
    return 0 if selection.ranked else 1


def _print(output: Output, selection: Selection) -> None:
    if selection.ranked:
        output.heading(f"Candidates to {selection.role}, the best first")
        rows: list[Row] = []
        for ranked in selection.ranked:
            reasons = [_reason(why) for why in ranked.reasons]
            reasons += [(Cell(each, Tone.FAINT), "") for each in ranked.without_effect]
            head = (str(ranked.place), Cell(ranked.stack.name, Tone.GOOD))
            rows += _rows(head, reasons)
        output.table(("", "STACK", "WHY", "WHOSE DEMAND"), rows)
        if len(selection.ranked) > 1:
            output.text(_order(selection.ranked), Tone.FAINT)
    elif not selection.rejected:
        output.text(str(selection.error()), Tone.BAD)
    else:
        output.text(f"There is no candidate to {selection.role}.", Tone.BAD)
    if selection.rejected:
        output.heading("Rejected")
        rows = []
        for rejected in selection.rejected:
            reasons = [_reason(why) for why in rejected.reasons]
            rows += _rows((Cell(rejected.stack.name, Tone.BAD),), reasons)
        output.table(("STACK", "WHY", "WHOSE DEMAND"), rows)
    if selection.paths is not None:
        _print_paths(output, selection.paths)


def _print_paths(output: Output, paths: PathSelection) -> None:
    output.heading("Paths of this machine now, the best first")
    rows: list[Row] = []
    for place, path in enumerate(paths.ranked, 1):
        head = (str(place), Cell(path.shown, Tone.GOOD))
        rows += _rows(head, [_reason(why) for why in path.reasons])
    for name, reasons in paths.rejected.items():
        rows += _rows(("", Cell(name, Tone.BAD)), [_reason(why) for why in reasons])
    if rows:
        output.table(("", "PATH", "WHY", "WHOSE DEMAND"), rows)
    if paths.system_chooses:
        output.text("No preference for a path makes a difference here: the system chooses.")
    elif not paths.ranked:
        output.text("No path is left.", Tone.BAD)
    for note in paths.notes:
        output.text(note, Tone.CAREFUL)


def _rows(head: tuple[Cell | str, ...], reasons: Sequence[Row]) -> list[Row]:
    """A row for each reason; the head stands in the first."""
    blank = ("",) * len(head)
    return [
        (*(blank if index else head), *reason) for index, reason in enumerate(reasons or [("", "")])
    ]


def _reason(why: Why) -> Row:
    tone = Tone.STRONG if why.by is By.APPLICATION else Tone.NONE
    return (why.sentence, Cell(why.by.value, tone))


def _order(ranked: Sequence[Ranked]) -> str:
    """Which places race each other; each security class is failover for the one before."""
    classes: dict[Hashable, list[str]] = {}
    for each in ranked:
        classes.setdefault(each.racing_class, []).append(str(each.place))
    first, *others = (" and ".join(places) for places in classes.values())
    sentence = f"{first} race each other" if " " in first else f"{first} is tried first"
    return "; ".join([sentence, *(f"{each} only if that fails" for each in others)])


# -- what would be offered


def _offers(
    selection: Selection, security: SecurityParameters, framers: Sequence[FramerDefinition]
) -> dict[SecurityLayer, Offer | str | None]:
    """Security layer of a candidate → what it says, or why it says nothing."""
    asked = with_protocols(security, tuple(framers))
    offers: dict[SecurityLayer, Offer | str | None] = {}
    for ranked in selection.ranked:
        layer = ranked.stack.security
        if layer is not None and layer not in offers:
            try:
                offers[layer] = layer.offers(asked, server=selection.role == "listen")
            except Exception as error:  # noqa: BLE001  # a plugin's code: the ranking is told all the same
                offers[layer] = f"{type(error).__name__}: {error}"
    return offers


def _print_offer(output: Output, layer: SecurityLayer, offer: Offer | str | None) -> None:
    output.heading(f"What {layer.label} would offer")
    if not isinstance(offer, Offer):
        output.text("It does not say." if offer is None else offer, Tone.CAREFUL)
        return

    def listed(names: Sequence[str] | None, otherwise: str) -> str:
        return otherwise if names is None else ", ".join(names) or "none"

    its_own = "the layer's own choice"
    rows: list[Row] = [
        ("protocols", listed(offer.protocols, its_own)),
        ("ALPN", listed(offer.alpn, its_own)),
        ("cipher suites", listed(offer.ciphersuites, its_own)),
        ("groups", listed(offer.groups, its_own)),
        ("signatures", listed(offer.signature_algorithms, its_own)),
        ("certificate", offer.certificate),
        ("trusts", offer.trust),
    ]
    for name, why in offer.refusals.items():
        rows.append((Cell("refuses", Tone.BAD), why if name in why else f"{name}: {why}"))
    output.table(("", ""), rows)
    if offer.refusals:
        output.text("As long as it refuses anything, no Connection comes to be.", Tone.BAD)


# -- from the command line to a Preconnection's values


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


def _unlimited(value: object) -> str:
    """For ``json``: what the application gave that JSON has no word for."""
    return str(value)
