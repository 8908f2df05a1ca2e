"""The socket of a flow that was asked for: connected, and for this flow alone."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from taps_core.plugin import address_family, bind_socket, socket_address, socket_local_endpoint
from taps_udp.flow import UDPFlow
from taps_udp.options import configure, path_mtu
from taps_udp.port import Port

if TYPE_CHECKING:
    import asyncio

    from taps_core.plugin import ConnectRequest, PartTuple
    from taps_udp.options import Control

__all__ = ["open_flow"]


def open_flow(
    loop: asyncio.AbstractEventLoop, request: ConnectRequest, address: str, port: int
) -> UDPFlow:
    """A flow to ``address``. Nothing is sent: the system chooses a path.

    Raises:
        EstablishmentError, OSError: There is none.
    """
    family = address_family(address)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        configure(sock, request.properties, any_address=False)
        if request.local is not None:
            bind_socket(sock, request.local, family)
        sock.connect(socket_address(address, port, request.remote.interface))
        local = socket_local_endpoint(sock.getsockname())
        ours = ConnectedPort(loop, sock)
    except BaseException:
        sock.close()
        raise
    ours.flow = UDPFlow(
        ours,
        request.properties,
        local=local,
        remote=request.remote,
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

    def forget(self, flow: UDPFlow) -> None:
        """Close the socket."""
        self.release()

    def deliver(self, arrived: list[tuple[Any, list[Control], PartTuple]]) -> None:
        """All of it is the flow's."""
        self.flow.arrived([part for _, _, part in arrived])

    def concerned(self, address: Any) -> UDPFlow | None:
        """There is but one."""
        return self.flow
