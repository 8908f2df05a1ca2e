"""Security that cannot be honoured raises; it never degrades."""

import pytest

from taps_core.model.capabilities import Capabilities, Protection
from taps_core.model.errors import NoCandidates
from taps_core.model.properties import TransportProperties
from taps_core.model.security import SecurityParameters
from taps_core.planning.selection import By, select


def names(selection):
    return [each.stack.name for each in selection]


def sentences(selection, name):
    (found,) = (each for each in selection.rejected if each.stack.name == name)
    return [why.sentence for why in found.reasons]


@pytest.mark.requirement("R-9621-3.3-03", "R-9621-6-02", "R-9622-6.3-01")
def test_no_plaintext_stack_is_a_candidate_unless_it_is_allowed(everything):
    for selection in (select(everything), select(everything, security=SecurityParameters())):
        assert all(each.stack.capabilities.protection is not None for each in selection)
        assert names(selection) == ["TLS/TCP", "DTLS/SCTP", "QUIC"]
        (why,) = next(each for each in selection.rejected if each.stack.name == "TCP").reasons
        assert why.sentence == (
            "is plaintext, and security is required: "
            "SecurityParameters.disabled() or .opportunistic() would allow it"
        )
        assert why.by is By.DEFAULT


def test_without_a_security_plugin_the_error_names_the_remedy(usual, synthetic):
    selection = select(synthetic.installed([usual.tcp]))
    assert sentences(selection, "TCP") == [
        "TCP has no security of its own and no security layer is installed: "
        "install taps-tls, or pass SecurityParameters.disabled()"
    ]
    with pytest.raises(NoCandidates) as caught:
        selection.candidates()
    assert str(caught.value).splitlines()[1:] == [
        "  TCP has no security of its own and no security layer is installed: install",
        "    taps-tls, or pass SecurityParameters.disabled()",
    ]


def test_a_layer_that_runs_over_something_else_is_no_remedy(usual, synthetic):
    selection = select(synthetic.installed([usual.tcp], [usual.dtls]))
    assert sentences(selection, "TCP") == [
        "TCP has no security of its own and no installed security layer runs over it: "
        "pass SecurityParameters.disabled() to go without"
    ]


def test_a_layer_that_cannot_run_leaves_no_plaintext_candidate(usual, synthetic):
    usual.tls.availability = lambda: usual.tcp.unavailable("OpenSSL is missing").answer
    plugins = synthetic.installed([synthetic.transport("tcp")], [usual.tls])
    selection = select(plugins)
    assert names(selection) == []
    assert sentences(selection, "TLS/TCP") == ["TLS cannot run here: OpenSSL is missing"]
    # Not even where plaintext is allowed is the broken layer used.
    assert names(select(plugins, security=SecurityParameters.opportunistic())) == ["TCP"]


@pytest.mark.requirement("G-9622-6.3-01")
def test_disabled_security_adds_none(everything):
    selection = select(everything, security=SecurityParameters.disabled())
    assert names(selection) == ["TCP", "QUIC", "SCTP"]
    assert sentences(selection, "TLS/TCP") == ["adds TLS, and security is disabled"]
    quic = selection.ranked[1]
    assert quic.reasons[0].sentence == "secured by QUIC (QUICv1), which is part of it"
    assert selection.ranked[0].reasons[0].sentence == "plaintext, as security is disabled"


@pytest.mark.requirement("G-9622-6.3-01")
def test_opportunistic_security_has_plaintext_as_failover(everything):
    selection = select(everything, security=SecurityParameters.opportunistic())
    assert names(selection) == ["TLS/TCP", "DTLS/SCTP", "QUIC", "TCP", "SCTP"]
    classes = [each.racing_class for each in selection]
    assert classes == [
        (False, "TLSv1.2"),
        (False, "DTLSv1.2"),
        (False, "QUICv1"),
        None,
        None,
    ]
    assert selection.ranked[0].reasons[0].sentence == (
        "secured by TLS (TLSv1.3 and TLSv1.2), without authentication"
    )
    assert selection.ranked[3].reasons[0].sentence == (
        "plaintext: tried only when everything secured has failed"
    )


@pytest.mark.requirement("R-9621-3.3-03", "G-9622-6.3.3-01", "G-9622-6.3.8-01")
def test_a_peer_that_is_to_be_judged_is_no_plaintext_peer(everything):
    pinned = SecurityParameters.opportunistic(pinned_server_certificate=b"a certificate")
    judging = SecurityParameters.opportunistic()
    judging.set_trust_verification_callback(lambda _: True)
    for security in (pinned, judging):
        selection = select(everything, security=security)
        assert names(selection) == ["TLS/TCP", "DTLS/SCTP", "QUIC"]
        assert sentences(selection, "TCP") == [
            "is plaintext, and the peer is to be judged: by a pin, or by the trust "
            "verification callback"
        ]


def test_no_preference_moves_plaintext_before_what_is_secured(everything):
    properties = TransportProperties().prefer("perMsgReliability").avoid("zeroRttMsg")
    selection = select(everything, properties, security=SecurityParameters.opportunistic())
    secured = [each.racing_class is not None for each in selection]
    assert secured == sorted(secured, reverse=True)


@pytest.mark.requirement("R-9621-3.3-04", "R-9622-6.3-04", "R-9622-6.3.1-01")
@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (["TLSv1.3"], {"TLS/TCP": ("TLSv1.3",)}),
        (["tls v1.3"], {"TLS/TCP": ("TLSv1.3",)}),
        (["TLSv1.2", "TLSv1.3"], {"TLS/TCP": ("TLSv1.3", "TLSv1.2")}),
        (["QUICv1", "TLSv1.2"], {"TLS/TCP": ("TLSv1.2",), "QUIC": ("QUICv1",)}),
        (["SSLv3"], {}),
    ],
)
def test_allowed_protocols_narrow_the_choice(everything, allowed, expected):
    security = SecurityParameters(allowed_security_protocols=allowed)
    selection = select(everything, security=security)
    assert {each.stack.name: each.security_protocols for each in selection} == expected
    if "DTLS/SCTP" not in expected:
        assert "allowedSecurityProtocols permits" in sentences(selection, "DTLS/SCTP")[0]
        assert sentences(selection, "DTLS/SCTP")[0].endswith("and DTLS offers DTLSv1.2")


@pytest.mark.requirement("R-9621-3.3-01", "R-9623-12.1-01", "R-9623-12.2-01")
def test_only_equal_security_is_of_one_racing_class(synthetic):
    def secure(name, *protocols, authenticates=True):
        protection = Protection(protocols=protocols, authenticates=authenticates)
        return synthetic.transport(name, Capabilities.byte_stream().but(protection=protection))

    plugins = synthetic.installed(
        [secure("a", "X3", "X2"), secure("b", "X2"), secure("c", "X3"), secure("d", "X3", "X1")]
    )
    classes = {each.stack.name: each.racing_class for each in select(plugins)}
    assert classes == {"A": (True, "X2"), "B": (True, "X2"), "C": (True, "X3"), "D": (True, "X1")}
    # The floor is that of what is allowed, not of what could be done.
    narrowed = select(plugins, security=SecurityParameters(allowed_security_protocols=["X3"]))
    assert {each.racing_class for each in narrowed} == {(True, "X3")}


def test_security_that_verifies_nobody_is_for_opportunists(synthetic):
    protection = Protection(protocols=("ANONv1",), authenticates=False)
    plugins = synthetic.installed(
        [synthetic.transport("anon", Capabilities.byte_stream().but(protection=protection))]
    )
    assert sentences(select(plugins), "ANON") == [
        "ANON does not verify the peer's identity: "
        "SecurityParameters.opportunistic() would allow that"
    ]
    assert names(select(plugins, security=SecurityParameters.opportunistic())) == ["ANON"]


def test_reasons_tell_a_demand_from_the_secure_default(everything):
    def by(security):
        selection = select(everything, security=security)
        return {
            why.by
            for each in selection.rejected
            if each.stack.name == "TCP"
            for why in each.reasons
        }

    assert by(SecurityParameters()) == {By.DEFAULT}
    assert by(SecurityParameters(allowed_security_protocols=["TLSv1.3"])) == {By.APPLICATION}
