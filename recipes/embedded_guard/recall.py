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
import yaml
from numpy.typing import NDArray

from lockgate.evaluation import Detections, macro_rate
from recipes.embedded_guard import two_stages
from recipes.embedded_guard.two_stages import NEWER_TESTS, SETTINGS, TESTS, FirstStage
from recipes.results_page import RESULTS_PAGE, write_block
from recipes.steps import step_parser

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "embedded_guard"
SUMMARY = ROOT / "results" / "embedded_guard.json"
TARGET = ROOT / "results" / "recall.json"
LOG = ROOT / "LOG.md"
PAGE_BLOCK = "others"
PUBLISHED = Path(__file__).parent / "published.yaml"
# An 8B guard's share of flagged harmless answers to harmful requests, at its own threshold, where it finds .905.
OTHERS = 0.179
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
        written = (LOG.read_text(), RESULTS_PAGE.read_text())
        tables = (step_table(found), others_table(found))
        if TARGET.read_text() != content or any(
            own not in page for own, page in zip(tables, written, strict=True)
        ):
            sys.exit("results/recall.json, LOG.md or docs/results.md differ from the committed tables")
        print("every figure follows from the committed tables")
        return
    TARGET.write_text(content)
    write_block(LOG, "recall", step_table(found))
    write_block(RESULTS_PAGE, PAGE_BLOCK, others_table(found))


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
        "operating_points": operating_points(two),
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


def operating_points(two: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what both guards find of `saferlhf_mini` at the budget, at 0.1 %, and where other guards stand.

    At the last point the probe alone flags OTHERS of the set's own harmless answers.
    """
    made = []
    for name, title in (
        ("budget", "budget of 0.05 %, with its bound"),
        (str(two_stages.FPR), "0.1 % of traffic"),
    ):
        at = two["points"][name]
        row, harmless = at["sets"]["saferlhf_mini"], at["harmless_in_sets"]["saferlhf_mini"]["two_stages"]
        made.append(
            point(title, row["two_stages"]["tpr"], row["two_stages"]["n"], harmless["rate"], harmless["n"])
        )
    own = two_stages.read_part(RESULTS, "test_saferlhf_mini", two["head"])
    scores = own.deciding(two["flag_on"])
    cut = np.quantile(scores[~own.harmful], 1 - OTHERS)
    flags = scores > cut
    title = f"{OTHERS:.1%} of harmless answers to such requests, probe alone"
    found, wrong = flags[own.harmful], flags[~own.harmful]
    made.append(point(title, float(found.mean()), len(found), float(wrong.mean()), len(wrong)))
    return made


def point(title: str, tpr: float, harmful: int, fpr: float, harmless: int) -> dict[str, Any]:
    f1 = 2 * tpr * harmful / (tpr * harmful + fpr * harmless + harmful)
    return {
        "point": title,
        "tpr": round(tpr, 4),
        "n_harmful": harmful,
        "fpr_in_set": round(fpr, 4),
        "n_harmless": harmless,
        "f1": round(f1, 4),
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


def others_table(found: dict[str, Any]) -> str:
    lines = ["| guard | parameters | what its makers claim |", "|---|---|---|"]
    for row in yaml.safe_load(PUBLISHED.read_text()):
        lines.append(f"| {row['guard']} | {row['parameters']} | {row['claim']} |")
    harmful, harmless = (found["operating_points"][0][key] for key in ("n_harmful", "n_harmless"))
    lines += [
        "",
        "Their thresholds have no bound on the share of ordinary traffic that is refused. The embedded guard on "
        f"`saferlhf_mini` ({harmful} harmful and {harmless} harmless answers, mostly to harmful requests), at the two "
        "thresholds that traffic sets, and at the share where an 8B guard stands with its own threshold (TPR .905, "
        "on another set):",
        "",
        "| operating point | TPR | flagged harmless answers of the set | F1 |",
        "|---|--:|--:|--:|",
    ]
    lines += [
        f"| {row['point']} | {row['tpr']:.3f} | {row['fpr_in_set']:.1%} | {row['f1']:.3f} |"
        for row in found["operating_points"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
