"""Near-duplicates: recall and precision for pairs planted at known Jaccard indices, and the index's memory for each row.

    python -m benchmarks.dedup                        # the table, about a minute
    python -m benchmarks.dedup --rows 10000 200000    # also peak memory at two sizes, some minutes more

Writes results/synthesis/dedup.json. The table depends only on seeds. Memory depends on the machine's allocator. For the
memory measurement, rows are made when they are read, as from a file: only the index stays in memory.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, overload

from benchmarks.peak import peak_bytes
from lockgate.curation import DOCUMENT_MINHASH, MinHash, find_duplicates, shingle_jaccard

TARGET = Path(__file__).parents[1] / "results" / "synthesis" / "dedup.json"
LEVELS = (0.6, 0.7, 0.8, 0.9)
PAIRS, UNRELATED = 200, 1000
# Default of the pipeline; the published setting for web documents.
SETTINGS = {"default": (MinHash(), 0.7), "document": (DOCUMENT_MINHASH, 0.8)}
WORDS = [f"w{number}" for number in range(20_000)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, nargs=2, metavar=("FEW", "MANY"), help="measure memory at both sizes"
    )
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=TARGET, help="result file")
    arguments = parser.parse_args()
    if arguments.peak is not None:
        print(json.dumps(peak(arguments.peak)))
        return
    found: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    found |= {"command": "python -m benchmarks.dedup", "pairs_per_level": PAIRS, "unrelated": UNRELATED}
    found["table"] = {name: table(*setting) for name, setting in SETTINGS.items()}
    for name, rows in found["table"].items():
        for row in rows:
            print(name, row)
    if arguments.rows:
        found["memory"] = memory(*arguments.rows)
        print(found["memory"])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


def table(minhash: MinHash, threshold: float) -> list[dict[str, Any]]:
    """Return, for each planted level, the joined pairs, the recall of true pairs and the precision of joined ones.

    True pairs are those at or above the threshold. All levels are in one set, among unrelated texts. `false_joins` counts
    unrelated texts that were joined to any other.
    """
    pairs = [(level, *plant(level, minhash.words, number)) for level in LEVELS for number in range(PAIRS)]
    texts = [text for _, first, second in pairs for text in (first, second)]
    texts += [" ".join(draw(Random(f"unrelated/{number}"), 120)) for number in range(UNRELATED)]
    groups = find_duplicates(texts, threshold=threshold, minhash=minhash)
    alone = groups[2 * len(pairs) :]
    false_joins = sum(groups.count(group) > 1 for group in alone)
    rows = []
    for level in LEVELS:
        own = [number for number, pair in enumerate(pairs) if pair[0] == level]
        true = {n for n in own if shingle_jaccard(*pairs[n][1:], words=minhash.words) >= threshold}
        joined = {n for n in own if groups[2 * n] == groups[2 * n + 1]}
        rows.append(
            {
                "planted": level,
                "threshold": threshold,
                "pairs": len(own),
                "at_threshold": len(true),
                "joined": len(joined),
                "recall": round(len(true & joined) / len(true), 4) if true else None,
                "precision": round(len(true & joined) / len(joined), 4) if joined else None,
                "false_joins": false_joins,
            }
        )
    return rows


def plant(level: float, words: int, number: int) -> tuple[str, str]:
    """Make two texts of 60 to 240 words. The Jaccard index of their n-grams is the given one, up to a gram or two.

    Half of the pairs differ in their endings, the other half also in single words here and there.
    """
    rng = Random(f"{level}/{words}/{number}")
    first = draw(rng, rng.randint(60, 240))
    grams = len(first) - words + 1
    # s shared n-grams of g each: J = s / (2g - s).
    lost = max(1, round(grams - 2 * grams * level / (1 + level) + rng.uniform(-1, 1)))
    second = list(first)
    # A changed word inside changes `words` n-grams if the next one is far enough; one at the end changes one.
    single = lost // words if number % 2 else 0
    tail = lost - single * words
    for change in range(single):
        room = (len(first) - tail - words) // single
        second[words - 1 + change * room] = f"new{change}"
    second[len(second) - tail :] = [f"end{place}" for place in range(tail)]
    return " ".join(first), " ".join(second)


def draw(rng: Random, count: int) -> list[str]:
    """Draw words roughly by Zipf's law: the logarithm of the rank is uniform."""
    size = len(WORDS)
    return [WORDS[min(int(size ** rng.random()), size - 1)] for _ in range(count)]


class MadeRows(Sequence[str]):
    """Texts that are made when they are read. One in ten repeats an earlier one with one word changed."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...
    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(self._count))]
        if row >= self._count:
            raise IndexError(row)
        words = draw(Random(f"row/{row - row % 10 if row % 10 == 9 else row}"), 80)
        if row % 10 == 9:
            words[40] = "changed"
        return " ".join(words)


def peak(rows: int) -> dict[str, Any]:
    start = time.perf_counter()
    groups = find_duplicates(MadeRows(rows))
    seconds = time.perf_counter() - start
    return {
        "rows": rows,
        "groups": len(set(groups)),
        "peak_bytes": peak_bytes(),
        "rows_per_second": round(rows / seconds),
    }


def memory(few: int, many: int) -> dict[str, Any]:
    """Measure peak memory at two sizes, each in its own process. The difference is the cost of the additional rows."""
    sizes = []
    for rows in (few, many):
        command = [sys.executable, "-m", "benchmarks.dedup", "--peak", str(rows)]
        sizes.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    per_row = (sizes[1]["peak_bytes"] - sizes[0]["peak_bytes"]) / (many - few)
    return {"sizes": sizes, "bytes_per_row": round(per_row)}


if __name__ == "__main__":
    main()
