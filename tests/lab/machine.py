"""The lab's machine: user-mode Linux, a kernel that is a process, with this machine's files.

It has what the kernel below may lack: SCTP, and networks with delay and loss. The file system
is this machine's; what is written to it stays in the guest's memory and ends with it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["MODULES", "NO_GUEST", "TIMED_OUT", "missing", "run"]

#: What the guest's kernel loads, beside what these need themselves.
MODULES: Final = (
    *("hmac", "sha1_generic", "md5", "crc32c_generic", "ipv6", "sctp"),
    *("veth", "dummy", "sch_netem", "sch_prio", "cls_u32", "sch_fq"),
    *("iptable_filter", "ip6table_filter", "ipt_REJECT", "ip6t_REJECT"),
    *("xt_statistic", "xt_tcpudp", "xt_sctp"),
)
#: Exit statuses beside those of the program that runs inside.
TIMED_OUT: Final = 124
NO_GUEST: Final = 125

#: The guest's environment has those of this process that begin so.
_PASSED_ON: Final = ("TAPS_", "PYTHON", "HYPOTHESIS_", "PY_COLORS", "NO_COLOR", "LANG", "LC_")
_ROOT: Final = pathlib.Path(__file__).parents[2]
_INIT: Final = pathlib.Path(__file__).with_name("init.sh")
_HIDDEN: Final = pathlib.Path("/tmp")
#: The first line that is not the kernel's.
_STARTS: Final = b"-- the lab starts --\n"
#: Seconds that a guest may take to end when it was told to; it takes about 10 ms.
_GRACE: Final = 5.0
_PROGRAMS: Final = {
    "linux.uml": "user-mode-linux",
    "modprobe": "kmod",
    "ip": "iproute2",
    "tc": "iproute2",
    "iptables-legacy": "iptables",
    "setpriv": "util-linux",
}
_PATH: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def missing() -> str | None:
    """What this machine lacks for the lab, as a sentence; ``None`` if nothing is known."""
    if sys.platform != "linux":
        return "the lab needs Linux"
    lacking = {
        f"{program} (Debian: {package})"
        for program, package in _PROGRAMS.items()
        if shutil.which(program, path=_PATH) is None
    }
    return f"the lab needs {', '.join(sorted(lacking))}" if lacking else None


def run(
    command: Sequence[str],
    results: pathlib.Path,
    output: IO[bytes],
    *,
    memory: str,
    modules: Sequence[str],
    timeout: float,
) -> int:
    """Boot, run a program in the root of the repository, halt.

    However this ends, no process of the guest's is left.

    Args:
        command: The program and its arguments.
        results: A directory, which the guest may write to. The program has it in TAPS_LAB.
        output: Gets what the program writes, as it does. Of a guest that does not come that
            far it gets all that the kernel says.
        memory: Of the guest, as in ``"512M"``. As much must be free in /dev/shm, or in
            ``results``.
        modules: Of the kernel, to be loaded.
        timeout: Seconds for all of it.

    Returns:
        The program's exit status; NO_GUEST if there is none (no boot, a kernel panic), and
        TIMED_OUT.
    """
    (results / "status").unlink(missing_ok=True)
    (results / "settings.sh").write_text(
        f"TREES=({shlex.join(_trees())})\nMODULES=({shlex.join(modules)})\n"
        f"STARTS={shlex.quote(_STARTS.decode().strip())}\n"
    )
    (results / "command.sh").write_text(
        "".join(f"export {name}={shlex.quote(value)}\n" for name, value in _environment(results))
        + f"cd {shlex.quote(str(_ROOT))}\nexec {shlex.join(command)}\n"
    )
    deadline = time.monotonic() + timeout
    with _guest(results, memory) as process:
        assert process.stdout is not None
        if not _copy(process.stdout, output, deadline):
            return TIMED_OUT
    try:
        return int((results / "status").read_text())
    except FileNotFoundError:
        return NO_GUEST


@contextlib.contextmanager
def _guest(results: pathlib.Path, memory: str) -> Iterator[subprocess.Popen[bytes]]:
    for_memory = pathlib.Path("/dev/shm")
    if not for_memory.is_dir() or shutil.disk_usage(for_memory).free < _bytes(memory):
        for_memory = results
    process = subprocess.Popen(
        [
            # If this process is killed, the guest ends too.
            *("setpriv", "--pdeathsig", "TERM"),
            *("linux.uml", f"mem={memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/"),
            *("ro", f"init={_INIT}", "con=null", "con0=fd:0,fd:1", "quiet"),
            *(f"uml_dir={results}", f"OUT={results}"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Ctrl-C is for this process; it tells the guest.
        start_new_session=True,
        env={**os.environ, "PATH": _PATH, "TMPDIR": str(for_memory)},
    )
    try:
        with process.stdout or contextlib.nullcontext():
            yield process
    finally:
        # The main process takes its children with it, but not if it is killed.
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _copy(source: IO[bytes], output: IO[bytes], deadline: float) -> bool:
    """Until the source ends; false if the time is over before."""
    before = b""
    started = False
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            data = os.read(source.fileno(), 65536)
            if not data:
                break
            if not started:
                before += data
                _, mark, data = before.partition(_STARTS)
                started = bool(mark)
            output.write(data)
            output.flush()
    if not started:
        output.write(before)
        output.flush()
    return left > 0


def _trees() -> list[str]:
    """Directories that tests need and that are not in the guest by themselves."""
    wanted = {_ROOT, *(pathlib.Path(each).resolve() for each in (sys.prefix, sys.base_prefix))}
    hidden = sorted(path for path in wanted if path.is_relative_to(_HIDDEN))
    return [str(path) for path in hidden if not any(map(wanted.__contains__, path.parents))]


def _environment(results: pathlib.Path) -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if name.startswith(_PASSED_ON):
            yield name, value
    yield "TAPS_LAB", str(results)
    yield "PATH", _PATH
    yield "COLUMNS", str(shutil.get_terminal_size().columns)


def _bytes(memory: str) -> int:
    units = {"K": 10, "M": 20, "G": 30}
    return int(memory[:-1]) << units[memory[-1].upper()]
