"""Properties: what NEATPy's names, values and defaults mean below."""

from __future__ import annotations

import math
from typing import Any

import pytest

import neatpy
import taps_core as taps
from neatpy import (
    CapacityProfiles,
    CommunicationDirections,
    ConnectionProperties,
    MessageProperties,
    PreferenceLevel,
    SelectionProperties,
    TCPUserTimeout,
    TransportProperties,
    TransportPropertyProfiles,
)
from neatpy.selection_properties import AddressPreference

S, C, M = SelectionProperties, ConnectionProperties, MessageProperties
#: In every set of NEATPy's, as its defaults differ.
OWN = {"preserveMsgBoundaries": taps.Preference.PREFER}


def below(properties: TransportProperties) -> dict[str, Any]:
    """What the core is told, but for the default of priorities."""
    told = dict(properties._to_taps().explicit)
    assert told.pop("msgPriority") > 10**9
    return told


def set_to(prop: Any, value: Any) -> dict[str, Any]:
    properties = TransportProperties()
    properties.add(prop, value)
    return {name: each for name, each in below(properties).items() if OWN.get(name) != each}


def test_defaults_are_neatpys_where_they_differ() -> None:
    assert below(TransportProperties()) == OWN


@pytest.mark.parametrize("verb", ["require", "prefer", "ignore", "avoid", "prohibit"])
def test_each_verb_sets_its_preference(verb: str) -> None:
    properties = TransportProperties()
    getattr(properties, verb)(S.ZERO_RTT_MSG)
    wanted = taps.Preference[verb.upper().replace("IGNORE", "NO_PREFERENCE")]
    assert below(properties) == {**OWN, "zeroRttMsg": wanted}
    properties.default(S.ZERO_RTT_MSG)
    assert below(properties) == OWN


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        (
            TransportPropertyProfiles.RELIABLE_INORDER_STREAM,
            {
                "reliability": taps.Preference.REQUIRE,
                "preserveOrder": taps.Preference.REQUIRE,
                "congestionControl": taps.Preference.REQUIRE,
                "preserveMsgBoundaries": taps.Preference.PROHIBIT,
            },
        ),
        (
            TransportPropertyProfiles.RELIABLE_MESSAGE,
            {
                "reliability": taps.Preference.REQUIRE,
                "preserveOrder": taps.Preference.REQUIRE,
                "congestionControl": taps.Preference.REQUIRE,
                "preserveMsgBoundaries": taps.Preference.REQUIRE,
            },
        ),
        (
            TransportPropertyProfiles.UNRELIABLE_DATAGRAM,
            {
                "reliability": taps.Preference.PROHIBIT,
                "preserveOrder": taps.Preference.NO_PREFERENCE,
                "congestionControl": taps.Preference.NO_PREFERENCE,
                "preserveMsgBoundaries": taps.Preference.REQUIRE,
                "safelyReplayable": True,
            },
        ),
    ],
)
def test_profiles_are_what_they_were(
    profile: TransportPropertyProfiles, told: dict[str, Any]
) -> None:
    assert below(TransportProperties(profile)) == told


@pytest.mark.parametrize(
    ("prop", "value", "told"),
    [
        (S.MULTIPATH, PreferenceLevel.REQUIRE, {"multipath": taps.Multipath.ACTIVE}),
        (S.MULTIPATH, PreferenceLevel.IGNORE, {"multipath": taps.Multipath.PASSIVE}),
        (S.MULTIPATH, PreferenceLevel.AVOID, {"multipath": taps.Multipath.DISABLED}),
        (
            S.DIRECTION,
            CommunicationDirections.UNIDIRECTIONAL_SEND,
            {"direction": taps.Direction.UNIDIRECTIONAL_SEND},
        ),
        # A wish for less than a full checksum, and not for a full one.
        (
            S.PER_MSG_CHECKSUM_LEN_SEND,
            PreferenceLevel.REQUIRE,
            {"fullChecksumSend": taps.Preference.PROHIBIT},
        ),
        (
            S.PER_MSG_CHECKSUM_LEN_RECV,
            PreferenceLevel.PREFER,
            {"fullChecksumRecv": taps.Preference.AVOID},
        ),
        (
            S.PER_MSG_CHECKSUM_LEN_SEND,
            PreferenceLevel.PROHIBIT,
            {"fullChecksumSend": taps.Preference.REQUIRE},
        ),
        (
            S.INTERFACE,
            {"eth0": PreferenceLevel.AVOID},
            {"interface": frozenset({(taps.Preference.AVOID, "eth0")})},
        ),
        (
            S.PVD,
            {"home": PreferenceLevel.PREFER},
            {"pvd": frozenset({(taps.Preference.PREFER, "home")})},
        ),
        (
            S.LOCAL_ADDRESS_PREFERENCE,
            AddressPreference.TEMPORARY,
            {"useTemporaryLocalAddress": taps.Preference.PREFER},
        ),
        (
            S.LOCAL_ADDRESS_PREFERENCE,
            PreferenceLevel.PROHIBIT,
            {"useTemporaryLocalAddress": taps.Preference.PROHIBIT},
        ),
        (S.RETRANSMIT_NOTIFY, PreferenceLevel.PREFER, {"softErrorNotify": taps.Preference.PREFER}),
        (C.TIMEOUT_FOR_ABORTING_CONNECTION, 20, {"connTimeout": 20}),
        (C.TIMEOUT_FOR_ABORTING_CONNECTION, -1, {"connTimeout": math.inf}),
        (C.PRIORITY, 7, {"connPriority": 7}),
        (
            C.CONNECTION_GROUP_TRANSMISSION_SCHEDULER,
            "Round-robin",
            {"connScheduler": taps.Scheduler.ROUND_ROBIN},
        ),
        (
            C.BOUNDS_ON_SEND_OR_RECEIVE_RATE,
            (8e6, -1),
            {"maxSendRate": 8e6, "maxRecvRate": math.inf},
        ),
        (
            C.CAPACITY_PROFILE,
            CapacityProfiles.SCAVENGER,
            {"connCapacityProfile": taps.CapacityProfile.SCAVENGER},
        ),
        (
            C.REQUIRED_MINIMUM_CORRUPTION_PROTECTION_COVERAGE_FOR_RECEIVING,
            8,
            {"recvChecksumLen": 8},
        ),
        (
            C.RETRANSMISSION_THRESHOLD_BEFORE_EXCESSIVE_RETRANSMISSION_NOTIFICATION,
            5,
            {"_taps.excessiveRetransmissions": 5},
        ),
        (
            C.USER_TIMEOUT_TCP,
            {
                TCPUserTimeout.ADVERTISED_USER_TIMEOUT: 150,
                TCPUserTimeout.USER_TIMEOUT_ENABLED: True,
            },
            {"tcp.userTimeoutValue": 150, "tcp.userTimeoutEnabled": True},
        ),
        (M.LIFETIME, 2.5, {"msgLifetime": 2.5}),
        (M.IDEMPOTENT, True, {"safelyReplayable": True}),
        (M.ORDERED, False, {"msgOrdered": False}),
        (M.RELIABLE_DATA_TRANSFER, False, {"msgReliable": False}),
        (M.CORRUPTION_PROTECTION_LENGTH, 12, {"msgChecksumLen": 12}),
        (
            M.MESSAGE_CAPACITY_PROFILE_OVERRIDE,
            CapacityProfiles.CAPACITY_SEEKING,
            {"msgCapacityProfile": taps.CapacityProfile.CAPACITY_SEEKING},
        ),
        (M.SINGULAR_TRANSMISSION, True, {"noSegmentation": True, "noFragmentation": True}),
    ],
)
def test_what_is_set_is_said_below_in_its_words(
    prop: Any, value: Any, told: dict[str, Any]
) -> None:
    if prop is C.USER_TIMEOUT_TCP:
        told = {**told, "tcp.userTimeoutChangeable": True}
    assert set_to(prop, value) == told


@pytest.mark.parametrize(
    ("prop", "value"),
    [
        (S.RELIABILITY, True),
        (S.DIRECTION, PreferenceLevel.PREFER),
        (S.INTERFACE, PreferenceLevel.REQUIRE),
        (S.INTERFACE, {"eth0": 2}),
        (C.MAXIMUM_MESSAGE_SIZE_ON_SEND, 100),
        (C.CAPACITY_PROFILE, 36),
        (C.CONNECTION_GROUP_TRANSMISSION_SCHEDULER, "as it comes"),
        (C.BOUNDS_ON_SEND_OR_RECEIVE_RATE, 8e6),
        (C.USER_TIMEOUT_TCP, {"tcp.user-timeout": True}),
        (C.TIMEOUT_FOR_ABORTING_CONNECTION, "soon"),
        (M.PRIORITY, 1.5),
        (M.LIFETIME, -3),
        (M.ECN, 1),
        ("reliability", PreferenceLevel.REQUIRE),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(prop: Any, value: Any) -> None:
    """The original printed a line and went on."""
    properties = TransportProperties()
    before = properties._snapshot()
    with pytest.raises(taps.PropertyError):
        properties.add(prop, value)
    assert properties == before


def test_verbs_take_selection_properties_only() -> None:
    properties = TransportProperties()
    for verb in (properties.require, properties.avoid, properties.default):
        with pytest.raises(taps.PropertyError, match="Selection Property"):
            verb(C.PRIORITY)  # type: ignore[arg-type]  # the point of it


def test_avoid_has_effect(world: Any) -> None:
    """The original never looked at it."""
    avoiding = TransportProperties()
    avoiding.avoid(S.PRESERVE_MSG_BOUNDARIES)
    avoiding.add(M.IDEMPOTENT, True)
    for prop in (S.RELIABILITY, S.PRESERVE_ORDER, S.CONGESTION_CONTROL):
        avoiding.ignore(prop)
    preferring = avoiding._snapshot()
    preferring.prefer(S.PRESERVE_MSG_BOUNDARIES)

    def first(properties: TransportProperties) -> str:
        preconnection = taps.Preconnection(
            remote="127.0.0.1:7",
            transport=properties._to_taps(),
            security=taps.SecurityParameters.disabled(),
        )
        return str(preconnection.select().ranked[0].stack)

    assert first(avoiding) == "TCP"
    assert first(preferring) != "TCP"


def test_message_contexts_hold_what_was_set_and_defaults() -> None:
    context = neatpy.MessageContext()
    assert context.get(M.PRIORITY) == 100
    assert context.get(M.ECN) is None
    context.add(M.PRIORITY, 7)
    assert context.props[M.PRIORITY] == 7
    assert context.props[M.LIFETIME] == math.inf
    assert context.get_remote_endpoint() is context.get_local_endpoint() is None
    for key, value in ((M.EARLY_DATA, True), (M.LIFETIME, "long"), ("priority", 1)):
        with pytest.raises(taps.PropertyError):
            context.add(key, value)
    with pytest.raises(taps.PropertyError):
        context.get("priority")


def test_endpoints_are_what_was_said_last() -> None:
    endpoint = neatpy.RemoteEndpoint()
    assert endpoint.with_address("192.0.2.1") is None
    endpoint.with_address("192.0.2.2")
    endpoint.with_port(80)
    endpoint.with_hostname("example.net")
    endpoint.with_interface("eth0")
    told = neatpy.endpoint.to_remote(endpoint)
    assert (told.ip_address, told.port, told.hostname) == ("192.0.2.2", 80, "example.net")
    assert neatpy.endpoint.from_remote(told) == endpoint
    named = neatpy.LocalEndpoint()
    named.with_address("localhost")
    assert neatpy.endpoint.to_local(named).hostname == "localhost"


def test_a_preconnection_that_is_changed_changes_nothing_that_was_made() -> None:
    remote = neatpy.RemoteEndpoint()
    remote.with_port(7)
    properties = TransportProperties()
    preconnection = neatpy.Preconnection(remote_endpoint=remote, transport_properties=properties)
    first, held = preconnection._wanted("clientCertificate")
    assert preconnection._wanted("clientCertificate")[0] is first
    remote.with_port(8)
    properties.prohibit(S.MULTISTREAMING)
    second, _ = preconnection._wanted("clientCertificate")
    assert (first.remote_endpoints[0].port, second.remote_endpoints[0].port) == (7, 8)
    assert not first.transport.is_set("multistreaming")
    assert second.transport.get("multistreaming") is taps.Preference.PROHIBIT
    assert held.selection_properties[S.MULTISTREAMING] is PreferenceLevel.PREFER
