"""How often the second reading of the pairs agrees with their labels.

    python -m recipes.policy_portability.agreement [--check]

Writes `results/synthesis/policy_agreement.json` from `second_reading.tsv`. With `--check`, it fails if that differs.
"""

import json
import sys
from typing import Any

from lockgate.evaluation import wilson
from recipes.policy_portability.policy_pairs import HERE, POLICIES, RESULTS, read_pairs
from recipes.steps import step_parser

READING = HERE / "second_reading.tsv"
TARGET = RESULTS / "policy_agreement.json"
NOTE = (
    "The pairs were written and labelled by a language model. The same model labelled them again from the two "
    "constitutions' text, shuffled and without the labels, so the two readings are not independent persons' and the "
    "agreement is an upper bound. Every exchange on which they differed was rewritten until its label was plain, and "
    "kept in its pair; the reading is of the text before that."
)


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    found = compute()
    if parser.parse_args().check:
        if found != json.loads(TARGET.read_text()):
            sys.exit(f"{TARGET.name} differs from the second reading; run this without --check")
        print("the agreement follows from the second reading")
        return
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(found, indent=1) + "\n")


def compute() -> dict[str, Any]:
    labels = {(row.pair, row.side): row.labels for row in read_pairs()}
    names, *lines = (line.split("\t") for line in READING.read_text().splitlines())
    rows = [dict(zip(names, line, strict=True)) for line in lines]
    if {(row["pair"], row["side"]) for row in rows} != set(labels) or len(rows) != len(labels):
        sys.exit(f"{READING.name}: expected one line for each exchange of the pairs")
    agreed = {
        name: [int(row[name]) == labels[row["pair"], row["side"]][name] for row in rows] for name in POLICIES
    }
    differing = [row for row, *same in zip(rows, *agreed.values(), strict=True) if not all(same)]
    return {
        "command": "python -m recipes.policy_portability.agreement",
        "note": NOTE,
        "n": len(rows),
        "agreement": {name: round(sum(same) / len(same), 4) for name, same in agreed.items()},
        "ci": {
            name: [round(end, 4) for end in wilson(sum(same), len(same))] for name, same in agreed.items()
        },
        "differing": [f"{row['pair']}{row['side']}" for row in differing],
        "rewritten": [f"{row['pair']}{row['side']}" for row in rows if row["afterwards"] == "rewritten"],
    }


if __name__ == "__main__":
    main()
