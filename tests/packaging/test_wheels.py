"""What people install: the core alone, plugins beside it, broken ones beside those."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README_PROGRAM = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)

RAISES = 'raise RuntimeError("libexample is too old")\n'

TCP_AGAIN = """\
from taps_core import plugin

class Impostor(plugin.Transport):
    name = "tcp"
    api_version = 1
    capabilities = plugin.Capabilities.byte_stream()

    async def connect(self, request):
        raise OSError("the impostor was asked")

@plugin.hookimpl
def taps_transports():
    return [Impostor()]
"""

MISSPELT = """\
from taps_core import plugin

@plugin.hookimpl
def taps_transport():
    return []
"""

OTHER_VERSION = """\
from taps_core import plugin

class Later(plugin.Transport):
    name = "later"
    api_version = 99
    capabilities = plugin.Capabilities.byte_stream()

    async def connect(self, request):
        raise OSError("never asked")

@plugin.hookimpl
def taps_transports():
    return [Later()]
"""


class Environment(Protocol):
    """What the fixture of that name is."""

    def install(self, *wheels: Path, dependencies: bool = False) -> None: ...

    def run(self, program: str, *arguments: str, status: int = 0) -> str: ...


def rows(environment: Environment, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        environment.run("taps-plugins", "list", "--json", *options)
    )
    return found


def test_the_core_alone_imports_lists_nothing_and_says_what_to_do_then_tcp_appears(
    environment: Environment, wheels: dict[str, Path]
) -> None:
    environment.run("python", "-c", "import taps_core, taps_core.plugin, taps_core.testing")
    assert rows(environment) == []
    assert "pip install taps-tcp" in environment.run("taps-plugins", "list")
    environment.install(wheels["taps_tcp"])
    (tcp,) = rows(environment)
    assert (tcp["name"], tcp["kind"], tcp["status"]) == ("tcp", "transport", "available")
    assert tcp["distribution"] == "taps-tcp"
    assert re.search(r"^\W*tcp\b", environment.run("taps-plugins", "list"), re.M)


def test_broken_plugins_are_rows_with_their_reason_and_tcp_works_beside_them(
    environment: Environment,
    wheels: dict[str, Path],
    small_wheel: Callable[[str, str], Path],
) -> None:
    environment.install(
        wheels["taps_tcp"],
        wheels["taps_tls"],
        wheels["taps_framers"],
        small_wheel("taps-raises", RAISES),
        # Sorts before taps-tcp: the name belongs to that one all the same.
        small_wheel("taps-impostor", TCP_AGAIN),
        small_wheel("taps-misspelt", MISSPELT),
        small_wheel("taps-later", OTHER_VERSION),
    )

    # What TLS needs, and the extra «testing».
    environment.install("cryptography", "trustme", dependencies=True)
    assert README_PROGRAM is not None
    assert environment.run("python", "-c", README_PROGRAM[1]) == "b'hello' over line/TLS/TCP\n"

    found = rows(environment)
    by_distribution = {row["distribution"]: row for row in found}
    assert by_distribution["taps-tcp"]["status"] == "available"
    expected = {
        "taps-raises": ("failed", "RuntimeError: libexample is too old"),
        "taps-impostor": ("conflict", "taps-tcp"),
        "taps-misspelt": ("failed", "taps_transport"),
        "taps-later": ("refused", "99"),
    }
    listed = " ".join(environment.run("taps-plugins", "list").split())
    for distribution, (status, reason) in expected.items():
        row = by_distribution[distribution]
        assert row["status"] == status
        assert reason in row["reason"]
        assert row["remedy"]
        assert reason in listed


def test_programs_find_neatpys_modules_in_its_folder(
    environment: Environment, wheels: dict[str, Path]
) -> None:
    environment.install(wheels["taps_tcp"], wheels["neatpy"])
    folder = environment.run(
        "python", "-c", "import neatpy, os; print(os.path.dirname(neatpy.__file__))"
    ).strip()
    program = f"""
import sys
sys.path.insert(0, {folder!r})
from preconnection import *
import neatpy.preconnection
assert Preconnection is neatpy.preconnection.Preconnection
here = LocalEndpoint()
here.with_address("127.0.0.1")
here.with_port(0)
listener = Preconnection(local_endpoint=here).listen()
listener.HANDLE_STATE_LISTENING = listener.stop
listener.HANDLE_STATE_STOPPED = lambda: print("stopped")
Preconnection().start()
"""
    assert environment.run("python", "-c", program) == "stopped\n"


def test_wheels_hold_their_package_and_no_tests(wheels: dict[str, Path]) -> None:
    for package, wheel in wheels.items():
        names = zipfile.ZipFile(wheel).namelist()
        folders = {name.split("/")[0] for name in names}
        distribution = wheel.name.partition("-")[0]
        assert distribution == (package if package.startswith("taps_") else f"taps_{package}")
        assert folders == {package, f"{distribution}-0.1.0.dist-info"}
        assert f"{package}/py.typed" in names
        assert not [name for name in names if "/tests/" in name]
