"""Tables of campaigns: an attempt a line, with names and counts, without any text."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.durable import open_atomic
from lockgate.redteam import ATTEMPTS, RESULT, Row, read_result
from recipes.steps import METADATA, facts_of

RESULTS = Path(__file__).parents[2] / "results"
TABLES = RESULTS / "redteam"
_KEPT = ("attempts", "seeds", "adaptive", "held_out", "judge", "judge_errors", "queries", "lockgate_version")
_COLUMNS = (
    "variant", "attack", "family", "query", "seed", "number", "twin", "halted", "failed", "tokens", "success",
    "topics", "needed", "full", "refused",
)  # fmt: skip


def write_table(name: str, out: Path) -> None:
    """Write the attempts of a campaign as a table without texts."""
    result = read_result(out / RESULT)
    lines = [json.loads(line) for line in (out / ATTEMPTS).read_text().splitlines()]
    table = pa.table({column: [line[column] for line in lines] for column in _COLUMNS})
    facts = {key: result[key] for key in _KEPT}
    table = table.replace_schema_metadata({METADATA: json.dumps(facts)})
    TABLES.mkdir(exist_ok=True)
    with open_atomic(TABLES / f"{name}.parquet") as file:
        pq.write_table(table, file, compression="zstd")


def read_table(name: str) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Return the rows of a campaign by variant, and what its table says about it."""
    table = pq.read_table(TABLES / f"{name}.parquet")
    rows: dict[str, list[Row]] = {}
    for line in table.to_pylist():
        rows.setdefault(line["variant"], []).append(
            Row(**{**line, "topics": tuple(line["topics"])}, facts={})
        )
    return rows, facts_of(table)
