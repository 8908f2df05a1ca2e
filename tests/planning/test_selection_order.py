"""The order of candidates: the key from left to right, and what never changes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.model.capabilities import (
    Capabilities,
    DataUnit,
    Protection,
    Support,
)
from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import EstablishmentError
from taps_core.model.properties import (
    PROPERTIES,
    Kind,
    Preference,
    TransportProperties,
    ValueType,
)
from taps_core.model.security import SecurityParameters
from taps_core.planning.selection import By, Policy, Selector, select

A, O, N = Support.ALWAYS, Support.OPTIONAL, Support.NEVER  # noqa: E741  # read as columns
PLAIN = SecurityParameters.disabled()
MATCHED = [
    row.name
    for row in PROPERTIES.values()
    if row.kind is Kind.SELECTION
    and row.value_type is ValueType.PREFERENCE
    and row.name != "useTemporaryLocalAddress"
]


def names(selection):
    return [each.stack.name for each in selection]


# -- each part of the key goes before the next


def test_default_properties_try_first_what_any_peer_speaks(everything):
    # multistreaming is preferred by default, and TCP lacks it.
    assert names(select(everything, security=PLAIN)) == ["TCP", "QUIC", "SCTP"]


def test_an_explicit_prefer_goes_before_deployability(everything):
    properties = TransportProperties().prefer("multistreaming")
    assert names(select(everything, properties, security=PLAIN)) == ["QUIC", "SCTP", "TCP"]


@pytest.mark.requirement("R-9623-4.1.3-06")
def test_prefers_go_before_avoids(synthetic):
    plugins = synthetic.installed(
        [
            synthetic.transport("a", Capabilities.byte_stream(keepAlive=N, zeroRttMsg=N)),
            synthetic.transport("b", Capabilities.byte_stream(keepAlive=O, zeroRttMsg=A)),
        ]
    )
    properties = TransportProperties().prefer("keepAlive").avoid("zeroRttMsg")
    assert names(select(plugins, properties, security=PLAIN)) == ["B", "A"]


def test_one_avoid_that_is_always_there_is_worse_than_two_that_can_be_left_out(synthetic):
    plugins = synthetic.installed(
        [
            synthetic.transport("a", Capabilities.byte_stream(keepAlive=A, zeroRttMsg=N)),
            synthetic.transport("b", Capabilities.byte_stream(keepAlive=O, zeroRttMsg=O)),
        ]
    )
    properties = TransportProperties().avoid("keepAlive", "zeroRttMsg")
    assert names(select(plugins, properties, security=PLAIN)) == ["B", "A"]


def test_avoids_go_before_policy_and_policy_before_deployability(synthetic):
    plugins = synthetic.installed(
        [
            synthetic.transport("a", Capabilities.byte_stream(keepAlive=O)),
            synthetic.transport("b", deployable=False),
            synthetic.transport("c"),
        ]
    )
    avoid = TransportProperties().avoid("keepAlive")
    policy = Policy(preferred=["a", "b"])
    assert names(select(plugins, avoid, security=PLAIN, policy=policy)) == ["B", "C", "A"]
    assert names(select(plugins, security=PLAIN, policy=policy)) == ["A", "B", "C"]
    assert names(select(plugins, security=PLAIN, policy={"avoided": ["a"]})) == ["C", "B", "A"]


def test_policy_reasons_are_given(everything):
    selection = select(everything, policy=Policy(avoided=["tcp"], preferred=["quic"]))
    assert names(selection) == ["QUIC", "DTLS/SCTP", "TLS/TCP"]
    reasons = {
        each.stack.name: [w.sentence for w in each.reasons if w.by is By.POLICY]
        for each in selection
    }
    assert reasons == {
        "QUIC": ["system policy prefers quic"],
        "DTLS/SCTP": [],
        "TLS/TCP": ["system policy avoids tcp"],
    }


def test_what_is_used_on_request_is_no_candidate_unless_it_is_asked_for(synthetic):
    plugins = synthetic.installed(
        [
            synthetic.transport("a"),
            synthetic.transport("b", deployable=False, on_request=True),
        ]
    )
    remote = RemoteEndpoint(hostname="example.net", port=7)
    usual = select(plugins, security=PLAIN, remote=[remote])
    assert names(usual) == ["A"]
    (why,) = usual.rejected[0].reasons
    assert 'protocol="b" on an Endpoint' in why.sentence
    for role, endpoints in (
        ("initiate", {"remote": [remote.with_protocol("b")]}),
        ("listen", {"local": [LocalEndpoint(port=7, protocol="b")]}),
    ):
        assert names(select(plugins, security=PLAIN, role=role, **endpoints)) == ["B"]
    policy = Policy(preferred=["b"])
    assert names(select(plugins, security=PLAIN, remote=[remote], policy=policy)) == ["B", "A"]
    evidence = frozenset({"b"})
    assert "B" in names(select(plugins, security=PLAIN, remote=[remote], evidence=evidence))


@pytest.mark.requirement("R-9623-4.1.1.3-02")
def test_evidence_makes_a_protocol_as_good_as_one_that_any_peer_speaks(everything):
    assert names(select(everything, security=PLAIN, evidence=frozenset({"quic"}))) == [
        "QUIC",  # both are deployable now, and the default prefers multistreaming
        "TCP",
        "SCTP",
    ]
    remote = [
        RemoteEndpoint(hostname="a.example", port=1, protocol="sctp"),
        RemoteEndpoint(hostname="a.example", port=2),
    ]
    selection = select(everything, security=PLAIN, remote=remote)
    assert names(selection) == ["SCTP", "TCP", "QUIC"]
    assert "there is evidence that the peer speaks SCTP" in map(str, selection.ranked[0].reasons)


def test_the_name_decides_last(synthetic):
    plugins = synthetic.installed(map(synthetic.transport, "cba"))
    assert names(select(plugins, security=PLAIN)) == ["A", "B", "C"]


# -- for whatever is installed and whatever is asked for

tables = st.builds(
    lambda unit, support, effects, duplicates, protection: Capabilities(
        data_unit=unit,
        support=support,
        effects=effects,
        may_duplicate=duplicates,
        protection=protection,
    ),
    st.sampled_from(DataUnit),
    st.dictionaries(
        st.sampled_from([*MATCHED, "multipath", "direction"]), st.sampled_from(Support)
    ),
    st.dictionaries(st.sampled_from(["connTimeout", "msgOrdered"]), st.sampled_from(Support)),
    st.booleans(),
    st.none() | st.builds(Protection, protocols=st.just(("Sv1",)), authenticates=st.booleans()),
)
plugin_tables = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=2), st.tuples(tables, st.booleans()), max_size=6
)
layer_tables = st.dictionaries(
    st.text("xyz", min_size=1, max_size=1),
    st.tuples(
        st.frozensets(st.sampled_from(DataUnit), min_size=1),
        st.frozensets(st.sampled_from(MATCHED), max_size=2),
        st.dictionaries(st.sampled_from(MATCHED), st.sampled_from(Support), max_size=3),
    ),
    max_size=2,
)
wishes = st.builds(
    lambda preferences, more: TransportProperties(**preferences, **more),
    st.dictionaries(
        st.sampled_from([PROPERTIES[name].snake_name for name in MATCHED]),
        st.sampled_from(Preference),
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "multipath": st.sampled_from(["Disabled", "Active", "Passive"]),
            "direction": st.sampled_from(["Bidirectional", "Unidirectional send"]),
            "safely_replayable": st.booleans(),
            "conn_timeout": st.just(5),
        },
    ),
)
securities = st.sampled_from([SecurityParameters(), PLAIN, SecurityParameters.opportunistic()])
roles = st.sampled_from(["initiate", "listen", "rendezvous"])
policies = st.builds(
    lambda prohibited, preferred: Policy(prohibited=prohibited, preferred=preferred),
    st.frozensets(st.sampled_from("abcx"), max_size=1),
    st.frozensets(st.sampled_from("abcx"), max_size=1),
)
framer_lists = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=2)


def install(synthetic, transports, layers, backwards=False):
    step = -1 if backwards else 1
    return synthetic.installed(
        [
            synthetic.transport(name, table, deployable=deployable)
            for name, (table, deployable) in list(transports.items())[::step]
        ],
        [
            synthetic.layer(name, over=over, needs=needs, changes=changes)
            for name, (over, needs, changes) in list(layers.items())[::step]
        ],
    )


def outcome(plugins, properties, **how):
    try:
        return Selector(plugins).select(properties, **how)
    except EstablishmentError as error:
        assert "yet perMsgReliability is required" in str(error)  # noqa: PT017  # the only contradiction here
        return None


@pytest.mark.requirement("R-9622-6.2-01", "R-9621-3.3-02")
@given(plugin_tables, layer_tables, wishes, securities, roles, framer_lists)
def test_require_and_prohibit_are_never_violated(
    synthetic, transports, layers, properties, security, role, framed
):
    plugins = install(synthetic, transports, layers)
    framers = [synthetic.framer("f", boundaries=b, below_security=s) for b, s in framed]
    selection = outcome(plugins, properties, security=security, role=role, framers=framers)
    if selection is None:
        return
    wanted = properties.effective(role)
    for ranked in selection:
        stack = ranked.stack
        for name in MATCHED:
            if name == "activeReadBeforeSend" and role == "rendezvous":
                continue
            if wanted[name] is Preference.REQUIRE:
                assert stack.capabilities.support.get(name, N) is not N
            if wanted[name] is Preference.PROHIBIT:
                assert stack.bare.support.get(name, N) is not A
        if stack.capabilities.may_duplicate:
            assert wanted["safelyReplayable"]
        if security.mode is SecurityParameters().mode:
            assert stack.capabilities.protection is not None
            assert stack.capabilities.protection.authenticates
        if security.mode is PLAIN.mode:
            assert stack.security is None


@given(plugin_tables, layer_tables, wishes, securities, roles, policies)
def test_every_stack_is_ranked_or_rejected_with_a_reason(
    synthetic, transports, layers, properties, security, role, policy
):
    plugins = install(synthetic, transports, layers)
    selection = outcome(plugins, properties, security=security, role=role, policy=policy)
    if selection is None:
        return
    everywhere = [each.stack.name for each in (*selection.ranked, *selection.rejected)]
    assert len(everywhere) == len(set(everywhere))
    assert all(each.reasons for each in (*selection.ranked, *selection.rejected))
    assert {name.rpartition("/")[2].lower() for name in everywhere} == set(transports)


@pytest.mark.requirement("R-9622-6.2-02", "R-9621-3.4-02", "R-9623-4.1.3-07")
@given(plugin_tables, layer_tables, wishes, securities, roles, policies)
def test_equal_input_has_equal_outcome_whatever_the_order_of_plugins(
    synthetic, transports, layers, properties, security, role, policy
):
    how = {"security": security, "role": role, "policy": policy}
    one = outcome(install(synthetic, transports, layers), properties, **how)
    other = outcome(
        install(synthetic, transports, layers, backwards=True), properties.copy(), **how
    )
    assert (one is None) == (other is None)
    if one is not None:
        assert one.as_json() == other.as_json()


@given(plugin_tables, layer_tables, wishes, securities, roles, policies, st.data())
def test_adding_a_plugin_never_reorders_the_others(
    synthetic, transports, layers, properties, security, role, policy, data
):
    how = {"security": security, "role": role, "policy": policy}
    fewer_transports = {
        name: table for name, table in transports.items() if data.draw(st.booleans(), label=name)
    }
    fewer_layers = {
        name: table for name, table in layers.items() if data.draw(st.booleans(), label=name)
    }
    before = outcome(install(synthetic, fewer_transports, fewer_layers), properties, **how)
    after = outcome(install(synthetic, transports, layers), properties, **how)
    if before is None:
        assert after is None
        return
    kept = set(names(before))
    assert [name for name in names(after) if name in kept] == names(before)
    # Nor does it bring one in that was out, or put one out that was in.
    assert not kept & {each.stack.name for each in after.rejected}
