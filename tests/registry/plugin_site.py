"""Distributions made on disk: what a Registry finds is exactly what a test installs."""

from __future__ import annotations

import importlib
import json
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TRANSPORT = """
from taps_core import plugin as tp

class Synthetic(tp.Transport):
    name = {name!r}
    capabilities = tp.Capabilities.byte_stream()
    {body}

    async def connect(self, request):
        raise NotImplementedError

@tp.hookimpl
def taps_transports():
    return [Synthetic()]
"""

FRAMER = """
from taps_core import plugin as tp

class Synthetic(tp.FramerDefinition):
    name = {name!r}

    def create(self):
        raise NotImplementedError

@tp.hookimpl
def taps_framers():
    return [Synthetic()]
"""

POLICY = """
from taps_core import plugin as tp

class Synthetic(tp.PolicySource):
    name = {name!r}

    def policy(self):
        return {tables!r}

@tp.hookimpl
def taps_policies():
    return [Synthetic()]
"""

RESOLVER = """
from taps_core import plugin as tp

class Synthetic(tp.ResolverSource):
    name = {name!r}

    def resolver(self, usual):
        return usual

@tp.hookimpl
def taps_resolvers():
    return [Synthetic()]
"""


def transport(name: str, body: str = "") -> str:
    """Source of a plugin with one byte-stream transport; ``body`` goes into its class."""
    return TRANSPORT.format(name=name, body=body)


def framer(name: str) -> str:
    """Source of a plugin with one framer."""
    return FRAMER.format(name=name)


def policy(name: str, tables: object) -> str:
    """Source of a plugin with one policy."""
    return POLICY.format(name=name, tables=tables)


def resolver(name: str) -> str:
    """Source of a plugin with one resolver, which leaves everything to the usual one."""
    return RESOLVER.format(name=name)


class PluginSite:
    """A directory that stands in for site-packages."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.modules: list[str] = []

    def install(
        self,
        distribution: str,
        source: str,
        *,
        plugin: str | None = None,
        version: str = "1.0",
        direct_url: Mapping[str, object] | None = None,
    ) -> None:
        """Install a distribution with one module, named after it, and one plugin."""
        module = distribution.replace("-", "_")
        plugin = distribution.removeprefix("taps-") if plugin is None else plugin
        (self.directory / f"{module}.py").write_text(source, encoding="utf-8")
        self.modules.append(module)
        metadata = self.directory / f"{module}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", encoding="utf-8"
        )
        (metadata / "entry_points.txt").write_text(
            f"[console_scripts]\nx = y:z\n\n[taps]\n{plugin} = {module}\n", encoding="utf-8"
        )
        if direct_url is not None:
            (metadata / "direct_url.json").write_text(json.dumps(direct_url), encoding="utf-8")
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginSite]:
    """Nothing is installed but what the test installs; nothing is set in the environment."""
    # What is imported lazily below must still come from the real site-packages.
    for needed in ("importlib_metadata", "pluggy"):
        importlib.import_module(needed)
    for variable in ("TAPS_PLUGINS", "TAPS_PLUGINS_BLOCK", "TAPS_TRACE"):
        monkeypatch.delenv(variable, raising=False)
    directory = tmp_path / "site-packages"
    directory.mkdir()
    standard = Path(sysconfig.get_path("stdlib"))
    library = [
        entry
        for entry in sys.path
        if Path(entry) in (standard, standard / "lib-dynload", *standard.parents)
    ]
    monkeypatch.setattr(sys, "path", [str(directory), *library])
    # Real plugins that another test imported must not answer for the ones made here.
    hidden = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name.startswith("taps_") and not name.startswith("taps_core")
    }
    installed = PluginSite(directory)
    yield installed
    for module in installed.modules:
        sys.modules.pop(module, None)
    sys.modules.update(hidden)
