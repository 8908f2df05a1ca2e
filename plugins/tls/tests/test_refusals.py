"""Every way to be refused: a detail of its own, a sentence with names and dates, no data."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import pytest

import taps_core as taps
from taps_tls.certificates import self_signed

from .conftest import PATIENCE, Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from typing import TypeAlias

    from taps_core.testing.fixtures import Run
    from taps_tls import Peer

    #: The other end: where it is, and what its application has heard.
    End: TypeAlias = AbstractAsyncContextManager[tuple[int, list[bytes]]]

SECRET: Final = b"application data"
#: A ServerHello of TLS 1.1, which knows nothing newer.
TLS_1_1: Final = b"\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02" + bytes(32) + b"\x00\x00\x2f\x00"


@contextlib.asynccontextmanager
async def listener(server: taps.SecurityParameters) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A Listener of ours."""
    heard: list[bytes] = []

    async def hear(connection: taps.Connection[Any]) -> None:
        with contextlib.suppress(taps.TapsError):
            heard.append((await connection.receive()).data)

    here = taps.Preconnection(
        local="127.0.0.1:0", security=server, framers="line", system=taps.System()
    )
    async with here.listen(hear) as made:
        port = made.local_endpoints[0].port
        assert port is not None
        yield port, heard


@contextlib.asynccontextmanager
async def raw(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]],
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that does as ``serve`` says, once; that returns what it heard."""
    heard: list[bytes] = []
    over = asyncio.Event()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            heard.append(await serve(reader, writer))
            while data := await reader.read(65536):
                heard.append(data)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()
        async with asyncio.timeout(PATIENCE):
            await over.wait()


def answers(*words: bytes) -> End:
    """A server that answers the ClientHello by this, and hangs up if that is nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        said = await reader.read(65536)
        for each in words:
            writer.write(each)
            await writer.drain()
        if not words:
            writer.close()
        return said

    return raw(serve)


def silent() -> End:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> bytes:
        return await reader.read(65536)

    return raw(serve)


@contextlib.asynccontextmanager
async def tampered(server: taps.SecurityParameters) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A Listener behind somebody who changes the last byte of what it answers."""
    async with listener(server) as (port, heard):

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
            there, here = await asyncio.open_connection("127.0.0.1", port)
            hello = await reader.read(65536)
            here.write(hello)
            said = bytearray(await there.read(65536))
            said[-1] ^= 1
            writer.write(said)
            await writer.drain()
            here.close()
            with contextlib.suppress(OSError):
                await here.wait_closed()
            return hello

        async with raw(serve) as (between, _):
            yield between, heard


def showing(mine: taps.Certificate, **more: Any) -> taps.SecurityParameters:
    return taps.SecurityParameters(server_certificate=mine, **more)


def refuse(_: Peer) -> bool:
    return False


class Case:
    """One way to be refused.

    Args:
        detail: The error's.
        words: Of its sentence.
        end: Makes the other end.
        client: Makes this end's parameters.
        transient: Whether trying again may help.
        reason: The error's.
        timeout: Seconds given to establishment.
    """

    def __init__(
        self,
        detail: str,
        *words: str,
        end: Callable[[Authority], End],
        client: Callable[[Authority], taps.SecurityParameters] = Authority.client,
        transient: bool = False,
        reason: taps.Reason = taps.Reason.ESTABLISHMENT_FAILED,
        timeout: float = PATIENCE,
    ) -> None:
        self.detail = detail
        self.words = words
        self.end = end
        self.client = client
        self.transient = transient
        self.reason = reason
        self.timeout = timeout


CASES = {
    "expired": Case(
        "certificate-expired",
        "certificate of localhost, shown by",
        "expired on 2020-12-31 00:00 UTC",
        end=lambda a: listener(showing(a.expired("localhost"))),
    ),
    "self-signed": Case(
        "self-signed",
        "certificate of localhost",
        "signed by itself",
        end=lambda _: listener(showing(self_signed("localhost"))),
    ),
    "unknown authority": Case(
        "unknown-authority",
        "issued by",
        "trusted_certificates",
        end=lambda a: listener(a.server()),
        client=lambda _: Authority().client(),
    ),
    "wrong host": Case(
        "wrong-name",
        "is for other.example, not for localhost",
        end=lambda a: listener(a.server("other.example")),
    ),
    "wrong pin": Case(
        "wrong-pin",
        "localhost",
        "none of the pinned certificates",
        end=lambda a: listener(a.server()),
        client=lambda a: a.client(pinned_server_certificate=a.identity("localhost")),
    ),
    "refused by callback": Case(
        "trust-callback",
        "callback refused localhost",
        end=lambda a: listener(a.server()),
        client=lambda a: a.client().set_trust_verification_callback(refuse),
    ),
    "TLS 1.1 only": Case(
        "no-shared-protocol",
        "localhost",
        "no version of TLS in common",
        end=lambda _: answers(TLS_1_1),
    ),
    "no client certificate, 1.2": Case(
        "handshake-refused",
        "localhost",
        "requires a client certificate",
        end=lambda a: listener(a.server(trusted_certificates=a.pem)),
        client=lambda a: a.client(allowed_security_protocols="TLSv1.2"),
    ),
    # The client of TLS 1.3 is Ready before the server has looked.
    "no client certificate, 1.3": Case(
        "client-certificate-required",
        "localhost",
        "requires a client certificate",
        end=lambda a: listener(a.server(trusted_certificates=a.pem)),
        reason=taps.Reason.PROTOCOL_FAILED,
    ),
    "tampered record": Case(
        "bad-record",
        "localhost",
        "changed on the way",
        end=lambda a: tampered(a.server()),
    ),
    "plaintext": Case(
        "not-tls",
        "localhost",
        "does not speak TLS",
        end=lambda _: answers(b"220 mail.example ready\r\n"),
    ),
    "closed": Case(
        "closed-during-handshake",
        "localhost",
        "ended the connection during the handshake",
        end=lambda _: answers(),
        transient=True,
    ),
    "never answers": Case(
        "handshake-timeout",
        "within 0.3 s",
        "localhost",
        "has not answered in the handshake",
        end=lambda _: silent(),
        transient=True,
        reason=taps.Reason.TIMEOUT,
        timeout=0.3,
    ),
}


async def say_and_listen(port: int, security: taps.SecurityParameters, timeout: float) -> None:
    """Connect, with data that is to leave at once, and receive."""
    remote = taps.RemoteEndpoint(hostname="localhost", ip_address="127.0.0.1", port=port)
    there = taps.Preconnection(
        remote=remote, security=security, framers="line", system=taps.System()
    )
    async with asyncio.timeout(PATIENCE):
        connection = await there.initiate_with_send(SECRET, timeout=timeout)
        try:
            await connection.receive()
        finally:
            connection.abort()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_who_is_refused_learns_why_and_no_data_has_left(
    run: Run, authority: Authority, case: Case
) -> None:
    async def main() -> None:
        async with case.end(authority) as (port, heard):
            with pytest.raises(taps.TapsError) as caught:
                await say_and_listen(port, case.client(authority), case.timeout)
        error = caught.value
        assert error.detail == case.detail
        assert error.reason is case.reason
        assert getattr(error, "transient", False) is case.transient
        if error.reason is taps.Reason.TIMEOUT:
            assert isinstance(error, taps.EstablishmentTimeout)
        for words in case.words:
            assert words in str(error)
        assert not any(SECRET in each for each in heard)

    run(main)


def test_a_client_that_never_says_hello_is_a_line_in_the_log(
    run: Run,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taps_core.runtime.listener.HANDSHAKE_TIMEOUT", 0.2)
    caplog.set_level("INFO", "taps_core")

    async def main() -> None:
        async with listener(authority.server()) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(PATIENCE):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(main)
    assert "has not answered in the handshake" in caplog.text
