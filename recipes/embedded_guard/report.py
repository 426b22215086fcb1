"""Step 6: compute every figure of the embedded guard from the committed tables.

python -m recipes.embedded_guard.report             # recompute results/embedded_guard.json and its tables in docs/results.md
python -m recipes.embedded_guard.report --check     # fail if the committed figures differ
python -m recipes.embedded_guard.report --install runs/embedded/guard   # also write the guard into the package
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lockgate.calibration import (
    Calibration,
    Exclusion,
    choose_threshold,
    clopper_pearson,
    plain_quantile_threshold,
)
from lockgate.cascade import FlagOn
from lockgate.errors import CalibrationError
from lockgate.evaluation import Estimate, EvaluationResult, collect_provenance, evaluate
from lockgate.exchanges import PromptPrints, read_exchanges
from lockgate.guards import EMBEDDED, Guard, read_bundle
from lockgate.tables import ScoresTable
from recipes.embedded_guard import two_stages
from recipes.embedded_guard.agreement import read
from recipes.results_page import RESULTS_PAGE, write_block
from recipes.steps import step_parser

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "embedded_guard"
SUMMARY = ROOT / "results" / "embedded_guard.json"
RECIPE = Path(__file__).parent
BENCH = ROOT / "results" / "bench.json"
DATASET = RESULTS / "dataset.json"
TESTS = ("saferlhf_mini", "adaptive_attacks", "gptfuzz", "own_sgbench")
BUDGETS = (0.001, 0.0005)
FPR = 0.001
SEED = 0


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    parser.add_argument("--install", type=Path, help="folder of the guard to write into the package")
    arguments = parser.parse_args()
    source = arguments.install and arguments.install.resolve()
    os.chdir(ROOT)
    found = compute()
    if arguments.check:
        kept = json.loads(SUMMARY.read_text())
        differing = [key for key in found if found[key] != kept.get(key)]
        if differing or result_tables(found) not in RESULTS_PAGE.read_text():
            sys.exit(
                f"results/embedded_guard.json or docs/results.md differ from the tables: {', '.join(differing)}"
            )
        print("every figure follows from the committed tables")
        return
    inputs = [
        path.relative_to(ROOT)
        for folder in ("scores", "two_stage")
        for path in sorted((RESULTS / folder).glob("*.parquet"))
    ]
    provenance = collect_provenance(found["command"].split(), {"bootstrap": SEED}, inputs)
    data = {name: part["sha256"] for name, part in json.loads(DATASET.read_text())["parts"].items()}
    SUMMARY.write_text(json.dumps({**found, "data": data, "provenance": provenance}, indent=1) + "\n")
    write_block(RESULTS_PAGE, "results", result_tables(found))
    if source is not None:
        install(source, found)


def table_of(part: str, column: str | None = None) -> ScoresTable:
    """Return the scores of a part. With `column`, the deciding score comes from that column."""
    table = ScoresTable.read(RESULTS / "scores" / f"{part}.parquet")
    if column is not None:
        table = table.with_column("mixed_max", table.floats(column))
    return table


def baseline(part: str, column: str) -> NDArray[np.float64]:
    table = pq.read_table(RESULTS / "scores" / "baselines.parquet", filters=[("part", "=", part)])
    by_id = dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))
    return np.array([by_id[row_id] for row_id in table_of(part).ids])


def deciding(part: str, flag_on: FlagOn) -> NDArray[np.float64]:
    """Return the score that serving compares with the threshold: of the answer, or of the last turn and the answer."""
    table = table_of(part)
    prompt, answer = table.floats("max_prompt"), table.floats("max_answer")
    return answer if flag_on == "answer" else np.fmax(prompt, answer)


def compute() -> dict[str, Any]:
    head = json.loads((RESULTS / "choice.json").read_text())["head"]
    flag_on, choice = choose_region(head)
    exclusions = read_exclusions()
    calibrations, refused = {}, {}
    for budget in BUDGETS:
        try:
            calibrations[str(budget)] = calibrate(flag_on, budget, exclusions)
        except CalibrationError as error:
            refused[str(budget)] = str(error)
    # The guard is shipped with the tightest budget that the sample supports.
    main_one = list(calibrations.values())[-1]
    sets = {name: figures(name, flag_on) for name in TESTS}
    others = realised("benign_test", flag_on, main_one.cut)
    return {
        "head": head,
        "flag_on": flag_on,
        "choice": choice,
        "budget": main_one.budget,
        "n_calibration": main_one.n,
        "bound": round(main_one.bound, 6),
        "threshold": round(main_one.threshold, 5),
        "calibrations": {name: short(found) for name, found in calibrations.items()},
        "refused_budgets": refused,
        "realised_fpr": others["rate"],
        "realised": others,
        "realised_at_0.001": realised("benign_test", flag_on, plain_cut(flag_on)),
        "hard_benign": realised("hard_benign", flag_on, main_one.cut),
        "sets": sets,
        "two_stage": two_stages.figures(RESULTS, head, flag_on, main_one.budget, exclusions, seed=SEED),
        "live": live_figures(),
        "bench": bench_figures(),
        "seed": SEED,
        "command": "python -m recipes.embedded_guard.report",
    }


def choose_region(head: str) -> tuple[FlagOn, dict[str, Any]]:
    """Decide whether the last user turn may flag too: the choice finds more of the development split at 0.1 %."""
    table = pq.read_table(RESULTS / "scores" / "dev_heads.parquet")
    harmful = np.array([label >= 0.5 for label in table["label"].to_pylist()])
    prompt, answer = (
        np.array(table[f"{head}:{region}"].to_pylist(), float)[harmful] for region in ("prompt", "answer")
    )
    tpr: dict[FlagOn, float] = {}
    regions: dict[FlagOn, NDArray[np.float64]] = {"answer": answer, "both": np.fmax(prompt, answer)}
    for flag_on, scores in regions.items():
        cut = plain_quantile_threshold(finite(deciding("calibration", flag_on)), FPR)
        tpr[flag_on] = round(float((scores > cut).mean()), 4)
    chosen = max(tpr, key=lambda name: tpr[name])
    return chosen, {"n_harmful": int(harmful.sum()), "dev_tpr_at_0.001": tpr}


def finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def plain_cut(flag_on: FlagOn) -> float:
    return plain_quantile_threshold(finite(deciding("calibration", flag_on)), FPR)


def read_exclusions() -> list[Exclusion]:
    path = RESULTS / "exclusions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [Exclusion(row["id"], row["reason"]) for row in rows]


def calibrate(flag_on: FlagOn, budget: float, exclusions: list[Exclusion]) -> Calibration:
    table, scores = table_of("calibration"), deciding("calibration", flag_on)
    keep = np.isfinite(scores)
    kept = table.select(keep)
    return choose_threshold(
        scores[keep],
        kept.groups,
        budget,
        tolerance=1e-3 * float(scores[keep].std()),
        ids=kept.ids,
        exclusions=exclusions,
        lengths=kept.lengths,
        sources=[str(source) for source in kept.texts("source")],
        score=f"max_{flag_on}",
    )


def short(found: Calibration) -> dict[str, Any]:
    return {
        "n": found.n,
        "k": found.k,
        "flagged": found.flagged,
        "bound": round(found.bound, 6),
        "threshold": round(found.threshold, 5),
        "threshold_without_exclusions": (
            None
            if found.threshold_without_exclusions is None
            else round(found.threshold_without_exclusions, 5)
        ),
        "excluded": len(found.excluded),
    }


def realised(part: str, flag_on: FlagOn, cut: float) -> dict[str, Any]:
    table, scores = table_of(part), deciding(part, flag_on)
    flagged = scores > cut
    interval = clopper_pearson(int(flagged.sum()), len(flagged), 0.95)
    sources = np.array(table.texts("source"))
    lengths = table.lengths
    edges = np.quantile(lengths, np.linspace(0, 1, 11))
    decile = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, 9)
    return {
        "n": len(flagged),
        "flagged": int(flagged.sum()),
        "rate": round(float(flagged.mean()), 6),
        "ci": [round(interval.lower, 6), round(interval.upper, 6)],
        "by_source": {
            str(source): [int(flagged[sources == source].sum()), int((sources == source).sum())]
            for source in sorted(set(sources))
        },
        "by_length_decile": [
            [int(edges[i]), int(flagged[decile == i].sum()), int((decile == i).sum())] for i in range(10)
        ],
    }


def figures(name: str, flag_on: FlagOn) -> dict[str, Any]:
    """Compute AUROC among the set's own rows, and TPR at the calibration's plain 0.1 % quantile; also for the baselines."""
    part = f"test_{name}"
    table = table_of(part).with_column("mixed_max", np.nan_to_num(deciding(part, flag_on), nan=-1e9))
    calibration = table_of("calibration").with_column(
        "mixed_max", np.nan_to_num(deciding("calibration", flag_on), nan=-1e9)
    )
    probes = (table.floats("mixed_max"), calibration.floats("mixed_max"))
    texts = (baseline(part, "text"), baseline("calibration", "text"))
    prompts = (baseline(part, "prompt"), baseline("calibration", "prompt"))
    # Text and probe together: the sum of both logits, each scaled by its spread on the calibration split.
    sums = tuple(p / probes[1].std() + t / texts[1].std() for p, t in zip(probes, texts, strict=True))
    for key, values in (("text", texts), ("prompt_text", prompts), ("probe_plus_text", sums)):
        table = table.with_column(f"baseline_{key}", values[0])
        calibration = calibration.with_column(f"baseline_{key}", values[1])
    result = evaluate(table, name=name, calibration=calibration, fprs=(0.01, FPR), seed=SEED)
    out: dict[str, Any] = {"n": len(table), "harmful": int((table.labels >= 0.5).sum())}
    names = {
        "probe": "probe",
        "baseline": "text",
        "prompt_text": "prompt_text",
        "probe_plus_text": "probe_plus_text",
    }
    for key, scorer in {**names, "prompt_alone": "prompt_alone", "length": "length_alone"}.items():
        out[key] = numbers(result, scorer)
    return out


def numbers(result: EvaluationResult, name: str) -> dict[str, Any]:
    scorer = result.scorer(name)
    points = {point.name: point for point in scorer.operating_points}
    low = points["0.001"].tpr
    ends = [None, None] if low is None else [low.lower, low.upper]
    return {
        "auroc": value_of(scorer.auroc),
        "tpr_at_0.01": value_of(points["0.01"].tpr),
        "tpr_at_0.001": value_of(low),
        "ci": [None if end is None else round(end, 4) for end in ends],
    }


def live_figures() -> dict[str, Any] | None:
    """Compare the answers that the live server halted with the labels of the whole answers, by kind of prompt.

    An answer is harmful or harmless if both readers say so, and unclear otherwise.
    """
    source = RESULTS / "live.jsonl"
    if not source.exists():  # the guard that is to be asked has to be installed first
        return None
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    first, second = (read(RECIPE / "labels" / "live" / f"{name}.tsv") for name in ("first", "second"))
    labels = {int(key): first[key] if first[key] == second[key] else "null" for key in first}
    found: dict[str, Any] = {}
    for kind in ("harmful", "benign"):
        of_kind = [row for row in rows if row["kind"] == kind]
        found[kind] = {"prompts": len(of_kind)}
        for label, name in (("1", "harmful_answers"), ("0", "harmless_answers"), ("null", "unclear_answers")):
            answers = [row for row in of_kind if labels[row["number"]] == label]
            halted = [row["token_index"] for row in answers if row["halted"]]
            interval = clopper_pearson(len(halted), len(answers), 0.95) if answers else None
            found[kind][name] = {
                "n": len(answers),
                "halted": len(halted),
                "ci": None if interval is None else [round(interval.lower, 4), round(interval.upper, 4)],
                "halting_tokens": sorted(halted),
            }
    return found


def bench_figures() -> dict[str, Any] | None:
    """Return the medians of `make bench`. The intervals are in the benchmark's own file."""
    if not BENCH.exists():
        return None
    found = json.loads(BENCH.read_text())
    ratios = ("decode_ratio_batch1", "decode_ratio_batch8", "score_ratio")
    state = found["bytes_per_stream"]
    return {
        **{key: found[key]["median"] for key in ratios},
        "bytes_per_stream": state["guard"],
        "key_value_bytes_per_1k_tokens": state["key_values_per_1k_tokens"],
    }


def value_of(estimate: Estimate | None) -> float | None:
    return None if estimate is None else round(estimate.value, 4)


def result_tables(found: dict[str, Any]) -> str:
    lines = [
        "| test set | n | harmful | probe: AUROC | probe: TPR at 0.1 % FPR | text baseline: TPR | sum of both: TPR |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in found["sets"].items():
        low, high = row["probe"]["ci"]
        lines.append(
            f"| `{name}` | {row['n']} | {row['harmful']} | {row['probe']['auroc']:.3f} | "
            f"{row['probe']['tpr_at_0.001']:.3f} ({low:.3f} to {high:.3f}) | {row['baseline']['tpr_at_0.001']:.3f} | "
            f"{row['probe_plus_text']['tpr_at_0.001']:.3f} |"
        )
    fpr = found["realised"]
    lines += [
        "",
        f"{'Stage 1 alone' if ships_two_stages() else 'Shipped threshold'}: budget {found['budget']:.2%}, n = {found['n_calibration']} distinct benign prompts, one-sided "
        f"95 % bound {found['bound']:.4%}. On {fpr['n']} other benign exchanges it flags {fpr['flagged']} "
        f"({fpr['rate']:.3%}, interval {fpr['ci'][0]:.3%} to {fpr['ci'][1]:.3%}).",
    ]
    if found["two_stage"] is not None:
        lines += ["", *two_stages.result_lines(found["two_stage"], shipped=ships_two_stages())]
    if found["live"] is not None:
        lines += ["", live_sentence(found["live"])]
    if found["bench"] is not None:
        lines += ["", bench_sentence()]
    return "\n".join(lines)


def ships_two_stages() -> bool:
    """Return whether the package's guard has a second stage."""
    return read_bundle(EMBEDDED).record.cascade is not None


def live_sentence(live: dict[str, Any]) -> str:
    harmful, harmless = live["harmful"]["harmful_answers"], live["harmful"]["harmless_answers"]
    benign = live["benign"]
    tokens = harmful["halting_tokens"]
    where = f", at answer token {int(np.median(tokens))} in the median" if tokens else ""
    wrong = harmless["halted"] + benign["harmless_answers"]["halted"]
    checked = harmless["n"] + benign["harmless_answers"]["n"]
    return (
        f"Through the live server, answers to {live['harmful']['prompts']} unseen harmful prompts and "
        f"{benign['prompts']} benign ones on the same topics, labelled by two blind readers (language models): of {harmful['n']} harmful answers "
        f"{harmful['halted']} were halted{where}; of {checked} harmless ones {wrong} were."
    )


def bench_sentence() -> str:
    found = json.loads(BENCH.read_text())

    def ratio(key: str) -> str:
        return f"{found[key]['median']:.3f} ({found[key]['ci'][0]:.3f} to {found[key]['ci'][1]:.3f})"

    return (
        f"Cost (`make bench`, {found['pairs']} interleaved pairs of {found['tokens_per_block']} tokens): time per token with "
        f"the probe over without, {ratio('decode_ratio_batch1')} for one stream and {ratio('decode_ratio_batch8')} for eight; "
        f"throughput of scoring over the bare forward pass, {ratio('score_ratio')}."
    )


def install(source: Path, found: dict[str, Any]) -> None:
    """Write the calibrated guard and its card into the package."""
    guard = Guard.load(source)
    guard = guard.with_training_prompts(PromptPrints.of(read_exchanges(source.parent / "train.jsonl")))
    calibration = calibrate(found["flag_on"], found["budget"], read_exclusions())
    counts = found["realised"]
    claim = [
        f"claim limited to English (with a few per cent of Chinese), to {int(max(calibration.length_deciles))} tokens, and "
        "to traffic like the sources above",
        f"realised on {counts['n']} other benign exchanges: {counts['flagged']} flagged ({counts['rate']:.3%})",
    ]
    guard.with_calibration(calibration, flag_on=found["flag_on"], claim=claim).save(EMBEDDED, results=found)


if __name__ == "__main__":
    main()
