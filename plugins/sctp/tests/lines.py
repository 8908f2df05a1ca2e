"""What is asked of each line of a transport's table, for both transports."""

from __future__ import annotations

import ast
import pathlib
from typing import TYPE_CHECKING, Any

import taps_core as taps
from taps_core.model.properties import EXTENSIONS, PROPERTIES, Kind, ValueType
from taps_core.planning.selection import Selector
from taps_core.planning.stacks import EVERYWHERE, Installed, Stack
from taps_core.plugin import Preference, Support
from tests.effects.behaviours import BEHAVIOURS, ELSEWHERE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taps_core.plugin import Property, Transport

_HERE = pathlib.Path(__file__).parent
#: Selection Properties that a transport can meet or not.
WISHES = [
    row
    for row in PROPERTIES.values()
    if row.kind is Kind.SELECTION
    and row.value_type is ValueType.PREFERENCE
    and row.name not in EVERYWHERE
]

#: Types of chunks (RFC 9260, section 3.2).
DATA, HEARTBEAT = 0, 4


def named(row: Property) -> str:
    """For a test's name."""
    return row.name


def rows_of(transport: Transport) -> list[Property]:
    """All but Selection Properties."""
    stack = Stack(transport, transport.capabilities)
    known = (*PROPERTIES.values(), *EXTENSIONS.values(), *stack.definitions)
    return [row for row in known if row.kind is not Kind.SELECTION]


def with_effect(transport: Transport) -> list[Property]:
    """Those that are said to have effect."""
    stack = Stack(transport, transport.capabilities)
    return [row for row in rows_of(transport) if stack.has_effect(row.name)]


def assert_shown(row: Property, shown: Mapping[str, tuple[str, str]]) -> None:
    """A test of this folder shows the effect, or one of everything's."""
    if row.name in shown:
        file, test = shown[row.name]
        tree = ast.parse((_HERE / file).read_text())
        assert test in [getattr(node, "name", "") for node in tree.body]
    else:
        # The Connection itself does it, for every stack.
        assert ("*", row.name) in ELSEWHERE or ("*", row.name) in BEHAVIOURS
        assert row.name in EVERYWHERE or row.name in EXTENSIONS


def assert_selected_by_the_table(transport: Transport, row: Property) -> None:
    """Require and Prohibit of one of ``WISHES`` leave the transport in, or out."""
    support = Stack(transport, transport.capabilities).support(row.name)
    policy = {"preferred": (transport.name,)} if transport.on_request else {}

    def chosen(wish: Preference) -> Any:
        wishes = {each.name: Preference.NO_PREFERENCE for each in WISHES}
        properties = taps.TransportProperties(**{**wishes, row.name: wish})
        security = taps.SecurityParameters.disabled()
        selector = Selector(Installed([transport], []))
        return selector.select(properties, security=security, policy=policy).ranked

    assert bool(chosen(Preference.REQUIRE)) is (support is not Support.NEVER)
    assert bool(chosen(Preference.PROHIBIT)) is (support is not Support.ALWAYS)


def chunks(packet: Any) -> list[int]:
    """Types of a captured packet's chunks."""
    found, at = [], 12
    payload = packet.payload
    while at + 4 <= len(payload):
        found.append(payload[at])
        at += (int.from_bytes(payload[at + 2 : at + 4]) + 3) // 4 * 4
    return found
