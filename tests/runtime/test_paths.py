"""What is known of this machine's paths, and what leads where, without a network."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import taps_core as taps
from taps_core.model.paths import InterfaceType
from taps_core.plugin import bind_socket
from taps_core.runtime import netlink, survey
from taps_core.runtime.path_monitor import PathMonitor
from taps_core.runtime.paths import Paths
from tests.runtime.machines import LO, ONE, TWO, Machine, interface

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from taps_core.model.paths import Interface
    from taps_core.testing.fixtures import Run

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="netlink is Linux's")


def branches(
    machine: Machine,
    remotes: list[str],
    locals_: Sequence[taps.LocalEndpoint] = (),
    domains: Any = None,
    **wanted: dict[str, str],
) -> list[tuple[str, dict[str, list[str]]]]:
    paths = Paths(domains, survey=machine)
    properties = taps.TransportProperties(**wanted)  # type: ignore[arg-type]  # checked at run time
    asked = {name: properties.get(name) for name in ("interface", "pvd")}
    endpoints = [taps.RemoteEndpoint.parse(each) for each in remotes]
    found = paths.branches(dict.fromkeys(paths.chosen(asked), endpoints), locals_)
    return [
        (
            name,
            {
                str(remote): [f"{each.ip_address or '*'}%{each.interface}" for each in here]
                for remote, here in branch.items()
            },
        )
        for name, branch in found
    ]


def test_a_path_leads_to_what_its_interface_has_a_family_and_a_route_for() -> None:
    machine = Machine(LO, ONE, TWO)
    remotes = ["203.0.113.9:80", "[2001:db8:9::9]:80"]
    assert branches(machine, remotes, interface={"eth2": "prefer"}) == [
        ("eth2", {"203.0.113.9:80": ["*%eth2"]}),
        ("eth1", {"203.0.113.9:80": ["*%eth1"], "[2001:db8:9::9]:80": ["*%eth1"]}),
    ]
    machine.routes = {"eth2": set()}
    found = branches(machine, remotes, interface={"eth2": "prefer"})
    assert [name for name, _ in found] == ["eth1"]


def test_this_machine_itself_is_reached_by_loopback_and_by_nothing_else() -> None:
    machine = Machine(LO, ONE, TWO)
    for own in ("127.0.0.1:80", "198.51.100.1:80", "[::1]:80"):
        found = branches(machine, [own], interface={"eth2": "prefer"})
        assert found == [("lo", {own: ["*%lo"]})]


def test_of_equal_paths_the_systems_own_choice_goes_first() -> None:
    machine = Machine(LO, ONE, TWO)
    machine.first = "eth2"
    found = branches(machine, ["203.0.113.9:80"], interface={"loopback": "prohibit"})
    assert [name for name, _ in found] == ["eth2", "eth1"]


def test_a_zone_is_on_one_path() -> None:
    machine = Machine(ONE, interface("eth3", "fe80::3"))
    found = branches(machine, ["[fe80::9%eth3]:80"], interface={"eth1": "avoid"})
    assert found == [("eth3", {"[fe80::9%eth3]:80": ["*%eth3"]})]
    # Without one it may be on any.
    found = branches(machine, ["[fe80::9]:80"], interface={"eth1": "avoid"})
    assert [name for name, _ in found] == ["eth3", "eth1"]


def test_local_endpoints_are_on_the_path_that_has_their_address() -> None:
    machine = Machine(LO, ONE, TWO)
    by_address = taps.LocalEndpoint(ip_address="198.51.100.1", port=7)
    any_address = taps.LocalEndpoint(ip_address="0.0.0.0", port=7)
    remote = ["203.0.113.9:80"]
    wanted = {"loopback": "prohibit"}
    assert branches(machine, remote, [by_address], interface=wanted) == [
        ("eth2", {"203.0.113.9:80": ["198.51.100.1%eth2"]})
    ]
    assert branches(machine, remote, [any_address], interface=wanted) == [
        ("eth1", {"203.0.113.9:80": ["0.0.0.0%eth1"]}),
        ("eth2", {"203.0.113.9:80": ["0.0.0.0%eth2"]}),
    ]


def test_a_domain_has_its_addresses_and_no_others() -> None:
    machine = Machine(LO, interface("eth1", "192.0.2.1", "192.0.2.77", "2001:db8::77"))
    domains = {"lab": {"addresses": ["192.0.2.77", "2001:db8::77"]}}
    remotes = ["203.0.113.9:80", "[2001:db8:9::9]:80"]
    assert branches(machine, remotes, domains=domains, pvd={"lab": "require"}) == [
        (
            "lab on eth1",
            {
                "203.0.113.9:80": ["192.0.2.77%eth1"],
                "[2001:db8:9::9]:80": ["2001:db8::77%eth1"],
            },
        )
    ]
    elsewhere = [taps.LocalEndpoint(ip_address="192.0.2.1")]
    assert not branches(machine, remotes, elsewhere, domains=domains, pvd={"lab": "require"})


def test_domains_may_be_a_function_that_is_asked_each_time() -> None:
    machine = Machine(LO, ONE, TWO)
    known: dict[str, dict[str, Any]] = {}
    paths = Paths(lambda: known, survey=machine)
    asked = {
        "interface": frozenset(),
        "pvd": taps.TransportProperties().require(pvd="x").get("pvd"),
    }
    with pytest.raises(taps.NoCandidates, match="no such Provisioning Domain"):
        paths.chosen(asked)
    known["x"] = {"interfaces": ["eth2"]}
    assert [path.name for path in paths.chosen(asked)] == ["x on eth2"]


def test_domains_that_cannot_be_are_refused_at_once_or_when_they_are_asked_for(run: Run) -> None:
    wrong = {"x": {"interface": "eth2"}}
    with pytest.raises(ValueError, match="Provisioning Domain x: there is no 'interface'"):
        taps.System(provisioning_domains=wrong)
    system = taps.System(provisioning_domains=lambda: wrong, survey=Machine(LO))

    async def main() -> None:
        there = taps.Preconnection(
            remote="192.0.2.1:80",
            security=taps.SecurityParameters.disabled(),
            transport=taps.TransportProperties().prefer(pvd="x"),
            system=system,
        )
        with pytest.raises(taps.EstablishmentError, match="there is no 'interface'") as caught:
            await there.initiate()
        assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION

    run(main)


def test_the_network_is_the_same_until_prefixes_change() -> None:
    machine = Machine(LO, ONE)
    paths = Paths(survey=machine)
    before = paths.network
    machine.now = (LO, interface("eth1", "192.0.2.99", "2001:db8:1::9", "fe80::7"))
    paths.changed()
    assert paths.network == before
    machine.now = (LO, ONE, TWO)
    paths.changed()
    assert paths.network != before
    machine.now = (LO, ONE, interface("eth2", "198.51.100.1", up=False))
    paths.changed()
    assert paths.network == before


def test_what_interfaces_there_are_serves_for_as_long_as_it_took_to_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0

    class Slow(Machine):
        def interfaces(self) -> Sequence[Interface]:
            nonlocal now
            now += 0.25
            return self.now

    machine = Slow(LO)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr("taps_core.runtime.paths.of_this_machine", lambda: machine)
    paths = Paths()
    assert paths.interfaces() == (LO,)
    machine.now = (LO, ONE)
    now += 0.125
    assert paths.interfaces() == (LO,)
    now += 0.125
    assert paths.interfaces() == (LO, ONE)
    machine.now = (LO,)
    paths.changed()
    assert paths.interfaces() == (LO,)


def test_names_are_remembered_by_network() -> None:
    """An answer of one network is none on another (RFC 9623, section 9)."""
    machine = Machine(LO, ONE)
    system = taps.System(survey=machine)
    network = system.resolver._options["network"]  # type: ignore[attr-defined]  # the built-in one
    before = network()
    machine.now = (LO, TWO)
    assert network() == before  # for a second
    system.paths.changed()
    assert network() != before


# -- this machine


def test_what_needs_no_path_loads_nothing_of_it() -> None:
    program = """
import asyncio, sys
import taps_core as taps

async def main():
    plain = taps.SecurityParameters.disabled()
    async with taps.Preconnection(local="127.0.0.1:0", security=plain).listen() as listener:
        connection = taps.Preconnection(remote=listener.remote_endpoint, security=plain).initiate()
        connection.on(taps.Closed, print)
        async with connection:
            await connection.send(b"x")
            await listener.accept()

asyncio.run(main())
ours = [name for name in sys.modules if name.startswith("taps_core")]
print([name for name in ours if "path" in name or "netlink" in name or "survey" in name])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


#: Prints each import of pyroute2 on the loop's thread, and at the end whether there was one.
WATCHED = """
import asyncio, sys, threading
from importlib import abc
import taps_core as taps

class Watch(abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("pyroute2") and threading.current_thread() is threading.main_thread():
            print("on the loop:", name)

sys.meta_path.insert(0, Watch())
PLAIN = taps.SecurityParameters.disabled()

def there(listener, **more):
    return taps.Preconnection(remote=listener.remote_endpoint, security=PLAIN, **more)

def here(**more):
    return taps.Preconnection(local="127.0.0.1:0", security=PLAIN, **more).listen()

async def main():
{main}

if "uvloop" in sys.argv:
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
print("pyroute2" in sys.modules)
"""


def watched(main: str, *arguments: str) -> list[str]:
    program = WATCHED.replace("{main}", textwrap.indent(textwrap.dedent(main), "    "))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not done.stderr
    return done.stdout.splitlines()


def test_names_and_races_need_nobody_who_asks_the_kernel() -> None:
    main = """
        async with here() as listener:
            port = listener.local_endpoints[0].port
            remotes = [f"localhost:{port}", f"127.0.0.1:{port}"]
            preconnection = taps.Preconnection(remote=remotes, security=PLAIN)
            connection = await preconnection.initiate()
            assert len(taps.System.current().cached) > 0
            assert taps.System.current().paths.network is not None
            connection.abort()
    """
    assert watched(main) == ["False"]


@LINUX
@pytest.mark.parametrize(
    ("main", "loop"),
    [
        pytest.param(
            """
            asked = taps.TransportProperties().prefer(interface="lo")
            async with here() as listener:
                connection = await there(listener, transport=asked).initiate()
                assert connection.report[0].what.endswith(" from lo"), connection.report
                connection.abort()
            """,
            "asyncio",
            id="initiate",
        ),
        pytest.param(
            """
            asked = taps.TransportProperties().require(interface="lo")
            async with here(transport=asked) as listener:
                assert listener.local_endpoints[0].interface == "lo"
            """,
            "uvloop",
            id="listen",
        ),
        pytest.param(
            """
            async with here() as listener:
                connection = await there(listener).initiate()
                connection.on(taps.PathChange, print)
                monitor = taps.System.current().runtime().monitor
                while not monitor.watching:
                    await asyncio.sleep(0.01)
                connection.abort()
            """,
            "uvloop",
            id="watch",
        ),
        pytest.param(
            """
            async with here() as listener:
                connection = there(listener).initiate()
                connection.on(taps.PathChange, print)
                await connection
                assert taps.System.current().runtime().monitor.watching
                connection.abort()
            """,
            "asyncio",
            id="watch from Ready on",
        ),
        pytest.param(
            """
            async with here() as listener:
                connection = await there(listener).initiate()
                connection.on(taps.PathChange, print)
                while "pyroute2" not in sys.modules:  # it has begun
                    await asyncio.sleep(0)
                connection.abort()
            """,
            "asyncio",
            id="watch and end before it is there",
        ),
    ],
)
def test_who_asks_the_kernel_is_imported_off_the_loop(main: str, loop: str) -> None:
    assert watched(main, loop) == ["True"]


def test_without_pyroute2_paths_are_chosen_by_name_and_nothing_is_watched() -> None:
    main = """
        sys.modules["pyroute2"] = None
        asked = taps.TransportProperties().require(interface="lo")
        async with here() as listener:
            connection = there(listener, transport=asked).initiate()
            connection.on(taps.PathChange, print)
            await connection
            assert connection.report[0].what.endswith(" from lo"), connection.report
            assert not taps.System.current().runtime().monitor.watching
            connection.abort()
    """
    assert watched(main) == ["True"]  # the name is there, with nothing behind it


@LINUX
def test_the_kernel_tells_of_loopback() -> None:
    (lo,) = (each for each in netlink.NetlinkSurvey().interfaces() if each.name == "lo")
    assert lo.type is InterfaceType.LOOPBACK
    assert lo.up
    assert "127.0.0.1" in {each.address for each in lo.addresses or ()}
    assert lo.index == socket.if_nametoindex("lo")


class Answering:
    """A socket that gives one answer, whatever it is asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer: bytes | None = answer

    def send(self, data: bytes) -> None:
        pass

    def recv(self, size: int) -> bytes:
        answer, self.answer = self.answer, None
        if answer is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return answer


@LINUX
@given(st.sampled_from([2, 3, 16, 20, 24]), st.binary(max_size=200))
def test_an_answer_that_is_none_ends_in_an_error_or_is_passed_over(kind: int, body: bytes) -> None:
    answer = struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body
    sock: Any = Answering(answer)
    with contextlib.suppress(OSError):
        for each in netlink._ask(sock, netlink.ifinfmsg(), 18):
            assert each["header"]["type"] == kind


def test_without_netlink_there_are_names_and_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def __init__(self, family: int = -1, *rest: Any, **more: Any) -> None:
            if family == getattr(socket, "AF_NETLINK", None):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            super().__init__(family, *rest, **more)

    monkeypatch.setattr(socket, "socket", Refusing)
    survey.of_this_machine.cache_clear()
    try:
        found = survey.of_this_machine()
        assert isinstance(found, survey.PortableSurvey)
        (lo,) = (each for each in found.interfaces() if each.name.startswith("lo"))
        assert lo.type is InterfaceType.LOOPBACK
        assert lo.addresses is None
        assert found.notices() is None
    finally:
        survey.of_this_machine.cache_clear()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("wlp3s0", InterfaceType.WIFI),
        ("en0", InterfaceType.WIRED),
        ("utun3", InterfaceType.TUNNEL),
        ("wwan0", InterfaceType.CELLULAR),
        ("zt5u4y", InterfaceType.OTHER),
    ],
)
def test_a_type_is_guessed_by_the_usual_names(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: InterfaceType
) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(7, name)])
    (found,) = survey.PortableSurvey().interfaces()
    assert found.type is kind


@pytest.mark.parametrize(
    ("hardware", "kind", "expected"),
    [
        (1, "", InterfaceType.WIRED),
        (1, "veth", InterfaceType.WIRED),
        (1, "bridge", InterfaceType.WIRED),
        (1, "tun", InterfaceType.TUNNEL),
        (65534, "wireguard", InterfaceType.TUNNEL),
        (65534, "tun", InterfaceType.TUNNEL),
        (519, "wwan", InterfaceType.CELLULAR),
        (772, "", InterfaceType.LOOPBACK),
        (801, "", InterfaceType.WIFI),
        (512, "ppp", InterfaceType.OTHER),
    ],
)
def test_a_type_is_what_driver_and_hardware_say(
    hardware: int, kind: str, expected: InterfaceType
) -> None:
    assert netlink._type_of("nobody0", 99, hardware, kind) is expected


@pytest.mark.parametrize(
    ("said", "index", "expected"),
    [
        ("DEVTYPE=wlan\nINTERFACE=wlan0\nIFINDEX=3\n", 3, InterfaceType.WIFI),
        ("DEVTYPE=wwan\nINTERFACE=wwan0\nIFINDEX=3\n", 3, InterfaceType.CELLULAR),
        ("DEVTYPE=bond\nIFINDEX=3\n", 3, InterfaceType.WIRED),
        ("INTERFACE=eth0\nIFINDEX=3\n", 3, InterfaceType.WIRED),
        # Of another network, as in a container that sees its host's files.
        ("DEVTYPE=wlan\nINTERFACE=wlan0\nIFINDEX=3\n", 4, InterfaceType.WIRED),
    ],
)
def test_radios_look_like_ethernet_but_for_what_sysfs_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    index: int,
    expected: InterfaceType,
) -> None:
    (tmp_path / "any0").mkdir()
    (tmp_path / "any0" / "uevent").write_text(said)
    monkeypatch.setattr(netlink, "SYSFS", str(tmp_path))
    netlink._type_of.cache_clear()
    try:
        assert netlink._type_of("any0", index, 1, "") is expected
        assert netlink._type_of("gone0", index, 1, "") is InterfaceType.WIRED
    finally:
        netlink._type_of.cache_clear()


@LINUX
def test_where_a_device_takes_rights_an_address_of_it_is_bound_to() -> None:
    class Forbidding(socket.socket):
        def setsockopt(self, level: int, option: int, *value: Any) -> None:  # type: ignore[override]  # the one form in use
            if (level, option) == (socket.SOL_SOCKET, socket.SO_BINDTODEVICE):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            super().setsockopt(level, option, *value)

    there = netlink.NetlinkSurvey().interfaces()
    usable = [(each, each.sources("192.0.2.77")) for each in there if each.name != "lo"]
    for each, sources in usable:
        with Forbidding(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            local = taps.LocalEndpoint(interface=each.name)
            if sources:
                bind_socket(sock, local, socket.AF_INET)
                assert sock.getsockname()[0] == sources[0]
            else:
                with pytest.raises(taps.EstablishmentError, match="takes rights here"):
                    bind_socket(sock, local, socket.AF_INET)


# -- the monitor


class _Told:
    """As much of a Connection as the monitor sees."""

    state = taps.ConnectionState.ESTABLISHED

    def __init__(self, address: str) -> None:
        self._flow = self
        self.local_endpoint = taps.LocalEndpoint(ip_address=address)
        self.stack: list[str] = []
        self.application: list[str] = []

    def path_changed(self, event: taps.PathChange) -> None:
        self.stack.append(event.reason)

    def _notified(self, event: taps.PathChange) -> None:
        self.application.append(event.reason)


@contextlib.contextmanager
def monitored(machine: Machine, *told: Any) -> Any:
    monitor = PathMonitor(asyncio.get_running_loop(), Paths(survey=machine))
    try:
        for each in told:
            monitor.tell(each)
        yield monitor
    finally:
        monitor.close()
        for each in machine.sockets:
            each.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_stack_hears_of_every_change_and_the_application_of_its_own(run: Run) -> None:
    async def main() -> None:
        machine = Machine(LO, ONE, TWO)
        one, two = _Told("192.0.2.1"), _Told("198.51.100.1")
        with monitored(machine, one, two):
            machine.become(LO, ONE, interface("eth2", "198.51.100.1", "198.51.100.2"))
            await until(lambda: one.stack)
            assert one.stack == two.stack == ["eth2 has got 198.51.100.2"]
            assert not one.application
            assert not two.application
            machine.become(LO, ONE)
            await until(lambda: len(one.stack) == 3)
            assert two.application == ["eth2 has lost 198.51.100.1"]
            assert not one.application

    run(main)


def test_a_storm_of_notices_is_looked_at_a_few_times_a_second(run: Run) -> None:
    async def main() -> None:
        machine = Machine(LO, ONE)
        looks = 0
        interfaces = machine.interfaces

        def counted() -> Sequence[Interface]:
            nonlocal looks
            looks += 1
            return interfaces()

        machine.interfaces = counted  # type: ignore[method-assign]  # a test's eye
        with monitored(machine, _Told("192.0.2.1")):
            loop = asyncio.get_running_loop()
            began = loop.time()
            while loop.time() < began + 0.6:
                with contextlib.suppress(BlockingIOError):
                    for _ in range(50):
                        machine.sockets[-1].setblocking(False)
                        machine.sockets[-1].send(b"x")
                await asyncio.sleep(0.001)
            # One at the beginning, one soon after the first notice, then one each quarter.
            assert 2 <= looks <= 3 + (loop.time() - began) / 0.25

    run(main)


def test_it_watches_as_long_as_somebody_wants_to_know(run: Run) -> None:
    async def main() -> None:
        machine = Machine(LO, ONE)
        one, two = _Told("192.0.2.1"), _Told("192.0.2.1")
        with monitored(machine, one, two) as monitor:
            calls: list[int] = []
            changed = lambda: calls.append(1)  # noqa: E731  # a name for what is forgotten
            monitor.call(changed)
            monitor.forget(one)
            monitor.forget(two)
            assert monitor.watching
            machine.become(LO)
            await until(lambda: calls)
            monitor.forget(changed)
            assert not monitor.watching
            monitor.tell(one)
            assert monitor.watching

    run(main)


def test_where_nobody_gives_notice_nothing_is_watched(run: Run) -> None:
    class Silent(Machine):
        def notices(self) -> socket.socket | None:
            return None

    async def main() -> None:
        with monitored(Silent(LO), _Told("127.0.0.1")) as monitor:
            assert not monitor.watching

    run(main)
