"""How asyncio's own loop reads: into a buffer of ours while reads are small.

That loop asks for a new object of 256 KiB for every read. Where the allocator gets
so much from the system each time (glibc does, until the process happens to free
something larger), a read of 64 bytes costs three more system calls and a page fault,
which is more than all the rest of it. For large reads the other way is better: what
the kernel wrote need not be copied once more. So a connection begins with small
reads, and changes over with what it sees.

uvloop has a buffer of its own, and reads into it in any case.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from taps_core.runtime.stream_flow import StreamFlow

__all__ = ["begin_reading"]

#: Bytes of the buffer that all connections of a loop share: it is empty again
#: before the loop reads from another one.
SMALL: Final = 16 * 1024
#: After so many reads that would have fitted, small reads are back.
PATIENCE: Final = 16

_buffers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = (
    weakref.WeakKeyDictionary()
)


def begin_reading(
    loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, flow: StreamFlow
) -> None:
    """Let ``transport`` read for ``flow`` as its loop does it best."""
    # Other loops may have more than one read under way.
    if isinstance(loop, asyncio.SelectorEventLoop):
        transport.set_protocol(SmallReads(flow, transport, _buffer_of(loop)))


def _buffer_of(loop: asyncio.AbstractEventLoop) -> memoryview:
    buffer = _buffers.get(loop)
    if buffer is None:
        buffer = _buffers[loop] = memoryview(bytearray(SMALL))
    return buffer


class _Reads(asyncio.BaseProtocol):
    """Passes on to the flow what has nothing to do with reading."""

    __slots__ = ("_buffer", "_flow", "_transport")

    def __init__(self, flow: StreamFlow, transport: asyncio.Transport, buffer: memoryview) -> None:
        self._flow = flow
        self._transport = transport
        self._buffer = buffer

    def eof_received(self) -> bool:
        return self._flow.eof_received()

    def pause_writing(self) -> None:
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._flow.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._flow.connection_lost(exc)


class SmallReads(_Reads, asyncio.BufferedProtocol):
    """Reads go into the shared buffer, and leave it as an object of their own size."""

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._flow.data_received(bytes(self._buffer[:nbytes]))
        if nbytes == SMALL:
            self._transport.set_protocol(LargeReads(self._flow, self._transport, self._buffer))


class LargeReads(_Reads, asyncio.Protocol):
    """Each read is an object of the loop's."""

    __slots__ = ("_small",)

    def __init__(self, flow: StreamFlow, transport: asyncio.Transport, buffer: memoryview) -> None:
        super().__init__(flow, transport, buffer)
        self._small = 0

    def data_received(self, data: bytes) -> None:
        self._flow.data_received(data)
        self._small = self._small + 1 if len(data) < SMALL else 0
        if self._small == PATIENCE:
            self._transport.set_protocol(SmallReads(self._flow, self._transport, self._buffer))
