"""Who knocks at a Listener for DTLS gets a cookie, and only who brings it back is let in.

Until then nothing is remembered of him (RFC 6347, section 4.2.1): the same connection
object judges everybody who has none.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import time
from typing import TYPE_CHECKING, Final

from OpenSSL import SSL

from taps_core.plugin import Door
from taps_tls.dtls_contexts import Association
from taps_tls.records import client_random

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.plugin import RemoteEndpoint
    from taps_tls.dtls_contexts import DTLSSettings

__all__ = ["Admitted", "DTLSDoor"]

#: Seconds after which cookies are others; those of the span before are taken, too.
SPAN: Final = 60.0


class Admitted:
    """Whoever was let in.

    Attributes:
        connection: It has the ClientHello.
        hello: That ClientHello.
        random: What makes it different from others.
        door: Where it came in.
    """

    __slots__ = ("connection", "door", "hello", "random")

    def __init__(
        self, connection: SSL.Connection, hello: bytes, random: bytes, door: DTLSDoor
    ) -> None:
        self.connection = connection
        self.hello = hello
        self.random = random
        self.door = door

    def server_name(self) -> str | None:
        """The name that the client asks for, if it does. The connection is used up by that."""
        # It has no certificate to answer with.
        with contextlib.suppress(SSL.Error):
            self.connection.do_handshake()
        name = self.connection.get_servername()
        return None if name is None else name.decode("ascii", "replace")

    def begin_anew(self, settings: DTLSSettings) -> None:
        """Let the same ClientHello in at another connection."""
        self.connection = settings.server(self.connection.get_app_data())
        self.connection.bio_write(self.hello)
        self.connection.DTLSv1_listen()


class DTLSDoor(Door):
    """The door of one Listener, with a secret of its own."""

    def __init__(self, settings: DTLSSettings) -> None:
        self._settings = settings
        self._secret = os.urandom(32)
        self._judge: SSL.Connection | None = None

    def admit(
        self, datagram: bytes, remote: RemoteEndpoint, reply: Callable[[bytes], None]
    ) -> Admitted | None:
        """Answer a ClientHello without a cookie by one, and let in who brings it back."""
        random = client_random(datagram)
        if random is None:
            return None
        judge, self._judge = self._judge, None
        association = Association(cookies=self._cookies(remote))
        if judge is None:
            judge = self._settings.server(association)
        else:
            judge.set_app_data(association)
        judge.bio_write(datagram)
        try:
            judge.DTLSv1_listen()
        except SSL.WantReadError:
            try:
                reply(judge.bio_read(len(datagram)))
            except SSL.WantReadError:
                return None  # not worth an answer; what OpenSSL thinks of it goes with the judge
            self._judge = judge
            return None
        except SSL.Error:
            return None
        return Admitted(judge, datagram, random, self)

    def _cookies(self, remote: RemoteEndpoint) -> tuple[bytes, ...]:
        now = int(time.monotonic() / SPAN)
        address = f"{remote.ip_address} {remote.interface} {remote.port}"
        return tuple(
            hmac.digest(self._secret, f"{span} {address}".encode(), "sha256")
            for span in (now, now - 1)
        )
