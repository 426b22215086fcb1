"""What bfloat16 does to the scores of the embedded guard, on the processor, against float32.

    python -m benchmarks.precision
    python -m benchmarks.precision --input saferlhf_mini.jsonl.gz

Scores the same exchanges in both precisions and writes the part `dtype` of results/engines.json: numbers only. The
first set ships with the project: the exchanges of recipes/policy_portability, nearly all harmless for this guard.
Files given with --input are further sets; of each, rows at equal distances are taken. The fixed tokens by which a
guard recognises its backbone are compared too, also in float16: the tolerance of that check comes from here.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import TARGET, write_part
from lockgate.backbones import Backbone
from lockgate.evaluation import collect_provenance
from lockgate.exchanges import Exchange, read_exchanges, write_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic import Transfer, compare_precisions, score_traffic

SHIPPED = Path(__file__).parents[1] / "recipes" / "policy_portability" / "pairs.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, action="append", default=[], help="a further set of exchanges")
    parser.add_argument("--rows", type=int, default=300, help="exchanges of each set")
    parser.add_argument("--guard", default="embedded", help="guard to score with")
    parser.add_argument("--backbone", default="embedded", help="its backbone")
    parser.add_argument("--output", type=Path, default=TARGET, help="result file")
    arguments = parser.parse_args()
    files = [SHIPPED, *arguments.input]
    sets = [choose(list(read_exchanges(path)), arguments.rows) for path in files]
    found = measure(sets, guard=arguments.guard, backbone=arguments.backbone)
    names = [path.name.partition(".")[0] for path in files]
    found["bfloat16"]["sets"] = dict(zip(names, found["bfloat16"]["sets"], strict=True))
    # The files are named without their folder, which differs from machine to machine.
    command = ["python", "-m", "benchmarks.precision", *(f"--input {path.name}" for path in arguments.input)]
    found["provenance"] = collect_provenance(command, seeds={}, inputs=[])
    write_part("dtype", found, arguments.output)
    print(found)


def choose(rows: Sequence[Exchange], count: int) -> list[Exchange]:
    """Return `count` of the rows at equal distances, or all if there are fewer."""
    picked = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))
    return [rows[number] for number in picked]


def measure(sets: Sequence[Sequence[Exchange]], *, guard: str, backbone: str) -> dict[str, Any]:
    """Score all sets in float32 and bfloat16, and compare scores and fixed tokens."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        files = [place / f"{number}.jsonl" for number in range(len(sets))]
        for path, rows in zip(files, sets, strict=True):
            write_exchanges(path, rows)
        plain = Guard.load(guard, backbone=backbone, device="cpu", dtype="float32")
        fixed = np.array(plain.backbone.identity.fingerprint)
        before = [score_traffic(plain, [path], place / "before") for path in files]
        tokens = {dtype: fixed_tokens(backbone, dtype, fixed) for dtype in ("bfloat16", "float16")}
        # The guard computes in bfloat16 on purpose; its warning would say nothing new.
        half = Guard.load(guard, backbone=backbone, device="cpu", dtype="bfloat16")
        after = [score_traffic(half, [path], place / "after") for path in files]
    whole = compare_precisions(half, ScoresTable.concat(before), ScoresTable.concat(after))
    parts = [compare_precisions(half, one, other) for one, other in zip(before, after, strict=True)]
    return {
        "bfloat16": {**summary(whole), "sets": [summary(part) for part in parts], **tokens["bfloat16"]},
        "float16": tokens["float16"],
    }


def fixed_tokens(backbone: str, dtype: str, expected: np.ndarray) -> dict[str, Any]:
    """Return the largest difference of the fixed tokens' logits, also as a share of their spread."""
    found = np.array(Backbone.load(backbone, device="cpu", dtype=dtype).identity.fingerprint)
    moved = float(np.abs(found - expected).max())
    return {
        "fixed_tokens_max_abs": round(moved, 4),
        "fixed_tokens_share_of_spread": round(moved / float(expected.std()), 4),
    }


def summary(found: Transfer) -> dict[str, Any]:
    """Return the figures: `max_abs` is the largest change of the probe's score, over all exchanges."""
    return {
        "n": found.n,
        "max_abs": round(found.probe.max_abs, 5),
        "mean_abs": round(found.probe.mean_abs, 5),
        "mixed": {"n": found.decided.n, "max_abs": round(found.decided.max_abs, 5)},
        "judged_once": found.judged_once,
        "flagged": [found.flagged_before, found.flagged_after],
        "flag_changes": found.flag_changes,
    }


if __name__ == "__main__":
    main()
