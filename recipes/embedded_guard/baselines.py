"""Step 5: baselines that a probe has to beat. They are trained on the same rows: one on the text, one on the prompt.

    python -m recipes.embedded_guard.baselines --out runs/embedded

Writes `results/embedded_guard/scores/baselines.parquet`: id, part, text, prompt (logits), words.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lockgate.classifiers.text import TextBaseline, TextBaselineConfig
from lockgate.exchanges import prompt_group, read_exchanges
from recipes.embedded_guard.score import PARTS
from recipes.embedded_guard.train import RESULTS
from recipes.steps import step_parser


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and models")
    arguments = parser.parse_args()
    train = list(read_exchanges(arguments.out / "train.jsonl"))
    groups = [str(row.meta.get("question") or prompt_group(row)) for row in train]
    columns: dict[str, list[NDArray[np.float64]]] = {"text": [], "prompt": []}
    names: dict[str, list[str]] = {"id": [], "part": []}
    rows_by_part = {part: list(read_exchanges(arguments.out / f"{part}.jsonl")) for part in ("dev", *PARTS)}
    for part, rows in rows_by_part.items():
        names["id"] += [row.id for row in rows]
        names["part"] += [part] * len(rows)
    configs = {"text": TextBaselineConfig(), "prompt": TextBaselineConfig(view="prompt")}
    for column, config in configs.items():
        fitted = TextBaseline.fit(train, groups, config)
        print(column, "fitted", flush=True)
        columns[column] = [fitted.decision_function(rows) for rows in rows_by_part.values()]
    table = pa.table({**names, **{name: np.concatenate(parts) for name, parts in columns.items()}})
    (RESULTS / "scores").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, RESULTS / "scores" / "baselines.parquet", compression="zstd")


if __name__ == "__main__":
    main()
