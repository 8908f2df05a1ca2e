"""Properties of taps and the socket options that carry them out.

Every function takes the socket and the whole mapping of properties by
canonical name, since some options depend on several properties. A mapping
that lacks a property means its default.

Which rule decides the two timeouts:

* The *user timeout* (TCP_USER_TIMEOUT: give up after so long without an
  acknowledgement) is ``connTimeout`` where that is set, else
  ``tcp.userTimeoutValue`` where ``tcp.userTimeoutEnabled``, else the system's.
  RFC 5482, section 3.1 makes the advertised value the local timeout too; no
  kernel known here puts the option on the wire or obeys a received one, so
  ``tcp.userTimeoutChangeable`` changes nothing.
* *Keep-alives* are sent with ``keepAliveTimeout`` as the idle time where it is
  set, unless it is above ``connTimeout`` (RFC 9622, section 8.1.4) or
  ``keepAlive`` is Avoid or Prohibit. Where it was never set, ``keepAlive``
  Require or Prefer means the system's default period (section 6.2.10);
  setting it to Disabled on the Connection stops them.

No constant of one platform is needed to import this: what the socket module
lacks has no effect.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from taps_core.plugin import (
    DSCP,
    CapacityProfile,
    Kind,
    Preference,
    Property,
    ValueType,
    set_hop_limit,
)

__all__ = [
    "DISABLED_EXPLICITLY",
    "EXCESSIVE_RETRANSMISSIONS",
    "MULTIPATH_IN_USE",
    "PROPERTIES",
    "SETTERS",
    "configure",
    "missing",
    "read",
    "set_whole_packets",
    "uses_nagle",
]

Properties: TypeAlias = Mapping[str, Any]
#: Sets the options of a property; True if they have effect.
_Setter: TypeAlias = Callable[[socket.socket, Properties], bool]

#: In place of a ``keepAliveTimeout`` that was set to Disabled on the Connection:
#: unlike the default, this also stops keep-alives that ``keepAlive`` asked for.
DISABLED_EXPLICITLY: Final = None

#: RFC 9293, section 3.8.3, in seconds.
_TCP_DEFAULT_USER_TIMEOUT: Final = 300

EXCESSIVE_RETRANSMISSIONS: Final = Property(
    "_taps.excessiveRetransmissions",
    Kind.CONNECTION,
    ValueType.INTEGER,
    # R1 of RFC 9293, section 3.8.3: where delivery has become doubtful.
    3,
    meaning="With softErrorNotify: a SoftError when so many retransmissions in a row do not help.",
    minimum=1,
    special="Disabled",
    group_shared=True,
)

MULTIPATH_IN_USE: Final = "_taps.multipathInUse"

PROPERTIES: Final = (
    Property(
        "tcp.userTimeoutValue",
        Kind.CONNECTION,
        ValueType.INTEGER,
        _TCP_DEFAULT_USER_TIMEOUT,
        meaning="User timeout to use once tcp.userTimeoutEnabled (RFC 5482).",
        rfc_section="8.2.1",
        minimum=1,
        unit="seconds",
        group_shared=True,
    ),
    Property(
        "tcp.userTimeoutEnabled",
        Kind.CONNECTION,
        ValueType.BOOLEAN,
        False,
        meaning="Use tcp.userTimeoutValue where connTimeout is not set.",
        rfc_section="8.2.2",
        group_shared=True,
    ),
    Property(
        "tcp.userTimeoutChangeable",
        Kind.CONNECTION,
        ValueType.BOOLEAN,
        True,
        meaning="Whether the peer may change connTimeout; false once that is set.",
        rfc_section="8.2.3",
        group_shared=True,
    ),
    Property(
        "_taps.retransmissions",
        Kind.CONNECTION,
        ValueType.INTEGER,
        meaning="Segments sent again so far.",
        minimum=0,
        read_only=True,
    ),
    EXCESSIVE_RETRANSMISSIONS,
    Property(
        MULTIPATH_IN_USE,
        Kind.CONNECTION,
        ValueType.BOOLEAN,
        meaning="Whether both ends speak Multipath TCP, so that there may be several paths.",
        read_only=True,
    ),
)

_LINUX: Final = sys.platform == "linux"
#: SOL_SOCKET options that the socket module does not name.
_SO_MAX_PACING_RATE: Final = 47
_RATE: Final = struct.Struct("=Q")
_UNPACED: Final = 2**64 - 1
#: What the kernel takes at most: milliseconds in an int, and MAX_TCP_KEEPIDLE.
_MAX_USER_TIMEOUT: Final = 2**31 - 1
_MAX_KEEP_IDLE: Final = 32767

#: IP_MTU_DISCOVER and IPV6_MTU_DISCOVER with the value «do» (Don't Fragment on every
#: packet, whatever the route or the administrator says), by family of the socket. An
#: IPv6 socket may have an IPv4 peer.
_WHOLE: Final = ((socket.IPPROTO_IP, 10, 2),)
_WHOLE6: Final = ((socket.IPPROTO_IPV6, 23, 2), *_WHOLE)

_NAGLE: Final = frozenset({CapacityProfile.CAPACITY_SEEKING, CapacityProfile.SCAVENGER})
_PROFILE_OF: Final = MappingProxyType(
    {dscp: profile for profile, dscps in DSCP.items() for dscp in dscps}
)


def _user_timeout_option() -> int | None:
    return getattr(socket, "TCP_USER_TIMEOUT", None)


def _keep_idle_option() -> int | None:
    # macOS has the same option under the name TCP_KEEPALIVE.
    return getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)


def missing() -> frozenset[str]:
    """The Connection Properties that this platform has no option for; and softErrorNotify."""
    names: set[str] = set()
    if _user_timeout_option() is None:
        names |= {"connTimeout", "tcp.userTimeoutValue", "tcp.userTimeoutEnabled"}
    if _keep_idle_option() is None:
        names.add("keepAliveTimeout")
    if not hasattr(socket, "TCP_MAXSEG"):
        names |= {"noSegmentation", "singularTransmissionMsgMaxLen"}
    if not _LINUX:
        # Other systems show no soft error at a socket, and Python no TCP_INFO of theirs.
        names |= {"softErrorNotify", EXCESSIVE_RETRANSMISSIONS.name, "_taps.retransmissions"}
        names |= {"maxSendRate", "noFragmentation"}
    return frozenset(names)


# -- what the properties ask for


def _user_timeout(properties: Properties) -> float:
    """Seconds, ``math.inf`` for what the system does by itself."""
    timeout: float = properties.get("connTimeout", math.inf)
    if timeout == math.inf and properties.get("tcp.userTimeoutEnabled", False):
        return properties.get("tcp.userTimeoutValue") or _TCP_DEFAULT_USER_TIMEOUT
    return timeout


def _keep_alive(properties: Properties) -> float | None:
    """Idle seconds, ``math.inf`` for the system's period, ``None`` for no keep-alives."""
    wanted = properties.get("keepAlive", Preference.NO_PREFERENCE)
    timeout: float | None = properties.get("keepAliveTimeout", math.inf)
    if timeout is DISABLED_EXPLICITLY or wanted.unwanted:
        return None
    if timeout == math.inf:
        return math.inf if wanted.wanted else None
    return None if timeout > properties.get("connTimeout", math.inf) else timeout


def uses_nagle(properties: Properties) -> bool:
    """Whether small writes wait for an acknowledgement: for throughput, never for latency."""
    return properties.get("connCapacityProfile") in _NAGLE


# -- setting


def _set_user_timeout(sock: socket.socket, properties: Properties) -> bool:
    option = _user_timeout_option()
    if option is None:
        return False
    timeout = _user_timeout(properties)
    # 0 is the system's own; a value below a millisecond must not become that.
    value = 0 if timeout == math.inf else min(math.ceil(timeout * 1000), _MAX_USER_TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return True


def _set_conn_timeout(sock: socket.socket, properties: Properties) -> bool:
    effect = _set_user_timeout(sock, properties)
    if properties.get("keepAliveTimeout", math.inf) != math.inf:
        _set_keep_alive(sock, properties)  # it depends on which of the two is longer
    return effect


def _set_keep_alive(sock: socket.socket, properties: Properties) -> bool:
    idle = _keep_alive(properties)
    option = _keep_idle_option()
    if idle is not None and idle != math.inf:
        if option is None:
            return False
        # The longest idle time, so a fraction is cut off.
        value = min(max(int(idle), 1), _MAX_KEEP_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, idle is not None)
    return True


def _set_capacity_profile(sock: socket.socket, properties: Properties) -> bool:
    profile = properties.get("connCapacityProfile", CapacityProfile.DEFAULT)
    traffic_class = DSCP[profile][0] << 2
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
        # The connection may be an IPv4 one (dual-stack listener); where the
        # system sees no sense in it for this socket, it has none.
        try:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)
        except OSError:
            return True
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)
    return True


def _set_profile(sock: socket.socket, properties: Properties) -> bool:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not uses_nagle(properties))
    return _set_capacity_profile(sock, properties)


def _set_max_send_rate(sock: socket.socket, properties: Properties) -> bool:
    if not _LINUX:
        return False
    rate: float = properties.get("maxSendRate", math.inf)
    value = _UNPACED if rate == math.inf else min(max(int(rate / 8), 1), _UNPACED - 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, _RATE.pack(value))
    return True


def set_whole_packets(sock: socket.socket) -> bool:
    """Have no packet of this connection fragmented; False where the system does not let us.

    It is what systems do by default, unless told otherwise, since they discover path MTUs.
    """
    if not _LINUX:
        return False
    done = False
    for option in _WHOLE6 if sock.family == socket.AF_INET6 else _WHOLE:
        with contextlib.suppress(OSError):  # no such packets on this socket
            sock.setsockopt(*option)
            done = True
    return done


def _set_whole_packets(sock: socket.socket, properties: Properties) -> bool:
    return set_whole_packets(sock)


def _set_nothing(sock: socket.socket, properties: Properties) -> bool:
    """For a property that is kept and shown, but that no system acts on."""
    return False


#: What carries out a property on an established connection; True if it now has effect.
SETTERS: Final[Mapping[str, _Setter]] = MappingProxyType(
    {
        "connTimeout": _set_conn_timeout,
        "keepAliveTimeout": _set_keep_alive,
        "connCapacityProfile": _set_profile,
        "maxSendRate": _set_max_send_rate,
        "tcp.userTimeoutValue": _set_user_timeout,
        "tcp.userTimeoutEnabled": _set_user_timeout,
        "tcp.userTimeoutChangeable": _set_nothing,
    }
)


def configure(
    sock: socket.socket, properties: Properties, *, hop_limit: int | None = None
) -> list[str]:
    """Set what differs from the system's defaults, before ``connect`` or ``listen``.

    On a listening socket it is inherited by the connections that it accepts.
    An option that this system refuses is left: properties beyond the selection
    ones never decide whether there is a Connection, and reading them back tells.
    Nagle's algorithm is not set here: event loops switch it off when they take
    the socket.

    Args:
        sock: A TCP socket.
        properties: By canonical name.
        hop_limit: TTL or Hop Limit of what is sent; ``None``: the system's.

    Returns:
        The properties whose options were refused, or that this system has none for.

    Raises:
        OSError: The hop limit cannot be set.
    """
    global _latest
    if hop_limit is not None:
        set_hop_limit(sock, hop_limit)
    known, options = _latest
    if properties is not known:
        options = tuple(_asked(properties))
        _latest = properties, options
    if not options:
        return []
    return [name for name, setter in options if not _works(setter, sock, properties)]


def _asked(properties: Properties) -> Iterator[tuple[str, _Setter]]:
    """The properties that ask for an option, and what sets it."""
    get = properties.get
    if _user_timeout(properties) != math.inf:
        name = "connTimeout" if "connTimeout" in properties else "tcp.userTimeoutEnabled"
        yield name, _set_user_timeout
    if _keep_alive(properties) is not None:
        yield "keepAlive", _set_keep_alive
    if get("connCapacityProfile", CapacityProfile.DEFAULT) != CapacityProfile.DEFAULT:
        yield "connCapacityProfile", _set_capacity_profile
    if get("maxSendRate", math.inf) != math.inf:
        yield "maxSendRate", _set_max_send_rate
    for name in ("noFragmentation", "noSegmentation"):
        if get(name):
            yield name, _set_whole_packets
            break


#: What was asked for last, and what that takes. Connections that are made alike ask with one
#: and the same mapping, which nobody changes.
_latest: tuple[Properties, tuple[tuple[str, _Setter], ...]] = ({}, ())


def _works(setter: _Setter, sock: socket.socket, properties: Properties) -> bool:
    try:
        return setter(sock, properties)
    except OSError:
        return False


# -- reading back


def _read_user_timeout(sock: socket.socket) -> float | None:
    option = _user_timeout_option()
    if option is None:
        return None
    value = sock.getsockopt(socket.IPPROTO_TCP, option)
    return value / 1000 if value else math.inf


def _read_keep_alive(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))


def _read_keep_alive_timeout(sock: socket.socket) -> float | None:
    option = _keep_idle_option()
    if option is None:
        return None
    if not _read_keep_alive(sock):
        return math.inf
    return float(sock.getsockopt(socket.IPPROTO_TCP, option))


def _read_profile(sock: socket.socket) -> CapacityProfile | None:
    if sock.family == socket.AF_INET6:
        traffic_class = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    else:
        traffic_class = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)
    return _PROFILE_OF.get(traffic_class >> 2)


def _read_max_send_rate(sock: socket.socket) -> float | None:
    if not _LINUX:
        return None
    data = sock.getsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, _RATE.size)
    value = int.from_bytes(data, sys.byteorder)
    # Kernels before 4.20 answer in 32 bits; all ones is «not paced» in both.
    return math.inf if value == 256 ** len(data) - 1 else float(value * 8)


def _read_segment_size(sock: socket.socket) -> int | None:
    option = getattr(socket, "TCP_MAXSEG", None)
    return None if option is None else sock.getsockopt(socket.IPPROTO_TCP, option)


_READERS: Final[Mapping[str, Callable[[socket.socket], Any]]] = MappingProxyType(
    {
        "connTimeout": _read_user_timeout,
        "keepAlive": _read_keep_alive,
        "keepAliveTimeout": _read_keep_alive_timeout,
        "connCapacityProfile": _read_profile,
        "maxSendRate": _read_max_send_rate,
        "singularTransmissionMsgMaxLen": _read_segment_size,
    }
)


def read(sock: socket.socket, properties: Properties, name: str) -> Any:
    """What is in force, asked of the kernel where it knows; ``None`` if nobody knows."""
    if name == "tcp.userTimeoutChangeable":
        # RFC 9622, section 8.1.3: false once connTimeout is set.
        timeout = properties.get("connTimeout", math.inf)
        return timeout == math.inf and properties.get(name, True)
    if name == "tcp.userTimeoutEnabled":
        return properties.get(name, False)
    if name == "tcp.userTimeoutValue":
        return properties.get(name) or _TCP_DEFAULT_USER_TIMEOUT
    reader = _READERS.get(name)
    if reader is None:
        return None
    try:
        return reader(sock)
    except OSError:  # closed in the meantime, or an option that this system lacks
        return None
