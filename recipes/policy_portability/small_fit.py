"""What the cross-validation of builds chose, from their folders, also of builds that were stopped after it.

    python -m recipes.policy_portability.small_fit --build NAME=GUARD.build ...

Writes `results/synthesis/small_fit.json`: rows, settings tried and voices tried, with no text. These figures are of
training rows that a fit has not seen. They say nothing about the pairs, on which `small_sets` judges.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lockgate.constitution import Constitution
from lockgate.durable import file_sha256, open_atomic
from lockgate.exchanges import read_exchanges
from recipes.policy_portability.policy_pairs import POLICIES, RESULTS, load_policies
from recipes.steps import step_parser

SUMMARY = RESULTS / "small_fit.json"
# Of the step of the rows only the counts are kept: what was dropped and why says nothing here.
_COUNTS = ("training", "synthetic", "benign_training", "calibration_prompts", "held_out")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    found = {}
    for value in options.build:
        name, _, folder = value.partition("=")
        if name not in POLICIES or not folder:
            sys.exit(f"--build: expected NAME=DIR with a name of {', '.join(POLICIES)}")
        found[name] = read_steps(Path(folder), load_policies()[name])
    content = {"command": "python -m recipes.policy_portability.small_fit", "builds": found}
    with open_atomic(options.summary) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def read_steps(folder: Path, policy: Constitution) -> dict[str, Any]:
    """Return what the steps of a build say about its fit and its voice. Ends the program if one is missing."""
    steps = {}
    for name in ("rows", "train", "voice"):
        path = folder / "steps" / f"{name}.json"
        if not path.is_file():
            sys.exit(f"{path}: missing; run `lockgate build` until it scores, then call this again")
        steps[name] = json.loads(path.read_text(encoding="utf-8"))
    card = json.loads((folder / "data" / "card.json").read_text(encoding="utf-8"))
    contents = {name: step.get("content", step) for name, step in steps.items()}
    return {
        "rows": {name: contents["rows"]["counts"][name] for name in _COUNTS},
        "training_roles": _roles(folder / "training.jsonl", policy),
        "most_answers": card["plan"]["answers"]["most"],
        "generator": card["generator"],
        "training_sha256": file_sha256(folder / "training.jsonl"),
        "fit": contents["train"]["choice"],
        "voice": contents["voice"],
        "seconds": {name: step.get("seconds") for name, step in steps.items()},
    }


def _roles(path: Path, policy: Constitution) -> dict[str, int]:
    """Count training rows by role, and harmless ones also by the bucket of their entry."""
    bucket = {entry.id: name for name, entries in policy.buckets.items() for entry in entries}
    roles: Counter[str] = Counter()
    for row in read_exchanges(path):
        role, place = str(row.meta.get("role", "not synthetic")), bucket.get(str(row.category))
        roles[role if place is None else f"{role}/{place}"] += 1
    return dict(sorted(roles.items()))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = step_parser(__doc__)
    parser.add_argument(
        "--build",
        action="append",
        default=[],
        metavar="NAME=DIR",
        required=True,
        help="folder in which the build of a constitution worked",
    )
    parser.add_argument("--summary", type=Path, default=SUMMARY, help="result file to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
