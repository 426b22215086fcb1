"""Soft labels for probes: the exchange classifier's verdict on each whole training exchange.

    python -m recipes.reproduce_ccpp.score --out runs/four_systems --model teacher   # half an hour on two cores
    python -m recipes.reproduce_ccpp.teach --out runs/four_systems
    python -m recipes.embedded_guard.ablate --out runs/embedded --teacher results/four_systems/teacher/labels.parquet

The teacher has learned from the same exchanges as the probe. Its labels show how sure it is about them, not how it
judges exchanges that it has never seen.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.durable import open_atomic
from lockgate.tables import BlockTrace, ScoresTable
from recipes.reproduce_ccpp.places import Places, make_parser, read_places


def main() -> None:
    print(write_labels(read_places(make_parser(__doc__).parse_args())))


def write_labels(places: Places) -> str:
    """Write id and probability of harm from each exchange's last verdict. Returns how they fit the labels."""
    folder = places.results / "teacher"
    table, trace = (
        ScoresTable.read(folder / "train.parquet"),
        BlockTrace.read(folder / "train.blocks.parquet"),
    )
    logits = np.array([trace.classifier[trace.of(row)][-1] for row in range(len(table))], dtype=np.float64)
    probabilities = 1 / (1 + np.exp(-logits))
    with open_atomic(folder / "labels.parquet") as file:
        pq.write_table(pa.table({"id": table.ids, "probability": probabilities}), file, compression="zstd")
    harmful = table.labels >= 0.5
    return (
        f"{len(table)} exchanges; of {harmful.sum()} harmful ones {(probabilities[harmful] >= 0.5).sum()} are above a half, "
        f"of {(~harmful).sum()} harmless ones {(probabilities[~harmful] >= 0.5).sum()}"
    )


if __name__ == "__main__":
    main()
