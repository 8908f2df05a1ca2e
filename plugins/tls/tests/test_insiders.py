"""Peers that are who they say they are, and up to no good: they cost no more than they send."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import ReceiveError, SendError
from taps_core.testing import MemoryNetwork, MemoryStream, connect_request
from taps_core.testing.rig import End, Rig
from taps_tls import TLS

from .conftest import calling
from .insider import ALERT, DATA, HANDSHAKE, Insider

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Callable

    from taps_core.testing.fixtures import Run

    from .conftest import Authority

LAYER = TLS()
#: How often it is done: no limit of ours would be so high.
OFTEN = 5000
#: So much TLS may hold of what came, or has to go: a record, and some.
HELD = 64 * 1024


@contextlib.asynccontextmanager
async def facing(
    authority: Authority, folder: pathlib.Path, *, server: bool
) -> AsyncIterator[tuple[End, Insider]]:
    """Our end, and an insider that is the ``server`` or the client."""
    network = MemoryNetwork()
    transport = MemoryStream(network)
    keys = folder / "keys"
    keys.unlink(missing_ok=True)
    issued = authority.ca.issue_cert("127.0.0.1")
    if server:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issued.configure_cert(context)
        context.num_tickets = 0
        async with Rig(transport) as rig:
            request = connect_request(rig.remote, security=authority.client())
            connecting = asyncio.ensure_future(LAYER.connect(transport, request))
            insider = Insider(await rig.accept(), context, keys, server=True)
            await insider.shake()
            async with ended(End(await connecting)) as end:
                yield end, insider
    else:
        parameters = (authority.server("127.0.0.1"), authority.client())
        context = ssl.create_default_context(cadata=authority.pem.decode())
        async with Rig(transport, LAYER, parameters=parameters) as rig:
            accepting = asyncio.ensure_future(rig.accept())
            raw = End(await transport.connect(connect_request(rig.remote)))
            insider = Insider(raw, context, keys, server=False)
            await insider.shake()
            async with ended(raw):
                yield await accepting, insider


@contextlib.asynccontextmanager
async def ended(end: End) -> AsyncIterator[End]:
    try:
        yield end
    finally:
        end.flow.abort()
        await end.has_closed()


# -- what they send


def key_updates(insider: Insider) -> bytes:
    return insider.key_update(requested=True)


def quiet_key_updates(insider: Insider) -> bytes:
    return insider.key_update(requested=False)


def empty_records(insider: Insider) -> bytes:
    return insider.record(DATA, b"")


def padding(insider: Insider) -> bytes:
    """Nothing, and sixteen thousand zeros behind it."""
    return insider.record(0, bytes([DATA]) + bytes(16000))


def warnings(insider: Insider) -> bytes:
    return insider.record(ALERT, b"\x01\x5a")  # user_canceled


def tickets(insider: Insider) -> bytes:
    ticket = b"\0\x01\0\0" + bytes(4) + b"\x01\0" + b"\x01\0" + bytes(256) + b"\0\0"
    return insider.record(HANDSHAKE, b"\x04" + len(ticket).to_bytes(3) + ticket)


def one_long_message(insider: Insider) -> bytes:
    """Pieces of a message that is sixteen million bytes long, or says so again and again."""
    return insider.record(HANDSHAKE, b"\x04\xff\xff\xff" + bytes(8000))


def hellos(insider: Insider) -> bytes:
    return insider.record(HANDSHAKE, b"\x01\0\0\x02\x03\x03")


def changes_of_cipher(insider: Insider) -> bytes:
    return b"\x14\x03\x03\0\x01\x01"


def nonsense(insider: Insider) -> bytes:
    return insider.record(99, b"nonsense")


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
@pytest.mark.parametrize(
    "what",
    [
        *(key_updates, quiet_key_updates, empty_records, padding, warnings, tickets),
        *(one_long_message, hellos, changes_of_cipher, nonsense),
    ],
)
def test_who_never_stops_is_borne_or_ended_and_fills_no_memory(
    run: Run,
    authority: Authority,
    tmp_path: pathlib.Path,
    what: Callable[[Insider], bytes],
    server: bool,
) -> None:
    async def main() -> None:
        async with facing(authority, tmp_path, server=server) as (end, insider):
            await insider.send(insider.record(DATA, b"hello"))
            await end.has_data(b"hello")
            insider.end.recorder.forget()
            tls: Any = end.flow.lower
            sent = 0
            for _ in range(OFTEN // 20):
                records = [what(insider) for _ in range(20)]
                sent += sum(map(len, records))
                with contextlib.suppress(SendError):
                    await insider.send(*records)
                if not end.recorder.is_closed:  # then there is nothing left to look at
                    assert tls._incoming.pending + tls._outgoing.pending < HELD
                assert len(insider.end.recorder.data) <= max(sent, 1000)
                if end.recorder.is_closed or insider.end.recorder.is_closed:
                    break
            failures = end.recorder.named("failed")
            if failures:
                assert isinstance(failures[0].arguments[0], ReceiveError)
                assert failures[0].arguments[0].detail == "protocol-error"
            else:
                await insider.send(insider.record(DATA, b" and goodbye"))
                await end.has_data(b"hello and goodbye")
                end.send(b"goodbye to you")  # with a new key, if one was wanted
                await insider.end.recorder.until(lambda: insider.end.recorder.data)
            assert not end.recorder.is_finished

    run(main)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_chain_without_end_is_not_read_to_it(
    run: Run, authority: Authority, version: str
) -> None:
    mine = authority.identity("localhost")
    assert isinstance(mine.chain, bytes)
    long = taps.Certificate(mine.chain + authority.pem * 1000, mine.key)

    async def main() -> None:
        for mutual in (False, True):
            server = taps.SecurityParameters(server_certificate=mine if mutual else long)
            client = authority.client(allowed_security_protocols=version)
            if mutual:
                server.set("trustedCertificates", authority.pem)
                client.set("clientCertificate", long)
            with pytest.raises(taps.TapsError) as caught:
                async with calling(server, client) as (connection, _):
                    await connection.receive()
            if not mutual:
                assert "excessive message size" in str(caught.value)

    run(main)
