"""Datagrams: batches from one process to another, and a ping-pong, against DatagramProtocol.

Over DTLS the same, against pyOpenSSL between a DatagramProtocol and the application.

In batches both sides are ours, or both are hand-written, and only what is received
counts: nobody waits for anybody, so whoever is too slow loses.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
import tempfile
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Final

from benchmarks.datagram_end import BATCH
from benchmarks.harness import End, compare
from taps_core.testing import LocalAuthority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.harness import Result

__all__ = ["datagrams", "secured"]

BATCHES: Final = 2000
PINGS: Final = 4000
#: Seconds until what is on its way has come.
_SETTLE: Final = 0.05
_AGAINST: Final = "DatagramProtocol"

_ECHO: Final = """\
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
while True:
    data, address = sock.recvfrom(65536)
    sock.sendto(data, address)
"""


def received(sender: End, receiver: End, port: str, batches: int) -> float:
    """Seconds for each datagram that was received."""
    receiver.ask("count")
    seconds = float(sender.ask(f"pour {port} {batches}"))
    sleep(_SETTLE)
    return seconds / max(1, int(receiver.ask("count")))


def sent(sender: End, port: int, batches: int) -> float:
    """Seconds for each datagram that was sent to somebody who does not read."""
    return float(sender.ask(f"pour {port} {batches}")) / (batches * BATCH)


def pinged(end: End, port: str, count: int) -> float:
    """Seconds for so many there and back."""
    return float(end.ask(f"ping {port} {count}"))


def datagrams(pairs: int, loops: Sequence[str], scale: float) -> Iterator[Result]:
    """The rows, on each loop."""
    batches, pings = max(1, int(BATCHES * scale)), max(1, int(PINGS * scale))
    for loop in loops:
        yield from _on(loop, pairs, batches, pings)


def _on(loop: str, pairs: int, batches: int, pings: int) -> Iterator[Result]:
    with contextlib.ExitStack() as stack:
        ends = {
            (kind, side): stack.enter_context(End("datagram_end", kind, loop))
            for kind in ("taps", "protocol")
            for side in ("sender", "receiver")
        }
        ports = {which: end.read() for which, end in ends.items()}
        deaf = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        deaf.bind(("127.0.0.1", 0))
        nobody = deaf.getsockname()[1]
        echo = stack.enter_context(End("-c", _ECHO)).read()

        def both(work: Callable[[str], Callable[[], float]]) -> dict[str, Callable[[], float]]:
            return {"ours": work("taps"), "theirs": work("protocol")}

        through = both(
            lambda kind: partial(
                received,
                ends[kind, "sender"],
                ends[kind, "receiver"],
                ports[kind, "receiver"],
                batches,
            )
        )
        out = both(lambda kind: partial(sent, ends[kind, "sender"], nobody, batches))
        back = both(lambda kind: partial(pinged, ends[kind, "sender"], echo, pings))
        plain = loop == "asyncio"
        for title, runs, budget in (
            ("UDP batches, received", through, ">= 8" if plain else ">= 1.8"),
            ("UDP batches, sent", out, ">= 2.5"),
            ("UDP ping-pong, 64 bytes", back, ">= 0.95" if plain else ">= 0.8"),
        ):
            yield compare(title, _AGAINST, loop, **runs, budget=budget, pairs=pairs)


def secured(pairs: int, loops: Sequence[str], scale: float) -> Iterator[Result]:
    """The rows over DTLS, on each loop."""
    batches, pings = max(1, int(BATCHES * scale / 4)), max(1, int(PINGS * scale))
    authority = LocalAuthority()
    identity = authority.identity()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (
            ("ca.pem", authority.pem),
            ("chain.pem", identity.chain),
            ("key.pem", identity.key),
        ):
            assert isinstance(content, bytes)
            pathlib.Path(folder, name).write_bytes(content)
        for loop in loops:
            yield from _secured_on(loop, pairs, batches, pings, folder)


def _secured_on(loop: str, pairs: int, batches: int, pings: int, folder: str) -> Iterator[Result]:
    with contextlib.ExitStack() as stack:
        ends = {
            (kind, side): stack.enter_context(End("dtls_end", kind, loop, folder))
            for kind in ("taps", "openssl")
            for side in ("sender", "receiver")
        }
        ports = {which: end.read() for which, end in ends.items()}
        echo = stack.enter_context(End("dtls_end", "echo", loop, folder)).read()

        def through(kind: str) -> Callable[[], float]:
            receiver = ends[kind, "receiver"]
            port = ports[kind, "receiver"]
            return partial(received, ends[kind, "sender"], receiver, port, batches)

        def back(kind: str) -> Callable[[], float]:
            return partial(pinged, ends[kind, "sender"], echo, pings)

        for title, run in (
            ("DTLS batches, received", through),
            ("DTLS ping-pong, 64 bytes", back),
        ):
            yield compare(
                title,
                "pyOpenSSL",
                loop,
                ours=run("taps"),
                theirs=run("openssl"),
                budget=">= 0.8",
                pairs=pairs,
            )
