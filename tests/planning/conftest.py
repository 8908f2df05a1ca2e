"""Synthetic plugins: declarations with tables, and nothing that could be run."""

import types

import pytest

from taps_core.model.capabilities import (
    Capabilities,
    DataUnit,
    LayerCapabilities,
    Protection,
    Support,
)
from taps_core.model.layers import (
    AVAILABLE,
    Availability,
    FramerDefinition,
    SecurityLayer,
    Transport,
)
from taps_core.planning.stacks import Installed

O, N = Support.OPTIONAL, Support.NEVER  # noqa: E741  # read as columns


class SyntheticTransport(Transport):
    """A table with a name."""

    rendezvous = True

    def __init__(
        self,
        name,
        capabilities=None,
        *,
        deployable=True,
        on_request=False,
        serves=("ip",),
        properties=(),
    ):
        self.name = name
        self.capabilities = capabilities or Capabilities.byte_stream()
        self.deployable = deployable
        self.on_request = on_request
        self.serves = frozenset(serves)
        self.properties = properties
        self.answer = AVAILABLE
        self.asked = 0

    def availability(self):
        self.asked += 1
        return self.answer

    def unavailable(self, reason, remedy=""):
        self.answer = Availability(available=False, reason=reason, remedy=remedy)
        return self

    async def connect(self, request):
        raise AssertionError("selection opens nothing")


class SyntheticLayer(SecurityLayer):
    """A layer's table with a name."""

    def __init__(self, name, **table):
        table.setdefault("over", frozenset({DataUnit.BYTE_STREAM}))
        table.setdefault("protection", Protection(protocols=(f"{name.upper()}v1",)))
        self.name = name
        self.capabilities = LayerCapabilities(**table)

    async def connect(self, lower, request):
        raise AssertionError("selection opens nothing")

    async def accept(self, lower, request):
        raise AssertionError("selection opens nothing")


class SyntheticFramer(FramerDefinition):
    """A framer with nothing in it."""

    def __init__(self, name="line", *, boundaries=True, below_security=False, objects=False):
        self.name = name
        self.boundaries = boundaries
        self.below_security = below_security
        self.objects = objects

    def create(self):
        raise AssertionError("selection makes no framer")


def _usual():
    """Tables like those of the well-known protocols, each made anew."""
    tcp = SyntheticTransport("tcp", Capabilities.byte_stream(keepAlive=O, zeroRttMsg=O))
    udp = SyntheticTransport("udp", Capabilities.datagrams())
    sctp = SyntheticTransport(
        "sctp",
        Capabilities.messages(
            reliability=O, preserveOrder=O, perMsgReliability=O, multistreaming=O, keepAlive=O
        ),
        deployable=False,
    )
    quic = SyntheticTransport(
        "quic",
        Capabilities.byte_stream(multistreaming=Support.ALWAYS, zeroRttMsg=O, multipath=O).but(
            protection=Protection(protocols=("QUICv1",))
        ),
        deployable=False,
    )
    tls = SyntheticLayer(
        "tls",
        needs=frozenset({"reliability", "preserveOrder"}),
        protection=Protection(protocols=("TLSv1.3", "TLSv1.2")),
    )
    dtls = SyntheticLayer(
        "dtls",
        over=frozenset({DataUnit.DATAGRAM, DataUnit.MESSAGE}),
        protection=Protection(protocols=("DTLSv1.2",)),
    )
    return types.SimpleNamespace(tcp=tcp, udp=udp, sctp=sctp, quic=quic, tls=tls, dtls=dtls)


@pytest.fixture(scope="session")
def synthetic():
    """What makes declarations."""
    return types.SimpleNamespace(
        transport=SyntheticTransport,
        layer=SyntheticLayer,
        framer=SyntheticFramer,
        installed=Installed,
        usual=_usual,
    )


@pytest.fixture
def usual():
    """Declarations like those of the well-known protocols."""
    return _usual()


@pytest.fixture
def everything(usual):
    """All of them, installed."""
    return Installed([usual.udp, usual.tcp, usual.sctp, usual.quic], [usual.dtls, usual.tls])
