"""DTLS over the kernel's UDP: Messages with their boundaries, between ends that know each other."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trustme

import taps_core as taps
from taps_tls import Challenge, Peer, TLSInfo
from taps_tls.certificates import self_signed
from taps_tls.records import CERTIFICATE, cut, handshake_type

from .conftest import PATIENCE, Authority
from .datagrams import DATAGRAMS, Relay, pair

if TYPE_CHECKING:
    import pathlib

    from taps_core.testing.fixtures import Run


def info_of(connection: taps.Connection[Any]) -> TLSInfo:
    info = connection.find(TLSInfo)
    assert info is not None
    return info


async def refusal(server: Any, client: Any, **more: Any) -> taps.EstablishmentError:
    """How the client's establishment fails."""
    with pytest.raises(taps.EstablishmentError) as caught:
        async with pair(server, client, **more):
            pass
    return caught.value


# -- data


def test_messages_keep_their_boundaries(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (client, server):
            assert str(client.stack) == "DTLS/UDP"
            most = client.properties["sendMsgMaxLen"]
            assert most == 16384
            generator = random.Random(1)
            for size in (1, 2, 100, 1200, 5000, most):
                for sender, receiver in ((client, server), (server, client)):
                    data = generator.randbytes(size)
                    await sender.send(data)
                    assert (await receiver.receive()).data == data

    run(main)


def test_a_message_that_no_datagram_holds_is_refused(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (client, server):
            with pytest.raises(taps.SendError, match="20000 bytes") as caught:
                await client.send(bytes(20000))
            assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
            with pytest.raises(taps.SendError) as caught:
                await client.send(b"")
            assert caught.value.detail == "empty-message"
            await client.send(b"after")
            assert (await server.receive()).data == b"after"

    run(main)


def test_parts_of_a_message_are_one_datagram(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (client, server):
            context = taps.MessageContext()
            await client.send(b"one ", context, end_of_message=False)
            await client.send(b"Message", context)
            assert (await server.receive()).data == b"one Message"

    run(main)


def test_what_is_sent_in_one_turn_arrives_whole_and_in_order(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (client, server):
            sent = [b"%d" % number * (number % 50 + 1) for number in range(100)]
            for data in sent:
                client.send_nowait(data)
            assert [(await server.receive()).data for _ in sent] == sent

    run(main)


def test_a_path_is_not_overfilled(run: Run, authority: Authority) -> None:
    """What the path carries, less what a record of this suite adds, and not a byte more."""

    async def main() -> None:
        async with Relay() as relay:
            async with pair(authority.server(), authority.client(), relay=relay) as (
                client,
                server,
            ):
                for flow, sent in ((client, relay.up), (server, relay.down)):
                    sent.clear()
                    await flow.send(bytes(1000))
                    await (server if flow is client else client).receive()
                    # Header, explicit nonce and tag of AES-GCM.
                    assert [len(each) for each in sent] == [1000 + 13 + 8 + 16]
            assert max(map(len, (*relay.handshake_up, *relay.handshake_down))) <= 1200

    run(main)


# -- the end


def test_close_tells_the_peer(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (client, server):
            await client.send(b"last words")
            await client.close()
            assert [message.data async for message in server] == [b"last words"]
            async with asyncio.timeout(PATIENCE):
                await server.close()
            assert server.state is taps.ConnectionState.CLOSED
            with pytest.raises(taps.SendError):
                await server.send(b"to nobody")

    run(main)


def test_abort_says_nothing(run: Run, authority: Authority) -> None:
    async def main() -> None:
        ends = authority.server(), authority.client()
        async with Relay() as relay, pair(*ends, relay=relay) as (client, _):
            relay.up.clear()
            client.abort()
            await asyncio.sleep(0.05)
            assert relay.up == []

    run(main)


# -- who is there


@pytest.mark.parametrize(
    ("detail", "sentence"),
    [
        ("wrong-name", "is for other.example, not for localhost"),
        ("certificate-expired", "expired on 2020-12-31 00:00 UTC"),
        ("unknown-authority", "trusted_certificates"),
        ("self-signed", "signed by itself"),
        ("wrong-pin", "none of the pinned certificates"),
        ("trust-callback", "refused localhost"),
        ("client-certificate-required", "requires a client certificate"),
        ("handshake-refused", "none of the cipher suites"),
    ],
)
def test_a_refusal_says_why_before_anything_is_sent(
    run: Run, authority: Authority, detail: str, sentence: str
) -> None:

    server, client = authority.server(), authority.client()
    if detail == "wrong-name":
        server = authority.server("other.example")
    elif detail == "certificate-expired":
        server = taps.SecurityParameters(server_certificate=authority.expired("localhost"))
    elif detail == "unknown-authority":
        client = Authority().client()
    elif detail == "self-signed":
        server = taps.SecurityParameters(server_certificate=self_signed("localhost"))
    elif detail == "wrong-pin":
        client = authority.client(pinned_server_certificate=authority.identity("localhost"))
    elif detail == "trust-callback":
        client.set_trust_verification_callback(lambda _: False)
    elif detail == "client-certificate-required":
        server = authority.server(trusted_certificates=authority.pem)
    elif detail == "handshake-refused":
        server = authority.server(ciphersuite="ECDHE-ECDSA-AES128-GCM-SHA256")
        client = authority.client(ciphersuite="ECDHE-ECDSA-AES256-GCM-SHA384")

    async def main() -> None:
        error = await refusal(server, client)
        assert error.reason is taps.Reason.ESTABLISHMENT_FAILED
        assert error.detail == detail
        assert sentence in str(error)

    run(main)


def test_nobody_there_is_known_at_once(run: Run, authority: Authority) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

    async def main() -> None:
        there = taps.Preconnection(
            remote=taps.RemoteEndpoint(hostname="localhost", ip_address="127.0.0.1", port=port),
            security=authority.client(),
            transport=taps.TransportProperties(**DATAGRAMS),
        )
        with pytest.raises(taps.EstablishmentError, match="refused"):
            await there.initiate(timeout=PATIENCE)

    run(main)


def test_a_peer_that_never_answers_costs_the_time_that_was_given(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            there = taps.Preconnection(
                remote=taps.RemoteEndpoint(
                    hostname="localhost", ip_address="127.0.0.1", port=silent.getsockname()[1]
                ),
                security=authority.client(),
                transport=taps.TransportProperties(**DATAGRAMS),
            )
            with pytest.raises(taps.EstablishmentTimeout):
                await there.initiate(timeout=0.3)

    run(main)


@pytest.mark.parametrize("shown", [True, False])
def test_a_listener_that_names_authorities_knows_who_comes(
    run: Run, authority: Authority, shown: bool
) -> None:
    server = authority.server(trusted_certificates=authority.pem)
    me = authority.identity("me.example")

    async def main() -> None:
        client = authority.client(client_certificate=me)
        if not shown:
            # Of another role, it serves for nothing here.
            client = authority.client(server_certificate=me)
            assert (await refusal(server, client)).detail == "client-certificate-required"
            return
        async with pair(server, client) as (first, second):
            assert info_of(second).verified
            assert len(info_of(second).chain) == len(info_of(first).chain) == 1
            assert second.properties["_taps.peerCertificates"] == info_of(second).chain

    run(main)


@pytest.mark.parametrize("verdict", [True, False])
@pytest.mark.parametrize("slow", [True, False])
def test_the_application_judges_before_a_client_certificate_is_shown(
    run: Run, authority: Authority, verdict: bool, slow: bool
) -> None:
    server = authority.server(trusted_certificates=authority.pem)
    client = authority.client(client_certificate=authority.identity("me.example"))

    async def main() -> None:
        async with Relay() as relay:
            shown_when_asked: list[bool] = []

            def judge(peer: Peer) -> bool:
                assert peer.verified
                assert peer.server_name == "localhost"
                assert len(peer.chain) == 1
                shown_when_asked.append(shows_certificate(relay.up))
                return verdict

            async def judge_slowly(peer: Peer) -> bool:
                await asyncio.sleep(0.05)
                return judge(peer)

            client.set_trust_verification_callback(judge_slowly if slow else judge)
            if verdict:
                async with pair(server, client, relay=relay) as (first, second):
                    await first.send(b"hello")
                    assert (await second.receive()).data == b"hello"
                assert shows_certificate(relay.handshake_up)
            else:
                error = await refusal(server, client, relay=relay)
                assert error.detail == "trust-callback"
                assert not shows_certificate(relay.up)
            assert shown_when_asked == [False]

    run(main)


def shows_certificate(datagrams: list[bytes]) -> bool:
    return any(
        handshake_type(record) == CERTIFICATE for datagram in datagrams for record in cut(datagram)
    )


# -- parameters


def test_both_know_the_application_protocol(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = authority.server(alpn=["coap", "x"])
        async with pair(server, authority.client(alpn=["x", "coap"])) as (first, second):
            assert info_of(first).alpn == info_of(second).alpn == "coap"
            assert first.properties["_taps.alpn"] == "coap"
        async with pair(server, authority.client()) as (first, second):
            assert info_of(first).alpn is info_of(second).alpn is None

    run(main)


def test_the_certificate_is_that_of_the_name_asked_for(run: Run, authority: Authority) -> None:
    several = taps.SecurityParameters(
        server_certificate=[
            authority.identity("first.example"),
            authority.identity("*.second.example"),
            authority.identity("localhost"),
        ]
    )

    async def main() -> None:
        for name in ("localhost", "first.example", "www.second.example"):
            async with pair(several, authority.client(), name=name):
                pass
        error = await refusal(several, authority.client(), name="third.example")
        assert error.detail == "wrong-name"
        assert "is for first.example" in str(error)

    run(main)


@pytest.mark.parametrize(
    ("server_side", "client_side", "properties", "resumed"),
    [
        ({}, {}, {}, True),
        ({}, {"max_cached_sessions": 0}, {}, False),
        ({"max_cached_sessions": 0}, {}, {}, False),
        ({}, {"cached_session_lifetime_seconds": 0}, {}, False),
        ({}, {}, {"isolate_session": True}, False),
        ({}, {"pins": True}, {}, False),
    ],
)
def test_sessions_are_resumed_where_they_may_be(
    run: Run,
    authority: Authority,
    server_side: dict[str, Any],
    client_side: dict[str, Any],
    properties: dict[str, Any],
    resumed: bool,
) -> None:
    server = authority.server(**server_side)
    if client_side.pop("pins", False):
        client_side["pinned_server_certificate"] = authority.pem
    client = authority.client(**client_side)

    async def main() -> None:
        found = []
        system = taps.System()
        for _ in range(2):
            async with pair(server, client, system=system, **properties) as (first, second):
                await first.send(b"hello")
                assert (await second.receive()).data == b"hello"
                assert info_of(first).resumed == info_of(second).resumed
                assert info_of(first).verified
                found.append(info_of(first).resumed)
        assert found == [False, resumed]

    run(main)


@pytest.mark.parametrize("slow", [True, False])
def test_identities_are_supplied_on_demand(run: Run, authority: Authority, slow: bool) -> None:
    asked: list[tuple[str, str | None]] = []

    def supply(challenge: Challenge) -> taps.Certificate:
        asked.append((challenge.role, challenge.server_name))
        name = challenge.server_name if challenge.role == "server" else "me.example"
        return authority.identity(name or "nobody.example")

    async def supply_slowly(challenge: Challenge) -> taps.Certificate:
        await asyncio.sleep(0.02)
        return supply(challenge)

    callback = supply_slowly if slow else supply
    server = taps.SecurityParameters(trusted_certificates=authority.pem)
    server.set_identity_challenge_callback(callback)
    client = authority.client().set_identity_challenge_callback(callback)

    async def main() -> None:
        for name in ("localhost", "other.example"):
            asked.clear()
            async with pair(server, client, name=name) as (first, second):
                await first.send(b"hello")
                assert (await second.receive()).data == b"hello"
                assert info_of(second).verified
            assert sorted(asked) == [("client", name), ("server", name)]

    run(main)


def test_suite_group_and_version_are_as_asked_for(run: Run, authority: Authority) -> None:
    async def main() -> None:
        client = authority.client(
            ciphersuite="ECDHE-RSA-CHACHA20-POLY1305",
            supported_group="secp384r1",
            allowed_security_protocols="DTLSv1.2",
        )
        # A certificate on a curve would need that curve among the groups.
        mine = authority.identity("localhost", key_type=trustme.KeyType.RSA)
        server = taps.SecurityParameters(server_certificate=mine)
        async with pair(server, client) as (first, second):
            for end in (first, second):
                properties = end.properties
                assert properties["_taps.securityProtocol"] == "DTLSv1.2"
                assert properties["_taps.ciphersuite"] == "ECDHE-RSA-CHACHA20-POLY1305"
                assert properties["_taps.keyExchangeGroup"] == "secp384r1"
                assert properties["_taps.earlyDataAccepted"] is False

    run(main)


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"signature_algorithm": "ed25519"}, "signatureAlgorithm"),
        ({"pre_shared_key": (b"key", "me")}, "preSharedKey"),
        ({"supported_group": ["x25519", "secp256r1"]}, "supportedGroup"),
        ({"ciphersuite": ["ECDHE-ECDSA-AES128-GCM-SHA256", "NONSENSE"]}, "NONSENSE"),
        ({"client_certificate": "two"}, "clientCertificate"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    run: Run, authority: Authority, parameters: dict[str, Any], word: str
) -> None:
    async def main() -> None:
        mine = authority.identity("me.example")
        given = {
            name: [mine, mine] if value == "two" else value for name, value in parameters.items()
        }
        async with Relay() as relay:
            error = await refusal(authority.server(), authority.client(**given), relay=relay)
            assert error.reason is taps.Reason.INVALID_CONFIGURATION
            assert word in str(error)
            assert relay.up == []

    run(main)


def test_the_key_log_has_the_secrets(
    run: Run,
    authority: Authority,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))

    async def main() -> None:
        async with pair(authority.server(alpn="log"), authority.client(alpn="log")):
            pass

    run(main)
    assert "CLIENT_RANDOM " in (tmp_path / "keys").read_text()


def test_opportunistic_takes_any_certificate(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = authority.server("other.example")
        client = taps.SecurityParameters.opportunistic()
        async with pair(server, client) as (first, second):
            assert str(first.stack) == "DTLS/UDP"
            assert not info_of(first).verified
            assert info_of(second).chain == ()

    run(main)


def test_groups_are_not_reached(authority: Authority) -> None:
    """Hands are shaken by two."""
    there = taps.Preconnection(
        remote=taps.RemoteEndpoint(multicast_group="239.1.2.3", port=4000),
        security=authority.client(),
        transport=taps.TransportProperties(direction="Unidirectional send", **DATAGRAMS),
    )
    assert list(there.select()) == []
    assert "DTLS/UDP" in str(there.select())


@pytest.mark.requirement("G-9622-6.3.3-01")
def test_a_pinned_certificate_that_is_only_shown_along_is_no_match(
    run: Run, authority: Authority
) -> None:
    pinned, other = authority.identity("localhost"), authority.identity("localhost")
    assert isinstance(pinned.chain, bytes)
    assert isinstance(other.chain, bytes)
    posing = taps.Certificate(other.chain + pinned.chain, other.key)
    server = taps.SecurityParameters(server_certificate=posing)

    async def main() -> None:
        for client in (
            authority.client(pinned_server_certificate=pinned),
            taps.SecurityParameters.opportunistic(pinned_server_certificate=pinned),
        ):
            assert (await refusal(server, client)).detail == "wrong-pin"
        client = authority.client(pinned_server_certificate=other)
        async with pair(taps.SecurityParameters(server_certificate=other), client):
            pass

    run(main)
