"""The system's own resolver: it blocks, in threads that are bounded and that nobody waits for."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.errors import EstablishmentError
from taps_core.runtime.names import Names
from taps_core.runtime.system_names import SystemNames

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path
    from typing import TypeAlias

    Run: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(
    request: pytest.FixtureRequest,
) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    """Run a coroutine on each kind of loop; no task is left, though the loop's threads may be."""
    if request.param == "asyncio":
        factory = asyncio.new_event_loop
    else:
        factory = pytest.importorskip("uvloop").new_event_loop

    def runs(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def checked() -> None:
            async with asyncio.timeout(60):
                await main()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(checked())

    return runs


@pytest.fixture
def system() -> Iterator[System]:
    """A system whose resolver answers when it is told to; its threads end with the test."""
    system = System()
    yield system
    system.go_on.set()
    for _ in range(1000):
        if not threads():
            return
        time.sleep(0.01)
    pytest.fail("a thread is left")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "taps-names"]


class System:
    """``getaddrinfo``: a table of names, and names that take until ``go_on``."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.names: dict[str, list[str] | OSError] = {}
        self.asked: list[str] = []

    def getaddrinfo(self, name: str, port: None, **_: Any) -> list[Any]:
        self.asked.append(name)
        found = self.names.get(name)
        if found is None:
            self.go_on.wait(60)
            found = ["192.0.2.99"]
        if isinstance(found, OSError):
            raise found
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                _sockaddr(address),
            )
            for address in found
        ]


def _sockaddr(address: str) -> tuple[Any, ...]:
    plain, _, zone = address.partition("%")
    return (plain, 0, 0, int(zone or 0)) if ":" in address else (plain, 0)


def asking(system: System, tmp_path: Path, *, threads: int = 16, **options: Any) -> Names:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.7 box\n")
    asks = SystemNames(system.getaddrinfo, threads=threads)
    options = {"way": "system", **options}
    return Names(hosts_file=hosts, system=asks, **options)


def remote(name: str) -> RemoteEndpoint:
    return RemoteEndpoint(hostname=name, port=443)


def addresses(found: list[RemoteEndpoint]) -> list[str | None]:
    return [endpoint.ip_address for endpoint in found]


def test_its_order_stays_and_zones_too(run: Run, system: System, tmp_path: Path) -> None:
    system.names["printer.local"] = ["192.0.2.1", "fe80::1%7", "2001:db8::1", "192.0.2.1"]

    async def main() -> None:
        found = await asking(system, tmp_path).resolve(remote("Printer.local"))
        assert addresses(found) == ["192.0.2.1", "fe80::1", "2001:db8::1"]
        assert found[1].interface == "7"
        assert {it.hostname for it in found} == {"Printer.local"}

    run(main)


def test_the_hosts_file_is_looked_at_first(run: Run, system: System, tmp_path: Path) -> None:
    async def main() -> None:
        assert addresses(await asking(system, tmp_path).resolve(remote("box"))) == ["192.0.2.7"]
        assert system.asked == []

    run(main)


@pytest.mark.parametrize(
    ("error", "detail", "transient"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "no-such-name", False),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "server-failure", True),
        (socket.gaierror(socket.EAI_FAIL, "Non-recoverable failure"), "server-failure", True),
        (socket.gaierror(socket.EAI_MEMORY, "Out of memory"), "server-failure", True),
    ],
    ids=lambda value: str(value),
)
def test_what_it_says_is_told(
    run: Run, system: System, tmp_path: Path, error: OSError, detail: str, transient: bool
) -> None:
    system.names["x.example"] = error

    async def main() -> None:
        with pytest.raises(EstablishmentError) as caught:
            await asking(system, tmp_path).resolve(remote("x.example"))
        assert caught.value.detail == detail
        assert caught.value.transient is transient
        assert str(caught.value).startswith("x.example cannot be resolved: ")
        assert str(caught.value).endswith(", says the system's resolver")

    run(main)


def test_whoever_gives_up_is_free_at_once(run: Run, system: System, tmp_path: Path) -> None:
    async def main() -> None:
        resolver = asking(system, tmp_path)
        task = asyncio.ensure_future(resolver.resolve(remote("slow.example")))
        while not system.asked:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not system.go_on.is_set()

    run(main)


def test_its_time_is_limited(run: Run, system: System, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(EstablishmentError, match=r"no answer within 0\.05 s") as caught:
            await asking(system, tmp_path, timeout=0.05).resolve(remote("slow.example"))
        assert "the system's resolver" in str(caught.value)
        assert caught.value.detail == "timeout"
        assert caught.value.transient

    run(main)


def test_threads_are_bounded_and_the_others_take_turns(
    run: Run, system: System, tmp_path: Path
) -> None:
    async def main() -> None:
        resolver = asking(system, tmp_path, threads=3)
        tasks = [
            asyncio.ensure_future(resolver.resolve(remote(f"slow{i}.example"))) for i in range(20)
        ]
        while len(system.asked) < 3:
            await asyncio.sleep(0.001)
        assert len(threads()) == 3
        # Those that wait and are given up are never asked for.
        for task in tasks[10:]:
            task.cancel()
        await asyncio.wait(tasks[10:])
        system.go_on.set()
        found = await asyncio.gather(*tasks[:10])
        assert {addresses(each)[0] for each in found} == {"192.0.2.99"}
        assert len(system.asked) == 10

    run(main)


def test_a_crowd_is_told_of(run: Run, system: System, tmp_path: Path) -> None:
    async def main() -> None:
        resolver = asking(system, tmp_path, threads=1, timeout=0.1)
        first = asyncio.ensure_future(resolver.resolve(remote("slow.example")))
        while not system.asked:
            await asyncio.sleep(0.001)
        with pytest.raises(EstablishmentError, match="busy with 1 other name"):
            await resolver.resolve(remote("next.example"))
        await asyncio.wait([first])
        assert isinstance(first.exception(), EstablishmentError)

    run(main)


def test_a_loop_that_is_closed_meanwhile_does_no_harm(
    system: System, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(asking(system, tmp_path).resolve(remote("slow.example")))
        while not system.asked:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    system.go_on.set()
    while threads():
        time.sleep(0.001)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("nsswitch", "name", "asked"),
    [
        ("hosts: files mdns4_minimal [NOTFOUND=return] dns", "printer.local", True),
        ("hosts: files mdns4_minimal [NOTFOUND=return] dns", "printer.example", False),
        ("hosts: files resolve [!UNAVAIL=return] dns", "printer.example", True),
        ("hosts: files dns", "printer.local", False),
    ],
)
def test_nsswitch_says_when_it_is_asked(
    run: Run, system: System, tmp_path: Path, nsswitch: str, name: str, asked: bool
) -> None:
    file = tmp_path / "nsswitch.conf"
    file.write_text(nsswitch)
    nobody = tmp_path / "resolv.conf"
    nobody.write_text("")
    system.names[name] = ["192.0.2.1"]

    async def main() -> None:
        resolver = asking(system, tmp_path, way="auto", nsswitch_conf=file, resolv_conf=nobody)
        if asked:
            assert addresses(await resolver.resolve(remote(name))) == ["192.0.2.1"]
        else:
            with pytest.raises(EstablishmentError, match="no DNS server is configured"):
                await resolver.resolve(remote(name))
        assert bool(system.asked) is asked

    run(main)


def test_it_is_never_asked_where_dns_is_wanted(run: Run, system: System, tmp_path: Path) -> None:
    file = tmp_path / "nsswitch.conf"
    file.write_text("hosts: files resolve dns")
    nobody = tmp_path / "resolv.conf"
    nobody.write_text("")

    async def main() -> None:
        resolver = asking(system, tmp_path, way="dns", nsswitch_conf=file, resolv_conf=nobody)
        with pytest.raises(EstablishmentError, match="no DNS server is configured"):
            await resolver.resolve(remote("x.example"))
        assert system.asked == []

    run(main)
