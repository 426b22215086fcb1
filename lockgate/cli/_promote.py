"""`lockgate promote`: change the guard of a server by a link, and back."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._common import JsonFlag, print_json
from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from lockgate.rollout import GuardLink


def register(app: typer.Typer) -> None:
    app.command()(promote)


def promote(
    link: Annotated[
        Path, typer.Option("--as", metavar="LINK", help="The link that the config file's `guard:` names.")
    ],
    guard: Annotated[
        str | None, typer.Argument(metavar="[GUARD]", help="The new guard's folder, or `embedded`.")
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Go back to the guard before this one.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show what the link has named.")] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check that this config file names LINK.")
    ] = None,
    pid: Annotated[
        int | None, typer.Option(min=2, help="Process of the server. It gets SIGHUP, so it reads its file.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Let a link name another guard, at once, and remember the one before.

    The bundle is checked first. A server whose config file names the link follows at SIGHUP; it says on
    standard error what became of it. The history is in LINK.history. While another change of the link is
    under way, also one from the dashboard, nothing changes.
    """
    from lockgate.guards import bundle_folder
    from lockgate.rollout import GuardLink

    if (guard is not None) + back + listed != 1:
        raise ConfigError("give one of GUARD, --back and --list")
    if listed and pid is not None:
        raise ConfigError("--pid: nothing changes with --list; leave it out")
    opened = GuardLink(link)
    if config is not None:
        _check_config(config, link)
    if listed:
        _show(opened, as_json=json)
        return
    if pid is not None:
        _check_server(pid)  # before anything changes
    entry = opened.back() if guard is None else opened.promote(bundle_folder(guard))
    if pid is not None:
        _hang_up(pid, link)
    if json:
        print_json({"link": str(link), **entry.model_dump(), "pid": pid})
        return
    told = "" if pid is None else f"; process {pid} was told"
    typer.echo(f"{link} names {entry.name} ({entry.sha256[:12]}) in {entry.guard}{told}")


def _show(opened: "GuardLink", *, as_json: bool) -> None:
    target = opened.target
    if as_json:
        entries = [entry.model_dump() for entry in opened.entries]
        print_json(
            {"link": str(opened.path), "guard": None if target is None else str(target), "entries": entries}
        )
        return
    for entry in opened.entries:
        typer.echo(f"{entry.time}  {entry.action:7}  {entry.sha256[:12]}  {entry.name}  {entry.guard}")
    typer.echo(f"{opened.path} names {'no guard' if target is None else target}")


def _check_config(config: Path, link: Path) -> None:
    from lockgate.gateway.config import read_config
    from lockgate.guards import is_shipped

    named = read_config(config).guard
    if is_shipped(named) or _place(config.parent / named) != _place(link):
        raise ConfigError(
            f"{config}: guard: names {named}, and not {link}; a server would not follow the link"
        )


def _place(link: Path) -> Path:
    """Return where a link is, whatever it names."""
    return link.parent.resolve() / link.name


def _check_server(pid: int) -> None:
    """Check as far as possible that a process is a server that follows SIGHUP, which ends others.

    Raises:
        ConfigError: it is none, is not there, or belongs to someone else.
    """
    _signal(pid, 0)
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return  # this system does not tell
    if not _serves(words):
        raise ConfigError(f"--pid {pid}: this process is no `lockgate serve`; nothing has changed")
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
    if not int(caught.split()[1], 16) >> (signal.SIGHUP - 1) & 1:
        raise ConfigError(
            f"--pid {pid}: this server does not listen to SIGHUP yet; nothing has changed, try again when it "
            "is ready"
        )


def _serves(words: Sequence[str]) -> bool:
    """Whether a command line is that of a server, as `lockgate serve` or `python -m lockgate serve`."""
    names = [Path(word).name for word in words]
    place = next((at for at, name in enumerate(names) if name == "lockgate"), None)
    return place is not None and "serve" in words[place + 1 :]


def _hang_up(pid: int, link: Path) -> None:
    try:
        _signal(pid, signal.SIGHUP)
    except ConfigError as error:
        raise ConfigError(f"{error}; {link} has changed all the same") from None


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise ConfigError(f"--pid {pid}: there is no such process") from None
    except PermissionError:
        raise ConfigError(f"--pid {pid}: this process belongs to someone else") from None
