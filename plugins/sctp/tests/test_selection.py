"""Where the kernel has SCTP it is chosen for Messages; and for nobody else it costs anything."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
from taps_sctp import SCTP

import taps_core as taps
from taps_core.plugin import AVAILABLE, Availability
from taps_framers import LengthPrefix
from taps_tcp import TCP

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run

    from .conftest import Lab

PLAIN = taps.SecurityParameters.disabled()


class Missing(SCTP):
    """As where the kernel has none."""

    def availability(self) -> Availability:
        return Availability(
            available=False,
            reason="the kernel has no SCTP",
            remedy="modprobe sctp, or use sctp-udp",
        )


class Present(SCTP):
    """As where it has."""

    def availability(self) -> Availability:
        return AVAILABLE


def messages(*plugins: object, framers: object = None) -> taps.Preconnection:
    return taps.Preconnection(
        remote="192.0.2.1:7",
        transport=taps.TransportProperties.reliable_message(),
        security=PLAIN,
        framers=framers,
        system=taps.System(plugins=list(plugins)),
    )


def test_messages_go_over_sctp_where_the_kernel_has_it() -> None:
    selection = messages(Present(), TCP()).select()
    assert [str(each.stack) for each in selection.ranked] == ["SCTP"]


def test_elsewhere_it_says_why_and_that_a_framer_would_do() -> None:
    told = " ".join(str(messages(Missing(), TCP()).select()).split())
    assert "SCTP cannot run here: the kernel has no SCTP (modprobe sctp, or use sctp-udp)" in told
    assert "a framer would find boundaries" in told
    selection = messages(Missing(), TCP(), framers=LengthPrefix()).select()
    assert [str(each.stack) for each in selection.ranked] == ["length-prefix/TCP"]


def test_what_needs_no_messages_tries_tcp_first() -> None:
    there = taps.Preconnection(
        remote="192.0.2.1:7", security=PLAIN, system=taps.System(plugins=[Present(), TCP()])
    )
    ranked = [str(each.stack) for each in there.select().ranked]
    assert ranked[0] == "TCP"


@pytest.mark.lab
def test_what_is_installed_here_chooses_sctp_for_messages() -> None:
    there = taps.Preconnection(
        remote="192.0.2.1:7",
        transport=taps.TransportProperties.reliable_message(),
        security=PLAIN,
    )
    assert str(there.select().ranked[0].stack) == "SCTP"


@pytest.mark.lab
def test_towards_a_tcp_server_nothing_of_sctp_is_sent_or_waited_for(lab: Lab) -> None:
    """By default properties, with all that is installed."""

    async def main() -> None:
        with lab.network.server.use(), socket.socket() as door:
            door.bind((lab.network.server.address(), 0))
            door.listen()
            there = taps.Preconnection(remote="{}:{}".format(*door.getsockname()), security=PLAIN)
            with (
                lab.network.server.capture("path1") as capture,
                lab.network.client.use(),
            ):
                connection = await there.initiate()
                assert str(connection.stack) == "TCP"
                assert [str(attempt.outcome) for attempt in connection.report] == ["ready"]
                await asyncio.sleep(0.5)
                assert not capture.look(lambda packet: packet.protocol == 132)
            connection.abort()

    lab.run(main)


@pytest.mark.lab
def test_a_listener_opens_no_port_of_sctp_unless_it_is_asked_for(run: Run) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132) as probe:
            listener = await taps.Preconnection(local="127.0.0.1:0", security=PLAIN).listen()
            try:
                port = listener.local_endpoints[0].port
                probe.bind(("127.0.0.1", port or 0))  # it would be taken
            finally:
                listener.stop()
                await listener.stopped()

    run(main)
