"""The command line: what can this machine run, and why is what chosen?

``taps-plugins`` and ``python -m taps_core`` are the same. Results go to
standard output, talk to standard error; exit status 0: done, 1: failed,
2: misuse.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import PropertyError, TapsError
from taps_core.model.layers import API_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from taps_core.cli.output import Output
    from taps_core.runtime.registry import Registry

__all__ = ["main"]

DONE, FAILED, MISUSE = 0, 1, 2

#: Kinds of declarations: what stacks are made of, and what every System heeds.
_PROTOCOLS: Final = ("transport", "security", "framer")
_SOURCES: Final = ("policy", "resolver")

PROGRAM: Final = "taps-plugins"

_DESCRIPTION: Final = """\
What can this machine run, and what would be chosen for what an application
asks for? Nothing is sent, except by check and race: plugins are asked, not
used.
"""

_EPILOG: Final = """\
examples:
  taps-plugins list
  taps-plugins show tcp
  taps-plugins explain --security disabled --prefer multistreaming
  taps-plugins check tcp
  taps-plugins race example.org:443

environment:
  TAPS_PLUGINS=tcp,framers   load only these plugins (empty: none)
  TAPS_PLUGINS_BLOCK=sctp    load all but these
  TAPS_POLICY=policy.toml    read these policy files (empty: none)
  TAPS_TRACE=1               log imports and hook calls, with tracebacks
"""

_LIST: Final = """\
Everything that was found: what can be used here, and what cannot, with the
reason and the remedy.
"""

_SHOW: Final = """\
Everything that a transport, security layer, framer, policy or resolver
advertises. NAME may also be that of a plugin or of its distribution.
"""

_EXPLAIN: Final = """\
The ranking of Protocol Stacks for what an application asks for, with the
reason for every place and every rejection, and whose demand it was; and what
their security layers would offer a peer, and what they refuse. Exit status 1
if there is no candidate.

Names of properties are those of RFC 9622 (preserveMsgBoundaries), or
preserve_msg_boundaries, or preserve-msg-boundaries, in any case.
"""

_EXPLAIN_EXAMPLES: Final = """\
examples:
  taps-plugins explain
  taps-plugins explain --profile unreliable-datagram --security disabled
  taps-plugins explain --require preserve-msg-boundaries --framer line
  taps-plugins explain --set connTimeout=30 --set tcp.userTimeoutValue=30
  taps-plugins explain --require interface=wlan0 --remote example.org:443
  taps-plugins explain --role listen --parameter alpn=h2,http/1.1
"""


_CHECK: Final = """\
Whether a transport, security layer or framer keeps what it promises: runs the
conformance suite that fits, two ends on this machine, and prints a verdict on
each promise. What the plugin's table does not claim is skipped, with the
reason. Exit status 1 if something failed.

NAME may also be that of a plugin or of its distribution.
"""

_CHECK_EXAMPLES: Final = """\
examples:
  taps-plugins check tcp
  taps-plugins check tcp --only what_is_sent_arrives the_tail_arrives
  taps-plugins check unix --local _unix.path=/tmp/check-{}.sock
"""

_RACE: Final = """\
Connects, as an application would, and shows what is tried when and what comes
of it: on a terminal while it happens. What has won is closed at once.

--from draws the report that an application saved:

    json.dump(connection.report.as_json(), file)

or error.report of an EstablishmentError; and what --json printed.

Exit status 0: there was a Connection, or the file was drawn; 1: there was
none, or the page cannot be written; 2: misuse, also a file that is no report.
"""

_RACE_EXAMPLES: Final = """\
examples:
  taps-plugins race example.org:443
  taps-plugins race example.org:443 --html race.html --timeout 5
  taps-plugins race localhost:7000 [::1]:7001 --security disabled
  taps-plugins race example.org:443 --require interface=wlan0 --json
  taps-plugins race --from report.json --html race.html
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; ``None``: those of the process.

    Returns:
        The exit status.
    """
    try:
        parser = _parser()
        arguments = parser.parse_args(argv)
    except SystemExit as request:
        # argparse has printed help or its complaint.
        return DONE if request.code in (0, None) else MISUSE
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return MISUSE
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot show is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _logging():
            status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`… | head`).
        _print_nothing_more()
        return FAILED
    except PropertyError as error:
        return _complain(arguments.command, error, MISUSE)
    except TapsError as error:
        return _complain(arguments.command, error, FAILED)
    except OSError as error:
        # What is read is told where it is read: this is what was to be printed.
        _print_nothing_more()
        return _complain(arguments.command, f"cannot write: {error.strerror or error}", FAILED)
    return status


def _print_nothing_more() -> None:
    """What Python flushes on its way out must go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(command: str, error: object, status: int) -> int:
    from taps_core.cli.output import Plain

    Plain(sys.stderr).text(f"{PROGRAM} {command}: {error}", hang=2)
    return status


def _run(arguments: argparse.Namespace) -> int:
    from taps_core.cli.output import output_for
    from taps_core.runtime.registry import Registry

    registry = Registry.from_entry_points()
    # A plugin that prints while it is imported must not spoil --json.
    with contextlib.redirect_stdout(sys.stderr):
        registry.probe()
    run: Callable[[Registry, Output, argparse.Namespace], int] = arguments.run
    return run(registry, output_for(sys.stdout), arguments)


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """The listing itself tells what fails; the log is for those who trace."""
    logger = logging.getLogger("taps_core")
    handler: logging.Handler = logging.NullHandler()
    if os.environ.get("TAPS_TRACE", "") not in ("", "0"):
        handler = logging.StreamHandler(sys.stderr)
    propagate, logger.propagate = logger.propagate, False
    plugins = logging.getLogger("taps_core.plugins")
    level = plugins.level
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        plugins.setLevel(level)  # tracing has lowered it


def _list(registry: Registry, output: Output, arguments: argparse.Namespace) -> int:
    from taps_core.cli.listing import list_plugins

    return list_plugins(
        registry, output, kind=arguments.kind, everything=arguments.all, as_json=arguments.json
    )


def _show(registry: Registry, output: Output, arguments: argparse.Namespace) -> int:
    from taps_core.cli.showing import show

    return show(registry, output, arguments.name, as_json=arguments.json)


def _explain(registry: Registry, output: Output, arguments: argparse.Namespace) -> int:
    from taps_core.cli.explaining import explain

    return explain(registry, output, arguments)


def _check(registry: Registry, output: Output, arguments: argparse.Namespace) -> int:
    from taps_core.cli.checking import check

    return check(registry, output, arguments)


def _race(registry: Registry, output: Output, arguments: argparse.Namespace) -> int:
    from taps_core.cli.racing import race

    return race(registry, output, arguments)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import importlib_metadata

        try:
            version = importlib_metadata.version("taps-core")
        except importlib_metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"taps-core {version}, plugin interface {API_VERSION}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    def command(name: str, run: Any, brief: str, description: str, epilog: str = "") -> Any:
        added = commands.add_parser(
            name,
            help=brief,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(run=run)
        added.add_argument("--json", action="store_true", help="for programs")
        return added

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="versions of taps-core and its plugin interface"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    listing = command("list", _list, "what is installed, and whether it can run", _LIST)
    listing.add_argument("--kind", choices=[*_PROTOCOLS, *_SOURCES], help="only these")
    listing.add_argument(
        "--all", action="store_true", help="also plugins that are left out, and the hooks of each"
    )

    showing = command("show", _show, "everything that one of them advertises", _SHOW)
    showing.add_argument("name", metavar="NAME")

    explaining = command(
        "explain", _explain, "what would be chosen, and why", _EXPLAIN, _EXPLAIN_EXAMPLES
    )
    _add_demands(explaining)
    explaining.add_argument("--remote", metavar="HOST:PORT", action="append", default=[])
    explaining.add_argument(
        "--role",
        choices=["initiate", "listen", "rendezvous"],
        default="initiate",
        help="some defaults depend on it",
    )

    checking = command(
        "check", _check, "whether one of them keeps its promises", _CHECK, _CHECK_EXAMPLES
    )
    checking.add_argument("name", metavar="NAME")
    checking.add_argument("--kind", choices=_PROTOCOLS, help="if the name is not enough")
    checking.add_argument(
        "--only", metavar="TEST", nargs="+", action="extend", help="only these promises"
    )
    checking.add_argument(
        "--local",
        metavar="ENDPOINT",
        help="where a transport's two ends meet, if it does not know: HOST:PORT or "
        "_kind.name=VALUE; {} becomes a fresh number",
    )
    checking.add_argument(
        "--patience",
        metavar="SECONDS",
        type=_patience,
        default=10.0,
        help="how long to wait for what must come (10)",
    )

    racing = command("race", _race, "connect, and see what is tried when", _RACE, _RACE_EXAMPLES)
    racing.add_argument("remote", metavar="HOST:PORT", nargs="*", help="one peer, however reached")
    racing.add_argument(
        "--from", metavar="FILE", dest="saved", help="draw this report, and connect to nothing"
    )
    racing.add_argument("--html", metavar="FILE", help="write the picture as a page, too")
    racing.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_patience,
        default=30.0,
        help="for all of it, names included (30, as of initiate())",
    )
    _add_demands(racing)
    return parser


def _patience(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


def _add_demands(parser: argparse.ArgumentParser) -> None:
    wants = parser.add_argument_group("properties (each can be given several times)")
    for verb, meaning in (
        ("require", "only stacks that have it"),
        ("prefer", "stacks that have it first"),
        ("avoid", "stacks that have it last"),
        ("prohibit", "only stacks that can do without"),
    ):
        wants.add_argument(f"--{verb}", metavar="NAME", action="append", default=[], help=meaning)
    wants.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="values",
        action="append",
        default=[],
        help="any other property; inf for Disabled and Unlimited",
    )
    wants.add_argument(
        "--profile",
        metavar="NAME",
        choices=["reliable-inorder-stream", "reliable-message", "unreliable-datagram"],
        help="begin with the RFC's profile: reliable-inorder-stream, reliable-message "
        "or unreliable-datagram",
    )
    rest = parser.add_argument_group("the rest of the Preconnection")
    rest.add_argument(
        "--security",
        choices=["default", "opportunistic", "disabled"],
        default="default",
        help="default: encrypted and authenticated, or not at all",
    )
    rest.add_argument(
        "--parameter",
        metavar="NAME=VALUE",
        dest="parameters",
        action="append",
        default=[],
        help="a security parameter (several times): names with commas between them, files of "
        "certificates as CHAIN or CHAIN,KEY; of preSharedKey the identity alone",
    )
    rest.add_argument(
        "--framer",
        metavar="NAME",
        action="append",
        default=[],
        help="put a framer on top of those before it",
    )
    rest.add_argument("--local", metavar="HOST:PORT", action="append", default=[])
