"""Which stacks are candidates, and which are not, property by property."""

import json

import pytest

from taps_core.model.capabilities import Capabilities, Support
from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import EstablishmentError, NoCandidates, PropertyError, Reason
from taps_core.model.properties import (
    PROPERTIES,
    Kind,
    Preference,
    Property,
    TransportProperties,
    ValueType,
)
from taps_core.model.security import SecurityParameters
from taps_core.planning.selection import By, Policy, Selector, select

A, O, N = Support.ALWAYS, Support.OPTIONAL, Support.NEVER  # noqa: E741  # read as columns
PLAIN = SecurityParameters.disabled()
PATHS = {"interface", "pvd", "useTemporaryLocalAddress"}
PREFERENCES = [
    row.name
    for row in PROPERTIES.values()
    if row.kind is Kind.SELECTION
    and row.value_type is ValueType.PREFERENCE
    and row.name not in PATHS
]


def anything_goes(**more):
    """No demand at all, not even the RFC's defaults."""
    properties = TransportProperties().no_preference(*PREFERENCES).set("safelyReplayable", True)
    for name, value in more.items():
        properties.set(name, value)
    return properties


def names(selection):
    return [each.stack.name for each in selection]


def sentences(selection, name):
    (found,) = (each for each in selection.rejected if each.stack.name == name)
    return [why.sentence for why in found.reasons]


# -- Require, Prefer, Avoid, Prohibit


@pytest.mark.requirement("R-9622-6.2-01", "R-9621-3.3-02", "R-9623-4.1.3-04", "R-9623-4.1.3-05")
@pytest.mark.parametrize("name", PREFERENCES)
@pytest.mark.parametrize(
    ("preference", "order"),
    [
        (Preference.REQUIRE, ["ALWAYS", "OPTIONAL"]),
        (Preference.PREFER, ["ALWAYS", "OPTIONAL", "NEVER"]),
        (Preference.NO_PREFERENCE, ["ALWAYS", "NEVER", "OPTIONAL"]),
        (Preference.AVOID, ["NEVER", "OPTIONAL", "ALWAYS"]),
        (Preference.PROHIBIT, ["NEVER", "OPTIONAL"]),
    ],
    ids=str,
)
def test_each_preference_does_to_each_property_what_table_1_says(
    synthetic, name, preference, order
):
    plugins = synthetic.installed(
        synthetic.transport(support.name.lower(), Capabilities.byte_stream(**{name: support}))
        for support in Support
    )
    selection = select(plugins, anything_goes(**{name: preference}), security=PLAIN)
    assert names(selection) == order
    for rejected in selection.rejected:
        (why,) = rejected.reasons
        assert why.property == name
        assert why.by is By.APPLICATION
        assert name in why.sentence
    if preference in (Preference.PREFER, Preference.AVOID):
        for ranked in selection:
            assert any(why.property == name for why in ranked.reasons)


@pytest.mark.parametrize("name", PREFERENCES)
def test_a_rejection_tells_the_rfcs_default_from_the_applications_demand(synthetic, name):
    plugins = synthetic.installed([synthetic.transport("t", Capabilities.byte_stream(**{name: N}))])
    by_default = PROPERTIES[name].default is Preference.REQUIRE
    selection = select(plugins, security=PLAIN)
    assert {why.by for each in selection.rejected for why in each.reasons} == (
        {By.DEFAULT} if by_default else set()
    )
    demanded = select(plugins, TransportProperties().require(name), security=PLAIN)
    assert {why.by for each in demanded.rejected for why in each.reasons} == {By.APPLICATION}


@pytest.mark.requirement("R-9621-3.1-05")
def test_tcp_meets_the_defaults_and_udp_does_not(everything):
    selection = select(everything, security=PLAIN)
    assert names(selection)[0] == "TCP"
    assert [each.split(" is required")[0] for each in sentences(selection, "UDP")[:3]] == [
        "reliability",
        "preserveOrder",
        "congestionControl",
    ]


def test_profiles_mean_what_their_names_say(everything):
    stream = TransportProperties.reliable_inorder_stream()
    assert names(select(everything, stream, security=PLAIN))[0] == "TCP"
    message = TransportProperties.reliable_message()
    assert names(select(everything, message, security=PLAIN)) == ["SCTP"]
    datagram = TransportProperties.unreliable_datagram()
    assert names(select(everything, datagram, security=PLAIN))[0] == "UDP"
    assert names(select(everything, datagram))[0] == "DTLS/UDP"


def test_sctp_comes_first_where_the_application_prefers_what_only_it_has(everything):
    properties = TransportProperties().prefer("perMsgReliability")
    assert names(select(everything, properties, security=PLAIN))[0] == "SCTP"


@pytest.mark.requirement("G-9622-6.2.18-01")
def test_active_read_before_send_is_ignored_for_rendezvous(synthetic):
    plugins = synthetic.installed(
        [synthetic.transport("t", Capabilities.byte_stream(activeReadBeforeSend=N))]
    )
    properties = TransportProperties().require("activeReadBeforeSend")
    assert names(select(plugins, properties, role="initiate", security=PLAIN)) == []
    assert names(select(plugins, properties, role="rendezvous", security=PLAIN)) == ["T"]


# -- framers


def test_a_framer_helps_to_satisfy_a_demand_for_boundaries(usual, synthetic):
    plugins = synthetic.installed([usual.tcp])
    for properties in (
        TransportProperties().require("preserveMsgBoundaries"),
        TransportProperties.reliable_message(),
    ):
        without = select(plugins, properties, security=PLAIN)
        assert names(without) == []
        assert "a framer would find boundaries" in sentences(without, "TCP")[0]
        framed = select(plugins, properties, security=PLAIN, framers=[synthetic.framer()])
        assert names(framed) == ["line/TCP"]


def test_prohibited_boundaries_still_yield_a_byte_stream_under_a_framer(everything, synthetic):
    properties = TransportProperties().prohibit("preserveMsgBoundaries")
    selection = select(everything, properties, security=PLAIN, framers=[synthetic.framer()])
    assert names(selection) == ["line/TCP", "line/QUIC"]
    assert sentences(selection, "line/SCTP") == [
        "preserveMsgBoundaries is prohibited by the application, and SCTP cannot do without it"
    ]


def test_avoided_boundaries_are_not_held_against_a_framer(usual, synthetic):
    plugins = synthetic.installed([usual.tcp, usual.sctp])
    properties = TransportProperties().avoid("preserveMsgBoundaries")
    ranked = select(plugins, properties, security=PLAIN, framers=[synthetic.framer()]).ranked
    assert [str(each.stack) for each in ranked] == ["line/TCP", "line/SCTP"]
    assert ranked[0].key[2] == (0, 0)


def test_nothing_goes_on_top_of_a_framer_that_takes_objects(usual, synthetic):
    framers = [synthetic.framer("json", objects=True), synthetic.framer("line")]
    with pytest.raises(EstablishmentError, match="json takes objects, so line cannot"):
        select(synthetic.installed([usual.tcp]), framers=framers)


# -- values other than preferences


@pytest.mark.requirement("G-9622-6.2.14-01")
@pytest.mark.parametrize("role", ["initiate", "listen", "rendezvous"])
@pytest.mark.parametrize("value", ["Disabled", "Active", "Passive"])
def test_multipath_other_than_disabled_counts_as_a_preference(synthetic, role, value):
    plugins = synthetic.installed(
        [
            synthetic.transport("a", Capabilities.byte_stream(multipath=N)),
            synthetic.transport("b", Capabilities.byte_stream(multipath=O)),
        ]
    )
    selection = select(plugins, TransportProperties(multipath=value), role=role, security=PLAIN)
    assert names(selection) == (["A", "B"] if value == "Disabled" else ["B", "A"])
    (a,) = (each for each in selection if each.stack.name == "A")
    assert a.no_effect == (() if value == "Disabled" else ("multipath",))


def test_multipath_is_preferred_by_default_where_one_listens(synthetic):
    plugins = synthetic.installed(
        [
            synthetic.transport("a", Capabilities.byte_stream(multipath=N)),
            synthetic.transport("b", Capabilities.byte_stream(multipath=O)),
        ]
    )
    assert names(select(plugins, role="initiate", security=PLAIN)) == ["A", "B"]
    assert names(select(plugins, role="listen", security=PLAIN)) == ["B", "A"]


def test_dividing_capacity_has_no_effect_where_a_group_has_none_in_common(synthetic):
    plugins = synthetic.installed(
        [
            synthetic.transport("alone", Capabilities.messages()),
            synthetic.transport("streams", Capabilities.messages(multistreaming=A)),
        ]
    )
    wanted = anything_goes(connScheduler="round-robin", connPriority=1).unset("safelyReplayable")
    effects = {
        each.stack.transport.name: each.no_effect
        for each in select(plugins, wanted, security=PLAIN)
    }
    assert effects == {"alone": ("connScheduler", "connPriority"), "streams": ()}
    limited = wanted.copy().set("_taps.groupMaxSendRate", 8000).set("maxSendRate", 8000)
    assert [each.no_effect for each in select(plugins, limited, security=PLAIN)] == [(), ()]


def test_advertising_addresses_rejects_nothing_and_says_where_it_has_no_effect(synthetic):
    plugins = synthetic.installed(
        [
            synthetic.transport("a", Capabilities.byte_stream(advertisesAltaddr=N)),
            synthetic.transport("b", Capabilities.byte_stream(advertisesAltaddr=O)),
        ]
    )
    for value in (False, True):
        selection = select(plugins, TransportProperties(advertises_altaddr=value), security=PLAIN)
        assert names(selection) == ["A", "B"]
        assert [each.no_effect for each in selection] == [
            ("advertisesAltaddr",) if value else (),
            (),
        ]


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("Bidirectional", ["TWO-WAY"]),
        ("Unidirectional send", ["ONE-WAY", "TWO-WAY"]),
        ("Unidirectional receive", ["ONE-WAY", "TWO-WAY"]),
    ],
)
def test_a_one_way_transport_serves_one_way_requests_only(synthetic, direction, expected):
    plugins = synthetic.installed(
        [
            synthetic.transport("one-way", Capabilities.byte_stream(direction=N)),
            synthetic.transport("two-way"),
        ]
    )
    selection = select(plugins, TransportProperties(direction=direction), security=PLAIN)
    assert names(selection) == expected


@pytest.mark.requirement("R-9622-6.2-03")
@pytest.mark.parametrize("preference", Preference)
def test_what_decides_among_paths_rejects_no_stack(everything, preference):
    properties = TransportProperties(
        interface=[(preference, "wlan0")],
        pvd=[(preference, "corporate")],
        use_temporary_local_address=preference,
    )
    assert names(select(everything, properties)) == names(select(everything))


# -- duplicates


@pytest.mark.requirement("R-9622-9.1.3.4-01")
@pytest.mark.parametrize("role", ["initiate", "listen", "rendezvous"])
def test_a_stack_that_may_duplicate_needs_safely_replayable(usual, synthetic, role):
    plugins = synthetic.installed([usual.udp])
    properties = TransportProperties.unreliable_datagram()
    assert names(select(plugins, properties, role=role, security=PLAIN)) == ["UDP"]
    properties.set("safelyReplayable", False)
    selection = select(plugins, properties, role=role, security=PLAIN)
    assert sentences(selection, "UDP") == [
        "UDP may deliver a Message twice, so safelyReplayable must be set on the "
        "Preconnection (RFC 9622, 9.1.3.4)"
    ]


# -- endpoints


def test_a_plugin_is_no_candidate_for_what_it_cannot_reach(usual, synthetic):
    unix = synthetic.transport("unix", serves=["_unix.path"])
    plugins = synthetic.installed([usual.tcp, unix])
    path = RemoteEndpoint(identifiers={"_unix.path": "/run/x"})
    over_ip = select(plugins, security=PLAIN, remote=[RemoteEndpoint.parse("a.example:80")])
    assert names(over_ip) == ["TCP"]
    assert sentences(over_ip, "UNIX") == ["reaches _unix.path, which the Remote Endpoint is not"]
    over_unix = select(plugins, security=PLAIN, remote=[path])
    assert names(over_unix) == ["UNIX"]
    assert sentences(over_unix, "TCP") == ["reaches IP addresses, which the Remote Endpoint is not"]
    listening = LocalEndpoint(identifiers={"_unix.path": "/run/x"})
    assert names(select(plugins, security=PLAIN, role="listen", local=[listening])) == ["UNIX"]


def test_one_endpoint_that_is_reached_is_enough(usual, synthetic):
    unix = synthetic.transport("unix", serves=["_unix.path"])
    remote = [
        RemoteEndpoint(identifiers={"_unix.path": "/run/x"}),
        RemoteEndpoint.parse("a.example:80"),
    ]
    plugins = synthetic.installed([usual.tcp, unix])
    assert names(select(plugins, security=PLAIN, remote=remote)) == ["TCP", "UNIX"]


def test_an_endpoint_for_one_protocol_counts_for_that_protocol_only(everything):
    remote = [RemoteEndpoint(hostname="a.example", port=443, protocol="quic")]
    selection = select(everything, remote=remote)
    assert names(selection) == ["QUIC"]
    assert sentences(selection, "TLS/TCP") == ["the Remote Endpoint is for quic only"]
    both = [*remote, RemoteEndpoint(hostname="a.example", port=443)]
    assert set(names(select(everything, remote=both))) == {"QUIC", "TLS/TCP", "DTLS/SCTP"}


def test_the_remote_endpoints_of_a_listener_rule_nothing_out(usual, synthetic):
    plugins = synthetic.installed([usual.tcp])
    remote = [RemoteEndpoint(identifiers={"_unix.path": "/run/x"})]
    assert names(select(plugins, security=PLAIN, role="listen", remote=remote)) == ["TCP"]


def test_an_interface_alone_rules_nothing_out(usual, synthetic):
    unix = synthetic.transport("unix", serves=["_unix.path"])
    selection = select(
        synthetic.installed([usual.tcp, unix]),
        security=PLAIN,
        local=[LocalEndpoint(interface="eth0")],
        remote=[RemoteEndpoint.parse("a.example:80")],
    )
    assert names(selection) == ["TCP"]


def test_groups_are_for_what_serves_multicast(usual, synthetic):
    caster = synthetic.transport("caster", Capabilities.datagrams(), serves=["ip", "multicast"])
    plugins = synthetic.installed([usual.tcp, usual.udp, caster])
    group = RemoteEndpoint(multicast_group="239.0.0.1", port=5000)
    properties = TransportProperties.unreliable_datagram()
    assert names(select(plugins, properties, security=PLAIN, remote=[group])) == ["CASTER"]


# -- contradictions


def contradiction(**how):
    properties = how.pop("properties", None)
    with pytest.raises(EstablishmentError) as caught:
        select(how.pop("plugins"), properties, **how)
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert not isinstance(caught.value, NoCandidates)
    return str(caught.value)


@pytest.mark.requirement("R-9623-3.1-03")
def test_no_reliability_contradicts_reliability_per_message(everything):
    properties = TransportProperties().prohibit("reliability").require("perMsgReliability")
    assert "reliability is prohibited, yet perMsgReliability is required" in contradiction(
        plugins=everything, properties=properties
    )


@pytest.mark.requirement("G-9622-6.1.4-01")
@pytest.mark.parametrize(
    ("properties", "sentence"),
    [
        (TransportProperties().prohibit(interface="eth0"), "on eth0, which is prohibited"),
        (TransportProperties().require(interface="wlan0"), "on eth0, and wlan0 is required"),
        (TransportProperties().require(interface="eth0"), None),
        (TransportProperties().require(interface=["wlan0", "eth0"]), None),
        (TransportProperties().prohibit(interface="wlan0"), None),
        (TransportProperties().avoid(interface="eth0"), None),
        # Whether eth0 is of this type is for the paths to judge.
        (TransportProperties().require(interface="Ethernet"), None),
    ],
)
def test_the_interface_property_can_contradict_the_local_endpoint(everything, properties, sentence):
    local = [LocalEndpoint(interface="eth0")]
    if sentence is None:
        assert select(everything, properties, local=local).ranked
    else:
        assert sentence in contradiction(plugins=everything, properties=properties, local=local)
        # Another Local Endpoint that will do is enough.
        assert select(everything, properties, local=[*local, LocalEndpoint(port=5)]).ranked


@pytest.mark.requirement("G-9622-6.2.13-01")
def test_ipv4_contradicts_a_demand_for_temporary_addresses(everything):
    properties = TransportProperties().require("useTemporaryLocalAddress")
    v4, v6 = RemoteEndpoint(ip_address="192.0.2.1"), RemoteEndpoint(ip_address="2001:db8::1")
    assert "but the Remote Endpoint is 192.0.2.1" in contradiction(
        plugins=everything, properties=properties, remote=[v4]
    )
    assert "but the Local Endpoint is 192.0.2.2" in contradiction(
        plugins=everything,
        properties=properties,
        local=[LocalEndpoint(ip_address="192.0.2.2")],
        remote=[v6],
    )
    assert select(everything, properties, remote=[v4, v6]).ranked


@pytest.mark.requirement("R-9623-10.5-01")
def test_listening_to_a_group_needs_unidirectional_receive(synthetic):
    caster = synthetic.transport("caster", Capabilities.datagrams(), serves=["multicast"])
    plugins = synthetic.installed([caster])
    local = [LocalEndpoint(multicast_group="239.0.0.1", port=5000)]
    properties = TransportProperties.unreliable_datagram()
    assert "direction must be 'Unidirectional receive'" in contradiction(
        plugins=plugins, properties=properties, role="listen", local=local, security=PLAIN
    )
    properties.set("direction", "Unidirectional receive")
    found = select(plugins, properties, role="listen", local=local, security=PLAIN)
    assert names(found) == ["CASTER"]


@pytest.mark.requirement("G-9622-6.1.1-01", "G-9622-6.1.1-03")
def test_groups_are_not_for_every_call(everything):
    group = RemoteEndpoint(multicast_group="239.0.0.1", port=5000)
    assert "can only send" in contradiction(
        plugins=everything,
        properties=TransportProperties(direction="Unidirectional receive"),
        remote=[group],
    )
    # Else it would depend on who wins whether anything can be received.
    assert "are no alternatives" in contradiction(
        plugins=everything,
        properties=TransportProperties.unreliable_datagram(),
        remote=[group, RemoteEndpoint(ip_address="192.0.2.1", port=5000)],
    )
    source = LocalEndpoint(multicast_group="232.0.0.1", multicast_source="192.0.2.1", port=5000)
    assert "takes no Rendezvous" in contradiction(
        plugins=everything, role="rendezvous", local=[source], remote=[group]
    )


def test_contradictions_show_even_where_the_same_was_selected_before(everything):
    selector = Selector(everything)
    properties = TransportProperties().require(interface="wlan0")
    selector.select(properties, local=[LocalEndpoint(interface="wlan0")])
    with pytest.raises(EstablishmentError, match="wlan0 is required"):
        selector.select(properties, local=[LocalEndpoint(interface="eth0")])


def test_a_misspelt_protocol_specific_name_raises(synthetic):
    declared = Property("tcp.x", Kind.CONNECTION, ValueType.INTEGER, meaning="X.")
    plugins = synthetic.installed([synthetic.transport("tcp", properties=[declared])])
    with pytest.raises(PropertyError, match=r"no property 'tcp\.y'"):
        select(plugins, TransportProperties().set("tcp.y", 1), security=PLAIN)


# -- no effect


@pytest.mark.requirement("R-9622-5-03", "G-9622-4-03")
def test_what_is_set_without_effect_is_accepted_and_said(synthetic):
    declared = Property("tcp.x", Kind.CONNECTION, ValueType.INTEGER, meaning="X.")
    table = Capabilities.byte_stream().but(effects={"connTimeout": O, "msgOrdered": N})
    plugins = synthetic.installed(
        [synthetic.transport("tcp", table, properties=[declared]), synthetic.transport("zzz")]
    )
    properties = (
        TransportProperties(
            conn_timeout=5, msg_ordered=False, msg_priority=3, no_segmentation=False
        )
        .set("tcp.x", 1)
        .set("sctp.x", 1)
    )
    first, second = select(plugins, properties, security=PLAIN)
    assert first.no_effect == ("msgOrdered", "sctp.x")
    assert second.no_effect == ("connTimeout", "msgOrdered", "tcp.x", "sctp.x")
    assert second.without_effect[0] == "connTimeout: no effect on ZZZ"


# -- policy


@pytest.mark.requirement("R-9623-3.2-01", "R-9623-3.2-02")
def test_policy_prohibits_protocols(everything):
    policy = Policy(prohibited=["TCP"])
    selection = select(everything, policy=policy)
    assert "TLS/TCP" not in names(selection)
    assert "system policy prohibits tcp" in sentences(selection, "TLS/TCP")
    assert names(select(everything, policy={"prohibited": ["tls"]})) == ["DTLS/SCTP", "QUIC"]


@pytest.mark.requirement("R-9623-3.2-03")
def test_the_error_says_if_policy_alone_is_in_the_way(usual, synthetic):
    plugins = synthetic.installed([usual.tcp, usual.udp])
    error = select(plugins, security=PLAIN, policy={"prohibited": ["tcp"]}).error()
    assert error.reason is Reason.POLICY_PROHIBITED
    error = select(
        plugins,
        TransportProperties().require("multistreaming"),
        security=PLAIN,
        policy={"prohibited": ["tcp"]},
    ).error()
    assert error.reason is Reason.NO_CANDIDATES


@pytest.mark.requirement("R-9623-3.2-04")
def test_policy_is_looked_at_each_time(usual, synthetic):
    selector = Selector(synthetic.installed([usual.tcp]))
    assert names(selector.select(security=PLAIN)) == ["TCP"]
    assert names(selector.select(security=PLAIN, policy={"prohibited": ["tcp"]})) == []
    assert names(selector.select(security=PLAIN)) == ["TCP"]


def test_nothing_else_is_a_policy(everything):
    with pytest.raises(TypeError, match="Policy expected"):
        select(everything, policy=["tcp"])


# -- availability


def test_what_cannot_run_here_is_rejected_with_reason_and_remedy(usual, synthetic):
    usual.sctp.unavailable("the kernel has no SCTP", "modprobe sctp")
    selection = select(synthetic.installed([usual.tcp, usual.sctp]), security=PLAIN)
    assert names(selection) == ["TCP"]
    assert sentences(selection, "SCTP") == [
        "SCTP cannot run here: the kernel has no SCTP (modprobe sctp)"
    ]


def test_availability_is_asked_once_until_told_otherwise(usual, synthetic):
    plugins = synthetic.installed([usual.tcp])
    selector = Selector(plugins)
    for priority in range(20):
        selector.select(TransportProperties(conn_priority=priority), security=PLAIN)
    assert usual.tcp.asked == 1
    usual.tcp.unavailable("it was unloaded")
    assert names(selector.select(security=PLAIN)) == ["TCP"]
    plugins.refresh()
    selector.invalidate()
    assert names(selector.select(security=PLAIN)) == []


# -- what it remembers


@pytest.mark.requirement("R-9622-6.2-02", "R-9621-3.4-02")
def test_equal_requests_share_one_outcome(everything):
    selector = Selector(everything)
    one = selector.select(TransportProperties(conn_timeout=5).avoid("keepAlive"))
    other = selector.select(TransportProperties().avoid("keepAlive").set("conn-timeout", 5))
    assert one is other
    assert selector.select(TransportProperties().avoid("keepAlive")) is not one


def test_values_that_cannot_be_hashed_are_no_obstacle(everything):
    selector = Selector(everything)
    properties = TransportProperties().set("_vendor.list", [1, 2])
    assert names(selector.select(properties)) == names(selector.select())


def test_what_it_remembers_is_bounded(everything):
    selector = Selector(everything)
    for priority in range(600):
        selector.select(TransportProperties(conn_priority=priority))
    assert len(selector._selections) <= 256


# -- what it says


def test_nothing_installed_says_what_to_install(synthetic):
    with pytest.raises(NoCandidates, match="pip install taps-tcp"):
        select(synthetic.installed()).candidates()


def test_candidates_are_given_where_there_are_some(everything):
    selection = select(everything)
    assert selection.candidates() == selection.ranked
    assert [each.place for each in selection] == [1, 2, 3]
    assert len(selection) == 3


@pytest.mark.requirement("R-9623-3.1-02", "R-9623-4.4.1-03", "R-9623-3.2-03")
def test_the_error_is_readable(usual, synthetic):
    usual.sctp.unavailable("the kernel has no SCTP", "modprobe sctp")
    plugins = synthetic.installed([usual.tcp, usual.udp, usual.sctp])
    properties = TransportProperties().require("perMsgReliability")
    with pytest.raises(NoCandidates) as caught:
        select(plugins, properties, security=PLAIN).candidates()
    assert str(caught.value) == (
        """\
no installed Protocol Stack can do this, and nothing was sent:
  SCTP cannot run here: the kernel has no SCTP (modprobe sctp)
  TCP: perMsgReliability is required by the application, and TCP lacks it
  UDP: reliability is required by the RFC's default, and UDP lacks it
  UDP: perMsgReliability is required by the application, and UDP lacks it
  UDP: preserveOrder is required by the RFC's default, and UDP lacks it
  UDP: congestionControl is required by the RFC's default, and UDP lacks it
  UDP may deliver a Message twice, so safelyReplayable must be set on the
    Preconnection (RFC 9622, 9.1.3.4)"""
    )
    assert caught.value.reason is Reason.NO_CANDIDATES
    assert caught.value.rejected["TCP"] == (
        "perMsgReliability is required by the application, and TCP lacks it",
    )


def test_the_ranking_is_readable(usual, synthetic):
    plugins = synthetic.installed([usual.tcp, usual.udp, usual.quic], [usual.tls])
    properties = TransportProperties(conn_timeout=5).prefer("zeroRttMsg").avoid("reliability")
    assert str(select(plugins, properties, framers=[synthetic.framer()])) == (
        """\
for initiate:
  1. line/TLS/TCP
     secured by TLS (TLSv1.3 and TLSv1.2)
     TCP has zeroRttMsg, which the application prefers
     TCP always has reliability, which the application avoids
     connTimeout: no effect on line/TLS/TCP
  2. line/QUIC
     secured by QUIC (QUICv1)
     QUIC has zeroRttMsg, which the application prefers
     QUIC always has reliability, which the application avoids
     no evidence that the peer speaks QUIC: after what any peer speaks
     QUIC has multistreaming, which the RFC's default prefers
     connTimeout: no effect on line/QUIC
rejected:
  line/TCP: is plaintext, and security is required:
    SecurityParameters.disabled() or .opportunistic() would allow it
  line/UDP: preserveOrder is required by the RFC's default, and UDP lacks it
  line/UDP: congestionControl is required by the RFC's default, and UDP lacks it
  line/UDP: UDP may deliver a Message twice, so safelyReplayable must be set on
    the Preconnection (RFC 9622, 9.1.3.4)
  line/UDP: UDP has no security of its own and no installed security layer runs
    over it: pass SecurityParameters.disabled() to go without"""
    )


def test_the_same_goes_to_json(everything, synthetic):
    properties = TransportProperties(conn_timeout=5).prefer("multistreaming")
    selection = select(everything, properties, framers=[synthetic.framer()])
    written = json.loads(json.dumps(selection.as_json()))
    first = written["ranked"][0]
    assert written["role"] == "initiate"
    assert first["place"] == 1
    assert first["stack"] == "line/DTLS/SCTP"
    assert (first["transport"], first["security"], first["framers"]) == ("sctp", "dtls", ["line"])
    assert first["racing_class"] == [True, "DTLSv1.2"]
    assert first["support"]["multistreaming"] == {"support": "optional", "from": "SCTP"}
    assert first["no_effect"] == ["connTimeout"]
    assert {
        "sentence": "SCTP has multistreaming, which the application prefers",
        "by": "the application",
        "property": "multistreaming",
    } in first["reasons"]
    assert {each["stack"] for each in written["rejected"]} >= {"line/TCP", "line/UDP"}


def test_rendezvous_takes_only_transports_that_have_it(synthetic):
    meeting, plain = synthetic.transport("meeting"), synthetic.transport("plain")
    plain.rendezvous = False
    selection = select(synthetic.installed([meeting, plain]), role="rendezvous", security=PLAIN)
    assert names(selection) == ["MEETING"]
    assert sentences(selection, "PLAIN") == ["PLAIN has no Rendezvous"]
