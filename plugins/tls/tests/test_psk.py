"""Pre-shared keys take effect where Python's ssl has them, and are refused where it has not."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.testing.conformance import SecurityLayerConformance
from taps_tls import TLS, TLSInfo

from .conftest import PATIENCE, Authority, calling, pair
from .peers import OPENSSL, Files, Peers, needed, to

if TYPE_CHECKING:
    import pathlib

    from taps_core.testing.fixtures import Run

VERSIONS = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
KEY = bytes(range(32))
HAS = pytest.mark.skipif(
    not getattr(ssl, "HAS_PSK", False), reason="Python's ssl has pre-shared keys from 3.13 on"
)


def keyed(key: bytes = KEY, identity: str | bytes = "me", **more: Any) -> taps.SecurityParameters:
    return taps.SecurityParameters(pre_shared_key=(key, identity), **more)


def told(end: taps.Connection[Any]) -> TLSInfo:
    info = end.find(TLSInfo)
    assert info is not None
    return info


class KeyedTLS(TLS):
    """TLS, both of whose ends have a key and nothing else."""

    def acquainted(self) -> tuple[taps.SecurityParameters, taps.SecurityParameters]:
        return keyed(), keyed()


@HAS
class TestKeyedTLS(SecurityLayerConformance):
    layer = KeyedTLS()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="this ssl has pre-shared keys")
def test_without_them_a_key_is_refused_by_the_name_of_what_is_missing(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        for server, client in ((keyed(), authority.client()), (authority.server(), keyed())):
            with pytest.raises(taps.EstablishmentError, match="set_psk_client_callback") as caught:
                async with pair(server, client):
                    pass
            assert caught.value.detail == "unsupported-parameter"
            assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION

    run(main)


@HAS
@VERSIONS
def test_who_has_the_key_needs_no_certificate(run: Run, version: str) -> None:
    async def main() -> None:
        system = taps.System()
        client = keyed(identity=b"me", allowed_security_protocols=version)
        for _ in range(2):
            async with pair(keyed(), client, system=system) as ends:
                await ends[0].send(b"question")
                assert (await ends[1].receive()).data == b"question"
                await ends[1].send(b"answer")
                assert (await ends[0].receive()).data == b"answer"
                for end in ends:
                    info = told(end)
                    assert (info.version, info.pre_shared_key, info.verified) == (
                        (version, True, True)
                    )
                    # The key is no session, and none is kept beside it.
                    assert not info.resumed
                    assert not info.chain

    run(main)


@HAS
@VERSIONS
@pytest.mark.parametrize(
    ("key", "identity", "detail"),
    [
        (b"another key", "me", "wrong-pre-shared-key"),
        (KEY, "somebody else", "unknown-pre-shared-key"),
    ],
)
def test_another_key_or_identity_is_refused_at_both_ends(
    run: Run,
    caplog: pytest.LogCaptureFixture,
    version: str,
    key: bytes,
    identity: str,
    detail: str,
) -> None:
    caplog.set_level("DEBUG", "taps_core")
    client = keyed(key, identity, allowed_security_protocols=version)

    async def main() -> None:
        with pytest.raises(taps.EstablishmentError) as caught:
            async with calling(keyed(), client):
                pass
        error = caught.value
        assert error.detail == detail
        assert "pre-shared key" in str(error)
        assert not error.transient

    run(main)
    # The Listener's end is a line of its log.
    assert "pre-shared key" in caplog.text
    assert "another key" not in caplog.text


@HAS
@VERSIONS
def test_a_server_that_answers_with_a_certificate_is_verified(
    run: Run, authority: Authority, version: str
) -> None:
    async def main() -> None:
        trusting = keyed(trusted_certificates=authority.pem, allowed_security_protocols=version)
        async with pair(authority.server(), trusting) as (client, _):
            assert told(client).verified
            assert not told(client).pre_shared_key
        stranger = keyed(trusted_certificates=Authority().pem, allowed_security_protocols=version)
        with pytest.raises(taps.EstablishmentError) as caught:
            async with pair(authority.server(), stranger):
                pass
        assert caught.value.detail == "unknown-authority"
        # Whoever serves both has whichever the client has, where OpenSSL can choose.
        both = authority.server(pre_shared_key=(KEY, "me"), allowed_security_protocols=version)
        if version == "TLSv1.3":
            with pytest.raises(taps.EstablishmentError, match="set_ciphersuites"):
                async with pair(both, trusting):
                    pass
            return
        for client_parameters, by_key in ((authority.client(), False), (trusting, True)):
            async with pair(both, client_parameters) as (client, _):
                assert told(client).pre_shared_key is by_key

    run(main)


@HAS
@pytest.mark.skipif(
    hasattr(ssl.SSLContext, "set_ciphersuites"), reason="this ssl has it, and needs no stand-in"
)
def test_what_python_3_15_brings_lets_the_key_go_before_the_certificate(
    run: Run, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def set_ciphersuites(_: ssl.SSLContext, suites: str) -> None:
        told.append(suites)

    monkeypatch.setattr(ssl.SSLContext, "set_ciphersuites", set_ciphersuites, raising=False)

    async def main() -> None:
        async with pair(authority.server(pre_shared_key=(KEY, "me")), authority.client()):
            (suites,) = told
            *before, last = suites.split(":")
            assert len(before) == 2
            assert last == "TLS_AES_256_GCM_SHA384"

    run(main)


@HAS
@VERSIONS
def test_a_key_is_no_match_for_a_pin(run: Run, authority: Authority, version: str) -> None:
    async def main() -> None:
        client = keyed(pinned_server_certificate=authority.pem, allowed_security_protocols=version)
        with pytest.raises(taps.EstablishmentError) as caught:
            async with calling(keyed(), client):
                pass
        assert caught.value.detail == "wrong-pin"

    run(main)


@HAS
@pytest.mark.parametrize(
    ("key", "identity", "words"),
    [
        (bytes(1000), "me", "at most 256 bytes"),
        (KEY, "", "identity of 1 to"),
        (KEY, b"\xff\xfe", "UTF-8"),
    ],
)
def test_keys_that_are_none_for_tls_are_refused(
    run: Run, key: bytes, identity: str | bytes, words: str
) -> None:
    async def main() -> None:
        with pytest.raises(taps.EstablishmentError, match=words) as caught:
            async with pair(keyed(), keyed(key, identity)):
                pass
        assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION

    run(main)


@HAS
@VERSIONS
def test_openssl_serves_whoever_has_the_key(
    run: Run, authority: Authority, tmp_path: pathlib.Path, version: str
) -> None:
    async def main(port: int) -> None:
        async with to(port, keyed()).initiate() as connection:
            await connection.send(b"hello")
            assert (await connection.receive()).data == b"olleh"
            assert told(connection).pre_shared_key
        with pytest.raises(taps.EstablishmentError) as caught:
            await to(port, keyed(b"another key")).initiate()
        assert caught.value.detail == "wrong-pre-shared-key"

    with Peers(Files(tmp_path, authority)) as peers:
        key = ("-psk", KEY.hex(), "-psk_identity", "me")
        port = peers.openssl(version, "-nocert", *key)
        run(lambda: main(port))


@HAS
@VERSIONS
def test_we_serve_openssl_that_has_the_key(run: Run, version: str) -> None:
    openssl = needed("openssl")

    async def echo(connection: taps.Connection[Any]) -> None:
        assert told(connection).version == version
        message = await connection.receive()
        await connection.send(b"you said " + message.data)

    async def main() -> None:
        here = taps.Preconnection(
            local="127.0.0.1:0", security=keyed(), framers="line", system=taps.System()
        )
        async with here.listen(echo) as listener:
            port = listener.local_endpoints[0].port
            for key, answer in ((KEY, b"you said hello\n"), (b"another key", b"")):
                done = await asyncio.to_thread(
                    subprocess.run,
                    [
                        *(openssl, "s_client", "-connect", f"127.0.0.1:{port}", OPENSSL[version]),
                        *("-psk", key.hex(), "-psk_identity", "me", "-quiet"),
                    ],
                    input=b"hello\n",
                    capture_output=True,
                    timeout=PATIENCE,
                    check=False,
                )
                assert done.stdout == answer, done.stderr

    run(main)
