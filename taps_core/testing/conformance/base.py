"""What every suite for transports is made of: the transport, the stage, small helpers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from taps_core.model.capabilities import Capabilities, Support
from taps_core.testing.conformance.stage import Stage
from taps_core.testing.conformance.suite import Conformance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.layers import ListeningFlow, Transport
    from taps_core.testing.rig import End

__all__ = [
    "FULL",
    "LARGEST",
    "PIECE",
    "PIECES",
    "TransportSuite",
    "length",
    "none_of",
    "numbered",
    "numbers",
    "remote_of",
    "same_place",
    "short",
]

#: Bytes of a piece of a large transfer, and how many of them there are.
PIECE = 32 * 1024
PIECES = 128
#: A sender that nobody reads from is full long before this.
FULL = 64 * 1024 * 1024
#: Limits above this are as good as none: no test sends so much at once.
LARGEST = 64 * 1024 * 1024


def numbered(count: int) -> list[bytes]:
    """Messages of four bytes that can be told apart."""
    return [number.to_bytes(4) for number in range(count)]


def numbers(data: bytes) -> list[int]:
    """The numbers in a row of :func:`numbered` Messages."""
    return [int.from_bytes(data[at : at + 4]) for at in range(0, len(data) - 3, 4)]


class TransportSuite(Conformance):
    """A suite for a transport, of which it looks at the declaration.

    Attributes:
        transport: What is tested.
        local: Where to listen, several times at once: with port 0, as a rule.
            ``None``: where ``transport.loopback()`` says.
        properties: Transport properties for all that is done.
    """

    transport: ClassVar[Transport]
    local: ClassVar[LocalEndpoint | None] = None
    properties: ClassVar[dict[str, Any]] = {}
    settling: ClassVar[float] = 0.0

    # -- the declaration

    def test_the_declaration_is_plain(self) -> None:
        """Name, table and availability are there at once, and the same each time."""
        transport = self.transport
        assert transport.name, "it has no name"
        assert transport.name == transport.name.lower(), f"{transport.name} is not lower case"
        assert isinstance(transport.capabilities, Capabilities), "capabilities is no Capabilities"
        assert transport.serves, "it serves no kind of endpoint"
        hash(transport)
        first, second = transport.availability(), transport.availability()
        assert first == second, "availability() says something else each time"
        assert first.available or first.reason, "it is not available and does not say why"

    def test_the_table_names_properties_that_exist(self) -> None:
        """The capability table has only selection properties that RFC 9622 (or the plugin) has."""
        known = Capabilities.byte_stream().support.keys()
        unknown = [
            name
            for name in self.transport.capabilities.support
            if name not in known and "." not in name and not name.startswith("_")
        ]
        assert not unknown, f"no selection property: {', '.join(unknown)}"

    # -- for the tests

    def place(self) -> LocalEndpoint | None:
        """A fresh place to listen at, each time; to be overridden where nothing else says one."""
        return self.local or self.transport.loopback()

    def stage(self) -> Stage:
        """A listener, and flows."""
        return Stage(self)

    def on_stage(self, act: Callable[[Stage], Any], *, strict: bool = True) -> None:
        """Run ``act(stage)`` on each loop."""

        async def main() -> None:
            async with self.stage() as stage:
                await act(stage)

        self.run(main, strict=strict)

    def claims(self, name: str) -> bool:
        """Whether the transport always has a selection property."""
        return self.transport.capabilities.support.get(name) is Support.ALWAYS

    async def delivers(
        self, stage: Stage, sender: End, receiver: End, message: Any, arrives: bytes | None = None
    ) -> None:
        """Send one Message and wait for it."""
        receiver.recorder.forget()
        expected = message if arrives is None else arrives
        await stage.insist(
            lambda: sender.send(message),
            lambda: expected in receiver.recorder.data,
            f"{expected!r} arrives (what came is {receiver.recorder.data!r})",
        )


def none_of(found: Iterable[str]) -> None:
    """Fail with the first, if there is one."""
    for sentence in found:
        raise AssertionError(sentence)


def length(end: End) -> int:
    """Bytes that came up."""
    return sum(len(data) for data, _, _ in end.recorder.parts)


def short(data: bytes) -> str:
    """For a sentence."""
    return repr(data) if len(data) <= 20 else f"{data[:20]!r}… ({len(data)} bytes)"


def same_place(one: Any, other: Any) -> bool:
    """Whether two endpoints are the same place, as far as both say something."""
    if one is None or other is None:
        return True
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("ip_address", "port", "identifiers")
        if getattr(one, name) and getattr(other, name)
    )


def remote_of(stage: Stage, listener: ListeningFlow) -> RemoteEndpoint:
    """Where a client would find ``listener``."""
    kept, stage.listener = stage.listener, listener
    try:
        return stage.remote
    finally:
        stage.listener = kept
