"""The command line. Each command has its own module with a function `register(app)`.

A module imports only light things at its top (typer, `_common`). It imports the rest inside the command.
So `lockgate --help` answers at once.
"""

import atexit
import gc
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import FrameType
from typing import Annotated, NoReturn

import typer

from lockgate._version import __version__
from lockgate.cli._common import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE, print_error
from lockgate.errors import LockgateError

__all__ = ["app", "main"]

# One line registers one command. `lockgate --help` lists them in this order.
_COMMANDS = (
    "_doctor",
    "_fetch",
    "_constitution",
    "_import",
    "_synthesize",
    "_build",
    "_train",
    "_calibrate",
    "_recalibrate",
    "_score",
    "_replay",
    "_mine",
    "_memory",
    "_promote",
    "_select",
    "_label",
    "_evaluate",
    "_redteam",
    "_serve",
    "_serve_ray",
    "_config",
    "_log",
    "_backup",
    "_tenants",
    "_reviews",
)

_EXIT_CODES = (
    "Exit codes: 0 done; 1 a check failed; 2 wrong usage or input, or a file that can't be read or written; "
    "70 an internal error; 130 interrupted (Ctrl-C); 143 terminated. A long command that is interrupted or "
    "terminated keeps its finished work. Run the same command again to continue."
)

app = typer.Typer(
    name="lockgate",
    help="A calibrated, streaming safeguard for language models.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    # A pretty traceback shows local variables, and those hold user text.
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


for _name in _COMMANDS:
    if find_spec(f"lockgate.cli.{_name}") is not None:
        import_module(f"lockgate.cli.{_name}").register(app)


@contextmanager
def _leave_when_terminated() -> Iterator[None]:
    """Let SIGTERM end a command like an error: `with` blocks close in order, and worker processes end."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        # `timeout` sends SIGTERM twice. The second one must not interrupt the clean-up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(EXIT_TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        # A process that is already ending keeps ignoring SIGTERM.
        if signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code. `lockgate --help` lists the codes."""
    # Without this, Python looks at every object of the imported libraries before it ends: for over a second.
    atexit.register(gc.freeze)
    try:
        with _leave_when_terminated():
            app(args=arguments)
    except LockgateError as error:
        print_error(str(error))
        sys.exit(EXIT_USAGE)
    except OSError as error:
        # A full disk, a missing permission, a port in use: a state of the machine, not a bug.
        place = f"{error.filename}: " if error.filename else ""
        print_error(f"{place}{error.strerror or error}")
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception:
        traceback.print_exc()
        print_error("this is a bug in Lockgate; please report the lines above")
        sys.exit(EXIT_INTERNAL)
    sys.exit(0)
