"""Step 3: read activations of the training exchanges, fit several probes together, compare them on development exchanges.

    python -m recipes.embedded_guard.train --out runs/embedded --workers 2

Each step resumes. Heads go to `--out/heads/NAME.safetensors`. The comparison on development prompts uses the moving
average of serving; it goes to `results/embedded_guard/selection.json`.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.classifiers import ProbeHead
from lockgate.constitution import load_constitution
from lockgate.durable.processes import run_parts
from lockgate.errors import TrainingError
from lockgate.evaluation import auroc
from lockgate.exchanges import Exchange, read_exchanges
from lockgate.guards import Stages, score_exchanges
from lockgate.training import ProbeConfig, WindowCache, build_cache, fit_probes
from recipes.embedded_guard.sources import shuffled
from recipes.steps import step_parser

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
    """Return the variants: layers, loss, regions and regularisation. Each changes one thing of `all`."""
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
        ProbeConfig("12-26_lr1e-4", BANDS["12-26"], lr=1e-4),
    ]
    assert made[0] == base
    return made


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and models")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of PyTorch")
    parser.add_argument("--only-activations", action="store_true", help="read the activations and stop")
    arguments = parser.parse_args()
    train = shuffled(list(read_exchanges(arguments.out / "train.jsonl")), "train")
    read_activations(train, arguments.out / "windows", arguments.workers, arguments.threads)
    if arguments.only_activations:
        return
    wanted = [
        cache_path(arguments.out / "windows", rows, worker)
        for worker, rows in parts_of(train, arguments.workers)
    ]
    caches = [WindowCache(path) for path in wanted]
    heads = fit(caches, train, arguments.out)
    compare(heads, arguments.out)


def read_activations(
    train: list[Exchange], out: Path, workers: int, threads: int, source: str = "embedded"
) -> None:
    """Make one cache for each source and worker. If the labels of a source change, only that source is read again."""
    if workers == 1:
        read_part(train, out, 0, 1, threads, source)
        return
    run_parts(
        read_part,
        [(train, out, i, workers, threads, source) for i in range(workers)],
        lost=TrainingError("a process that reads activations ended by itself; run again to go on"),
    )


def read_part(
    train: list[Exchange], out: Path, worker: int, workers: int, threads: int, source: str = "embedded"
) -> None:
    torch.set_num_threads(threads)
    # Training reads in bfloat16, which is twice as fast. Its rounding is small against the spread of the windows.
    # Serving, calibration and reports use float32.
    backbone = Backbone.load(source, dtype=torch.bfloat16)
    layers = tuple(range(backbone.n_layers))
    for number, rows in parts_of(train, workers):
        if number != worker:
            continue
        path = cache_path(out, rows, worker)
        for done in build_cache(backbone, rows, path, layers=layers, site="residual", max_tokens=MAX_TOKENS):
            print(f"{path.name}: {done}/{len(rows)}", flush=True)


def parts_of(train: list[Exchange], workers: int) -> list[tuple[int, list[Exchange]]]:
    """Deal the rows of each source to the workers."""
    sources = sorted({row.source for row in train})
    return [
        (worker, [row for row in train if row.source == source][worker::workers])
        for source in sources
        for worker in range(workers)
    ]


def cache_path(out: Path, rows: list[Exchange], worker: int) -> Path:
    key = hashlib.sha256("".join(row.id for row in rows).encode()).hexdigest()[:8]
    return out / f"{rows[0].source}-{worker}-{key}"


def fit(caches: list[WindowCache], train: list[Exchange], out: Path) -> dict[str, ProbeHead]:
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


def compare(heads: dict[str, ProbeHead], out: Path) -> None:
    """Score the development exchanges with all heads in one pass, by the maximum of the served moving average."""
    torch.set_num_threads(2)
    dev = shuffled(list(read_exchanges(out / "dev.jsonl")), "dev")
    backbone = Backbone.load("embedded")
    stages = [Stages(head, Thresholds(float("inf"))) for head in heads.values()]
    columns: dict[str, list[object]] = {
        "id": [row.id for row in dev],
        "source": [row.source for row in dev],
        "label": [row.label for row in dev],
    }
    scores = list(score_exchanges(backbone, stages, dev))
    for index, name in enumerate(heads):
        columns[f"{name}:prompt"] = [s[index].max_prompt for s in scores]
        columns[f"{name}:answer"] = [s[index].max_answer for s in scores]
    (RESULTS / "scores").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), RESULTS / "scores" / "dev_heads.parquet", compression="zstd")
    summarise()


def summarise() -> None:
    """Compute `selection.json` from the committed development scores. The threshold is the harmless rows' 99 % quantile."""
    table = pq.read_table(RESULTS / "scores" / "dev_heads.parquet")
    harmful = np.array([label >= 0.5 for label in table["label"].to_pylist()])
    sources = np.array(table["source"].to_pylist())
    rows = {}
    for config in configs():
        prompt = np.nan_to_num(table[f"{config.name}:prompt"].to_numpy(), nan=-1e9)
        answer = np.nan_to_num(table[f"{config.name}:answer"].to_numpy(), nan=-1e9)
        rows[config.name] = {
            "answer": figures(answer, harmful, sources),
            "both": figures(np.maximum(prompt, answer), harmful, sources),
        }
        print(
            config.name,
            *(json.dumps(rows[config.name][on]["overall"]) for on in ("answer", "both")),
            flush=True,
        )
    content = {
        "command": "python -m recipes.embedded_guard.train",
        "n": len(harmful),
        "harmful": int(harmful.sum()),
        "configs": [asdict(config) for config in configs()],
        "heads": rows,
    }
    (RESULTS / "selection.json").write_text(json.dumps(content, indent=1) + "\n")


def figures(
    score: NDArray[np.float64], harmful: NDArray[np.bool_], sources: NDArray[np.str_]
) -> dict[str, dict[str, float]]:
    out = {"overall": against(score, harmful, ~harmful)}
    for source in sorted(set(sources)):
        within = sources == source
        if harmful[within].sum() > 4:
            out[source] = {**against(score, harmful & within, ~harmful)}
            if (~harmful[within]).sum() > 4:
                out[source]["auroc_within"] = round(auroc(score[within], harmful[within]), 4)
    return out


def against(
    score: NDArray[np.float64], harmful: NDArray[np.bool_], benign: NDArray[np.bool_]
) -> dict[str, float]:
    chosen = harmful | benign
    cut = np.quantile(score[benign], 0.99)
    return {
        "n": int(harmful.sum()),
        "auroc": round(auroc(score[chosen], harmful[chosen]), 4),
        "tpr_at_0.01": round(float((score[harmful] > cut).mean()), 4),
    }


if __name__ == "__main__":
    main()
