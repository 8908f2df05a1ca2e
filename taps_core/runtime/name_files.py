"""The files that say how this machine resolves names: hosts, resolv.conf, nsswitch.conf."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from taps_core.model.endpoints import canonical_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "Configuration",
    "WatchedFile",
    "is_the_systems",
    "parse_hosts",
    "parse_nsswitch",
    "parse_resolv_conf",
    "system_hosts_file",
]

T = TypeVar("T")

#: A file up to this size is read at once; a bigger one (block lists) in a thread.
_SMALL_FILE: Final = 64 * 1024

#: What a file was when it was read.
_Signature = tuple[int, int, int] | None

#: glibc looks at no more (MAXNS); more would make a dead network slower to fail.
_MAX_NAMESERVERS: Final = 3
_MAX_SEARCH: Final = 32
_MAX_NDOTS: Final = 15
_MAX_TIMEOUT: Final = 30


class WatchedFile(Generic[T]):
    """What a file says, read again when it has changed.

    Args:
        path: There may be no such file.
        parse: Makes something of its text; of an empty one where there is no file.
    """

    __slots__ = ("_parse", "_signature", "_value", "path")

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self.path = path
        self._parse = parse
        self._signature: _Signature = None
        self._value: T | None = None

    @property
    def exists(self) -> bool:
        """Whether there was one when it was read."""
        return self._signature is not None

    @property
    def last(self) -> T:
        """What it said when it was read last."""
        return self.read() if self._value is None else self._value

    def value(self) -> T | None:
        """What it says now; ``None``: it must be read, and is too big to do that at once."""
        signature = _signature(self.path)
        if self._value is None or signature != self._signature:
            if signature is not None and signature[1] > _SMALL_FILE:
                return None
            return self.read()
        return self._value

    def read(self) -> T:
        """What it says now. For a thread, where it may be big."""
        signature = _signature(self.path)
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                value = self._parse(file.read())
        except OSError:  # a machine may have none
            value = self._parse("")
        self._value, self._signature = value, signature
        return value


def _signature(path: str) -> _Signature:
    """Changes when the file does; ``None`` where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)


# -- hosts


def parse_hosts(text: str, limit: int) -> dict[str, tuple[str, ...]]:
    """Name → addresses, in the file's order; lines that are not to be understood are skipped.

    Args:
        text: Of the file.
        limit: Addresses of one name at most.
    """
    hosts: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if canonical_address(address.partition("%")[0]) is None:
            continue
        for name in names:
            found = hosts.setdefault(name.rstrip(".").lower(), {})
            if len(found) < limit:
                found[address] = None
    return {name: tuple(addresses) for name, addresses in hosts.items()}


def system_hosts_file() -> str:
    """Where this system has its hosts file."""
    if os.name == "nt":
        root = os.environ.get("SYSTEMROOT", r"C:\Windows")
        return os.path.join(root, "System32", "drivers", "etc", "hosts")
    return "/etc/hosts"


# -- resolv.conf


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """Whom to ask, and how. A value: what was learned from one is told apart by it."""

    nameservers: tuple[str, ...] = ()
    """Addresses, with a zone where they have one."""
    port: int = 53
    search: tuple[str, ...] = ()
    """Domains that complete short names, without the last dot."""
    ndots: int = 1
    """A name with so many dots is tried as it is before it is completed."""
    timeout: float = 2.0
    """Seconds to wait for one server before the next is asked."""
    rotate: bool = False
    """Whether the servers take turns."""

    def names(self, name: str) -> tuple[str, ...]:
        """What to ask for, in this order: absolute names for one that may be short."""
        plain = name.rstrip(".").lower()
        absolute = f"{plain}."
        if name.endswith(".") or not plain:
            return (absolute,)
        completed = [f"{plain}.{domain}." for domain in self.search]
        if plain.count(".") >= self.ndots:
            return (absolute, *completed)
        return (*completed, absolute)


def parse_resolv_conf(text: str) -> Configuration:
    """What it says (resolv.conf(5)); lines and options that are not to be understood are skipped.

    The last of several ``search`` and ``domain`` lines counts. ``attempts`` does not: the time
    limit of a name says how often servers are asked.
    """
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: dict[str, str] = {}
    for line in text.splitlines():
        if line.lstrip()[:1] in ("#", ";"):
            continue
        keyword, *words = line.split() or [""]
        if keyword == "nameserver" and words:
            address, percent, zone = words[0].partition("%")
            if canonical_address(address) is not None and bool(zone) == bool(percent):
                nameservers.append(words[0])
        elif keyword == "search":
            search = _domains(words)
        elif keyword == "domain":
            search = _domains(words[:1])
        elif keyword == "options":
            options |= {name: value for name, _, value in (word.partition(":") for word in words)}
    return Configuration(
        nameservers=tuple(dict.fromkeys(nameservers))[:_MAX_NAMESERVERS],
        search=search,
        ndots=_number(options.get("ndots"), default=1, least=0, most=_MAX_NDOTS),
        timeout=float(_number(options.get("timeout"), default=2, least=1, most=_MAX_TIMEOUT)),
        rotate="rotate" in options,
    )


def _domains(words: Sequence[str]) -> tuple[str, ...]:
    """Without the root, which completes nothing."""
    plain = [word.strip(".").lower() for word in words]
    return tuple(dict.fromkeys(word for word in plain if word))[:_MAX_SEARCH]


def _number(text: str | None, *, default: int, least: int, most: int) -> int:
    if text is None or not (text.isascii() and text.isdigit()):
        return default
    return min(max(int(text[:9]), least), most)


# -- nsswitch.conf

#: What the C library takes where the file says nothing of hosts.
_USUAL: Final = ("files", "dns")


def parse_nsswitch(text: str) -> tuple[str, ...]:
    """The services that look up hosts, in order; what is to be done on which outcome is left out.

    Where there is no line for hosts: ``("files", "dns")``, as the C library has it.
    """
    for line in text.splitlines():
        database, colon, rest = line.partition("#")[0].partition(":")
        if colon and database.strip() == "hosts":
            services = []
            for part in rest.split("["):
                # Behind "[" an action, up to "]", then further services.
                services += part.rpartition("]")[2].split()
            return tuple(services) or _USUAL
    return _USUAL


def is_the_systems(services: Sequence[str], name: str, *, on_path: bool = False) -> bool:
    """Whether only the system's own resolver finds what this machine means by a name.

    Services that are for names of one kind are left alone with those: with
    ``files mdns4_minimal [NOTFOUND=return] dns``, only names below ``local`` are theirs.

    Args:
        services: As :func:`parse_nsswitch` gives them.
        name: As the application gave it.
        on_path: Whether a path was chosen. The system's resolver cannot be told one, so only
            names of one kind are left to it then.
    """
    plain = name.rstrip(".").lower()
    left = []
    for service in services:
        if service in _KINDS:
            if _KINDS[service](plain):
                return True
        else:
            left.append(service)
    # The hosts file after DNS, or one of them alone, is the system's to do, too.
    return not on_path and tuple(left) != _USUAL


def _is_local(name: str) -> bool:
    return name == "local" or name.endswith(".local")


def _is_own(name: str) -> bool:
    """What nss-myhostname answers besides localhost, which is not asked for at all."""
    import socket

    return name in ("_gateway", "_outbound", socket.gethostname().lower())


#: Services that are for names of one kind, and which.
_KINDS: Final[Mapping[str, Callable[[str], bool]]] = {
    "mdns_minimal": _is_local,
    "mdns4_minimal": _is_local,
    "mdns6_minimal": _is_local,
    "myhostname": _is_own,
    # Names of containers: without a dot, and nobody else's as a rule.
    "mymachines": lambda name: "." not in name,
}
