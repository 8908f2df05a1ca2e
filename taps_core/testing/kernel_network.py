"""A network of the Linux kernel's that only one thread has: what is on its wire, what it drops.

It is a network namespace without a name, with ``lo`` and nothing else: tests in it see no
packets but their own, take no port from each other, and leave nothing behind, however they
end. It takes root's rights (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW), and the programs
``nft`` and ``ip`` where packets are filtered, or there are other interfaces.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import subprocess
from typing import TYPE_CHECKING, Final

from taps_core.testing.kernel_packets import Packet

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType
    from typing import Self

__all__ = ["Capture", "KernelNetwork"]

_CLONE_NEWNET: Final = 0x40000000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_REQUEST: Final = struct.Struct("16sh14x")
_SO_RCVBUFFORCE: Final = 33
#: Bytes that a capture holds before somebody looks.
_ROOM: Final = 16 * 1024 * 1024
_ALL_PROTOCOLS: Final = 3  # ETH_P_ALL
_OUTGOING: Final = 4  # PACKET_OUTGOING: on lo every packet is seen twice
#: Leads to the network that the calling thread is in, once it is open.
OWN_NETWORK: Final = "/proc/thread-self/ns/net"
#: Where its programs may be: those of root, too.
PROGRAMS: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class KernelNetwork:
    """A context manager: inside, sockets that this thread opens are in a network of their own.

    ::

        with KernelNetwork() as network, network.capture() as capture:
            ...

    Sockets that were open before stay where they were, and those made inside work on
    afterwards. Programs that are started inside are in it, too.

    Raises:
        PermissionError: On entry: not without root's rights.
        OSError: On entry: this system has no network namespaces.
    """

    def __enter__(self) -> Self:
        self._home = os.open(OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # os.unshare and os.setns are newer than Python 3.11.
            _call("unshare", _CLONE_NEWNET)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                _raise_interface(any_socket, b"lo")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            _call("setns", self._home, _CLONE_NEWNET)
        finally:
            os.close(self._home)

    def filter(self, *rules: str) -> None:
        """Let arriving packets meet these rules, in place of the ones before.

        Args:
            *rules: As nftables has them: ``"tcp dport 80 drop"``. Without any, all passes.

        Raises:
            FileNotFoundError: There is no program ``nft``.
            subprocess.CalledProcessError: It refused; its words are in ``stderr``.
        """
        lines = [
            "table inet taps",
            "delete table inet taps",  # it need not have been there
            "table inet taps {",
            "chain arriving {",
            "type filter hook input priority 0;",
            *rules,
            "}",
            "}",
        ]
        _run("nft", "-f", "-", text="\n".join(lines) + "\n")

    def ip(self, command: str) -> None:
        """Have the program ``ip`` do something: ``network.ip("link set lo down")``.

        Raises:
            FileNotFoundError: There is no such program.
            subprocess.CalledProcessError: It refused; its words are in ``stderr``.
        """
        _run("ip", *command.split())

    def lay_cable(self) -> None:
        """A cable of which this machine has both ends, ``wire`` and ``far``.

        ``wire`` has the addresses 192.0.2.1, 192.0.2.2, 2001:db8::1 and 2001:db8::2, and
        leads to all groups; ``far`` has none, and shows what really left.

        Raises:
            FileNotFoundError, subprocess.CalledProcessError: As :meth:`ip`.
        """
        for command in (
            "link add wire type veth peer name far",
            "link set wire up",
            "link set far up",
            "addr add 192.0.2.1/24 dev wire",
            "addr add 192.0.2.2/24 dev wire",
            "-6 addr add 2001:db8::1/64 dev wire nodad",
            "-6 addr add 2001:db8::2/64 dev wire nodad",
            "route add 224.0.0.0/4 dev wire",
            "-6 route del multicast ff00::/8 dev far table local",
        ):
            self.ip(command)

    def capture(self, interface: str = "lo") -> Capture:
        """See every packet that arrives at ``interface`` from now on; a context manager, too."""
        return Capture(interface)


class Capture:
    """What arrives at an interface. Ends as a context manager, or by ``close``.

    Attributes:
        packets: All IP packets so far, in order.
    """

    def __init__(self, interface: str = "lo") -> None:
        self.packets: list[Packet] = []
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS)
        )
        self._socket.setblocking(False)
        # What finds no room is not seen, so there is more than the system would allow.
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        self._socket.bind((interface, 0))

    def look(self, wanted: Callable[[Packet], object] = bool) -> list[Packet]:
        """The packets so far that are ``wanted``; all if nothing is said."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, (_, _, direction, *_) = self._socket.recvfrom(65535)
                packet = None if direction == _OUTGOING else Packet.parse(data)
                if packet is not None:
                    self.packets.append(packet)
        return [packet for packet in self.packets if wanted(packet)]

    async def packet(self, wanted: Callable[[Packet], object]) -> Packet:
        """The first packet that is ``wanted``; waits until there is one."""
        while not (found := self.look(wanted)):  # noqa: ASYNC110  # a test's wait, on any loop
            await asyncio.sleep(0.001)
        return found[0]

    def close(self) -> None:
        """See no more."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def inside(network: int) -> Generator[None]:
    """Have this thread in a network that a descriptor leads to (opened: ``OWN_NETWORK``).

    Raises:
        PermissionError: On entry: not without root's rights.
    """
    home = os.open(OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", network, _CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", home, _CLONE_NEWNET)
    finally:
        os.close(home)


def _run(program: str, *arguments: str, text: str = "") -> None:
    subprocess.run(
        [program, *arguments],
        input=text,
        text=True,
        check=True,
        capture_output=True,
        env={**os.environ, "PATH": PROGRAMS},
    )


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _raise_interface(any_socket: socket.socket, name: bytes) -> None:
    # Not on every system, hence not at the top.
    import fcntl

    request = array.array("b", _REQUEST.pack(name, 0))
    fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
    _, flags = _REQUEST.unpack(request)
    fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _REQUEST.pack(name, flags | _IFF_UP))
