"""The lab does what it says: SCTP opens, delay delays, loss loses, dead paths are dead."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lab.network import Host, Network

pytestmark = pytest.mark.lab
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
SCTP = 132
#: Seconds that a packet may take on its way without any latency, on a busy machine.
SOON = 5.0


def opened(host: Host, version: int = 4, path: int = 0) -> socket.socket:
    """A datagram socket with an address of the host's."""
    with host.use():
        sock = socket.socket(FAMILIES[version], socket.SOCK_DGRAM)
    sock.bind((host.address(version, path), 0))
    sock.settimeout(SOON)
    return sock


@contextlib.contextmanager
def ends(network: Network, version: int = 4, path: int = 0):
    with (
        opened(network.client, version, path) as here,
        opened(network.server, version, path) as there,
    ):
        here.connect(there.getsockname())
        there.connect(here.getsockname())
        yield here, there


def arrives(here: socket.socket, there: socket.socket, within: float = 0.3) -> bool:
    there.settimeout(within)
    here.send(b"x")
    with contextlib.suppress(TimeoutError):
        return there.recv(1) == b"x"
    return False


@VERSIONS
def test_an_sctp_message_goes_from_host_to_host(two_hosts: Network, version: int) -> None:
    with two_hosts.server.use(), socket.socket(FAMILIES[version], socket.SOCK_STREAM, SCTP) as door:
        door.bind((two_hosts.server.address(version), 0))
        door.listen()
        with (
            two_hosts.client.use(),
            socket.socket(FAMILIES[version], socket.SOCK_STREAM, SCTP) as client,
        ):
            client.connect(door.getsockname())
            client.send(b"hello")
            accepted, peer = door.accept()
            with accepted:
                assert accepted.recv(100) == b"hello"
                assert peer[0] == two_hosts.client.address(version)


@VERSIONS
def test_latency_is_what_a_packet_takes(two_hosts: Network, version: int) -> None:
    two_hosts.path.set(latency=0.1)
    with ends(two_hosts, version) as (here, there):
        began = time.monotonic()
        here.send(b"ping")
        there.send(there.recv(10))
        assert here.recv(10) == b"ping"
        # From the first packet on: nobody is asked for addresses before.
        assert 0.2 <= time.monotonic() - began < 0.2 + SOON


def test_latency_may_be_of_one_direction(two_hosts: Network) -> None:
    two_hosts.path.there.set(latency=0.1)
    with ends(two_hosts) as (here, there):
        began = time.monotonic()
        here.send(b"ping")
        there.send(there.recv(10))
        assert here.recv(10) == b"ping"
        assert 0.1 <= time.monotonic() - began < 0.1 + SOON


def test_loss_loses_as_many_as_it_says(two_hosts: Network) -> None:
    two_hosts.path.there.set(loss=0.2)
    with two_hosts.server.capture("path1") as capture, ends(two_hosts) as (here, _):
        for _ in range(2000):
            here.send(b"x")
        # Six standard deviations to each side.
        assert 1493 <= len(capture.look(lambda packet: packet.payload == b"x")) <= 1707


def test_conditions_stay_until_they_are_changed(two_hosts: Network) -> None:
    two_hosts.path.set(loss=1.0)
    two_hosts.path.set(latency=0.001)
    with ends(two_hosts) as (here, there):
        assert not arrives(here, there)
        two_hosts.path.set(loss=0.0)
        assert arrives(here, there, SOON)


def test_bandwidth_holds_back(two_hosts: Network) -> None:
    two_hosts.path.set(bandwidth=100_000)
    with ends(two_hosts) as (here, there):
        began = time.monotonic()
        for _ in range(30):
            here.send(bytes(1000))
        for _ in range(30):
            there.recv(1000)
        assert 0.28 <= time.monotonic() - began < 0.3 + SOON


def test_duplicates_arrive_twice_and_overtaking_changes_the_order(two_hosts: Network) -> None:
    with ends(two_hosts) as (here, there):
        two_hosts.path.set(duplicate=1.0)
        here.send(b"x")
        assert (there.recv(1), there.recv(1)) == (b"x", b"x")
        two_hosts.path.set(duplicate=0.0, latency=0.1, overtaking=0.5)
        numbers = [bytes([number]) for number in range(100)]
        for number in numbers:
            here.send(number)
        got = [there.recv(1) for _ in numbers]
        assert got != numbers
        assert sorted(got) == numbers


@VERSIONS
def test_of_a_black_hole_nobody_is_told(two_hosts: Network, version: int) -> None:
    with ends(two_hosts, version) as (here, there):
        two_hosts.path.blackhole()
        assert not arrives(here, there)
        assert not arrives(there, here)
        two_hosts.path.up()
        assert arrives(here, there, SOON)
        assert arrives(there, here, SOON)


@VERSIONS
def test_a_black_hole_may_be_of_one_ip_version(two_hosts: Network, version: int) -> None:
    two_hosts.path.blackhole(version)
    with ends(two_hosts, 4) as four, ends(two_hosts, 6) as six:
        assert arrives(*four) == (version == 6)
        assert arrives(*six) == (version == 4)
        two_hosts.path.up()
        assert arrives(*four, SOON)
        assert arrives(*six, SOON)


@VERSIONS
def test_a_path_that_is_down_is_seen_to_be_and_comes_back(two_hosts: Network, version: int) -> None:
    with ends(two_hosts, version) as (here, there):
        two_hosts.path.down()
        with pytest.raises(OSError, match="unreachable"):
            here.send(b"x")
        two_hosts.path.up()
        assert arrives(here, there, SOON)
        assert arrives(there, here, SOON)


@VERSIONS
def test_paths_die_each_for_itself(two_paths: Network, version: int) -> None:
    with ends(two_paths, version, 0) as first, ends(two_paths, version, 1) as second:
        two_paths.paths[0].blackhole()
        assert not arrives(*first)
        assert arrives(*second, SOON)
        with two_paths.server.capture("path2") as capture:
            assert arrives(*second, SOON)
            assert [packet.payload for packet in capture.look()] == [b"x"]


def test_hosts_do_not_see_each_other_without_a_path(two_hosts: Network) -> None:
    island = two_hosts.host("island")
    with island.use(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(OSError, match="unreachable"):
            sock.sendto(b"x", (two_hosts.server.address(), 9))
        two_hosts.lay(two_hosts.server, island)
        assert two_hosts.server.address(path=1) == "10.0.2.1"
        sock.sendto(b"x", ("10.0.2.1", 9))
