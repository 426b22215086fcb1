"""Does synthetic data help on real data? Train the shipped probe on three training sets and score all in one pass.

    lockgate synthesize general-harms --out runs/policy/general-harms --evaluation runs/embedded/dev.jsonl
    python -m recipes.embedded_guard.synthetic --out runs/embedded --synthetic runs/policy/general-harms
    python -m recipes.embedded_guard.synthetic --report   # compute figures from the committed scores
    python -m recipes.embedded_guard.synthetic --check    # fail if the committed figures differ

`public` is the training data of the embedded guard: `train.jsonl` under `--out`, with the windows that `train` has read.
`synthetic` is the training part of the synthetic data set. `both` is the two together. Layers, loss and all other
settings are those of the shipped guard. A smaller set takes more epochs, so that all sets get as many steps.

Synthetic rows that match a development exchange are left out together with the other row of their pair. They are
counted by reason.

Each step resumes. Heads and windows go to `--out/synthetic`. Scores (ids, no text) go to `value.parquet` and figures to
`value.json` under `--results`. The table for LOG.md is printed.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from lockgate.constitution import load_constitution
from lockgate.curation import EvaluationIndex
from lockgate.durable import file_sha256
from lockgate.errors import LockgateError, SynthesisError, TrainingError
from lockgate.exchanges import Exchange, PromptPrints, prompt_text, read_exchanges
from lockgate.synthesis.augmentations import undo_all
from lockgate.training import CachedExchange, ProbeConfig, WindowCache, fit_probes
from recipes.embedded_guard.passes import score_heads
from recipes.embedded_guard.sources import shuffled
from recipes.embedded_guard.train import MAX_TOKENS, cache_path, parts_of, read_activations
from recipes.embedded_guard.value_figures import SETS, compute, markdown
from recipes.embedded_guard.variants import cached_configs
from recipes.steps import reporter, step_parser

RESULTS = Path(__file__).parents[2] / "results" / "synthesis"
POLICY = "general-harms"


def main(argv: Sequence[str] | None = None) -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--out", type=Path, help="folder with train.jsonl, dev.jsonl and windows/")
    parser.add_argument("--synthetic", type=Path, help="folder that `lockgate synthesize` made")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for figures and tables without text"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that read windows, as in `train`")
    parser.add_argument("--threads", type=int, default=2, help="number of threads of PyTorch")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the public data")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--resamples", type=int, default=2000, help="resamples for intervals")
    parser.add_argument("--backbone", default="embedded", help="embedded, or the folder of a backbone")
    parser.add_argument(
        "--report", action="store_true", help="compute the figures again from the committed scores"
    )
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    arguments = parser.parse_args(argv)
    if not (arguments.report or arguments.check):
        if arguments.out is None or arguments.synthetic is None:
            parser.error("--out and --synthetic are needed, or --report or --check")
        try:
            run(arguments)
        except LockgateError as error:
            sys.exit(str(error))
    table, target = arguments.results / "value.parquet", arguments.results / "value.json"
    for path in [table, target] if arguments.check else [table]:
        if not path.is_file():
            sys.exit(f"{path.name}: not measured yet; run this with --out and --synthetic")
    found = compute(table, arguments.resamples)
    if arguments.check:
        if json.loads(target.read_text()) != json.loads(json.dumps(found)):
            sys.exit("value.json differs from its scores table; run with --report")
        print("every figure follows from the table")
        return
    target.write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(found))


def run(arguments: argparse.Namespace) -> None:
    """Run all steps up to the scores table.

    Raises:
        LockgateError: the data can't be read, or the probe can't be trained on them.
    """
    work, dev = arguments.out / "synthetic", arguments.out / "dev.jsonl"
    train = shuffled(list(read_exchanges(arguments.out / "train.jsonl")), "train")
    card, made = read_synthetic(arguments.synthetic)
    made, removed = leave_out_known(made, list(read_exchanges(dev)))
    hint = f"run: python -m recipes.embedded_guard.train --out {arguments.out} --workers {arguments.workers} --only-activations"
    public = finished_windows(train, arguments.out / "windows", arguments.workers, hint)
    # Never more processes than rows to deal.
    workers = min(arguments.workers, len(made))
    threads = max(1, arguments.threads // workers)
    read_activations(made, work / "windows", workers, threads, arguments.backbone)
    torch.set_num_threads(arguments.threads)
    own = finished_windows(made, work / "windows", workers, "run this again")
    cache = WindowCache.join([*public, *own])
    labelled = as_labelled(cache.exchanges, [*train, *made])
    count = sum(len(part.exchanges) for part in public)
    rows = dict(zip(SETS, (labelled[:count], labelled[count:], labelled), strict=True))
    (work / "heads").mkdir(parents=True, exist_ok=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    files, training = {}, {}
    for name in SETS:
        config = config_for(len(cache.meta["layers"]), len(rows[name]), count, arguments)
        head = fit_probes(
            cache,
            rows[name],
            [config],
            checkpoint=work / f"{name}.safetensors",
            report=reporter(name),
        )[0]
        files[name] = work / "heads" / f"{name}.safetensors"
        head.save(files[name])
        training[name] = describe(rows[name], config)
    record = {"training": training, "removed": removed, "synthetic": card, "max_tokens": MAX_TOKENS}
    score_heads(
        files,
        dev,
        arguments.results / "value.parquet",
        backbone=arguments.backbone,
        record=record,
        command=["python", "-m", "recipes.embedded_guard.synthetic"],
        seed=arguments.seed,
        inputs=[arguments.out / "train.jsonl", dev, arguments.synthetic / "exchanges.jsonl"],
    )


def read_synthetic(folder: Path) -> tuple[dict[str, Any], list[Exchange]]:
    """Read the facts about the making of a data set from its card, and its training part.

    Raises:
        SynthesisError: the folder holds no finished data set of the policy.
    """
    card_file, source = folder / "card.json", folder / "exchanges.jsonl"
    if not card_file.is_file() or not source.is_file():
        raise SynthesisError(
            f"{folder}: no finished data set there; run: lockgate synthesize {POLICY} --out {folder} "
            "--evaluation DEV.jsonl, with the development list"
        )
    card = json.loads(card_file.read_text(encoding="utf-8"))
    if card["constitution"]["sha256"] != load_constitution(POLICY).sha256:
        raise SynthesisError(
            f"{card_file}: made for {card['constitution']['name']} or another version of it; the development list "
            f"is labelled by {POLICY} as it stands"
        )
    if card["exchanges_sha256"] != file_sha256(source):
        raise SynthesisError(f"{source}: changed after its card was written; make the data set again")
    rows = [row for row in read_exchanges(source) if row.meta.get("split") == "train"]
    if not rows:
        raise SynthesisError(f"{source}: no row of the training part (meta.split: train)")
    kept = ("constitution", "generator", "judge", "requests", "tokens", "rows", "exchanges_sha256")
    evaluation = [{key: file[key] for key in ("name", "sha256")} for file in card["evaluation"]]
    return {**{key: card[key] for key in kept}, "evaluation": evaluation}, shuffled(rows, "synthetic")


def leave_out_known(
    rows: Sequence[Exchange], known: Sequence[Exchange]
) -> tuple[list[Exchange], dict[str, int]]:
    """Return the rows that share no prompt and no run of words with `known`, and the number of others by reason.

    A disguised row is checked as it is and in plain words. If a row is left out, so is the other row of its pair.
    """
    index, prints = EvaluationIndex([("dev", known)]), PromptPrints.of(known)
    reasons: dict[int, str] = {}
    for number, row in enumerate(rows):
        views = [row, in_plain_words(row)]
        leaks = [leak for view in views if (leak := index.find_leak(view)) is not None]
        matches = [match for match in prints.find([prompt_text(view) for view in views]) if match is not None]
        if leaks:
            reasons[number] = f"{leaks[0].part} {leaks[0].rule}"
        elif matches:
            reasons[number] = f"prompt {matches[0].kind}"
    pairs = {rows[number].meta.get("pair") for number in reasons} - {None}
    for number, row in enumerate(rows):
        if row.meta.get("pair") in pairs:
            reasons.setdefault(number, "pair broken")
    kept = [row for number, row in enumerate(rows) if number not in reasons]
    return kept, dict(sorted(Counter(reasons.values()).items()))


def in_plain_words(row: Exchange) -> Exchange:
    """Return the row without its disguises, or the row itself if a generator reworded it."""
    try:
        return undo_all(row)
    except SynthesisError:
        return row


def finished_windows(rows: list[Exchange], folder: Path, workers: int, hint: str) -> list[WindowCache]:
    """Return the caches of the rows.

    Raises:
        TrainingError: some are not read yet. The message contains the hint.
    """
    caches = []
    for worker, part in parts_of(rows, workers):
        if not part:
            continue
        path = cache_path(folder, part, worker)
        if not path.is_dir():
            raise TrainingError(f"{path}: these windows are not read yet; {hint}")
        caches.append(WindowCache(path))
        if [row.id for row in caches[-1].exchanges] != [row.id for row in part]:
            raise TrainingError(f"{path}: not all windows are read; {hint}")
    return caches


def as_labelled(cached: Sequence[CachedExchange], rows: Sequence[Exchange]) -> list[CachedExchange]:
    """Return the cached rows with their present labels. A cache is identified by the messages alone."""
    labels = {(row.id, row.source): float(row.label or 0.0) for row in rows}
    return [replace(row, label=labels[row.id, row.source], category=None) for row in cached]


def config_for(n_layers: int, n: int, n_public: int, arguments: argparse.Namespace) -> ProbeConfig:
    """Return the settings of the shipped guard's probe, with more epochs for fewer exchanges.

    The category heads are left out. They have weights of their own and don't change the score.
    """
    config = cached_configs(n_layers, arguments.epochs, arguments.seed)["band"][1]
    return replace(config, epochs=max(config.epochs, round(config.epochs * n_public / n)))


def describe(rows: Sequence[CachedExchange], config: ProbeConfig) -> dict[str, Any]:
    sources = Counter(row.source for row in rows)
    harmful = sum(row.label >= 0.5 for row in rows)
    return {
        "exchanges": len(rows),
        "harmful": harmful,
        "sources": dict(sorted(sources.items())),
        "config": asdict(config),
    }


if __name__ == "__main__":
    main()
