"""What a handshake came to can be read, and what is on the wire with the keys that are logged."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

import taps_core as taps
from taps_core.testing import MemoryNetwork, MemoryStream, Rig
from taps_tls import TLS, TLSInfo

from .conftest import pair, talked_out

if TYPE_CHECKING:
    import pathlib

    from taps_core.testing.fixtures import Run

    from .conftest import Authority

#: All that a handshake tells, by the property that it is read by.
NAMES = {
    "_taps.securityProtocol": "version",
    "_taps.ciphersuite": "cipher",
    "_taps.keyExchangeGroup": "group",
    "_taps.alpn": "alpn",
    "_taps.peerCertificates": "chain",
    "_taps.peerVerified": "verified",
    "_taps.sessionResumed": "resumed",
    "_taps.preSharedKeyUsed": "pre_shared_key",
    "_taps.earlyDataAccepted": "early_data",
}


def results(connection: taps.Connection[Any]) -> dict[str, Any]:
    return {name: connection.properties[name] for name in NAMES}


def test_properties_and_info_tell_the_same_at_both_ends(run: Run, authority: Authority) -> None:
    assert sorted(NAMES.values()) == sorted(each.name for each in dataclasses.fields(TLSInfo))

    async def main() -> None:
        server = authority.server(alpn="acme/1", trusted_certificates=authority.pem)
        me = authority.identity("me.example")
        client = authority.client(alpn="acme/1", client_certificate=me)
        async with pair(server, client) as ends:
            for end in ends:
                info = end.find(TLSInfo)
                assert results(end) == {n: getattr(info, field) for n, field in NAMES.items()}
            told = results(ends[0])
            assert told["_taps.securityProtocol"] == "TLSv1.3"
            assert told["_taps.ciphersuite"].startswith("TLS_AES_")
            assert told["_taps.alpn"] == "acme/1"
            assert told["_taps.peerVerified"] is True
            assert told["_taps.sessionResumed"] is False
            assert told["_taps.earlyDataAccepted"] is False
            shown = ends[1].properties["_taps.peerCertificates"]
            assert ssl.DER_cert_to_PEM_cert(shown[0]).encode() == me.chain

    run(main)


def test_the_results_stay_readable_when_the_connection_is_closed(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client()) as (connection, other):
            before = results(connection)
            await asyncio.gather(connection.close(), other.close())
            assert results(connection) == before

    run(main)


def test_there_are_none_before_ready_and_without_security(run: Run, authority: Authority) -> None:
    async def main() -> None:
        plain = taps.SecurityParameters.disabled()
        async with pair(plain, plain) as ends:
            for end in ends:
                assert set(results(end).values()) == {None}
        early = taps.Preconnection(remote="192.0.2.1:7", security=authority.client()).initiate()
        assert set(results(early).values()) == {None}
        early.abort()

    run(main)


def test_the_results_cannot_be_set() -> None:
    for name in NAMES:
        with pytest.raises(taps.PropertyError, match="read-only"):
            taps.TransportProperties().set(name, None)


def test_the_group_is_told_where_it_is_known(run: Run, authority: Authority) -> None:
    async def main() -> None:
        only = authority.client(supported_group="secp384r1", allowed_security_protocols="TLSv1.3")
        async with pair(authority.server(), only) as (connection, _):
            assert connection.properties["_taps.keyExchangeGroup"] == "secp384r1"

    run(main)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_session_that_is_resumed_is_told(run: Run, authority: Authority, version: str) -> None:
    async def main() -> None:
        server = authority.server()
        client = authority.client(allowed_security_protocols=version)
        system = taps.System()
        for attempt in range(2):
            async with pair(server, client, system=system) as ends:
                await ends[1].send(b"a ticket comes along")
                await ends[0].receive()
                told = results(ends[0])
                assert told["_taps.sessionResumed"] is (attempt > 0)
                assert told["_taps.securityProtocol"] == version
                assert told["_taps.peerCertificates"]  # remembered with the session

    run(main)


def test_a_key_log_opens_what_is_on_the_wire(
    run: Run, authority: Authority, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Wireshark does it: with the lines of the file, RFC 8446 and what was seen."""
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))

    async def main() -> None:
        network = MemoryNetwork()
        layer = TLS()
        wire: list[bytes] = []
        network.wiretap = wire.append
        server = authority.server("127.0.0.1", allowed_security_protocols="TLSv1.3")
        async with Rig(MemoryStream(network), layer, parameters=(server, authority.client())) as r:
            sender, receiver = await r.pair()
            await talked_out()
            wire.clear()  # one record of this end's is behind us
            sender.send(b"for nobody else")
            await receiver.has_data(b"for nobody else")
            record = b"".join(wire)
            assert b"for nobody else" not in record
            found = sender.flow.find(TLSInfo)
            assert found is not None
            assert found.cipher == "TLS_AES_256_GCM_SHA384"
            lines = [line.split() for line in log.read_text().splitlines() if line[0] != "#"]
            # Both ends log the same one.
            (secret,) = {line[2] for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0"}
            assert b"for nobody else" in opened(record, bytes.fromhex(secret))

    run(main)


def opened(record: bytes, secret: bytes) -> bytes:
    """The second record that was sent with keys from ``secret``."""
    key, nonce = expanded(secret, b"key", 32), expanded(secret, b"iv", 12)
    nonce = (int.from_bytes(nonce) ^ 1).to_bytes(12)
    return AESGCM(key).decrypt(nonce, record[5:], record[:5])


def expanded(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446, section 7.1)."""
    label = b"tls13 " + label
    info = length.to_bytes(2) + bytes([len(label)]) + label + b"\x00"
    return HKDFExpand(algorithm=SHA384(), length=length, info=info).derive(secret)


def test_a_key_log_that_cannot_be_written_is_said(
    run: Run, authority: Authority, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "nowhere" / "keys"))

    async def main() -> None:
        with pytest.raises(taps.EstablishmentError, match="SSLKEYLOGFILE") as caught:
            await taps.Preconnection(remote="127.0.0.1:7", security=authority.client()).initiate()
        assert caught.value.detail == "key-log"

    run(main)
