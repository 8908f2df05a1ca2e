"""The table of properties, and what applications set."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.model.errors import PropertyError, Reason
from taps_core.model.properties import (
    DSCP,
    EXTENSIONS,
    PROPERTIES,
    CapacityProfile,
    Direction,
    Kind,
    Multipath,
    MultipathPolicy,
    Preference,
    Property,
    Scheduler,
    TransportProperties,
    ValueType,
    connection_property,
    find_property,
    message_name,
    message_property,
)

P = Preference

# RFC 9622 by hand, apart from the table: name, section, default.
SELECTION = {
    "reliability": ("6.2.1", P.REQUIRE),
    "preserveMsgBoundaries": ("6.2.2", P.NO_PREFERENCE),
    "perMsgReliability": ("6.2.3", P.NO_PREFERENCE),
    "preserveOrder": ("6.2.4", P.REQUIRE),
    "zeroRttMsg": ("6.2.5", P.NO_PREFERENCE),
    "multistreaming": ("6.2.6", P.PREFER),
    "fullChecksumSend": ("6.2.7", P.REQUIRE),
    "fullChecksumRecv": ("6.2.8", P.REQUIRE),
    "congestionControl": ("6.2.9", P.REQUIRE),
    "keepAlive": ("6.2.10", P.NO_PREFERENCE),
    "interface": ("6.2.11", frozenset()),
    "pvd": ("6.2.12", frozenset()),
    "useTemporaryLocalAddress": ("6.2.13", None),
    "multipath": ("6.2.14", None),
    "advertisesAltaddr": ("6.2.15", False),
    "direction": ("6.2.16", Direction.BIDIRECTIONAL),
    "softErrorNotify": ("6.2.17", P.NO_PREFERENCE),
    "activeReadBeforeSend": ("6.2.18", P.NO_PREFERENCE),
}
CONNECTION = {
    "recvChecksumLen": ("8.1.1", math.inf),
    "connPriority": ("8.1.2", 100),
    "connTimeout": ("8.1.3", math.inf),
    "keepAliveTimeout": ("8.1.4", math.inf),
    "connScheduler": ("8.1.5", Scheduler.WEIGHTED_FAIR_QUEUEING),
    "connCapacityProfile": ("8.1.6", CapacityProfile.DEFAULT),
    "multipathPolicy": ("8.1.7", MultipathPolicy.HANDOVER),
    "minSendRate": ("8.1.8", math.inf),
    "minRecvRate": ("8.1.8", math.inf),
    "maxSendRate": ("8.1.8", math.inf),
    "maxRecvRate": ("8.1.8", math.inf),
    "groupConnLimit": ("8.1.9", math.inf),
    "isolateSession": ("8.1.10", False),
}
STATE = {
    "connState": ("8.1.11.1", None),
    "canSend": ("8.1.11.2", None),
    "canReceive": ("8.1.11.3", None),
    "singularTransmissionMsgMaxLen": ("8.1.11.4", None),
    "sendMsgMaxLen": ("8.1.11.5", None),
    "recvMsgMaxLen": ("8.1.11.6", None),
}
MESSAGE = {
    "msgLifetime": ("9.1.3.1", math.inf),
    "msgPriority": ("9.1.3.2", 100),
    "msgOrdered": ("9.1.3.3", None),
    "safelyReplayable": ("9.1.3.4", False),
    "final": ("9.1.3.5", False),
    "msgChecksumLen": ("9.1.3.6", math.inf),
    "msgReliable": ("9.1.3.7", None),
    "msgCapacityProfile": ("9.1.3.8", None),
    "noFragmentation": ("9.1.3.9", False),
    "noSegmentation": ("9.1.3.10", False),
}
RECEIVED = {
    "ecn": ("9.3.3.1", None),
    "earlyData": ("9.3.3.2", False),
    "receivedFinal": ("9.3.3.3", False),
}
ALL = {**SELECTION, **CONNECTION, **STATE, **MESSAGE, **RECEIVED}

SETTABLE = [row for row in PROPERTIES.values() if not row.read_only]
PREFERENCES = [row.name for row in SETTABLE if row.value_type is ValueType.PREFERENCE]


def spellings(name: str) -> list[str]:
    snake = find_property(name).snake_name
    pascal = name[0].upper() + name[1:]
    return [name, pascal, name.upper(), name.lower(), snake, snake.upper(), snake.replace("_", "-")]


# -- the table


@pytest.mark.requirement("R-9622-5-02", "R-9622-5-03")
def test_every_property_of_the_rfc_is_there_and_no_other():
    assert set(PROPERTIES) == set(ALL)
    assert len(SELECTION) == 18
    assert len(MESSAGE) + len(RECEIVED) == 13


@pytest.mark.parametrize("name", ALL)
def test_section_and_default_are_the_rfcs(name):
    section, default = ALL[name]
    assert PROPERTIES[name].rfc_section == section
    assert PROPERTIES[name].default == default


def test_kinds_are_the_rfcs():
    of_kind = {kind: {n for n, row in PROPERTIES.items() if row.kind is kind} for kind in Kind}
    assert of_kind == {
        Kind.SELECTION: set(SELECTION),
        Kind.CONNECTION: {*CONNECTION, *STATE},
        Kind.MESSAGE: {*MESSAGE, *RECEIVED},
    }


def test_state_and_what_was_received_are_read_only():
    assert {n for n, row in PROPERTIES.items() if row.read_only} == {*STATE, *RECEIVED}


@pytest.mark.requirement("G-9622-7.4-01", "G-9622-7.4-02")
def test_every_settable_connection_property_but_conn_priority_is_shared_by_the_group():
    shared = {name for name, row in PROPERTIES.items() if row.group_shared}
    assert shared == set(CONNECTION) - {"connPriority"}


@pytest.mark.requirement("R-9622-4.1-01")
def test_generic_properties_have_no_namespace():
    assert not [name for name in PROPERTIES if "." in name]


def test_every_row_says_what_it_means():
    assert all(row.meaning.endswith(".") and "\n" not in row.meaning for row in PROPERTIES.values())


@pytest.mark.requirement(
    "R-9622-8.1.6-03",
    "R-9622-8.1.6-04",
    "R-9622-8.1.6-06",
    "R-9622-8.1.6-08",
    "R-9622-8.1.6-10",
    "R-9622-8.1.6-11",
)
def test_capacity_profiles_have_the_rfcs_code_points():
    def af(n):
        return tuple(8 * n + 2 * drop for drop in (1, 2, 3))

    expected = {
        CapacityProfile.DEFAULT: (0,),
        CapacityProfile.SCAVENGER: (1,),
        CapacityProfile.LOW_LATENCY_INTERACTIVE: af(4),
        CapacityProfile.LOW_LATENCY_NON_INTERACTIVE: af(2),
        CapacityProfile.CONSTANT_RATE_STREAMING: af(3),
        CapacityProfile.CAPACITY_SEEKING: af(1),
    }
    assert expected == DSCP


def test_preferences_have_the_rfcs_numbers_and_names():
    assert [(p.value, str(p)) for p in Preference] == [
        (2, "Require"),
        (1, "Prefer"),
        (0, "No Preference"),
        (-1, "Avoid"),
        (-2, "Prohibit"),
    ]


# -- names


@pytest.mark.requirement("G-9622-4.1-01")
@pytest.mark.parametrize("name", ALL)
def test_names_are_taken_in_every_style_and_case(name):
    assert {find_property(each).name for each in spellings(name)} == {name}


@pytest.mark.parametrize("name", [*MESSAGE, *RECEIVED])
def test_message_properties_go_without_msg_too(name):
    short = find_property(name).snake_name.removeprefix("msg_")
    for each in (*spellings(name), short, short.upper(), short.replace("_", "-")):
        assert message_name(each) == name


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("presrveOrder", "preserveOrder"),
        ("preserve_ordr", "preserve_order"),
        ("conn_capacity", "conn_capacity_profile"),
        ("keepalivetimout", "keep_alive_timeout"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, suggested):
    with pytest.raises(PropertyError, match=f"no property '{name}'; did you mean .*{suggested}"):
        TransportProperties().set(name, 1)


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(PropertyError, match=r"there is no property 'xyzzy'$"):
        find_property("xyzzy")


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("lifetim", "lifetime"), ("msgLifetim", "msgLifetime"), ("prio", "priority")],
)
def test_an_unknown_message_property_is_answered_with_the_nearest(name, suggested):
    with pytest.raises(PropertyError, match=f"'{name}'; did you mean {suggested}"):
        message_property(name, 1)


def test_a_message_property_is_told_from_the_other_kinds():
    with pytest.raises(PropertyError, match="connPriority is a Connection Property, not a Message"):
        message_property("conn_priority", 1)
    with pytest.raises(PropertyError, match="reliability is a Selection Property"):
        message_property("reliability", 1)


def test_a_property_error_is_a_value_error_with_a_reason():
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the type is the point
        find_property("nothing")
    assert isinstance(caught.value, PropertyError)
    assert caught.value.reason is Reason.INVALID_CONFIGURATION


@pytest.mark.parametrize("name", [*STATE, *RECEIVED])
def test_read_only_properties_cannot_be_set(name):
    with pytest.raises(PropertyError, match="read-only"):
        TransportProperties().set(name, 1)
    setter = message_property if name in RECEIVED else connection_property
    with pytest.raises(PropertyError, match="read-only"):
        setter(name, 1)


@pytest.mark.requirement("G-9622-4-01")
@pytest.mark.parametrize("name", SELECTION)
def test_selection_properties_cannot_be_set_on_a_connection(name):
    with pytest.raises(PropertyError, match="before establishment"):
        connection_property(name, P.REQUIRE)


@pytest.mark.parametrize("name", [*CONNECTION, *MESSAGE])
def test_connection_properties_and_message_defaults_can_be_set_on_a_connection(name):
    row = PROPERTIES[name]
    value = {
        ValueType.BOOLEAN: True,
        ValueType.INTEGER: 7,
        ValueType.NUMERIC: 7.5,
    }.get(row.value_type, row.values and next(iter(row.values)))
    assert connection_property(row.snake_name, value) == (row, value)


# -- values


@pytest.mark.parametrize("name", PREFERENCES)
@pytest.mark.parametrize("preference", Preference)
def test_preferences_are_taken_as_members_and_by_name(name, preference):
    for given_ in (preference, preference.name, preference.name.lower(), str(preference)):
        assert TransportProperties().set(name, given_).get(name) is preference


@pytest.mark.parametrize("name", PREFERENCES)
@pytest.mark.parametrize("value", [True, False, 2, None, "required", object()])
def test_nothing_else_is_a_preference(name, value):
    with pytest.raises(PropertyError, match=f"{name}: .* is not one of Require, Prefer"):
        TransportProperties().set(name, value)


def test_a_boolean_for_a_preference_names_the_preference():
    with pytest.raises(PropertyError, match="did you mean Prohibit"):
        TransportProperties(reliability=False)


@pytest.mark.parametrize("row", [row for row in SETTABLE if row.values], ids=lambda row: row.name)
def test_enumerations_take_members_values_and_names_only(row):
    for member in row.values:
        for given_ in (
            member,
            member.value,
            member.value.upper(),
            member.name,
            member.name.lower(),
        ):
            assert row.check(given_) is member
    for wrong in ("nothing", 1, None, P.REQUIRE, True):
        with pytest.raises(PropertyError, match=f"{row.name}: .* is not one of"):
            row.check(wrong)


@pytest.mark.parametrize(
    "row",
    [row for row in SETTABLE if row.value_type is ValueType.BOOLEAN],
    ids=lambda row: row.name,
)
def test_booleans_take_nothing_but_true_and_false(row):
    assert row.check(True) is True
    assert row.check(False) is False
    for wrong in (0, 1, "true", None, P.REQUIRE):
        with pytest.raises(PropertyError, match="is not True or False"):
            row.check(wrong)


NUMBERS = [row for row in SETTABLE if row.value_type in (ValueType.INTEGER, ValueType.NUMERIC)]


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_numbers_keep_to_their_range(row):
    assert row.check(1) == 1
    assert row.minimum == 0
    if row.exclusive:
        with pytest.raises(PropertyError, match="above 0"):
            row.check(0)
    else:
        assert row.check(0) == 0
    for wrong in (-1, -math.inf, math.nan, True, "1", None, 1j):
        with pytest.raises(PropertyError, match=row.name):
            row.check(wrong)


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_inf_stands_for_the_special_value_where_there_is_one(row):
    if row.special is None:
        with pytest.raises(PropertyError):
            row.check(math.inf)
    else:
        assert row.check(math.inf) == math.inf
        assert f"math.inf for {row.special}" in row.expects


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False))
def test_integers_take_no_floats_and_numbers_do(value):
    assert PROPERTIES["connTimeout"].check(value) == value
    with pytest.raises(PropertyError, match="an integer"):
        PROPERTIES["connPriority"].check(value)


@pytest.mark.parametrize("name", ["interface", "pvd"])
def test_sets_of_preferences_are_taken_in_three_forms(name):
    expected = {(P.REQUIRE, "wlan0"), (P.AVOID, "lte")}
    as_pairs = TransportProperties().set(name, [("require", "wlan0"), (P.AVOID, "lte")])
    as_mapping = TransportProperties().set(name, {"wlan0": P.REQUIRE, "lte": "avoid"})
    chained = TransportProperties().require(**{name: "wlan0"}).avoid(**{name: ["lte"]})
    assert as_pairs.get(name) == as_mapping.get(name) == chained.get(name) == expected


def test_a_later_preference_for_an_interface_replaces_the_earlier_one():
    properties = TransportProperties().require(interface="eth0").avoid(interface="eth0")
    assert properties.get("interface") == {(P.AVOID, "eth0")}


@pytest.mark.parametrize(
    "value",
    ["wlan0", 1, [("require",)], ["ab"], [("require", "")], [("x", "wlan0")], [(P.AVOID, 1)]],
)
def test_nothing_else_is_a_set_of_preferences(value):
    with pytest.raises(PropertyError, match="interface"):
        TransportProperties(interface=value)


def test_a_name_cannot_have_two_preferences_at_once():
    with pytest.raises(PropertyError, match="'eth0' is given twice"):
        TransportProperties(interface=[("require", "eth0"), ("avoid", "eth0")])


# -- TransportProperties


@pytest.mark.requirement("R-9622-6.2-04")
@pytest.mark.parametrize("preference", Preference)
def test_shortcuts_set_preferences_and_can_be_chained(preference):
    properties = TransportProperties()
    shortcut = getattr(properties, preference.name.lower())
    assert shortcut("reliability", "preserve_order") is properties
    assert properties.get("reliability") is preference
    assert properties.get("preserveOrder") is preference


@pytest.mark.parametrize("name", ["connTimeout", "multipath", "direction", "final"])
def test_shortcuts_are_for_preferences_only(name):
    with pytest.raises(PropertyError, match="not a preference"):
        TransportProperties().require(name)


def test_a_shortcut_for_interfaces_asks_which():
    with pytest.raises(PropertyError, match=r"require\(interface='…'\)"):
        TransportProperties().require("interface")
    with pytest.raises(PropertyError, match="not a set of names"):
        TransportProperties().require(reliability="wlan0")


@pytest.mark.requirement("G-9622-6.2-01")
def test_setting_again_replaces_the_earlier_value():
    properties = TransportProperties(conn_timeout=1).set("connTimeout", 2)
    assert properties.get("conn-timeout") == 2
    assert dict(properties.explicit) == {"connTimeout": 2}


def test_a_refused_value_leaves_the_earlier_one():
    properties = TransportProperties(conn_timeout=1)
    with pytest.raises(PropertyError):
        properties.set("connTimeout", -1)
    assert properties.get("connTimeout") == 1


def test_unset_is_not_a_value():
    properties = TransportProperties()
    assert not properties.is_set("multipath")
    assert properties.get("multipath") is None
    assert properties.get("multipath", role="listen") is Multipath.PASSIVE
    properties.set("multipath", "Disabled")
    assert properties.is_set("MULTIPATH")
    assert properties.get("multipath", role="listen") is Multipath.DISABLED
    assert not properties.unset("multipath").is_set("multipath")


def test_a_copy_is_independent():
    properties = TransportProperties(conn_timeout=1)
    copy = properties.copy()
    assert copy == properties
    copy.set("connTimeout", 2)
    assert properties.get("connTimeout") == 1
    assert copy != properties
    assert TransportProperties.coerce(properties) is not properties
    assert TransportProperties.coerce({"conn_timeout": 1}) == properties
    assert TransportProperties.coerce(None) == TransportProperties()
    with pytest.raises(TypeError):
        TransportProperties.coerce("reliability")


def test_equal_contents_have_equal_keys_whatever_the_order():
    one = TransportProperties(conn_timeout=1, reliability="avoid", interface={"eth0": "avoid"})
    other = TransportProperties(interface=[(P.AVOID, "eth0")]).avoid("reliability")
    assert one.key != other.key
    other.set("connTimeout", 1)
    assert one.key == other.key
    assert hash(one.key) == hash(other.key)


@pytest.mark.requirement("R-9622-6.2-05")
@pytest.mark.parametrize(
    ("profile", "contents"),
    [
        (
            "reliable_inorder_stream",
            {
                "reliability": P.REQUIRE,
                "preserveOrder": P.REQUIRE,
                "congestionControl": P.REQUIRE,
                "preserveMsgBoundaries": P.NO_PREFERENCE,
            },
        ),
        (
            "reliable_message",
            {
                "reliability": P.REQUIRE,
                "preserveOrder": P.REQUIRE,
                "congestionControl": P.REQUIRE,
                "preserveMsgBoundaries": P.REQUIRE,
            },
        ),
        (
            "unreliable_datagram",
            {
                "reliability": P.AVOID,
                "preserveOrder": P.AVOID,
                "congestionControl": P.NO_PREFERENCE,
                "preserveMsgBoundaries": P.REQUIRE,
                "safelyReplayable": True,
            },
        ),
    ],
)
def test_profiles_have_the_rfcs_contents(profile, contents):
    assert dict(getattr(TransportProperties, profile)().explicit) == contents
    applied = TransportProperties(conn_timeout=1)
    assert getattr(applied, profile)() is applied
    assert dict(applied.explicit) == {"connTimeout": 1, **contents}


def test_it_prints_what_was_set():
    properties = TransportProperties(conn_timeout=5).require("multistreaming")
    assert repr(properties) == "TransportProperties(connTimeout=5, multistreaming=Require)"


# -- defaults


@pytest.mark.parametrize(
    ("role", "temporary", "multipath"),
    [
        ("initiate", P.PREFER, Multipath.DISABLED),
        ("clone", P.PREFER, Multipath.DISABLED),
        ("listen", P.AVOID, Multipath.PASSIVE),
        ("rendezvous", P.AVOID, Multipath.DISABLED),
    ],
)
def test_defaults_follow_the_call_that_is_made(role, temporary, multipath):
    values = TransportProperties().effective(role)
    assert values["useTemporaryLocalAddress"] is temporary
    assert values["multipath"] is multipath


@pytest.mark.parametrize("role", ["initiate", "listen", "rendezvous", "clone"])
def test_every_settable_property_has_a_value_in_effect(role):
    values = TransportProperties().effective(role)
    extensions = {row.name for row in EXTENSIONS.values() if not row.read_only}
    assert set(values) == {row.name for row in SETTABLE} | extensions
    assert None not in values.values()
    for name, value in values.items():
        assert {**PROPERTIES, **EXTENSIONS}[name].check(value) == value


@pytest.mark.requirement("G-9622-4-02")
def test_what_was_set_goes_before_the_defaults():
    values = TransportProperties(multipath="Active", msg_priority=5).effective("listen")
    assert values["multipath"] is Multipath.ACTIVE
    assert values["msgPriority"] == 5


@pytest.mark.parametrize("preference", Preference)
def test_message_defaults_derive_from_the_connections(preference):
    wanted = preference in (P.REQUIRE, P.PREFER)
    values = TransportProperties(
        reliability=preference, preserve_order=preference, conn_capacity_profile="Scavenger"
    ).effective("initiate")
    assert values["msgReliable"] is wanted
    assert values["msgOrdered"] is wanted
    assert values["msgCapacityProfile"] is CapacityProfile.SCAVENGER


def test_message_defaults_that_are_set_derive_from_nothing():
    values = TransportProperties(msg_ordered=False, msg_capacity_profile="Default").effective(
        "clone"
    )
    assert values["msgOrdered"] is False
    assert values["msgCapacityProfile"] is CapacityProfile.DEFAULT


# -- protocol-specific properties

TIMEOUT = Property(
    "tcp.userTimeoutValue",
    Kind.CONNECTION,
    ValueType.INTEGER,
    meaning="Timeout advertised to the peer.",
    rfc_section="8.2.1",
    minimum=1,
)
FIGURE = Property(
    "tcp.figure", Kind.CONNECTION, ValueType.INTEGER, meaning="A figure.", read_only=True
)


@pytest.mark.requirement("R-9622-4.1-02", "R-9621-3.2-01")
@pytest.mark.parametrize(
    "name", ["tcp.userTimeoutValue", "TCP.user_timeout_value", "tcp.user-timeout-value"]
)
def test_plugins_declare_protocol_specific_properties(name):
    properties = TransportProperties().set(name, 5)
    assert properties.is_set("tcp.usertimeoutvalue")
    assert properties.effective("initiate", [TIMEOUT, FIGURE])["tcp.userTimeoutValue"] == 5
    assert connection_property(name, 5, [TIMEOUT]) == (TIMEOUT, 5)


def test_a_namespaced_name_has_one_value_however_it_is_spelt():
    properties = TransportProperties().set("tcp.userTimeoutValue", 5)
    properties.set("tcp.user_timeout_value", 6)
    assert properties.get("tcp.userTimeoutValue") == 6
    assert len(properties.explicit) == 1


def test_namespaced_names_are_checked_against_the_plugin_that_has_the_namespace():
    definitions = [TIMEOUT, FIGURE]
    with pytest.raises(PropertyError, match=r"did you mean tcp\.userTimeoutValue"):
        TransportProperties().set("tcp.userTimeoutValu", 5).effective("initiate", definitions)
    with pytest.raises(PropertyError, match="an integer of at least 1"):
        TransportProperties().set("tcp.userTimeoutValue", 0).effective("initiate", definitions)
    with pytest.raises(PropertyError, match="read-only"):
        TransportProperties().set("tcp.figure", 0).effective("initiate", definitions)


@pytest.mark.requirement("G-9622-4-03")
def test_names_of_plugins_that_are_not_there_are_kept():
    properties = TransportProperties().set("tcp.userTimeoutValue", 5).set("_vendor.x", "y")
    values = properties.effective("initiate")
    assert values["tcp.userTimeoutValue"] == 5
    assert values["_vendor.x"] == "y"
    # The vendor's namespace is not the protocol's.
    assert not properties.is_set("vendor.x")


def test_a_stack_that_does_not_know_a_namespaced_name_refuses_it():
    with pytest.raises(PropertyError, match="means nothing to the stack"):
        connection_property("tcp.userTimeoutValue", 5)
    with pytest.raises(PropertyError, match=r"did you mean tcp\.userTimeoutValue"):
        connection_property("tcp.userTimeoutVal", 5, [TIMEOUT])


def test_namespaced_message_properties_are_for_the_stack_to_judge():
    assert message_property("sctp.ppid", 5) == ("sctp.ppid", 5)
    assert message_name("sctp.ppid") == "sctp.ppid"
