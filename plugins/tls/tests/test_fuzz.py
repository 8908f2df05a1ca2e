"""Whatever becomes of the bytes on the way, at any point: documented errors, and never an
end, or data, that the peer has not meant."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import taps_core as taps
from taps_core.plugin import LayerFlow, ReceiveError, SendError, TapsError, Transport
from taps_core.testing import MemoryNetwork, MemoryStream, run
from taps_core.testing.rig import Rig
from taps_tls import TLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.plugin import ConnectRequest, Data, Flow, ListeningFlow, ListenRequest
    from taps_core.testing.rig import End

LAYER = TLS()
SERVER, CLIENT = LAYER.acquainted()
# No run depends on the ones before it.
CLIENT.set("maxCachedSessions", 0)
VERSIONS = ("TLSv1.3", "TLSv1.2")
MESSAGES = (b"one", b"two " * 500, b"three", b"four " * 5000)
#: Turns of the loop after which whatever happens in memory has happened.
TURNS = 60


@dataclasses.dataclass(frozen=True)
class Harm:
    """What becomes of the stream behind its byte number ``at``."""

    kind: str
    at: int
    noise: bytes = b""

    def do(self, before: bytes, after: bytes) -> tuple[bytes, bytes]:
        """What stands in place of the two sides of that place; the second is later."""
        noise = self.noise or b"\x80"
        if self.kind == "change":
            changed = bytes(one ^ other for one, other in zip(after, noise, strict=False))
            return before + changed + after[len(changed) :], b""
        if self.kind == "insert":
            return before + noise + after, b""
        if self.kind == "lose":
            return before + after[len(noise) :], b""
        if self.kind == "repeat":
            return before + after + after, b""
        if self.kind == "late":
            return before, after
        assert self.kind == "cut"
        return before, b""


KINDS = ("change", "insert", "lose", "repeat", "late", "cut")


class Harmed(LayerFlow):
    """A stream to which something happens once."""

    def __init__(self, lower: Flow, harm: Harm | None) -> None:
        super().__init__(lower)
        self._harm = harm
        self._sent = 0
        self._later = b""
        self._cut = False

    def send(self, data: Data, record: Any, end_of_message: bool, /) -> bool | None:
        whole = data if isinstance(data, bytes) else b"".join(data)
        harm = self._harm
        if self._later:
            whole, self._later = whole + self._later, b""
        elif harm is not None and self._sent + len(whole) > harm.at:
            place = harm.at - self._sent
            whole, self._later = harm.do(whole[:place], whole[place:])
            self._harm = None
            self._cut = harm.kind == "cut"
            if self._cut:
                self.lower.send(whole, None, False)
                self.lower.flush()
                self.lower.finish()
        elif self._cut:
            return None
        self._sent += len(whole)
        if whole and not self._cut:
            self.lower.send(whole, None, False)
        return None

    def write_through(self, data: Data, /) -> None:
        self.send(data, None, False)
        self.flush()

    def flush(self) -> None:
        if not self._cut:
            self.lower.flush()


class Perilous(Transport):
    """A transport over which the first flow comes to harm, at either end."""

    name = "perilous"
    capabilities = MemoryStream.capabilities

    def __init__(self, lower: Transport, of_client: Harm | None, of_server: Harm | None) -> None:
        self._lower = lower
        self._of_client = of_client
        self._of_server = of_server
        self.flows: list[Harmed] = []

    def _harmed(self, flow: Flow, harm: Harm | None) -> Flow:
        self.flows.append(Harmed(flow, harm))
        return self.flows[-1]

    async def connect(self, request: ConnectRequest) -> Flow:
        return self._harmed(await self._lower.connect(request), self._of_client)

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        def incoming(flow: Flow, admitted: Any) -> None:
            request.incoming(self._harmed(flow, self._of_server), admitted)

        return await self._lower.listen(dataclasses.replace(request, incoming=incoming))


async def turns_until(condition: Callable[[], object]) -> None:
    for _ in range(TURNS):
        if condition():
            return
        await asyncio.sleep(0)


def lives_through(
    of_client: Harm | None = None, of_server: Harm | None = None, version: str = "TLSv1.3"
) -> list[bytes]:
    """Two ends whose bytes come to harm: what happens is what may happen; what they got."""

    async def main() -> list[bytes]:
        network = MemoryNetwork()
        transport = Perilous(MemoryStream(network), of_client, of_server)
        client = CLIENT.copy().set("allowedSecurityProtocols", version)
        async with Rig(transport, LAYER, parameters=(SERVER, client)) as rig:
            tasks = [asyncio.ensure_future(each) for each in (rig.accept(), rig.connect())]
            await turns_until(lambda: all(task.done() for task in tasks))
            for flow in transport.flows:
                # Somebody waits for bytes that never come: that ends with the stream.
                if not all(task.done() for task in tasks):
                    flow.lower.abort()
            await turns_until(lambda: all(task.done() for task in tasks))
            assert all(task.done() for task in tasks), "a handshake hangs"
            ends: list[End | None] = []
            for task in tasks:
                error = task.exception()
                assert error is None or isinstance(error, (taps.EstablishmentError, OSError))
                ends.append(None if error else task.result())
            await talk(ends)
        await turns_until(lambda: not network.open_flows)
        assert not network.open_flows
        return [end.recorder.data for end in ends if end is not None]

    return run(main)


async def talk(ends: list[End | None]) -> None:
    """Both say the same, if they can, and end."""
    for end in ends:
        for message in MESSAGES if end is not None else ():
            try:
                end.send(message)
            except SendError:
                break
            await asyncio.sleep(0)
    for end in ends:
        if end is not None:
            end.flow.finish()
    await turns_until(lambda: False)
    whole = b"".join(MESSAGES)
    for end in ends:
        if end is None:
            continue
        came = end.recorder.data
        assert whole.startswith(came), "what came was never sent"
        assert not end.recorder.is_finished or came == whole, "cut off, and it looks like an end"
        for call in end.recorder.named("failed"):
            assert isinstance(call.arguments[0], ReceiveError)
        assert end.recorder.error is None or isinstance(end.recorder.error, TapsError)


RECORDS = st.builds(
    lambda kind, version, body: bytes([kind, 3, version]) + len(body).to_bytes(2) + body,
    st.integers(20, 24),
    st.integers(1, 4),
    st.binary(max_size=60),
)
HARMS = st.builds(
    Harm,
    st.sampled_from(KINDS),
    # Handshakes are that long, and a little of what follows.
    st.one_of(st.integers(0, 300), st.integers(0, 6000)),
    st.one_of(st.binary(max_size=4), RECORDS),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(HARMS, st.sampled_from(("client", "server", "both")), st.sampled_from(VERSIONS))
def test_whatever_happens_to_the_bytes_nothing_worse_than_an_error_comes_of_it(
    harm: Harm, whose: str, version: str
) -> None:
    lives_through(harm if whose != "server" else None, harm if whose != "client" else None, version)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_worse_comes_of_it_at_any_byte(kind: str, version: str) -> None:
    for at in range(0, 3000, 23):
        harm = Harm(kind, at)
        lives_through(of_client=harm, version=version)
        lives_through(of_server=harm, version=version)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_harm_all_arrives(version: str) -> None:
    never = Harm("cut", 1 << 30)
    assert lives_through(never, never, version) == [b"".join(MESSAGES)] * 2


def test_a_certificate_that_nobody_can_read_is_a_certificate_that_is_refused() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        wire = bytearray()
        network.wiretap = wire.extend
        # With TLS 1.2 the certificate is there for all to see.
        client = CLIENT.copy().set("allowedSecurityProtocols", "TLSv1.2")
        async with Rig(MemoryStream(network), LAYER, parameters=(SERVER, client)) as rig:
            await rig.pair()
        beginning = re.search(rb"\d{12}Z", wire)
        assert beginning is not None
        at = beginning.start()
        # The server's flight is the second.
        at -= 5 + int.from_bytes(wire[3:5])
        transport = Perilous(MemoryStream(network), None, Harm("change", at, b"\x80" * 4))
        async with Rig(transport, LAYER, parameters=(SERVER, client)) as rig:
            accepting = asyncio.ensure_future(rig.accept())
            with pytest.raises(taps.EstablishmentError) as caught:
                await rig.connect()
            assert caught.value.detail in ("certificate-refused", "self-signed")
            await asyncio.wait([accepting])
            assert isinstance(accepting.exception(), taps.EstablishmentError)

    run(main)
