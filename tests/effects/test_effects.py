"""The table «what each property does on each stack» is true, line by line.

What is claimed to have an effect has one that can be seen (``behaviours.py``). What is
claimed to have none is accepted, keeps its value, and changes nothing.
"""

from __future__ import annotations

import ast
import math
import pathlib
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.model.properties import EXTENSIONS, PROPERTIES, Kind, ValueType
from taps_core.planning.selection import Selector
from taps_core.planning.stacks import EVERYWHERE, Installed
from taps_core.plugin import Direction, Multipath, Preference, Support
from tests.effects.behaviours import BEHAVIOURS, ELSEWHERE
from tests.effects.lines import LINES, REGISTRY, TRANSPORTS, Line

if TYPE_CHECKING:
    from taps_core.plugin import Property
    from taps_core.testing.fixtures import Run

ROOT = pathlib.Path(__file__).parents[2]
#: Every line of the table that is about a Connection or Message Property.
CLAIMS = [
    (line, row)
    for line in LINES
    for row in (*PROPERTIES.values(), *EXTENSIONS.values(), *line.stack.definitions)
    if row.kind is not Kind.SELECTION
]
SELECTING = [
    (line, row)
    for line in LINES
    if not line.framers
    for row in PROPERTIES.values()
    if row.kind is Kind.SELECTION and row.name not in EVERYWHERE
]
EFFECTIVE = [(line, row) for line, row in CLAIMS if line.stack.has_effect(row.name)]
IDLE = [(line, row) for line, row in CLAIMS if not line.stack.has_effect(row.name)]


CALLS = (
    *("Connectedness, data unit", "Initiate", "Ready", "EstablishmentError", "ConnectionError"),
    *("Listen", "ConnectionReceived", "Clone", "Send", "Receive"),
    *("Close", "Abort", "CloseGroup, AbortGroup"),
)


def named(value: Any) -> str:
    return str(value) if isinstance(value, Line) else str(value.name)


def test_nothing_is_missing() -> None:
    assert {transport.name for transport in TRANSPORTS} >= {"tcp", "udp"}
    missing = [
        (str(line), name)
        for line in LINES
        for name in (*PROPERTIES, *EXTENSIONS, *(row.name for row in line.stack.definitions))
        if not line.stack.explain(name)
    ]
    assert not missing
    strays = [
        (str(line), name)
        for line in LINES
        for table in (line.table.support, line.table.effects, line.table.notes)
        for name in table
        if name not in (*PROPERTIES, *EXTENSIONS, *(row.name for row in line.stack.definitions))
    ]
    assert not strays


@pytest.mark.requirement("R-9623-3.1-01", "R-9623-10-01")
def test_each_protocol_has_its_mapping_and_its_features() -> None:
    layers = [
        layer
        for layer in REGISTRY.security_layers.values()
        if type(layer).__module__.startswith("taps_")
    ]
    assert "tls" in [layer.name for layer in layers]
    for protocol in (*TRANSPORTS, *layers):
        plugin = type(protocol).__module__.partition(".")[0]
        readme = (ROOT / "plugins" / plugin.removeprefix("taps_") / "README.md").read_text()
        (mapping,) = [part for part in readme.split("\n## ") if part.startswith("Mapping")]
        for call in CALLS:
            assert f"| {call} |" in mapping, (plugin, call)
    for transport in TRANSPORTS:
        features = {row.name for row in PROPERTIES.values() if row.kind is Kind.SELECTION}
        assert set(transport.capabilities.support) == features - set(EVERYWHERE)


# -- Selection Properties


@pytest.mark.parametrize(("line", "row"), SELECTING, ids=named)
def test_selection_goes_by_the_table(line: Line, row: Property) -> None:
    support = line.stack.support(row.name)

    def chosen(value: Any) -> Any:
        properties = taps.TransportProperties(
            **{
                **dict.fromkeys(
                    (r.name for _, r in SELECTING if r.value_type is ValueType.PREFERENCE),
                    Preference.NO_PREFERENCE,
                ),
                **({} if line.connected else {"safelyReplayable": True}),
                row.name: value,
            }
        )
        layers = [] if line.layer is None else [line.layer]
        selection = Selector(Installed([line.transport], layers)).select(
            properties, security=line.security
        )
        return selection.ranked[0] if selection.ranked else None

    if row.value_type is ValueType.PREFERENCE:
        assert (chosen(Preference.REQUIRE) is None) is (support is Support.NEVER)
        assert (chosen(Preference.PROHIBIT) is None) is (support is Support.ALWAYS)
        return
    # Those are no demands: whoever wants what is not there is told that there is none.
    wish = {"multipath": Multipath.ACTIVE, "advertisesAltaddr": True}.get(
        row.name, Direction.UNIDIRECTIONAL_SEND
    )
    told = chosen(wish).without_effect
    if support is Support.NEVER:
        assert told == (f"{row.name}: no effect on {line}: {line.stack.explain(row.name)}",)
    else:
        assert not told


# -- what has effect


@pytest.mark.linux
@pytest.mark.parametrize(("line", "row"), EFFECTIVE, ids=named)
def test_what_is_said_to_have_effect_has_it(run: Run, line: Line, row: Property) -> None:
    keys = [(each, row.name) for each in line.names]
    key = next((each for each in keys if each in ELSEWHERE or each in BEHAVIOURS), None)
    assert key is not None, f"what shows that {row.name} has effect on {line}?"
    if key in ELSEWHERE:
        path, test = ELSEWHERE[key]
        tree = ast.parse((ROOT / path).read_text())
        assert test in [getattr(node, "name", "") for node in tree.body]
        return
    run(lambda: BEHAVIOURS[key](line))


# -- what has none


def samples(row: Property) -> list[Any]:
    if row.value_type is ValueType.BOOLEAN:
        return [True, False]
    if row.values is not None:
        return list(row.values)
    if row.value_type is ValueType.TEXT:
        return ["192.0.2.1", ""]
    least = (row.minimum or 0) + 1
    return [least, least + 1000, *([] if row.special is None else [math.inf])]


def refuses(line: Line, row: Property, value: Any) -> bool:
    """Whether the table says so: what would need more than the stack has."""
    if row.name == "msgReliable":
        return value is not (line.stack.support("reliability") is Support.ALWAYS)
    unordered = line.stack.support("preserveOrder") is Support.NEVER
    return row.name == "msgOrdered" and value and unordered


@pytest.mark.requirement("R-9622-5-03", "R-9623-5.1.1-02", "R-9623-5.1.1-04", "G-9622-9.1.3-03")
@pytest.mark.linux
@pytest.mark.parametrize(
    ("line", "row"), [claim for claim in IDLE if not claim[1].read_only], ids=named
)
def test_what_is_said_to_have_no_effect_is_accepted_and_changes_nothing(
    run: Run, line: Line, row: Property
) -> None:
    async def main() -> None:
        async with line.open() as link:
            connection, properties = link.connection, link.connection.properties
            await link.hello()
            before = link.options()
            assert properties.effect(row.name) == (
                f"no effect on {line}: {line.stack.explain(row.name)}"
            )
            for value in samples(row):
                connection.set_property(row.name, value)
                assert properties[row.name] == value
                wishes = [{}] if row.kind is Kind.CONNECTION else [{}, {row.keyword: value}]
                for wish in wishes:
                    if refuses(line, row, value):
                        with pytest.raises(taps.SendError) as caught:
                            await connection.send(b"refused", **wish)
                        reason = taps.Reason.INVALID_MESSAGE_PROPERTIES
                        assert caught.value.reason is reason
                    else:
                        await connection.send(b"as ever", **wish)
                        assert not any(await link.gets(b"as ever"))
                assert link.options() == before

    run(main)


@pytest.mark.linux
@pytest.mark.parametrize(
    ("line", "row"), [claim for claim in IDLE if claim[1].read_only], ids=named
)
def test_what_is_said_not_to_be_told_is_not(run: Run, line: Line, row: Property) -> None:
    async def main() -> None:
        async with line.open() as link:
            await link.hello()
            await link.give(b"more")
            message = await link.connection.receive(max_length=4)
            assert not message.context.get(row.name)
            assert not link.connection.properties[row.name]

    run(main)


# -- Connection Groups

SHARED = [
    (line, row)
    for line, row in CLAIMS
    if row.kind is Kind.CONNECTION and not row.read_only and row.group_shared
]


@pytest.mark.requirement("G-9622-7.4-01", "R-9623-10.1-01")
@pytest.mark.linux
@pytest.mark.parametrize(("line", "row"), SHARED, ids=named)
def test_what_is_set_on_one_holds_for_its_group(run: Run, line: Line, row: Property) -> None:
    timeouts = {"tcp.userTimeoutEnabled": True} if line.stack.definitions else {}

    async def main() -> None:
        async with line.open(**timeouts) as link:
            first = link.connection
            second = await first.clone()
            other = type(link)(line, second, link.peer)
            for setter, value in zip((second, first) * 3, samples(row), strict=False):
                setter.set_property(row.name, value)
                assert first.properties[row.name] == second.properties[row.name]
                # Also on the stack of the other one.
                assert link.options() == other.options()

    run(main)
