"""The typed keywords agree with the tables."""

import subprocess
import sys
import typing

import pytest

from taps_core.model import generate, keywords
from taps_core.model.properties import (
    PROPERTIES,
    Kind,
    TransportProperties,
    connection_property,
    message_property,
)
from taps_core.model.security import SECURITY_PARAMETERS, SecurityParameters

SETTABLE = [row for row in PROPERTIES.values() if not row.read_only]


def test_the_file_is_what_the_tables_demand():
    fresh = generate.render()
    stale = generate.TARGET.read_text(encoding="utf-8")
    assert stale == fresh, "run: python -m taps_core.model.generate"


def test_send_takes_every_message_property_that_can_be_set():
    hints = typing.get_type_hints(keywords.MessageKeywords)
    assert set(hints) == {row.keyword for row in SETTABLE if row.kind is Kind.MESSAGE}
    assert {message_property(name, sample(hint))[0] for name, hint in hints.items()} == {
        row.name for row in SETTABLE if row.kind is Kind.MESSAGE
    }


def test_set_property_takes_everything_but_selection_properties():
    hints = typing.get_type_hints(keywords.ConnectionKeywords)
    assert {connection_property(name, sample(hint))[0].name for name, hint in hints.items()} == {
        row.name for row in SETTABLE if row.kind is not Kind.SELECTION
    }


def test_transport_properties_take_every_settable_property():
    hints = typing.get_type_hints(keywords.TransportKeywords)
    made = TransportProperties(**{name: sample(hint) for name, hint in hints.items()})
    assert set(made.explicit) == {row.name for row in SETTABLE}


def test_every_value_that_the_types_allow_is_taken():
    for name, hint in typing.get_type_hints(keywords.TransportKeywords).items():
        for value in () if hint == keywords.Preferences else literals(hint):
            assert TransportProperties(**{name: value}).is_set(name)


def test_security_parameters_take_every_parameter():
    hints = typing.get_type_hints(keywords.SecurityKeywords)
    assert len(hints) == len(SECURITY_PARAMETERS)
    for name in hints:
        SecurityParameters().get(name)


RIGHT = """\
import math
from taps_core.model.properties import Preference, TransportProperties
from taps_core.model.security import SecurityParameters

properties = TransportProperties(
    reliability="require",
    multipath="Active",
    conn_timeout=math.inf,
    interface={"eth0": "avoid"},
    pvd=[(Preference.AVOID, "x")],
)
properties.unreliable_datagram().require("keepAlive")
TransportProperties.reliable_message().set("connPriority", 1)
alpn: tuple[str, ...] = SecurityParameters(alpn="h2", pre_shared_key=(b"", "")).alpn
"""
WRONG = """\
from taps_core.model.properties import TransportProperties
from taps_core.model.security import SecurityParameters

TransportProperties(relibility="require")
TransportProperties(reliability="required")
TransportProperties(conn_priority="high")
SecurityParameters(alp="h2")
"""


@pytest.mark.parametrize(("program", "errors"), [(RIGHT, []), (WRONG, [4, 5, 6, 7])])
def test_a_misspelt_keyword_is_an_error_for_the_type_checker(tmp_path, program, errors):
    pytest.importorskip("mypy")
    file = tmp_path / "program.py"
    file.write_text(program)
    checker = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--follow-imports=silent",
    ]
    found = subprocess.run(
        [*checker, f"--cache-dir={tmp_path / 'cache'}", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in found.stdout.splitlines() if ": error:" in line]
    assert [int(line.rpartition("program.py:")[2].partition(":")[0]) for line in lines] == errors, (
        found.stdout + found.stderr
    )


def literals(hint):
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return [value for each in typing.get_args(hint) for value in literals(each)]


def sample(hint):
    """A value that the type allows."""
    if hint is bool:
        return True
    if hint in (int, float):
        return 7
    return next(iter(literals(hint)), None) if hint != keywords.Preferences else {"eth0": "avoid"}
