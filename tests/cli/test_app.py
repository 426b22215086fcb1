import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from lockgate._version import __version__
from lockgate.cli import app, main
from lockgate.cli._common import print_json, print_table, progress
from lockgate.errors import ConfigError

Run = Callable[..., tuple[int, str, str]]

HEAVY = ("torch", "transformers", "sklearn", "scipy", "matplotlib", "pyarrow", "numpy")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = f"""
import atexit, gc, sys
from lockgate.cli import main
atexit.register(lambda: print("LEFT TO COLLECT", len(gc.get_objects())))
try:
    main(["--help"])
finally:
    print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # A second on an idle machine; the bound leaves room for a busy one.
    assert time.perf_counter() - start < 10
    assert "HEAVY []" in done.stdout
    # Handlers run from the last to the first.
    assert int(done.stdout.rpartition("LEFT TO COLLECT ")[2]) < 1000
    assert "constitution" in done.stdout
    assert "Exit codes: 0" in re.sub(r"\s+", " ", done.stdout)


def test_version_and_usage(run: Run) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")
    assert run("no-such-command")[0] == 2
    assert run("constitution", "check")[0] == 2
    assert run("constitution", "check", "--no-such-option", "x")[0] == 2


def raise_in_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    broken = typer.Typer(pretty_exceptions_enable=False)

    @broken.command()
    def command() -> None:
        raise error

    monkeypatch.setattr("lockgate.cli.app", broken)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a.yaml:3: k: bad\nvalue\x1b[0m"), 2, "error: a.yaml:3: k: bad value [0m\n"),
        (
            OSError(28, "No space left on device", "a.parquet"),
            2,
            "error: a.parquet: No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (typer.Exit(1), 1, ""),
    ],
)
def test_errors_become_exit_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    raise_in_command(monkeypatch, error)
    assert run() == (code, "", line)


def test_a_bug_is_no_usage_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in_command(monkeypatch, ZeroDivisionError("x"))
    code, _, err = run()
    assert code == 70
    assert "ZeroDivisionError" in err
    assert err.endswith("please report the lines above\n")


def test_every_command_offers_json() -> None:
    root = typer.main.get_command(app)
    pending = list(root.commands.items())  # type: ignore[attr-defined]
    while pending:
        name, command = pending.pop()
        if hasattr(command, "commands"):
            pending += [(f"{name} {child}", item) for child, item in command.commands.items()]
        else:
            options = {option for parameter in command.params for option in parameter.opts}
            assert "--json" in options, name
            assert command.help, name
            # Rich takes such brackets for markup and leaves them out.
            assert not [p.name for p in command.params if "[default" in (getattr(p, "help", None) or "")]


def test_json_is_readable_and_strict(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "ü", "b": [1.5, None]})
    assert json.loads(capsys.readouterr().out) == {"a": "ü", "b": [1.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        print_json(float("nan"))


def test_tables_are_plain_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [(1, "[red]x")])
    assert capsys.readouterr().out == "a\tb\n1\t[red]x\n"


def test_progress_is_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("rows", 4) as advance:
        advance(3)
        advance(1)
    with progress("rows") as advance:
        advance(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"rows: 4/4 \(100%\), \d+ s\nrows: 2, \d+ s\n", err)
