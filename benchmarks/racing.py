"""How long a Connection takes on broken networks, beside asyncio's and aiohappyeyeballs' races.

``python -m benchmarks.racing --lab`` boots the lab (user-mode Linux) and measures inside, with a
round trip of 40 ms. Without ``--lab`` it uses this machine's kernel, which takes root's rights and
has no round trip to speak of. Two hosts, IPv4 and IPv6 between them; names are known already.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import statistics
import sys
import tempfile
from importlib import import_module
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from benchmarks.harness import LOOPS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from typing import TypeAlias

    #: tests.lab.network.Network. The lab belongs to the tests, which are not type-checked.
    Network: TypeAlias = Any
    Infos: TypeAlias = list[tuple[Any, ...]]
    Contender: TypeAlias = Callable[[Infos], Awaitable[float]]

__all__ = ["CONTENDERS", "SITUATIONS", "Figure", "main", "measure"]

PORT: Final = 7000
#: Connection Attempt Delay of all contenders (RFC 8305).
DELAY: Final = 0.250
#: Seconds that ours may take longer than another.
MORE: Final = 0.010
#: Seconds one way, where the kernel can delay.
LATENCY: Final = 0.020


@dataclasses.dataclass(frozen=True, kw_only=True)
class Situation:
    """What is broken, and how long ours may take, in round trips and seconds besides."""

    name: str
    budget: tuple[float, float]
    blackhole: bool = False
    """Whether nothing gets through over IPv6."""
    refused: bool = False
    """Whether nobody listens at the IPv6 address."""
    unreachable: bool = False
    """Whether this host itself knows that nothing leads to the IPv6 address."""


SITUATIONS: Final = (
    Situation(name="healthy", budget=(1, 0.030)),
    Situation(name="IPv6 is a black hole", budget=(1, DELAY + 0.030), blackhole=True),
    # The peer's refusal is a round trip by itself, before the one that is asked for.
    Situation(name="IPv6 is refused at once", budget=(1, 0.020), unreachable=True),
    Situation(name="IPv6 is refused", budget=(2, 0.020), refused=True),
)


async def taps(infos: Infos) -> float:
    """Ours, with all that it does besides, but what it has learned: nobody else would race."""
    from taps_core import Preconnection, RemoteEndpoint, SecurityParameters, System

    System.current().cached.forget()
    there = Preconnection(
        remote=[RemoteEndpoint(ip_address=info[4][0], port=info[4][1]) for info in infos],
        security=SecurityParameters.disabled(),
    )
    begin = perf_counter()
    connection = await there.initiate()
    took = perf_counter() - begin
    connection.abort()
    return took


async def asyncio_streams(infos: Infos) -> float:
    """asyncio's own, which resolves names itself: it is given the answer."""
    loop = asyncio.get_running_loop()

    async def getaddrinfo(*_: Any, **__: Any) -> Infos:
        return infos

    loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]  # this loop's alone
    begin = perf_counter()
    _, writer = await asyncio.open_connection(
        "server.example", PORT, happy_eyeballs_delay=DELAY, interleave=1
    )
    took = perf_counter() - begin
    writer.transport.abort()
    return took


async def aiohappyeyeballs(infos: Infos) -> float:
    """What aiohttp uses."""
    from aiohappyeyeballs import start_connection

    begin = perf_counter()
    connected = await start_connection(infos, happy_eyeballs_delay=DELAY, interleave=1)
    _, writer = await asyncio.open_connection(sock=connected)
    took = perf_counter() - begin
    writer.transport.abort()
    return took


#: Name → contender, and whether it is one on uvloop, too: asyncio's race is of its own loop,
#: and uvloop's sockets cannot be put onto a host.
CONTENDERS: Final[dict[str, tuple[Contender, bool]]] = {
    "taps": (taps, True),
    "asyncio": (asyncio_streams, False),
    "aiohappyeyeballs": (aiohappyeyeballs, True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table; times in seconds."""

    situation: str
    contender: str
    loop: str
    median: float
    quartiles: tuple[float, float]
    budget: float | None
    """At most so much, of ours."""

    @property
    def met(self) -> bool:
        """Whether the budget is kept."""
        return self.budget is None or self.median <= self.budget


@contextlib.asynccontextmanager
async def listening(network: Network, situation: Situation) -> AsyncIterator[Infos]:
    """A server, and the addresses that the client is told."""
    server = network.server
    doors = []
    infos: Infos = []
    for version, family in ((6, socket.AF_INET6), (4, socket.AF_INET)):
        address = server.address(version)
        where = (address, PORT, 0, 0) if version == 6 else (address, PORT)
        infos.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where))
        if version == 6 and situation.refused:
            continue
        with server.use():
            door = socket.create_server(where, family=family, backlog=128)
        loop = asyncio.get_running_loop()
        doors.append(await loop.create_server(asyncio.Protocol, sock=door))
    try:
        yield infos
    finally:
        for each in doors:
            each.close()


async def _runs(
    network: Network, situation: Situation, contenders: Sequence[str], runs: int
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    async with listening(network, situation) as infos:
        with network.client.use():
            for number in range(-1, runs):
                # In turns that swap; the first one fills caches.
                turn = number % len(contenders)
                for name in (*contenders[turn:], *contenders[:turn]):
                    took = await CONTENDERS[name][0](infos)
                    if number >= 0:
                        times[name].append(took)
    return times


def round_trip(network: Network, runs: int) -> float:
    """Seconds that the kernel alone takes to connect: kernels delay by ticks of their clock."""
    where = (network.server.address(4), PORT)
    times = []
    with network.server.use():
        door = socket.create_server(where, backlog=128)
    with door, network.client.use():
        for _ in range(runs):
            begin = perf_counter()
            with socket.create_connection(where):
                times.append(perf_counter() - begin)
    return statistics.median(times)


def measure(network: Network, *, loops: Sequence[str], runs: int) -> Iterator[Figure]:
    """Each figure as soon as it is there.

    Args:
        network: Client and server, and a path.
        loops: Names of event loops.
        runs: Of each contender in each situation.
    """
    trip = round_trip(network, runs)
    yield Figure(
        situation="healthy",
        contender="plain socket",
        loop="none",
        median=trip,
        quartiles=(trip, trip),
        budget=None,
    )
    for loop in loops:
        contenders = [
            name for name, (_, anywhere) in CONTENDERS.items() if anywhere or loop == "asyncio"
        ]
        for situation in SITUATIONS:
            if situation.blackhole:
                network.path.blackhole(6)
            nowhere = f"route {{}} unreachable {network.server.address(6)}/128"
            if situation.unreachable:
                network.client.ip(nowhere.format("add"))
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                times = runner.run(_runs(network, situation, contenders, runs))
            network.path.up()
            if situation.unreachable:
                network.client.ip(nowhere.format("del"))
            trips, besides = situation.budget
            least = min(statistics.median(times[name]) for name in contenders if name != "taps")
            for name in contenders:
                low, median, high = statistics.quantiles(times[name], n=4)
                budget = min(trips * trip + besides, least + MORE)
                yield Figure(
                    situation=situation.name,
                    contender=name,
                    loop=loop,
                    median=median,
                    quartiles=(low, high),
                    budget=budget if name == "taps" else None,
                )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.racing", description=__doc__)
    parser.add_argument("--lab", action="store_true", help="in user-mode Linux, with delay")
    parser.add_argument("--loop", action="append", choices=LOOPS, help="repeatable; all")
    parser.add_argument("--runs", type=int, default=20, help="of each (default: 20)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures here")
    arguments = parser.parse_args()
    if arguments.lab and "TAPS_LAB" not in os.environ:
        return _in_lab(arguments)
    figures = []
    with import_module("tests.lab.network").Network() as network:
        network.lay()
        if arguments.lab:
            network.path.set(latency=LATENCY)
        print(f"{'situation':24}{'contender':20}{'loop':10}{'median':>10}  quartiles")
        for figure in measure(network, loops=arguments.loop or list(LOOPS), runs=arguments.runs):
            figures.append(figure)
            low, high = (1000 * each for each in figure.quartiles)
            print(
                f"{figure.situation:24}{figure.contender:20}{figure.loop:10}"
                f"{1000 * figure.median:7.1f} ms  {low:.1f} to {high:.1f}"
                + ("" if figure.met else f"  missed: {1000 * (figure.budget or 0):.1f}"),
                flush=True,
            )
    if arguments.json is not None:
        rows = [{**dataclasses.asdict(each), "met": each.met} for each in figures]
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(not all(figure.met for figure in figures))


def _in_lab(arguments: argparse.Namespace) -> int:
    machine = import_module("tests.lab.machine")
    if sentence := machine.missing():
        print(sentence, file=sys.stderr)
        return int(machine.NO_GUEST)
    with tempfile.TemporaryDirectory(prefix="taps-lab-") as results:
        written = pathlib.Path(results, "racing.json")
        status = machine.run(
            [
                *(sys.executable, "-m", "benchmarks.racing", "--lab"),
                *("--runs", str(arguments.runs), "--json", str(written)),
                *(word for loop in arguments.loop or () for word in ("--loop", loop)),
            ],
            pathlib.Path(results),
            sys.stdout.buffer,
            memory="512M",
            modules=machine.MODULES,
            timeout=600,
        )
        if arguments.json is not None and written.exists():
            arguments.json.write_text(written.read_text())
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
