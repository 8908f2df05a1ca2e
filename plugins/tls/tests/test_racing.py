"""Races, groups and Rendezvous: each certificate is judged, and nothing weaker is ever tried."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_tls import Peer, TLSInfo

from .conftest import PATIENCE, calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taps_core.testing.fixtures import Run

    from .conftest import Authority

FOREVER = 3600.0


class Contender:
    """A server in a race.

    Attributes:
        security: What it is given.
        shown: What clients have shown it.
    """

    def __init__(self, authority: Authority, *names: str) -> None:
        self.shown: list[Peer] = []
        self.security = authority.server(*names, trusted_certificates=authority.pem)
        self.security.set_trust_verification_callback(self._look)
        identity = self.security.server_certificate[0]
        assert isinstance(identity.chain, bytes)
        self._pem = identity.chain

    def _look(self, peer: Peer) -> bool:
        self.shown.append(peer)
        return True

    @property
    def leaf(self) -> bytes:
        """Its certificate in DER."""
        from taps_tls.certificates import ders

        return ders(self._pem)[0]


@contextlib.asynccontextmanager
async def racing(
    client: taps.SecurityParameters, *contenders: Contender
) -> AsyncIterator[tuple[Any, list[taps.Listener[Any]]]]:
    """A Preconnection to all of these, in order, and their Listeners."""
    system = taps.System()
    async with contextlib.AsyncExitStack() as stack:
        listeners = []
        for contender in contenders:
            here: Any = taps.Preconnection(
                local="127.0.0.1:0", security=contender.security, framers="line", system=system
            )
            listeners.append(await stack.enter_async_context(here.listen()))
        remotes = [
            taps.RemoteEndpoint(
                hostname="localhost",
                ip_address="127.0.0.1",
                port=listener.local_endpoints[0].port,
            )
            for listener in listeners
        ]
        yield (
            taps.Preconnection(remote=remotes, security=client, framers="line", system=system),
            listeners,
        )


def leaf_of(connection: taps.Connection[Any]) -> bytes:
    info = connection.find(TLSInfo)
    assert info is not None
    return info.chain[0]


def armed(authority: Authority) -> taps.SecurityParameters:
    """A client that has a certificate to show."""
    return authority.client(client_certificate=authority.identity("me.example"))


@pytest.mark.requirement("R-9621-3.3-01")
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_loser_is_closed_before_it_has_seen_this_ends_certificate(
    run: Run, authority: Authority, version: str
) -> None:
    async def main() -> None:
        first, second = Contender(authority), Contender(authority)
        judged: list[bytes] = []

        async def judge(peer: Peer) -> bool:
            judged.append(peer.chain[0])
            if peer.chain[0] == first.leaf:
                await asyncio.sleep(FOREVER)
            return True

        client = armed(authority).set("allowedSecurityProtocols", version)
        client.set_trust_verification_callback(judge)
        async with racing(client, first, second) as (preconnection, listeners):
            async with asyncio.timeout(PATIENCE):
                connection = await preconnection.initiate(timeout=PATIENCE)
                server = await listeners[1].accept()
                await server.send(b"seen")
                await connection.receive()
            assert judged == [first.leaf, second.leaf]
            assert leaf_of(connection) == second.leaf
            assert len(second.shown) == 1
            assert not first.shown
            for end in (connection, server):
                end.abort()

    run(main)


@pytest.mark.requirement("R-9621-3.3-01")
def test_a_slow_approval_is_of_the_one_that_was_judged(run: Run, authority: Authority) -> None:
    async def main() -> None:
        first, second = Contender(authority), Contender(authority)
        refused = asyncio.Event()

        async def judge(peer: Peer) -> bool:
            if peer.chain[0] == first.leaf:
                await refused.wait()
                return True
            refused.set()
            return False

        client = armed(authority).set_trust_verification_callback(judge)
        async with racing(client, first, second) as (preconnection, listeners):
            async with asyncio.timeout(PATIENCE):
                connection = await preconnection.initiate(timeout=PATIENCE)
                server = await listeners[0].accept()
            assert leaf_of(connection) == first.leaf
            assert not second.shown
            for end in (connection, server):
                end.abort()

    run(main)


def test_each_failure_of_a_race_keeps_its_reason(run: Run, authority: Authority) -> None:
    async def main() -> None:
        other, expired = Contender(authority, "other.example"), Contender(authority)
        expired.security.set("serverCertificate", authority.expired("localhost"))
        async with racing(armed(authority), other, expired) as (preconnection, _):
            with pytest.raises(taps.EstablishmentError) as caught:
                await preconnection.initiate(timeout=PATIENCE)
            found = [getattr(each.error, "detail", None) for each in caught.value.attempts]
            assert found == ["wrong-name", "certificate-expired"]
            assert not other.shown
            assert not expired.shown

    run(main)


# -- nothing weaker


class PlainServer:
    """Counts who comes, and what they say first; answers as it is told."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self.heard: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.heard)
        self.heard.append(b"")
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.heard[number] += data
                if self._answer is not None:
                    writer.write(self._answer)
                    break
            with contextlib.suppress(OSError):
                await writer.drain()
                writer.close()
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def plain_server(answer: bytes | None) -> AsyncIterator[PlainServer]:
    """One that speaks no TLS; with ``None`` one that says nothing at all."""
    server = PlainServer(answer)
    tasks: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(server.serve(reader, writer)))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await asyncio.wait(tasks)
        await listening.wait_closed()


def to(port: int, security: taps.SecurityParameters) -> Any:
    remote = taps.RemoteEndpoint(hostname="localhost", ip_address="127.0.0.1", port=port)
    return taps.Preconnection(
        remote=remote, security=security, framers="line", system=taps.System()
    )


@pytest.mark.requirement("R-9621-3.3-01", "R-9621-3.3-03")
def test_who_wants_security_never_speaks_without_it(run: Run, authority: Authority) -> None:
    async def main() -> None:
        for answer in (b"220 ready\r\n", b""):
            async with plain_server(answer) as server:
                with pytest.raises(taps.EstablishmentError):
                    await to(server.port, authority.client()).initiate_with_send(b"secret")
            (heard,) = server.heard
            assert heard.startswith(b"\x16\x03")
            assert b"secret" not in heard

    run(main)


@pytest.mark.requirement("R-9621-3.3-01")
def test_opportunists_do_without_only_where_tls_has_failed(run: Run) -> None:
    async def main() -> None:
        security = taps.SecurityParameters.opportunistic()
        async with plain_server(None) as server:
            # It may be slow: that is no reason to speak plainly.
            with pytest.raises(taps.EstablishmentTimeout):
                await to(server.port, security).initiate_with_send(b"in public", timeout=0.5)
        (heard,) = server.heard
        assert heard.startswith(b"\x16\x03")
        async with plain_server(b"220 ready\n") as server:
            connection = await to(server.port, security).initiate_with_send(b"in public")
            assert str(connection.stack) == "line/TCP"
            assert (await connection.receive()).data == b"220 ready"
            connection.abort()
        assert [each[:2] for each in server.heard] == [b"\x16\x03", b"in"]

    run(main)


@pytest.mark.requirement("R-9621-3.3-03", "G-9622-6.3.3-01")
def test_opportunists_do_not_speak_plainly_to_whom_they_have_refused(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        pinned = taps.SecurityParameters.opportunistic(
            pinned_server_certificate=authority.identity("localhost")
        )
        judging = taps.SecurityParameters.opportunistic()
        judging.set_trust_verification_callback(lambda _: False)
        for client, detail in ((pinned, "wrong-pin"), (judging, "trust-callback")):
            with pytest.raises(taps.EstablishmentError) as caught:
                async with calling(authority.server(), client):
                    pass
            assert caught.value.detail == detail
            assert len(caught.value.attempts) == 1

    run(main)


# -- groups


@pytest.mark.parametrize("how", ["close_group", "abort_group"])
def test_each_member_of_a_group_has_its_peer_judged_and_ends_as_the_group_does(
    run: Run, authority: Authority, how: str
) -> None:
    async def main() -> None:
        judged: list[Peer] = []

        async def judge(peer: Peer) -> bool:
            await asyncio.sleep(0)
            judged.append(peer)
            return True

        client = authority.client().set_trust_verification_callback(judge)
        async with calling(authority.server(), client) as (first, listener):
            servers = [await listener.accept()]
            clones = [first.clone() for _ in range(3)]
            for clone in clones:
                await clone
                servers.append(await listener.accept())
            assert len(judged) == 4
            assert {str(each.stack) for each in clones} == {"line/TLS/TCP"}
            for number, (member, server) in enumerate(zip((first, *clones), servers, strict=True)):
                await member.send(b"%d" % number)
                assert (await server.receive()).data == b"%d" % number
            ending = getattr(first, how)()
            for server in servers:
                with pytest.raises(taps.TapsError) as caught:
                    await server.receive()
                assert isinstance(caught.value, taps.EndOfData) is (how == "close_group")
                server.abort()
            if ending is not None:
                await ending

    run(main)


def test_a_member_whose_peer_is_not_welcome_is_a_clone_error(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        welcome = iter([True, False])
        client = authority.client()
        client.set_trust_verification_callback(lambda _: next(welcome))
        async with calling(authority.server(), client) as (first, listener):
            server = await listener.accept()
            with pytest.raises(taps.CloneError) as caught:
                await first.clone()
            assert caught.value.detail == "trust-callback"
            await first.send(b"as ever")
            assert (await server.receive()).data == b"as ever"
            server.abort()

    run(main)


# -- Rendezvous


def test_a_rendezvous_is_refused_before_anything_is_sent(run: Run, authority: Authority) -> None:
    async def main() -> None:
        for security in (authority.server(trusted_certificates=authority.pem), authority.client()):
            with socket.create_server(("127.0.0.1", 0)) as peer:
                peer.setblocking(False)
                preconnection: Any = taps.Preconnection(
                    local="127.0.0.1:0",
                    remote=f"127.0.0.1:{peer.getsockname()[1]}",
                    security=security,
                    framers="line",
                    system=taps.System(),
                )
                with pytest.raises(taps.EstablishmentError) as caught:
                    await preconnection.rendezvous()
                assert caught.value.reason is taps.Reason.NO_CANDIDATES
                assert caught.value.detail == "rendezvous"
                with pytest.raises(BlockingIOError):
                    peer.accept()

    run(main)
