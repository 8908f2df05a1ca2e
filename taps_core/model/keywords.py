"""Typed keywords. Written by ``python -m taps_core.model.generate``: do not edit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, TypeAlias, TypedDict

from taps_core.model.property import (
    CapacityProfile,
    Direction,
    Multipath,
    MultipathPolicy,
    Preference,
    Scheduler,
)
from taps_core.model.security import Certificate, HasPublicBytes

__all__ = [
    "ConnectionKeywords",
    "MessageKeywords",
    "SecurityKeywords",
    "TransportKeywords",
]

PreferenceValue: TypeAlias = (
    Preference
    | Literal[
        "require",
        "prefer",
        "no_preference",
        "avoid",
        "prohibit",
        "Require",
        "Prefer",
        "No Preference",
        "Avoid",
        "Prohibit",
    ]
)
CapacityProfileValue: TypeAlias = (
    CapacityProfile
    | Literal[
        "Default",
        "Scavenger",
        "Low Latency/Interactive",
        "Low Latency/Non-Interactive",
        "Constant-Rate Streaming",
        "Capacity-Seeking",
    ]
)
DirectionValue: TypeAlias = (
    Direction
    | Literal[
        "Bidirectional",
        "Unidirectional send",
        "Unidirectional receive",
    ]
)
MultipathValue: TypeAlias = (
    Multipath
    | Literal[
        "Disabled",
        "Active",
        "Passive",
    ]
)
MultipathPolicyValue: TypeAlias = (
    MultipathPolicy
    | Literal[
        "Handover",
        "Interactive",
        "Aggregate",
    ]
)
SchedulerValue: TypeAlias = (
    Scheduler
    | Literal[
        "First-Come, First-Served",
        "Round-Robin",
        "Round-Robin per Packet",
        "Priority-Based",
        "Fair Capacity",
        "Weighted Fair Queueing",
    ]
)
Preferences: TypeAlias = (
    Mapping[str, PreferenceValue]
    | Sequence[tuple[PreferenceValue, str]]
    | AbstractSet[tuple[PreferenceValue, str]]
)
Objects: TypeAlias = HasPublicBytes | Sequence[HasPublicBytes]
Chain: TypeAlias = str | os.PathLike[str] | bytes | Objects | Certificate


class MessageKeywords(TypedDict, total=False):
    """Message Properties of a Send: the names without ``msg``."""

    lifetime: float
    """How long the Message may wait to be sent."""
    priority: int
    """Rank on its Connection; smaller goes first."""
    ordered: bool
    """Delivered in the order of the Send calls."""
    safely_replayable: bool
    """May reach the peer more than once without harm."""
    final: bool
    """The last Message that will be sent."""
    checksum_len: float
    """How many leading bytes must arrive protected against corruption."""
    reliable: bool
    """Must be delivered reliably."""
    capacity_profile: CapacityProfileValue
    """Capacity profile for this Message alone."""
    no_fragmentation: bool
    """Not fragmented by the network layer."""
    no_segmentation: bool
    """Kept in a single packet."""


class ConnectionKeywords(TypedDict, total=False):
    """What can be set on a Connection: Connection Properties, and Message defaults."""

    recv_checksum_len: float
    """Least checksum coverage of a Message for it to be delivered."""
    conn_priority: int
    """Rank inside the group; smaller goes first."""
    conn_timeout: float
    """How long to try to deliver before the Connection has failed."""
    keep_alive_timeout: float
    """Longest idle time before a keep-alive packet is sent."""
    conn_scheduler: SchedulerValue
    """How sending capacity is divided among the group."""
    conn_capacity_profile: CapacityProfileValue
    """The network treatment and trade-offs that the traffic wants."""
    multipath_policy: MultipathPolicyValue
    """How data is spread over several paths."""
    min_send_rate: float
    """Sending rate below which there is no use in the Connection: a hint."""
    min_recv_rate: float
    """Receiving rate below which there is no use in the Connection: a hint."""
    max_send_rate: float
    """Upper bound on the rate of application data sent."""
    max_recv_rate: float
    """Upper bound on the rate of application data expected."""
    group_conn_limit: float
    """How many Connections the peer may add to the group."""
    isolate_session: bool
    """Use and leave no cached state outside the group."""
    msg_lifetime: float
    """How long the Message may wait to be sent."""
    msg_priority: int
    """Rank on its Connection; smaller goes first."""
    msg_ordered: bool
    """Delivered in the order of the Send calls."""
    safely_replayable: bool
    """May reach the peer more than once without harm."""
    final: bool
    """The last Message that will be sent."""
    msg_checksum_len: float
    """How many leading bytes must arrive protected against corruption."""
    msg_reliable: bool
    """Must be delivered reliably."""
    msg_capacity_profile: CapacityProfileValue
    """Capacity profile for this Message alone."""
    no_fragmentation: bool
    """Not fragmented by the network layer."""
    no_segmentation: bool
    """Kept in a single packet."""


class TransportKeywords(TypedDict, total=False):
    """What can be set before establishment: every property that is not read-only."""

    reliability: PreferenceValue
    """Every byte arrives once and in order."""
    preserve_msg_boundaries: PreferenceValue
    """The stack carries Message boundaries."""
    per_msg_reliability: PreferenceValue
    """Reliability can differ between Messages."""
    preserve_order: PreferenceValue
    """Data arrives in sending order."""
    zero_rtt_msg: PreferenceValue
    """A replay-safe Message can go with the handshake."""
    multistreaming: PreferenceValue
    """Connections of a group share one transport connection."""
    full_checksum_send: PreferenceValue
    """All that is sent is protected against corruption."""
    full_checksum_recv: PreferenceValue
    """All that arrives was protected against corruption."""
    congestion_control: PreferenceValue
    """The transport controls congestion."""
    keep_alive: PreferenceValue
    """Idle Connections can send keep-alive packets."""
    interface: Preferences
    """Interfaces, or types of them, to use or not to use."""
    pvd: Preferences
    """Provisioning Domains, or types of them, to use or not to use."""
    use_temporary_local_address: PreferenceValue
    """Source addresses are temporary ones (IPv6 privacy addresses)."""
    multipath: MultipathValue
    """Several paths may be used, by own request or the peer's."""
    advertises_altaddr: bool
    """The peer may be told other local addresses."""
    direction: DirectionValue
    """The direction or directions in which data will flow."""
    soft_error_notify: PreferenceValue
    """ICMP errors that end nothing are reported."""
    active_read_before_send: PreferenceValue
    """The initiator reads before it sends, or the listener sends first."""
    recv_checksum_len: float
    """Least checksum coverage of a Message for it to be delivered."""
    conn_priority: int
    """Rank inside the group; smaller goes first."""
    conn_timeout: float
    """How long to try to deliver before the Connection has failed."""
    keep_alive_timeout: float
    """Longest idle time before a keep-alive packet is sent."""
    conn_scheduler: SchedulerValue
    """How sending capacity is divided among the group."""
    conn_capacity_profile: CapacityProfileValue
    """The network treatment and trade-offs that the traffic wants."""
    multipath_policy: MultipathPolicyValue
    """How data is spread over several paths."""
    min_send_rate: float
    """Sending rate below which there is no use in the Connection: a hint."""
    min_recv_rate: float
    """Receiving rate below which there is no use in the Connection: a hint."""
    max_send_rate: float
    """Upper bound on the rate of application data sent."""
    max_recv_rate: float
    """Upper bound on the rate of application data expected."""
    group_conn_limit: float
    """How many Connections the peer may add to the group."""
    isolate_session: bool
    """Use and leave no cached state outside the group."""
    msg_lifetime: float
    """How long the Message may wait to be sent."""
    msg_priority: int
    """Rank on its Connection; smaller goes first."""
    msg_ordered: bool
    """Delivered in the order of the Send calls."""
    safely_replayable: bool
    """May reach the peer more than once without harm."""
    final: bool
    """The last Message that will be sent."""
    msg_checksum_len: float
    """How many leading bytes must arrive protected against corruption."""
    msg_reliable: bool
    """Must be delivered reliably."""
    msg_capacity_profile: CapacityProfileValue
    """Capacity profile for this Message alone."""
    no_fragmentation: bool
    """Not fragmented by the network layer."""
    no_segmentation: bool
    """Kept in a single packet."""


class SecurityKeywords(TypedDict, total=False):
    """Security parameters."""

    allowed_security_protocols: str | Iterable[str]
    """Protocols and versions that may be used."""
    server_certificate: Certificate | Iterable[Certificate]
    """Local identity when accepting."""
    client_certificate: Certificate | Iterable[Certificate]
    """Local identity when initiating; for nothing else."""
    pinned_server_certificate: Chain | Iterable[Chain]
    """Chains that the server must match."""
    alpn: str | Iterable[str]
    """Application protocols offered (RFC 7301)."""
    supported_group: str | Iterable[str]
    """Key-exchange groups allowed."""
    ciphersuite: str | Iterable[str]
    """Cipher suites allowed."""
    signature_algorithm: str | Iterable[str]
    """Signature algorithms allowed."""
    max_cached_sessions: int | None
    """Sessions kept for resumption."""
    cached_session_lifetime_seconds: int | None
    """How long a kept session stays usable."""
    pre_shared_key: tuple[bytes, str | bytes] | None
    """Key installed out of band, and its identity."""
    trusted_certificates: Chain | Iterable[Chain]
    """Private authorities in place of the system's store."""
    context: Any
    """A security layer's own settings, such as an ssl.SSLContext."""
