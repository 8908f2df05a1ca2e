"""Names that trickle into a race while it runs; exact times on a virtual clock."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.planning.candidates import MAX_LEAVES
from taps_core.planning.staggering import RESOLUTION_DELAY
from taps_core.testing import MemoryNetwork, MemoryStream, VirtualNetwork
from tests.runtime.machines import Machine, interface

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from taps_core.testing.fixtures import VirtualRun

SIX, OTHER_SIX = "2001:db8::1", "2001:db8::2"
FOUR, OTHER_FOUR = "192.0.2.1", "192.0.2.2"
#: Seconds, and what is known from then on: addresses, endpoints, or what went wrong.
Script = list[tuple[float, Any]]


class Trickler:
    """A resolver with a script for each name; the first line is waited for.

    On a path that was chosen those of names with the path's before them count: ``eth1_server``.

    Attributes:
        open: How many trickles are not closed, whatever the path.
        terms: What it was told of the use of each answer.
    """

    def __init__(self, **scripts: Script) -> None:
        self.scripts = scripts
        self.terms: list[Any] = []
        self._later: list[Later] = []
        self._path = ""

    def by(self, exit: Any) -> Trickler:  # noqa: A002  # as Pathwise has it
        bound = copy.copy(self)
        bound._path = f"{exit.name}_"
        return bound

    @property
    def open(self) -> int:
        return sum(not each.closed for each in self._later)

    async def resolve(self, endpoint: Any) -> list[Any]:
        assert not endpoint.needs_resolution, "what trickles is not asked for everything"
        return [endpoint]

    async def trickle(self, endpoint: Any, terms: Any) -> tuple[list[Any], Any]:
        self.terms.append(terms)
        (after, first), *rest = self.scripts[self._path + endpoint.hostname]
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(after)
        return self._answer(endpoint, first), self._more(endpoint, rest, began) if rest else None

    def _answer(self, endpoint: Any, what: Any) -> list[Any]:
        if isinstance(what, Exception):
            raise what
        return [endpoint.with_ip_address(each) if isinstance(each, str) else each for each in what]

    def _more(self, endpoint: Any, rest: Script, began: float) -> Later:
        later = Later(self, endpoint, rest, began)
        self._later.append(later)
        return later


class Later:
    """What is to come."""

    def __init__(self, owner: Trickler, endpoint: Any, rest: Script, began: float) -> None:
        self._owner = owner
        self._endpoint = endpoint
        self._rest = rest
        self._began = began
        self.closed = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Sequence[Any]:
        if not self._rest:
            raise StopAsyncIteration
        at, what = self._rest.pop(0)
        await asyncio.sleep(self._began + at - asyncio.get_running_loop().time())
        return self._owner._answer(self._endpoint, what)

    async def aclose(self) -> None:
        self.closed = True
        await asyncio.sleep(0)


def now() -> float:
    return round(asyncio.get_running_loop().time(), 6)


def starts(connection: taps.Connection[Any]) -> list[tuple[float, str]]:
    return [
        (round(each.started, 6), each.what.split(" to ")[1].rpartition(":")[0].strip("[]"))
        for each in connection.report
    ]


@pytest.fixture
def there(memory_network: MemoryNetwork) -> MemoryNetwork:
    """A server's addresses, each a round trip of 20 ms away."""
    for address in (SIX, OTHER_SIX, FOUR, OTHER_FOUR):
        memory_network.delay(address, 0.02)
    return memory_network


def of_server(port: int = 7) -> taps.RemoteEndpoint:
    return taps.RemoteEndpoint(hostname="server", port=port)


async def until_the_end(connection: taps.Connection[Any]) -> None:
    async for _ in connection:
        pass


@pytest.mark.requirement("R-9623-4.1.1.1-02", "R-9623-4.2.1-01")
@pytest.mark.parametrize(
    ("script", "dead", "expected", "ready"),
    [
        # A alone, at once: nothing comes later.
        ([(0.0, [FOUR])], [], [(0.0, FOUR)], 0.02),
        # AAAA late, behind a black hole: one delay after A, not one after itself.
        ([(0.05, [FOUR]), (0.1, [SIX])], [FOUR], [(0.05, FOUR), (0.3, SIX)], 0.32),
        # AAAA later than the delay: at once.
        ([(0.05, [FOUR]), (0.9, [SIX])], [FOUR], [(0.05, FOUR), (0.9, SIX)], 0.92),
        # AAAA not needed any more.
        ([(0.05, [FOUR]), (0.06, [SIX])], [], [(0.05, FOUR)], 0.07),
        # A late, and so on: families alternate with what waits.
        (
            [(0.0, [SIX, OTHER_SIX]), (0.01, [FOUR])],
            [SIX, FOUR],
            [(0.0, SIX), (0.25, FOUR), (0.5, OTHER_SIX)],
            0.52,
        ),
        # What comes late and is known already changes nothing.
        ([(0.0, [SIX]), (0.01, [SIX, FOUR])], [SIX], [(0.0, SIX), (0.25, FOUR)], 0.27),
    ],
)
def test_answers_that_come_late_join_the_race(
    virtual_run: VirtualRun,
    world: Any,
    there: MemoryNetwork,
    script: Script,
    dead: list[str],
    expected: list[tuple[float, str]],
    ready: float,
) -> None:
    resolver = Trickler(server=script)

    async def scenario(_: VirtualNetwork) -> None:
        here = world(MemoryStream(there), resolver=resolver)
        everywhere = [
            f"[{each}]:7" if ":" in each else f"{each}:7" for each in (SIX, OTHER_SIX, FOUR)
        ]
        async with here.listen(until_the_end, at=everywhere):
            for address in dead:
                there.blackhole(address)
            async with here.to(of_server()).initiate() as connection:
                assert now() == ready
                assert starts(connection) == expected
                assert resolver.open == 0
        (name,) = connection.report.resolutions
        assert name.outcome == ("resolved" if name.ended <= ready else "cancelled")

    virtual_run(scenario)
    assert resolver.open == 0


def test_a_late_address_is_waited_for_when_all_before_it_were_refused(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork
) -> None:
    resolver = Trickler(server=[(0.0, [FOUR]), (2.0, [SIX])])

    async def scenario(_: VirtualNetwork) -> None:
        here = world(MemoryStream(there), resolver=resolver)
        async with (
            here.listen(until_the_end, at=f"[{SIX}]:7"),
            here.to(of_server()).initiate() as connection,
        ):
            assert starts(connection) == [(0.0, FOUR), (2.0, SIX)]
            assert [each.outcome for each in connection.report] == ["failed", "ready"]
            (name,) = connection.report.resolutions
            assert [(round(at, 6), found) for at, found in name.found] == [(0.0, FOUR), (2.0, SIX)]

    virtual_run(scenario)


@pytest.mark.requirement("R-9623-4.4.1-02")
def test_all_errors_are_there_those_of_names_included(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork
) -> None:
    nothing = taps.EstablishmentError("no such name", reason=taps.Reason.RESOLUTION_FAILED)
    resolver = Trickler(server=[(0.0, [FOUR])], other=[(0.2, nothing)], third=[(0.1, nothing)])

    async def scenario(_: VirtualNetwork) -> None:
        here = world(MemoryStream(there), resolver=resolver)
        connection = here.to([of_server(), "other:7", "third:7"]).initiate()
        with pytest.raises(taps.EstablishmentError) as caught:
            await connection
        assert now() == 0.2
        lines = str(caught.value).splitlines()
        assert len(lines) == 4
        assert FOUR in lines[1]
        assert lines[2:] == ["  no such name"] * 2
        assert [each.outcome for each in connection.report.resolutions] == [
            "resolved",
            "failed",
            "failed",
        ]
        # With nothing at all to try.
        connection = here.to(["other:7", "third:7"]).initiate()
        with pytest.raises(taps.EstablishmentError) as caught:
            await connection
        assert caught.value.reason is taps.Reason.RESOLUTION_FAILED
        assert str(caught.value).count("no such name") == 2

    virtual_run(scenario)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # The first Endpoint is there: nobody is waited for, and the other is a further host.
        ([(0.0, [FOUR])], [(0.1, [OTHER_FOUR])], [(0.0, FOUR), (0.25, OTHER_FOUR)]),
        # The first one is a little late: it is waited for.
        ([(0.03, [FOUR])], [(0.0, [OTHER_FOUR])], [(0.03, FOUR), (0.28, OTHER_FOUR)]),
        # It is later than the Resolution Delay: the other one goes on alone.
        ([(3.0, [FOUR])], [(0.0, [OTHER_FOUR])], [(RESOLUTION_DELAY, OTHER_FOUR)]),
    ],
)
def test_names_are_asked_for_side_by_side_and_the_first_one_is_waited_for_a_little(
    virtual_run: VirtualRun,
    world: Any,
    there: MemoryNetwork,
    first: Script,
    second: Script,
    expected: list[tuple[float, str]],
) -> None:
    resolver = Trickler(server=first, other=second)

    async def scenario(_: VirtualNetwork) -> None:
        here = world(MemoryStream(there), resolver=resolver)
        async with here.listen(until_the_end, at=[f"{OTHER_FOUR}:7", f"{FOUR}:7"]):
            there.blackhole(FOUR)
            async with here.to([of_server(), "other:7"]).initiate() as connection:
                assert starts(connection) == expected

    virtual_run(scenario)


def test_an_address_among_names_need_not_wait_if_it_comes_first(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork
) -> None:
    resolver = Trickler(server=[(0.04, [SIX])])

    async def scenario(_: VirtualNetwork) -> None:
        here = world(MemoryStream(there), resolver=resolver)
        async with here.listen(until_the_end, at=f"{FOUR}:7"):
            for remotes, ready in (
                ([f"{FOUR}:7", of_server()], 0.02),
                ([of_server(), f"{FOUR}:7"], 0.08),
            ):
                began = now()
                async with here.to(remotes).initiate():
                    # In the other order the name goes first, and is refused.
                    assert round(now() - began, 6) == ready

    virtual_run(scenario)


@pytest.mark.parametrize("at", [0.0, 0.02, 0.05, 0.1, 0.3])
def test_cancelling_at_any_time_closes_what_trickles(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork, at: float
) -> None:
    resolver = Trickler(
        server=[(0.03, [FOUR]), (0.07, [SIX]), (9.0, [OTHER_SIX])], other=[(0.04, []), (9.0, [])]
    )

    async def scenario(_: VirtualNetwork) -> None:
        there.blackhole(FOUR)
        there.blackhole(SIX)
        here = world(MemoryStream(there), resolver=resolver)
        for remotes in ([of_server()], [of_server(), "other:7"]):
            task = asyncio.ensure_future(here.to(remotes).initiate()._wait_ready())
            await asyncio.sleep(at)
            task.cancel()
            await asyncio.wait([task])
            assert resolver.open == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual_run(scenario)


@pytest.mark.parametrize("when", ["first", "later"])
def test_a_bug_in_a_resolver_ends_the_establishment_and_leaves_nothing(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork, when: str
) -> None:
    bug = KeyError("a bug")
    script: Script = [(0.0, bug)] if when == "first" else [(0.0, [FOUR]), (0.1, bug)]
    resolver = Trickler(server=script)

    async def scenario(_: VirtualNetwork) -> None:
        there.blackhole(FOUR)
        here = world(MemoryStream(there), resolver=resolver)
        connection = here.to(of_server()).initiate()
        with pytest.raises(taps.EstablishmentError, match="KeyError"):
            await connection
        (name,) = connection.report.resolutions
        assert name.outcome == ("failed" if when == "first" else "cancelled")
        assert resolver.open == 0

    virtual_run(scenario)


def test_a_bug_that_what_was_found_brings_to_light_closes_what_trickles(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork
) -> None:
    """In the turn in which the first answer came: nothing has begun to wait for the others."""
    spoken = taps.RemoteEndpoint(ip_address=FOUR, port=7, protocol="memory-stream")
    resolver = Trickler(server=[(0.0, [spoken]), (0.1, [SIX])])

    def policy() -> None:
        # Stacks are ranked anew by what the peer's records say that it speaks.
        if resolver.terms:
            raise KeyError("a bug")

    async def scenario(_: VirtualNetwork) -> None:
        here = world(MemoryStream(there), resolver=resolver, policy=policy)
        connection = here.to(of_server()).initiate()
        with pytest.raises(taps.EstablishmentError, match="KeyError"):
            await connection
        (name,) = connection.report.resolutions
        assert name.outcome == "cancelled"
        assert resolver.open == 0

    virtual_run(scenario)


@pytest.mark.requirement("R-9623-12.2-02")
def test_however_many_addresses_trickle_in_the_race_stays_small(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork
) -> None:
    many = [f"10.0.{number // 250}.{1 + number % 250}" for number in range(3000)]
    batches: Script = [(0.001 * at, many[at * 30 : at * 30 + 30]) for at in range(100)]
    resolver = Trickler(server=batches)

    async def scenario(_: VirtualNetwork) -> None:
        here = world(MemoryStream(there), resolver=resolver)
        connection = here.to(of_server()).initiate()
        with pytest.raises(taps.EstablishmentError):
            await connection
        assert len(connection.report) <= MAX_LEAVES

    virtual_run(scenario)


def test_what_the_peers_records_say_it_speaks_is_evidence(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork
) -> None:
    class Rare(MemoryStream):
        name = "rare-stream"
        deployable = False

    async def scenario(_: VirtualNetwork) -> None:
        server = taps.RemoteEndpoint(hostname="server", port=7, ip_address=FOUR)
        for found, expected in (
            ([FOUR], ["MEMORY-STREAM", "RARE-STREAM"]),
            ([server.with_protocol("rare-stream"), server], ["MEMORY-STREAM", "RARE-STREAM"]),
            ([server.with_protocol("rare-stream")], ["RARE-STREAM"]),
        ):
            here = world(MemoryStream(there), Rare(there), resolver=Trickler(server=[(0.0, found)]))
            connection = here.to(of_server()).initiate()
            with pytest.raises(taps.EstablishmentError):
                await connection
            assert [each.what.split()[0] for each in connection.report] == expected

    virtual_run(scenario)


def test_a_resolver_is_told_what_the_answers_are_for(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork
) -> None:
    class Speaker(MemoryStream):
        name = "speaker"
        alpn = ("memory/1",)

    resolver = Trickler(server=[(0.0, [FOUR])])

    async def scenario(_: VirtualNetwork) -> None:
        here = world(MemoryStream(there), Speaker(there), resolver=resolver)
        with pytest.raises(taps.EstablishmentError):
            await here.to(of_server()).initiate()
        (terms,) = resolver.terms
        assert (terms.secure, terms.alpn, terms.transports) == (False, (), {"memory/1": "speaker"})

    virtual_run(scenario)


def test_a_name_that_is_known_costs_no_task(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork
) -> None:
    class Known(Trickler):
        async def trickle(self, endpoint: Any, terms: Any) -> tuple[list[Any], Any]:
            return [endpoint.with_ip_address(FOUR)], None

    class Watching(MemoryStream):
        tasks = 0

        async def connect(self, request: Any) -> Any:
            Watching.tasks = len(asyncio.all_tasks())
            return await super().connect(request)

    async def scenario(_: VirtualNetwork) -> None:
        here = world(Watching(there), resolver=Known())
        async with here.listen(until_the_end, at=f"{FOUR}:7"):
            before = len(asyncio.all_tasks())
            async with here.to(of_server()).initiate():
                # Whoever waits for it does it.
                assert Watching.tasks == before

    virtual_run(scenario)


# -- on paths that were chosen


def tried(connection: taps.Connection[Any]) -> list[tuple[float, str, str]]:
    told = [each.as_json() for each in connection.report]
    return [
        (round(each["started"], 6), each["remote"].rpartition(":")[0].strip("[]"), each["local"])
        for each in told
    ]


@pytest.mark.requirement("R-9623-4.1.1.1-02", "R-9623-4.2.1-01")
@pytest.mark.parametrize(
    ("scripts", "dead", "expected"),
    [
        # AAAA late, on the better path: its turn comes beside that of the other path.
        (
            {
                "eth1_server": [(0.0, [FOUR]), (0.1, [SIX])],
                "eth2_server": [(0.0, [FOUR])],
            },
            [FOUR],
            [(0.0, FOUR, "eth1"), (0.25, SIX, "eth1"), (0.25, FOUR, "eth2")],
        ),
        # On the other one only: it goes before what waits there.
        (
            {
                "eth1_server": [(0.0, [FOUR])],
                "eth2_server": [(0.0, [OTHER_FOUR]), (0.1, [SIX])],
            },
            [FOUR, OTHER_FOUR],
            [(0.0, FOUR, "eth1"), (0.25, SIX, "eth2")],
        ),
        # The better path's answers are all late: they are waited for 50 ms.
        (
            {
                "eth1_server": [(0.2, [SIX])],
                "eth2_server": [(0.0, [FOUR])],
            },
            [FOUR],
            [(0.05, FOUR, "eth2"), (0.3, SIX, "eth1")],
        ),
    ],
    ids=["better path", "other path", "better path late"],
)
def test_what_comes_late_on_a_path_is_tried_from_there(
    virtual_run: VirtualRun,
    world: Any,
    there: MemoryNetwork,
    scripts: dict[str, Script],
    dead: list[str],
    expected: list[tuple[float, str, str]],
) -> None:
    resolver = Trickler(**scripts)
    machine = Machine(
        interface("eth1", "203.0.113.1", "2001:db8:1::1"),
        interface("eth2", "198.51.100.1", "2001:db8:2::1"),
    )

    async def scenario(_: VirtualNetwork) -> None:
        for address in dead:
            there.blackhole(address)
        here = world(
            MemoryStream(there),
            resolver=resolver,
            survey=machine,
            properties={"interface": {"eth1": "prefer"}},
        )
        async with (
            here.listen(until_the_end, at=[f"[{SIX}]:7", f"{FOUR}:7"]),
            here.to(of_server()).initiate() as connection,
        ):
            assert tried(connection) == expected
            (won,) = (each.as_json() for each in connection.report if each.outcome == "ready")
            assert won["remote"] == f"[{SIX}]:7"
            assert won["path"] == won["local"]
        assert resolver.open == 0

    virtual_run(scenario)


def test_a_path_without_name_servers_is_not_waited_for(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork
) -> None:
    wrong = taps.EstablishmentError(
        "eth1 does not lead there", reason=taps.Reason.RESOLUTION_FAILED
    )
    resolver = Trickler(eth1_server=[(0.0, wrong)], eth2_server=[(0.01, [SIX]), (5.0, [FOUR])])
    machine = Machine(
        interface("eth1", "203.0.113.1", "2001:db8:1::1"),
        interface("eth2", "198.51.100.1", "2001:db8:2::1"),
    )

    async def scenario(_: VirtualNetwork) -> None:
        here = world(
            MemoryStream(there),
            resolver=resolver,
            survey=machine,
            properties={"interface": {"eth1": "prefer"}},
        )
        async with (
            here.listen(until_the_end, at=f"[{SIX}]:7"),
            here.to(of_server()).initiate() as connection,
        ):
            assert tried(connection) == [(0.01, SIX, "eth2")]

    virtual_run(scenario)


@pytest.mark.requirement("R-9623-4.1.1.2-01")
def test_of_equal_paths_the_one_that_worked_lately_goes_first(
    virtual_run: VirtualRun, world: Any, there: MemoryNetwork
) -> None:
    resolver = Trickler(eth1_server=[(0.0, [FOUR])], eth2_server=[(0.0, [OTHER_FOUR])])
    machine = Machine(
        interface("lo", "127.0.0.1"),
        interface("eth1", "203.0.113.1"),
        interface("eth2", "198.51.100.1"),
    )
    machine.first = "eth1"
    better, other = (FOUR, "eth1"), (OTHER_FOUR, "eth2")

    async def scenario(_: VirtualNetwork) -> None:
        there.blackhole(FOUR)
        here = world(MemoryStream(there), resolver=resolver, survey=machine)

        async def paths(**wanted: str) -> list[tuple[str, str]]:
            properties = taps.TransportProperties(
                **here.properties, interface={"lo": "prohibit", **wanted}
            )
            async with here.to(of_server(), transport=properties).initiate() as connection:
                return [each[1:] for each in tried(connection)]

        async with here.listen(until_the_end, at=f"{OTHER_FOUR}:7"):
            # The system's own choice, for want of anything better.
            assert await paths() == [better, other]
            assert await paths() == [other]
            # What the application prefers goes before.
            assert await paths(eth1="prefer") == [better, other]
            here.system.cached.forget()
            assert await paths() == [better, other]

    virtual_run(scenario)
