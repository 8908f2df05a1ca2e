"""The other side of every network benchmark: blocking sockets, as little as can be.

It serves one connection after the other. A first frame (its length in four bytes
before it) says what is wanted: ``echo``, ``sink N`` (answer one frame when N bytes
have come) or ``source N SIZE`` (send N frames of SIZE bytes). It ends with its stdin.

A second port does the same over TLS, with a certificate for this run.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import threading
from typing import TYPE_CHECKING

from taps_core.testing import LocalAuthority
from taps_tls.identity import chain_of, load_identity

if TYPE_CHECKING:
    from collections.abc import Callable

READ = 256 * 1024
#: Frames are poured out in blocks of about this size.
BLOCK = 256 * 1024


def serve(connection: socket.socket) -> None:
    """Do what one connection wants."""
    received = b""
    while len(received) < 4 or len(received) < 4 + int.from_bytes(received[:4]):
        data = connection.recv(READ)
        if not data:
            return
        received += data
    end = 4 + int.from_bytes(received[:4])
    mode, *numbers = received[4:end].decode().split()
    rest = received[end:]
    if mode == "echo":
        echo(connection, rest)
    elif mode == "sink":
        sink(connection, int(numbers[0]) - len(rest))
    else:
        source(connection, *map(int, numbers))
    while connection.recv(READ):
        pass


def echo(connection: socket.socket, data: bytes) -> None:
    """Everything comes back."""
    while True:
        if data:
            connection.sendall(data)
        data = connection.recv(READ)
        if not data:
            return


def sink(connection: socket.socket, expected: int) -> None:
    """So many bytes are taken, then acknowledged."""
    buffer = bytearray(READ)
    while expected > 0:
        count = connection.recv_into(buffer)
        if not count:
            return
        expected -= count
    connection.sendall(b"\x00\x00\x00\x04done")


def source(connection: socket.socket, count: int, size: int) -> None:
    """So many frames leave."""
    frame = size.to_bytes(4) + bytes(size)
    together = max(1, BLOCK // len(frame))
    block = frame * together
    for _ in range(count // together):
        connection.sendall(block)
    connection.sendall(frame * (count % together))


def main() -> None:
    authority = LocalAuthority()
    identity = authority.identity()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_identity(context, identity)
    ports = []
    for handle in (serve, lambda connection: serve_secure(connection, context)):
        listener = socket.create_server(("127.0.0.1", 0))
        ports.append(listener.getsockname()[1])
        # Threads of its own are not waited for: the end of stdin is the end.
        threading.Thread(target=accept, args=(listener, handle), daemon=True).start()
    print(*ports, chain_of(authority.pem)[0].hex(), flush=True)
    sys.stdin.read()
    os._exit(0)


def serve_secure(connection: socket.socket, context: ssl.SSLContext) -> None:
    """The same over TLS, which ends in order."""
    with context.wrap_socket(connection, server_side=True) as secured:
        serve(secured)
        secured.unwrap()


def accept(listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    """One connection after the other."""
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), connection:
            handle(connection)


if __name__ == "__main__":
    main()
