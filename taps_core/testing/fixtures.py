"""pytest fixtures; in a conftest.py: ``pytest_plugins = ["taps_core.testing.fixtures"]``.

Nothing else of :mod:`taps_core.testing` needs pytest. Tests are plain
functions that give a coroutine function to ``run``, once for each loop::

    def test_an_echo_comes_back(run, memory_network):
        async def main():
            ...

        run(main)

or a scenario to ``virtual_run``::

    def test_a_lost_request_is_repeated(virtual_run, virtual_network):
        virtual_network.path(latency=0.05, loss=0.5)

        async def scenario(net):
            ...

        virtual_run(scenario)
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, cast

import pytest

from taps_core.testing import aio, sweeping
from taps_core.testing.kernel_network import PROGRAMS, KernelNetwork
from taps_core.testing.leaks import LeakError
from taps_core.testing.memory import MemoryNetwork
from taps_core.testing.memory_datagram import MemoryDatagram
from taps_core.testing.memory_messages import MemoryMessages
from taps_core.testing.memory_secure import MemorySecure
from taps_core.testing.memory_stream import MemoryStream
from taps_core.testing.virtual_network import VirtualNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

    from taps_core.model.layers import Transport
    from taps_core.testing.leaks import Network

__all__ = [
    "Run",
    "Sweep",
    "VirtualRun",
    "kernel_network",
    "loop_name",
    "memory_network",
    "memory_transport",
    "missing",
    "run",
    "sweep",
    "virtual_network",
    "virtual_run",
    "virtual_seed",
]

T = TypeVar("T")


class Run(Protocol):
    """What the fixture ``run`` is: :func:`taps_core.testing.run` on one of the loops."""

    def __call__(
        self,
        main: Callable[[], Coroutine[Any, Any, T]],
        *networks: Network,
        timeout: float | None = 60.0,
    ) -> T:
        """Run ``main()`` strictly, leaving nothing behind."""


class Sweep(Protocol):
    """What the fixture ``sweep`` is: :func:`taps_core.testing.sweep` on one of the loops."""

    def __call__(
        self,
        scenario: sweeping.Scenario,
        *networks: MemoryNetwork,
        cancellations: Iterable[sweeping.Cancellation] = ...,
        timeout: float | None = 60.0,
    ) -> int:
        """Run ``scenario`` again and again, cancelled one step later each time."""


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_name(request: pytest.FixtureRequest) -> aio.LoopName:
    """The name of each event loop in turn; uvloop is skipped where it is not installed."""
    if request.param == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    return cast("aio.LoopName", request.param)


@pytest.fixture
def run(loop_name: aio.LoopName) -> Run:
    """:func:`taps_core.testing.run` on each event loop in turn."""
    return functools.partial(aio.run, loop=loop_name)


@pytest.fixture
def sweep(loop_name: aio.LoopName) -> Sweep:
    """:func:`taps_core.testing.sweep` on each event loop in turn."""
    return functools.partial(sweeping.sweep, loop=loop_name)


@pytest.fixture
def memory_network() -> Iterator[MemoryNetwork]:
    """A network in memory that must be empty again at the end of the test."""
    network = MemoryNetwork()
    yield network
    if network.open_flows or network.open_listeners:
        raise LeakError([repr(network), *map(repr, network.flows)])


@pytest.fixture(params=[MemoryStream, MemoryDatagram, MemoryMessages, MemorySecure])
def memory_transport(request: pytest.FixtureRequest, memory_network: MemoryNetwork) -> Transport:
    """Each kind of transport in turn, on ``memory_network``."""
    return cast("Transport", request.param(memory_network))


@pytest.fixture
def kernel_network() -> Iterator[KernelNetwork]:
    """A network of the Linux kernel's for this test alone; all its sockets are in it.

    Without root's rights, or without the programs ``nft`` and ``ip``, the test is skipped; it fails
    if the environment variable TAPS_REQUIRE names ``kernel-network``.
    """
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    try:
        with KernelNetwork() as network:
            for program in ("nft", "ip"):
                if shutil.which(program, path=PROGRAMS) is None:
                    missing("kernel-network", f"{program} is not installed")
            yield network
    except PermissionError as error:
        missing("kernel-network", f"no network of its own without root's rights ({error})")


def missing(name: str, sentence: str) -> NoReturn:
    """Skip the test, which lacks something; fail it where TAPS_REQUIRE demands that.

    Args:
        name: Its word in TAPS_REQUIRE.
        sentence: What is missing.
    """
    if name in os.environ.get("TAPS_REQUIRE", "").split(","):
        pytest.fail(f"{sentence}, and TAPS_REQUIRE demands it", pytrace=False)
    pytest.skip(sentence)


class VirtualRun(Protocol):
    """What the fixture ``virtual_run`` is: :func:`taps_core.testing.run` for scenarios."""

    def __call__(
        self,
        main: Callable[[], Coroutine[Any, Any, T]] | aio.Scenario[T],
        *networks: Network,
        timeout: float | None = ...,
    ) -> T:
        """Run the scenario strictly, leaving nothing behind."""


@pytest.fixture
def virtual_seed() -> int | str:
    """Of ``virtual_network``: 0, unless a test parametrizes it."""
    return 0


@pytest.fixture
def virtual_network(virtual_seed: int | str) -> VirtualNetwork:
    """A virtual network that can be arranged before the scenario and looked at afterwards."""
    return VirtualNetwork(virtual_seed)


@pytest.fixture
def virtual_run(virtual_network: VirtualNetwork) -> VirtualRun:
    """:func:`taps_core.testing.run` on ``virtual_network``."""
    return functools.partial(aio.run, network=virtual_network)
