"""Identities for tests: encrypted and verified, offline, and nothing stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

import taps_core as taps
from taps_core.testing import LocalAuthority, local_identity
from taps_core.testing.conformance import check, suite_for
from taps_tls import TLS

if TYPE_CHECKING:
    import pathlib

    from taps_core.testing.fixtures import Run


async def talk(server: taps.SecurityParameters, client: taps.SecurityParameters, name: str) -> str:
    """Over what two ends on this machine spoke, once the server has answered."""

    async def echo(connection: taps.Connection[bytes]) -> None:
        await connection.send((await connection.receive()).data)

    here = taps.Preconnection(local="127.0.0.1:0", security=server, framers="line")
    async with here.listen(echo) as listener:
        port = listener.local_endpoints[0].port
        remote = taps.RemoteEndpoint(hostname=name, ip_address="127.0.0.1", port=port)
        there = taps.Preconnection(remote=remote, security=client, framers="line")
        async with there.initiate(timeout=30) as connection:
            await connection.send(b"hello")
            assert (await connection.receive()).data == b"hello"
            return str(connection.stack)


def test_two_ends_trust_each_other(run: Run) -> None:
    async def main() -> None:
        assert await talk(*local_identity("db.example"), "db.example") == "line/TLS/TCP"
        for name in ("localhost", "127.0.0.1"):
            await talk(*local_identity(), name)

    run(main)


def test_names_are_verified_and_strangers_are_not_trusted(run: Run) -> None:
    async def main() -> None:
        server, client = local_identity("db.example")
        with pytest.raises(taps.EstablishmentError) as caught:
            await talk(server, client, "other.example")
        assert caught.value.detail == "wrong-name"
        with pytest.raises(taps.EstablishmentError) as caught:
            await talk(server, local_identity("db.example")[1], "db.example")
        assert caught.value.detail == "unknown-authority"

    run(main)


def test_a_server_can_demand_to_know_who_comes(run: Run) -> None:
    async def main() -> None:
        server, client = local_identity("localhost", client="me.example")
        await talk(server, client, "localhost")
        nobody = taps.SecurityParameters(trusted_certificates=client.trusted_certificates)
        with pytest.raises(taps.TapsError) as caught:
            await talk(server, nobody, "localhost")
        assert caught.value.detail == "client-certificate-required"

    run(main)


def test_an_authority_vouches_for_several(run: Run) -> None:
    async def main() -> None:
        authority = LocalAuthority()
        both = [authority.identity("one.example"), authority.identity("two.example")]
        server = taps.SecurityParameters(server_certificate=both)
        for name in ("one.example", "two.example"):
            await talk(server, authority.client(), name)

    run(main)


def test_nothing_is_left_on_disk(
    run: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        await talk(*local_identity("localhost", client="me.example"), "localhost")

    run(main)
    assert not os.listdir(tmp_path)


def test_keys_are_not_shown() -> None:
    for parameters in local_identity("localhost", client="me.example"):
        assert "PRIVATE" not in repr(parameters)


def test_without_trustme_it_says_what_to_install_and_the_rest_works() -> None:
    program = (
        "import sys; sys.modules['trustme'] = None\n"
        "from taps_core.testing import MemoryNetwork, local_identity\n"
        "MemoryNetwork()\n"
        "try: local_identity('localhost')\n"
        "except ImportError as error: print(error.name, error, sep=': ')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("trustme: certificates for tests are made by trustme, which is")
    assert 'pip install "taps-core[testing]"' in done.stdout


def test_without_trustme_promises_of_tls_are_skipped_and_not_called_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    found = check(suite_for(TLS()))
    assert not [each for each in found if each.outcome == "failed"]
    assert 'pip install "taps-core[testing]"' in str([e for e in found if e.outcome == "skipped"])
