"""The socket of a flow that was asked for: connected, and for this flow alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from taps_core.plugin import (
    PropertyError,
    address_family,
    bind_socket,
    choose_source,
    socket_address,
    socket_local_endpoint,
)
from taps_udp.flow import UDPFlow
from taps_udp.lite import demand_coverage, open_socket
from taps_udp.multicast import send_through
from taps_udp.options import configure, kernel_drops, path_mtu, wants_ecn
from taps_udp.port import READ_SIZE, Port

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from taps_core.plugin import ConnectRequest, PartTuple
    from taps_udp.options import Control

__all__ = ["open_flow"]


def open_flow(
    loop: asyncio.AbstractEventLoop,
    request: ConnectRequest,
    address: str,
    port: int,
    protocol: int,
) -> UDPFlow:
    """A flow to ``address``. Nothing is sent: the system chooses a path.

    Args:
        loop: Where it runs.
        request: What was asked for.
        address: Of the peer, or a group's: then nothing can be received.
        port: Of the peer.
        protocol: Number of UDP or of UDP-Lite.

    Raises:
        EstablishmentError, OSError: There is none.
    """
    family = address_family(address)
    remote, local = request.remote, request.local
    sock = open_socket(family, protocol)
    try:
        to_group = remote.multicast_group is not None
        configure(sock, request.properties, hop_limit=remote.hop_limit, to_groups=to_group)
        choose_source(sock, request.properties)
        if to_group:
            send_through(sock, remote.interface, local)
        if local is not None:
            bind_socket(sock, local, family)
        sock.connect(socket_address(address, port, remote.interface))
        ours = ConnectedPort(loop, sock, annotated=wants_ecn(request.properties))
    except BaseException:
        sock.close()
        raise
    ours.flow = UDPFlow(
        ours,
        request.properties,
        local=socket_local_endpoint(sock.getsockname()),
        remote=remote,
        address=None,
        family=family,
        path_limit=lambda flow: path_mtu(sock, flow.family),
    )
    return ours.flow


class ConnectedPort(Port):
    """A connected socket: the kernel drops what others send."""

    flow: UDPFlow

    def hold(self, flow: UDPFlow, on: bool) -> None:
        """While the flow is paused the kernel holds what comes, and drops what is too much."""
        if on:
            self.unwatch()
        else:
            self.watch()

    def demand_coverage(self, flow: UDPFlow, length: float) -> None:
        """The socket is the flow's alone."""
        try:
            demand_coverage(self.sock, length)
        except OSError as error:
            raise PropertyError(f"recvChecksumLen: {error.strerror}") from error

    def overruns(self) -> int:
        """The socket is the flow's alone."""
        return kernel_drops(self.sock)

    def forget(self, flow: UDPFlow) -> None:
        """Close the socket."""
        self.release()

    def carry_one(self, flow: UDPFlow, datagram: bytes) -> None:
        """In one call where nothing is in the way: calls are what a lone datagram costs."""
        if not self._waiting:
            try:
                self.sock.send(datagram)
            except OSError:
                # No room, or what an earlier datagram met: as always.
                super().carry_one(flow, datagram)
        else:
            super().carry_one(flow, datagram)

    def bare_read(self) -> Callable[[], Any]:
        """There is but one sender."""
        return partial(self.sock.recv, READ_SIZE)

    def deliver_bare(self, got: list[Any]) -> None:
        """All of it is the flow's."""
        self.flow.arrived([(data, None, True) for data in got])

    def deliver(self, arrived: list[tuple[Any, list[Control], PartTuple]]) -> None:
        """All of it is the flow's."""
        self.flow.arrived([part for _, _, part in arrived])

    def concerned(self, address: Any) -> UDPFlow | None:
        """There is but one."""
        return self.flow
