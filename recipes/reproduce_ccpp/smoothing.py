"""Should verdicts be smoothed over blocks, as the probe's logits are over tokens? The committed traces give the answer.

    python -m recipes.reproduce_ccpp.smoothing           # results/four_systems/smoothing.json
    python -m recipes.reproduce_ccpp.smoothing --check   # fail if the committed figures differ

Only the exchange classifier is compared: the largest running mean of its last verdicts, for several lengths, and the
verdict on the whole answer, which a stream cannot wait for. Cuts are set on calibration exchanges. The caught exchanges
are harmful development exchanges. Test exchanges are not used.
"""

import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.evaluation import Detections, Estimate, at_least_as_robust, macro_rate
from lockgate.tables import BlockTrace, ScoresTable
from recipes.reproduce_ccpp.places import RESULTS
from recipes.steps import step_parser

MODEL = "probe_exchange"
LENGTHS = (1, 2, 4, 8)
SHARES = (0.001, 0.01)
Floats = NDArray[np.float64]


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    arguments = parser.parse_args()
    found, target = measure(), RESULTS / "smoothing.json"
    if arguments.check:
        if json.loads(target.read_text()) != found:
            sys.exit(f"{target.name} differs from the tables; run this without --check")
        return
    target.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["variants"], indent=1))


def measure() -> dict[str, Any]:
    """Return each variant's TPR on development exchanges, and its difference to single verdicts, by prompt."""
    table, ordinary = read("calibration")
    development, rows = read("dev")
    harmful = development.labels >= 0.5
    groups = np.array(development.groups)[harmful]
    sides = {name: (reduce(ordinary, name), reduce(rows, name)[harmful]) for name in variants()}
    content: dict[str, Any] = {
        "n_calibration": len(table.ids),
        "n_harmful": int(harmful.sum()),
        "variants": {},
    }
    for share in SHARES:
        flags = {name: Detections(own > cut(benign, share), groups) for name, (benign, own) in sides.items()}
        for name, own in flags.items():
            rate = macro_rate([own])
            versus = at_least_as_robust([own], [flags["1"]], fpr=share, macro=False).difference
            assert rate is not None
            content["variants"].setdefault(name, {})[str(share)] = {
                "tpr": round(rate.value, 4),
                "ci": interval(rate),
                "minus_single": round(versus.value, 4),
                "minus_single_ci": interval(versus),
            }
    return content


def interval(found: Estimate) -> list[float | None]:
    return [None if end is None else round(end, 4) for end in (found.lower, found.upper)]


def variants() -> list[str]:
    return [*map(str, LENGTHS), "last"]


def read(part: str) -> tuple[ScoresTable, list[Floats]]:
    """Return a part's table and the verdicts of each exchange."""
    table = ScoresTable.read(RESULTS / MODEL / f"{part}.parquet")
    trace = BlockTrace.read(RESULTS / MODEL / f"{part}.blocks.parquet")
    return table, [np.asarray(trace.classifier[trace.of(row)], float) for row in range(len(table.ids))]


def reduce(verdicts: list[Floats], name: str) -> Floats:
    """Return one score for each exchange."""
    if name == "last":
        return np.array([row[-1] for row in verdicts])
    return np.array([running_means(row, int(name)).max() for row in verdicts])


def running_means(row: Floats, length: int) -> Floats:
    """Return the means of each value and the `length` - 1 before it; of fewer at the start of a row."""
    sums = np.convolve(row, np.ones(length))[: len(row)]
    return np.asarray(sums / np.minimum(np.arange(1, len(row) + 1), length))


def cut(benign: Floats, share: float) -> float:
    """Return the lowest cut with at most the given share of benign scores strictly above it."""
    return float(np.sort(benign)[::-1][int(share * len(benign))])


if __name__ == "__main__":
    main()
