"""FramerConnector, accept_framed and wrap: framers as layers of a stack."""

import asyncio
from typing import Any

import pytest

from taps_core.model.capabilities import DataUnit, LayerCapabilities, Protection
from taps_core.model.errors import ConnectionError, EstablishmentError, PluginError, SendError
from taps_core.model.flow import Data, Flow, LayerFlow
from taps_core.model.framer import Codec, Framer
from taps_core.model.layers import (
    AcceptRequest,
    Connector,
    ConnectRequest,
    EarlyData,
    FramerDefinition,
    SecurityLayer,
)
from taps_core.model.messages import SendRecord
from taps_core.runtime.framer_flow import FramerFlow
from taps_core.runtime.framing import (
    CodecFlow,
    FramerConnector,
    accept_framed,
    wrap,
)
from taps_core.testing import Recorder, accept_request, connect_request
from taps_core.testing.scripted import ScriptedFlow
from taps_framers import JSONLines, LengthPrefix, Line


class Below:
    """A connector whose flow is scripted."""

    def __init__(self, *, takes_early: bool = False, error: Exception | None = None) -> None:
        self.flow = ScriptedFlow()
        self.requests: list[ConnectRequest] = []
        self.takes_early = takes_early
        self.error = error

    async def connect(self, request: ConnectRequest) -> Flow:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        if request.early is not None:
            request.early.taken = self.takes_early
        return self.flow


def request(early: EarlyData | None = None) -> ConnectRequest:
    return connect_request("192.0.2.1:7", early=early)


async def turn() -> None:
    await asyncio.sleep(0)


class Asks(Framer):
    """Sends ``?`` and is ready when ``!`` comes."""

    def start(self) -> None:
        self.send(b"?")

    def handle_received_data(self) -> None:
        if self.parse(1, 1) is not None:
            self.advance_receive_cursor(1)
            self.answered()

    def answered(self) -> None:
        self.start_passthrough()
        self.make_connection_ready()


# -- order


@pytest.mark.requirement("G-9622-9.1.2.1-01")
def test_the_framer_added_last_runs_first_outbound_and_last_inbound() -> None:
    async def main() -> None:
        below = Below()
        lower: Connector = below
        for definition in (LengthPrefix(1), Line()):
            lower = FramerConnector(definition, lower, datagrams=False)
        flow = await lower.connect(request())
        flow.start(above := Recorder())
        flow.send(b"abc", None, True)
        assert below.flow.messages == [b"\4abc\n"]
        below.flow.feed(b"\4abc\n")
        assert above.messages == [b"abc"]

    asyncio.run(main())


def test_wrap_puts_codecs_over_a_flow_in_the_same_order() -> None:
    below = ScriptedFlow()
    flow = wrap(below, [LengthPrefix(1).create(), Line().create()], datagrams=False)
    assert flow is not None
    assert not below.calls
    flow.start(Recorder())
    flow.send(b"abc", None, True)
    assert below.messages == [b"\4abc\n"]


def test_wrap_leaves_framers_that_may_talk_to_accept() -> None:
    below = ScriptedFlow()
    assert wrap(below, [LengthPrefix(1).create(), Framer()], datagrams=False) is None
    assert not below.calls
    assert wrap(below, [], datagrams=False) is below


# -- connect


def test_a_codec_is_ready_when_the_layer_below_is() -> None:
    below = Below()
    asked = request()
    flow = asyncio.run(FramerConnector(LengthPrefix(), below, datagrams=False).connect(asked))
    assert isinstance(flow, CodecFlow)
    assert below.requests == [asked]
    assert not below.flow.calls


@pytest.mark.parametrize("definition", [LengthPrefix(), Asks])
def test_what_the_layer_below_raises_is_raised(definition: Any) -> None:
    error = ConnectionRefusedError("refused")
    connector = FramerConnector(definition, Below(error=error), datagrams=False)
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(connector.connect(request()))


def test_a_framer_that_talks_delays_ready() -> None:
    async def main() -> None:
        below = Below()
        task = asyncio.create_task(FramerConnector(Asks, below, datagrams=False).connect(request()))
        await turn()
        assert below.flow.wire == b"?"
        assert not task.done()
        below.flow.feed(b"!abc")
        flow = await task
        assert isinstance(flow, FramerFlow)
        flow.start(above := Recorder())
        await turn()
        assert above.data == b"abc"

    asyncio.run(main())


def test_cancelling_aborts_the_flow_below() -> None:
    async def main() -> None:
        below = Below()
        task = asyncio.create_task(FramerConnector(Asks, below, datagrams=False).connect(request()))
        await turn()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert below.flow.names[-1] == "abort"

    asyncio.run(main())


def test_a_definition_that_makes_something_else_is_named() -> None:
    class Wrong(FramerDefinition):
        name = "wrong"

        def create(self) -> Any:
            return "framer"

    with pytest.raises(PluginError, match="neither a Codec nor a Framer"):
        asyncio.run(FramerConnector(Wrong(), Below(), datagrams=False).connect(request()))
    below = ScriptedFlow()
    with pytest.raises(PluginError):
        asyncio.run(accept_framed(Wrong(), below, datagrams=False))
    assert below.names == ["abort"]


# -- early data


@pytest.mark.parametrize("taken", [True, False])
def test_early_data_goes_down_framed(taken: bool) -> None:
    below = Below(takes_early=taken)
    lower: Connector = below
    for definition in (LengthPrefix(1), Line()):
        lower = FramerConnector(definition, lower, datagrams=False)
    early = EarlyData(b"abc")
    asyncio.run(lower.connect(request(early)))
    framed = below.requests[0].early
    assert framed is not None
    assert framed.data == b"\4abc\n"
    assert early.taken is taken
    assert early.data == b"abc"


def test_what_was_not_taken_meets_a_codec_that_has_not_encoded_it() -> None:
    class Counting(LengthPrefix):
        def create(self) -> Any:
            codec = super().create()
            numbers = iter(range(10))
            codec.encode = lambda data, record: b"%d" % next(numbers) + data  # type: ignore[method-assign]  # counts
            return codec

    below = Below()
    flow = asyncio.run(
        FramerConnector(Counting(), below, datagrams=False).connect(request(EarlyData(b"a")))
    )
    flow.start(Recorder())
    flow.send(b"a", None, True)
    assert below.flow.wire == b"0a"


def test_early_data_that_is_no_message_is_left_to_its_send() -> None:
    below = Below(takes_early=True)
    early = EarlyData(b"two\nlines")
    flow = asyncio.run(FramerConnector(Line(), below, datagrams=False).connect(request(early)))
    assert below.requests[0].early is None
    assert not early.taken
    flow.start(Recorder())
    with pytest.raises(SendError):
        flow.send(early.data, None, True)


def test_objects_can_be_early_data() -> None:
    below = Below(takes_early=True)
    early = EarlyData({"a": 1})
    asyncio.run(FramerConnector(JSONLines(), below, datagrams=False).connect(request(early)))
    framed = below.requests[0].early
    assert framed is not None
    assert framed.data == b'{"a":1}\n'


def test_a_framer_with_events_leaves_early_data_alone() -> None:
    below = Below(takes_early=True)
    early = EarlyData(b"a")
    asyncio.run(FramerConnector(Framer, below, datagrams=False).connect(request(early)))
    assert below.requests[0].early is None
    assert not early.taken


# -- accept


def test_accepting_a_codec_or_a_framer_that_is_ready_does_not_wait() -> None:
    for definition in (LengthPrefix(), Framer):
        accepting = accept_framed(definition, below := ScriptedFlow(), datagrams=False)
        with pytest.raises(StopIteration):
            accepting.send(None)
        assert not below.calls


def test_accepting_waits_for_a_framer_that_talks() -> None:
    async def main() -> None:
        below = ScriptedFlow()
        task = asyncio.create_task(accept_framed(Asks, below, datagrams=False))
        await turn()
        assert not task.done()
        below.receiver.closed(None)
        with pytest.raises(ConnectionError):
            await task

    asyncio.run(main())


# -- prepended layers


class Sealed(LayerFlow):
    """Turns every byte over: a security layer for tests."""

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        buffers = data if isinstance(data, tuple) else (data,)
        return super().send(b"".join(buffers)[::-1], record, end_of_message)

    def received(self, parts: Any) -> None:
        super().received([(data[::-1], context, end) for data, context, end in parts])


class Seal(SecurityLayer):
    name = "seal"
    capabilities = LayerCapabilities(
        over=frozenset({DataUnit.BYTE_STREAM}), protection=Protection(protocols=("seal",))
    )

    def __init__(self) -> None:
        self.requests: list[ConnectRequest | AcceptRequest] = []
        self.error: Exception | None = None

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        self.requests.append(request)
        flow = await lower.connect(request)
        if self.error is not None:
            flow.abort()
            raise self.error
        return Sealed(flow)

    async def accept(self, lower: Flow, request: AcceptRequest) -> Flow:
        self.requests.append(request)
        return Sealed(lower)


def starts_tls(*layers: Any) -> type[Framer]:
    class StartTLS(Asks):
        boundaries = False

        def answered(self) -> None:
            for layer in layers:
                self.prepend_framer(layer)
            super().answered()

    return StartTLS


def test_a_framer_can_bring_security_and_framers_above_itself() -> None:
    async def main() -> None:
        seal = Seal()
        below = Below()
        asked = request()
        connector = FramerConnector(
            starts_tls(seal, LengthPrefix(1), Framer), below, datagrams=False
        )
        task = asyncio.create_task(connector.connect(asked))
        await turn()
        below.flow.feed(b"!")
        # The peer may speak at once: nothing of it gets lost on the way up.
        below.flow.feed(b"cba\3")
        flow = await task
        assert seal.requests == [asked]
        flow.start(above := Recorder())
        await turn()
        assert above.messages == [b"abc"]
        flow.send(b"xyz", None, True)
        assert below.flow.messages == [b"?", b"zyx\3"]

    asyncio.run(main())


def test_security_that_fails_above_a_framer_fails_the_candidate() -> None:
    async def main() -> None:
        seal = Seal()
        seal.error = EstablishmentError("no certificate")
        below = Below()
        task = asyncio.create_task(
            FramerConnector(starts_tls(seal), below, datagrams=False).connect(request())
        )
        await turn()
        below.flow.feed(b"!")
        with pytest.raises(EstablishmentError, match="no certificate"):
            await task
        assert below.flow.names.count("abort") == 1

    asyncio.run(main())


def test_an_accepted_framer_brings_security_with_the_listeners_parameters() -> None:
    async def main(given: AcceptRequest | None) -> None:
        seal = Seal()
        below = ScriptedFlow()
        task = asyncio.create_task(
            accept_framed(starts_tls(seal), below, datagrams=False, request=given)
        )
        await turn()
        below.feed(b"!")
        try:
            assert isinstance(await task, Sealed)
        finally:
            assert seal.requests == ([] if given is None else [given])
            assert ("abort" in below.names) is (given is None)

    asyncio.run(main(accept_request()))
    with pytest.raises(EstablishmentError):
        asyncio.run(main(None))


def test_a_prepended_codec_class_of_ones_own() -> None:
    class Plain(Codec):
        max_length = 10

        def encode(self, data: Any, record: Any, /) -> bytes:
            return b"<%b>" % data

        def decode(self, data: bytes, parts: list[Any], /) -> int:
            return 0

    class Definition(FramerDefinition):
        name = "plain"

        def create(self) -> Codec:
            return Plain()

    async def main() -> None:
        below = ScriptedFlow()
        task = asyncio.create_task(accept_framed(starts_tls(Definition()), below, datagrams=False))
        await turn()
        below.feed(b"!")
        flow = await task
        flow.start(Recorder())
        flow.send(b"a", None, True)
        assert below.messages == [b"?", b"<a>"]

    asyncio.run(main())
