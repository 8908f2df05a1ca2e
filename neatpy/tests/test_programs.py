"""Programs as people wrote them, run as people run them: flat modules, ``start()``, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import neatpy

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(neatpy.__file__).parent
#: All that such a program did to find NEATPy.
FLAT = f"import sys\nsys.path.insert(0, {str(PACKAGE)!r})\n"


def start(source: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-u", "-c", textwrap.dedent(source), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        # A test run in the background ignores SIGINT, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@contextlib.contextmanager
def running(source: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = start(source, *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(source: str, *arguments: object) -> str:
    """What it prints; it must end by itself, without a word of complaint."""
    process = start(source, *arguments)
    try:
        printed, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, complaints
    assert not complaints
    return printed


#: NEATPy's own example, but for the port, and with an end.
CLIENT = (
    FLAT
    + """
from preconnection import *
from endpoint import *
from transport_properties import *
from security_parameters import *
from connection_properties import *
from enumerations import *
from connection_properties import TCPUserTimeout

def receive_handler(con: Connection, msg, context, end, error):
    shim_print(f"Got message {len(msg.data)}: {msg.data.decode()}", level='msg')
    con.stop()

def ready_handler(connection: Connection):
    shim_print("Connection is ready")
    connection.send(b"Hello server", None)
    connection.receive(receive_handler)

if __name__ == "__main__":
    ep = RemoteEndpoint()
    ep.with_address("127.0.0.1")
    ep.with_port(int(sys.argv[1]))

    tp = TransportProperties()
    tp.add(SelectionProperties.RELIABILITY, PreferenceLevel.REQUIRE)
    tp.prefer(SelectionProperties.PRESERVE_MSG_BOUNDARIES)

    preconnection = Preconnection(remote_endpoint=ep, transport_properties=tp)
    connection: Connection = preconnection.initiate()
    connection.HANDLE_STATE_READY = ready_handler
    preconnection.start()
"""
)
SERVER = (
    FLAT
    + """
from endpoint import *
from preconnection import *
from transport_properties import *
from security_parameters import *
from enumerations import *

def simple_receive_handler(connection, message, context, is_end, error):
    shim_print(f"Got msg {len(message.data)}: {message.data.decode()}", level='msg')
    connection.send(b"Hello client", None)

def new_connection_received(connection: Connection):
    connection.receive(simple_receive_handler)

if __name__ == "__main__":
    local_specifier = LocalEndpoint()
    local_specifier.with_port(0)
    tp = TransportProperties(TransportPropertyProfiles.RELIABLE_INORDER_STREAM)

    preconnection = Preconnection(local_endpoint=local_specifier, transport_properties=tp)
    new_listener: Listener = preconnection.listen()
    new_listener.HANDLE_CONNECTION_RECEIVED = new_connection_received
    new_listener.HANDLE_STATE_LISTENING = lambda: print(new_listener.local_endpoints[0].port)
    preconnection.start()
"""
)


def test_a_flat_module_is_the_packages_own() -> None:
    run(
        FLAT
        + """
        import connection, preconnection, utils
        from transport_properties import *
        import neatpy, neatpy.connection, neatpy.preconnection, neatpy.utils
        assert connection is neatpy.connection
        assert connection.Connection is neatpy.connection.Connection is neatpy.Connection
        assert preconnection is neatpy.preconnection
        assert TransportProperties is neatpy.TransportProperties
        utils.debug = 1
        neatpy.shim_print("without a level")
        """.replace("\n        ", "\n")
    )


def test_it_does_not_matter_which_came_first() -> None:
    run(FLAT + "import neatpy.framer\nimport framer\nassert framer is neatpy.framer\n")
    run(FLAT + "import framer\nimport neatpy.framer\nassert framer is neatpy.framer\n")


def test_each_flat_module_gives_what_programs_take_from_it() -> None:
    from .documented import ENUMERATIONS, METHODS, MODULES

    for module in MODULES:
        wanted = [*METHODS.get(module, ()), *ENUMERATIONS.get(module, ())]
        names = ", ".join(wanted) or "None"
        assert run(FLAT + f"from {module} import *\n{names}\n") == ""


def test_neatpys_example_programs_talk_to_each_other() -> None:
    with running(SERVER) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        for _ in range(2):
            assert run(CLIENT, port) == "Got message 12: Hello client\n"
            assert server.stdout.readline() == "Got msg 12: Hello server\n"


def test_the_client_talks_to_a_plain_socket_that_never_closes() -> None:
    """Which the end of the program need not wait for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with running(CLIENT, server.getsockname()[1]) as client:
            peer, _ = server.accept()
            with peer:
                assert peer.recv(100) == b"Hello server"
                peer.sendall(b"Hello client")
                printed, complaints = client.communicate(timeout=9)
        assert (printed, complaints) == ("Got message 12: Hello client\n", "")
        assert client.returncode == 0


def test_the_server_talks_to_a_plain_socket() -> None:
    with running(SERVER) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(b"Hello server")
            assert peer.recv(100) == b"Hello client"
            peer.shutdown(socket.SHUT_WR)
            assert peer.recv(100) == b""


@pytest.mark.parametrize("busy", [False, True])
def test_ctrl_c_ends_it_as_it_ends_any_program(busy: bool) -> None:
    with running(SERVER) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with contextlib.ExitStack() as stack:
            if busy:
                peer = socket.create_connection(("127.0.0.1", port))
                stack.enter_context(peer)
                peer.sendall(b"Hello server")
                assert peer.recv(100) == b"Hello client"
            server.send_signal(signal.SIGINT)
            _, complaints = server.communicate(timeout=30)
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    assert "ResourceWarning" not in complaints
    assert server.returncode == -signal.SIGINT


def test_what_was_sent_before_stop_is_delivered() -> None:
    source = (
        FLAT
        + """
from preconnection import *
ep = RemoteEndpoint()
ep.with_address("127.0.0.1")
ep.with_port(int(sys.argv[1]))
preconnection = Preconnection(remote_endpoint=ep)
connection = preconnection.initiate()
def ready(connection):
    connection.send(bytes(20_000_000))
    connection.stop()
connection.HANDLE_STATE_READY = ready
preconnection.start()
"""
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        running(source, server.getsockname()[1]) as client,
    ):
        peer, _ = server.accept()
        with peer:
            number = 0
            while data := peer.recv(1 << 16):
                number += len(data)
        assert number == 20_000_000
        assert client.wait(30) == 0


def test_several_preconnections_share_one_loop_and_it_runs_again() -> None:
    printed = run(
        """
        from neatpy import *

        def main():
            here = LocalEndpoint()
            here.with_address("127.0.0.1")
            here.with_port(0)
            listeners = [Preconnection(local_endpoint=here).listen() for _ in range(2)]
            ports = []

            def listening(listener):
                ports.append(listener.local_endpoints[0].port)
                if len(ports) == 2:
                    for port in ports:
                        there = RemoteEndpoint()
                        there.with_address("127.0.0.1")
                        there.with_port(port)
                        preconnection = Preconnection(remote_endpoint=there)
                        connection = preconnection.initiate()
                        connection.HANDLE_STATE_READY = lambda c: c.receive(got)
                        preconnection.start()  # it runs: no effect

            for each in listeners:
                each.HANDLE_STATE_LISTENING = lambda *, each=each: listening(each)
                each.HANDLE_CONNECTION_RECEIVED = lambda c: c.send(b"welcome")
            answers = []

            def got(connection, message):
                answers.append(message.data.decode())
                if len(answers) == 2:
                    print(*answers)
                    connection.stop()

            Preconnection().start()

        main()
        main()
        Preconnection().start()  # nothing is left to be done
        print("returned")
        """
    )
    assert printed == "welcome welcome\nwelcome welcome\nreturned\n"


def test_a_program_ends_when_nothing_is_left_that_could_call_it() -> None:
    """A client that nobody answers does not run for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    process = start(CLIENT, port)
    printed, complaints = process.communicate(timeout=30)
    assert process.returncode == 0
    assert printed == ""
    assert "could not be established" in complaints
    assert "Traceback" not in complaints


def test_an_exit_in_a_handler_is_one() -> None:
    process = start(
        CLIENT.replace("    con.stop()", "    sys.exit(3)"), serving := answering_once()
    )
    printed, complaints = process.communicate(timeout=30)
    assert process.returncode == 3, complaints
    assert printed == "Got message 12: Hello client\n"
    assert complaints == ""
    assert serving


def answering_once() -> int:
    """A plain server for one client, in a thread; its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server:
            peer, _ = server.accept()
            with peer, contextlib.suppress(ConnectionResetError):
                peer.recv(100)
                peer.sendall(b"Hello client")
                peer.recv(100)

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


def test_uvloop_will_do() -> None:
    pytest.importorskip("uvloop", reason="uvloop is not installed")
    install = (
        "import asyncio, uvloop, warnings\n"
        "with warnings.catch_warnings():\n"
        "    warnings.simplefilter('ignore', DeprecationWarning)\n"
        "    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())\n"
    )
    assert run(install + CLIENT, answering_once()) == "Got message 12: Hello client\n"


def test_messages_for_people_are_printed_by_their_level(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    neatpy.shim_print("quiet")
    neatpy.shim_print("said", "and more", level="msg")
    neatpy.shim_print("wrong", level="error")
    monkeypatch.setattr("neatpy.utils.debug", 1)
    neatpy.shim_print("loud")
    assert capsys.readouterr().out == "said\nand more\nwrong\nloud\n"


def test_names_of_files_shadow_nobody() -> None:
    """This folder comes first in the path: names that are not NEATPy's have an underscore."""
    from .documented import MODULES

    names = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert {name for name in names if not name.startswith("_")} == set(MODULES)
    assert os.path.basename(PACKAGE) == "neatpy"
