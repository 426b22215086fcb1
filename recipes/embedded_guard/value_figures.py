"""The value of synthetic training data on real exchanges: figures from the committed scores, and their table.

The macro average takes the mean over those sources of the development list that hold harmful rows. Some sources have
few of them. The list also has so few harmless rows that at 0.1 % the threshold is their highest score. So macro TPR at
1 % and AUROC are given too. Their intervals also resample the harmless rows, and with them the threshold.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lockgate.calibration import plain_quantile_threshold
from lockgate.evaluation import Detections, Estimate, at_least_as_robust, macro_rate, wilson
from recipes.embedded_guard.variants import REGIONS, figures_of, region_scores, shown, triple

REFERENCE = "public"
SETS = (REFERENCE, "synthetic", "both")
FPRS = (0.01, 0.001)
# The shipped guard flags on its answers.
REGION, FPR = "answer", 0.001
SEED = 0
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def compute(path: Path, resamples: int) -> dict[str, Any]:
    """Compute every figure of a scores table, with the facts about its run."""
    table = pq.read_table(path)
    harmful = np.array(table["label"].to_pylist(), float) >= 0.5
    sources = np.array(table["source"].to_pylist())
    n_benign = int((~harmful).sum())
    regions = {region: of_region(table, harmful, sources, region, resamples) for region in REGIONS}
    return {
        "command": "python -m recipes.embedded_guard.synthetic",
        "n": len(harmful),
        "n_harmful": int(harmful.sum()),
        "n_harmless": n_benign,
        "n_prompts": len(set(table["prompt_group"].to_pylist())),
        "harmful_by_source": {
            name: int((harmful & (sources == name)).sum()) for name in macro_sets(harmful, sources)
        },
        "harmless_by_source": {
            str(name): int((~harmful & (sources == name)).sum()) for name in np.unique(sources)
        },
        "macro": "mean of the TPR over the sources that hold harmful rows (harmful_by_source), each counting the same",
        "threshold": (
            "plain quantile of the development list's own harmless rows, optimistic alike for all three; false "
            "positives that it allows: "
            + ", ".join(f"{math.floor(fpr * n_benign + 1e-9)} at {fpr}" for fpr in FPRS)
        ),
        "intervals": (
            "95 % by prompt, with the threshold as it stands; `threshold_drawn`: the harmless prompts are drawn too and "
            "the threshold is taken anew each time"
        ),
        "resamples": resamples,
        "reference": REFERENCE,
        "tpr": {name: regions[REGION][name][f"macro_tpr_at_{FPR:g}"]["value"][0] for name in SETS},
        "regions": regions,
        "run": json.loads(table.schema.metadata[b"run"]),
    }


def macro_sets(harmful: Mask, sources: NDArray[np.str_]) -> list[str]:
    """Return the sources with harmful rows, sorted by name."""
    return [str(name) for name in np.unique(sources[harmful])]


def of_region(
    table: pa.Table, harmful: Mask, sources: NDArray[np.str_], region: str, resamples: int
) -> dict[str, Any]:
    """Return the figures of each training set, scored on the answer or on both regions."""
    found = figures_of(table, REFERENCE, SETS, region, resamples, fprs=FPRS)
    scores = {name: region_scores(table, name, region) for name in SETS}
    groups = np.array(table["prompt_group"].to_pylist())
    for fpr in FPRS:
        flags = {
            name: values > plain_quantile_threshold(values[~harmful], fpr, unjudged=True)
            for name, values in scores.items()
        }
        drawn = {
            name: draw_macro(values, harmful, sources, groups, fpr, resamples)
            for name, values in scores.items()
        }
        sets = {name: detections(flag, harmful, sources, groups) for name, flag in flags.items()}
        for name in SETS:
            found[name][f"macro_tpr_at_{fpr:g}"] = {
                "value": triple(macro_rate(list(sets[name].values()), resamples=resamples, seed=SEED)),
                "threshold_drawn": ends(drawn[name]),
                "false_positives": int(flags[name][~harmful].sum()),
                "by_source": {source: share(own) for source, own in sets[name].items()},
            }
            if name != REFERENCE:
                robust = at_least_as_robust(
                    list(sets[name].values()),
                    list(sets[REFERENCE].values()),
                    names=(name, REFERENCE),
                    fpr=fpr,
                    resamples=resamples,
                    seed=SEED,
                )
                found[name]["minus_reference"][f"macro_tpr_at_{fpr:g}"] = {
                    "value": triple(robust.difference),
                    "threshold_drawn": ends(drawn[name] - drawn[REFERENCE]),
                }
    return found


def detections(
    flags: Mask, harmful: Mask, sources: NDArray[np.str_], groups: NDArray[np.str_]
) -> dict[str, Detections]:
    """Return the flagged harmful rows of each source."""
    parts = {name: harmful & (sources == name) for name in macro_sets(harmful, sources)}
    return {name: Detections(flags[part], groups[part]) for name, part in parts.items()}


def share(found: Detections) -> dict[str, Any]:
    """Return the flagged share of one source's harmful rows."""
    n, hits = len(found.flags), int(found.flags.sum())
    if len(np.unique(np.asarray(found.groups))) == n:
        estimate: Estimate | None = Estimate(hits / n, *wilson(hits, n), "wilson", n, n)
    else:
        estimate = macro_rate([found], seed=SEED)
    return {"n": n, "hits": hits, "rate": triple(estimate)}


def draw_macro(
    scores: Floats,
    harmful: Mask,
    sources: NDArray[np.str_],
    groups: NDArray[np.str_],
    fpr: float,
    resamples: int,
) -> Floats:
    """Return macro TPRs `[resamples]`, with prompts drawn anew, harmful ones by source.

    The threshold of a draw is the plain quantile of its harmless rows, so that its chance counts too. The draws depend on
    the rows alone.
    """
    random = np.random.default_rng(SEED)
    order = np.argsort(-scores[~harmful], kind="stable")
    benign = scores[~harmful][order]
    weights = draw_weights(groups[~harmful], resamples, random)[:, order]
    allowed = np.floor(fpr * weights.sum(axis=1) + 1e-9)
    cuts = benign[(weights.cumsum(axis=1) > allowed[:, None]).argmax(axis=1)]
    rates = []
    for name in macro_sets(harmful, sources):
        part = harmful & (sources == name)
        own = draw_weights(groups[part], resamples, random)
        rates.append((own * (scores[part] > cuts[:, None])).sum(axis=1) / own.sum(axis=1))
    return np.asarray(np.mean(rates, axis=0))


def draw_weights(groups: NDArray[np.str_], resamples: int, random: np.random.Generator) -> Floats:
    """Return how often each row is drawn if prompts are drawn with replacement, `[resamples, rows]`."""
    names, index = np.unique(groups, return_inverse=True)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn.astype(float)[:, index.reshape(-1)]


def ends(drawn: Floats) -> list[float]:
    """Return the 2.5th and the 97.5th percentile."""
    return [round(float(end), 4) for end in np.percentile(drawn, [2.5, 97.5])]


def markdown(found: Mapping[str, Any]) -> str:
    """Return the table for the log, for the region that the shipped guard flags on, and the macro average's sources."""
    rows = found["regions"][REGION]
    trained = found["run"]["training"]
    sources = ", ".join(f"`{name}` {n}" for name, n in found["harmful_by_source"].items())
    lines = [
        f"{found['n']} development exchanges, {found['n_harmful']} harmful ({sources}); answers only; 95 % intervals by prompt. "
        f"Macro over these {len(found['harmful_by_source'])} sources. Threshold: {found['threshold']}.",
        "",
        "| trained on | exchanges (harmful) | AUROC | macro TPR at 1 % | macro TPR at 0.1 % | threshold drawn too |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in SETS:
        low, high = rows[name]["macro_tpr_at_0.001"]["threshold_drawn"]
        cells = [
            shown(rows[name]["auroc"]),
            *(shown(rows[name][f"macro_tpr_at_{fpr:g}"]["value"]) for fpr in FPRS),
        ]
        n = f"{trained[name]['exchanges']} ({trained[name]['harmful']})"
        lines.append(f"| `{name}` | {n} | {' | '.join(cells)} | {low:.3f} to {high:.3f} |")
    lines += ["", "| minus `public` | AUROC | macro TPR at 1 % | macro TPR at 0.1 % | threshold drawn too |"]
    lines += ["|---|--:|--:|--:|--:|"]
    for name in SETS[1:]:
        less = rows[name]["minus_reference"]
        low, high = less["macro_tpr_at_0.001"]["threshold_drawn"]
        cells = [shown(less["auroc"]), *(shown(less[f"macro_tpr_at_{fpr:g}"]["value"]) for fpr in FPRS)]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {low:.3f} to {high:.3f} |")
    removed = found["run"]["removed"]
    gone = ", ".join(f"{n} {reason}" for reason, n in removed.items()) or "none"
    return "\n".join([*lines, "", f"Synthetic rows removed because they meet the development list: {gone}."])
