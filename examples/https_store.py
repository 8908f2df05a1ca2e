"""Serve by HTTPS: whatever a client PUTs can be fetched again, until the program ends.

    python examples/https_store.py chain.pem key.pem
    curl --cacert ca.pem --upload-file notes.txt https://localhost:8443/notes
    curl --cacert ca.pem https://localhost:8443/notes

h11 knows the protocol, a Framer of a few lines puts it on a Connection, and the
application receives a ``Request`` and sends a ``Response``. TLS comes from a plugin;
ALPN says ``http/1.1`` because the framer does. One Connection takes any number of
requests, also before earlier ones are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import sys
from typing import Any

import h11

import taps_core as taps
from taps_core.plugin import Framer, MessageContext, deframing_failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is received."""

    method: str
    target: str
    body: bytes
    last: bool
    """Whether no other request follows on this Connection."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """What is sent."""

    status: int
    body: bytes = b""


class HttpServer(Framer):
    """HTTP/1.1 seen from the server."""

    objects = True
    alpn = ("http/1.1",)
    max_length = 16 * 1024 * 1024
    _at_once = 64 * 1024

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER)
        self._head: h11.Request | None = None
        self._body = bytearray()

    def handle_received_data(self) -> None:
        """Deliver each ``Request`` that is complete, one at a time until it is answered."""
        try:
            while (event := self._http.next_event()) is not h11.PAUSED:
                if isinstance(event, h11.Event):
                    self._take(event)
                    continue
                if self._http.they_are_waiting_for_100_continue:
                    self._say(h11.InformationalResponse(status_code=100, headers=[]))
                parsed = self.parse(1, self._at_once)
                if parsed is None:
                    break
                self._http.receive_data(parsed.data)
                self.advance_receive_cursor(len(parsed.data))
        except h11.RemoteProtocolError as error:
            raise deframing_failed(f"this is not HTTP/1.1: {error}") from error

    def _take(self, event: h11.Event) -> None:
        if isinstance(event, h11.Request):
            self._head = event
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > self.max_length:
                raise deframing_failed(f"a body of more than {self.max_length} bytes")
        elif isinstance(event, h11.EndOfMessage) and self._head is not None:
            wishes = b",".join(value for name, value in self._head.headers if name == b"connection")
            request = Request(
                method=self._head.method.decode(),
                target=self._head.target.decode(),
                body=bytes(self._body),
                last=self._head.http_version == b"1.0" or b"close" in wishes.lower(),
            )
            self._body.clear()
            self.deliver(None, request)

    def handle_end_of_data(self) -> bool:
        """Requests before the end are delivered first; one of them may be cut off."""
        if self._http.their_state is h11.DONE:
            return False  # it is not answered yet, and others may stand behind it
        try:
            self._http.receive_data(b"")
            self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise deframing_failed(f"this is not HTTP/1.1: {error}") from error
        return True

    def new_sent_message(
        self, data: Any, context: MessageContext | None, end_of_message: bool
    ) -> None:
        """Send a ``Response``, and turn to the next request."""
        length = str(len(data.body))
        try:
            self._say(h11.Response(status_code=data.status, headers=[("Content-Length", length)]))
            if data.body and not (self._head and self._head.method == b"HEAD"):
                self._say(h11.Data(data=data.body))
            self._say(h11.EndOfMessage())
        except h11.LocalProtocolError as error:
            raise taps.SendError(f"HTTP does not allow this response now: {error}") from error
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self.handle_received_data()

    def _say(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self.send(data)


class Store:
    """What clients have put here, by path."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    async def serve(self, connection: taps.Connection[Request]) -> None:
        """Answer the requests of one Connection; it is closed when this returns."""
        try:
            async for message in connection:
                await connection.send(self.answer(message.data))
                if message.data.last:
                    break
        except taps.ReceiveError as error:
            if error.reason is not taps.Reason.DEFRAMING_FAILED:
                raise
            await connection.send(Response(status=400, body=f"{error}\n".encode()))

    def answer(self, request: Request) -> Response:
        """What there is to say."""
        target = request.target
        if request.method in ("PUT", "POST"):
            known = target in self._kept
            self._kept[target] = request.body
            return Response(status=200 if known else 201, body=b"%d bytes\n" % len(request.body))
        if request.method not in ("GET", "HEAD"):
            return Response(status=405, body=b"GET, HEAD, PUT or POST\n")
        if target in self._kept:
            return Response(status=200, body=self._kept[target])
        if target == "/":
            paths = "".join(f"{path}\n" for path in sorted(self._kept))
            return Response(status=200, body=paths.encode() or b"nothing yet\n")
        return Response(status=404, body=b"there is no such thing\n")


async def serve(local: str, certificate: taps.Certificate) -> None:
    """Answer until interrupted."""
    preconnection = taps.Preconnection(
        local=local,
        security=taps.SecurityParameters(server_certificate=certificate),
        framers=HttpServer,
    )
    async with preconnection.listen(Store().serve) as listener:
        for endpoint in listener.local_endpoints:
            print(f"listening on {endpoint}", flush=True)
        await listener.stopped()


def main() -> int:
    """Serve."""
    parser = argparse.ArgumentParser(description="Keep what is PUT, by HTTPS")
    parser.add_argument("--listen", default="localhost:8443", metavar="HOST:PORT")
    parser.add_argument("chain", help="the certificate and those that lead to its authority, PEM")
    parser.add_argument("key", nargs="?", help="its key, unless it is in the same file")
    arguments = parser.parse_args()
    certificate = taps.Certificate(arguments.chain, arguments.key)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(arguments.listen, certificate))
    except taps.TapsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
