"""Write the parts of the reference that are tables of the code.

python docs/generate.py

A test fails when what is written here and what stands in docs/reference differ.
"""

from __future__ import annotations

import ast
import functools
import json
import math
import tomllib
from collections import defaultdict
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import taps_core as taps
import taps_tcp
import taps_udp
from taps_core.cli.page import figure
from taps_core.cli.waterfall import waterfall
from taps_core.model.properties import (
    DSCP,
    EXTENSIONS,
    PROPERTIES,
    SECURITY_RESULTS,
    Kind,
    Property,
    TransportProperties,
)
from taps_core.planning import states
from taps_core.planning.stacks import EVERYWHERE, Installed, Stack, compose
from taps_core.runtime.registry import Registry
from taps_core.testing import MemoryTLS, VirtualNetwork, VirtualStream, conformance, run
from taps_core.testing.conformance import base, listeners, odd_moments, transports
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from taps_core.testing.conformance import Conformance

DOCS: Final = Path(__file__).parent
ROOT: Final = DOCS.parent
#: The packages of our plugins, each by its first module.
PLUGINS: Final = sorted(ROOT.glob("plugins/*/taps_*/__init__.py"))

INTRODUCTION: Final = """\
# Properties

Every Transport Property of RFC 9622, from the one table that the code uses
(`taps_core.model.properties`; this page is made by `python docs/generate.py`).

Names may be written as here, or in snake_case, PascalCase or kebab-case, in any case:
`preserveMsgBoundaries`, `preserve_msg_boundaries`, `preserve-msg-boundaries`. Keywords of `send`
and `MessageContext` leave out `msg`: `send(data, lifetime=2.5, priority=10)`. An unknown name is
a `PropertyError` that names the nearest ones.

Durations are seconds, sizes bytes, rates bit/s of application data. `math.inf` stands for
«Disabled», «Unlimited», «infinite» and «Full Coverage». A default «by role» depends on the call
that follows, so unset is not a value.
"""

SECTIONS: Final = {
    Kind.SELECTION: """\
## Selection Properties

Set before establishment (`TransportProperties`), they decide which Protocol Stacks and paths are
candidates, and in which order. On a Connection they can be read only; a preference then reads as
`True` (provided or used) or `False`.

A preference is `Require` (only with it, else fail), `Prefer`, `No Preference`, `Avoid` or
`Prohibit` (only without it, else fail).
""",
    Kind.CONNECTION: """\
## Connection Properties

Set before establishment, or later by `connection.set_property(name, value)`. «shared» ones are
set for the whole Connection Group. A property that has no effect on the chosen stack is accepted;
`select()` and `connection.properties.effect(name)` say so. A refused one raises, and leaves the
Connection as it was. What each does where: [effects](effects.md).
""",
    Kind.MESSAGE: """\
## Message Properties

Set as default before establishment or on the Connection, and for each Message by keywords of
`send` or in a `MessageContext`. Read-only ones come with received Messages.
""",
}

RATES: Final = """\
## Rates and schedulers

`maxSendRate` holds on every stack: TCP has the kernel pace it (which counts headers and
retransmissions), elsewhere the Connection holds back what it sends. Each Connection of a group
may send at that rate; `_taps.groupMaxSendRate` is for all of them together, on any stack. In no
second leaves more than the rate, one Message, and 2 % where the event loop was late.

`minSendRate` and `minRecvRate` are kept and can be read; no transport here makes use of them, and
`effect()` says so. So it is with `maxRecvRate`: whoever wants less to arrive receives less, and the
window of the transport, if it has one, fills.

`connScheduler` and `connPriority` divide what the Connections of a group have in common, a limit or
one session: see [rates and schedulers](../explanation/schedulers.md).
"""


def words(value: Any, definition: Property | None = None) -> str:
    """A value as the tables show it."""
    if value == math.inf and definition is not None and definition.special:
        return definition.special
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, frozenset):
        return "none"
    return str(value.value if isinstance(value, Enum) and isinstance(value, str) else value)


def default(definition: Property) -> str:
    """What holds where nothing is set."""
    if definition.by_role is not None:
        each = (f"{role}: {words(value)}" for role, value in definition.by_role.items())
        return "by role: " + ", ".join(each)
    if definition.derived_from is not None:
        return f"that of `{definition.derived_from}`"
    if definition.read_only:
        return "read-only"
    if definition.default is None:
        return "the protocol's"
    return words(definition.default, definition)


def table(definitions: Iterable[Property]) -> str:
    """One row for each property."""
    lines = ["| Name | Value | Default | Meaning | RFC 9622 |", "|---|---|---|---|---|"]
    for row in definitions:
        shared = " (shared)" if row.group_shared else ""
        lines.append(
            f"| `{row.name}`{shared} | {row.expects} | {default(row)} | {row.meaning} "
            f"| {row.rfc_section} |"
        )
    return "\n".join(lines) + "\n"


def profiles() -> str:
    """What the property profiles set."""
    made: Mapping[str, TransportProperties] = {
        "reliable_inorder_stream": TransportProperties.reliable_inorder_stream(),
        "reliable_message": TransportProperties.reliable_message(),
        "unreliable_datagram": TransportProperties.unreliable_datagram(),
    }
    names = [name for name in PROPERTIES if any(each.is_set(name) for each in made.values())]
    lines = [
        "## Property profiles\n",
        "`TransportProperties.unreliable_datagram()` makes one with these set (appendix B.2); "
        "called on an object, it sets them there.\n",
        "| Profile | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for profile, properties in made.items():
        values = (words(properties.get(n)) if properties.is_set(n) else "unset" for n in names)
        lines.append(f"| `{profile}` | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def capacity_profiles() -> str:
    """Which code points the capacity profiles mean."""
    lines = [
        "## Capacity profiles\n",
        "Where Connections are not multiplexed, the profile becomes a DSCP; the first is used.\n",
        "| Profile | DSCP |",
        "|---|---|",
    ]
    lines += [f"| {profile} | {', '.join(map(str, dscp))} |" for profile, dscp in DSCP.items()]
    return "\n".join(lines) + "\n"


def properties_page() -> str:
    """The whole of reference/properties.md."""
    parts = [INTRODUCTION]
    for kind, text in SECTIONS.items():
        parts += [text, table(row for row in PROPERTIES.values() if row.kind is kind)]
    (tcp,) = taps_tcp.taps_transports()
    udp, *_ = taps_udp.taps_transports()
    parts += [
        RATES,
        "## Properties of the core\n\nBeyond the RFC, for every stack.\n",
        table(row for name, row in EXTENSIONS.items() if name not in SECURITY_RESULTS),
        "## What security came to\n\nFor whoever reads it after Ready, also beyond the RFC and the "
        "same for every protocol. Before, and\nwhere nothing secures the Connection, all of them "
        "are `None`. The sections are those of the parameters\nthat ask for it.\n",
        table(SECURITY_RESULTS.values()),
        "## Properties of TCP\n\nDeclared by `taps_tcp`. They apply where TCP was chosen and "
        "never affect the choice.\n",
        table(tcp.properties),
        "## Properties of UDP\n\nDeclared by `taps_udp`, for UDP and UDP-Lite.\n",
        table(udp.properties),
        profiles(),
        capacity_profiles(),
    ]
    return "\n".join(parts)


EFFECTS: Final = """\
# What each property does on each stack

Every Transport Property of RFC 9622 and every transport: whether it is there or has an effect, and
how, or why not. It stands in the plugins' own tables of capabilities; this page is made of them by
`python docs/generate.py`, and `tests/effects` holds each line to what happens.

`taps-plugins show NAME` prints the same for any installed plugin, as this machine can do it. On a
Connection, `connection.properties.effect(name)` is the sentence «no effect on …: why» where setting
a property does nothing, and `None` where it does something. Such a property is accepted all the
same, keeps its value, and changes nothing (RFC 9622, section 5).
"""

EFFECT_SECTIONS: Final = {
    Kind.SELECTION: """\
## Selection Properties

`always`: it cannot be switched off, so Prohibit removes the stack. `optional`: it can be had or
left out. `never`: Require removes the stack.
""",
    Kind.CONNECTION: """\
## Connection Properties

`always` has effect (or can be read, if that is all that can be done with it), `optional` depends on
the operating system or on what the peers agree on, `never` is accepted without effect.
""",
    Kind.MESSAGE: """\
## Message Properties

Likewise. A Message whose properties cannot be kept is refused with a SendError (RFC 9622, section
9.1.3): where the line says so, where it is too large, and after a Final Message.
""",
}


def stacks() -> list[Stack]:
    """Each transport of ours alone, then what security layers and framers make of it."""
    registry = Registry.of(*(import_module(path.parent.name) for path in PLUGINS))
    declared = [*registry.transports.values()]
    layers = [*registry.security_layers.values()]
    plain = [Stack(transport, transport.capabilities) for transport in declared]
    framed = compose(Installed(declared, layers), [LengthPrefix()])
    secured = [stack for stack in compose(Installed(declared, layers)) if stack.security]
    return [*plain, *secured, *(stack for stack in framed if not stack.security)]


def told_of(stack: Stack, row: Property) -> tuple[str, str]:
    """What becomes of a property on a stack, and how or why not."""
    if row.kind is not Kind.SELECTION:
        support = stack.effect(row.name).value
    else:
        # What decides among paths is the system's business.
        support = "" if row.name in EVERYWHERE else stack.support(row.name).value
    return support, stack.explain(row.name) or row.meaning.rstrip(".")


def effects_of(rows: Iterable[Property]) -> str:
    """A line for each property and for each way in which stacks treat it."""
    lines = ["| Property | Stack | | How, or why not |", "|---|---|---|---|"]
    every = stacks()
    bare = {stack.transport: stack for stack in every if not stack.layers}
    for row in rows:
        told: dict[tuple[str, str], list[str]] = defaultdict(list)
        for stack in every:
            # Stacks of several layers only where they differ from their transport.
            if not stack.layers or told_of(stack, row) != told_of(bare[stack.transport], row):
                told[told_of(stack, row)].append(stack.name)
        name = f"`{row.name}`"
        for (support, how), names in told.items():
            of = "every one" if len(told) == 1 else ", ".join(names)
            lines.append(f"| {name} | {of} | {support} | {how} |")
            name = ""
    return "\n".join(lines) + "\n"


def effects_page() -> str:
    """The whole of reference/effects.md."""
    parts = [EFFECTS]
    for kind, text in EFFECT_SECTIONS.items():
        parts += [text, effects_of(row for row in PROPERTIES.values() if row.kind is kind)]
    parts += ["## Properties of the core\n", effects_of(EXTENSIONS.values())]
    parts.append("## Properties of one protocol\n")
    lines = ["| Property | Stack | | How, or why not |", "|---|---|---|---|"]
    for stack in stacks():
        for row in () if stack.layers else stack.definitions:
            support, how = told_of(stack, row)
            lines.append(f"| `{row.name}` | {stack} | {support} | {how} |")
    return "\n".join([*parts, *lines]) + "\n"


STATES: Final = """\
# States

The life of a Connection and of a Listener (RFC 9622, section 11), drawn from the tables that the
code walks (`taps_core.planning.states`; this page is made by `python docs/generate.py`). What has
no edge cannot happen.

## Connection

```mermaid
{connection}```

## Listener

```mermaid
{listener}```

## Where the RFC leaves room

{choices}
"""


def states_page() -> str:
    """The whole of reference/states.md."""
    text = states.__doc__ or ""
    return STATES.format(
        connection=states.mermaid(states.CONNECTION),
        listener=states.mermaid(states.LISTENER),
        choices=text[text.index("* ") :].strip(),
    )


CONFORMANCE: Final = """\
# Conformance

Every promise that the suites of `taps_core.testing.conformance` test, with the name of its test
(this page is made by `python docs/generate.py`). How to run them, what a verdict tells and which
claim of a plugin's table switches on what: [write a plugin](../how-to/write-a-plugin.md#test-it).
"""

#: Heading → the classes whose promises stand below it, and what is said of them.
SUITES: Final[Mapping[str, tuple[tuple[type[Conformance], ...], str]]] = {
    "Every transport: its declaration": (
        (base.TransportSuite,),
        "`ByteStreamConformance`, `MessageConformance` and `DatagramConformance` hold these and "
        "the following.",
    ),
    "Every transport: its listener": ((listeners.ListenerPromises,), ""),
    "Every transport: odd moments": ((odd_moments.OddMoments,), ""),
    "Every transport: its flows": ((conformance.TransportConformance,), ""),
    "Transports that are connected": (
        (conformance.ConnectedConformance,),
        "In `ByteStreamConformance` and `MessageConformance`.",
    ),
    "Byte streams": ((conformance.ByteStreamConformance,), "In `ByteStreamConformance`."),
    "Message boundaries": (
        (transports.BoundaryPromises,),
        "In `MessageConformance` and `DatagramConformance`.",
    ),
    "Messages": ((conformance.MessageConformance,), "In `MessageConformance`."),
    "Datagrams": (
        (conformance.DatagramConformance,),
        "In `DatagramConformance`. Messages may be lost: what must arrive is sent until it does.",
    ),
    "Security layers": (
        (conformance.SecurityLayerConformance,),
        "`SecurityLayerConformance`, over the transports in memory.",
    ),
    "Framers": (
        (conformance.FramerConformance,),
        "`FramerConformance`, in Connections over the transports in memory.",
    ),
}


def conformance_page() -> str:
    """The whole of reference/conformance.md."""
    parts = [CONFORMANCE]
    for heading, (suites, text) in SUITES.items():
        rows = [
            f"| {suite.promise(name)} | `{name}` |"
            for suite in suites
            for name in vars(suite)
            if name.startswith("test_")
        ]
        lines = ["| Promise | Test |", "|---|---|", *rows]
        parts.append(
            f"## {heading}\n\n" + (f"{text}\n\n" if text else "") + "\n".join(lines) + "\n"
        )
    return "\n".join(parts)


REQUIREMENTS: Final = """\
# Conformance to RFC 9621, RFC 9622 and RFC 9623

Every requirement of the RFCs, restated, and the tests that show it. This page is made by
`python docs/generate.py` of [requirements.toml](requirements.toml) and of the marks
`@pytest.mark.requirement` in the tests. Where there is no test, it says why.

`R-<rfc>-<section>-<number>` has the RFC's key word (in lower case where the RFC uses it without
the force of BCP 14, as RFC 9623 always does), and for whom it is: the system (`impl`), the shape of
the interface (`api`), the application (`app`). `G-…` is something that the RFC states as a fact.
"""


def marked_tests() -> dict[str, list[tuple[str, str]]]:
    """Requirement → the tests that name it, each as file and function."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    folders = ("tests", "plugins", "framers")
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith(".requirement"):
                    for argument in mark.args:
                        test = (path.relative_to(ROOT).as_posix(), node.name)
                        found[ast.literal_eval(argument)].append(test)
    return found


def requirements() -> list[dict[str, str]]:
    """The rows of requirements.toml."""
    rows: list[dict[str, str]] = tomllib.loads((DOCS / "requirements.toml").read_text())[
        "requirement"
    ]
    return rows


def requirements_page() -> str:
    """The whole of conformance.md."""
    tests = marked_tests()
    rows = requirements()
    tested = sum(row["id"] in tests for row in rows)
    parts = [REQUIREMENTS, f"\n{tested} of {len(rows)} have a test.\n"]
    rfc = ""
    for row in rows:
        if row["id"].split("-")[1] != rfc:
            rfc = row["id"].split("-")[1]
            parts.append(f"\n## RFC {rfc}\n\n| id | | | | Shown by |\n|---|---|---|---|---|\n")
        found = [
            f"[`{name.removeprefix('test_')}`](../{path})"
            for path, name in tests.get(row["id"], ())
        ]
        shown = ", ".join(found) or f"*{row['untested']}*"
        cells = (row["id"], row.get("level", ""), row.get("on", ""), row["text"], shown)
        parts.append("| " + " | ".join(cells) + " |\n")
    return "".join(parts)


# -- a race to look at


class Tcp(VirtualStream):
    """What a virtual network has of TCP: nothing of it is secure."""

    name = "tcp"
    label = "TCP"
    capabilities = VirtualStream.capabilities.but(protection=None)


class Tls(MemoryTLS):
    """A handshake of one round trip."""

    name = "tls"
    label = "TLS"


@functools.cache
def race() -> Mapping[str, Any]:
    """The report of a race on a network where IPv6 is a black hole, as JSON has it."""
    report: dict[str, Any] = {}

    async def scenario(net: VirtualNetwork) -> None:
        server = net.host("host.example", "2001:db8::1", "192.0.2.1", "192.0.2.2")
        net.name("server.example", server, delay=0.02)
        net.path(net.client, server, latency=0.03)
        net.path(net.client, "2001:db8::1").blackhole()

        async def serve(connection: taps.Connection[Any]) -> None:
            async for _ in connection:
                pass

        def on(host: Any) -> taps.System:
            return taps.System(plugins=[Tcp(host), Tls()], resolver=host.system.resolver)

        here = taps.Preconnection(local="192.0.2.1:443", system=on(server))
        there = taps.Preconnection(remote="server.example:443", system=on(net.client))
        async with here.listen(serve), there.initiate() as connection:
            report.update(connection.report.as_json())

    run(scenario, seed=1)
    return report


def race_report() -> str:
    """What an application would have saved."""
    return json.dumps(race(), indent=2) + "\n"


def race_picture() -> str:
    """The picture of it."""
    return figure(waterfall(race()))


#: File below docs/ → what makes its content.
PAGES: Final = {
    "conformance.md": requirements_page,
    "reference/properties.md": properties_page,
    "reference/effects.md": effects_page,
    "reference/states.md": states_page,
    "reference/conformance.md": conformance_page,
    "how-to/a-race.json": race_report,
    "how-to/a-race.svg": race_picture,
}

if __name__ == "__main__":
    for path, content in PAGES.items():
        (DOCS / path).write_text(content(), encoding="utf-8")
