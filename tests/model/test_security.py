"""Security parameters: secure by default, secrets stay hidden."""

import pathlib

import pytest

from taps_core.model.errors import PropertyError
from taps_core.model.security import (
    SECURITY_PARAMETERS,
    Certificate,
    SecurityMode,
    SecurityParameters,
)

ME = Certificate("me.pem", "me.key", "opensesame")


@pytest.mark.requirement("R-9622-6.3-01", "R-9622-6.3-05")
def test_nothing_said_means_security_is_required():
    assert SecurityParameters().mode is SecurityMode.REQUIRED
    assert SecurityParameters.coerce(None).mode is SecurityMode.REQUIRED


@pytest.mark.requirement("G-9622-6.3-01")
def test_going_without_is_said_aloud():
    assert SecurityParameters.disabled().mode is SecurityMode.DISABLED
    assert SecurityParameters.opportunistic().mode is SecurityMode.OPPORTUNISTIC
    assert SecurityParameters.opportunistic(alpn="h2").alpn == ("h2",)


@pytest.mark.parametrize("value", [False, True, "disabled", 0, {}])
def test_nothing_else_is_taken_for_security_parameters(value):
    with pytest.raises(TypeError, match=r"SecurityParameters\.disabled\(\)"):
        SecurityParameters.coerce(value)


@pytest.mark.requirement("R-9622-6.3-03", "R-9622-6.3.1-01")
def test_every_parameter_of_the_rfc_is_there():
    assert set(SECURITY_PARAMETERS) == {
        "allowedSecurityProtocols",
        "serverCertificate",
        "clientCertificate",
        "pinnedServerCertificate",
        "alpn",
        "supportedGroup",
        "ciphersuite",
        "signatureAlgorithm",
        "maxCachedSessions",
        "cachedSessionLifetimeSeconds",
        "preSharedKey",
        # ours
        "trustedCertificates",
        "context",
    }


@pytest.mark.parametrize(
    ("name", "given", "stored"),
    [
        ("allowed_security_protocols", ["TLSv1.3"], ("TLSv1.3",)),
        ("alpn", "h2", ("h2",)),
        ("alpn", ["h2", "http/1.1"], ("h2", "http/1.1")),
        ("server_certificate", ME, (ME,)),
        ("client_certificate", [ME], (ME,)),
        ("pinned_server_certificate", "ca.pem", ("ca.pem",)),
        ("trusted_certificates", [pathlib.Path("ca.pem"), b"-----"], ("ca.pem", b"-----")),
        ("trusted_certificates", ME, ("me.pem",)),
        ("supported_group", ["x25519"], ("x25519",)),
        ("ciphersuite", ["TLS_AES_128_GCM_SHA256"], ("TLS_AES_128_GCM_SHA256",)),
        ("signature_algorithm", "ed25519", ("ed25519",)),
        ("max_cached_sessions", 5, 5),
        ("cached_session_lifetime_seconds", 60, 60),
        ("pre_shared_key", (b"key", "identity"), (b"key", "identity")),
    ],
)
def test_parameters_are_keywords_attributes_and_names(name, given, stored):
    parameters = SecurityParameters(**{name: given})
    assert getattr(parameters, name) == stored
    assert parameters.get(name.replace("_", "-").upper()) == stored
    assert SecurityParameters().set(name, given) == parameters
    assert getattr(SecurityParameters(), name) in ((), None)


def test_set_takes_several_values_and_can_be_chained():
    parameters = SecurityParameters().set("alpn", "h2", "http/1.1").set("preSharedKey", b"k", "id")
    assert parameters.alpn == ("h2", "http/1.1")
    assert parameters.pre_shared_key == (b"k", "id")


class Object:
    """Does what objects of the package cryptography do; the model knows them by that alone."""

    def public_bytes(self, encoding):
        raise AssertionError("read by the security layer only")

    private_bytes = public_bytes


def test_certificates_and_keys_can_be_objects():
    leaf, issuer, key = Object(), Object(), Object()
    assert Certificate(leaf, key).chain == (leaf,)
    assert Certificate([leaf, issuer], key).chain == (leaf, issuer)
    assert Certificate(leaf, key).key is key
    assert Certificate([leaf], key) == Certificate(leaf, key)
    assert hash(Certificate([leaf], key)) == hash(Certificate(leaf, key))
    parameters = SecurityParameters(
        trusted_certificates=issuer, pinned_server_certificate=[leaf, Certificate(issuer)]
    )
    assert parameters.trusted_certificates == ((issuer,),)
    assert parameters.pinned_server_certificate == ((leaf,), (issuer,))
    assert "object at" not in repr(parameters) + repr(Certificate(leaf, key))


@pytest.mark.parametrize(
    ("chain", "key"), [(5, None), ([], None), ([object()], None), ("me.pem", 5), ("me.pem", [b"k"])]
)
def test_a_certificate_is_nothing_else(chain, key):
    with pytest.raises(PropertyError, match="expected, not"):
        Certificate(chain, key)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpn", 5),
        ("alpn", [b"h2"]),
        ("server_certificate", "me.pem"),
        ("trusted_certificates", [5]),
        ("max_cached_sessions", -1),
        ("max_cached_sessions", True),
        ("pre_shared_key", b"key"),
        ("pre_shared_key", ("key", "identity")),
    ],
)
def test_values_that_cannot_be_are_refused(name, value):
    with pytest.raises(PropertyError):
        SecurityParameters(**{name: value})


def test_a_refused_key_is_not_shown():
    with pytest.raises(PropertyError) as caught:
        SecurityParameters(pre_shared_key=("sesame", "identity"))
    assert "sesame" not in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(PropertyError, match="did you mean client_certificate"):
        SecurityParameters(client_certifcate=ME)
    with pytest.raises(PropertyError, match=r"no security parameter 'xyzzy'$"):
        SecurityParameters().set("xyzzy", 1)


def test_parameters_of_disabled_security_are_a_mistake():
    with pytest.raises(PropertyError, match="security is disabled"):
        SecurityParameters.disabled().set("alpn", "h2")


def test_secrets_never_show():
    key = Certificate(b"-----CHAIN", b"-----KEY", "opensesame")
    parameters = SecurityParameters(
        client_certificate=[ME, key], pre_shared_key=(b"secret", "me"), trusted_certificates=b"CA!"
    )
    for text in (repr(parameters), repr(ME), repr(key), str(key)):
        for secret in ("opensesame", "me.key", "KEY", "CHAIN", "secret", "CA!"):
            assert secret not in text
    assert "me.pem" in repr(parameters)
    assert "'me'" in repr(parameters)


def test_a_copy_is_independent():
    def callback():
        return True

    parameters = SecurityParameters(alpn="h2").set_trust_verification_callback(callback)
    parameters.set_identity_challenge_callback(callback)
    copy = parameters.copy()
    assert copy == parameters
    assert copy.trust_verification_callback is callback
    assert copy.identity_challenge_callback is callback
    copy.set("alpn", "h3")
    assert parameters.alpn == ("h2",)
    assert SecurityParameters.coerce(parameters) is not parameters
    assert SecurityParameters.disabled().copy().mode is SecurityMode.DISABLED


def test_a_callback_can_be_called():
    with pytest.raises(PropertyError, match="can be called"):
        SecurityParameters().set_trust_verification_callback("no")


def test_an_ssl_context_is_kept_for_the_security_layer():
    import ssl

    context = ssl.create_default_context()
    assert SecurityParameters.coerce(context).context is context
    assert SecurityParameters.coerce(context).mode is SecurityMode.REQUIRED
    assert SecurityParameters(context=context).context is context
