"""Our framers keep what every framer promises."""

from __future__ import annotations

from taps_core.testing.conformance import FramerConformance
from taps_framers import TLV, JSONLines, LengthPrefix, Line, Netstring, Varint


class TestLengthPrefix(FramerConformance):
    framer = LengthPrefix(max_length=50_000)


class TestLengthPrefixOfTwoBytes(FramerConformance):
    framer = LengthPrefix(2, byteorder="little")


class TestLine(FramerConformance):
    framer = Line()


class TestLineOfItsOwnDelimiter(FramerConformance):
    framer = Line(b"\r\n", max_length=50_000)


class TestTLV(FramerConformance):
    framer = TLV(max_length=50_000)


class TestNetstring(FramerConformance):
    framer = Netstring(max_length=50_000)


class TestVarint(FramerConformance):
    framer = Varint(max_length=50_000)


class TestJSONLines(FramerConformance):
    framer = JSONLines()
