"""Records that say where a service is: SRV (RFC 2782), SVCB and HTTPS (RFC 9460). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")

__all__ = [
    "BY_SRV",
    "PORTS",
    "Binding",
    "Chance",
    "SrvRecord",
    "is_alias",
    "protocols_for",
    "sorted_bindings",
    "sorted_srv",
    "srv_labels",
]

#: Port numbers of the IANA's registry, for machines that have no list of their own
#: (``/etc/services``; containers seldom do). What the system says goes before it.
PORTS: Final[Mapping[str, int]] = {
    "amqp": 5672,
    "amqps": 5671,
    "coap": 5683,
    "coaps": 5684,
    "domain": 53,
    "domain-s": 853,
    "echo": 7,
    "ftp": 21,
    "ftps": 990,
    "git": 9418,
    "http": 80,
    "http-alt": 8080,
    "https": 443,
    "imap": 143,
    "imaps": 993,
    "ipp": 631,
    "ipps": 631,
    "irc": 194,
    "ircs-u": 6697,
    "kerberos": 88,
    "ldap": 389,
    "ldaps": 636,
    "mqtt": 1883,
    "mysql": 3306,
    "nntp": 119,
    "nntps": 563,
    "ntp": 123,
    "pop3": 110,
    "pop3s": 995,
    "postgresql": 5432,
    "redis": 6379,
    "rsync": 873,
    "rtsp": 554,
    "sieve": 4190,
    "secure-mqtt": 8883,
    "sip": 5060,
    "sips": 5061,
    "smtp": 25,
    "snmp": 161,
    "ssh": 22,
    "stun": 3478,
    "stuns": 5349,
    "submission": 587,
    "submissions": 465,
    "syslog": 514,
    "syslog-tls": 6514,
    "telnet": 23,
    "tftp": 69,
    "turn": 3478,
    "turns": 5349,
    "xmpp-client": 5222,
    "xmpp-server": 5269,
    "xmpps-client": 5223,
    "xmpps-server": 5270,
}

_TCP: Final = ("_tcp",)
_TCP_AND_UDP: Final = ("_tcp", "_udp")

#: Services whose specification says that SRV records tell where they are (RFC 2782
#: allows it for no other), and the labels of the transports there.
BY_SRV: Final[Mapping[str, tuple[str, ...]]] = {
    "imap": _TCP,  # RFC 6186
    "imaps": _TCP,
    "kerberos": _TCP_AND_UDP,  # RFC 4120
    "ldap": _TCP,  # RFC 2782 has it for its example
    "pop3": _TCP,  # RFC 6186
    "pop3s": _TCP,
    "sieve": _TCP,  # RFC 5804
    "sip": ("_tcp", "_udp", "_sctp"),  # RFC 3263
    "sips": ("_tcp", "_sctp"),
    "stun": _TCP_AND_UDP,  # RFC 8489
    "stuns": _TCP_AND_UDP,
    "submission": _TCP,  # RFC 6186
    "submissions": _TCP,  # RFC 8314
    "turn": _TCP_AND_UDP,  # RFC 8656
    "turns": _TCP_AND_UDP,
    "xmpp-client": _TCP,  # RFC 6120
    "xmpp-server": _TCP,
    "xmpps-client": _TCP,  # XEP-0368
    "xmpps-server": _TCP,
}


class Chance(Protocol):
    """What is needed of a source of random numbers; :class:`random.Random` is one."""

    def randint(self, a: int, b: int, /) -> int:
        """A number from ``a`` to ``b``, both included."""


class SrvRecord(NamedTuple):
    """Where a service is (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str
    """An absolute name; ``"."``: the service is not there at all."""


class Binding(NamedTuple):
    """How to reach a service (an SVCB or HTTPS record)."""

    priority: int
    """0: an alias (AliasMode)."""
    target: str
    """An absolute name; ``"."``: the owner's."""
    alpn: tuple[str, ...] = ()
    default_alpn: bool = True
    """Whether the protocols that the scheme stands for are spoken, too."""
    port: int | None = None
    hints: tuple[str, ...] = ()
    """Addresses to try as long as the target's are not known."""
    not_understood: tuple[str, ...] = ()
    """Mandatory parameters that nobody here understands: it is not to be used."""


def srv_labels(service: str, protocol: str | None) -> tuple[tuple[str, str], ...]:
    """The labels to ask SRV records for, and the protocol that each is for.

    Args:
        service: ``"_xmpp-client._tcp"``, or a plain service name.
        protocol: The only one to ask for; ``None``: all that the service has.
    """
    if service.startswith("_"):
        name, dot, label = service.lower().partition(".")
        if not (dot and label.startswith("_") and "." not in label):
            return ()
        labels: tuple[str, ...] = (label,)
    else:
        name, labels = f"_{service.lower()}", BY_SRV.get(service.lower(), ())
    return tuple(
        (f"{name}.{label}", label[1:]) for label in labels if protocol in (None, label[1:])
    )


def sorted_srv(records: Iterable[SrvRecord], chance: Chance) -> list[SrvRecord]:
    """In the order in which to try them: by priority; by chance, as weights say, within one."""
    by_priority: dict[int, list[SrvRecord]] = {}
    for record in records:
        by_priority.setdefault(record.priority, []).append(record)
    result: list[SrvRecord] = []
    for _, waiting in sorted(by_priority.items()):
        # Those without weight first, so that they have a small chance (RFC 2782).
        waiting.sort(key=lambda record: record.weight > 0)
        total = sum(record.weight for record in waiting)
        while waiting:
            drawn = chance.randint(0, total)
            for record in waiting:
                drawn -= record.weight
                if drawn <= 0:
                    break
            waiting.remove(record)
            total -= record.weight
            result.append(record)
    return result


def is_alias(bindings: Sequence[Binding]) -> bool:
    """Whether they are in AliasMode: then nothing else of them counts (RFC 9460, section 2.4.1)."""
    return any(binding.priority == 0 for binding in bindings)


def sorted_bindings(bindings: Iterable[Binding], chance: Chance) -> list[Binding]:
    """By priority; those of one priority by chance (RFC 9460, section 2.4.1)."""
    shuffled = _shuffled(list(bindings), chance)
    shuffled.sort(key=lambda binding: binding.priority)
    return shuffled


def _shuffled(values: list[T], chance: Chance) -> list[T]:
    for last in range(len(values) - 1, 0, -1):
        other = chance.randint(0, last)
        values[last], values[other] = values[other], values[last]
    return values


def protocols_for(
    binding: Binding,
    *,
    offered: Sequence[str],
    default: Sequence[str],
    transports: Mapping[str, str],
) -> tuple[str | None, ...]:
    """The transports to use a binding with; ``None`` among them: any that needs no evidence.

    Args:
        binding: In ServiceMode.
        offered: Application protocols (ALPN) that the application speaks; none: the
            scheme's own.
        default: Those that the scheme stands for (RFC 9460, section 7.1.2).
        transports: Application protocols that are spoken over one transport only, and
            that transport: ``{"h3": "quic"}``.

    Returns:
        Empty: it is not for us (section 8, and section 7.1.2: no protocol in common).
    """
    if binding.not_understood or not (binding.alpn or binding.default_alpn):
        return ()
    spoken = dict.fromkeys((*binding.alpn, *(default if binding.default_alpn else ())))
    if not spoken:
        # The scheme has no protocols to choose from: nothing to disagree about.
        return (None,)
    common = [name for name in spoken if name in (offered or default)]
    return tuple(dict.fromkeys(transports.get(name) for name in common))
