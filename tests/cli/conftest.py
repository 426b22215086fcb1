"""Commands as processes of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Command
from stopping import Start


@pytest.fixture
def start(preloaded) -> Iterator[Start]:
    """Starts `lockgate WORDS` in a folder. What a failed test has left ends with the test."""
    started: list[Command] = []

    def start(folder: Path, *words: Any) -> Command:
        started.append(Command("lockgate", *words, cwd=folder, preloaded=preloaded))
        return started[-1]

    yield start
    for command in started:
        command.close()
