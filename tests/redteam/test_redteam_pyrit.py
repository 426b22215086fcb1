"""PyRIT asks a real Lockgate server, by the script that the documentation gives."""

import os
import subprocess
import sys

import pytest
from guarded import ROOT, Model, from_the_page, guarded

from benchmarks.tiny import MARK
from lockgate.redteam import RubricGrader, load_queries

if os.environ.get("LOCKGATE_REQUIRE_PYRIT") == "1":
    import pyrit
else:
    pyrit = pytest.importorskip("pyrit", reason="no PyRIT: pip install pyrit")

pytestmark = pytest.mark.filterwarnings("default")
QUERIES = load_queries("stage-magic").queries


def answer(messages) -> str:
    """Tell all, but with the mark in the answer to the second question."""
    number = [query.text for query in QUERIES].index(messages[-1]["content"])
    told = QUERIES[number].answers[0]
    return told.replace(". ", f". {MARK}", 1) if number == 1 else told


def test_the_script_of_the_page_sees_answers_and_halts(tmp_path) -> None:
    model = Model(answer)
    with guarded(tmp_path, model) as url:
        (tmp_path / "attack.py").write_text(from_the_page("PyRIT", "python", url))
        found = subprocess.run(
            [sys.executable, "attack.py"],
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "NO_PROXY": "*"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert found.returncode == 0, found.stderr
    grades = [RubricGrader().grade(query, query.answers[0]) for query in QUERIES]
    expected = [
        f"{query.id}: {'halted' if number == 1 else f'{len(grade.topics)} topics, success {grade.success}'}"
        for number, (query, grade) in enumerate(zip(QUERIES, grades, strict=True))
    ]
    assert [
        line for line in found.stdout.splitlines() if line.split(":")[0] in {q.id for q in QUERIES}
    ] == expected
    assert len(model.bodies) == len(QUERIES)
