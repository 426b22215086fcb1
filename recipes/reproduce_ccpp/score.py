"""Step 3: every exchange of the study through every model; scores tables and block traces without text.

    python recipes/reproduce_ccpp/score.py --out runs/four_systems --model probe_exchange --workers 2

`probe_exchange` is a guard of two stages that asks its classifier at every block, by the code that serves; the other
models are classifiers alone. The long step: on two cores two hours for `probe_exchange`, one for `output`, half an hour
for `small` and for `input`. Interrupted, it goes on where it stopped; finished tables are not made again.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from train import CONFIGS, MODELS, ROOT

import lockgate
from lockgate.backbones import Backbone
from lockgate.cascade import Cascade
from lockgate.classifiers import BlockScores, ExchangeClassifier, score_blocks
from lockgate.evaluation import BlockTrace, ScoresTable, file_sha256
from lockgate.exchanges import prompt_group, read_exchanges

TABLES = ROOT / "results" / "four_systems"
# Part in the tables: file of the data step.
PARTS = {
    "dev": "dev",
    "harmful_saferlhf_mini": "test_saferlhf_mini",
    "harmful_own_sgbench": "test_own_sgbench",
    "harmful_gptfuzz": "test_gptfuzz",
    "harmful_adaptive_attacks": "test_adaptive_attacks",
    "long_gptfuzz": "long_gptfuzz",
    "long_adaptive_attacks": "long_adaptive_attacks",
    "hard_benign": "hard_benign",
    "benign_test": "benign_test",
    "calibration": "calibration",
}
CHUNK = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=["probe_exchange", *(set(CONFIGS) - {"exchange"})], required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    (TABLES / arguments.model).mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        score_part(arguments.out, arguments.model, part, arguments.workers)


def score_part(out: Path, model: str, part: str, workers: int) -> None:
    source = out / f"{PARTS[part]}.jsonl"
    table, trace = (TABLES / model / f"{part}{suffix}" for suffix in (".parquet", ".blocks.parquet"))
    stamp = out / f"{model}.{part}.scored"
    name = "exchange" if model == "probe_exchange" else model
    probe = lockgate.load("embedded").record.probe_sha256 if model == "probe_exchange" else ""
    key = f"{file_sha256(source)} {file_sha256(MODELS / name / 'classifier.yaml')} {probe}"
    if stamp.exists() and stamp.read_text() == key and table.exists() and trace.exists():
        return
    if model == "probe_exchange":

        def report(done: int) -> None:
            print(f"{model} {part}: {done}", flush=True)

        guard = two_stages(out)
        guard.score_file(source, table, workers=workers, blocks=trace, all_blocks=True, report=report)
    else:
        # Chunks of another model or file must never be taken over.
        mark = hashlib.sha256(key.encode()).hexdigest()[:16]
        score_classifier(model, source, table, trace, out / f"{model}.{part}.{mark}.parts", workers)
    stamp.write_text(key)
    print(f"{model} {part}: done", flush=True)


def two_stages(out: Path) -> lockgate.Guard:
    """The embedded probe and the study's classifier as one guard; its thresholds come later, from the traces."""
    guard = lockgate.load("embedded")
    classifier = ExchangeClassifier.load(MODELS / "exchange", guard.backbone)
    open_gate = Cascade(escalate=0.0, flag=1e9, weight=0.5)
    return guard.with_cascade(classifier, open_gate).save(out / "guard")


def score_classifier(model: str, source: Path, table: Path, trace: Path, parts: Path, workers: int) -> None:
    parts.mkdir(exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(
            work, *zip(*((model, source, parts, i, workers) for i in range(workers)), strict=True)
        ):
            pass
    rows = [
        json.loads(line) for path in sorted(parts.glob("*.jsonl")) for line in path.open(encoding="utf-8")
    ]
    traced = [
        (row["row"], row.pop("ends"), [float("nan")] * len(row["logits"]), row.pop("logits")) for row in rows
    ]
    ScoresTable.from_rows(rows).write(table)
    BlockTrace.from_rows(traced).write(trace)
    shutil.rmtree(parts)


def work(model: str, source: Path, parts: Path, worker: int, workers: int) -> None:
    torch.set_num_threads(1)
    classifier = ExchangeClassifier.load(MODELS / model, Backbone.load("embedded"))
    rows = read_exchanges(source)
    for number in itertools.count():
        chunk = list(itertools.islice(rows, CHUNK))
        if not chunk:
            return
        target = parts / f"{number:08d}.jsonl"
        if number % workers != worker or target.exists():
            continue
        lines = [
            json.dumps(row_of(score))
            for score in score_blocks(classifier, chunk, first_number=number * CHUNK)
        ]
        partial = target.with_suffix(".part")
        partial.write_text("".join(line + "\n" for line in lines))
        os.replace(partial, target)
        print(f"{model} {source.stem}: {(number + 1) * CHUNK}", flush=True)


def row_of(score: BlockScores) -> dict[str, Any]:
    exchange, best = score.exchange, max(score.logits)
    return {
        "row": score.number,
        **{key: getattr(exchange, key) for key in ("id", "source", "label", "category")},
        "probe_max": best,
        "classifier_max": best,
        "mixed_max": best,
        "flagged": False,
        "stage": 2,
        "tokens_stage1": 0,
        "tokens_stage2": score.tokens,
        "flops_stage1": 0.0,
        "flops_stage2": score.flops,
        "cpu_s_stage1": 0.0,
        "cpu_s_stage2": score.cpu_s,
        "prompt_group": prompt_group(exchange),
        "length": score.tokens,
        "ends": score.ends,
        "logits": score.logits,
    }


if __name__ == "__main__":
    main()
