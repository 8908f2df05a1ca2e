"""Which paths are chosen, in which order, and with which reasons."""

from __future__ import annotations

from typing import Any

import pytest

from taps_core.model.errors import NoCandidates, Reason
from taps_core.model.paths import (
    Interface,
    InterfaceAddress,
    InterfaceType,
    ProvisioningDomain,
    type_named,
)
from taps_core.model.properties import TransportProperties
from taps_core.planning.paths import MAX_PATHS, PathSelection, choose_paths

T = InterfaceType


def interface(name: str, kind: InterfaceType, *addresses: str, up: bool = True) -> Interface:
    index = sum(name.encode())
    return Interface(
        name=name,
        index=index,
        type=kind,
        up=up,
        addresses=tuple(InterfaceAddress(address=each, prefix_length=24) for each in addresses),
    )


MACHINE = (
    interface("lo", T.LOOPBACK, "127.0.0.1"),
    interface("eth0", T.WIRED, "192.0.2.1", "2001:db8::1"),
    interface("wlan0", T.WIFI, "198.51.100.1", "198.51.100.77"),
    interface("wwan0", T.CELLULAR, "203.0.113.1"),
    interface("eth1", T.WIRED, up=False),
)


def choose(
    domains: dict[str, dict[str, Any]] | None = None,
    machine: tuple[Interface, ...] = MACHINE,
    **wanted: dict[str, str],
) -> PathSelection:
    properties = TransportProperties()
    for name, value in wanted.items():
        properties.set(name, value)
    asked = {name: properties.get(name) for name in ("interface", "pvd")}
    return choose_paths(machine, ProvisioningDomain.all_of(domains or {}), asked)


def names(selection: PathSelection) -> list[str]:
    return [path.name for path in selection.ranked]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"wlan0": "require"}, ["wlan0"]),
        ({"wlan0": "require", "eth0": "require"}, ["eth0", "wlan0"]),
        ({"wifi": "require", "cellular": "require"}, ["wlan0", "wwan0"]),
        ({"Ethernet": "prohibit", "loopback": "prohibit"}, ["wlan0", "wwan0"]),
        ({"wlan0": "prefer"}, ["wlan0", "lo", "eth0", "wwan0"]),
        (
            {"wlan0": "prefer", "wifi": "prefer", "wwan0": "prefer"},
            ["wlan0", "wwan0", "lo", "eth0"],
        ),
        ({"mobile": "avoid"}, ["lo", "eth0", "wlan0", "wwan0"]),
        ({"wifi": "prefer", "wlan0": "avoid", "wwan0": "prefer"}, ["wwan0", "wlan0", "lo", "eth0"]),
        ({"wifi": "require", "wlan0": "no_preference"}, ["wlan0"]),
    ],
    ids=str,
)
def test_interfaces_are_chosen_by_name_and_by_type(
    wanted: dict[str, str], expected: list[str]
) -> None:
    assert names(choose(interface=wanted)) == expected


def test_an_interface_that_is_called_like_a_type_is_the_one_that_is_meant() -> None:
    machine = (interface("wlan", T.WIRED), interface("wlan0", T.WIFI))
    assert names(choose(machine=machine, interface={"wlan": "require"})) == ["wlan"]
    assert names(choose(machine=machine, interface={"wifi": "require"})) == ["wlan0"]


@pytest.mark.parametrize(
    "wanted",
    [
        {"interface": {"tunnel": "prohibit"}},
        {"interface": {"wlan7": "avoid"}},
        {"interface": {"vpn": "prefer"}},
        {"pvd": {"corporate": "prefer"}},
        {"interface": {"eth0": "no_preference"}},
    ],
    ids=str,
)
def test_what_makes_no_difference_leaves_the_choice_to_the_system(
    wanted: dict[str, dict[str, str]],
) -> None:
    selection = choose(**wanted)
    assert selection.system_chooses
    assert not selection.ranked
    assert selection.error() is None


def test_why_a_path_is_out_is_said_reason_by_reason() -> None:
    selection = choose(interface={"wired": "require", "eth0": "prohibit"})
    error = selection.error()
    assert isinstance(error, NoCandidates)
    assert error.reason is Reason.NO_CANDIDATES
    assert error.rejected == {
        "lo (loopback)": ("interface wired is required",),
        "eth0 (wired)": ("interface eth0 is prohibited",),
        "wlan0 (wifi)": ("interface wired is required",),
        "wwan0 (cellular)": ("interface wired is required",),
        "eth1 (wired)": ("is down",),
    }
    assert "eth0 (wired): interface eth0 is prohibited" in str(error)


def test_a_name_that_nobody_has_is_said_with_those_that_there_are() -> None:
    (note,) = choose(interface={"wlan7": "require"}).notes
    assert note == (
        "interface wlan7: there is none of that name (lo (loopback), eth0 (wired), wlan0 (wifi), "
        "wwan0 (cellular), eth1 (wired))"
    )


def test_a_machine_without_interfaces_has_no_path() -> None:
    selection = choose(machine=(), interface={"eth0": "require"})
    assert "no network interface" in str(selection.error())


def test_a_machine_with_very_many_interfaces_has_a_bounded_number_of_paths() -> None:
    machine = tuple(interface(f"veth{number}", T.WIRED) for number in range(500))
    selection = choose(machine=machine, interface={"veth250": "prefer", "veth1": "prohibit"})
    assert len(selection.ranked) == MAX_PATHS
    assert selection.ranked[0].name == "veth250"


DOMAINS: dict[str, dict[str, Any]] = {
    "corporate": {"interfaces": ["wlan0"], "kinds": ["Office"]},
    "sensors": {"addresses": ["192.0.2.1"], "kinds": ["iot"]},
    "elsewhere": {"interfaces": ["eth9"]},
}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"corporate": "require"}, ["corporate on wlan0"]),
        ({"office": "require", "iot": "require"}, ["sensors on eth0", "corporate on wlan0"]),
        # eth0 has what the domain leaves.
        ({"sensors": "prohibit"}, ["lo", "eth0", "corporate on wlan0", "wwan0"]),
        ({"corporate": "prohibit"}, ["lo", "sensors on eth0", "eth0", "wwan0"]),
        (
            {"corporate": "prefer", "sensors": "avoid"},
            ["corporate on wlan0", "lo", "eth0", "wwan0", "sensors on eth0"],
        ),
    ],
    ids=str,
)
def test_provisioning_domains_are_chosen_by_name_and_by_kind(
    wanted: dict[str, str], expected: list[str]
) -> None:
    assert names(choose(DOMAINS, pvd=wanted)) == expected


def test_interfaces_and_domains_count_alike() -> None:
    selection = choose(DOMAINS, pvd={"corporate": "prefer"}, interface={"cellular": "prefer"})
    assert names(selection)[:2] == ["corporate on wlan0", "wwan0"]
    both = choose(DOMAINS, pvd={"corporate": "require"}, interface={"eth0": "require"})
    assert both.error() is not None


def test_domains_are_not_looked_at_where_nobody_asks() -> None:
    assert names(choose(DOMAINS, interface={"wifi": "require"})) == ["wlan0"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"interface": ["eth0"]}, "there is no 'interface', but addresses, interfaces, kinds"),
        ({}, "by which interfaces"),
        ({"resolvers": ["192.0.2.53"]}, "by which interfaces"),
        ({"addresses": ["eth0"]}, "addresses: 'eth0' does not appear to be"),
        ({"interfaces": ["eth0"], "resolvers": ["dns.example"]}, "resolvers: 'dns.example'"),
        ({"interfaces": 3}, "interfaces are strings, not 3"),
        ({"interfaces": [3]}, r"interfaces are strings, not \[3\]"),
    ],
    ids=str,
)
def test_a_domain_that_cannot_be_is_refused_with_its_name(
    fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^Provisioning Domain corporate: .*{sentence}"):
        ProvisioningDomain.all_of({"corporate": fields})


def test_one_string_is_a_list_of_one() -> None:
    (domain,) = ProvisioningDomain.all_of({"x": {"interfaces": "eth0", "resolvers": "2001:DB8::1"}})
    assert domain.interfaces == ("eth0",)
    assert domain.resolvers == ("2001:db8::1",)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Wi-Fi", T.WIFI),
        ("WLAN", T.WIFI),
        ("Cellular", T.CELLULAR),
        ("ethernet", T.WIRED),
        ("VPN", T.TUNNEL),
        ("loopback", T.LOOPBACK),
        ("eth0", None),
        ("other", None),
    ],
)
def test_types_have_the_usual_words(word: str, kind: InterfaceType | None) -> None:
    assert type_named(word) is kind


def test_sources_fit_what_they_reach() -> None:
    def of(*addresses: InterfaceAddress) -> Interface:
        return Interface(name="eth0", index=2, addresses=addresses)

    def has(address: str, **more: Any) -> InterfaceAddress:
        return InterfaceAddress(address=address, prefix_length=64, **more)

    several = of(has("fe80::1"), has("2001:db8::9", deprecated=True), has("2001:db8::1"))
    assert several.sources("2001:db8:9::9") == ["2001:db8::1", "2001:db8::9"]
    assert several.sources("fe80::2") == ["fe80::1", "2001:db8::1", "2001:db8::9"]
    assert several.sources("192.0.2.1") == []
    # Nothing would come back.
    assert of(has("fe80::1")).sources("2001:db8:9::9") == []
    assert Interface(name="en0", index=2).sources("192.0.2.1") is None
