"""The ablation's variants, which change one thing at a time, and its figures and table from the committed scores."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lockgate.calibration import plain_quantile_threshold
from lockgate.evaluation import Comparison, Estimate, evaluate, wilson
from lockgate.tables import ScoresTable
from lockgate.training import LossName, ProbeConfig
from recipes.embedded_guard.sequences import SequenceLoss
from recipes.embedded_guard.variant_training import VariantConfig

__all__ = [
    "CACHED",
    "FPR",
    "FRESH",
    "HELD_OUT",
    "REGIONS",
    "SHARES",
    "TABLE",
    "cached_configs",
    "compute",
    "figures_of",
    "fresh_variants",
    "markdown",
    "region_scores",
    "share_config",
    "shown",
    "triple",
]

CACHED, FRESH = "all", "fly"
REGIONS = ("answer", "both")
SHARES = (0.25, 0.05)
FPR = 0.01
TABLE, HELD_OUT = "ablations", "adaptive_attacks"


def cached_configs(n_layers: int, epochs: int, seed: int) -> dict[str, tuple[str, ProbeConfig]]:
    """Return the variants that the window cache (means over 16 tokens) can serve, each with a description."""
    layers = tuple(range(n_layers))

    def config(name: str, read: tuple[int, ...] = layers, loss: LossName = "softmax") -> ProbeConfig:
        return ProbeConfig(name, read, loss=loss, epochs=epochs, seed=seed)

    bands = {
        CACHED: ("all layers, softmax loss", layers),
        "every_second": ("every second layer", layers[::-1][::2][::-1]),
        "every_fourth": ("every fourth layer", layers[::-1][::4][::-1]),
        "band": ("a band of middle layers", layers[round(0.4 * n_layers) : round(0.9 * n_layers)]),
        "one": ("one layer at two thirds", (2 * n_layers // 3,)),
        "last": ("the last layer", layers[-1:]),
    }
    made = {name: (word, config(name, read)) for name, (word, read) in bands.items()}
    made["mean"] = ("mean loss", config("mean", loss="mean"))
    made["max"] = ("loss of the highest window", config("max", loss="max"))
    return made


def share_config(n_layers: int, share: float, epochs: int, seed: int) -> tuple[str, ProbeConfig]:
    """Return the reference variant for a share of the data. More epochs over fewer exchanges give as many steps."""
    name = f"share_{share:g}"
    config = ProbeConfig(name, tuple(range(n_layers)), epochs=max(1, round(epochs / share)), seed=seed)
    return f"{share:.0%} of the training exchanges", config


def fresh_variants(n_layers: int) -> dict[str, tuple[str, VariantConfig]]:
    """Return the variants that need single tokens or other sites, each with a description."""
    layers = tuple(range(n_layers))
    topk = SequenceLoss("topk", top=8)
    penalised = SequenceLoss("topk", top=8, variance=0.01, variance_tau=2.0)
    made: dict[str, tuple[str, dict[str, Any]]] = {
        FRESH: ("on the fly: all layers, residual, window 16, softmax loss", {}),
        "fly_m1": ("no smoothing", {"window": 1}),
        "fly_m4": ("window 4", {"window": 4}),
        "fly_m64": ("window 64", {"window": 64}),
        "fly_mean": ("mean loss", {"loss": SequenceLoss("mean")}),
        "fly_m1_mean": ("no smoothing, mean loss", {"window": 1, "loss": SequenceLoss("mean")}),
        "fly_cummax": ("cumulative maximum", {"loss": SequenceLoss("cummax")}),
        "fly_annealed": ("annealed cumulative maximum", {"loss": SequenceLoss("annealed")}),
        "fly_attention": ("attention outputs", {"site": "attention"}),
        "fly_mlp": ("MLP outputs", {"site": "mlp"}),
        "fly_topk": ("mean of the 8 best windows", {"loss": topk}),
        "fly_sctopk": ("SC-TopK: with the benign variance penalty", {"loss": penalised}),
        "fly_sctopk_attention": ("SC-TopK, attention outputs", {"loss": penalised, "site": "attention"}),
        "fly_sctopk_mlp": ("SC-TopK, MLP outputs", {"loss": penalised, "site": "mlp"}),
        "fly_rolling": ("rolling-max attention", {"pooling": "attention", "loss": SequenceLoss("max")}),
    }
    return {name: (word, VariantConfig(name, layers, **changes)) for name, (word, changes) in made.items()}


def compute(folder: Path, resamples: int) -> dict[str, Any]:
    """Compute every figure of the ablation from its scores tables. Thresholds are plain quantiles of benign rows."""
    table = pq.read_table(folder / f"{TABLE}.parquet")
    run = json.loads(table.schema.metadata[b"run"])
    labels = np.array(table["label"].to_pylist(), float)
    groups = {}
    for reference, names in run["groups"].items():
        figures: dict[str, dict[str, Any]] = {name: {"what": run["what"][name]} for name in names}
        for region in REGIONS:
            for name, found in figures_of(table, reference, names, region, resamples).items():
                figures[name][region] = found
        groups[reference] = figures
    return {
        "n": len(labels),
        "n_harmful": int((labels >= 0.5).sum()),
        "n_prompts": len(set(table["prompt_group"].to_pylist())),
        "threshold": f"plain quantile at {FPR} of the development exchanges' own harmless rows: optimistic alike for all",
        "resamples": resamples,
        "reference": {"windows": CACHED, "on_the_fly": FRESH},
        "variants": groups,
        "held_out": held_out(table, folder / f"{TABLE}_{HELD_OUT}.parquet", run["what"]),
        "run": run,
    }


def held_out(development: pa.Table, path: Path, names: Iterable[str]) -> dict[str, Any] | None:
    """Return the harmful exchanges found in the attacks that no variant has seen, at the development threshold."""
    if not path.exists():
        return None
    table = pq.read_table(path)
    harmful = np.array(table["label"].to_pylist(), float) >= 0.5
    benign = np.array(development["label"].to_pylist(), float) < 0.5
    found: dict[str, Any] = {
        "source": HELD_OUT,
        "n_harmful": int(harmful.sum()),
        "n": len(table),
        "variants": {},
    }
    for name in names:
        row = {}
        for region in REGIONS:
            cut = plain_quantile_threshold(
                region_scores(development, name, region)[benign], FPR, unjudged=True
            )
            hits = region_scores(table, name, region)[harmful] > cut
            ends = wilson(int(hits.sum()), len(hits))
            row[region] = [round(float(value), 4) for value in (hits.mean(), *ends)]
        found["variants"][name] = row
    return found


def figures_of(
    table: pa.Table,
    reference: str,
    names: Sequence[str],
    region: str,
    resamples: int,
    fprs: Sequence[float] = (FPR,),
) -> dict[str, dict[str, Any]]:
    """Return AUROC and TPR of each variant with intervals by prompt, and paired differences to the reference."""
    columns = {name: region_scores(table, name, region) for name in names}
    zeros = np.zeros(len(table))
    empty = {
        "category": None,
        "max_prompt": None,
        "max_answer": None,
        "classifier_max": None,
        "flag_token": None,
    }
    rows = [
        {
            **empty,
            **dict.fromkeys(("flops_stage1", "flops_stage2", "cpu_s_stage1", "cpu_s_stage2"), 0.0),
            **{"row": i, "id": row["id"], "source": row["source"], "label": row["label"], "flagged": False},
            **{"stage": 1, "tokens_stage1": row["tokens"], "tokens_stage2": 0},
            "probe_max": float(zeros[i]),
            "mixed_max": float(columns[reference][i]),
            "prompt_group": row["prompt_group"],
        }
        for i, row in enumerate(table.select(["id", "source", "label", "tokens", "prompt_group"]).to_pylist())
    ]
    scores = ScoresTable.from_rows(rows)
    for name in names:
        if name != reference:
            scores = scores.with_column(f"baseline_{name}", columns[name])
    result = evaluate(scores, name=reference, fprs=fprs, resamples=resamples)
    versus = {comparison.second: differences(comparison, fprs) for comparison in result.versus}
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        scorer = result.scorer("probe" if name == reference else name)
        points = {point.name: triple(point.tpr) for point in scorer.operating_points}
        found[name] = {
            "auroc": triple(scorer.auroc),
            **{f"tpr_at_{fpr:g}": points[f"{fpr:g}"] for fpr in fprs},
        }
        if name != reference:
            found[name]["minus_reference"] = versus[name]
    return found


def region_scores(table: pa.Table, name: str, region: str) -> NDArray[np.float64]:
    """Return the streaming maximum of a variant over the regions that may flag; minus infinity if nothing is scored."""
    prompt, answer = (
        np.array(table[f"{name}:{part}"].to_pylist(), dtype=float) for part in ("prompt", "answer")
    )
    scores = answer if region == "answer" else np.fmax(prompt, answer)
    return np.where(np.isnan(scores), -np.inf, scores)


def triple(estimate: Estimate | None) -> list[float | None] | None:
    """Return the value, its lower and its upper end."""
    if estimate is None:
        return None
    ends = (estimate.value, estimate.lower, estimate.upper)
    return [None if value is None else round(value, 4) for value in ends]


def differences(
    comparison: Comparison, fprs: Sequence[float] = (FPR,)
) -> dict[str, list[float | None] | None]:
    """Return variant minus reference, paired by prompt. The comparison itself has the opposite sign."""
    found, wanted = {}, {"auroc", *(f"tpr_at_{fpr:g}" for fpr in fprs)}
    for row in comparison.differences:
        if row.metric in wanted:
            value = triple(row.difference)
            ends = None if value is None else [value[0], value[2], value[1]]
            found[row.metric] = None if ends is None else [None if v is None else 0.0 - v for v in ends]
    return found


def markdown(found: dict[str, Any]) -> str:
    """Return the table for the log: scores of the answer, intervals by prompt, difference to each part's first row."""
    lines = [
        f"{found['n']} development exchanges, {found['n_harmful']} harmful; answers only; 95 % intervals by prompt.",
        "",
        "| variant | what is changed | AUROC | TPR at 1 % | AUROC minus reference |",
        "|---|---|--:|--:|--:|",
    ]
    for reference, figures in found["variants"].items():
        for name, row in figures.items():
            part = row["answer"]
            change = "reference" if name == reference else shown(part["minus_reference"].get("auroc"))
            lines.append(
                f"| `{name}` | {row['what']} | {shown(part['auroc'])} | {shown(part[f'tpr_at_{FPR:g}'])} | {change} |"
            )
    if found["held_out"]:
        lines += ["", *held_out_lines(found)]
    lines += [""] + [f"Not run: {name} ({why})." for name, why in found["run"]["not_run"].items()]
    return "\n".join(lines).rstrip()


def held_out_lines(found: dict[str, Any]) -> list[str]:
    """Return the lines on what each variant finds of the attacks that none has seen."""
    own = found["held_out"]
    lines = [
        f"{own['n_harmful']} harmful exchanges of `{own['source']}`, at the development exchanges' 1 %:",
        "",
        "| variant | what is changed | found by the answer | by prompt or answer |",
        "|---|---|--:|--:|",
    ]
    for name, row in own["variants"].items():
        word = found["run"]["what"][name]
        lines.append(f"| `{name}` | {word} | {shown(row['answer'])} | {shown(row['both'])} |")
    return lines


def shown(values: list[float | None] | None) -> str:
    """Format a value with its interval; a dash if there is none."""
    if values is None or values[0] is None:
        return "-"
    middle = f"{values[0]:.3f}"
    return middle if values[1] is None else f"{middle} ({values[1]:.3f} to {values[2]:.3f})"
