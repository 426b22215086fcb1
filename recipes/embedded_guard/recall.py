"""Step 10: what the guard in the package catches, and what each step towards it has gained.

    python -m recipes.embedded_guard.recall            # write results/recall.json and the table in LOG.md
    python -m recipes.embedded_guard.recall --check    # fail if they differ

Everything follows from the committed tables and `results/embedded_guard.json`. A step is a text baseline as second stage
that learned from more rows than the one before, with its own weight and its own cut for the guard's budget.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.evaluation import Detections, macro_rate
from recipes.embedded_guard import two_stages
from recipes.embedded_guard.two_stages import NEWER_TESTS, SETTINGS, TESTS, FirstStage
from recipes.results_page import write_block
from recipes.steps import step_parser

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "embedded_guard"
SUMMARY = ROOT / "results" / "embedded_guard.json"
TARGET = ROOT / "results" / "recall.json"
LOG = ROOT / "LOG.md"
STEPS = {
    "text_train": "text baseline, fitted on the probe's training exchanges",
    "text_near": "also on `data/near_policy`",
    "text_harmless": "also on more harmless exchanges",
    "text": "also on newer attacks: as shipped",
}
NO_DRIFT = "also on newer attacks, without the drift"


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed file; write nothing")
    arguments = parser.parse_args()
    found = compute()
    content = json.dumps(found, indent=1) + "\n"
    if arguments.check:
        if TARGET.read_text() != content or step_table(found) not in LOG.read_text():
            sys.exit("results/recall.json or its table in LOG.md differ from the committed tables")
        print("every figure follows from the committed tables")
        return
    TARGET.write_text(content)
    write_block(LOG, "recall", step_table(found))


def compute() -> dict[str, Any]:
    kept = json.loads(SUMMARY.read_text())
    two, at = kept["two_stage"], kept["two_stage"]["points"]["budget"]
    benign, refused = at["benign"]["benign_test"]["two_stages"], at["benign"]["over_refusal"]["two_stages"]
    macro = at["macro"]
    return {
        "command": "python -m recipes.embedded_guard.recall",
        "budget": kept["budget"],
        "sets": {name: set_figures(row) for name, row in (*at["sets"].items(), *at["newer"].items())},
        "mean": {
            "over": list(TESTS),
            "one": macro["one_stage"]["tpr"],
            "two": macro["two_stages"]["tpr"],
            "difference": macro["difference"],
            "ci": macro["ci"],
        },
        "realised_fpr": {"n": benign["n"], "flagged": benign["hits"], "ci": benign["ci"]},
        "escalated_by_length": escalated(two["head"], two["flag_on"], kept["budget"], "calibration"),
        "escalated_by_length_others": escalated(two["head"], two["flag_on"], kept["budget"], "benign_test"),
        "over_refusal": {"n": refused["n"], "flagged": refused["hits"], "ci": refused["ci"]},
        "live": live(kept["live"]),
        "steps": steps(two["head"], two["flag_on"], kept["budget"]),
    }


def set_figures(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "n": row["one_stage"]["n"],
        "tpr_one_stage": row["one_stage"]["tpr"],
        "tpr_two_stages": row["two_stages"]["tpr"],
        "ci": row["two_stages"]["ci"],
        "difference": row["difference"],
        "difference_ci": row["ci"],
    }


def live(found: dict[str, Any] | None) -> dict[str, int] | None:
    if found is None:
        return None
    harmful, harmless = found["harmful"]["harmful_answers"], found["harmful"]["harmless_answers"]
    benign = found["benign"]["harmless_answers"]
    return {
        "harmful": harmful["n"],
        "halted": harmful["halted"],
        "harmless": harmless["n"] + benign["n"],
        "wrongly_halted": harmless["halted"] + benign["halted"],
    }


def settings() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((RESULTS / "two_stage" / SETTINGS).read_text())
    return kept


def escalated(head: str, flag_on: two_stages.FlagOn, budget: float, part: str) -> list[list[float]]:
    """Return the share of a part that stage 2 is asked about: by tenth of length, and of long answers.

    Each row holds the longest answer of its exchanges in tokens, the share and the number of exchanges. The last row
    has the answers over `two_stages.LONG` tokens.
    """
    found = two_stages.calibrate(RESULTS, head, flag_on, budget, settings=settings())
    own = two_stages.read_part(RESULTS, part, head)
    screen = two_stages.choose_screen(two_stages.read_part(RESULTS, "calibration", head))
    traces = two_stages.read_traces(RESULTS, part, own, screen)
    asked = np.isfinite(two_stages.mixed_scores(traces, found.cascade, flag_on))
    tokens = two_stages.answer_tokens(RESULTS, part)
    edges = np.quantile(tokens, np.linspace(0.1, 0.9, 9))
    tenth = np.searchsorted(edges, tokens, side="left")
    rows = [tenth == number for number in range(10)] + [tokens > two_stages.LONG]
    return [
        [int(tokens[row].max()), round(float(asked[row].mean()), 5), int(row.sum())]
        for row in rows
        if row.any()
    ]


def steps(head: str, flag_on: two_stages.FlagOn, budget: float) -> list[dict[str, Any]]:
    """Return the mean TPR over all test sets of each step, at its own cut for the same budget."""
    names = (*TESTS, *NEWER_TESTS)
    parts = {name: two_stages.read_part(RESULTS, f"test_{name}", head) for name in names}
    first = two_stages.read_part(RESULTS, "calibration", head)
    single = two_stages.one_stage(first, flag_on, budget, ())
    alone = {name: own.deciding(flag_on) > single.cut for name, own in parts.items()}
    made = [{"name": "one stage", "judge": None, **mean_tpr(parts, alone)}]
    screen = two_stages.choose_screen(first)
    tried = [(title, voice, settings()) for voice, title in STEPS.items()]
    tried.insert(-1, (NO_DRIFT, "text", settings() | {"drift": 0.0}))
    for title, voice, chosen in tried:
        found = two_stages.calibrate(RESULTS, head, flag_on, budget, settings=chosen, voice=voice)
        flags = {}
        for name, own in parts.items():
            traces = two_stages.read_traces(RESULTS, f"test_{name}", own, screen, voice)
            flags[name] = two_stages.mixed_scores(traces, found.cascade, flag_on) > found.calibration.cut
        made.append({"name": title, "judge": voice, "weight": found.cascade.weight, **mean_tpr(parts, flags)})
    return made


def mean_tpr(parts: dict[str, FirstStage], flags: dict[str, NDArray[np.bool_]]) -> dict[str, Any]:
    sets = [Detections(flags[name][own.harmful], own.prompts[own.harmful]) for name, own in parts.items()]
    found = macro_rate(sets, seed=0)
    tpr = {name: round(float(own.flags.mean()), 4) for name, own in zip(parts, sets, strict=True)}
    return {
        "mean_tpr": round(float(np.mean(list(tpr.values()))), 4),
        "ci": None if found is None else [two_stages.rounded(end) for end in (found.lower, found.upper)],
        "tpr": tpr,
    }


def step_table(found: dict[str, Any]) -> str:
    names = list(found["steps"][0]["tpr"])
    lines = [
        f"| second stage | {' | '.join(f'`{name}`' for name in names)} | mean |",
        f"|---|{'--:|' * (len(names) + 1)}",
    ]
    for row in found["steps"]:
        cells = " | ".join(f"{row['tpr'][name]:.3f}" for name in names)
        low, high = row["ci"]
        lines.append(f"| {row['name']} | {cells} | {row['mean_tpr']:.3f} ({low:.3f} to {high:.3f}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
