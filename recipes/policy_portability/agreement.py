"""How often the second readings of the pairs and of the labelled exchanges agree with their labels.

    python -m recipes.policy_portability.agreement [--check]

Writes `results/synthesis/policy_agreement.json` from `second_reading.tsv`, and `labelled_agreement.json` from
`labelled_reading.tsv`. With `--check`, it fails if one of them differs.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lockgate.evaluation import wilson
from recipes.policy_portability.policy_labelled import read_labelled
from recipes.policy_portability.policy_pairs import HERE, POLICIES, RESULTS, read_pairs
from recipes.steps import step_parser

READING, LABELLED_READING = HERE / "second_reading.tsv", HERE / "labelled_reading.tsv"
TARGET, LABELLED_TARGET = RESULTS / "policy_agreement.json", RESULTS / "labelled_agreement.json"
NOTE = (
    "The pairs were written and labelled by a language model. The same model labelled them again from the two "
    "constitutions' text, shuffled and without the labels, so the two readings are not independent persons' and the "
    "agreement is an upper bound. Every exchange on which they differed was rewritten until its label was plain, and "
    "kept in its pair; the reading is of the text before that."
)
LABELLED_NOTE = (
    "The exchanges were written and labelled by a language model. The same model read them again in shuffled order, "
    "without the labels beside them, right after it had written them. It may have remembered what it meant, so the "
    "agreement is an upper bound, and higher than two persons would reach. Every exchange on which the readings "
    "differed was rewritten until its label was plain; the reading is of the text before that."
)


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    check = parser.parse_args().check
    for found, target in ((compute(), TARGET), (compute_labelled(), LABELLED_TARGET)):
        if not check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(found, indent=1) + "\n")
        elif found != json.loads(target.read_text()):
            sys.exit(f"{target.name} differs from the second reading; run this without --check")
    if check:
        print("the agreement follows from the second readings")


def compute() -> dict[str, Any]:
    """Return the agreement on the pairs."""
    labels = {f"{row.pair}{row.side}": row.labels for row in read_pairs()}
    return _agreement(READING, labels, ("pair", "side"), NOTE)


def compute_labelled() -> dict[str, Any]:
    """Return the agreement on the labelled exchanges."""
    labels = {row.row: row.labels for row in read_labelled()}
    return _agreement(LABELLED_READING, labels, ("row",), LABELLED_NOTE)


def _agreement(
    reading: Path, labels: Mapping[str, Mapping[str, int]], key: tuple[str, ...], note: str
) -> dict[str, Any]:
    names, *lines = (line.split("\t") for line in reading.read_text().splitlines())
    read = [dict(zip(names, line, strict=True)) for line in lines]
    rows = {"".join(row[part] for part in key): row for row in read}
    if rows.keys() != labels.keys() or len(read) != len(labels):
        sys.exit(f"{reading.name}: expected one line for each exchange")
    agreed = {
        name: [int(row[name]) == labels[place][name] for place, row in rows.items()] for name in POLICIES
    }
    differing = [place for place, *same in zip(rows, *agreed.values(), strict=True) if not all(same)]
    return {
        "command": "python -m recipes.policy_portability.agreement",
        "note": note,
        "n": len(rows),
        "agreement": {name: round(sum(same) / len(same), 4) for name, same in agreed.items()},
        "ci": {
            name: [round(end, 4) for end in wilson(sum(same), len(same))] for name, same in agreed.items()
        },
        "differing": differing,
        "rewritten": [place for place, row in rows.items() if row["afterwards"] == "rewritten"],
    }


if __name__ == "__main__":
    main()
