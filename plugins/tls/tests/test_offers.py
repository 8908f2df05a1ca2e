"""What would be offered is told before anything is sent, and what cannot be honoured, with why."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_tls import DTLS, TLS, Peer

from .conftest import pair

if TYPE_CHECKING:
    import pathlib

    from taps_core.testing.fixtures import Run

    from .conftest import Authority

LAYERS = pytest.mark.parametrize("layer", [TLS(), DTLS()], ids=lambda layer: layer.name)


@LAYERS
def test_a_client_offers_the_layers_protocols_and_trusts_the_system(layer: Any) -> None:
    offer = layer.offers(taps.SecurityParameters(), server=False)
    assert offer.protocols == layer.capabilities.protection.protocols
    assert offer.ciphersuites
    assert (offer.groups, offer.signature_algorithms, offer.alpn) == (None, None, ())
    assert offer.certificate.startswith("none")
    assert offer.trust.startswith("the system's store")
    assert offer.refusals == {}


@LAYERS
def test_what_was_asked_for_is_offered(layer: Any, authority: Authority) -> None:
    client = authority.client(
        alpn=["acme/1", "h2"],
        supported_group="secp384r1",
        client_certificate=authority.identity("me.example"),
        pinned_server_certificate=authority.pem,
    ).set_trust_verification_callback(lambda _: True)
    offer = layer.offers(client, server=False)
    assert offer.alpn == ("acme/1", "h2")
    assert offer.groups == ("secp384r1",)
    assert "me.example" in offer.certificate
    assert "to a server that asks for one" in offer.certificate
    for word in ("in place of the system's store", "1 pinned", "trust verification callback"):
        assert word in offer.trust
    assert offer.refusals == {}


@LAYERS
def test_a_server_says_whom_it_asks_for_a_certificate(layer: Any, authority: Authority) -> None:
    offer = layer.offers(authority.server("db.example"), server=True)
    assert "db.example" in offer.certificate
    assert "not asked" in offer.trust
    demanding = authority.server("db.example", trusted_certificates=authority.pem)
    assert "clients that show a certificate" in layer.offers(demanding, server=True).trust


@LAYERS
def test_each_parameter_that_cannot_be_honoured_is_told_with_its_reason(
    layer: Any, authority: Authority, tmp_path: pathlib.Path
) -> None:
    client = authority.client(
        alpn="h2",
        supported_group="nonsense",
        ciphersuite="NONSENSE",
        client_certificate=taps.Certificate(tmp_path / "nowhere.pem"),
    )
    offer = layer.offers(client, server=False)
    assert set(offer.refusals) == {"supportedGroup", "ciphersuite", "clientCertificate"}
    assert "nowhere.pem" in offer.refusals["clientCertificate"]
    assert "nonsense" in offer.refusals["supportedGroup"]
    assert offer.alpn == ("h2",)  # what goes is told all the same
    assert offer.ciphersuites
    assert offer.certificate.startswith("none")


@LAYERS
def test_a_server_without_a_certificate_is_told_so_beside_all_else(
    layer: Any, tmp_path: pathlib.Path
) -> None:
    offer = layer.offers(taps.SecurityParameters(ciphersuite="NONSENSE"), server=True)
    assert set(offer.refusals) == {"serverCertificate", "ciphersuite"}
    assert offer.certificate == "none"
    unreadable = taps.Certificate(tmp_path / "nowhere.pem")
    security = taps.SecurityParameters(server_certificate=unreadable)
    assert "nowhere.pem" in layer.offers(security, server=True).refusals["serverCertificate"]


@LAYERS
def test_opportunistic_security_verifies_nobody(layer: Any) -> None:
    opportunistic = taps.SecurityParameters.opportunistic()
    for server in (False, True):
        offer = layer.offers(opportunistic, server=server)
        assert "nobody is verified" in offer.trust
        assert offer.refusals == {}


def test_versions_narrow_the_suites() -> None:
    for version, prefix in (("TLSv1.3", True), ("TLSv1.2", False)):
        security = taps.SecurityParameters(allowed_security_protocols=version)
        offer = TLS().offers(security, server=False)
        assert offer.protocols == (version,)
        assert {each.startswith("TLS_") for each in offer.ciphersuites or ()} == {prefix}
    only = taps.SecurityParameters(ciphersuite="ECDHE-RSA-AES128-GCM-SHA256")
    offer = TLS().offers(only, server=False)
    assert (offer.protocols, offer.ciphersuites) == (("TLSv1.2",), only.ciphersuite)


def test_an_ssl_context_speaks_for_itself() -> None:
    security = taps.SecurityParameters(context=ssl.create_default_context(), alpn="h2")
    offer = TLS().offers(security, server=False)
    assert "SSLContext" in offer.certificate
    assert "SSLContext" in offer.trust
    assert "belongs into the SSLContext" in offer.refusals["alpn"]


def test_no_secret_is_told(authority: Authority) -> None:
    def judge(_: Peer) -> bool:
        return True

    for layer in (TLS(), DTLS()):
        mine = authority.identity("me.example")
        assert isinstance(mine.key, bytes)
        client = authority.client(pre_shared_key=(b"a secret of ours", "me"))
        client.set("clientCertificate", mine).set_trust_verification_callback(judge)
        told = str(layer.offers(client, server=False))
        assert "a secret of ours" not in told
        assert "PRIVATE" not in told


def test_what_is_agreed_on_was_offered(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = authority.server(alpn=["h2", "acme/1"])
        client = authority.client(alpn="acme/1")
        offers = [TLS().offers(server, server=True), TLS().offers(client, server=False)]
        async with pair(server, client) as (connection, _):
            told = connection.properties
            for offer in offers:
                assert told["_taps.securityProtocol"] in offer.protocols
                assert told["_taps.ciphersuite"] in (offer.ciphersuites or ())
                assert told["_taps.alpn"] in offer.alpn

    run(main)
