"""SCTP against a program with plain sockets, where the kernel has SCTP.

In the lab, whose kernel is nobody else's, also with packets lost on a loopback that has an
Ethernet's MTU.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.harness import End, compare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.harness import Result

__all__ = ["messages"]


class _Row(NamedTuple):
    """What is compared."""

    title: str
    work: str
    number: int
    budget: str
    loss: float = 0.0
    """Part of the packets; nothing is lost but in the lab."""


_ROWS: Final = (
    _Row("SCTP ping-pong, 64 bytes", "ping", 1500, ">= 0.85"),
    _Row("SCTP one way, 200 KB", "pour", 60, ">= 0.5"),
    _Row("SCTP one way, 200 KB, 20 % lost", "pour", 4, ">= 0.5", 0.2),
    _Row("SCTP one Message of 3 MB, 5 % lost", "long", 1, ">= 0.5", 0.05),
)
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
                for row in _ROWS:
                    if row.loss and "TAPS_LAB" not in os.environ:
                        continue
                    order = f"{row.work} {port} {max(1, int(row.number * scale))}"
                    with _losing(row.loss):
                        yield compare(
                            row.title,
                            _AGAINST,
                            loop,
                            partial(_seconds, ours, order),
                            partial(_seconds, theirs, order),
                            budget=row.budget,
                            pairs=pairs,
                        )


@contextlib.contextmanager
def _losing(loss: float) -> Iterator[None]:
    """A part of what is sent over the loopback is lost, with 2 ms from one end to the other."""
    if not loss:
        yield
        return
    before = _tool("ip", "-o", "link", "show", "lo").split(" mtu ")[1].split()[0]
    # One packet at a time, as on a cable: what is lost is one.
    _tool("ip", "link", "set", "lo", "mtu", "1500", "gso_max_segs", "1")
    try:
        _tool(
            "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "2ms", "loss", f"{loss:%}"
        )
        yield
    finally:
        _tool("tc", "qdisc", "del", "dev", "lo", "root")
        _tool("ip", "link", "set", "lo", "mtu", before)


def _tool(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _seconds(end: End, order: str) -> float:
    return float(end.ask(order))
