"""Step 3: activations of the training exchanges, several probes fitted side by side, scored on development exchanges.

    python recipes/embedded_guard/train.py --out runs/embedded --workers 2

Each step is resumable. Writes heads to `--out/heads/NAME.safetensors` and the comparison on development prompts, by
the moving average that serving uses, to `results/embedded_guard/selection.json`.
"""

import argparse
import hashlib
import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from sources import shuffled

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.constitution import load_constitution
from lockgate.evaluation import auroc
from lockgate.exchanges import Exchange, read_exchanges
from lockgate.guards import score_exchanges
from lockgate.training import ProbeConfig, WindowCache, build_cache, fit_probes

RESULTS = Path(__file__).parents[2] / "results" / "embedded_guard"
LAYERS = tuple(range(30))
MAX_TOKENS = 448
BANDS = {
    "all": LAYERS,
    "every_second": LAYERS[1::2],
    "12-26": tuple(range(12, 27)),
    "16-24": tuple(range(16, 25)),
    "last": (29,),
}


def configs() -> list[ProbeConfig]:
    """The variants: layers, loss, regions and regularisation, one thing changed at a time from `all`."""
    base = ProbeConfig("all", LAYERS)
    made = [ProbeConfig(name, layers) for name, layers in BANDS.items()]
    made += [
        ProbeConfig("all_mean", LAYERS, loss="mean"),
        ProbeConfig("all_max", LAYERS, loss="max"),
        ProbeConfig("all_answer", LAYERS, regions="answer"),
        ProbeConfig("16-24_answer", BANDS["16-24"], regions="answer"),
        ProbeConfig("12-26_answer", BANDS["12-26"], regions="answer"),
        ProbeConfig("all_wd10", LAYERS, weight_decay=10.0),
        ProbeConfig("12-26_wd10", BANDS["12-26"], weight_decay=10.0),
        ProbeConfig("all_lr1e-4", LAYERS, lr=1e-4),
        ProbeConfig("12-26_lr1e-4", BANDS["12-26"], lr=1e-4),
        ProbeConfig("all_tau3", LAYERS, tau=3.0),
    ]
    assert made[0] == base
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-activations", action="store_true")
    arguments = parser.parse_args()
    train = shuffled(list(read_exchanges(arguments.out / "train.jsonl")), "train")
    read_activations(train, arguments.out / "windows", arguments.workers, arguments.threads)
    if arguments.only_activations:
        return
    caches = [WindowCache(path) for path in sorted((arguments.out / "windows").iterdir())]
    heads = fit(caches, train, arguments.out)
    compare(heads, arguments.out)


def read_activations(train: list[Exchange], out: Path, workers: int, threads: int) -> None:
    """One cache per source and worker, so that a source whose labels change is read again alone."""
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=read_part, args=(train, out, i, workers, threads)) for i in range(workers)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        if job.exitcode:
            raise SystemExit(f"reading activations stopped with exit code {job.exitcode}; run again to go on")


def read_part(train: list[Exchange], out: Path, worker: int, workers: int, threads: int) -> None:
    torch.set_num_threads(threads)
    # Training reads in bfloat16, twice as fast; its rounding is noise beside the spread of the windows. What is
    # served, calibrated and reported is float32.
    backbone = Backbone.load("embedded", dtype=torch.bfloat16)
    for source in sorted({row.source for row in train}):
        rows = [row for row in train if row.source == source][worker::workers]
        key = hashlib.sha256("".join(row.id for row in rows).encode()).hexdigest()[:8]
        path = out / f"{source}-{worker}-{key}"
        for done in build_cache(backbone, rows, path, layers=LAYERS, site="residual", max_tokens=MAX_TOKENS):
            print(f"{path.name}: {done}/{len(rows)}", flush=True)


def fit(caches: list[WindowCache], train: list[Exchange], out: Path) -> dict[str, object]:
    cache = WindowCache.join(caches)
    labels = {row.id: row for row in train}
    cache.exchanges = [row for row in cache.exchanges if row.id in labels]
    policy = load_constitution("general-harms")
    named = {row.category for row in train if (row.label or 0) >= 0.5}
    categories = [name for name in policy.category_ids if name in named]
    torch.set_num_threads(2)
    wanted = configs()
    fitted = fit_probes(
        cache,
        cache.exchanges,
        wanted,
        category_ids=categories,
        checkpoint=out / "fit.safetensors",
        report=lambda line: print(line, flush=True),
    )
    (out / "heads").mkdir(exist_ok=True)
    heads = {}
    for config, head in zip(wanted, fitted, strict=True):
        head.save(out / "heads" / f"{config.name}.safetensors")
        heads[config.name] = head
    return heads


def compare(heads: dict[str, object], out: Path) -> None:
    """All heads on the development exchanges, in one pass; the plain quantile of its harmless ones as threshold."""
    torch.set_num_threads(1)
    dev = shuffled(list(read_exchanges(out / "dev.jsonl")), "dev")
    backbone = Backbone.load("embedded")
    names, thresholds = list(heads), [Thresholds(float("inf"))] * len(heads)
    scores = list(score_exchanges(backbone, list(heads.values()), thresholds, dev))
    labels = np.array([(row.label or 0) >= 0.5 for row in dev])
    sources = np.array([row.source for row in dev])
    rows = {}
    for index, name in enumerate(names):
        answer = np.nan_to_num(np.array([s[index].max_answer for s in scores]), nan=-1e9)
        both = np.array([s[index].max_score for s in scores])
        rows[name] = {"answer": figures(answer, labels, sources), "both": figures(both, labels, sources)}
        print(name, json.dumps(rows[name]["answer"]["overall"]), json.dumps(rows[name]["both"]["overall"]), flush=True)
    content = {
        "command": "python recipes/embedded_guard/train.py",
        "n": len(dev),
        "harmful": int(labels.sum()),
        "configs": [asdict(config) for config in configs()],
        "heads": rows,
    }
    (RESULTS / "selection.json").write_text(json.dumps(content, indent=1) + "\n")


def figures(score: np.ndarray, harmful: np.ndarray, sources: np.ndarray) -> dict[str, dict[str, float]]:
    out = {"overall": against(score, harmful, ~harmful)}
    for source in sorted(set(sources)):
        within = sources == source
        if harmful[within].sum() > 4:
            out[source] = {**against(score, harmful & within, ~harmful)}
            if (~harmful[within]).sum() > 4:
                out[source]["auroc_within"] = round(auroc(score[within], harmful[within]), 4)
    return out


def against(score: np.ndarray, harmful: np.ndarray, benign: np.ndarray) -> dict[str, float]:
    chosen = harmful | benign
    cut = np.quantile(score[benign], 0.99)
    return {
        "n": int(harmful.sum()),
        "auroc": round(auroc(score[chosen], harmful[chosen]), 4),
        "tpr_at_0.01": round(float((score[harmful] > cut).mean()), 4),
    }


if __name__ == "__main__":
    main()
