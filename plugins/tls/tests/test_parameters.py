"""Every security parameter takes effect, or raises saying what is missing."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

import taps_core as taps
from taps_framers import Line
from taps_tls import Peer, TLSInfo

from .conftest import Authority, calling, pair

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

    from taps_core.testing.fixtures import Run


async def info_of(server: Any, client: Any, **more: Any) -> TLSInfo:
    """What the client sees of a Connection that comes to be."""
    async with pair(server, client, **more) as (connection, _):
        info = connection.find(TLSInfo)
        assert info is not None
        return info


async def fails(server: Any, client: Any, **more: Any) -> taps.EstablishmentError:
    with pytest.raises(taps.EstablishmentError) as caught:
        async with pair(server, client, **more):
            pass
    return caught.value


# -- versions


@pytest.mark.requirement("R-9622-6.3-04", "R-9622-6.3.1-01", "R-9621-3.3-04")
def test_versions_can_be_limited(run: Run, authority: Authority) -> None:
    async def main() -> None:
        for version in ("TLSv1.2", "TLSv1.3"):
            limited = authority.client(allowed_security_protocols=version)
            assert (await info_of(authority.server(), limited)).version == version
            server = authority.server(allowed_security_protocols=version)
            assert (await info_of(server, authority.client())).version == version

    run(main)


@pytest.mark.requirement("R-9621-3.3-03", "R-9621-6-02")
def test_no_version_is_given_up_for_a_connection(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = authority.server(allowed_security_protocols="TLSv1.2")
        error = await fails(server, authority.client(allowed_security_protocols="TLSv1.3"))
        assert error.detail == "no-shared-protocol"

    run(main)


# -- application protocols


def test_application_protocols_are_agreed_on(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = authority.server(alpn=["h2", "http/1.1"])
        client = authority.client(alpn=["acme/1", "http/1.1"])
        async with pair(server, client) as ends:
            for end in ends:
                info = end.find(TLSInfo)
                assert info is not None
                assert info.alpn == "http/1.1"
        assert (await info_of(authority.server(), client)).alpn is None

    run(main)


def test_framers_bring_their_application_protocols(run: Run, authority: Authority) -> None:
    class Spoken(Line):
        alpn = ("acme/2",)

    async def main() -> None:
        info = await info_of(authority.server(), authority.client(), framers=Spoken())
        assert info.alpn == "acme/2"
        # What the application says goes before that.
        client = authority.client(alpn="acme/1")
        server = authority.server(alpn=["acme/1", "acme/2"])
        assert (await info_of(server, client, framers=Spoken())).alpn == "acme/1"

    run(main)


# -- suites, groups, signatures


def test_cipher_suites_and_groups_can_be_limited(run: Run, authority: Authority) -> None:
    async def main() -> None:
        suite = "ECDHE-ECDSA-CHACHA20-POLY1305"
        client = authority.client(ciphersuite=suite)
        info = await info_of(authority.server(), client)
        # With no suite of TLS 1.3 there is no TLS 1.3.
        assert (info.version, info.cipher) == ("TLSv1.2", suite)
        other = authority.server(ciphersuite="ECDHE-ECDSA-AES128-GCM-SHA256")
        assert (await fails(other, client)).detail == "handshake-refused"
        for group in ("x25519", "secp384r1"):
            await info_of(authority.server(), authority.client(supported_group=group))
        server = authority.server(supported_group="x25519")
        client = authority.client(supported_group="secp384r1")
        assert (await fails(server, client)).detail == "handshake-refused"

    run(main)


def impossible() -> list[Any]:
    def setting(name: str, *values: Any) -> Callable[[Any], taps.SecurityParameters]:
        return lambda parameters: parameters.set(name, *values)

    return [
        pytest.param(setting("signatureAlgorithm", "ed25519"), "set_client_sigalgs", id="sigalg"),
        pytest.param(setting("supportedGroup", "x25519", "x448"), "set_groups", id="groups"),
        pytest.param(
            setting("ciphersuite", "TLS_AES_128_GCM_SHA256"), "set_ciphersuites", id="suites"
        ),
        pytest.param(setting("ciphersuite", "NO-SUCH-SUITE"), "NO-SUCH-SUITE", id="suite"),
        pytest.param(setting("supportedGroup", "no-such"), "no-such", id="group"),
        pytest.param(setting("context", {"no": "context"}), "SSLContext expected", id="context"),
    ]


@pytest.mark.parametrize(("change", "words"), impossible())
def test_what_cannot_be_honoured_raises_on_both_sides_and_says_why(
    run: Run, authority: Authority, change: Any, words: str
) -> None:
    async def main() -> None:
        for server, client in (
            (change(authority.server()), authority.client()),
            (authority.server(), change(authority.client())),
        ):
            error = await fails(server, client)
            assert error.reason is taps.Reason.INVALID_CONFIGURATION
            assert words in str(error)
            assert error.detail

    run(main)


def newer(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What Python 3.15 has according to its documentation; the list is of what it was told."""
    told: list[tuple[str, str]] = []

    def teller(what: str) -> Callable[[ssl.SSLContext, str], None]:
        def tell(_: ssl.SSLContext, value: str) -> None:
            if "no-such" in value:
                raise ssl.SSLError(1, "[SSL] unknown error")
            told.append((what, value))

        return tell

    for name in ("set_groups", "set_ciphersuites", "set_client_sigalgs", "set_server_sigalgs"):
        monkeypatch.setattr(ssl.SSLContext, name, teller(name), raising=False)
    return told


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("supportedGroup", ("x25519", "x448"), [("set_groups", "x25519:x448")]),
        (
            "ciphersuite",
            ("TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
            [("set_ciphersuites", "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256")],
        ),
        (
            "signatureAlgorithm",
            ("ed25519", "rsa_pss_rsae_sha256"),
            [
                ("set_client_sigalgs", "ed25519:rsa_pss_rsae_sha256"),
                ("set_server_sigalgs", "ed25519:rsa_pss_rsae_sha256"),
            ],
        ),
    ],
)
@pytest.mark.skipif(
    hasattr(ssl.SSLContext, "set_groups"), reason="this ssl has it, and needs no stand-in"
)
def test_what_python_3_15_brings_is_used_where_it_is(
    run: Run,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    values: tuple[str, ...],
    told: list[tuple[str, str]],
) -> None:
    heard = newer(monkeypatch)

    async def main() -> None:
        await info_of(authority.server().set(name, *values), authority.client())
        await info_of(authority.server(), authority.client().set(name, *values))
        assert heard == told * 2
        error = await fails(authority.server(), authority.client().set(name, "TLS_no-such"))
        assert error.reason is taps.Reason.INVALID_CONFIGURATION
        assert "no-such" in str(error)

    run(main)


# -- identities


def test_a_name_may_have_certificates_with_keys_of_several_kinds(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        kinds = {kind: authority.identity("localhost", key_type=kind) for kind in trustme.KeyType}
        # The second of one kind is one too many.
        server = authority.server(
            server_certificate=[*kinds.values(), authority.identity("localhost")]
        )
        for suites, kind in (
            ("ECDHE-RSA-AES128-GCM-SHA256", trustme.KeyType.RSA),
            ("ECDHE-ECDSA-AES128-GCM-SHA256", trustme.KeyType.ECDSA),
        ):
            info = await info_of(server, authority.client(ciphersuite=suites))
            chain = kinds[kind].chain
            assert isinstance(chain, bytes)
            assert info.chain[0] == ssl.PEM_cert_to_DER_cert(chain.decode())

    run(main)


def test_whoever_calls_an_address_gets_the_first_certificate(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        named, addressed = authority.identity("a.example"), authority.identity("127.0.0.1")
        for mine, served in (([named, addressed], False), ([addressed, named], True)):
            server = taps.SecurityParameters(server_certificate=mine)
            system = taps.System()
            here = taps.Preconnection(local="127.0.0.1:0", security=server, system=system)
            async with here.listen() as listener:
                # A client that has an address only can ask for no name (RFC 6066, section 3).
                remote = f"127.0.0.1:{listener.local_endpoints[0].port}"
                there = taps.Preconnection(
                    remote=remote, security=authority.client(), system=system
                )
                if served:
                    (await there.initiate()).abort()
                    continue
                with pytest.raises(taps.EstablishmentError) as caught:
                    await there.initiate()
                assert caught.value.detail == "wrong-name"

    run(main)


def test_the_certificate_goes_by_the_name_that_is_asked_for(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = taps.SecurityParameters(
            server_certificate=[
                authority.identity("first.example"),
                authority.identity("second.example"),
                authority.identity("*.wild.example"),
            ]
        )
        for name in ("first.example", "second.example", "Second.Example", "a.wild.example"):
            await info_of(server, authority.client(), name=name)
        error = await fails(server, authority.client(), name="fourth.example")
        assert "is for first.example, not for fourth.example" in str(error)

    run(main)


def test_identities_can_be_files_content_or_encrypted(
    run: Run, authority: Authority, tmp_path: pathlib.Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    mine = authority.identity("localhost")
    assert isinstance(mine.chain, bytes)
    assert isinstance(mine.key, bytes)
    (tmp_path / "chain.pem").write_bytes(mine.chain)
    (tmp_path / "key.pem").write_bytes(mine.key)
    (tmp_path / "both.pem").write_bytes(mine.chain + mine.key)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    loaded = serialization.load_pem_private_key(mine.key, None)
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    pkcs8 = serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(b"open sesame")
    encrypted = loaded.private_bytes(pem, pkcs8, locked)
    plain_der = loaded.private_bytes(der, pkcs8, serialization.NoEncryption())
    locked_der = loaded.private_bytes(der, pkcs8, locked)
    chain_der = ssl.PEM_cert_to_DER_cert(mine.chain.decode())
    given = [
        taps.Certificate(tmp_path / "chain.pem", tmp_path / "key.pem"),
        taps.Certificate(str(tmp_path / "both.pem")),
        taps.Certificate(mine.chain, mine.key),
        taps.Certificate(mine.chain + mine.key),
        taps.Certificate(mine.chain, encrypted, "open sesame"),
        taps.Certificate(mine.chain, encrypted, b"open sesame"),
        taps.Certificate(chain_der, plain_der),
        taps.Certificate(chain_der, locked_der, "open sesame"),
    ]
    trusting = [
        tmp_path / "ca.pem",
        authority.pem,
        ssl.PEM_cert_to_DER_cert(authority.pem.decode()),
    ]

    async def main() -> None:
        for each in given:
            server = taps.SecurityParameters(server_certificate=each)
            await info_of(server, authority.client())
        for trusted in trusting:
            client = taps.SecurityParameters(trusted_certificates=trusted)
            await info_of(taps.SecurityParameters(server_certificate=mine), client)
        for bad, words in (
            (taps.Certificate(mine.chain, encrypted), "give its password"),
            (taps.Certificate(mine.chain, encrypted, "guessed"), "the password does not open"),
            (taps.Certificate(tmp_path / "none.pem"), "none.pem cannot be read"),
            (taps.Certificate(b"nonsense", mine.key), "neither PEM nor DER"),
            (
                taps.Certificate(mine.chain, authority.identity("localhost").key),
                "does not belong to",
            ),
        ):
            server = taps.SecurityParameters(server_certificate=bad)
            error = await fails(server, authority.client())
            assert error.reason is taps.Reason.INVALID_CONFIGURATION
            assert words in str(error)
            assert "guessed" not in str(error)
            assert "PRIVATE KEY" not in str(error)

    run(main)


def test_identities_can_be_objects_of_cryptography(run: Run, authority: Authority) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    mine = authority.identity("localhost")
    assert isinstance(mine.chain, bytes)
    assert isinstance(mine.key, bytes)
    chain = x509.load_pem_x509_certificates(mine.chain)
    key = load_pem_private_key(mine.key, None)
    issuer = x509.load_pem_x509_certificate(authority.pem)

    class Broken:
        def public_bytes(self, encoding: Any) -> bytes:
            raise TypeError("no certificate")

        def private_bytes(self, *_: Any) -> bytes:
            raise ValueError("no key")

    async def main() -> None:
        client = taps.SecurityParameters(
            trusted_certificates=issuer, pinned_server_certificate=[[chain[0], issuer], chain[0]]
        )
        for certificates in (chain, chain[0]):
            server = taps.SecurityParameters(server_certificate=taps.Certificate(certificates, key))
            assert (await info_of(server, client)).verified
        for bad, words in (
            (taps.Certificate(Broken(), key), "none of cryptography's"),
            (taps.Certificate(chain, Broken()), "given as an object cannot be read"),
        ):
            server = taps.SecurityParameters(server_certificate=bad)
            error = await fails(server, client)
            assert error.reason is taps.Reason.INVALID_CONFIGURATION
            assert words in str(error)

    run(main)


def test_a_certificate_that_was_renewed_is_the_one_that_is_shown(
    run: Run, authority: Authority, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "mine.pem"

    def renew(number: int) -> None:
        mine = authority.identity("localhost")
        assert isinstance(mine.chain, bytes)
        assert isinstance(mine.key, bytes)
        path.write_bytes(mine.chain + mine.key)
        os.utime(path, (number, number))

    async def main() -> None:
        renew(1)
        server = taps.SecurityParameters(server_certificate=taps.Certificate(path))
        system = taps.System()

        async def shown() -> tuple[bytes, ...]:
            client = authority.client(max_cached_sessions=0)
            return (await info_of(server, client, system=system)).chain

        before = await shown()
        assert await shown() == before
        renew(2)
        assert await shown() != before

    run(main)


def test_a_listener_needs_a_certificate(run: Run, authority: Authority) -> None:
    async def main() -> None:
        for client in (
            taps.SecurityParameters(),
            taps.SecurityParameters(client_certificate=authority.identity("localhost")),
        ):
            error = await fails(client, authority.client())
            assert error.detail == "no-server-certificate"

    run(main)


@pytest.mark.requirement("R-9621-6-01")
def test_a_clients_certificate_is_shown_by_clients_only(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = authority.server(trusted_certificates=authority.pem)
        # Meant for serving, so it is not shown to other servers.
        client = authority.client(server_certificate=authority.identity("client.example"))
        with pytest.raises(taps.TapsError) as caught:
            async with calling(server, client) as (connection, _):
                await connection.receive()
        assert caught.value.detail == "client-certificate-required"

    run(main)


# -- sessions


@pytest.mark.requirement("R-9623-9-01", "R-9623-5.3-03")
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_sessions_are_resumed_once_each_by_host_name(
    run: Run, authority: Authority, version: str
) -> None:
    async def main() -> None:
        server = authority.server("localhost", "other.example")
        system = taps.System()

        async def resumed(name: str = "localhost", **more: Any) -> bool:
            parameters: dict[str, Any] = more.pop("parameters", {})
            client = authority.client(allowed_security_protocols=version, **parameters)
            async with pair(server, client, name=name, system=system, **more) as ends:
                await ends[1].send(b"a ticket comes along")
                await ends[0].receive()
                info = ends[0].find(TLSInfo)
                assert info is not None
                return info.resumed

        assert [await resumed() for _ in range(3)] == [False, True, True]
        assert [await resumed("other.example") for _ in range(2)] == [False, True]
        assert not await resumed(isolate_session=True)
        none = {"max_cached_sessions": 0}
        assert [await resumed(parameters=none) for _ in range(2)] == [False, False]
        short = {"cached_session_lifetime_seconds": 0}
        assert [await resumed(parameters=short) for _ in range(2)] == [False, False]

    run(main)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.requirement("R-9623-5.3-03")
def test_a_session_is_kept_for_parameters_that_are_the_same(
    run: Run, authority: Authority, version: str
) -> None:
    me, other = authority.identity("me.example"), authority.identity("other.example")
    others = Authority()

    async def main() -> None:
        system = taps.System()
        server = authority.server(trusted_certificates=authority.pem)

        async def resumed(**parameters: Any) -> bool:
            parameters = {"client_certificate": me, **parameters}
            client = authority.client(allowed_security_protocols=version, **parameters)
            async with pair(server, client, system=system) as ends:
                await ends[1].send(b"a ticket comes along")
                await ends[0].receive()
                info = ends[0].find(TLSInfo)
                assert info is not None
                return info.resumed

        assert [await resumed() for _ in range(2)] == [False, True]
        # Another identity, another trust, another group: nothing in common with the first.
        assert not await resumed(client_certificate=other)
        assert not await resumed(trusted_certificates=[authority.pem, others.pem])
        assert not await resumed(supported_group="secp256r1")
        # A session with a server is none with one that asks for less, on the same port even.
        server = authority.server()
        assert not await resumed()
        # Two at once: only one gets it.
        assert sorted(await asyncio.gather(resumed(), resumed())) == [False, True]

    run(main)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.requirement("G-9622-6.3.8-01")
def test_clients_that_are_judged_are_judged_each_time_by_their_whole_chain(
    run: Run, authority: Authority, version: str
) -> None:
    seen: list[int] = []

    def judge(peer: Peer) -> bool:
        seen.append(len(peer.chain))
        return True

    async def main() -> None:
        system = taps.System()
        server = authority.server(trusted_certificates=authority.pem)
        server.set_trust_verification_callback(judge)
        client = authority.client(
            allowed_security_protocols=version, client_certificate=authority.identity("me.example")
        )
        for _ in range(3):
            async with pair(server, client, system=system) as ends:
                await ends[1].send(b"a ticket would come along")
                await ends[0].receive()
        assert len(seen) == 3
        assert len(set(seen)) == 1

    run(main)


def test_a_server_without_sessions_issues_none(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = authority.server(max_cached_sessions=0)
        error = await fails(server, authority.client())
        assert "SSL_CTX_set_session_cache_mode" in str(error)
        assert error.detail == "unsupported-parameter"
        server.set("allowedSecurityProtocols", "TLSv1.3")
        system = taps.System()
        for _ in range(2):
            async with pair(server, authority.client(), system=system) as ends:
                await ends[1].send(b"a ticket would come along")
                await ends[0].receive()
                info = ends[0].find(TLSInfo)
                assert info is not None
                assert not info.resumed
        short = authority.server(cached_session_lifetime_seconds=60)
        assert "SSL_CTX_set_timeout" in str(await fails(short, authority.client()))

    run(main)


def test_old_sessions_make_room(run: Run, authority: Authority) -> None:
    async def main() -> None:
        names = ("a.example", "b.example", "c.example")
        server = authority.server(*names)
        client = authority.client(max_cached_sessions=2)
        system = taps.System()

        async def resumed(name: str) -> bool:
            async with pair(server, client, name=name, system=system) as ends:
                await ends[1].send(b"a ticket comes along")
                await ends[0].receive()
                info = ends[0].find(TLSInfo)
                assert info is not None
                return info.resumed

        assert [await resumed(name) for name in names] == [False] * 3
        assert [await resumed(name) for name in reversed(names)] == [True, True, False]

    run(main)


# -- contexts of the application


def test_an_ssl_context_is_taken_as_it_is(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.ca.issue_cert("localhost").configure_cert(server)
        client = ssl.create_default_context(cadata=authority.pem.decode())
        assert (await info_of(server, client)).verified
        assert (await fails(server, ssl.create_default_context())).detail == "unknown-authority"

    run(main)


def test_an_ssl_context_does_not_weaken_what_was_asked_for(run: Run, authority: Authority) -> None:
    async def main() -> None:
        blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        blind.check_hostname = False
        blind.verify_mode = ssl.CERT_NONE
        error = await fails(authority.server(), blind)
        assert error.detail == "unverified-context"
        client = taps.SecurityParameters.opportunistic(context=blind)
        assert not (await info_of(authority.server(), client)).verified
        both = taps.SecurityParameters(context=blind, alpn="h2")
        assert "alpn: belongs into the SSLContext" in str(await fails(authority.server(), both))

    run(main)
