"""The minimal set of transport services (RFC 8923, as RFC 9622, appendix C, lists it)."""

from __future__ import annotations

import inspect
import operator

import pytest

import taps_core as taps
from taps_core.model.properties import Kind, find_property
from tests.effects.lines import LINES, REGISTRY

#: Feature → names of `taps_core` that reach it, and properties.
MINIMAL = {
    "Connect": ("Preconnection.initiate",),
    "Listen": ("Preconnection.listen",),
    "Disable MPTCP": ("multipath",),
    "Hand over a Message to reliably transfer before connection establishment": (
        "Preconnection.initiate_with_send",
    ),
    "Change timeout for aborting connection": ("connTimeout",),
    "Timeout event when data could not be delivered for too long": (
        "ConnectionError",
        "Reason.TIMEOUT",
    ),
    "Suggest timeout to the peer": (
        "tcp.userTimeoutValue",
        "tcp.userTimeoutEnabled",
        "tcp.userTimeoutChangeable",
    ),
    "Notification of ICMP error message arrival": ("softErrorNotify", "SoftError"),
    "Choose a scheduler to operate between streams of an association": ("connScheduler",),
    "Configure priority or weight for a scheduler": ("connPriority",),
    "Specify checksum coverage used by the sender; disable checksum when sending": (
        "msgChecksumLen",
        "fullChecksumSend",
    ),
    "Specify minimum checksum coverage required by receiver; disable the requirement": (
        "recvChecksumLen",
        "fullChecksumRecv",
    ),
    "Specify DF field": ("noFragmentation",),
    "Get max. transport-message size that may be sent in a non-fragmented IP packet": (
        "singularTransmissionMsgMaxLen",
    ),
    "Get max. transport-message size that may be received": ("recvMsgMaxLen",),
    "Obtain ECN field": ("ecn",),
    "Specify DSCP field; disable Nagle algorithm; low extra delay background transfer": (
        "connCapacityProfile",
        "CapacityProfile.SCAVENGER",
    ),
    "Request not to bundle messages": ("msgCapacityProfile",),
    "Close after reliably delivering all remaining data": ("Connection.close", "Closed"),
    "Abort without delivering remaining data": ("Connection.abort", "Reason.LOCAL_ABORT"),
    "Transfer data or a message, reliably or not, with congestion control": (
        "Connection.send",
        "reliability",
        "msgReliable",
        "congestionControl",
    ),
    "Configurable Message Reliability": ("msgLifetime",),
    "Ordered and unordered message delivery": ("msgOrdered",),
    "Request not to delay the acknowledgment of a message": (
        "CapacityProfile.LOW_LATENCY_INTERACTIVE",
    ),
    "Receive data, or a message": ("Connection.receive", "Received", "Preconnection.add_framer"),
    "Information about partial message arrival": ("ReceivedPartial",),
    "Notification of send failures": ("Expired", "SendError"),
    "Notification that the stack has no more user data to send": ("Sent",),
    "Notification to a receiver that a partial message delivery has been aborted": (
        "ReceiveError",
    ),
    "Notification of Excessive Retransmissions": ("SoftError",),
}


@pytest.mark.requirement("R-9621-3.1-02")
@pytest.mark.parametrize("feature", MINIMAL)
def test_each_feature_of_the_minimal_set_is_reached(feature: str) -> None:
    for name in MINIMAL[feature]:
        if name.partition(".")[0] in taps.__all__:
            assert operator.attrgetter(name)(taps)
            continue
        found = find_property(name, REGISTRY.properties.values())
        # And not in name only: some stack says what it does with it, or why not.
        assert any(line.stack.explain(found.name) for line in LINES)
        if not found.read_only and found.kind is not Kind.SELECTION:
            default = found.default_for("initiate")
            if default is not None:
                taps.TransportProperties().set(found.name, default)


@pytest.mark.requirement("R-9621-3.1-02")
def test_the_time_for_establishment_can_be_limited() -> None:
    for action in (taps.Preconnection.initiate, taps.Preconnection.initiate_with_send):
        assert "timeout" in inspect.signature(action).parameters
