"""The one table of generic Transport Properties (RFC 9622, sections 6.2, 8.1 and 9.1.3).

And that of what the core adds to them, in a namespace of its own.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.property import (
    CapacityProfile,
    ConnectionState,
    Direction,
    Ecn,
    Kind,
    Multipath,
    MultipathPolicy,
    Preference,
    Property,
    Racing,
    Scheduler,
    ValueType,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DSCP", "EXTENSIONS", "PROFILES", "PROPERTIES", "SECURITY_RESULTS"]

_REQUIRE, _PREFER, _NONE, _AVOID, _ = Preference
_PREFERENCE, _SET, _BOOLEAN, _INTEGER, _NUMERIC, _ENUM, _TEXT, _CERTIFICATES = ValueType


def _selection(
    name: str, kind: ValueType, default: Any, section: str, meaning: str, **more: Any
) -> Property:
    return Property(
        name, Kind.SELECTION, kind, default, rfc_section=section, meaning=meaning, **more
    )


def _connection(
    name: str, kind: ValueType, default: Any, section: str, meaning: str, **more: Any
) -> Property:
    more = {"group_shared": True, **more}
    return Property(
        name, Kind.CONNECTION, kind, default, rfc_section=section, meaning=meaning, **more
    )


def _state(name: str, kind: ValueType, section: str, meaning: str, **more: Any) -> Property:
    more = {"group_shared": False, "read_only": True, **more}
    return _connection(name, kind, None, section, meaning, **more)


def _message(
    name: str, kind: ValueType, default: Any, section: str, meaning: str, **more: Any
) -> Property:
    return Property(name, Kind.MESSAGE, kind, default, rfc_section=section, meaning=meaning, **more)


def _above_zero(special: str, unit: str) -> dict[str, Any]:
    return {"minimum": 0, "exclusive": True, "special": special, "unit": unit}


_TEMPORARY: Final = {"initiate": _PREFER, "listen": _AVOID, "rendezvous": _AVOID}
_MULTIPATH: Final = {
    "initiate": Multipath.DISABLED,
    "listen": Multipath.PASSIVE,
    "rendezvous": Multipath.DISABLED,
}
_SECONDS: Final = _above_zero("Disabled", "seconds")
_RATE: Final = _above_zero("Unlimited", "bit/s")
_COVERAGE: Final = {"minimum": 0, "special": "Full Coverage", "unit": "bytes"}
_SIZE: Final = {"minimum": 0, "unit": "bytes"}

# fmt: off
# Columns: name, values, default, section, meaning.
_ROWS: Final[tuple[Property, ...]] = (
    # Selection Properties: can be set before establishment, read-only afterwards.
    _selection("reliability", _PREFERENCE, _REQUIRE, "6.2.1",
               "Every byte arrives once and in order."),
    _selection("preserveMsgBoundaries", _PREFERENCE, _NONE, "6.2.2",
               "The stack carries Message boundaries."),
    _selection("perMsgReliability", _PREFERENCE, _NONE, "6.2.3",
               "Reliability can differ between Messages."),
    _selection("preserveOrder", _PREFERENCE, _REQUIRE, "6.2.4", "Data arrives in sending order."),
    _selection("zeroRttMsg", _PREFERENCE, _NONE, "6.2.5",
               "A replay-safe Message can go with the handshake."),
    _selection("multistreaming", _PREFERENCE, _PREFER, "6.2.6",
               "Connections of a group share one transport connection."),
    _selection("fullChecksumSend", _PREFERENCE, _REQUIRE, "6.2.7",
               "All that is sent is protected against corruption."),
    _selection("fullChecksumRecv", _PREFERENCE, _REQUIRE, "6.2.8",
               "All that arrives was protected against corruption."),
    _selection("congestionControl", _PREFERENCE, _REQUIRE, "6.2.9",
               "The transport controls congestion."),
    _selection("keepAlive", _PREFERENCE, _NONE, "6.2.10",
               "Idle Connections can send keep-alive packets."),
    _selection("interface", _SET, frozenset(), "6.2.11",
               "Interfaces, or types of them, to use or not to use."),
    _selection("pvd", _SET, frozenset(), "6.2.12",
               "Provisioning Domains, or types of them, to use or not to use."),
    _selection("useTemporaryLocalAddress", _PREFERENCE, None, "6.2.13",
               "Source addresses are temporary ones (IPv6 privacy addresses).", by_role=_TEMPORARY),
    _selection("multipath", _ENUM, None, "6.2.14",
               "Several paths may be used, by own request or the peer's.",
               values=Multipath, by_role=_MULTIPATH),
    _selection("advertisesAltaddr", _BOOLEAN, False, "6.2.15",
               "The peer may be told other local addresses."),
    _selection("direction", _ENUM, Direction.BIDIRECTIONAL, "6.2.16",
               "The direction or directions in which data will flow.", values=Direction),
    _selection("softErrorNotify", _PREFERENCE, _NONE, "6.2.17",
               "ICMP errors that end nothing are reported."),
    _selection("activeReadBeforeSend", _PREFERENCE, _NONE, "6.2.18",
               "The initiator reads before it sends, or the listener sends first."),
    # Connection Properties: of the Connection and, mostly, of its whole group.
    _connection("recvChecksumLen", _INTEGER, math.inf, "8.1.1",
                "Least checksum coverage of a Message for it to be delivered.", **_COVERAGE),
    _connection("connPriority", _INTEGER, 100, "8.1.2",
                "Rank inside the group; smaller goes first.", minimum=0, group_shared=False),
    _connection("connTimeout", _NUMERIC, math.inf, "8.1.3",
                "How long to try to deliver before the Connection has failed.", **_SECONDS),
    _connection("keepAliveTimeout", _NUMERIC, math.inf, "8.1.4",
                "Longest idle time before a keep-alive packet is sent.", **_SECONDS),
    _connection("connScheduler", _ENUM, Scheduler.WEIGHTED_FAIR_QUEUEING, "8.1.5",
                "How sending capacity is divided among the group.", values=Scheduler),
    _connection("connCapacityProfile", _ENUM, CapacityProfile.DEFAULT, "8.1.6",
                "The network treatment and trade-offs that the traffic wants.",
                values=CapacityProfile),
    _connection("multipathPolicy", _ENUM, MultipathPolicy.HANDOVER, "8.1.7",
                "How data is spread over several paths.", values=MultipathPolicy),
    _connection("minSendRate", _NUMERIC, math.inf, "8.1.8",
                "Sending rate below which there is no use in the Connection: a hint.", **_RATE),
    _connection("minRecvRate", _NUMERIC, math.inf, "8.1.8",
                "Receiving rate below which there is no use in the Connection: a hint.", **_RATE),
    _connection("maxSendRate", _NUMERIC, math.inf, "8.1.8",
                "Upper bound on the rate of application data sent.", **_RATE),
    _connection("maxRecvRate", _NUMERIC, math.inf, "8.1.8",
                "Upper bound on the rate of application data expected.", **_RATE),
    _connection("groupConnLimit", _NUMERIC, math.inf, "8.1.9",
                "How many Connections the peer may add to the group.",
                **_above_zero("Unlimited", "")),
    _connection("isolateSession", _BOOLEAN, False, "8.1.10",
                "Use and leave no cached state outside the group."),
    _state("connState", _ENUM, "8.1.11.1",
           "Where the Connection is in its life.", values=ConnectionState),
    _state("canSend", _BOOLEAN, "8.1.11.2", "Whether Send may be used."),
    _state("canReceive", _BOOLEAN, "8.1.11.3", "Whether Receive may be used."),
    _state("singularTransmissionMsgMaxLen", _INTEGER, "8.1.11.4",
           "Largest Message that leaves in one packet; None: not applicable.", **_SIZE),
    _state("sendMsgMaxLen", _INTEGER, "8.1.11.5",
           "Largest Message that may be sent; 0: none.", **_SIZE),
    _state("recvMsgMaxLen", _INTEGER, "8.1.11.6",
           "Largest Message that can be received; 0: none.", **_SIZE),
    # Message Properties: per Message, or as default of one Connection.
    _message("msgLifetime", _NUMERIC, math.inf, "9.1.3.1",
             "How long the Message may wait to be sent.", **_above_zero("infinite", "seconds")),
    _message("msgPriority", _INTEGER, 100, "9.1.3.2",
             "Rank on its Connection; smaller goes first.", minimum=0),
    _message("msgOrdered", _BOOLEAN, None, "9.1.3.3",
             "Delivered in the order of the Send calls.", derived_from="preserveOrder"),
    _message("safelyReplayable", _BOOLEAN, False, "9.1.3.4",
             "May reach the peer more than once without harm."),
    _message("final", _BOOLEAN, False, "9.1.3.5", "The last Message that will be sent."),
    _message("msgChecksumLen", _INTEGER, math.inf, "9.1.3.6",
             "How many leading bytes must arrive protected against corruption.", **_COVERAGE),
    _message("msgReliable", _BOOLEAN, None, "9.1.3.7",
             "Must be delivered reliably.", derived_from="reliability"),
    _message("msgCapacityProfile", _ENUM, None, "9.1.3.8",
             "Capacity profile for this Message alone.",
             values=CapacityProfile, derived_from="connCapacityProfile"),
    _message("noFragmentation", _BOOLEAN, False, "9.1.3.9", "Not fragmented by the network layer."),
    _message("noSegmentation", _BOOLEAN, False, "9.1.3.10", "Kept in a single packet."),
    # What comes with a received Message. The RFC gives these no identifiers.
    _message("ecn", _ENUM, None, "9.3.3.1",
             "ECN field of the packets that carried the received Message.",
             values=Ecn, read_only=True),
    _message("earlyData", _BOOLEAN, False, "9.3.3.2",
             "Came as early data, before establishment finished.", read_only=True),
    _message("receivedFinal", _BOOLEAN, False, "9.3.3.3",
             "The last Message that the peer sends.", read_only=True),
)
# fmt: on

#: Canonical name → every generic property of RFC 9622.
PROPERTIES: Final[Mapping[str, Property]] = MappingProxyType({row.name: row for row in _ROWS})

# fmt: off
_RESULTS: Final[tuple[Property, ...]] = (
    _state("_taps.securityProtocol", _TEXT, "6.3.1",
           "Protocol and version, as allowedSecurityProtocols names them."),
    _state("_taps.ciphersuite", _TEXT, "6.3.5", "The cipher suite that was agreed on."),
    _state("_taps.keyExchangeGroup", _TEXT, "6.3.5",
           "The group that keys were agreed in; None also where it is not known."),
    _state("_taps.alpn", _TEXT, "6.3.4",
           "The application protocol that was agreed on; None also if none was."),
    _state("_taps.peerCertificates", _CERTIFICATES, "6.3.2",
           "What the peer showed, its own first; empty if it showed none."),
    _state("_taps.peerVerified", _BOOLEAN, "6.3.8",
           "Whether the peer's identity was verified."),
    _state("_taps.sessionResumed", _BOOLEAN, "6.3.6", "Whether an earlier session was resumed."),
    _state("_taps.preSharedKeyUsed", _BOOLEAN, "6.3.7",
           "Whether the pre-shared key stood in for certificates."),
    _state("_taps.earlyDataAccepted", _BOOLEAN, "6.2.5",
           "Whether the peer took data that came with the handshake."),
)
# fmt: on

#: Canonical name → what a handshake came to, for whoever reads it after Ready; ``None`` without
#: security. Not of one protocol: whatever secures a Connection tells it (``Flow.read``).
SECURITY_RESULTS: Final[Mapping[str, Property]] = MappingProxyType(
    {row.name: row for row in _RESULTS}
)

#: Canonical name → what the core itself adds, whatever the stack. Known like the generic
#: ones, before there is any plugin.
EXTENSIONS: Final[Mapping[str, Property]] = MappingProxyType(
    {
        row.name: row
        for row in (
            _connection(
                "_taps.groupMaxSendRate",
                _NUMERIC,
                math.inf,
                "4.1",
                "Upper bound on the rate of application data that all Connections of the group "
                "send together; connScheduler divides it.",
                **_RATE,
            ),
            _selection(
                "_taps.racing",
                _ENUM,
                Racing.STAGGERED,
                "4.1",
                "When the next candidate is tried: after a delay, with the first, or when all "
                "before it have failed.",
                values=Racing,
            ),
            _state(
                "_taps.undelivered",
                _INTEGER,
                "10",
                "How much of what was sent the peer is not known to have; 0: nothing, None: not "
                "known.",
                minimum=0,
            ),
            *_RESULTS,
        )
    }
)

#: Capacity profile → DSCPs, the usual one first (section 8.1.6: DF, LE, AF4x,
#: AF2x, AF3x, AF1x; the AFx4 listed there do not exist in RFC 2597). The TOS
#: or Traffic Class byte is four times the DSCP. They apply where Connections
#: are not multiplexed; RFC 7657, section 6, governs the rest.
DSCP: Final[Mapping[CapacityProfile, tuple[int, ...]]] = MappingProxyType(
    {
        CapacityProfile.DEFAULT: (0,),
        CapacityProfile.SCAVENGER: (1,),
        CapacityProfile.LOW_LATENCY_INTERACTIVE: (34, 36, 38),
        CapacityProfile.LOW_LATENCY_NON_INTERACTIVE: (18, 20, 22),
        CapacityProfile.CONSTANT_RATE_STREAMING: (26, 28, 30),
        CapacityProfile.CAPACITY_SEEKING: (10, 12, 14),
    }
)

#: Name → contents, exactly those of RFC 9622, appendix B.2.
PROFILES: Final[Mapping[str, Mapping[str, Any]]] = {
    "reliable_inorder_stream": {
        "reliability": Preference.REQUIRE,
        "preserveOrder": Preference.REQUIRE,
        "congestionControl": Preference.REQUIRE,
        "preserveMsgBoundaries": Preference.NO_PREFERENCE,
    },
    "reliable_message": {
        "reliability": Preference.REQUIRE,
        "preserveOrder": Preference.REQUIRE,
        "congestionControl": Preference.REQUIRE,
        "preserveMsgBoundaries": Preference.REQUIRE,
    },
    "unreliable_datagram": {
        "reliability": Preference.AVOID,
        "preserveOrder": Preference.AVOID,
        "congestionControl": Preference.NO_PREFERENCE,
        "preserveMsgBoundaries": Preference.REQUIRE,
        "safelyReplayable": True,
    },
}
