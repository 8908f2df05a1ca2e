"""Whose the namespaces of property names are (RFC 9622, section 4.1).

A property of one protocol has the protocol's acronym in front (``tcp.…``); what
a vendor or an implementation adds has a namespace that begins with ``_`` and
says whose it is (``_taps.…``).
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_foreign", "namespace_refusal", "reserved_words"]

#: Keywords of IANA's registry of protocol numbers, in lower case. Their namespaces
#: belong to the protocols, and as words they should not be in other names either.
_REGISTRY: Final = """
    3pc a/n aggfrag ah argus aris ax.25 bbn-rcc-mon bit-emu bna br-sat-mon cbt cftp chaos
    compaq-peer cphb cpnx crtp crudp dccp dcn-meas ddp ddx dgp dsr egp eigrp emcon encap esp
    etherip ethernet fc fire ggp gmtp gre hmp homa hopopt i-nlsp iatp icmp idpr idpr-cmtp idrp
    ifmp igmp igp il ipcomp ipcv ipip iplt ippc iptm ipv4 ipv6 ipv6-frag ipv6-icmp ipv6-nonxt
    ipv6-opts ipv6-route ipx-in-ip irtp isis iso-ip iso-tp4 kryptolan l2tp larp leaf-1 leaf-2
    manet merit-inp mfe-nsp micp min-ipv4 mobile mpls-in-ip mtp mux narp netblt nsfnet-igp nsh
    nvp-ii ospfigp pgm pim pipe pnni prm ptp pup pvp qnx rdp rohc rsvp rsvp-e2e-ignore rvd
    sat-expak sat-mon scc-sp scps sctp sdrp secure-vmtp shim6 skip sm smp snp sprite-rpc sps srp
    sscopmce st stp sun-nd swipe tcf tcp tlsp tp++ trunk-1 trunk-2 ttp udp udplite uti vines visa
    vmtp vrrp wb-expak wb-mon wesp wsn xnet xns-idp xtp
"""
_KEYWORDS: Final = frozenset(_REGISTRY.split())
_OWN: Final = re.compile(r"_[A-Za-z][\w-]*")
#: ``userTimeout`` → ``user``, ``Timeout``.
_WORD: Final = re.compile(r"[A-Z]?[^A-Z._]+|[A-Z]+(?![^A-Z._])")


def namespace_refusal(name: str, protocol: str) -> str | None:
    """Why nobody can declare a property of this name, or ``None`` if it can be.

    Args:
        name: Of the property.
        protocol: Name of the transport or security layer that declares it.
    """
    namespace, dot, _ = name.partition(".")
    if not dot:
        return f"needs a namespace, as in {protocol}.{name}"
    if namespace.startswith("_") and not _OWN.fullmatch(namespace):
        return "has a namespace that names nobody: _VENDOR., after who adds it"
    return None


def is_foreign(name: str, protocol: str) -> bool:
    """Whether the namespace is that of a protocol other than ``protocol``."""
    namespace = name.partition(".")[0].lower()
    own = (protocol, protocol.replace("-", ""), protocol.partition("-")[0])
    return not namespace.startswith("_") and namespace not in own


def reserved_words(name: str) -> list[str]:
    """Words of a vendor's property name that stand for protocols: better avoided.

    Args:
        name: Of the property, with its namespace.
    """
    if not name.startswith("_"):
        return []
    parts = [part for each in name[1:].split(".") for part in (each, *_WORD.findall(each))]
    return sorted({part.lower() for part in parts} & _KEYWORDS)
