"""A build that is killed at any step and run again makes the same guard as one that is not killed."""

import json
import random
from typing import Any

import pytest
from processes import Command

from lockgate.durable import hash_path


@pytest.mark.slow
def test_a_killed_build_ends_with_the_guard_of_an_undisturbed_one(
    tmp_path, saved_backbone, preloaded
) -> None:
    cases: dict[str, list[Any]] = {
        "whole": [],
        "killed": [
            random.Random(20261122).uniform(0.01, 0.3),
            *("read training rows", "choose the fit", "fit the probe"),
            *("try a text voice", "score calibration", "guard"),
        ],
    }
    task = {"folder": str(tmp_path), "backbone": str(saved_backbone("llama")), "cases": cases}
    command = Command("build_fault_runner", json.dumps(task), cwd=tmp_path, preloaded=preloaded)
    try:
        command.finish(600)
    finally:
        command.close()
    status = json.loads((tmp_path / "status.json").read_text())
    expected = hash_path(tmp_path / "whole" / "guard")
    assert expected is not None
    for name, case in cases.items():
        assert status[name] == [9] * len(case) + [0], name
        assert hash_path(tmp_path / name / "guard") == expected, name
