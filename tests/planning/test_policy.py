"""System policy: what its rules say about a destination, and how policies are merged."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import PolicyError, Reason
from taps_core.model.paths import Interface, InterfaceType
from taps_core.model.properties import TransportProperties
from taps_core.model.security import SecurityParameters
from taps_core.planning.candidates import Leaf
from taps_core.planning.paths import choose_paths
from taps_core.planning.policy import Policy, Stance
from taps_core.planning.selection import By, select
from taps_core.planning.staggering import Staggering

PLAIN = SecurityParameters.disabled()
HOST = RemoteEndpoint.coerce("www.example.net:443")
FILE = "/etc/taps/policy.toml"

INTERFACES = [
    Interface(name="lo", index=1, type=InterfaceType.LOOPBACK),
    Interface(name="eth0", index=2, type=InterfaceType.WIRED),
    Interface(name="wwan0", index=3, type=InterfaceType.CELLULAR),
]
NO_PREFERENCE = {"interface": (), "pvd": ()}


def rule(**table):
    return {"rule": [table]}


def names(selection):
    return [each.stack.name for each in selection]


def said(policy, remote=HOST):
    verdict = Policy.coerce(policy).on([remote])
    return {
        **{name: say.stance for name, say in verdict.protocols.items()},
        **{name: say.stance for name, say in verdict.interfaces.items()},
        **{f"IPv{family}": say.stance for family, say in verdict.families.items()},
    }


# -- for which destinations a rule is


@pytest.mark.parametrize(
    ("where", "remote", "is_for_it"),
    [
        ({"hosts": ["*.example.net"]}, "www.example.net:443", True),
        ({"hosts": ["*.EXAMPLE.net."]}, "a.b.Example.NET.:443", True),
        ({"hosts": ["*.example.net"]}, "example.net:443", False),
        ({"hosts": ["example.net", "*.example.net"]}, "example.net:443", True),
        ({"hosts": ["*"]}, "192.0.2.1:443", False),
        ({"networks": ["192.0.2.0/24"]}, "192.0.2.1:443", True),
        ({"networks": ["192.0.2.0/24"]}, "192.0.3.1:443", False),
        ({"networks": ["192.0.2.0/24"]}, "[2001:db8::1]:443", False),
        ({"networks": ["2001:db8::/32", "192.0.2.1"]}, "192.0.2.1:443", True),
        # What it leads to is not known yet.
        ({"networks": ["192.0.2.0/24"]}, "www.example.net:443", False),
        ({"ports": [80, 443]}, "192.0.2.1:443", True),
        ({"ports": ["400-500"]}, "192.0.2.1:443", True),
        ({"ports": ["400-442", 444]}, "192.0.2.1:443", False),
        ({"hosts": ["*.example.net"], "ports": [80]}, "www.example.net:443", False),
        ({"hosts": ["*.example.net"], "ports": [443]}, "www.example.net:443", True),
    ],
)
def test_a_rule_is_for_what_all_its_conditions_name(where, remote, is_for_it):
    policy = rule(**where, avoid={"protocols": ["tcp"]})
    assert bool(said(policy, RemoteEndpoint.coerce(remote))) is is_for_it


def test_of_alternatives_one_that_is_preferred_counts_and_only_what_all_are_denied():
    policy = Policy.coerce(
        rule(
            networks=["192.0.2.0/24"],
            prefer={"protocols": ["sctp"]},
            prohibit={"protocols": ["tcp"]},
        )
    )
    inside, outside = (RemoteEndpoint.coerce(each) for each in ("192.0.2.1:7", "198.51.100.1:7"))
    both = policy.on([inside, outside]).protocols
    assert {name: say.stance for name, say in both.items()} == {"sctp": Stance.PREFER}
    assert "tcp" in policy.on([inside]).protocols
    assert not policy.on([outside]).protocols


def test_without_a_destination_only_what_is_for_all_of_them_counts(everything):
    policy = {
        "avoid": {"protocols": ["quic"]},
        **rule(hosts=["*"], prohibit={"protocols": ["tcp"]}),
    }
    assert "TCP" in names(select(everything, security=PLAIN, policy=policy))
    remote = [HOST]
    assert "TCP" not in names(select(everything, security=PLAIN, policy=policy, remote=remote))
    # Whom a Listener is for is no destination.
    listening = select(everything, security=PLAIN, policy=policy, remote=remote, role="listen")
    assert "TCP" in names(listening)


# -- merging


def test_the_last_word_about_a_preference_counts():
    first = Policy.read({"prefer": {"protocols": ["TCP", "quic"]}}, "first")
    second = Policy.read({"avoid": {"protocols": ["tcp"]}}, "second")
    assert said(first.then(second)) == {"tcp": Stance.AVOID, "quic": Stance.PREFER}
    assert said(second.then(first)) == {"tcp": Stance.PREFER, "quic": Stance.PREFER}


def test_a_rule_of_the_same_file_has_the_word_after_its_tables():
    policy = {
        "avoid": {"families": ["IPv6"]},
        **rule(hosts=["*.example.net"], prefer={"families": ["ipv6"]}),
    }
    assert said(policy) == {"IPv6": Stance.PREFER}
    assert said(policy, RemoteEndpoint.coerce("example.org:1")) == {"IPv6": Stance.AVOID}


@st.composite
def policies(draw):
    tables = {}
    left = ["tcp", "udp", "sctp", "quic"]
    for stance in Stance:
        chosen = draw(st.lists(st.sampled_from(left), unique=True)) if left else []
        left = [each for each in left if each not in chosen]
        if chosen:
            tables[stance.value] = {"protocols": chosen}
    if not tables:
        return Policy()
    hosts = draw(st.sampled_from([None, ["*.example.net"], ["*.example.org"]]))
    return Policy.read(tables if hosts is None else rule(hosts=hosts, **tables))


@given(st.lists(policies(), max_size=4))
def test_merging_never_takes_back_a_prohibition(given_policies):
    prohibited = {
        name
        for policy in given_policies
        for name, stance in said(policy).items()
        if stance is Stance.PROHIBIT
    }
    for order in itertools.permutations(given_policies):
        merged = Policy()
        for policy in order:
            merged = merged.then(policy)
        outcome = said(merged)
        assert {name for name, stance in outcome.items() if stance is Stance.PROHIBIT} == (
            prohibited
        )


@given(policies(), policies(), policies())
def test_merging_is_associative(one, two, three):
    assert one.then(two).then(three) == one.then(two.then(three))


@given(policies(), policies())
def test_policies_that_are_about_different_things_merge_in_any_order(one, two):
    if said(one).keys().isdisjoint(said(two)):
        assert said(one.then(two)) == said(two.then(one))


# -- what it does to stacks


@pytest.mark.requirement("R-9623-3.2-01")
def test_reasons_name_the_file_and_the_rule(everything):
    policy = Policy.read(
        {
            "avoid": {"protocols": ["quic"]},
            **rule(name="lab", hosts=["*.example.net"], prohibit={"protocols": ["sctp"]}),
        },
        FILE,
    )
    selection = select(everything, security=PLAIN, policy=policy, remote=[HOST])
    reasons = {each.stack.name: list(map(str, each.reasons)) for each in selection}
    assert f"system policy avoids quic ({FILE})" in reasons["QUIC"]
    rejected = {each.stack.name: each.reasons for each in selection.rejected}
    assert f"system policy prohibits sctp ({FILE}, rule 1, lab)" in map(str, rejected["SCTP"])
    assert all(why.by is By.POLICY for why in rejected["SCTP"] if "system policy" in why.sentence)


def test_the_worst_that_is_said_about_a_stack_counts(everything):
    policy = {"prefer": {"protocols": ["sctp"]}, "avoid": {"protocols": ["dtls"]}}
    assert names(select(everything, policy=policy))[-1] == "DTLS/SCTP"


def test_selection_tells_of_families_and_delays(everything):
    policy = Policy.read({"prohibit": {"families": ["IPv6"]}, "racing": {"delay": 0.5}}, FILE)
    selection = select(everything, security=PLAIN, policy=policy)
    assert selection.policy == (
        f"system policy prohibits IPv6 ({FILE})",
        f"system policy: delay is 0.5 s ({FILE})",
    )
    assert selection.as_json()["policy"] == list(selection.policy)
    assert selection.policy[0] in str(selection)


def test_a_listener_is_told_what_has_no_effect_on_it(everything):
    policy = Policy.read(
        {
            "prohibit": {"families": ["IPv6"], "interfaces": ["wwan0"]},
            "avoid": {"families": ["IPv4"], "interfaces": ["wifi"]},
            "prefer": {"protocols": ["udp"]},
            "racing": {"delay": 0.5},
            "rule": [
                {"name": "far", "networks": ["192.0.2.0/24"], "prohibit": {"protocols": ["tcp"]}}
            ],
        },
        FILE,
    )
    selection = select(everything, security=PLAIN, policy=policy, role="listen")
    without = "no effect on a Listener, which makes no attempts"
    assert selection.policy == (
        f"system policy avoids IPv4 ({FILE}): {without}",
        f"system policy prohibits IPv6 ({FILE})",
        f"system policy avoids interface wifi ({FILE}): {without}",
        f"system policy: delay is 0.5 s ({FILE}): {without}",
        f"system policy for some destinations ({FILE}, rule 1, far): a Listener has none",
    )
    assert "TCP" in names(selection)


def test_an_explicit_prefer_of_the_application_goes_before_policy(everything):
    properties = TransportProperties().prefer("multistreaming")
    policy = {"avoid": {"protocols": ["quic", "sctp"]}}
    assert names(select(everything, properties, security=PLAIN, policy=policy))[-1] == "TCP"


# -- what it does to addresses


def leaf(plugins, address, interface=None):
    stack = select(plugins, security=PLAIN).ranked[0].stack
    assert stack.name == "TCP"
    local = None if interface is None else LocalEndpoint(interface=interface)
    return Leaf(stack, HOST.with_ip_address(address), local)


def interface_of(name):
    return next((each for each in INTERFACES if each.name == name), None)


def test_prohibitions_are_judged_for_each_address_that_a_name_leads_to(everything):
    policy = Policy.read(
        {
            "prohibit": {"families": ["IPv4"]},
            **rule(networks=["2001:db8:1::/48"], prohibit={"protocols": ["tcp"]}),
        },
        FILE,
    )
    assert policy.judges_addresses
    for address, expected in (
        ("192.0.2.1", (f"system policy prohibits IPv4 ({FILE})",)),
        ("2001:db8:1::1", (f"system policy prohibits tcp ({FILE}, rule 1)",)),
        ("2001:db8:2::1", ()),
    ):
        assert policy.against(leaf(everything, address), interface_of) == expected


def test_an_interface_may_be_prohibited_for_some_addresses_only(everything):
    policy = Policy.read(
        rule(networks=["192.0.2.0/24"], prohibit={"interfaces": ["cellular"]}), FILE
    )
    # Which one a name leads to is not known yet, so every attempt is bound to its own.
    assert policy.needs_paths([HOST])
    assert not policy.needs_paths([RemoteEndpoint.coerce("192.0.2.1:1")])
    assert not policy.needs_paths([RemoteEndpoint.coerce("198.51.100.1:1")])
    paths = choose_paths(
        INTERFACES, [], NO_PREFERENCE, policy.on([HOST]), bound=policy.needs_paths([HOST])
    )
    assert [each.name for each in paths.ranked] == ["lo", "eth0", "wwan0"]
    why = (f"system policy prohibits interface cellular ({FILE}, rule 1)",)
    for address, interface, expected in (
        ("192.0.2.1", "wwan0", why),
        ("192.0.2.1", "eth0", ()),
        ("198.51.100.1", "wwan0", ()),
    ):
        assert policy.against(leaf(everything, address, interface), interface_of) == expected


def test_what_says_nothing_about_single_addresses_looks_at_none():
    for policy in ({"prohibit": {"protocols": ["tcp"]}}, {"prefer": {"families": ["IPv4"]}}):
        assert not Policy.coerce(policy).judges_addresses


# -- what it does to paths


@pytest.mark.requirement("R-9623-4.1.1.2-03")
def test_interfaces_are_preferred_avoided_and_prohibited():
    policy = Policy.read(
        {
            "prefer": {"interfaces": ["cellular"]},
            "avoid": {"interfaces": ["eth0"]},
            "prohibit": {"interfaces": ["lo"]},
        },
        FILE,
    )
    paths = choose_paths(INTERFACES, [], NO_PREFERENCE, policy.on())
    assert [each.name for each in paths.ranked] == ["wwan0", "eth0"]
    assert list(map(str, paths.ranked[0].reasons)) == [
        f"system policy prefers interface cellular ({FILE})"
    ]
    assert paths.rejected["lo (loopback)"][0].by is By.POLICY


def test_interfaces_are_matched_by_what_the_application_prefers_first():
    wanted = {
        **NO_PREFERENCE,
        "interface": TransportProperties(interface={"eth0": "prefer"}).get("interface"),
    }
    policy = Policy.coerce({"avoid": {"interfaces": ["wired"]}})
    paths = choose_paths(INTERFACES, [], wanted, policy.on())
    assert [each.name for each in paths.ranked] == ["eth0", "lo", "wwan0"]


def test_where_policy_makes_no_difference_the_system_chooses():
    policy = Policy.coerce({"prohibit": {"interfaces": ["wifi", "docker0"]}})
    assert choose_paths(INTERFACES, [], NO_PREFERENCE, policy.on()).system_chooses


def test_the_error_says_that_policy_leaves_no_path():
    policy = Policy.coerce({"prohibit": {"interfaces": ["lo", "wired", "cellular"]}})
    error = choose_paths(INTERFACES, [], NO_PREFERENCE, policy.on()).error()
    assert error is not None
    assert error.reason is Reason.POLICY_PROHIBITED


# -- what it does to delays and families


def staggering(policy, base=None, *, own=False, families=True):
    base = Staggering() if base is None else base
    return Policy.coerce(policy).on().staggering(base, own=own, families=families)


def test_delays_are_those_of_policy_unless_the_program_chose():
    policy = {"racing": {"delay": 0.5, "path_delay": 0.1, "max_delay": 0.7}}
    assert (staggering(policy).delay, staggering(policy).path_delay) == (0.5, 0.1)
    own = staggering(policy, Staggering(delay=1.0), own=True)
    assert (own.delay, own.max_delay, own.path_delay) == (1.0, 0.7, 0.0)


def test_of_bounds_that_contradict_each_other_the_greatest_delay_counts():
    first = Policy.read({"racing": {"min_delay": 1.0}})
    found = staggering(first.then(Policy.read({"racing": {"max_delay": 0.5}})))
    assert (found.min_delay, found.max_delay) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("policy", "families"),
    [
        ({"prefer": {"families": ["IPv4"]}}, (4, 1)),
        ({"avoid": {"families": ["IPv6"]}}, (4, 64)),
        ({"prefer": {"families": ["IPv6"]}}, (6, 1)),
        ({"avoid": {"families": ["IPv4", "IPv6"]}}, (6, 1)),
        ({"prefer": {"protocols": ["tcp"]}}, (6, 1)),
    ],
)
def test_a_family_that_is_preferred_begins_and_one_that_is_avoided_is_last(policy, families):
    assert staggering(policy).families == families


def test_families_are_left_to_the_application_if_it_has_said_something():
    policy = {"prefer": {"families": ["IPv4"]}}
    assert staggering(policy, families=False).first_family == 6
    assert staggering(policy, Staggering(first_family=6), own=True).first_family == 6


def test_without_a_word_about_them_nothing_is_made_anew():
    base = Staggering()
    assert staggering({"prefer": {"protocols": ["tcp"]}}, base) is base
    policy = Policy.coerce({"racing": {"delay": 0.5}}).on()
    first = policy.staggering(base, own=False, families=True)
    assert policy.staggering(base, own=False, families=True) is first


# -- what cannot be


@pytest.mark.parametrize(
    ("given_policy", "key", "problem"),
    [
        ({"prefers": {}}, ("prefers",), "there is no such key"),
        ({"prefer": {"protocol": ["tcp"]}}, ("prefer", "protocol"), "protocols, interfaces"),
        ({"prefer": ["tcp"]}, ("prefer",), "a table"),
        ({"prefer": {"protocols": "tcp"}}, ("prefer", "protocols"), "a list of strings"),
        ({"prefer": {"protocols": [1]}}, ("prefer", "protocols"), "a string"),
        ({"avoid": {"families": ["v6"]}}, ("avoid", "families"), "IPv4 or IPv6"),
        ({"rule": {}}, ("rule",), r"\[\[rule\]\]"),
        (rule(host=["a"]), ("rule", 1, "host"), "there is no such key, but name, hosts"),
        (rule(hosts=["a"]), ("rule", 1), "says nothing"),
        (rule(name=3), ("rule", 1, "name"), "a string"),
        (rule(networks=["192.0.2.1/24"]), ("rule", 1, "networks"), "host bits set"),
        (rule(ports=["-80"]), ("rule", 1, "ports"), "a range such as"),
        (rule(ports=["9-8"]), ("rule", 1, "ports"), "a range such as"),
        (rule(ports=[True]), ("rule", 1, "ports"), "a range such as"),
        (rule(ports="80"), ("rule", 1, "ports"), "a list of numbers"),
        ({"racing": {"delays": 1}}, ("racing", "delays"), "there is no such key"),
        ({"racing": {"delay": 3}}, ("racing", "delay"), "0.01 to 2 seconds"),
        ({"racing": {"delay": "1"}}, ("racing", "delay"), "seconds, not '1'"),
        (
            {"racing": {"min_delay": 1, "max_delay": 0.5}},
            ("racing", "min_delay"),
            "greater than max_delay",
        ),
        (
            {"prefer": {"protocols": ["tcp"]}, "avoid": {"protocols": ["TCP"]}},
            ("avoid", "protocols"),
            "TCP is in prefer",
        ),
        ({"pvd": {"corp": {"dns": []}}}, ("pvd", "corp"), "there is no 'dns'"),
        ({"pvd": {"corp": 1}}, ("pvd", "corp"), "a table"),
    ],
)
def test_what_cannot_be_is_an_error_with_its_key(given_policy, key, problem):
    with pytest.raises(PolicyError, match=problem) as caught:
        Policy.read(given_policy)
    assert caught.value.key == key
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert caught.value.file is None


def test_a_policy_is_a_value_and_says_what_it_is():
    tables = {"prefer": {"protocols": ["tcp"]}, "pvd": {"corp": {"interfaces": ["eth0"]}}}
    assert Policy.read(tables) == Policy.read(tables)
    assert len({Policy.read(tables), Policy.read(tables)}) == 1
    assert repr(Policy.read(tables)) == "<Policy 1 rules, 1 Provisioning Domains>"
    assert Policy.read(tables)
    assert not Policy()
    assert Policy.read(tables).domains["corp"].interfaces == ("eth0",)
