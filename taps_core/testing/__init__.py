"""Public door for tests: networks in memory, a virtual clock, strict runs, sweeps, leak checks.

::

    from taps_core.testing import run

    async def scenario(net):            # on virtual time
        net.path(latency=0.05, loss=0.1)
        await net.serve("server.example:7000", echo, framers="line")
        ...                             # an application, as it is

    run(scenario, seed=1)

Below that, for tests of layers that need no time and no distance::

    network = MemoryNetwork()
    transport = MemoryStream(network)   # a plugin's transport like any other

:func:`run` runs a coroutine strictly and leaves nothing behind;
:func:`no_leaks` is the part of it that fits around any block. :func:`sweep`
cancels a coroutine at every step that it takes. :class:`KernelNetwork` is a network of
the Linux kernel's for one test, whose packets can be seen. :func:`local_identity` makes
certificates for two ends; it needs trustme. pytest fixtures are in
:mod:`taps_core.testing.fixtures`; nothing else here needs pytest.
"""

from types import FunctionType as _FunctionType

from taps_core.testing.aio import LoopName, run
from taps_core.testing.identities import LocalAuthority, local_identity
from taps_core.testing.kernel_network import Capture, KernelNetwork
from taps_core.testing.kernel_packets import Packet, forged_datagram
from taps_core.testing.leaks import LeakError, no_leaks
from taps_core.testing.memory import MemoryNetwork
from taps_core.testing.memory_connected import Chunk
from taps_core.testing.memory_datagram import Fate, MemoryDatagram, accidents
from taps_core.testing.memory_messages import MemoryMessages
from taps_core.testing.memory_secure import MemorySecure
from taps_core.testing.memory_security import MemoryCookies, MemoryTLS
from taps_core.testing.memory_stream import MemoryStream, random_chunks
from taps_core.testing.recorder import Call, CheckedFlow, Recorder
from taps_core.testing.requests import accept_request, connect_request, listen_request
from taps_core.testing.rig import End, Rig
from taps_core.testing.scripted import ScriptedFlow, SentPart
from taps_core.testing.sweeping import Cancellation, Scenario, SweepError, sweep
from taps_core.testing.transports import memory_transports
from taps_core.testing.virtual_conditions import Conditions, Counts
from taps_core.testing.virtual_datagram import VirtualDatagram
from taps_core.testing.virtual_host import Host
from taps_core.testing.virtual_log import EventLog, LogEntry
from taps_core.testing.virtual_network import VirtualNetwork
from taps_core.testing.virtual_paths import Path, Way
from taps_core.testing.virtual_stream import VirtualStream
from taps_core.testing.virtual_time import DeadlockError, VirtualClockLoop

__all__ = [
    "Call",
    "Cancellation",
    "Capture",
    "CheckedFlow",
    "Chunk",
    "Conditions",
    "Counts",
    "DeadlockError",
    "End",
    "EventLog",
    "Fate",
    "Host",
    "KernelNetwork",
    "LeakError",
    "LocalAuthority",
    "LogEntry",
    "LoopName",
    "MemoryCookies",
    "MemoryDatagram",
    "MemoryMessages",
    "MemoryNetwork",
    "MemorySecure",
    "MemoryStream",
    "MemoryTLS",
    "Packet",
    "Path",
    "Recorder",
    "Rig",
    "Scenario",
    "ScriptedFlow",
    "SentPart",
    "SweepError",
    "VirtualClockLoop",
    "VirtualDatagram",
    "VirtualNetwork",
    "VirtualStream",
    "Way",
    "accept_request",
    "accidents",
    "connect_request",
    "forged_datagram",
    "listen_request",
    "local_identity",
    "memory_transports",
    "no_leaks",
    "random_chunks",
    "run",
    "sweep",
]

# Tracebacks and documentation name what people import; aliases cannot.
for _name in __all__:
    if isinstance(globals()[_name], type | _FunctionType):
        globals()[_name].__module__ = __name__
del _name
