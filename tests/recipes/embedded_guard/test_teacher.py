"""Soft labels from a file."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caches import exchange

from lockgate.errors import TrainingError
from recipes.embedded_guard.teacher import read_soft_labels, soften

ROWS = [exchange(i) for i in range(3)]
LABELS = {row.id: 0.25 * i for i, row in enumerate(ROWS)}


def test_both_formats(tmp_path) -> None:
    lines = [json.dumps({"id": name, "probability": value}) for name, value in LABELS.items()]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    table = {"id": list(LABELS), "probability": list(LABELS.values()), "row": [0, 1, 2]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.parquet"):
        found = soften(ROWS, read_soft_labels(tmp_path / name))
        assert [row.label for row in found] == [0.0, 0.25, 0.5]
        assert [row.messages for row in found] == [row.messages for row in ROWS]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a", "probability": 1.2}', r"row 1: probability outside"),
        ('{"id": "a", "probability": NaN}', r"row 1: probability outside"),
        ('{"id": "a", "probability": 1}\n{"id": "a", "probability": 0}', r"row 2: id a has another"),
        ('{"id": "a"}', r"row 1: expected a text"),
        ('{"id": 3, "probability": 0.5}', r"row 1: expected a text"),
        ("[1]", r"expected one JSON object"),
        ("{", r"not readable as soft labels"),
    ],
)
def test_bad_files(tmp_path, text, message) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(TrainingError, match=message):
        read_soft_labels(path)


def test_missing_file_columns_and_scores(tmp_path) -> None:
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "t.parquet")
    for name in ("t.parquet", "none.parquet", "none.jsonl"):
        with pytest.raises(TrainingError, match="not readable as soft labels"):
            read_soft_labels(tmp_path / name)
    with pytest.raises(TrainingError, match=f"no score for 1 of 3 exchanges, among them {ROWS[2].id}"):
        soften(ROWS, {row.id: 0.5 for row in ROWS[:2]})
