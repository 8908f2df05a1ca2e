"""Hosts, and paths between them, on the kernel's network: with delay, with loss, or dead.

In the lab (tests marked ``lab``), and on the kernel of this machine, where it takes root's
rights: there loss and black holes are nftables', and delay and the rest take netem, which not
every kernel has. :data:`ON_BOTH` runs a test on either.

A host is a network namespace. Code is on a host inside ``with host.use()``, and so is all that
it starts there, tasks and callbacks, for as long as that lasts: the context (:mod:`contextvars`)
decides where a socket is opened. Words are those of
:class:`~taps_core.testing.VirtualNetwork`. ::

    @pytest.mark.lab
    def test_it_holds_on_a_long_path(run, two_hosts):
        two_hosts.path.set(latency=0.05, loss=0.2)

        async def main():
            with two_hosts.server.use():
                listener = await here.listen(echo)
            with two_hosts.client.use():
                connection = await there.initiate()

        run(main)
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar

import pytest

from taps_core.testing import Capture, KernelNetwork
from taps_core.testing.fixtures import missing
from taps_core.testing.kernel_network import OWN_NETWORK, PROGRAMS, inside

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from typing import ParamSpec, Self, Unpack

    P = ParamSpec("P")

__all__ = [
    "ON_BOTH",
    "ConditionKeywords",
    "Host",
    "Network",
    "Path",
    "Way",
    "two_hosts",
    "two_paths",
]

T = TypeVar("T")

_here: ContextVar[Host | None] = ContextVar("_here", default=None)

#: What depends on where it is called. uvloop opens sockets, and starts programs, without
#: these: give it sockets that exist, and start programs with ``subprocess``.
_DEPENDENT: Final = (
    (socket.socket, "__init__"),
    (socket, "if_nametoindex"),
    (socket, "if_indextoname"),
    (socket, "if_nameindex"),
    (subprocess.Popen, "__init__"),
)
_VERSIONS: Final = (4, 6)
_STARTER: Final = pathlib.Path(__file__).with_name("starter.py")
#: Whether this is the lab's guest.
_IN_LAB: Final = "TAPS_LAB" in os.environ
#: For a test that is to hold on this machine's kernel and on the lab's.
ON_BOTH: Final = pytest.mark.parametrize(
    "kernel", ["own", pytest.param("lab", marks=pytest.mark.lab)], indirect=True
)
#: Of IP versions: a filter's word; ``None``: for all.
_PROTOCOLS: Final = {4: "ip", 6: "ipv6", None: "all"}
#: Priority of the filter for all; those for one version have its number.
_EVERYTHING: Final = 1
#: Conditions that are probabilities, and netem's word.
_PROBABILITIES: Final = {
    "loss": "loss",
    "overtaking": "reorder",
    "duplicate": "duplicate",
    "corrupt": "corrupt",
}


class ConditionKeywords(TypedDict, total=False):
    """What a path is like, in one direction; as the fields of ``Conditions`` where named so."""

    latency: float
    """Seconds that a packet takes; exact within a millisecond."""
    jitter: float
    """Seconds that it may take in addition. Packets overtake each other then."""
    bandwidth: float
    """Bytes per second."""
    loss: float
    """Probability that a packet is lost."""
    overtaking: float
    """Probability that a packet takes no latency, and so overtakes those on their way."""
    duplicate: float
    """Probability that a packet arrives twice."""
    corrupt: float
    """Probability that a bit of a packet is turned. Sums that are wrong show it."""
    queue: int
    """Packets that are on their way or wait; what comes beyond is lost (10,000)."""


class Starter:
    """Starts programs in networks; a process that lasts as long as this one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-IS", str(_STARTER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": PROGRAMS},
        )
        atexit.register(self._end)

    def run(self, network: str, command: Sequence[str], text: str) -> str:
        """As :meth:`Host.run`, in a network that a file leads to."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"network": network, "command": command, "text": text}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        if not answer:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
        output, errors = answer["output"], answer["errors"]
        if answer["status"]:
            error = subprocess.CalledProcessError(answer["status"], command, output, errors)
            error.add_note(errors)
            raise error
        return str(output)

    def _end(self) -> None:
        self._process.communicate()


@functools.cache
def _starter() -> Starter:
    return Starter()


class Host:
    """A machine of its own, as far as the network goes.

    Attributes:
        name: For people.
        interfaces: Those that lead to others, each with its path.
        descriptor: Leads to its network, as :func:`taps_core.testing.kernel_network.inside`
            wants it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.interfaces: dict[str, Path] = {}
        with KernelNetwork():
            self.descriptor = os.open(OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        # An interface that is down for a while loses no address.
        self.sysctl("net/ipv6/conf/all/keep_addr_on_down", 1)
        # Nor does its link-local address take a second to be there.
        self.sysctl("net/ipv6/conf/default/accept_dad", 0)

    def __repr__(self) -> str:
        return f"<Host {self.name}>"

    @property
    def place(self) -> str:
        """A file that leads to its network, for programs such as ``ip`` and ``nsenter``."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextlib.contextmanager
    def use(self) -> Generator[Host]:
        """What opens sockets or starts programs in here does it on this host."""
        with _set(self):
            yield self

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that does not know of ``use`` while this thread is there."""
        with _set(None), inside(self.descriptor):
            return function(*args, **kwargs)

    def address(self, version: int = 4, path: int = 0) -> str:
        """Its address of IP version 4 or 6 on one of its paths."""
        return list(self.interfaces.values())[path].address(self, version)

    def ip(self, *commands: str) -> None:
        """Have the program ``ip`` do things there: ``host.ip("link set path1 down")``.

        Raises:
            subprocess.CalledProcessError: As :meth:`run`. What comes after the command that
                was refused was not done.
        """
        self.run("ip", "-batch", "-", text="\n".join(commands))

    def run(self, *command: str, text: str = "") -> str:
        """Run a program there until it ends, with ``text`` for its input; what it printed.

        Raises:
            FileNotFoundError: There is no such program.
            subprocess.CalledProcessError: It failed; its words are in ``stderr``.
        """
        return _starter().run(self.place, command, text)

    def sysctl(self, name: str, value: object) -> None:
        """Set one of the kernel's variables, ``"net/ipv4/tcp_fastopen"``, there."""
        self.call(pathlib.Path("/proc/sys", name).write_text, str(value))

    def capture(self, interface: str) -> Capture:
        """See every packet that arrives there from now on."""
        return self.call(Capture, interface)

    def close(self) -> None:
        """It ends with its last socket."""
        os.close(self.descriptor)


class Way:
    """One direction of a path."""

    def __init__(self, source: Host, interface: str) -> None:
        self._source = source
        self._interface = interface
        self._conditions: ConditionKeywords = {"latency": 0.0, "jitter": 0.0, "queue": 10_000}
        # Not laid before somebody wants it: a program takes 40 ms to start in the lab.
        self._first: list[str] = [
            f"qdisc add root handle 1: prio bands 2 priomap {'0 ' * 16}",
            "qdisc add parent 1:1 handle 10: netem",
            # For what a filter sends there.
            "qdisc add parent 1:2 handle 20: blackhole",
        ]

    def set(self, **conditions: Unpack[ConditionKeywords]) -> Self:
        """Change conditions for packets that are sent from now on; the others stay."""
        self._conditions |= conditions
        latency, jitter = self._conditions["latency"], self._conditions["jitter"]
        words = [
            f"limit {self._conditions['queue']}",
            # netem varies to both sides.
            f"delay {(latency + jitter / 2) * 1e6:.0f}us {jitter / 2 * 1e6:.0f}us",
        ]
        if "bandwidth" in self._conditions:
            words.append(f"rate {self._conditions['bandwidth'] * 8:.0f}bit")
        words += [
            f"{word} {self._conditions[name]:%}"
            for name, word in _PROBABILITIES.items()
            if name in self._conditions
        ]
        self._tc(f"qdisc change parent 1:1 handle 10: netem {' '.join(words)}")
        return self

    def drop(self, version: int | None = None) -> None:
        """Lose all packets from now on, or all of one IP version; nobody is told."""
        priority = version or _EVERYTHING
        self._tc(
            f"filter replace parent 1: protocol {_PROTOCOLS[version]} prio {priority} "
            f"handle 800::{priority} u32 match u32 0 0 flowid 1:2"
        )

    def pass_on(self) -> None:
        """Lose no more than the conditions say."""
        if not self._first:
            self._tc("filter del parent 1:")

    def _tc(self, *commands: str) -> None:
        lines = []
        for command in (*self._first, *commands):
            kind, action, rest = command.split(maxsplit=2)
            lines.append(f"{kind} {action} dev {self._interface} {rest}")
        self._source.run("tc", "-batch", "-", text="\n".join(lines))
        self._first.clear()


class FilteredWay(Way):
    """One direction of a path on a kernel that need not have netem.

    What is dropped is dropped where it arrives: a sender would be told.
    """

    def __init__(self, source: Host, interface: str, target: Host) -> None:
        super().__init__(source, interface)
        self._target = target
        self._dropped: dict[int | None, None] = {}
        self._loss = 0.0

    def set(self, **conditions: Unpack[ConditionKeywords]) -> Self:
        """As :meth:`Way.set`; anything but loss takes netem.

        The test is skipped where there is none, or fails if TAPS_REQUIRE names ``netem``.
        """
        self._loss = conditions.pop("loss", self._loss)
        self._filter()
        if any(conditions.values()):
            try:
                super().set(**conditions)
            except subprocess.CalledProcessError as error:
                if "qdisc kind is unknown" not in error.stderr:
                    raise
                missing("netem", "this kernel has no netem: mark the test lab")
        return self

    def drop(self, version: int | None = None) -> None:
        """As :meth:`Way.drop`."""
        self._dropped[version] = None
        self._filter()

    def pass_on(self) -> None:
        """As :meth:`Way.pass_on`."""
        self._dropped.clear()
        self._filter()

    def _filter(self) -> None:
        table = f"inet lab_{self._interface}"
        arrived = f'iifname "{self._interface}"'
        family = {4: "meta nfproto ipv4", 6: "meta nfproto ipv6", None: ""}
        rules = [f"{arrived} {family[version]} drop" for version in self._dropped]
        if self._loss:
            share = round(self._loss * 1_000_000)
            rules.append(f"{arrived} numgen random mod 1000000 < {share} drop")
        chain = ["chain arriving {", "type filter hook prerouting priority -300;", *rules, "}"]
        # Made first, as it can only be deleted if it is there.
        lines = [f"table {table}", f"delete table {table}", f"table {table} {{", *chain, "}"]
        self._target.run("nft", "-f", "-", text="\n".join(lines) + "\n")


class Path:
    """A cable between two hosts, with an interface at each that has its name.

    Each end has an address of either IP version, and knows the other's hardware address: the
    first packet takes no longer than others. TCP sends one segment in a packet. Datagrams that
    were sent as one batch (UDP_SEGMENT) are divided only behind the conditions: they are lost,
    and late, together.

    Attributes:
        name: Also of the interfaces.
        there: The direction from the first host to the second.
        back: The other one.
    """

    def __init__(self, number: int, one: Host, other: Host) -> None:
        self.name = f"path{number}"
        self._number = number
        self._ends = (one, other)
        laid = f"link add {self.name} type veth peer name {self.name} netns {other.place}"
        for host, first in ((one, [laid]), (other, [])):
            host.interfaces[self.name] = self
            host.ip(
                *first,
                f"link set {self.name} address {self._hardware(host)} gso_max_segs 1",
                f"addr add {self.address(host, 4)}/24 dev {self.name}",
                f"addr add {self.address(host, 6)}/64 dev {self.name} nodad",
                *self._raised(host),
            )
        self._more: dict[Host, list[str]] = {one: [], other: []}
        self._is_down = False
        if _IN_LAB:
            self.there, self.back = Way(one, self.name), Way(other, self.name)
        else:
            self.there = FilteredWay(one, self.name, other)
            self.back = FilteredWay(other, self.name, one)

    def __repr__(self) -> str:
        return f"<Path {self.name}: {self._ends[0].name} and {self._ends[1].name}>"

    def address(self, host: Host, version: int = 4) -> str:
        """Of one of the two hosts on this path, of IP version 4 or 6."""
        end = self._ends.index(host) + 1
        if version == 4:
            return f"10.0.{self._number}.{end}"
        return f"2001:db8:0:{self._number:x}::{end}"

    def set(self, **conditions: Unpack[ConditionKeywords]) -> Self:
        """Change conditions in both directions."""
        self.there.set(**conditions)
        self.back.set(**conditions)
        return self

    def down(self) -> None:
        """Pull the cable: nothing gets through, and the hosts see it."""
        self._is_down = True
        for host in self._ends:
            host.ip(f"link set {self.name} down")

    def blackhole(self, version: int | None = None) -> None:
        """Nothing gets through from now on, or nothing of one IP version, and nobody is told."""
        self.there.drop(version)
        self.back.drop(version)

    def up(self) -> None:
        """What is sent from now on gets through."""
        for host in self._ends:
            host.ip(*self._raised(host))
        self._is_down = False
        for host in self._ends:
            for command in self._more[host]:
                host.run("ip", *command.split())
        self.there.pass_on()
        self.back.pass_on()

    def route(self, host: Host, target: str) -> None:
        """Let one of the two hosts reach ``target`` by the other one; later paths count less."""
        version = 6 if ":" in target else 4
        peer = self._ends[1 - self._ends.index(host)]
        command = (
            f"-{version} route replace {target} via {self.address(peer, version)} "
            f"dev {self.name} onlink metric {self._number}"
        )
        # Routes go with an interface that goes down.
        self._more[host].append(command)
        if not self._is_down:
            host.run("ip", *command.split())

    def introduce(self, host: Host, address: str) -> None:
        """Let the other host know whose a further address is: asking takes a second at first."""
        peer = self._ends[1 - self._ends.index(host)]
        hardware = self._hardware(host)
        peer.ip(f"neigh replace {address} dev {self.name} lladdr {hardware} nud permanent")

    def _hardware(self, host: Host) -> str:
        return f"02:00:00:00:{self._number:02x}:{self._ends.index(host) + 1:02x}"

    def _raised(self, host: Host) -> list[str]:
        """What brings an end up. An interface that goes down forgets whom it knew."""
        peer = self._ends[1 - self._ends.index(host)]
        return [
            f"link set {self.name} up",
            *(
                f"neigh replace {self.address(peer, version)} dev {self.name} "
                f"lladdr {self._hardware(peer)} nud permanent"
                for version in _VERSIONS
            ),
        ]


class Network:
    """Hosts and paths, as a context manager; the first two hosts are ``client`` and ``server``.

    Attributes:
        client: A host.
        server: Another one.
        paths: In the order in which they were laid.
    """

    def __init__(self) -> None:
        self.client = Host("client")
        self.server = Host("server")
        self.paths: list[Path] = []
        self._more: list[Host] = []
        self._before: list[Any] = []

    @property
    def path(self) -> Path:
        """The first one."""
        return self.paths[0]

    def host(self, name: str) -> Host:
        """A further host."""
        host = Host(name)
        self._more.append(host)
        return host

    def lay(self, one: Host | None = None, other: Host | None = None) -> Path:
        """A further path, between client and server unless others are named."""
        path = Path(len(self.paths) + 1, one or self.client, other or self.server)
        self.paths.append(path)
        return path

    def shared_address(self, version: int = 4) -> str:
        """An address of the server's that all paths to it lead to, the first one by default."""
        address = "10.0.0.80" if version == 4 else "2001:db8::80"
        at_once = ("nodad",) if version == 6 else ()
        self.server.run("ip", f"-{version}", "addr", "replace", address, "dev", "lo", *at_once)
        for path in self.paths:
            path.route(self.client, address)
        return address

    def __enter__(self) -> Self:
        for owner, name in _DEPENDENT:
            function = getattr(owner, name)
            self._before.append(function)
            setattr(owner, name, _on_host(function))
        return self

    def __exit__(self, *raised: object) -> None:
        for (owner, name), function in zip(_DEPENDENT, self._before, strict=True):
            setattr(owner, name, function)
        for host in (self.client, self.server, *self._more):
            host.close()


@contextlib.contextmanager
def _set(host: Host | None) -> Generator[None]:
    token = _here.set(host)
    try:
        yield
    finally:
        _here.reset(token)


def _on_host(function: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        host = _here.get()
        return function(*args, **kwargs) if host is None else host.call(function, *args, **kwargs)

    return called


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> str:
    """Of :data:`ON_BOTH`: whose kernel it is, ``"own"`` or ``"lab"``."""
    return str(request.param)


@pytest.fixture
def two_hosts() -> Iterator[Network]:
    """``client`` and ``server``, and one path between them.

    In the lab, or on this machine's kernel: there a test without the rights, or without the
    programs, is skipped, or fails if TAPS_REQUIRE names ``kernel-network``.
    """
    if not _IN_LAB:
        for program in ("ip", "nft"):
            if shutil.which(program, path=PROGRAMS) is None:
                missing("kernel-network", f"{program} is not installed")
        try:
            with KernelNetwork():
                pass
        except (OSError, AttributeError) as error:  # of another system, too
            missing("kernel-network", f"no network of its own without root's rights ({error})")
    with Network() as network:
        network.lay()
        yield network


@pytest.fixture
def two_paths(two_hosts: Network) -> Network:
    """``client`` and ``server``, and two paths between them; else as ``two_hosts``."""
    two_hosts.lay()
    return two_hosts
