"""Races, one a row: what there is to try, what becomes of it, and what must start when.

Candidates are written ``a("6a", ready=20)``: an address (``6…`` is IPv6, ``4…`` IPv4), and how
its attempt ends: ``ready`` or ``fails`` after so many milliseconds, or not at all.
``connected`` says when its transport is, where something is to be done above it.

What is expected is one line: ``6a@0 4a@250 → 4a=290``. Candidates start in this order at
these milliseconds; then somebody wins, or ``failed=…``, or it is ``waiting`` for ever. A
candidate is called by its address, after whatever sets it apart: ``QUIC:6a``.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.properties import Racing
from taps_core.planning.candidates import Leaf
from taps_core.planning.staggering import Level, Staggering

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SCENARIOS", "A", "Scenario", "a"]

# Documentation addresses (RFC 3849, RFC 5737) behind the short names.
_PREFIXES: Final = {"6": "2001:db8::", "4": "192.0.2."}
_STACKS: Final = ("TCP", "QUIC", "SCTP", "TLS/TCP", "UDP", "DTLS/UDP", "UDP-Lite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class A:
    """A candidate and what becomes of it; times in milliseconds after its start."""

    address: str
    ready: float | None = None
    fails: float | None = None
    connected: float | None = None
    stack: str = "TCP"
    path: str = ""
    host: str | None = None
    group: int = 0
    place: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """As what is expected calls it."""
        stack = "" if self.stack == "TCP" else self.stack
        return ":".join(filter(None, (self.path, stack, self.host or "", self.address)))

    def leaf(self) -> Leaf:
        """For the planner. Stacks over UDP alone prove nothing."""
        stack: Any = SimpleNamespace(name=self.stack, capabilities=SimpleNamespace(protection=None))
        kind, which = self.address[0], ord(self.address[1]) - ord("a") + 1
        remote = RemoteEndpoint(
            ip_address=f"{_PREFIXES[kind]}{which}", hostname=self.host, port=443
        )
        return Leaf(
            stack,
            remote,
            path=self.path or "default",
            group=self.group,
            place=self.place,
            silent=self.stack.startswith("UDP"),
        )


def a(address: str, **more: Any) -> A:
    """Shorter."""
    return A(address=address, **more)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A race from beginning to end."""

    what: str
    candidates: Sequence[A]
    expected: str
    late: Sequence[tuple[float, Sequence[A], bool]] = ()
    """Milliseconds, what becomes known then, and whether more may come after it."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """For the planner."""


def on(stack: str, *candidates: A, **more: Any) -> list[A]:
    """The same candidates over another stack."""
    return [dataclasses.replace(each, stack=stack, **more) for each in candidates]


def _known(milliseconds: float) -> dict[str, Any]:
    """Options: every round-trip time is known, and is this."""
    return {"delay": Staggering(round_trip=lambda remote, path: milliseconds / 1000)}


def _by_family(remote: RemoteEndpoint, path: str) -> float | None:
    return 0.4 if ":" in str(remote.ip_address) else None


def _slow_names(level: Level, last: Leaf) -> float:
    return {Level.PATH: 0.9, Level.STACK: 0.5, Level.HOST: 0.7}.get(level, 0.25)


SCENARIOS: Final[Sequence[Scenario]] = [
    # -- one stack, one host: addresses
    Scenario("one address that answers", [a("6a", ready=30)], "6a@0 → 6a=30"),
    Scenario("one address that refuses", [a("6a", fails=30)], "6a@0 → failed=30"),
    Scenario("one black hole: only the total deadline ends it", [a("6a")], "6a@0 → waiting"),
    Scenario("nothing to try", [], "→ failed=0"),
    Scenario(
        "the first address refuses at once: the second starts at +0 ms",
        [a("6a", fails=0), a("4a", ready=20)],
        "6a@0 4a@0 → 4a=20",
    ),
    Scenario(
        "the first address refuses after a round trip: the second starts then",
        [a("6a", fails=40), a("4a", ready=20)],
        "6a@0 4a@40 → 4a=60",
    ),
    Scenario(
        "IPv6 is a black hole: IPv4 is ready after one delay and its round trip",
        [a("6a"), a("4a", ready=40)],
        "6a@0 4a@250 → 4a=290",
    ),
    Scenario(
        "IPv6 is slow: it wins although IPv4 was started",
        [a("6a", ready=300), a("4a", ready=100)],
        "6a@0 4a@250 → 6a=300",
    ),
    Scenario(
        "IPv6 is slower than the delay and IPv4: IPv4 wins",
        [a("6a", ready=400), a("4a", ready=100)],
        "6a@0 4a@250 → 4a=350",
    ),
    Scenario(
        "IPv6 answers just in time: IPv4 hears nothing",
        [a("6a", ready=249), a("4a", ready=1)],
        "6a@0 → 6a=249",
    ),
    Scenario(
        "a failure in mid delay: the delay counts anew from there",
        [a("6a", fails=100), a("4a"), a("6b", ready=10)],
        "6a@0 4a@100 6b@350 → 6b=360",
    ),
    Scenario(
        "a late failure of the first address starts the third before its time",
        [a("6a", fails=300), a("4a"), a("6b", ready=10)],
        "6a@0 4a@250 6b@300 → 6b=310",
    ),
    Scenario(
        "black holes all along are one delay apart",
        [a("6a"), a("4a"), a("6b"), a("4b", ready=5)],
        "6a@0 4a@250 6b@500 4b@750 → 4b=755",
    ),
    Scenario(
        "refusals all along cost nothing but their round trips",
        [a("6a", fails=10), a("4a", fails=10), a("6b", fails=10), a("4b", ready=10)],
        "6a@0 4a@10 6b@20 4b@30 → 4b=40",
    ),
    Scenario(
        "a timeout of the system ends its attempt, not the race",
        [a("6a", fails=127_000), a("4a")],
        "6a@0 4a@250 → waiting",
    ),
    Scenario(
        "all fail: the race ends with the last of them",
        [a("6a", fails=600), a("4a", fails=100), a("6b", fails=10)],
        "6a@0 4a@250 6b@350 → failed=600",
    ),
    # -- delays
    Scenario(
        "a known round trip of 20 ms: the delay is the least that is recommended",
        [a("6a"), a("4a", ready=20)],
        "6a@0 4a@100 → 4a=120",
        options=_known(20),
    ),
    Scenario(
        "a known round trip of 180 ms: twice that",
        [a("6a", ready=180), a("4a", ready=20)],
        "6a@0 → 6a=180",
        options=_known(180),
    ),
    Scenario(
        "a known round trip of 180 ms, and a black hole",
        [a("6a"), a("4a", ready=180)],
        "6a@0 4a@360 → 4a=540",
        options=_known(180),
    ),
    Scenario(
        "a known round trip of 3 s: the delay is 2 s at most",
        [a("6a"), a("4a", ready=20)],
        "6a@0 4a@2000 → 4a=2020",
        options=_known(3000),
    ),
    Scenario(
        "known for one family only: the other gets the usual delay",
        [a("6a"), a("4a"), a("6b", ready=5)],
        "6a@0 4a@800 6b@1050 → 6b=1055",
        options={"delay": Staggering(round_trip=_by_family)},
    ),
    Scenario(
        "a delay of the application's, the least there is",
        [a("6a"), a("4a"), a("6b", ready=1)],
        "6a@0 4a@10 6b@20 → 6b=21",
        options={"delay": Staggering(delay=0.01)},
    ),
    Scenario(
        "nobody gets less than 10 ms",
        [a("6a"), a("4a", ready=1)],
        "6a@0 4a@10 → 4a=11",
        options={"delay": 0.0},
    ),
    # -- several stacks
    Scenario(
        "a TCP-only server with two addresses, three stacks that are refused: no delay at all",
        [
            *on("QUIC", a("6a", fails=10), a("4a", fails=10)),
            *on("SCTP", a("6a", fails=10), a("4a", fails=10)),
            *on("TCP", a("6a", ready=10), a("4a", ready=10)),
        ],
        "QUIC:6a@0 QUIC:4a@10 SCTP:6a@20 SCTP:4a@30 6a@40 → 6a=50",
    ),
    Scenario(
        "a TCP-only server with two addresses, three stacks of which two are black holes: one "
        "delay for each stack, not for each address of each",
        [
            *on("QUIC", a("6a"), a("4a")),
            *on("SCTP", a("6a"), a("4a")),
            *on("TCP", a("6a", ready=30), a("4a", ready=30)),
        ],
        "QUIC:6a@0 QUIC:4a@250 SCTP:6a@250 SCTP:4a@500 6a@500 → 6a=530",
    ),
    Scenario(
        "the same where IPv6 is a black hole, too: one more delay",
        [
            *on("QUIC", a("6a"), a("4a")),
            *on("SCTP", a("6a"), a("4a")),
            *on("TCP", a("6a"), a("4a", ready=30)),
        ],
        "QUIC:6a@0 QUIC:4a@250 SCTP:6a@250 SCTP:4a@500 6a@500 4a@750 → 4a=780",
    ),
    Scenario(
        "a TCP-only server where TCP comes first, as it does by default: the others hear nothing",
        [
            *on("TCP", a("6a", ready=30), a("4a", ready=30)),
            *on("QUIC", a("6a"), a("4a")),
            *on("SCTP", a("6a"), a("4a")),
        ],
        "6a@0 → 6a=30",
    ),
    Scenario(
        "a stack has failed only when all its addresses have",
        [*on("SCTP", a("6a", fails=10), a("4a")), a("6a", ready=10)],
        "SCTP:6a@0 SCTP:4a@10 6a@250 → 6a=260",
    ),
    Scenario(
        "the better stack wins although it takes longer than the delay",
        [*on("SCTP", a("6a", ready=260)), a("6a", ready=50)],
        "SCTP:6a@0 6a@250 → SCTP:6a=260",
    ),
    Scenario(
        "a stack with one address of its own, `protocol=`, beside one with two",
        [*on("QUIC", a("6c", ready=400)), a("6a", fails=20), a("4a", ready=20)],
        "QUIC:6c@0 6a@250 4a@270 → 4a=290",
    ),
    Scenario(
        "stacks with delays of their own",
        [*on("QUIC", a("6a"), a("4a")), a("6a", ready=10)],
        "QUIC:6a@0 QUIC:4a@250 6a@500 → 6a=510",
        options={"delay": _slow_names},
    ),
    # -- handshakes above the transport
    Scenario(
        "TLS over 150 ms: IPv6 has shown that it lives, so IPv4 is spared",
        [a("6a", stack="TLS/TCP", connected=150, ready=300), a("4a", stack="TLS/TCP", ready=1)],
        "TLS/TCP:6a@0 → TLS/TCP:6a=300",
    ),
    Scenario(
        "TLS does not go on after TCP: IPv4 starts one delay after that",
        [a("6a", stack="TLS/TCP", connected=100), a("4a", stack="TLS/TCP", ready=60)],
        "TLS/TCP:6a@0 TLS/TCP:4a@350 → TLS/TCP:4a=410",
    ),
    Scenario(
        "TLS is refused after TCP: IPv4 starts at once",
        [
            a("6a", stack="TLS/TCP", connected=20, fails=60),
            a("4a", stack="TLS/TCP", connected=20, ready=60),
        ],
        "TLS/TCP:6a@0 TLS/TCP:4a@60 → TLS/TCP:4a=120",
    ),
    Scenario(
        "what is connected puts off the next address and the next stack alike",
        [
            a("6a", stack="QUIC", connected=200, ready=440),
            a("4a", stack="QUIC"),
            a("6a", stack="TLS/TCP", ready=5),
        ],
        "QUIC:6a@0 → QUIC:6a=440",
    ),
    Scenario(
        "connected after its delay: whoever was started goes on",
        [a("6a", stack="TLS/TCP", connected=260, ready=500), a("4a", stack="TLS/TCP", ready=200)],
        "TLS/TCP:6a@0 TLS/TCP:4a@250 → TLS/TCP:4a=450",
    ),
    # -- what proves nothing
    Scenario(
        "UDP behind TCP does not win by doing nothing: TCP has all the time it takes",
        [a("6a", ready=900), *on("UDP", a("6a", ready=0))],
        "6a@0 → 6a=900",
    ),
    Scenario(
        "UDP behind TCP, which is refused: then there is no better one",
        [a("6a", fails=20), a("4a", fails=20), *on("UDP", a("6a", ready=0), a("4a", ready=0))],
        "6a@0 4a@20 UDP:6a@40 → UDP:6a=40",
    ),
    Scenario(
        "UDP before TCP is what the application prefers",
        [*on("UDP", a("6a", ready=0)), a("6a", ready=20)],
        "UDP:6a@0 → UDP:6a=0",
    ),
    Scenario(
        "UDP before TCP without a route: TCP at once",
        [*on("UDP", a("6a", fails=0)), a("4a", ready=20)],
        "UDP:6a@0 4a@0 → 4a=20",
    ),
    Scenario(
        "UDP between two that shake hands lets the second one go before it",
        [a("6a"), *on("UDP", a("6a", ready=0)), *on("SCTP", a("6a", ready=30))],
        "6a@0 SCTP:6a@250 → SCTP:6a=280",
    ),
    Scenario(
        "DTLS over UDP does shake hands",
        [a("6a", stack="TLS/TCP"), a("6a", stack="DTLS/UDP", ready=40)],
        "TLS/TCP:6a@0 DTLS/UDP:6a@250 → DTLS/UDP:6a=290",
    ),
    Scenario(
        "even simultaneous racing lets UDP wait for what can prove something",
        [a("6a", ready=300), *on("UDP", a("6a", ready=0))],
        "6a@0 → 6a=300",
        options={"racing": Racing.SIMULTANEOUS},
    ),
    # -- hosts and paths
    Scenario(
        "each host is a branch of its own",
        [
            a("6a", host="one"),
            a("4a", host="one"),
            a("6b", host="two", fails=0),
            a("4b", host="two", ready=10),
        ],
        "one:6a@0 one:4a@250 two:6b@250 two:4b@250 → two:4b=260",
    ),
    Scenario(
        "paths race above stacks",
        [
            a("6a", stack="SCTP", path="wlan"),
            a("6a", path="wlan"),
            a("6b", stack="SCTP", path="wwan", ready=20),
        ],
        "wlan:SCTP:6a@0 wlan:6a@250 wwan:SCTP:6b@250 → wwan:SCTP:6b=270",
    ),
    Scenario(
        "a path gets the time that its link and names take, besides",
        [a("6a", path="wlan"), a("4a", path="wlan"), a("6b", path="wwan", ready=20)],
        "wlan:6a@0 wlan:4a@250 wwan:6b@750 → wwan:6b=770",
        options={"delay": Staggering(path_delay=0.5)},
    ),
    Scenario(
        "a path that is down brings the next at once",
        [
            a("6a", path="wlan", fails=0),
            a("4a", path="wlan", fails=0),
            a("4b", path="wwan", ready=5),
        ],
        "wlan:6a@0 wlan:4a@0 wwan:4b@0 → wwan:4b=5",
    ),
    # -- classes of security
    Scenario(
        "another class starts only when everything before it has failed",
        [
            *on("TLS/TCP", a("6a", fails=3000), a("4a", fails=2000)),
            *on("TCP", a("6a", ready=10), a("4a", ready=10), group=1),
        ],
        "TLS/TCP:6a@0 TLS/TCP:4a@250 6a@3000 → 6a=3010",
    ),
    Scenario(
        "a black hole never brings plaintext",
        [*on("TLS/TCP", a("6a")), a("6a", ready=0, group=1)],
        "TLS/TCP:6a@0 → waiting",
    ),
    Scenario(
        "not even when all is to be simultaneous",
        [*on("TLS/TCP", a("6a")), a("6a", ready=0, group=1)],
        "TLS/TCP:6a@0 → waiting",
        options={"racing": Racing.SIMULTANEOUS},
    ),
    Scenario(
        "inside the second class attempts are staggered as anywhere",
        [*on("TLS/TCP", a("6a", fails=100)), a("6a", group=1), a("4a", ready=10, group=1)],
        "TLS/TCP:6a@0 6a@100 4a@350 → 4a=360",
    ),
    # -- modes
    Scenario(
        "simultaneous, on request: all of a class at once",
        [*on("QUIC", a("6a"), a("4a")), a("6a", ready=20), a("4a", ready=20)],
        "QUIC:6a@0 QUIC:4a@0 6a@0 4a@0 → 6a=20",
        options={"racing": Racing.SIMULTANEOUS},
    ),
    Scenario(
        "failover, on request: each waits for the failure of the one before",
        [*on("SCTP", a("6a", fails=5000), a("4a", fails=5000)), a("6a", ready=100)],
        "SCTP:6a@0 SCTP:4a@5000 6a@10000 → 6a=10100",
        options={"racing": Racing.FAILOVER},
    ),
    # -- what comes late
    Scenario(
        "AAAA late, in mid delay: it goes next",
        [a("4a"), a("4b"), a("4c")],
        "4a@0 6a@250 → 6a=260",
        late=[(100, [a("6a", ready=10)], False)],
    ),
    Scenario(
        "AAAA late, when the delay is over: at once",
        [a("4a")],
        "4a@0 6a@700 → 6a=710",
        late=[(700, [a("6a", ready=10)], False)],
    ),
    Scenario(
        "AAAA late, when every A has failed: at once, and the race has waited",
        [a("4a", fails=10), a("4b", fails=10)],
        "4a@0 4b@10 6a@50 → 6a=60",
        late=[(50, [a("6a", ready=10)], False)],
    ),
    Scenario(
        "A late, behind a black hole",
        [a("6a")],
        "6a@0 4a@250 → 4a=270",
        late=[(60, [a("4a", ready=20)], False)],
    ),
    Scenario(
        "AAAA never comes and every A has failed: the race ends with the name",
        [a("4a", fails=10)],
        "4a@0 → failed=5000",
        late=[(5000, [], False)],
    ),
    Scenario(
        "all comes late",
        [],
        "4a@80 6a@330 → 6a=340",
        late=[(80, [a("4a")], True), (90, [a("6a", ready=10)], False)],
    ),
    Scenario(
        "a late stack goes to its place among those that wait",
        [a("6a", place=(0, 0)), a("6a", stack="SCTP", place=(0, 2), ready=1)],
        "6a@0 QUIC:6a@250 → QUIC:6a=280",
        late=[(100, [a("6a", stack="QUIC", place=(0, 1), ready=30)], False)],
    ),
    Scenario(
        "a late path goes to its place among those that wait",
        [a("6a", path="wlan", place=(0, 0)), a("6c", path="vpn", place=(2, 0), ready=1)],
        "wlan:6a@0 wwan:6b@250 → wwan:6b=280",
        late=[(100, [a("6b", path="wwan", place=(1, 0), ready=30)], False)],
    ),
    Scenario(
        "plaintext waits also for names of what is secured",
        [a("4a", group=1, ready=0)],
        "TLS/TCP:6a@1000 4a@2000 → 4a=2000",
        late=[(1000, on("TLS/TCP", a("6a", fails=500)), True), (2000, [], False)],
    ),
    Scenario(
        "UDP waits for late addresses of TCP as well, if they come while TCP is being tried",
        [a("4a", fails=300), *on("UDP", a("4a", ready=0))],
        "4a@0 6a@250 UDP:4a@400 → UDP:4a=400",
        late=[(100, [a("6a", fails=150)], False)],
    ),
    Scenario(
        "further addresses of UDP wait for late ones of TCP, though UDP has begun",
        [a("6a", fails=100), *on("UDP", a("6a", fails=100))],
        "6a@0 UDP:6a@100 4a@120 UDP:4a@420 → UDP:4a=420",
        late=[(120, [a("4a", fails=300), *on("UDP", a("4a", ready=0))], False)],
    ),
]
