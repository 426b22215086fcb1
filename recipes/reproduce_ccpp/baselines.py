"""The study's text baseline: n-grams of words and characters, learned from the same rows.

    python -m recipes.reproduce_ccpp.baselines --out runs/four_systems

Writes `results/four_systems/text/PART.parquet` (scores, no text) for every part that the four systems read, in a minute
or two. Its threshold comes from the same calibration rows as the thresholds of the systems.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.classifiers.text import TextBaseline, TextBaselineConfig
from lockgate.durable import file_sha256
from lockgate.exchanges import Exchange, prompt_group, read_exchanges
from lockgate.tables import ScoresTable
from recipes.reproduce_ccpp.parts import FULL
from recipes.reproduce_ccpp.places import Places, make_parser, read_places


def main() -> None:
    score_text(read_places(make_parser(__doc__).parse_args()))


def score_text(places: Places, config: TextBaselineConfig | None = None) -> None:
    """Fit on the training rows and score all parts, unless tables of the same rows exist."""
    folder = places.results / "text"
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "scoring.json"
    inputs = {
        "train": file_sha256(places.out / "train.jsonl"),
        "parts": {name: file_sha256(part.path(places.out)) for name, part in sorted(FULL.items())},
    }
    written = all((folder / f"{name}.parquet").exists() for name in FULL)
    kept = json.loads(record.read_text()) if record.exists() else {}
    if written and {key: kept.get(key) for key in inputs} == inputs:
        print("text: there already", flush=True)
        return
    train = [row for row in read_exchanges(places.out / "train.jsonl") if row.label is not None]
    groups = [str(row.meta.get("question") or prompt_group(row)) for row in train]
    fitted = TextBaseline.fit(train, groups, config)
    for name, part in FULL.items():
        rows = list(part.read(places.out))
        table_of(rows, fitted.decision_function(rows)).write(folder / f"{name}.parquet")
        print(f"text {name}: {len(rows)}", flush=True)
    content = {**inputs, "exchanges": fitted.n_rows, "groups": fitted.n_groups, "c": fitted.c}
    record.write_text(json.dumps(content, indent=1) + "\n")


def table_of(rows: Sequence[Exchange], logits: NDArray[np.float64]) -> ScoresTable:
    return ScoresTable.from_rows(
        row_of(number, row, float(logit))
        for number, (row, logit) in enumerate(zip(rows, logits, strict=True))
    )


def row_of(number: int, row: Exchange, logit: float) -> dict[str, Any]:
    """Make a row of the scores table. Tokens and FLOPs are 0, because no model is read. CPU seconds are not compared."""
    costs = ("tokens_stage1", "tokens_stage2", "flops_stage1", "flops_stage2", "cpu_s_stage1", "cpu_s_stage2")
    return {
        "row": number,
        **{key: getattr(row, key) for key in ("id", "source", "label", "category")},
        "probe_max": logit,
        "mixed_max": logit,
        "flagged": False,
        "stage": 1,
        **dict.fromkeys(costs, 0),
        "prompt_group": prompt_group(row),
    }


if __name__ == "__main__":
    main()
