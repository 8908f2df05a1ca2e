"""Opportunistic security: TLS where it can be had, plaintext only when that has failed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_tls import TLSInfo

from .conftest import PATIENCE, pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taps_core.testing.fixtures import Run

    from .conftest import Authority

OPPORTUNISTIC = taps.SecurityParameters.opportunistic()


class Plain:
    """A server that speaks lines in plaintext, and hangs up on anything else.

    Attributes:
        heard: What each connection said first, in their order.
        hesitates: Waited for before it hangs up.
    """

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.hesitates = asyncio.Event()
        self.hesitates.set()
        self.open = 0
        self.most = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        with contextlib.suppress(OSError):
            said = await reader.read(65536)
            self.heard.append(said)
            if said.isascii() and said.endswith(b"\n"):
                writer.write(b"you said " + said)
                await writer.drain()
                await reader.read()
            else:
                await self.hesitates.wait()
        self.open -= 1
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def plain() -> AsyncIterator[tuple[Plain, taps.RemoteEndpoint]]:
    made = Plain()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield (
            made,
            taps.RemoteEndpoint(hostname="localhost", ip_address="127.0.0.1", port=port),
        )
    finally:
        server.close()
        async with asyncio.timeout(PATIENCE):
            while made.open:  # noqa: ASYNC110  # asyncio's servers tell nobody
                await asyncio.sleep(0.01)


def to(remote: Any, security: taps.SecurityParameters) -> Any:
    return taps.Preconnection(
        remote=remote, security=security, framers="line", system=taps.System()
    )


@pytest.mark.requirement("G-9622-6.3-01")
def test_a_listener_without_a_certificate_encrypts_all_the_same(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        async with pair(OPPORTUNISTIC, OPPORTUNISTIC) as ends:
            for end in ends:
                assert str(end.stack) == "line/TLS/TCP"
                info = end.find(TLSInfo)
                assert info is not None
                assert not info.verified
            await ends[0].send(b"question")
            assert (await ends[1].receive()).data == b"question"
        # To whoever wants to know who is there it is nobody.
        with pytest.raises(taps.EstablishmentError) as caught:
            async with pair(OPPORTUNISTIC, authority.client()):
                pass
        assert caught.value.detail == "self-signed"

    run(main)


@pytest.mark.requirement("G-9622-6.3-01", "R-9621-3.3-01")
def test_plaintext_comes_only_after_tls_has_failed(run: Run) -> None:
    async def main() -> None:
        async with plain() as (server, remote):
            server.hesitates.clear()
            connecting = to(remote, OPPORTUNISTIC).initiate_with_send(b"hello")
            # Longer than a race waits for the next attempt.
            await asyncio.sleep(0.5)
            assert len(server.heard) == server.most == 1
            assert b"hello" not in server.heard[0]
            server.hesitates.set()
            connection = await connecting
            assert str(connection.stack) == "line/TCP"
            assert (await connection.receive()).data == b"you said hello"
            assert [each.outcome for each in connection.report] == ["failed", "ready"]
            assert server.heard[1:] == [b"hello\n"]
            connection.abort()

    run(main)


@pytest.mark.requirement("R-9621-3.3-03", "R-9621-6-02")
def test_whoever_asks_for_security_is_never_heard_in_plaintext(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        async with plain() as (server, remote):
            with pytest.raises(taps.EstablishmentError) as caught:
                await to(remote, authority.client()).initiate_with_send(b"hello")
            assert caught.value.detail == "closed-during-handshake"
            assert len(server.heard) == 1
            assert b"hello" not in server.heard[0]

    run(main)


@pytest.mark.requirement("R-9621-3.3-03", "G-9622-6.3.3-01")
@pytest.mark.parametrize("how", ["pin", "callback"])
def test_whom_the_application_refuses_is_not_spoken_to_in_plaintext(
    run: Run, authority: Authority, how: str
) -> None:
    client = taps.SecurityParameters.opportunistic()
    if how == "pin":
        client.set("pinnedServerCertificate", authority.identity("localhost"))
    else:
        client.set_trust_verification_callback(lambda _: False)

    async def main() -> None:
        with pytest.raises(taps.EstablishmentError) as caught:
            async with pair(authority.server(), client):
                pass
        assert caught.value.detail == ("wrong-pin" if how == "pin" else "trust-callback")
        assert [each.outcome for each in caught.value.attempts] == ["failed"]

    run(main)


@pytest.mark.requirement("R-9621-3.3-03")
def test_an_identity_that_is_not_to_be_had_is_no_reason_for_plaintext(run: Run) -> None:
    def fails(_: Any) -> taps.Certificate:
        raise LookupError("the token is not there")

    async def main() -> None:
        client = taps.SecurityParameters.opportunistic().set_identity_challenge_callback(fails)
        async with plain() as (server, remote):
            with pytest.raises(taps.EstablishmentError) as caught:
                await to(remote, client).initiate_with_send(b"hello")
            assert caught.value.detail == "identity-challenge"
            assert not any(server.heard)

    run(main)


@pytest.mark.requirement("G-9622-6.3.3-01")
def test_an_opportunistic_pin_is_the_servers_own_certificate(
    run: Run, authority: Authority
) -> None:
    mine, other = authority.identity("localhost"), authority.identity("localhost")
    assert isinstance(mine.chain, bytes)
    assert isinstance(other.chain, bytes)
    client = taps.SecurityParameters.opportunistic(pinned_server_certificate=mine)

    async def main() -> None:
        async with pair(taps.SecurityParameters(server_certificate=mine), client):
            pass
        posing = taps.Certificate(other.chain + mine.chain, other.key)
        with pytest.raises(taps.EstablishmentError) as caught:
            async with pair(taps.SecurityParameters(server_certificate=posing), client):
                pass
        assert caught.value.detail == "wrong-pin"

    run(main)


@pytest.mark.requirement("R-9621-3.3-03")
def test_what_was_asked_of_security_and_cannot_be_had_is_not_dropped_for_plaintext(
    run: Run,
) -> None:
    async def main() -> None:
        async with plain() as (server, remote):
            client = taps.SecurityParameters.opportunistic(ciphersuite="NO-SUCH-SUITE")
            with pytest.raises(taps.EstablishmentError, match="NO-SUCH-SUITE") as caught:
                await to(remote, client).initiate_with_send(b"hello")
            assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION
            assert not server.heard

    run(main)
