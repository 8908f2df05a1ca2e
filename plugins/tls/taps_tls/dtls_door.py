"""Who knocks at a Listener for DTLS gets a cookie, and only who brings it back is let in.

Until then nothing is remembered of him (RFC 6347, section 4.2.1): the same connection
object judges everybody who has none.
"""

from __future__ import annotations

import hmac
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

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


class Admitted(NamedTuple):
    """Whoever was let in."""

    connection: SSL.Connection
    """It has the ClientHello."""
    random: bytes
    """Of that ClientHello."""
    door: DTLSDoor


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
        return Admitted(judge, random, self)

    def _cookies(self, remote: RemoteEndpoint) -> tuple[bytes, ...]:
        now = int(time.monotonic() / SPAN)
        address = f"{remote.ip_address} {remote.interface} {remote.port}"
        return tuple(
            hmac.digest(self._secret, f"{span} {address}".encode(), "sha256")
            for span in (now, now - 1)
        )
