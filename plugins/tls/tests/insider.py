"""A peer that has shaken hands in earnest, and then writes records of its own.

It learns the keys as SSLKEYLOGFILE tells them (RFC 8446, section 7), so that what it sends is
in order as far as the cipher goes, whatever it means.
"""

from __future__ import annotations

import asyncio
import hmac
import ssl
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    import pathlib

    from taps_core.testing.rig import End

ALERT: Final = 21
HANDSHAKE: Final = 22
DATA: Final = 23
#: The suite that OpenSSL prefers; its hash and the lengths of its keys.
_SUITE: Final = "TLS_AES_256_GCM_SHA384"
_HASH: Final = "sha384"
_KEY, _IV, _SECRET = 32, 12, 48


class Insider:
    """One end of TLS 1.3 over a raw ``End``.

    Args:
        end: What it speaks through.
        context: Its side of the handshake; a server must issue no tickets.
        keys: A file that does not exist yet.
        server: Whether it is the server.
    """

    def __init__(
        self, end: End, context: ssl.SSLContext, keys: pathlib.Path, *, server: bool
    ) -> None:
        self.end = end
        self._keys = keys
        self._label = f"{'SERVER' if server else 'CLIENT'}_TRAFFIC_SECRET_0"
        context.keylog_filename = str(keys)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else "127.0.0.1"
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server, name)

    async def shake(self) -> None:
        """Shake hands as everybody does."""
        recorder = self.end.recorder
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            if data := self._outgoing.read():
                self.end.send(data)
            if done:
                break
            await recorder.until(lambda: recorder.parts)
            self._incoming.write(recorder.data)
            recorder.forget()
        cipher = self._tls.cipher()
        assert cipher is not None
        assert cipher[0] == _SUITE
        lines = map(str.split, self._keys.read_text().splitlines())
        (self._secret,) = [bytes.fromhex(each[2]) for each in lines if each[0] == self._label]
        self._turn_key()

    def _turn_key(self) -> None:
        self._cipher = AESGCM(self._derived("key", _KEY))
        self._iv = int.from_bytes(self._derived("iv", _IV))
        self._number = 0

    def _derived(self, label: str, length: int) -> bytes:
        full = b"tls13 " + label.encode()
        info = length.to_bytes(2) + bytes([len(full)]) + full + b"\0"
        return hmac.digest(self._secret, info + b"\x01", _HASH)[:length]

    def record(self, kind: int, content: bytes) -> bytes:
        """The next record, encrypted."""
        inner = content + bytes([kind])
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2)
        nonce = (self._iv ^ self._number).to_bytes(_IV)
        self._number += 1
        return header + self._cipher.encrypt(nonce, inner, header)

    def key_update(self, *, requested: bool) -> bytes:
        """A record after which a new key holds."""
        update = self.record(HANDSHAKE, b"\x18\0\0\x01" + bytes([requested]))
        self._secret = self._derived("traffic upd", _SECRET)
        self._turn_key()
        return update

    async def send(self, *records: bytes) -> None:
        """Send these, and let the other end have them."""
        self.end.send(b"".join(records))
        for _ in range(3):
            await asyncio.sleep(0)
