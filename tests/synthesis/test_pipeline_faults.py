"""The pipeline under kill -9 and on a full disk, in separate processes, over real HTTP."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import serving_endpoint
from fault_runner import CONCURRENCY

HERE = Path(__file__).parent


def run_cases(folder: Path, url: str, cases: dict[str, list[Any]]) -> dict[str, list[int]]:
    task = json.dumps({"folder": str(folder), "url": url, "cases": cases})
    path = os.pathsep.join(map(str, [HERE, *HERE.parents[:2]]))
    done = subprocess.run(
        [sys.executable, str(HERE / "fault_runner.py"), task],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def data_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_data_of_an_undisturbed_one(tmp_path) -> None:
    with serving_endpoint() as endpoint:
        assert run_cases(tmp_path, endpoint.url, {"whole": []}) == {"whole": [0]}
        expected = data_of(tmp_path / "whole" / "run")
        events = int((tmp_path / "whole" / "events.txt").read_text())
        draw = random.Random(20260117)
        moments = [draw.randrange(2, events) for _ in range(7)]
        cases: dict[str, list[Any]] = {f"killed-{moment}": [moment] for moment in moments}
        cases["killed-thrice"] = [events // 4, events // 4, events // 4]
        cases["no-room"] = ["no room"]
        status = run_cases(tmp_path, endpoint.url, cases)
        for name, case in cases.items():
            died = [] if name == "no-room" else [9] * len(case)
            assert status[name][: len(died)] == died, name
            assert status[name][-1] == 0, name
            assert data_of(tmp_path / name / "run") == expected, name
            assert endpoint.repeated(name) <= CONCURRENCY * len(case), name
        assert endpoint.repeated("whole") == 0
    error = (tmp_path / "no-room" / "error.txt").read_text()
    assert "no room left" in error
    assert "run again" in error
