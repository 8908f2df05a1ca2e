"""A small process that starts programs for a large one, each in a network of its own.

In user-mode Linux it takes the longer to start a program the more memory that process has which
starts it: 100 ms from pytest's, and 40 more for each folder where the program is looked for and
is not; 40 from this one.

It is run as a script, and so small because it imports so little. For each line of its input, a
request, it writes one with the answer; it ends with its input.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

_CLONE_NEWNET = 0x40000000


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(**json.loads(line))) + "\n")
        sys.stdout.flush()


def _answer(network: str, command: list[str], text: str) -> dict[str, object]:
    """Run a program until it ends.

    Args:
        network: A file that leads to its network.
        command: The program and its arguments.
        text: For its input.

    Returns:
        Its ``status``, ``output`` and ``errors``; nothing if there is no such program.
    """
    program = _found(command[0])
    if program is None:
        return {}
    _enter(network)
    files = [os.memfd_create(name) for name in ("input", "output", "errors")]
    try:
        os.pwrite(files[0], text.encode(), 0)
        process = os.posix_spawn(
            program,
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)],
        )
        _, status = os.waitpid(process, 0)
        output, errors = (
            os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace") for file in files[1:]
        )
    finally:
        for file in files:
            os.close(file)
    return {"status": os.waitstatus_to_exitcode(status), "output": output, "errors": errors}


def _found(program: str) -> str | None:
    places = [os.path.join(folder, program) for folder in os.environ["PATH"].split(os.pathsep)]
    return next((place for place in places if os.access(place, os.X_OK)), None)


def _enter(network: str) -> None:
    descriptor = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # os.setns is newer than Python 3.11.
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
