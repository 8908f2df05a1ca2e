"""A UDP socket on an event loop: reads many datagrams per wake-up, sends many per call.

Not a DatagramProtocol: asyncio's reads one datagram per wake-up, its send queue
has no bound, and it leaves the error queue alone.

What is sent goes to the kernel at once; what the kernel has no room for waits in
a queue that the flows share, in order. Datagrams of one length that one flow sends
in a row leave with one call (UDP_SEGMENT), and once reads come in bursts the
kernel is asked to hand them up likewise (UDP_GRO).

What comes along with a datagram is asked for where somebody wants it, since that makes
a read dearer: the ECN field where ``_taps.receiveEcn`` is set, the address that it came to
where there are several, the size of those that were joined.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import Ecn, MessageContext, PropertyError, SoftError
from taps_udp.errors import lost, read_report
from taps_udp.options import ANCILLARY, GRO, LINUX, NO_NEWS, SEGMENT, ecn_and_segment, tell_ecn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taps_core.plugin import PartTuple
    from taps_udp.flow import UDPFlow
    from taps_udp.options import Control

__all__ = ["READ_SIZE", "Port"]

#: What one wake-up takes at most; then others have their turn.
MOST_READS: Final = 128
MOST_BYTES: Final = 256 * 1024
#: Where so many wake-ups in a row found one datagram, a second read would find nothing at
#: the price of the first: it is tried at every so-manieth of them.
_ALONE: Final = 8
#: A read holds any datagram, and as many as the kernel joins.
READ_SIZE: Final = 65535
#: After so many wake-ups with so many datagrams each, the kernel joins them.
_BURST: Final = 4
_BURSTS: Final = 8
#: What older kernels take of one UDP_SEGMENT call, and what fits into it.
MOST_SEGMENTS: Final = 64
MOST_SEGMENTED: Final = 65507
#: What the kernel says where a route or device knows no UDP_SEGMENT.
_NO_SEGMENTS: Final = frozenset({errno.EINVAL, errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT})
_SHORT: Final = struct.Struct("=H")
#: Entries of the error queue per wake-up.
_MOST_REPORTS: Final = 64

_ECN: Final = {1: Ecn("ECT(1)"), 2: Ecn("ECT(0)"), 3: Ecn("CE")}


class Port(ABC):
    """One socket and the flows that use it.

    Args:
        loop: Where it runs.
        sock: Bound or connected, non-blocking. Belongs to the port.
        annotated: Whether anything but the data and the sender is wanted of a datagram.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, *, annotated: bool
    ) -> None:
        self.loop = loop
        self.sock = sock
        #: What the kernel had no room for: the flow, its datagrams, ancillary data.
        self._waiting: deque[tuple[UDPFlow, list[bytes], Sequence[Control]]] = deque()
        plain = LINUX and sock.proto == socket.IPPROTO_UDP
        self._segments = plain
        self._joined = not plain  # whether UDP_GRO is on, or cannot be
        self._bursts = 0
        self._alone = 0
        self._annotated = annotated
        self._read: Callable[[], Any] = self._annotated_read() if annotated else self.bare_read()
        self._usual = NO_NEWS[sock.family]
        # Other loops (uvloop's) watch a socket no longer once it had an error.
        self._lasting = isinstance(loop, asyncio.SelectorEventLoop)
        self._reading = self._writing = False
        self.watch()

    # -- for the flows

    @property
    def alive(self) -> bool:
        """Whether there is a socket."""
        return self.sock.fileno() != -1

    def watch(self) -> None:
        """Read."""
        if not self._reading and self.alive:
            self._reading = True
            self.loop.add_reader(self.sock.fileno(), self._readable)

    def unwatch(self) -> None:
        """Read no more for now."""
        if self._reading:
            self._reading = False
            self.loop.remove_reader(self.sock.fileno())

    def carry(self, flow: UDPFlow, datagrams: list[bytes], control: Sequence[Control]) -> None:
        """Let datagrams of one flow leave, now or when there is room.

        Args:
            flow: Whose they are.
            datagrams: Each short enough. Belongs to the port.
            control: Ancillary data for each of them.
        """
        sent = 0 if self._waiting else self._transmit(flow, datagrams, control)
        if sent < len(datagrams):
            rest = datagrams[sent:]
            self._waiting.append((flow, rest, control))
            self._watch_room()
            flow.queued += sum(map(len, rest)) + len(rest)

    def carry_one(self, flow: UDPFlow, datagram: bytes) -> None:
        """Let a datagram leave that has nothing special to it.

        Args:
            flow: Whose it is. It has no ancillary data of its own.
            datagram: Short enough.
        """
        if self._waiting or not self._send_one(flow, datagram, ()):
            self.carry(flow, [datagram], ())

    def drop(self, flow: UDPFlow) -> None:
        """Forget what waits of a flow."""
        if flow.queued:
            flow.queued = 0
            others = [each for each in self._waiting if each[0] is not flow]
            self._waiting.clear()
            self._waiting.extend(others)
            self._watch_room()

    def hold(self, flow: UDPFlow, on: bool) -> None:  # noqa: B027  # siblings never stop
        """A flow wants nothing for now, or wants it again."""

    def demand_coverage(self, flow: UDPFlow, length: float) -> None:
        """Let the checksum of what is delivered to ``flow`` cover at least so many bytes.

        Raises:
            PropertyError: The socket is not the flow's alone, or the system refused.
        """
        raise PropertyError(
            "recvChecksumLen: all Connections of a Listener share its socket; set it before"
        )

    def overruns(self) -> int:
        """Datagrams of its only flow that the kernel dropped."""
        return 0

    def unread(self) -> None:  # noqa: B027  # the flow has counted it
        """A datagram was dropped, as its flow was not read."""

    @abstractmethod
    def forget(self, flow: UDPFlow) -> None:
        """A flow is over."""

    def tell_ecn(self) -> None:
        """Read the ECN field of what arrives from now on."""
        tell_ecn(self.sock)
        self._annotate()

    @abstractmethod
    def bare_read(self) -> Callable[[], Any]:
        """What reads a datagram and nothing about it: as ``deliver_bare`` takes them."""

    @abstractmethod
    def deliver_bare(self, got: list[Any]) -> None:
        """Hand up what one wake-up read so."""

    @abstractmethod
    def deliver(self, arrived: list[tuple[Any, list[Control], PartTuple]]) -> None:
        """Hand up what one wake-up read: addresses, ancillary data, parts."""

    @abstractmethod
    def concerned(self, address: Any) -> UDPFlow | None:
        """The flow whose datagram to ``address`` caused an ICMP error."""

    def release(self) -> None:
        """Close the socket."""
        if self.alive:
            self.unwatch()
            self._waiting.clear()
            self._watch_room()
            self.sock.close()

    def _watch_room(self) -> None:
        """Be called when there is room, as long as something waits for it."""
        if bool(self._waiting) is not self._writing:
            self._writing = not self._writing
            if self._writing:
                self.loop.add_writer(self.sock.fileno(), self._writable)
            else:
                self.loop.remove_writer(self.sock.fileno())

    # -- sending

    def _transmit(self, flow: UDPFlow, datagrams: list[bytes], control: Sequence[Control]) -> int:
        """Send until the kernel has no room; how many datagrams are done with."""
        done, count = 0, len(datagrams)
        alone = 0  # those before it go one by one
        while done < count:
            end = _run(datagrams, done) if self._segments and done >= alone else done + 1
            if end - done == 1:
                if not self._send_one(flow, datagrams[done], control):
                    return done
            else:
                size = _SHORT.pack(len(datagrams[done]))
                # One buffer: cheaper than a list of many for the kernel to walk.
                batch = b"".join(datagrams[done:end])
                try:
                    self._send(batch, (*control, (*SEGMENT, size)), flow.address)
                except BlockingIOError:
                    return done
                except OSError as error:
                    # A device that cannot, an error of an earlier datagram, a path that has
                    # become narrower: one by one it shows which of them are lost.
                    self._segments = error.errno not in _NO_SEGMENTS
                    alone = end
                    continue
            done = end
        return done

    def _send_one(self, flow: UDPFlow, datagram: bytes, control: Sequence[Control]) -> bool:
        """Send a datagram; False if there is no room."""
        for last in (False, True):
            try:
                self._send(datagram, control, flow.address)
            except BlockingIOError:
                return False
            except OSError as error:
                # What an earlier datagram met is reported here, and only once.
                if last:
                    flow.lost(lost(error, len(datagram)))
            else:
                return True
        return True

    def _send(self, data: bytes, control: Sequence[Control], address: Any) -> None:
        if control:
            # An address of None: where the socket is connected to.
            self.sock.sendmsg((data,), control, 0, address)
        elif address is None:
            self.sock.send(data)
        else:
            self.sock.sendto(data, address)

    def _writable(self) -> None:
        waiting = self._waiting
        while waiting:
            flow, datagrams, control = waiting[0]
            sent = self._transmit(flow, datagrams, control)
            flow.queued -= sum(map(len, datagrams[:sent])) + sent
            if sent < len(datagrams):
                del datagrams[:sent]
                # While nothing is read, an error left in its queue would wake us for ever.
                self._drain_reports()
                self._watch_again()
                return
            waiting.popleft()
            flow.drained()
        if self.alive:
            self._watch_room()

    # -- reading

    def _readable(self) -> None:
        alone = self._alone
        most = MOST_READS if alone < _ALONE or alone % _ALONE == 0 else 1
        read = self._read
        failed = False
        if most == 1 and not self._annotated:
            try:
                datagram = read()
            except BlockingIOError:
                most = 0
            except OSError as error:
                failed = True
                self._report(error)
            else:
                self._alone = alone + 1
                self.deliver_bare([datagram])
                return
        got: list[Any] = []
        size = 0
        while most and size < MOST_BYTES:
            most -= 1
            try:
                datagram = read()
            except BlockingIOError:
                break
            except OSError as error:
                # Reported once; the datagrams behind it are fine.
                failed = True
                self._report(error)
                continue
            got.append(datagram)
            size += len(datagram if type(datagram) is bytes else datagram[0])
        if failed or not got:
            self._drain_reports()
            self._watch_again()
            if not got:
                self._alone = alone + 1
                return
        arrived = self._unpack(got) if self._annotated else got
        count = len(arrived)
        if count == 1:
            self._alone = alone + 1
        else:
            self._alone = 0
            if count >= _BURST and not self._joined:
                self._join()
        if arrived is got:
            self.deliver_bare(got)
        else:
            self.deliver(arrived)

    def _unpack(self, got: list[Any]) -> list[tuple[Any, list[Control], PartTuple]]:
        """What ``recvmsg`` gave, datagram by datagram."""
        usual = self._usual
        arrived: list[tuple[Any, list[Control], PartTuple]] = []
        for data, ancillary, _, address in got:
            if not ancillary or ancillary == usual:
                arrived.append((address, ancillary, (data, None, True)))
                continue
            ecn, segment = ecn_and_segment(ancillary)
            if not segment or segment >= len(data):
                arrived.append((address, ancillary, (data, _context(ecn), True)))
            else:
                arrived += [
                    (address, ancillary, (data[at : at + segment], _context(ecn), True))
                    for at in range(0, len(data), segment)
                ]
        return arrived

    def _annotated_read(self) -> Callable[[], Any]:
        return partial(self.sock.recvmsg, READ_SIZE, ANCILLARY)

    def _annotate(self) -> None:
        self._annotated = True
        self._read = self._annotated_read()

    def _join(self) -> None:
        """After a few bursts: let the kernel join the datagrams of the next ones.

        It stays so: what is joined already when that is switched off comes as one.
        """
        self._bursts += 1
        if self._bursts >= _BURSTS:
            self._joined = True
            try:
                self.sock.setsockopt(*GRO, 1)
            except OSError:  # a kernel before 5.0
                return
            self._annotate()

    def _watch_again(self) -> None:
        if self._lasting or not self.alive:
            return
        if self._reading:
            self.unwatch()
            self.watch()
        if self._writing:
            self.loop.remove_writer(self.sock.fileno())
            self.loop.add_writer(self.sock.fileno(), self._writable)

    # -- errors

    def _report(self, error: OSError) -> None:
        """What ``recvmsg`` raised. On Linux the error queue tells it in full."""
        flow = None if LINUX else self.concerned(None)
        if flow is not None:
            flow.soft_error(SoftError(error))

    def _drain_reports(self) -> None:
        for _ in range(_MOST_REPORTS):
            report = read_report(self.sock)
            if report is None:
                return
            flow = self.concerned(report.address)
            if flow is not None:
                if report.too_long:
                    flow.narrowed()
                if not report.local:
                    flow.soft_error(report.event)


def _run(datagrams: list[bytes], start: int) -> int:
    """Where the datagrams end that leave with one call, the last perhaps shorter."""
    size = len(datagrams[start])
    if not size:
        return start + 1
    most = min(len(datagrams), start + MOST_SEGMENTS, start + MOST_SEGMENTED // size)
    lengths = list(map(len, datagrams[start:most]))
    if lengths.count(size) == len(lengths):
        return most
    end = start + next(at for at, length in enumerate(lengths) if length != size)
    return end + 1 if 0 < len(datagrams[end]) < size else end


def _context(ecn: int) -> MessageContext | None:
    """What there is to say of a datagram. Not-ECT, the usual case, is not said."""
    return MessageContext.received({"ecn": _ECN[ecn]}) if ecn else None
