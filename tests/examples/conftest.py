"""Real servers on loopback, each with a directory and a port of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from taps_core.testing import LocalAuthority
from tests.programs import program, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"

NGINX_CONF = """\
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{port}{how};
    root html;
    location = /chunked {{ ssi on; ssi_types *; try_files /index.html =404; }}
    location = /until-close {{ chunked_transfer_encoding off; ssi on; ssi_types *;
                               try_files /index.html =404; }}
  }}
}}
"""

#: Nobody is asked but its own data, over UDP and TCP.
UNBOUND_CONF = """\
server:
  interface: 127.0.0.1
  port: {port}
  access-control: 127.0.0.0/8 allow
  directory: "{directory}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  do-ip6: no
  module-config: "iterator"
  local-zone: "example." static
  local-data: "www.example. 300 IN A 192.0.2.7"
  local-data: "www.example. 300 IN AAAA 2001:db8::7"
{texts}
"""


class IdentityFiles(NamedTuple):
    """What programs want to be given as files."""

    mine: Path
    """A certificate for this machine, with its key."""
    trusted: Path
    """That of the authority that it is from."""


@pytest.fixture
def identity_files(tmp_path: Path) -> IdentityFiles:
    """A server's certificate, and whom its clients are to trust."""
    authority = LocalAuthority()
    mine = authority.identity()
    assert isinstance(mine.chain, bytes)
    assert isinstance(mine.key, bytes)
    files = IdentityFiles(tmp_path / "mine.pem", tmp_path / "trusted.pem")
    files.mine.write_bytes(mine.chain + mine.key)
    files.trusted.write_bytes(authority.pem)
    return files


def nginx_at(tmp_path: Path, how: str) -> Iterator[int]:
    """Run an nginx that serves a few pages; its port.

    Args:
        tmp_path: Its folder.
        how: What stands behind the address that it listens to.
    """
    executable = program("nginx")
    pages = tmp_path / "html"
    pages.mkdir()
    (pages / "index.html").write_text("<title>Hello from nginx</title>\n")
    (pages / "large.bin").write_bytes(bytes(range(256)) * 4096)
    (pages / "empty.html").touch()

    def command(port: int) -> list[str]:
        configuration = tmp_path / "nginx.conf"
        configuration.write_text(NGINX_CONF.format(port=port, how=how))
        return [executable, "-p", str(tmp_path), "-e", "error.log", "-c", str(configuration)]

    yield from serve(command, tmp_path / "nginx.output")


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[int]:
    """The port of an nginx that serves a few pages."""
    yield from nginx_at(tmp_path, "")


@pytest.fixture
def secure_nginx(tmp_path: Path, identity_files: IdentityFiles) -> Iterator[int]:
    """The port of one that serves them over TLS."""
    mine = identity_files.mine
    yield from nginx_at(tmp_path, f" ssl; ssl_certificate {mine}; ssl_certificate_key {mine}")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[int]:
    """The port of an empty redis-server that keeps nothing on disk."""
    executable = program("redis-server")

    def command(port: int) -> list[str]:
        options = {"bind": "127.0.0.1", "port": str(port), "dir": str(tmp_path), "save": ""}
        return [executable] + [
            word for key, value in options.items() for word in (f"--{key}", value)
        ]

    yield from serve(command, tmp_path / "redis.output")


@pytest.fixture
def unbound(tmp_path: Path) -> Iterator[int]:
    """The port of a DNS server that knows ``example.`` alone."""
    executable = program("unbound")
    texts = "\n".join(
        f"""  local-data: 'long.example. 300 IN TXT "{number:0>200}"'""" for number in range(20)
    )

    def command(port: int) -> list[str]:
        configuration = tmp_path / "unbound.conf"
        configuration.write_text(UNBOUND_CONF.format(port=port, directory=tmp_path, texts=texts))
        return [executable, "-d", "-p", "-c", str(configuration)]

    yield from serve(command, tmp_path / "unbound.output")


@pytest.fixture
def run_example() -> Callable[..., str]:
    """Run an example as a user would; what it printed."""

    def run(name: str, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    return run


@pytest.fixture
def load_example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """An example's module, to look at its parts."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load
