"""Keys and passwords are in no repr, no log and no error, whatever goes wrong."""

from __future__ import annotations

import base64
import contextlib
import logging
import ssl
import traceback
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives import serialization

import taps_core as taps
from taps_core.testing.requests import connect_request
from taps_tls import TLS, Challenge

from .conftest import Authority, calling, pair

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from taps_core.testing.fixtures import Run

PASSWORD: Final = "open sesame, said Ali Baba"
KEY: Final = b"a pre-shared key that is 32 long"


class Secrets:
    """An identity whose key is locked, in every form; and what must not be seen of it."""

    def __init__(self, authority: Authority) -> None:
        mine = authority.identity("localhost")
        assert isinstance(mine.key, bytes)
        self.chain = mine.chain
        self.key = serialization.load_pem_private_key(mine.key, None)
        self.plain = mine.key
        self.locked = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD.encode()),
        )
        der = self.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        bodies = [each.splitlines()[1].decode() for each in (self.plain, self.locked)]
        self.hidden = [
            *bodies,
            *(PASSWORD, repr(der)[2:40], der.hex()),
            *(KEY.decode(), KEY.hex(), base64.b64encode(KEY).decode()),
        ]

    def check(self, text: str) -> None:
        for each in self.hidden:
            assert each not in text


def told(error: BaseException) -> str:
    """All that a program may print of an error."""
    lines = traceback.format_exception(error)
    attempts = getattr(error, "attempts", ())
    return "".join([*lines, repr(error), *map(repr, attempts), *map(str, attempts)])


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "taps_core"):
        yield caplog


def test_what_goes_well_shows_no_secret(
    run: Run, authority: Authority, everything_logged: pytest.LogCaptureFixture
) -> None:
    secrets = Secrets(authority)
    mine = taps.Certificate(secrets.chain, secrets.locked, PASSWORD)
    seen: list[str] = []

    def challenge(asked: Challenge) -> taps.Certificate:
        seen.append(repr(asked))
        return mine

    async def main() -> None:
        nonlocal seen
        system = taps.System()
        server = authority.server(trusted_certificates=authority.pem, server_certificate=mine)
        client = authority.client(client_certificate=mine)
        asking = client.copy().set_identity_challenge_callback(challenge)
        for parameters in (client, asking):
            async with calling(server, parameters, system=system) as (one, listener):
                other = await listener.accept()
                await other.send(b"hello")
                await one.receive()
                for each in (one, other, listener, server, parameters, mine, system):
                    seen += [repr(each), str(each)]
                for end in (one, other):
                    seen += [repr(end.properties), repr(dict(end.properties)), repr(end.report)]
                other.abort()
        layer = TLS()
        settings = layer._contexts.of(server, server=True)
        seen += map(repr, (layer, settings, settings.context, layer._contexts))
        seen.append(repr(connect_request(taps.RemoteEndpoint(ip_address="::1"), security=client)))

    run(main)
    secrets.check("".join(seen) + everything_logged.text)


def test_what_goes_wrong_shows_no_secret(
    run: Run,
    authority: Authority,
    tmp_path: pathlib.Path,
    everything_logged: pytest.LogCaptureFixture,
) -> None:
    secrets = Secrets(authority)
    chain, locked = secrets.chain, secrets.locked
    other = authority.identity("localhost")
    # As it may be spoilt by hand.
    spoilt = locked.replace(b"\n", b" ", 3)
    (tmp_path / "spoilt.pem").write_bytes(spoilt)
    wrong: list[Any] = [
        taps.Certificate(chain, locked),
        taps.Certificate(chain, locked, PASSWORD[1:]),
        taps.Certificate(chain, spoilt, PASSWORD),
        taps.Certificate(chain, tmp_path / "spoilt.pem", PASSWORD),
        taps.Certificate(other.chain, locked, PASSWORD),
        taps.Certificate(secrets.plain, PASSWORD.encode()),
        taps.Certificate(locked, chain, PASSWORD),
        taps.Certificate(chain, ssl.PEM_cert_to_DER_cert(other.chain.decode()), PASSWORD),
        taps.Certificate(chain, secrets.key, 1000 * PASSWORD),
    ]

    def returning(value: Any) -> taps.SecurityParameters:
        return authority.client().set_identity_challenge_callback(lambda _: value)

    failing: list[tuple[Any, Any]] = [
        *((authority.server(server_certificate=each), authority.client()) for each in wrong),
        *((authority.server(), authority.client(client_certificate=each)) for each in wrong),
        *((authority.server(), returning(each)) for each in wrong),
        *(
            (authority.server(), returning(each))
            for each in (PASSWORD, secrets.plain, secrets.key, (PASSWORD, KEY))
        ),
        # Where there are no pre-shared keys the parameter is refused.
        (taps.SecurityParameters(pre_shared_key=(KEY, "me")), authority.client()),
        (
            taps.SecurityParameters(pre_shared_key=(KEY, "me")),
            taps.SecurityParameters(pre_shared_key=(KEY[::-1], "me")),
        ),
        (authority.server(), authority.client(pre_shared_key=(10 * KEY, "me"))),
        (authority.server(), authority.client(pre_shared_key=(KEY, b"\xff"))),
    ]
    seen: list[str] = []

    async def main() -> None:
        for server, client in failing:
            try:
                async with pair(server, client):
                    continue  # 1000 passwords do no harm to a key that is not locked
            except taps.TapsError as error:
                seen.append(told(error))

    run(main)
    assert len(seen) >= len(failing) - 3
    secrets.check("".join(seen) + everything_logged.text)


def test_parameters_that_cannot_be_show_no_secret(authority: Authority) -> None:
    secrets = Secrets(authority)
    seen: list[str] = []
    attempts: list[Any] = [
        lambda: taps.Certificate(secrets.chain, PASSWORD.split()),
        lambda: taps.Certificate([secrets.plain]),
        lambda: taps.Certificate(secrets.chain, secrets.plain, [PASSWORD]),
        lambda: taps.SecurityParameters(pre_shared_key=(KEY.decode(), "me")),
        lambda: taps.SecurityParameters(pre_shared_key=KEY),
        lambda: taps.SecurityParameters().set("preSharedKey", KEY, "me", "too"),
        lambda: taps.SecurityParameters(server_certificate=secrets.plain),
        lambda: taps.SecurityParameters.disabled().set("preSharedKey", KEY, "me"),
    ]
    for attempt in attempts:
        with contextlib.suppress(taps.PropertyError):
            seen.append(repr(attempt()))
        with pytest.raises(taps.PropertyError) as caught:
            attempt()
        # As a traceback shows this very file, that alone.
        seen += [repr(caught.value), str(caught.value)]
    secrets.check("".join(seen))
