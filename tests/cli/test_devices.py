"""Every command that loads a model takes a device and a precision, and refuses wrong ones before it loads."""

from typing import Any

import pytest
import typer

from lockgate.cli import app, main

COMMANDS = (
    "doctor",
    "serve",
    "score",
    "calibrate",
    "evaluate",
    "build",
    "synthesize",
    "train probe",
    "train classifier",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_has_both_options_and_auto_is_their_default(name) -> None:
    command: Any = typer.main.get_command(app)
    for word in name.split():
        command = command.commands[word]
    found = {option: one.default for one in command.params for option in one.opts}
    assert found["--device"] == found["--dtype"] == "auto"


@pytest.mark.parametrize("option", [("--device", "gpu"), ("--device", "cuda:99"), ("--dtype", "int8")])
@pytest.mark.parametrize("arguments", [["doctor"], ["serve", "--mode", "off", "--port", "0"]])
def test_a_wrong_value_is_one_line_and_exit_code_2(arguments, option, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *option])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"error: {option[0][2:]} {option[1]}: ")
    assert error.count("\n") == 1
