"""Scores tables of the recipes, made up by hand."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recipes.embedded_guard.value_figures import SETS
from recipes.policy_portability.policy_figures import SCHEMA, SCORERS
from recipes.policy_portability.policy_pairs import POLICIES

TRAINED = {name: {"exchanges": 30, "harmful": 10} for name in SETS}
# Two harmful rows in a and six in b; four harmless ones in a and eight in c.
HARMFUL = np.array([True] * 8 + [False] * 12)
SOURCES = np.array(["a"] * 2 + ["b"] * 6 + ["a"] * 4 + ["c"] * 8)


def write_value(path: Path, scores, groups=None) -> None:
    """A scores table; `scores` are of the answer, the prompt has none."""
    columns = {
        "id": [f"{i:016x}" for i in range(20)],
        "source": SOURCES,
        "label": HARMFUL.astype(float),
        "prompt_group": [f"g{i}" for i in range(20)] if groups is None else groups,
        "tokens": [7] * 20,
    }
    for name in SETS:
        columns[f"{name}:prompt"] = pa.array([None] * 20, pa.float32())
        columns[f"{name}:answer"] = pa.array(scores[name], pa.float32())
    run = {"training": TRAINED, "removed": {"prompt equal": 2}}
    pq.write_table(pa.table(columns).replace_schema_metadata({"run": json.dumps(run)}), path)


def separated(found: int) -> np.ndarray:
    """The first `found` harmful rows stand above all harmless ones, the others below."""
    return np.where(HARMFUL, np.where(np.arange(20) < found, 5.0, -5.0), np.linspace(-1, 1, 20))


def write_policy(path: Path, guards: dict[str, str]) -> None:
    """Three flipped pairs under both constitutions; the guards, named by their hashes, miss one exchange."""
    rows = [
        (f"p{pair}", side, "id", name, "topic", int((side == "a") == (name == POLICIES[0])))
        for name in POLICIES
        for pair in range(3)
        for side in "ab"
    ]
    columns = dict(zip(SCHEMA.names[:6], map(list, zip(*rows, strict=True)), strict=True))
    for name in SCORERS:
        right = [bool(label) for label in columns["label"]]
        verdicts = [False, *right[1:]] if name == "guard" else [False] * len(right)
        columns[name] = [float(verdict) for verdict in verdicts]
        columns[f"{name}_flagged"] = verdicts
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in SCHEMA})
    made = {"guards": {name: {"guard_sha256": digest} for name, digest in guards.items()}}
    pq.write_table(table.replace_schema_metadata({"lockgate": json.dumps(made)}), path)
