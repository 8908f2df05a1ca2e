"""The other side of every network benchmark: blocking sockets, as little as can be.

It serves one connection after the other. A first frame (its length in four bytes
before it) says what is wanted: ``echo``, ``sink N`` (answer one frame when N bytes
have come) or ``source N SIZE`` (send N frames of SIZE bytes). It ends with its stdin.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

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
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    # Threads of its own are not waited for: the end of stdin is the end.
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    sys.stdin.read()
    os._exit(0)


def accept(listener: socket.socket) -> None:
    """One connection after the other."""
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), connection:
            serve(connection)


if __name__ == "__main__":
    main()
