"""The error of labels made by reading: how often two readers agree.

    python -m recipes.embedded_guard.agreement

Compares `labels/*.tsv` with the blind second reading in `labels/second/`, and the two readings of the live server's
answers in `labels/live/`. Writes `results/embedded_guard/label_agreement.json`.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lockgate.evaluation import wilson
from recipes.steps import step_parser

HERE = Path(__file__).parent
TARGET = HERE.parents[1] / "results" / "embedded_guard" / "label_agreement.json"


def main() -> None:
    step_parser(__doc__).parse_args()
    first = {
        key: value for path in sorted((HERE / "labels").glob("*.tsv")) for key, value in read(path).items()
    }
    second, again = (
        read(HERE / "labels" / "second" / f"{name}.tsv") for name in ("reading", "own_sgbench_again")
    )
    live = [read(HERE / "labels" / "live" / f"{name}.tsv") for name in ("first", "second")]
    content = {
        "command": "python -m recipes.embedded_guard.agreement",
        **agreement(first, second),
        "live": agreement(*live),
        "own_sgbench_again": agreement(first, again),
    }
    TARGET.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content))


def agreement(first: dict[str, str], second: dict[str, str]) -> dict[str, Any]:
    pairs = Counter((first[key], second[key]) for key in second)
    usable = [(a, b) for a, b in pairs.elements() if "null" not in (a, b)]
    agreed = sum(a == b for a, b in usable)
    low, high = wilson(agreed, len(usable))
    return {
        "n": len(second),
        "both_gave_a_label": len(usable),
        "agreement": round(agreed / len(usable), 4),
        "ci": [round(low, 4), round(high, 4)],
        "kappa": round(kappa(usable), 4),
        "first_second": {f"{a},{b}": count for (a, b), count in sorted(pairs.items())},
    }


def read(path: Path) -> dict[str, str]:
    rows = (line.split("\t") for line in path.read_text().splitlines() if line.strip())
    return {row[0]: row[1] for row in rows}


def kappa(pairs: list[tuple[str, str]]) -> float:
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(first[label] * second[label] for label in ("0", "1")) / n**2
    return (observed - chance) / (1 - chance)


if __name__ == "__main__":
    main()
