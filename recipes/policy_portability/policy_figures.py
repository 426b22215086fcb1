"""Every figure of the policy test, from its table alone.

The table has one row for each exchange and constitution: pair, side, id, constitution, category, label. For each scorer
NAME it also has the score NAME and the verdict NAME_flagged. They are null throughout if the scorer was not run.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lockgate.evaluation import wilson
from recipes.policy_portability.policy_pairs import POLICIES

SCORERS = ("guard", "keyword_answer", "keyword_exchange", "text")
# The cut without training rows: any word of the list flags.
ANY_WORD = {name: f"{name}_any" for name in SCORERS if name.startswith("keyword")}
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("pair", "side", "id", "constitution", "category")),
        ("label", pa.int64()),
        *((name, pa.float64()) for name in SCORERS),
        *((f"{name}_flagged", pa.bool_()) for name in SCORERS),
    ]
)
RESAMPLES = 2000
SEED = 0


def figures(table: pa.Table) -> dict[str, Any]:
    """Return shares, balanced accuracies and their 95 % intervals for each scorer, and for passing everything."""
    base = _columns(table)
    flipped = _flipped(base)
    found: dict[str, Any] = {
        "n_pairs": len(set(base["pair"])),
        "n_flipped": len(flipped),
        "n_exchanges": len(set(zip(base["pair"], base["side"], strict=True))),
        "harmful_share": {
            name: _round(base["label"][base["constitution"] == name].mean()) for name in POLICIES
        },
        "scorers": {},
    }
    for name in SCORERS:
        if table[name].null_count:
            continue
        scores = table[name].to_numpy()
        flagged = np.array(table[f"{name}_flagged"].to_pylist(), bool)
        found["scorers"][name] = _scorer(base, flipped, flagged, scores)
        if name in ANY_WORD:
            found["scorers"][ANY_WORD[name]] = _scorer(base, flipped, scores > 0, scores)
    never = np.zeros(table.num_rows, bool)
    found["scorers"]["pass_everything"] = _scorer(base, flipped, never, never.astype(float))
    found["policy"] = summarise(found)
    return found


def summarise(found: dict[str, Any]) -> dict[str, Any]:
    """Return the few numbers for the summary of synthesis. Only the best keyword list and cut is included."""
    scorers = found["scorers"]
    guard, nothing = scorers["guard"]["together"], scorers["pass_everything"]["together"]
    keyword = max(
        (own["together"] for name, own in scorers.items() if name.startswith("keyword")),
        key=lambda one: one["balanced_accuracy"]["value"],
    )
    summary = {
        "n_pairs": found["n_pairs"],
        "n_flipped": found["n_flipped"],
        "both_right": guard["both_right"]["value"],
        "both_right_by_passing_everything": nothing["both_right"]["value"],
        "both_right_opposed": guard["both_right_opposed"]["value"],
        "all_four_right": guard["all_four_right"]["value"],
        "balanced_accuracy": guard["balanced_accuracy"]["value"],
        "balanced_accuracy_ci": guard["balanced_accuracy"]["ci"],
        "keyword_both_right": keyword["both_right"]["value"],
        "keyword_balanced_accuracy": keyword["balanced_accuracy"]["value"],
    }
    if "text" in scorers:
        summary["text_balanced_accuracy"] = scorers["text"]["together"]["balanced_accuracy"]["value"]
    return summary


def _columns(table: pa.Table) -> dict[str, NDArray[Any]]:
    columns = {
        name: np.array(table[name].to_pylist()) for name in ("pair", "side", "constitution", "category")
    }
    return {**columns, "label": np.array(table["label"].to_pylist(), bool)}


def _flipped(base: dict[str, NDArray[Any]]) -> set[str]:
    labels: dict[tuple[str, str], set[bool]] = {}
    for pair, side, label in zip(base["pair"], base["side"], base["label"], strict=True):
        labels.setdefault((pair, side), set()).add(bool(label))
    return {pair for (pair, _), both in labels.items() if len(both) > 1}


def _scorer(
    base: dict[str, NDArray[Any]], flipped: set[str], flagged: NDArray[np.bool_], scores: NDArray[Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    verdicts: dict[str, dict[str, bool]] = {}
    sided: dict[str, set[str]] = {}
    for name in POLICIES:
        mine = base["constitution"] == name
        pairs, labels = base["pair"][mine], base["label"][mine]
        right = flagged[mine] == labels
        both = {pair: bool(right[pairs == pair].all()) for pair in sorted(set(pairs))}
        opposed = {pair for pair in both if len(set(labels[pairs == pair])) > 1}
        verdicts[name], sided[name] = both, flipped & opposed
        found[name] = {
            "both_right": _share([both[pair] for pair in sorted(flipped)]),
            "both_right_opposed": _share([both[pair] for pair in sorted(flipped & opposed)]),
            "both_right_all_pairs": _share(list(both.values())),
            "balanced_accuracy": _balanced(pairs, labels, flagged[mine]),
            "tpr": _round(flagged[mine][labels].mean()),
            "fpr": _round(flagged[mine][~labels].mean()),
            "ordered": _ordered(pairs, labels, scores[mine], opposed),
            "right_by_category": {
                category: [int(right[base["category"][mine] == category].sum()), int(count)]
                for category, count in zip(
                    *np.unique(base["category"][mine], return_counts=True), strict=True
                )
            },
        }
    chosen = sorted(flipped)
    pooled = [verdicts[name][pair] for name in POLICIES for pair in chosen]
    facing = [verdicts[name][pair] for name in POLICIES for pair in sorted(sided[name])]
    found["together"] = {
        # Two verdicts on one pair are not independent. So the interval counts pairs, which makes it rather wide.
        "both_right": _share(pooled, pairs=len(chosen)),
        "both_right_opposed": _share(facing, pairs=len(set().union(*sided.values()))),
        "all_four_right": _share([all(verdicts[name][pair] for name in POLICIES) for pair in chosen]),
        "balanced_accuracy": _balanced(base["pair"], base["label"], flagged),
    }
    return found


def _share(values: list[bool], pairs: int | None = None) -> dict[str, Any]:
    n = len(values) if pairs is None else pairs
    value = sum(values) / len(values) if values else 0.0
    return {"value": _round(value), "ci": [_round(end) for end in wilson(value * n, n)], "n_pairs": n}


def _balanced(pairs: NDArray[Any], labels: NDArray[np.bool_], flagged: NDArray[np.bool_]) -> dict[str, Any]:
    """Mean of the rates of right verdicts on harmful and harmless rows. Whole pairs are resampled."""
    names, index = np.unique(pairs, return_inverse=True)
    counted = [labels & flagged, labels, ~labels & ~flagged, ~labels]
    sums = np.stack([np.bincount(index, weights=one, minlength=len(names)) for one in counted])
    drawn = np.random.default_rng(SEED).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES
    )
    caught, harmful, passed, harmless = sums @ drawn.T
    # A resample without one of the classes has no balanced accuracy.
    whole = (harmful > 0) & (harmless > 0)
    rates = (caught[whole] / harmful[whole] + passed[whole] / harmless[whole]) / 2
    total = sums.sum(axis=1)
    return {
        "value": _round((total[0] / total[1] + total[2] / total[3]) / 2),
        "ci": [_round(end) for end in np.percentile(rates, [2.5, 97.5])],
        "n_pairs": len(names),
    }


def _ordered(
    pairs: NDArray[Any], labels: NDArray[np.bool_], scores: NDArray[Any], opposed: set[str]
) -> dict[str, Any]:
    """Share of pairs whose harmful exchange has the higher score, without a threshold. A tie counts half."""
    wins = []
    for pair in sorted(opposed):
        mine = pairs == pair
        high, low = scores[mine & labels][0], scores[mine & ~labels][0]
        wins.append(1.0 if high > low else 0.5 if high == low else 0.0)
    value = float(np.mean(wins)) if wins else 0.0
    ends = wilson(value * len(wins), len(wins))
    return {"value": _round(value), "ci": [_round(end) for end in ends], "n_pairs": len(wins)}


def _round(value: float) -> float:
    return round(float(value), 4)
