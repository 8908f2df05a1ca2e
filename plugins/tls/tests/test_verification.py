"""Who is there is verified before anything is said to it, and a refusal says why."""

from __future__ import annotations

import asyncio
import datetime
import re
from typing import TYPE_CHECKING, Any

import pytest
import trustme

import taps_core as taps
from taps_tls import Peer, TLSInfo
from taps_tls.certificates import self_signed

from .conftest import Authority, calling, pair

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run


async def refusal(server: Any, client: Any, **more: Any) -> taps.EstablishmentError:
    """How the client's establishment fails."""
    with pytest.raises(taps.EstablishmentError) as caught:
        async with pair(server, client, **more):
            pass
    error = caught.value
    assert error.reason is taps.Reason.ESTABLISHMENT_FAILED
    assert not error.transient
    return error


def test_a_server_is_who_it_says_it_is(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (client, server):
            assert str(client.stack) == "line/TLS/TCP"
            await client.send(b"hello")
            assert (await server.receive()).data == b"hello"
            info = client.find(TLSInfo)
            assert info is not None
            assert (info.version, info.verified, info.resumed) == ("TLSv1.3", True, False)
            assert len(info.chain) == 1
            assert info.cipher.startswith("TLS_")

    run(main)


def test_an_address_is_verified_where_there_is_no_name(run: Run, authority: Authority) -> None:
    async def main() -> None:
        system = taps.System()
        here = taps.Preconnection(
            local="127.0.0.1:0", security=authority.server("127.0.0.1"), system=system
        )
        async with here.listen() as listener:
            remote = taps.RemoteEndpoint(
                ip_address="127.0.0.1", port=listener.local_endpoints[0].port
            )
            there = taps.Preconnection(remote=remote, security=authority.client(), system=system)
            connection = await there.initiate()
            connection.abort()

    run(main)


def test_the_certificate_must_carry_the_name_that_was_asked_for(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        server = authority.server("other.example", "third.example")
        error = await refusal(server, authority.client())
        assert error.detail == "wrong-name"
        assert "is for other.example, third.example, not for localhost" in str(error)

    run(main)


def test_an_expired_certificate_is_refused_with_its_date(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = taps.SecurityParameters(server_certificate=authority.expired("localhost"))
        error = await refusal(server, authority.client())
        assert error.detail == "certificate-expired"
        assert "certificate of localhost" in str(error)
        assert "expired on 2020-12-31 00:00 UTC" in str(error)

    run(main)


def test_a_certificate_of_tomorrow_is_refused_with_its_date(run: Run, authority: Authority) -> None:
    async def main() -> None:
        early = authority.identity(
            "localhost",
            not_before=datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC),
            not_after=datetime.datetime(2999, 2, 1, tzinfo=datetime.UTC),
        )
        server = taps.SecurityParameters(server_certificate=early)
        error = await refusal(server, authority.client())
        assert error.detail == "certificate-not-yet-valid"
        assert "not valid before 2999-01-01" in str(error)

    run(main)


def test_an_authority_that_is_not_trusted_is_named(run: Run, authority: Authority) -> None:
    async def main() -> None:
        for stranger in (Authority().client(), taps.SecurityParameters()):
            error = await refusal(authority.server(), stranger)
            assert error.detail == "unknown-authority"
            assert "trustme" in str(error)
            assert "trusted_certificates" in str(error)

    run(main)


def test_names_in_certificates_do_not_act_on_a_terminal(run: Run, authority: Authority) -> None:
    # The sentence shows who has issued it.
    private = trustme.CA(organization_name="evil\x1b[31m", organization_unit_name="\r\n")
    made = private.issue_cert("localhost")
    chain = b"".join(each.bytes() for each in made.cert_chain_pems)
    server = taps.SecurityParameters(
        server_certificate=taps.Certificate(chain, made.private_key_pem.bytes())
    )

    async def main() -> None:
        error = await refusal(server, authority.client())
        assert error.detail == "unknown-authority"
        assert "evil" in str(error)
        assert str(error).isprintable()

    run(main)


def test_a_certificate_signed_by_itself_is_refused_unless_it_is_trusted(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        mine = self_signed("localhost")
        server = taps.SecurityParameters(server_certificate=mine)
        client = taps.SecurityParameters(trusted_certificates=mine)
        error = await refusal(server, authority.client())
        assert error.detail == "self-signed"
        async with pair(server, client):
            pass

    run(main)


@pytest.mark.requirement("G-9622-6.3.3-01")
def test_a_pin_is_kept(run: Run, authority: Authority) -> None:
    mine = authority.identity("localhost")
    server = taps.SecurityParameters(server_certificate=mine)

    async def main() -> None:
        for pin in (mine, authority.pem):
            async with pair(server, authority.client(pinned_server_certificate=pin)):
                pass
        # Of the same authority, and yet another one.
        other = authority.identity("localhost")
        for client in (
            authority.client(pinned_server_certificate=other),
            authority.client(
                pinned_server_certificate=other, client_certificate=authority.identity("me")
            ),
        ):
            assert (await refusal(server, client)).detail == "wrong-pin"

    run(main)


@pytest.mark.requirement("G-9622-6.3.3-01")
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_pinned_certificate_that_is_only_shown_along_is_no_match(
    run: Run, authority: Authority, version: str
) -> None:
    pinned, other = authority.identity("localhost"), authority.identity("localhost")
    assert isinstance(pinned.chain, bytes)
    assert isinstance(other.chain, bytes)

    async def main() -> None:
        # Anybody can send what is public; its key is another matter.
        posing = taps.Certificate(other.chain + pinned.chain, other.key)
        server = taps.SecurityParameters(server_certificate=posing)
        for client in (
            authority.client(pinned_server_certificate=pinned),
            authority.client(pinned_server_certificate=pinned, allowed_security_protocols=version),
        ):
            assert (await refusal(server, client)).detail == "wrong-pin"

    run(main)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_who_is_refused_here_never_sees_this_ends_certificate(
    run: Run, authority: Authority, version: str
) -> None:
    seen: list[Peer] = []

    def look(peer: Peer) -> bool:
        seen.append(peer)
        return True

    async def main() -> None:
        server = authority.server(trusted_certificates=authority.pem)
        server.set_trust_verification_callback(look)
        mine = authority.identity("client.example")
        client = authority.client(
            client_certificate=mine,
            allowed_security_protocols=[version],
            pinned_server_certificate=authority.identity("localhost"),
        )
        assert (await refusal(server, client)).detail == "wrong-pin"
        assert not seen
        client = authority.client(client_certificate=mine, allowed_security_protocols=[version])
        async with pair(server, client):
            assert len(seen) == 1
            assert seen[0].server_name is None

    run(main)


@pytest.mark.requirement("G-9622-6.3.8-01")
def test_the_trust_callback_is_waited_for(run: Run, authority: Authority) -> None:
    async def main() -> None:
        seen: list[Peer] = []

        def sync(peer: Peer) -> bool:
            seen.append(peer)
            return True

        async def patient(peer: Peer) -> bool:
            await asyncio.sleep(0.01)
            seen.append(peer)
            return True

        for callback in (sync, patient):
            client = authority.client().set_trust_verification_callback(callback)
            async with pair(authority.server(), client) as (one, two):
                assert seen
                assert (seen[-1].server_name, seen[-1].verified) == ("localhost", True)
                await two.send(b"after all")
                assert (await one.receive()).data == b"after all"
        assert len(seen) == 2

    run(main)


@pytest.mark.requirement("G-9622-6.3.8-01")
def test_the_trust_callback_can_refuse(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async def refuses(peer: Peer) -> bool:
            await asyncio.sleep(0)
            return False

        def raises(peer: Peer) -> bool:
            raise LookupError("no list of the revoked ones")

        def finds_nothing(peer: Peer) -> Any:
            return re.search("nobody", str(peer.server_name))

        for callback, words in (
            (refuses, "refused localhost"),
            (raises, "LookupError"),
            (finds_nothing, "it returned NoneType, not True"),
        ):
            client = authority.client().set_trust_verification_callback(callback)
            error = await refusal(authority.server(), client)
            assert error.detail == "trust-callback"
            assert words in str(error)

    run(main)


def test_a_client_without_certificate_is_refused_where_one_is_required(
    run: Run, authority: Authority
) -> None:
    server = authority.server(trusted_certificates=authority.pem)

    async def main() -> None:
        client = authority.client(allowed_security_protocols="TLSv1.2")
        error = await refusal(server, client)
        assert error.detail == "handshake-refused"
        # With TLS 1.3 the client is done before the server has seen whether there is one.
        with pytest.raises(taps.TapsError) as caught:
            async with calling(server, authority.client()) as (connection, _):
                await connection.receive()
        assert caught.value.detail == "client-certificate-required"

    run(main)


def test_both_ends_can_be_verified(run: Run, authority: Authority) -> None:
    async def main() -> None:
        server = authority.server(trusted_certificates=authority.pem)
        client = authority.client(client_certificate=authority.identity("client.example"))
        async with pair(server, client) as (_, connection):
            info = connection.find(TLSInfo)
            assert info is not None
            assert info.verified
            assert info.chain

    run(main)


@pytest.mark.requirement("G-9622-6.3-01")
def test_opportunistic_security_encrypts_without_looking(run: Run, authority: Authority) -> None:
    async def main() -> None:
        client = taps.SecurityParameters.opportunistic()
        async with pair(authority.server("other.example"), client) as (connection, _):
            assert str(connection.stack) == "line/TLS/TCP"
            info = connection.find(TLSInfo)
            assert info is not None
            assert not info.verified

    run(main)


def test_establishment_can_be_cancelled_while_the_trust_callback_thinks(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def thinks(_: Peer) -> None:
            asked.set()
            await asyncio.Event().wait()

        client = authority.client().set_trust_verification_callback(thinks)

        async def call() -> None:
            async with pair(authority.server(), client):
                pass

        calling_up = asyncio.ensure_future(call())
        await asked.wait()
        calling_up.cancel()
        await asyncio.wait([calling_up])
        assert calling_up.cancelled()

    run(main)
