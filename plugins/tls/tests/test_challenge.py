"""The identity challenge callback supplies certificate and key on demand, to both ends."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.testing.conformance import SecurityLayerConformance
from taps_tls import TLS, Challenge, TLSInfo

from .conftest import PATIENCE, Authority, calling, pair

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run

VERSIONS = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


def asking(callback: Any, parameters: taps.SecurityParameters | None = None) -> Any:
    """Parameters with the callback."""
    parameters = taps.SecurityParameters() if parameters is None else parameters
    return parameters.set_identity_challenge_callback(callback)


def told(end: taps.Connection[Any]) -> TLSInfo:
    info = end.find(TLSInfo)
    assert info is not None
    return info


class AskingTLS(TLS):
    """TLS, both of whose ends are asked for their certificates."""

    def acquainted(self) -> tuple[taps.SecurityParameters, taps.SecurityParameters]:
        server, client = super().acquainted()
        (mine,) = server.server_certificate

        async def at_once(_: Challenge) -> taps.Certificate:
            return mine

        async def in_time(_: Challenge) -> taps.Certificate:
            await asyncio.sleep(0)
            return mine

        return asking(in_time), asking(at_once, client)


class TestAskingTLS(SecurityLayerConformance):
    layer = AskingTLS()


@VERSIONS
@pytest.mark.requirement("G-9622-6.3.8-01")
def test_a_server_is_asked_by_the_name_that_the_client_calls(
    run: Run, authority: Authority, version: str
) -> None:
    asked: list[Challenge] = []

    def at_once(challenge: Challenge) -> taps.Certificate:
        asked.append(challenge)
        return authority.identity(str(challenge.server_name))

    async def in_time(challenge: Challenge) -> taps.Certificate:
        await asyncio.sleep(0.01)
        return at_once(challenge)

    async def main() -> None:
        client = authority.client(allowed_security_protocols=version)
        for callback in (at_once, in_time):
            for name in ("first.example", "second.example"):
                asked.clear()
                async with pair(asking(callback), client, name=name) as ends:
                    assert [each.server_name for each in asked] == [name]
                    assert asked[0].role == "server"
                    assert asked[0].peer is not None
                    await ends[0].send(b"question")
                    assert (await ends[1].receive()).data == b"question"
                    await ends[1].send(b"answer")
                    assert (await ends[0].receive()).data == b"answer"
                    assert told(ends[0]).version == version

    run(main)


@pytest.mark.requirement("G-9622-6.3.8-01")
def test_a_client_is_asked_before_its_handshake(run: Run, authority: Authority) -> None:
    asked: list[Challenge] = []
    mine = authority.identity("client.example")

    async def callback(challenge: Challenge) -> taps.Certificate:
        asked.append(challenge)
        await asyncio.sleep(0.01)
        return mine

    async def main() -> None:
        server = authority.server(trusted_certificates=authority.pem)
        client = asking(callback, authority.client())
        async with pair(server, client) as (_, end):
            assert [(each.role, each.server_name) for each in asked] == [("client", "localhost")]
            assert told(end).verified
            assert told(end).chain

    run(main)


def test_a_client_may_show_nothing(run: Run, authority: Authority) -> None:
    async def main() -> None:
        client = asking(lambda _: None, authority.client())
        async with pair(authority.server(), client):
            pass
        server = authority.server(trusted_certificates=authority.pem)
        with pytest.raises(taps.TapsError) as caught:
            async with calling(server, client) as (connection, _):
                await connection.receive()
        assert caught.value.detail == "client-certificate-required"

    run(main)


def test_a_certificate_may_come_without_its_key(run: Run, authority: Authority) -> None:
    mine = authority.identity("localhost")
    keyless = taps.Certificate(mine.chain)

    def callback(challenge: Challenge) -> taps.Certificate:
        (given,) = challenge.certificates
        assert given == keyless
        return taps.Certificate(given.chain, mine.key)

    async def main() -> None:
        server = taps.SecurityParameters(server_certificate=keyless)
        async with pair(asking(callback, server.copy()), authority.client()):
            pass
        with pytest.raises(taps.EstablishmentError, match="comes without its key") as caught:
            async with pair(server, authority.client()):
                pass
        assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION

    run(main)


def test_what_is_made_for_a_certificate_is_made_once(run: Run, authority: Authority) -> None:
    mine = authority.identity("localhost")

    async def resumed(server: Any, client: Any, system: taps.System) -> bool:
        async with pair(server, client, system=system) as ends:
            await ends[1].send(b"a ticket comes along")
            await ends[0].receive()
            return told(ends[0]).resumed

    async def main() -> None:
        # Another context would not know the tickets of the first.
        server, client = asking(lambda _: mine), authority.client()
        system = taps.System()
        assert [await resumed(server, client, system) for _ in range(2)] == [False, True]

    run(main)


class Signer:
    """What a key in a module looks like."""

    def sign(self, data: bytes) -> bytes:
        raise AssertionError("nobody is asked to sign")


def fails(_: Challenge) -> taps.Certificate:
    raise LookupError("the token is not there")


REFUSED = [
    pytest.param(fails, "identity-challenge", "LookupError", id="raises"),
    pytest.param(lambda _: b"secret key", "identity-challenge", "returned bytes", id="no-bundle"),
    pytest.param(lambda _: Signer(), "external-signing", "asks nobody to do it", id="signer"),
    pytest.param(
        lambda _: taps.Certificate("no-such.pem"), "certificate-unusable", "no-such.pem", id="file"
    ),
]


@pytest.mark.parametrize(("callback", "detail", "words"), REFUSED)
def test_a_client_without_an_identity_fails(
    run: Run, authority: Authority, callback: Any, detail: str, words: str
) -> None:
    async def main() -> None:
        with pytest.raises(taps.EstablishmentError, match=words) as caught:
            async with pair(authority.server(), asking(callback, authority.client())):
                pass
        assert caught.value.detail == detail
        assert not caught.value.transient
        assert "secret key" not in str(caught.value)

    run(main)


@pytest.mark.parametrize(
    ("callback", "detail", "words"),
    [*REFUSED, pytest.param(lambda _: None, "identity-challenge", "NoneType", id="nothing")],
)
def test_a_server_without_an_identity_hangs_up_and_logs_why(
    run: Run,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    callback: Any,
    detail: str,
    words: str,
) -> None:
    caplog.set_level("INFO", "taps_core")

    async def main() -> None:
        with pytest.raises(taps.EstablishmentError) as caught:
            async with calling(asking(callback), authority.client()):
                pass
        assert caught.value.detail == "closed-during-handshake"

    run(main)
    assert words in caplog.text
    assert "secret key" not in caplog.text


def test_the_rest_of_the_parameters_is_checked_before_anybody_is_asked(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        for server, client in (
            (asking(fails).set("ciphersuite", "NO-SUCH"), authority.client()),
            (authority.server(), asking(fails, authority.client(ciphersuite="NO-SUCH"))),
        ):
            with pytest.raises(taps.EstablishmentError, match="NO-SUCH") as caught:
                async with pair(server, client):
                    pass
            assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION
        both = taps.SecurityParameters(context=ssl.create_default_context())
        with pytest.raises(taps.EstablishmentError, match="belongs into the SSLContext"):
            async with pair(authority.server(), asking(fails, both)):
                pass

    run(main)


def test_a_hello_in_pieces_is_one_challenge(run: Run, authority: Authority) -> None:
    asked: list[Challenge] = []

    def callback(challenge: Challenge) -> taps.Certificate:
        asked.append(challenge)
        return authority.identity("localhost")

    async def main() -> None:
        here = taps.Preconnection(
            local="127.0.0.1:0", security=asking(callback), framers="line", system=taps.System()
        )
        async with here.listen() as listener, asyncio.timeout(PATIENCE):
            port = listener.local_endpoints[0].port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            context = ssl.create_default_context(cadata=authority.pem.decode())
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            for byte in outgoing.read():
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            while True:
                incoming.write(await reader.read(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
            tls.write(b"hello\n")
            writer.write(outgoing.read())
            connection = await listener.accept()
            assert (await connection.receive()).data == b"hello"
            connection.abort()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert [each.server_name for each in asked] == ["localhost"]

    run(main)


def test_peers_without_a_hello_cost_no_challenge(
    run: Run, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "taps_core")
    asked: list[Challenge] = []

    def callback(challenge: Challenge) -> taps.Certificate:
        asked.append(challenge)
        return authority.identity("localhost")

    async def main() -> None:
        here = taps.Preconnection(
            local="127.0.0.1:0", security=asking(callback), framers="line", system=taps.System()
        )
        async with here.listen() as listener:
            port = listener.local_endpoints[0].port
            for said in (b"", b"\x16\x03\x01"):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(said)
                writer.close()
                await writer.wait_closed()
            async with asyncio.timeout(PATIENCE):
                while caplog.text.count("during the handshake") < 2:  # noqa: ASYNC110  # a log has no event
                    await asyncio.sleep(0.01)
            assert not asked
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert "does not speak TLS" in caplog.text

    run(main)


def test_a_callback_that_does_not_return_is_named_when_the_time_is_over(
    run: Run, authority: Authority
) -> None:
    async def callback(_: Challenge) -> taps.Certificate:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def main() -> None:
        client = asking(callback, authority.client())
        with pytest.raises(taps.EstablishmentTimeout, match="has not returned") as caught:
            async with calling(authority.server(), client, timeout=0.2):
                pass
        assert caught.value.detail == "identity-challenge"

    run(main)


def test_while_one_client_waits_for_the_callback_others_are_served(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        found = asyncio.Event()

        async def callback(challenge: Challenge) -> taps.Certificate:
            if challenge.server_name == "slow.example":
                await found.wait()
            return authority.identity(str(challenge.server_name))

        here = taps.Preconnection(
            local="127.0.0.1:0", security=asking(callback), framers="line", system=taps.System()
        )
        async with here.listen() as listener:
            port = listener.local_endpoints[0].port

            async def call(name: str) -> None:
                remote = taps.RemoteEndpoint(hostname=name, ip_address="127.0.0.1", port=port)
                there = taps.Preconnection(
                    remote=remote,
                    security=authority.client(),
                    framers="line",
                    system=taps.System(),
                )
                (await there.initiate(timeout=PATIENCE)).abort()

            slow = asyncio.ensure_future(call("slow.example"))
            await call("quick.example")
            assert not slow.done()
            found.set()
            await slow

    run(main)
