"""``taps-plugins explain``: what would be chosen for these properties, and why."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from taps_core.cli.demands import demands
from taps_core.cli.output import Cell, Tone
from taps_core.model.layers import Offer
from taps_core.model.security import SecurityMode
from taps_core.planning.candidates import chooses_paths
from taps_core.planning.policy import Policy
from taps_core.planning.selection import By, Selector
from taps_core.runtime.blueprint import with_protocols
from taps_core.runtime.paths import Paths
from taps_core.runtime.policy_files import policy_files
from taps_core.runtime.system import System

if TYPE_CHECKING:
    import argparse
    from collections.abc import Hashable, Sequence

    from taps_core.cli.output import Output, Row
    from taps_core.model.layers import FramerDefinition, SecurityLayer
    from taps_core.model.security import SecurityParameters
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
        PolicyError: A policy file is none.
    """
    asked = demands(registry, arguments)
    security = asked.security
    policy = System(registry, policy_files=policy_files()).whole_policy() or Policy()
    selection = Selector(registry).select(
        asked.properties,
        role=arguments.role,
        security=security,
        local=asked.local,
        remote=asked.remote,
        framers=asked.framers,
        policy=policy,
    )
    wanted = {name: asked.properties.get(name) for name in ("interface", "pvd")}
    destinations = () if arguments.role == "listen" else asked.remote
    if chooses_paths(wanted) or policy.chooses_paths(destinations):
        paths = Paths(policy=lambda: policy)
        selection = selection.on_paths(paths.choose(wanted, destinations))
    offers = _offers(selection, security, asked.framers)
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
    for sentence in selection.policy:
        output.text(sentence)


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


# -- for programs


def _unlimited(value: object) -> str:
    """For ``json``: what the application gave that JSON has no word for."""
    return str(value)
