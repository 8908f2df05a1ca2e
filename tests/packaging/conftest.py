"""Our wheels, and environments that hold nothing but what a test installs."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
#: Package → its folder, and what in it goes into the build.
SOURCES = {
    "taps_core": (".", ("pyproject.toml", "README.md", "LICENSE", "taps_core")),
    "taps_tcp": ("plugins/tcp", ("pyproject.toml", "README.md", "taps_tcp")),
    "taps_udp": ("plugins/udp", ("pyproject.toml", "README.md", "taps_udp")),
    "taps_tls": ("plugins/tls", ("pyproject.toml", "README.md", "taps_tls")),
    "neatpy": ("neatpy", ("pyproject.toml", "README.md", "neatpy")),
    "taps_framers": ("framers", ("pyproject.toml", "README.md", "taps_framers")),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment without pip; ours installs into it."""

    path: Path

    def install(self, *what: Path | str, dependencies: bool = False) -> None:
        """Install wheels, projects or requirements.

        Args:
            *what: Paths, or names for the package index.
            dependencies: Whether what they need comes from there too.
        """
        options = [] if dependencies else ["--no-index", "--no-deps"]
        pip("--python", str(self.path), "install", *options, *map(str, what))

    def run(self, program: str, *arguments: str, status: int = 0) -> str:
        """What a program of this environment prints on stdout."""
        done = subprocess.run(
            [str(self.path / "bin" / program), *arguments],
            cwd=self.path,  # not where the sources are
            env={"PATH": os.environ["PATH"], "HOME": str(self.path), "PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout


def pip(*arguments: str) -> None:
    """Run pip; without a package index the test is skipped, or fails if TAPS_REQUIRE says so."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    unreachable = "No matching distribution" in done.stderr or "Connection" in done.stderr
    if unreachable and "index" not in os.environ.get("TAPS_REQUIRE", "").split(","):
        pytest.skip("no package index can be reached")
    pytest.fail(done.stderr, pytrace=False)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Package name → its wheel, built from a copy, so that no earlier build leaks in."""
    sources, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    for name, (folder, parts) in SOURCES.items():
        (sources / name).mkdir()
        for part in parts:
            source = ROOT / folder / part
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, sources / name / part, ignore=ignored)
            else:
                shutil.copy(source, sources / name / part)
    # With what builds them here; pip would install it for each of them.
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(built)]
    pip("wheel", *options, *(str(sources / name) for name in SOURCES))
    return {name: next(built.glob(f"*{name}-*.whl")) for name in SOURCES}


@pytest.fixture
def environment(tmp_path: Path, wheels: dict[str, Path]) -> Environment:
    """An environment with the core, its dependencies, and nothing else."""
    path = tmp_path / "environment"
    command = [sys.executable, "-m", "venv", "--without-pip", str(path)]
    subprocess.run(command, check=True)
    made = Environment(path=path)
    made.install(wheels["taps_core"], dependencies=True)
    return made


@pytest.fixture
def small_wheel(tmp_path: Path) -> Callable[[str, str], Path]:
    """Make a distribution of one module that is a plugin of the module's name."""

    def make(distribution: str, source: str) -> Path:
        module = distribution.replace("-", "_")
        info = f"{module}-1.0.dist-info"
        files = {
            f"{module}.py": source,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\n"
            "Root-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": f"[taps]\n{module} = {module}\n",
        }
        files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
        path = tmp_path / f"{module}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path

    return make
