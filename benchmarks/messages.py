"""SCTP against a program with plain sockets, where the kernel has SCTP."""

from __future__ import annotations

import contextlib
import errno
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.harness import End, compare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.harness import Result

__all__ = ["messages"]

#: Work → title, how much of it, and the budget.
_ROWS: Final = {
    "ping": ("SCTP ping-pong, 64 bytes", 1500, ">= 0.85"),
    "pour": ("SCTP one way, 200 KB", 60, ">= 0.5"),
}
_AGAINST: Final = "plain sockets"

#: Sends back what comes after ``echo``, and says when it has as many as ``sink`` says.
_PEER: Final = """\
import contextlib, socket, threading
from benchmarks.message_end import configure
door = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
configure(door)
door.bind(("127.0.0.1", 0))
door.listen()
print(door.getsockname()[1], flush=True)
def serve(sock):
    with sock, contextlib.suppress(ConnectionResetError):
        what = sock.recv(100).split()
        if what == [b"echo"]:
            while data := sock.recv(65536):
                sock.send(data)
        elif what:
            left = int(what[1])
            while left:
                left -= bool(sock.recvmsg(1 << 18)[2] & 0x80)
            sock.send(b"done")
            sock.recv(1)
while True:
    threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()
"""


def messages(pairs: int, loops: Sequence[str], scale: float) -> Iterator[Result]:
    """The rows, on each loop; none where the kernel has no SCTP."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()
    except OSError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            raise
        return
    with End("-c", _PEER) as peer:
        port = peer.read()
        for loop in loops:
            with contextlib.ExitStack() as stack:
                ours = stack.enter_context(End("message_end", "taps", loop))
                theirs = stack.enter_context(End("message_end", "raw", loop))
                for work, (title, count, budget) in _ROWS.items():
                    order = f"{work} {port} {max(1, int(count * scale))}"
                    yield compare(
                        title,
                        _AGAINST,
                        loop,
                        partial(_seconds, ours, order),
                        partial(_seconds, theirs, order),
                        budget=budget,
                        pairs=pairs,
                    )


def _seconds(end: End, order: str) -> float:
    return float(end.ask(order))
