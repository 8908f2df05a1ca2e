"""Fetch a page by HTTP/1.1: requests and responses are Messages.

    python examples/http_get.py https://www.example.org/ [PATH …]
    python examples/http_get.py --trust ca.pem https://localhost:8443/

h11 knows the protocol, a codec of a few lines makes it a framer, and the
application sends a ``Request`` and receives a ``Response``. Further paths are
fetched over the same Connection. An ``http:`` URL says that plaintext is wanted.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
from typing import Any
from urllib.parse import urlsplit

import h11

import taps_core as taps
from taps_core.plugin import Codec, FramerDefinition, PartTuple, SendRecord, deframing_failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is sent."""

    host: str
    target: str = "/"
    method: str = "GET"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """What is received."""

    status: int
    reason: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class HttpCodec(Codec):
    """One request at a time, one response to each; h11 does the work."""

    objects = True

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self._http = h11.Connection(h11.CLIENT)
        self._head: h11.Response | None = None
        self._body = bytearray()

    @property
    def incomplete(self) -> bool:
        """Whether a response has begun and not ended."""
        return self._head is not None

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes:
        """A ``Request`` as it goes down."""
        try:
            if self._http.our_state is not h11.IDLE:
                self._http.start_next_cycle()
            head = h11.Request(
                method=data.method, target=data.target, headers=[("Host", data.host)]
            )
            return (self._http.send(head) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        except h11.LocalProtocolError as error:
            raise taps.SendError(f"HTTP does not allow this request now: {error}") from error

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        """Each ``Response`` that is complete; h11 keeps the rest."""
        self._http.receive_data(data)
        try:
            while isinstance(event := self._http.next_event(), h11.Event):
                self._take(event, parts)
        except h11.RemoteProtocolError as error:
            raise deframing_failed(f"this is not HTTP/1.1: {error}") from error
        return len(data)

    def _take(self, event: h11.Event, parts: list[PartTuple]) -> None:
        if isinstance(event, h11.Response):
            self._head = event
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > self.max_length:
                raise deframing_failed(f"a body of more than {self.max_length} bytes")
        elif isinstance(event, h11.EndOfMessage) and self._head is not None:
            response = Response(
                status=self._head.status_code,
                reason=self._head.reason.decode("latin-1"),
                headers={
                    name.decode("latin-1"): value.decode("latin-1")
                    for name, value in self._head.headers
                },
                body=bytes(self._body),
            )
            self._head = None
            self._body.clear()
            parts.append((response, None, True))


class Http(FramerDefinition):
    """HTTP/1.1 seen from the client."""

    name = "http"
    objects = True
    alpn = ("http/1.1",)

    def __init__(self, max_length: int = 64 * 1024 * 1024) -> None:
        self.max_length = max_length

    def create(self) -> HttpCodec:
        """A codec for one Connection."""
        return HttpCodec(self.max_length)


async def fetch(url: str, *more_targets: str, trusted: str | None = None) -> list[Response]:
    """The page at ``url`` and others of the same server, over one Connection.

    Args:
        url: ``https:``, or ``http:`` for plaintext.
        *more_targets: Paths of further pages.
        trusted: File of certificates to trust in place of the system's authorities.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    # https: demands a security plugin, and says so where none is installed.
    security = taps.SecurityParameters() if secure else taps.SecurityParameters.disabled()
    if secure and trusted is not None:
        security.set("trustedCertificates", trusted)
    preconnection = taps.Preconnection(
        remote=taps.RemoteEndpoint(
            hostname=parts.hostname, port=parts.port or (443 if secure else 80)
        ),
        security=security,
        framers=Http(),
    )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    responses = []
    async with preconnection.initiate(timeout=10) as connection:
        for wanted in (target, *more_targets):
            await connection.send(Request(host=parts.netloc, target=wanted))
            responses.append((await connection.receive()).data)
    return responses


def is_url(text: str) -> bool:
    """Whether it says with whom to speak HTTP."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # may be out of range
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def main() -> int:
    """Print what the pages are and how they begin."""
    parser = argparse.ArgumentParser(description="Fetch pages by HTTP/1.1, as Messages")
    parser.add_argument("url")
    parser.add_argument("path", nargs="*", help="fetched over the same Connection")
    parser.add_argument("--trust", metavar="PEM", help="whom to trust in place of the system's")
    arguments = parser.parse_args()
    if not is_url(arguments.url):
        parser.error("a URL looks like https://www.example.org/")
    try:
        responses = asyncio.run(fetch(arguments.url, *arguments.path, trusted=arguments.trust))
    except taps.TapsError as error:
        print(error, file=sys.stderr)
        return 1
    for response in responses:
        kind = response.headers.get("content-type", "of unknown type")
        print(f"{response.status} {response.reason}, {len(response.body)} bytes, {kind}")
        for line in response.body[:400].decode(errors="replace").splitlines():
            # What a stranger sent may hold control characters for the terminal.
            print("   ", line.encode("unicode_escape").decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
