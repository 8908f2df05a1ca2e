"""SCTP: Messages, clones as streams, DTLS; the lab's kernel has it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import neatpy
from neatpy import TransportProperties, TransportPropertyProfiles

from .conftest import World, called, environment, over, received, sent, until

if TYPE_CHECKING:
    from pathlib import Path

    from taps_core.testing.fixtures import Run
    from tests.lab.network import Network

pytestmark = pytest.mark.lab


class Lab:
    """NEATPy's ends on two hosts."""

    def __init__(self, network: Network, *, secured: bool = False) -> None:
        self._network = network
        self._properties = TransportProperties(TransportPropertyProfiles.RELIABLE_MESSAGE)
        self._secured = secured

    async def listen(self, received: Any) -> neatpy.Listener:
        local = neatpy.LocalEndpoint()
        local.with_address(self._network.server.address())
        local.with_port(0)
        with self._network.server.use():
            listener = neatpy.Preconnection(
                local_endpoint=local,
                transport_properties=self._properties,
                security_needed=self._secured,
            ).listen()
        listener.HANDLE_CONNECTION_RECEIVED = received
        await called(listener, "HANDLE_STATE_LISTENING")
        return listener

    async def connect(self, listener: neatpy.Listener) -> neatpy.Connection:
        remote = neatpy.RemoteEndpoint()
        remote.with_address(self._network.server.address())
        port = listener.local_endpoints[0].port
        assert port is not None
        remote.with_port(port)
        with self._network.client.use():
            connection = neatpy.Preconnection(
                remote_endpoint=remote,
                transport_properties=self._properties,
                security_needed=self._secured,
            ).initiate(timeout=30)
        async with asyncio.timeout(30):
            await called(connection, "HANDLE_STATE_READY")
        return connection


@pytest.mark.parametrize(("secured", "stack"), [(False, "SCTP"), (True, "DTLS/SCTP")])
def test_messages_go_both_ways(
    run: Run,
    two_hosts: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    secured: bool,
    stack: str,
) -> None:
    for name, value in environment(tmp_path, two_hosts.server.address()).items():
        monkeypatch.setenv(name, value)

    async def main() -> None:
        lab = Lab(two_hosts, secured=secured)
        came: list[neatpy.Connection] = []
        listener = await lab.listen(came.append)
        client = await lab.connect(listener)
        await until(lambda: came)
        assert client.stack == came[0].stack == stack
        outcome, handler = sent()
        client.send(b"one", handler)
        client.send(b"two")
        got = [await received(came[0]) for _ in range(2)]
        assert [(each.data, each.end) for each in got] == [(b"one", None), (b"two", None)]
        assert await outcome is None
        came[0].send(b"back")
        assert (await received(client)).data == b"back"
        client.stop()
        await over()

    with World().use():  # trust is looked up once for each System
        run(main)


def test_a_clone_is_a_stream_of_the_same_association(run: Run, two_hosts: Network) -> None:
    async def main() -> None:
        lab = Lab(two_hosts)
        came: list[neatpy.Connection] = []
        listener = await lab.listen(came.append)
        client = await lab.connect(listener)
        clones = [client.clone(lambda: pytest.fail("it can be cloned")) for _ in range(3)]
        for number, clone in enumerate(clones):
            clone.send(b"%d" % number)
        await until(lambda: len(came) == 4)
        data = await asyncio.gather(*map(received, came[1:]))
        assert sorted(each.data for each in data) == [b"0", b"1", b"2"]
        ports = {each.local_endpoint.port for each in (client, *clones) if each.local_endpoint}
        assert len(ports) == 1
        client.stop()
        await over()

    run(main)
