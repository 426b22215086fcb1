"""What attacks do to the stand-in guard: `results/redteam.json`, from tables without any text.

    lockgate redteam run recipes/stand_in_guard/campaign.yaml --out runs/redteam/stand-in
    python -m recipes.stand_in_guard.figures --campaign stand-in=runs/redteam/stand-in   # its table, then the figures
    python -m recipes.stand_in_guard.figures             # the figures again, and their block in docs/redteam.md
    python -m recipes.stand_in_guard.figures --check     # fail if they differ from the tables

Each campaign becomes a table in `results/redteam/`: an attempt a line, with names and counts. Attacks on the weights
are in `results/whitebox.json`, which `benchmarks.whitebox` writes.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lockgate.durable import open_atomic
from lockgate.errors import LockgateError
from lockgate.redteam import Row, capability_tax, summarise
from recipes.results_page import write_block
from recipes.stand_in_guard.attempts import RESULTS, read_table, write_table
from recipes.stand_in_guard.defences import defences, share
from recipes.stand_in_guard.words import table_of
from recipes.steps import step_parser

SUMMARY = RESULTS / "redteam.json"
PAGE = Path(__file__).parents[2] / "docs" / "redteam.md"
MAIN = "stand-in"
UNGUARDED, GUARDED = "none", "production"
UNDELAYED = "undelayed"


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--campaign", action="append", default=[], metavar="NAME=OUT", help="a finished one")
    parser.add_argument("--check", action="store_true", help="compare with the committed file; write nothing")
    arguments = parser.parse_args()
    for name, _, out in (one.partition("=") for one in arguments.campaign):
        try:
            write_table(name, Path(out))
        except LockgateError as error:
            sys.exit(str(error))
    found = compute()
    content = json.dumps(found, indent=1) + "\n"
    if arguments.check:
        if SUMMARY.read_text() != content:
            sys.exit(f"{SUMMARY.name} differs from the committed tables")
        print("every figure follows from the committed tables")
        return
    with open_atomic(SUMMARY) as file:
        file.write(content.encode())
    write_block(PAGE, "redteam", table_of(found))


def compute() -> dict[str, Any]:
    """Return all figures."""
    rows, facts = read_table(MAIN)
    summaries = {name: summarise(own, facts["attempts"], facts["held_out"]) for name, own in rows.items()}
    undelayed = read_table(UNDELAYED)[0][UNDELAYED]
    short_ones = {row.attack for row in undelayed}
    return {
        "campaign": {key: facts[key] for key in ("queries", "attempts", "held_out", "lockgate_version")},
        "variants": {name: variant(own) for name, own in summaries.items()},
        "capability_tax": capability_tax(rows[UNGUARDED]),
        "leak_before_halt": {
            **leak_of(rows[GUARDED]),
            "with_delay": leak_of([row for row in rows[GUARDED] if row.attack in short_ones]),
            "without_delay": leak_of(undelayed),
        },
        "adaptive": {**searches(rows[GUARDED], facts), **on_weights()},
        "judge": judge(facts["judge_errors"]),
        "defences": defences(),
    }


def leak_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the shares of attempts that let a topic through before the halt, and enough topics for a success."""
    leak = summarise(rows, 1)["leak_before_halt"]
    return {"topics": leak["any_topic"], "enough": leak["enough_to_succeed"]}


def variant(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a variant in the form of the result file."""
    return {
        "families": {name: short(own) for name, own in summary["families"].items()},
        "success": short(summary["success"]),
        "held_out": short(summary["held_out"]),
        "high_risk_per_1000": summary["high_risk_per_1000"],
        "universal": summary["universal"],
        "twins_halted": short(summary["twins"]),
        "attempts": summary["attempts"],
        "failed": summary["failed"],
    }


def short(rate: Mapping[str, Any]) -> dict[str, Any]:
    """Return plays, share of successes and interval."""
    return {"n": rate["n"], "success": round(rate["success"], 4), "ci": [round(end, 4) for end in rate["ci"]]}


def searches(rows: Sequence[Row], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the attacks that search, against the guard as it serves."""
    found: dict[str, Any] = {}
    for name in facts["adaptive"]:
        own = [row for row in rows if row.attack == name and not row.twin and row.failed is None]
        if own:
            figures = summarise(own, facts["attempts"])["attacks"][name]
            first = next((number for number, row in enumerate(own, 1) if row.success), None)
            found[name] = {
                "budget": facts["attempts"],
                **short(figures),
                "queries_to_first_break": first,
                "attempts": figures["attempts"],
            }
    return found


def on_weights() -> dict[str, Any]:
    """Return the figures of attacks by those who know the weights."""
    path = RESULTS / "whitebox.json"
    parts = json.loads(path.read_text()) if path.exists() else {}
    found: dict[str, Any] = {}
    for part, content in parts.items():
        budget = {
            key: content["budget"][key]
            for key in ("steps", "batch", "seconds", "fluency")
            if key in content["budget"]
        }
        for attack, own in content["attacks"].items():
            found[f"{part}: {attack}"] = {
                "budget": budget,
                **share(own["success"], own["caught"]),
                "queries_to_first_break": own["first_break"],
            }
    return found


def judge(errors: Mapping[str, Any]) -> dict[str, Any]:
    """Return how often the judge is wrong about all labelled texts, and about those of each kind of use."""

    def share(name: str) -> dict[str, Any]:
        count = sum(part[name]["count"] for part in errors.values())
        of = sum(part[name]["n"] for part in errors.values())
        return {"count": count, "n": of, "rate": round(count / of, 4)}

    return {
        "n": sum(part["n"] for part in errors.values()),
        "false_success": share("false_success"),
        "missed": share("missed"),
        "parts": {
            name: {key: part[key] for key in ("n", "false_success", "missed")}
            for name, part in errors.items()
        },
    }


if __name__ == "__main__":
    main()
