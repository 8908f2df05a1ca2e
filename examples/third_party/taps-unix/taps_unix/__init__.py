"""Unix-domain sockets for taps: the transport ``unix``, to ``_unix.path=/run/x.sock``."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
import tempfile
from typing import TYPE_CHECKING

from taps_core import plugin as tp

if TYPE_CHECKING:
    from collections.abc import Sequence

PATH = "_unix.path"


class Unix(tp.Transport):
    """A byte stream between two processes of one machine."""

    name = "unix"
    api_version = 1
    serves = frozenset({PATH})
    capabilities = tp.Capabilities.byte_stream()

    def availability(self) -> tp.Availability:
        """Everywhere but on Windows."""
        if hasattr(socket, "AF_UNIX"):
            return tp.AVAILABLE
        reason = "Python has no unix-domain sockets on this platform"
        return tp.Availability(available=False, reason=reason, remedy="pip install taps-tcp")

    def loopback(self) -> tp.LocalEndpoint:
        """A fresh path in the folder for temporary files."""
        path = os.path.join(tempfile.gettempdir(), f"taps-{secrets.token_hex(8)}.sock")
        return tp.LocalEndpoint(identifiers={PATH: path})

    async def connect(self, request: tp.ConnectRequest) -> tp.Flow:
        """To whoever listens at the path."""
        path = path_of(request.remote)
        if request.local is not None:
            raise tp.EstablishmentError("unix: only who listens has an endpoint of its own")
        sock = socket.socket(socket.AF_UNIX)
        return await tp.StreamFlow.connect(sock, path, remote=request.remote)

    async def listen(self, request: tp.ListenRequest) -> tp.ListeningFlow:
        """At the path, also where a process that is gone has left its socket file."""
        path = path_of(request.local)
        remove_stale(path)
        return UnixListener.open(socket.socket(socket.AF_UNIX), path, request)


def path_of(endpoint: tp.LocalEndpoint | tp.RemoteEndpoint) -> str:
    """The path that an endpoint names."""
    path = endpoint.identifiers.get(PATH)
    if isinstance(path, str) and path and "\0" not in path:
        return path
    sentence = f"{PATH} is the path of a socket file, not {path!r}"
    raise tp.EstablishmentError(sentence, reason=tp.Reason.INVALID_CONFIGURATION)


class UnixListener(tp.StreamListener):
    """Takes its socket file along when it stops, unless it is another's by now."""

    def __init__(self, sock: socket.socket, request: tp.ListenRequest) -> None:
        self._path = path_of(request.local)
        self._file = os.stat(self._path)
        super().__init__(sock, request)

    def stopping(self) -> None:
        """Called once, before the socket closes."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self._file, os.stat(self._path)):
                os.unlink(self._path)


def remove_stale(path: str) -> None:
    """Remove a socket file that has no socket any more."""
    # The probe is of another type: whoever listens there is not disturbed, and does not refuse.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        refused = probe.connect_ex(path) == errno.ECONNREFUSED
        if refused and stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


@tp.hookimpl
def taps_transports() -> Sequence[tp.Transport]:
    """What this plugin declares."""
    return [Unix()]
