"""garak's real command probes a real Lockgate server, with the configuration that the documentation gives."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from guarded import Model, from_the_page, guarded
from logs import decisions_in

from benchmarks.tiny import MARK


def find_garak() -> str:
    """Where the command is. Skips the module where there is none, or fails it if it is required."""
    beside = Path(sys.executable).with_name("garak")
    path = os.environ.get("GARAK") or shutil.which("garak") or (str(beside) if beside.is_file() else None)
    if path is not None:
        return path
    words = "no garak: pip install garak, or set GARAK to its command"
    if os.environ.get("LOCKGATE_REQUIRE_GARAK") == "1":
        pytest.fail(words)
    pytest.skip(words, allow_module_level=True)


GARAK = find_garak()
# garak's own strings for tests of a connection. One of them has the mark.
PROBE = "probes.test.Test"


def attempts_in(path: Path) -> dict[str, list[Any]]:
    """What came back for each prompt of a finished run."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert "completion" in {entry["entry_type"] for entry in entries}
    return {
        entry["prompt"]["turns"][-1]["content"]["text"]: entry["outputs"]
        for entry in entries
        if entry["entry_type"] == "attempt" and entry["status"] == 2
    }


def test_the_configuration_of_the_page_sees_answers_and_halts(tmp_path) -> None:
    # The answer to one prompt is halted, another prompt is flagged itself.
    model = Model(lambda messages: f"Not {MARK} quite." if "fox" in messages[-1]["content"] else "Indeed.")
    variables = {"OPENAICOMPATIBLE_API_KEY": "unused", "HOME": str(tmp_path), "NO_PROXY": "*"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with guarded(tmp_path, model) as url:
        (tmp_path / "garak.yaml").write_text(from_the_page("garak", "yaml", url))
        found = subprocess.run(
            [GARAK, "--config", "garak.yaml", "--spec", PROBE, "--report_prefix", str(tmp_path / "probed")],
            cwd=tmp_path,
            env={**environment, **variables, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert found.returncode == 0, found.stdout + found.stderr
    attempts = attempts_in(tmp_path / "probed.report.jsonl")
    assert len(attempts) == 8
    for prompt, outputs in attempts.items():
        assert len(outputs) == 1
        said = outputs[0] and outputs[0]["text"]
        assert said == (None if MARK in prompt or "fox" in prompt else "Indeed."), prompt
    assert sum(MARK in prompt for prompt in attempts) == 1
    kinds = [line["decision"] for line in decisions_in(tmp_path / "decisions.db")]
    assert sorted(kinds) == ["block", "halt", *["pass"] * 6]
    assert {body["max_tokens"] for body in model.bodies} == {400}
