"""The names of RFC 9622, in Python's spelling (section 5)."""

from __future__ import annotations

import re

import pytest

import taps_core as taps

#: Actions of the RFC by the object that has them, and how a Python name may differ.
ACTIONS: dict[type, str] = {
    taps.Preconnection: "AddRemote AddFramer Resolve Initiate InitiateWithSend Listen Rendezvous",
    taps.Listener: "Stop SetNewConnectionLimit",
    taps.Connection: (
        "Send StartBatch EndBatch Receive SetProperty Clone GroupedConnections AddRemote "
        "RemoveRemote AddLocal RemoveLocal Close Abort CloseGroup AbortGroup"
    ),
    taps.TransportProperties: "Set Require Prefer NoPreference Avoid Prohibit",
    taps.SecurityParameters: "Set SetTrustVerificationCallback SetIdentityChallengeCallback",
    taps.MessageContext: "Add Get",
    taps.LocalEndpoint: "WithInterface WithPort WithService WithProtocol WithStunServer",
    taps.RemoteEndpoint: "WithPort WithService WithInterface WithProtocol WithHopLimit",
}
OBJECTS = (
    "LocalEndpoint RemoteEndpoint TransportProperties SecurityParameters Preconnection Connection "
    "Listener MessageContext"
)
EVENTS = (
    "Ready ConnectionReceived Stopped Sent Received ReceivedPartial Closed SoftError PathChange"
)
ERRORS = "EstablishmentError CloneError Expired SendError ReceiveError ConnectionError"
#: Names that are not the RFC's word for word, and ours.
DIFFERENT: dict[tuple[type, str], str] = {
    (taps.Connection, "GetProperties"): "properties",
    (taps.MessageContext, "GetLocalEndpoint"): "local_endpoint",
    (taps.MessageContext, "GetRemoteEndpoint"): "remote_endpoint",
    (taps.LocalEndpoint, "WithIPAddress"): "with_ip_address",
    (taps.RemoteEndpoint, "WithIPAddress"): "with_ip_address",
    (taps.RemoteEndpoint, "WithHostName"): "with_hostname",
    (taps.RemoteEndpoint, "WithMulticastGroupIP"): "with_multicast_group",
    (taps.LocalEndpoint, "WithAnySourceMulticastGroupIP"): "with_any_source_multicast_group",
    (taps.SecurityParameters, "NewDisabledSecurityParameters"): "disabled",
    (taps.SecurityParameters, "NewOpportunisticSecurityParameters"): "opportunistic",
}


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@pytest.mark.requirement("R-9622-5-01")
def test_actions_events_and_errors_have_the_names_of_the_rfc() -> None:
    for owner, names in ACTIONS.items():
        for name in names.split():
            assert callable(getattr(owner, snake(name))), f"{owner.__name__}.{name}"
    for (owner, name), ours in DIFFERENT.items():
        assert hasattr(owner, ours), f"{owner.__name__}.{name}"
    for name in OBJECTS.split():
        assert isinstance(getattr(taps, name), type)
    for name in EVENTS.split():
        assert issubclass(getattr(taps, name), taps.Event)
    for name in ERRORS.split():
        # An error event is what an await raises.
        assert issubclass(getattr(taps, name), taps.TapsError)
