"""A build that is killed at any step and run again makes the same guard as one that is not killed."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import build_runs  # noqa: F401 - the factory's helpers on the path

from lockgate.durable import hash_path

HERE = Path(__file__).parent


def run_cases(folder: Path, backbone: Path, cases: dict[str, list[Any]]) -> dict[str, list[int]]:
    task = {"folder": str(folder), "backbone": str(backbone), "cases": cases}
    paths = [HERE, *HERE.parents[:2], HERE.parent / "synthesis"]
    done = subprocess.run(
        [sys.executable, str(HERE / "build_fault_runner.py"), json.dumps(task)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_killed_build_ends_with_the_guard_of_an_undisturbed_one(tmp_path, saved_backbone) -> None:
    cases: dict[str, list[Any]] = {
        "whole": [],
        "factory": ["synthesize: answers"],
        "training": ["read training rows", "fit the probe"],
        "scoring": ["score calibration"],
        "anywhere": [random.Random(20261122).uniform(0.01, 0.99)],
        "last": [-2],
    }
    status = run_cases(tmp_path, saved_backbone("llama"), cases)
    expected = hash_path(tmp_path / "whole" / "guard")
    assert expected is not None
    for name, case in cases.items():
        assert status[name] == [9] * len(case) + [0], name
        assert hash_path(tmp_path / name / "guard") == expected, name
