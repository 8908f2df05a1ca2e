"""A listening socket of libusrsctp's, and associations of what it accepts."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import ListeningFlow
from taps_sctp import usrsctp
from taps_sctp.association import Association
from taps_sctp.udp_sockets import SharedSocket
from taps_sctp.user_connecting import bind
from taps_sctp.user_engine import UserEngine, configure
from taps_sctp.userland import Userland
from taps_sctp.usrsctp import ffi

if TYPE_CHECKING:
    import asyncio

    from taps_core.plugin import ListenRequest, LocalEndpoint
    from taps_sctp.flow import SCTPFlow

__all__ = ["UserListeningFlow"]

#: Of the library's; whoever is in there is taken out at once.
_BACKLOG: Final = 128
#: Associations that wait while the Listener is paused; further ones are aborted.
WAITING: Final = 1024


class UserListeningFlow(ListeningFlow):
    """An open door: one listening socket, on a UDP socket that others may listen on, too.

    Raises:
        EstablishmentError, OSError: It cannot be opened.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, request: ListenRequest) -> None:
        self._land = land = Userland.claim(loop)
        self._loop = loop
        self._request = request
        self._waiting: deque[SCTPFlow] = deque()
        self._paused = self._closed = False
        self._shared = shared = SharedSocket.at(land, request.local)
        try:
            self._so = land.open()
            try:
                configure(land, self._so, request.properties, request.security)
                self._port = bind(land, self._so, request.local.port or 0)
                usrsctp.checked(land.library.usrsctp_listen(self._so, _BACKLOG))
            except BaseException:
                land.library.usrsctp_close(self._so)
                raise
        except BaseException:
            shared.free_unused()
            raise
        shared.add(self._port)
        self._number = land.watch(self._so, self, timed=False)

    @property
    def local_endpoint(self) -> LocalEndpoint:
        """With the ports of SCTP and of UDP."""
        return self._shared.local.with_port(self._port)

    # -- as the library's

    def woken(self) -> None:
        """Hand over what has come."""
        address = ffi.new("char[]", usrsctp.ADDRESS_SIZE)
        size = ffi.new("uint32_t *")
        while not self._closed:
            size[0] = usrsctp.ADDRESS_SIZE
            so = self._land.library.usrsctp_accept(self._so, address, size)
            if so == ffi.NULL:
                break
            self._adopt(so, *usrsctp.token_of(bytes(ffi.buffer(address))))
        self._hand_over()

    def _adopt(self, so: Any, token: int, port: int) -> None:
        self._land.library.usrsctp_set_non_blocking(so, 1)
        shared = self._shared
        peer = shared.peer(token)
        if peer is None:
            # It came by a Connection's own socket, where nobody listens.
            self._land.library.usrsctp_close(so)
            return
        local = peer.local.with_port(self._port)
        engine = UserEngine(self._land, so, peer, local, shared.remote_of(token, port))
        if len(self._waiting) >= WAITING:
            engine.abort()
            return
        try:
            self._waiting.append(Association(self._loop, engine, connected=False).first)
        except OSError:
            engine.abort()  # gone again

    def _hand_over(self) -> None:
        while self._waiting and not self._paused:
            flow = self._waiting.popleft()
            try:
                self._request.incoming(flow, None)
            except Exception as error:  # noqa: BLE001  # it costs that association, and no other
                flow.abort()
                self._loop.call_exception_handler(
                    {"message": f"the taker of {self.local_endpoint} raised", "exception": error}
                )

    def abandon(self) -> None:
        """The loop is closed."""
        self._end()

    # -- as a door

    def pause(self) -> None:
        """Let those that come wait."""
        self._paused = True

    def resume(self) -> None:
        """Take them."""
        if self._paused and not self._closed:
            self._paused = False
            self._loop.call_soon(self._hand_over)

    async def close(self) -> None:
        """Stop. The UDP port is free when the last association that came by it is over."""
        self._end()

    def _end(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._land.close(self._so, self._number)
        while self._waiting:
            self._waiting.popleft().abort()
        self._shared.remove(self._port)
