"""hosts, resolv.conf and nsswitch.conf: what they say, and whatever else may stand in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.model.endpoints import canonical_address
from taps_core.runtime.name_files import (
    Configuration,
    WatchedFile,
    is_the_systems,
    parse_hosts,
    parse_nsswitch,
    parse_resolv_conf,
)

if TYPE_CHECKING:
    from pathlib import Path

# -- resolv.conf


def test_resolv_conf_says_whom_to_ask_and_how() -> None:
    text = """
        ; a comment
        # another
        nameserver 192.0.2.53
        nameserver fe80::53%eth0
        nameserver ns.example
        nameserver
        nameserver 192.0.2.53
        domain old.example
        search Corp.Example. sub.corp.example corp.example .
        options ndots:2 timeout:5 attempts:9 rotate edns0 unknown:x
    """
    assert parse_resolv_conf(text) == Configuration(
        nameservers=("192.0.2.53", "fe80::53%eth0"),
        search=("corp.example", "sub.corp.example"),
        ndots=2,
        timeout=5.0,
        rotate=True,
    )


@pytest.mark.parametrize(
    ("options", "ndots", "timeout"),
    [
        ("", 1, 2.0),
        ("options ndots:99 timeout:99999999999999999999", 15, 30.0),
        ("options ndots:0 timeout:0", 0, 1.0),
        ("options ndots:-1 timeout:x", 1, 2.0),
        ("options ndots: timeout", 1, 2.0),
    ],
)
def test_options_stay_within_bounds(options: str, ndots: int, timeout: float) -> None:
    found = parse_resolv_conf(options)
    assert (found.ndots, found.timeout) == (ndots, timeout)


def test_no_more_name_servers_than_the_c_library_asks() -> None:
    text = "".join(f"nameserver 192.0.2.{number}\n" for number in range(9))
    assert len(parse_resolv_conf(text).nameservers) == 3


@pytest.mark.parametrize(
    ("name", "ndots", "expected"),
    [
        ("db", 1, ["db.a.example.", "db.b.example.", "db."]),
        ("DB.", 1, ["db."]),
        ("www.x", 1, ["www.x.", "www.x.a.example.", "www.x.b.example."]),
        ("www.x", 2, ["www.x.a.example.", "www.x.b.example.", "www.x."]),
        ("db", 0, ["db.", "db.a.example.", "db.b.example."]),
        (".", 1, ["."]),
    ],
)
def test_short_names_are_completed(name: str, ndots: int, expected: list[str]) -> None:
    configuration = Configuration(search=("a.example", "b.example"), ndots=ndots)
    assert list(configuration.names(name)) == expected


WORDS = st.sampled_from(
    ["nameserver", "search", "domain", "options", "ndots:3", "192.0.2.1", "::1", "fe80::1%", "#"]
)
LINES = st.lists(st.lists(WORDS | st.text(max_size=8), max_size=5).map(" ".join)).map("\n".join)


@given(LINES | st.text())
def test_whatever_stands_in_resolv_conf_something_comes_of_it(text: str) -> None:
    found = parse_resolv_conf(text)
    assert len(found.nameservers) <= 3
    for server in found.nameservers:
        assert canonical_address(server.partition("%")[0]) is not None
    assert 0 <= found.ndots <= 15
    assert 1 <= found.timeout <= 30
    for name in found.names("www.example"):
        assert name.endswith(".")
        assert not any(blank in name for blank in " \t\n")


# -- hosts

HOSTS_WORDS = st.sampled_from(["127.0.0.1", "::1", "a", "B.", "#", "x y"]) | st.text(max_size=8)


@given(st.lists(st.lists(HOSTS_WORDS, max_size=5).map(" ".join)).map("\n".join))
def test_whatever_stands_in_hosts_only_addresses_come_of_it(text: str) -> None:
    for name, addresses in parse_hosts(text, limit=4).items():
        assert name == name.lower()
        assert 0 < len(addresses) <= 4
        assert len(set(addresses)) == len(addresses)
        for address in addresses:
            assert canonical_address(address.partition("%")[0]) is not None


# -- nsswitch.conf


@pytest.mark.parametrize(
    ("text", "services"),
    [
        ("", ("files", "dns")),
        ("passwd: files systemd\n", ("files", "dns")),
        ("hosts:\n", ("files", "dns")),
        ("#hosts: nis\nhosts:\tfiles dns # the usual\n", ("files", "dns")),
        (
            "hosts: files mdns4_minimal [NOTFOUND=return] dns",
            ("files", "mdns4_minimal", "dns"),
        ),
        (
            "hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns",
            ("mymachines", "resolve", "files", "myhostname", "dns"),
        ),
        ("hosts: files [ NOTFOUND=continue SUCCESS=return ]dns", ("files", "dns")),
        ("hosts: files [unfinished dns", ("files", "unfinished", "dns")),
    ],
)
def test_nsswitch_says_which_services_look_up_hosts(text: str, services: tuple[str, ...]) -> None:
    assert parse_nsswitch(text) == services


@given(st.text() | st.text(alphabet="hosts:[]=! \nfilesdn#").map(lambda text: f"hosts: {text}"))
def test_whatever_stands_in_nsswitch_something_comes_of_it(text: str) -> None:
    services = parse_nsswitch(text)
    assert services
    assert all(service.split() == [service] for service in services)
    is_the_systems(services, "www.example")


@pytest.mark.parametrize(
    ("services", "name", "expected"),
    [
        ("files dns", "www.example", False),
        ("files dns", "printer.local", False),
        ("files mdns4_minimal dns", "www.example", False),
        ("files mdns4_minimal dns", "Printer.LOCAL.", True),
        ("files mdns4 dns", "www.example", True),
        ("files resolve dns", "www.example", True),
        ("resolve files dns", "www.example", True),
        ("files myhostname dns", "www.example", False),
        ("files myhostname dns", "_gateway", True),
        ("mymachines files dns", "www.example", False),
        ("mymachines files dns", "box", True),
        ("files sss dns", "www.example", True),
        ("files", "www.example", True),
        ("dns files", "www.example", True),
    ],
)
def test_when_the_systems_resolver_knows_more(services: str, name: str, expected: bool) -> None:
    assert is_the_systems(services.split(), name) is expected


@pytest.mark.parametrize(
    ("services", "name", "expected"),
    [
        ("files resolve dns", "www.example", False),
        ("files", "www.example", False),
        ("files mdns4_minimal resolve dns", "printer.local", True),
    ],
)
def test_on_a_path_only_names_of_one_kind_are_left_to_the_systems_resolver(
    services: str, name: str, expected: bool
) -> None:
    assert is_the_systems(services.split(), name, on_path=True) is expected


def test_this_machines_own_name_is_the_systems_where_it_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Box7")
    assert is_the_systems(["files", "myhostname", "dns"], "box7")


# -- files that change


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    read: list[str] = []

    def parse(text: str) -> str:
        read.append(text)
        return text.upper()

    path = tmp_path / "file"
    file = WatchedFile(os.fspath(path), parse)
    assert (file.value(), file.exists) == ("", False)
    path.write_text("one")
    assert [file.value(), file.value(), file.last] == ["ONE"] * 3
    assert file.exists
    path.write_text("other")
    assert file.value() == "OTHER"
    path.unlink()
    assert (file.value(), file.exists) == ("", False)
    assert read == ["", "one", "other", ""]


def test_a_big_file_is_for_a_thread(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x" * 100_000)
    file = WatchedFile(os.fspath(path), len)
    assert file.value() is None
    assert file.read() == 100_000
    assert file.value() == 100_000
