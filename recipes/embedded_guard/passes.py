"""Score a file with many heads in one pass, each as it would be served. The table holds ids and no text."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.backbones import Backbone
from lockgate.classifiers import ProbeHead
from lockgate.durable import file_sha256, open_atomic
from lockgate.evaluation import collect_provenance
from lockgate.exchanges import prompt_group, read_exchanges
from recipes.embedded_guard.sources import shuffled
from recipes.embedded_guard.variant_scores import score_variants


def score_heads(
    files: Mapping[str, Path],
    source: Path,
    target: Path,
    *,
    backbone: str,
    record: Mapping[str, Any],
    command: Sequence[str],
    seed: int,
    inputs: Sequence[Path],
    windows: Mapping[str, int] | None = None,
) -> None:
    """Score with all heads in one float32 pass. The table is kept while heads and data stay the same.

    Args:
        record: goes into the table's metadata as `run`, beside the provenance.
        windows: windows of the heads that pool by attention.
    """
    hashes = [file_sha256(path) for path in [source, *files.values()]]
    key = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    if target.exists() and (pq.read_schema(target).metadata or {}).get(b"key") == key.encode():
        return
    rows = shuffled(list(read_exchanges(source)), "dev")
    heads = [ProbeHead.load(path) for path in files.values()]
    pooled = [(windows or {}).get(name) for name in files]
    found = []
    for row in score_variants(Backbone.load(backbone), heads, pooled, rows):
        found.append(row)
        if len(found) % 100 == 0:
            print(f"{source.stem}: {len(found)}/{len(rows)}", flush=True)
    columns: dict[str, Any] = {
        "id": [row.id for row in rows],
        "source": [row.source for row in rows],
        "label": [row.label for row in rows],
        "prompt_group": [prompt_group(row) for row in rows],
        "tokens": [row[0].tokens for row in found],
    }
    for index, name in enumerate(files):
        columns[f"{name}:prompt"] = pa.array([row[index].max_prompt for row in found], pa.float32())
        columns[f"{name}:answer"] = pa.array([row[index].max_answer for row in found], pa.float32())
    provenance = collect_provenance(command, {"training": seed, "bootstrap": 0}, [])
    # Record the name, not the path, which would reveal the machine's folders.
    run = {**record, **provenance, "inputs": {path.name: file_sha256(path) for path in inputs}}
    metadata = {"key": key, "run": json.dumps(run)}
    with open_atomic(target) as file:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), file, compression="zstd")
