r"""Message framers for taps (RFC 9622, section 9.1.2).

Each is a frozen definition with its parameters; by name it is the one with the
usual parameters::

    Preconnection(..., framers="line")
    Preconnection(..., framers=LengthPrefix(2, max_length=1400))

===============  ============  =========================================
Name             Class         A Message on the wire
===============  ============  =========================================
length-prefix    LengthPrefix  its length (4 bytes, big-endian), then it
line             Line          it, then ``\n``
tlv              TLV           its type, its length, then it
netstring        Netstring     its length in digits, ``:``, it, ``,``
varint           Varint        its length as protobuf's varint, then it
json-lines       JSONLines     an object as JSON text, then ``\n``
===============  ============  =========================================

Every one has a largest Message: more is an error on both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.plugin import hookimpl
from taps_framers.json_lines import JSONLines
from taps_framers.length_prefix import LengthPrefix
from taps_framers.line import Line
from taps_framers.netstring import Netstring
from taps_framers.tlv import TLV
from taps_framers.varint import Varint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import FramerDefinition

__all__ = ["TLV", "JSONLines", "LengthPrefix", "Line", "Netstring", "Varint"]


@hookimpl
def taps_framers() -> Sequence[FramerDefinition]:
    """The framers that applications can name."""
    return [LengthPrefix(), Line(), TLV(), Netstring(), Varint(), JSONLines()]
