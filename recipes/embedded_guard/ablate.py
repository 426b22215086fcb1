"""The ablations of the probe: train every variant, score it on development exchanges and print the table.

    python -m recipes.embedded_guard.ablate --out runs/embedded            # needs train.jsonl, dev.jsonl, windows/ there
    python -m recipes.embedded_guard.ablate --out runs/embedded --report   # compute figures from the committed scores
    python -m recipes.embedded_guard.ablate --out runs/embedded --check    # fail if the committed figures differ

Each step resumes. Variants that can use means over 16 tokens are fitted on the window cache of `train`. It is read
here if it is missing. Variants that need single tokens or other sites are trained on the fly, all in one pass. Then
one pass over the development exchanges scores every head as it would be served. Another pass scores
`test_adaptive_attacks.jsonl`, where the text baseline is better than the probe; no choice depends on that set.

Heads go to `--out/ablation/heads`. Scores (ids, no text) go to `scores/ablations*.parquet` and figures to
`ablations.json` under `--results`. The table for LOG.md is printed. With `--teacher FILE` (id and probability of
harm, Parquet or JSONL), soft labels are compared with hard ones.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from lockgate.backbones import Backbone
from lockgate.classifiers import ProbeHead
from lockgate.exchanges import Exchange, read_exchanges
from lockgate.training import CachedExchange, ProbeConfig, WindowCache, fit_probes
from recipes.embedded_guard.families import TEMPLATES, disguised
from recipes.embedded_guard.passes import score_heads
from recipes.embedded_guard.sources import shuffled
from recipes.embedded_guard.teacher import read_soft_labels, soften
from recipes.embedded_guard.train import RESULTS, cache_path, parts_of, read_activations
from recipes.embedded_guard.variant_training import PassConfig, train_on_the_fly
from recipes.embedded_guard.variants import (
    CACHED,
    FRESH,
    HELD_OUT,
    SHARES,
    TABLE,
    cached_configs,
    compute,
    fresh_variants,
    markdown,
    share_config,
)
from recipes.steps import reporter, step_parser

# The name of a fit, its training exchanges, and its variants.
Fit = tuple[str, list[CachedExchange], list[ProbeConfig]]
# The description and the settings of each variant.
Configs = dict[str, tuple[str, ProbeConfig]]


def main(argv: list[str] | None = None) -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and models")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for figures and tables without text"
    )
    parser.add_argument("--teacher", type=Path, help="soft labels for the training exchanges")
    parser.add_argument("--workers", type=int, default=2, help="processes that read windows, as in `train`")
    parser.add_argument("--threads", type=int, default=2, help="number of threads of PyTorch")
    parser.add_argument("--tokens", type=int, default=600_000, help="tokens to read on the fly")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the window cache")
    parser.add_argument("--pairs", type=int, default=400, help="exchanges of each label in further disguises")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--resamples", type=int, default=2000, help="resamples for intervals")
    parser.add_argument("--backbone", default="embedded", help="embedded, or the folder of a backbone")
    parser.add_argument(
        "--report", action="store_true", help="compute the figures again from the committed scores"
    )
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    arguments = parser.parse_args(argv)
    if not (arguments.report or arguments.check):
        run(arguments)
    found = compute(arguments.results / "scores", arguments.resamples)
    target = arguments.results / "ablations.json"
    if arguments.check:
        if json.loads(target.read_text()) != json.loads(json.dumps(found)):
            sys.exit("ablations.json differs from its scores table; run with --report")
        return
    target.write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(found))


def run(arguments: argparse.Namespace) -> None:
    """Run all steps up to the scores table."""
    work = arguments.out / "ablation"
    (work / "heads").mkdir(parents=True, exist_ok=True)
    (arguments.results / "scores").mkdir(parents=True, exist_ok=True)
    train = shuffled(list(read_exchanges(arguments.out / "train.jsonl")), "train")
    more = disguised(train, arguments.pairs)
    for rows in (train, more):
        read_activations(
            rows,
            arguments.out / "windows",
            arguments.workers,
            max(1, arguments.threads // arguments.workers),
            arguments.backbone,
        )
    torch.set_num_threads(arguments.threads)
    heads, record = fit_cached(arguments, train, more, work)
    fresh, windows, pass_record = fit_fresh(arguments, train, work)
    for name, head in {**heads, **fresh}.items():
        head.save(work / "heads" / f"{name}.safetensors")
    record["what"] |= pass_record["what"]
    record["configs"] |= pass_record["configs"]
    record["pass"] = pass_record["pass"]
    record["groups"] = {CACHED: list(heads), FRESH: list(fresh)}
    heads |= fresh
    held_out = arguments.out / f"test_{HELD_OUT}.jsonl"
    score(arguments, work, heads, windows, record, arguments.out / "dev.jsonl", TABLE)
    if held_out.exists():
        score(arguments, work, heads, windows, record, held_out, f"{TABLE}_{HELD_OUT}")


def fit_cached(
    arguments: argparse.Namespace, train: list[Exchange], more: list[Exchange], work: Path
) -> tuple[dict[str, ProbeHead], dict[str, Any]]:
    """Fit heads on the window cache. Returns them and their records."""
    wanted = [
        cache_path(arguments.out / "windows", rows, worker)
        for given in (train, more)
        for worker, rows in parts_of(given, arguments.workers)
        if rows
    ]
    cache = WindowCache.join([WindowCache(path) for path in wanted])
    order = {row.id: number for number, row in enumerate([*train, *more])}
    everything = sorted((row for row in cache.exchanges if row.id in order), key=lambda row: order[row.id])
    rows = [row for row in everything if order[row.id] < len(train)]
    fits, configs, not_run = plan_fits(arguments, train, rows, everything, len(cache.meta["layers"]))
    heads: dict[str, ProbeHead] = {}
    for name, chosen, wanted_configs in fits:
        fitted = fit_probes(
            cache,
            chosen,
            wanted_configs,
            checkpoint=work / f"{name}.safetensors",
            report=reporter(name),
        )
        heads |= {config.name: head for config, head in zip(wanted_configs, fitted, strict=True)}
    return heads, {
        "what": {name: word for name, (word, _) in configs.items()},
        "configs": {name: asdict(config) for name, (_, config) in configs.items()},
        "exchanges": {name: len(chosen) for name, chosen, _ in fits},
        "not_run": not_run,
    }


def plan_fits(
    arguments: argparse.Namespace,
    train: list[Exchange],
    rows: list[CachedExchange],
    everything: list[CachedExchange],
    n_layers: int,
) -> tuple[list[Fit], Configs, dict[str, str]]:
    """Plan the fits: layers and losses together, then less data, more families and soft labels.

    Returns:
        The fits in order, the description and settings of each variant by name, and the reason for each variant that
        is not run.
    """
    configs = cached_configs(n_layers, arguments.epochs, arguments.seed)
    fits: list[Fit] = [("side_by_side", rows, [config for _, config in configs.values()])]
    for share in SHARES:
        word, config = share_config(n_layers, share, arguments.epochs, arguments.seed)
        configs[config.name] = (word, config)
        fits.append((config.name, part_of(rows, share), [config]))
    sources = {row.id: row.source for row in train}
    plain = [row for row in rows if sources[row.id] != TEMPLATES]
    for name, word, chosen in (
        ("no_templates", "without exchanges in jailbreak templates", plain),
        ("families", "with training exchanges in further disguises", everything),
    ):
        if len(chosen) != len(rows):
            config = replace(configs[CACHED][1], name=name)
            configs[name] = (word, config)
            fits.append((name, chosen, [config]))
    not_run: dict[str, str] = {}
    if arguments.teacher:
        config = ProbeConfig("soft", configs[CACHED][1].layers, epochs=arguments.epochs, seed=arguments.seed)
        configs["soft"] = ("soft labels from the teacher", config)
        fits.append(("soft", soften(rows, read_soft_labels(arguments.teacher)), [config]))
    else:
        not_run["soft"] = "no table of teacher scores was given"
    return fits, configs, not_run


def part_of(rows: list[CachedExchange], share: float) -> list[CachedExchange]:
    """Return a share of each label, at least one exchange. A larger share contains every smaller one."""
    kept: set[str] = set()
    for harmful in (False, True):
        ids = [row.id for row in rows if (row.label >= 0.5) is harmful]
        ids.sort(key=lambda name: hashlib.sha256(f"share{name}".encode()).digest())
        kept |= set(ids[: max(1, round(share * len(ids)))])
    return [row for row in rows if row.id in kept]


def fit_fresh(
    arguments: argparse.Namespace, train: list[Exchange], work: Path
) -> tuple[dict[str, ProbeHead], dict[str, int], dict[str, Any]]:
    """Train heads on the fly, in bfloat16 like the windows. Returns them, and the windows of those that pool by attention."""
    backbone = Backbone.load(arguments.backbone, dtype=torch.bfloat16)
    variants = fresh_variants(backbone.n_layers)
    config = PassConfig(tokens=arguments.tokens, seed=arguments.seed)
    fitted = train_on_the_fly(
        backbone,
        train,
        [variant for _, variant in variants.values()],
        config,
        checkpoint=work / "fly.safetensors",
        report=reporter("on the fly"),
    )
    windows = {
        name: variant.window for name, (_, variant) in variants.items() if variant.pooling == "attention"
    }
    return dict(zip(variants, fitted, strict=True)), windows, {
        "what": {name: word for name, (word, _) in variants.items()},
        "configs": {name: asdict(variant) for name, (_, variant) in variants.items()},
        "pass": asdict(config),
    }  # fmt: skip


def score(
    arguments: argparse.Namespace,
    work: Path,
    heads: dict[str, ProbeHead],
    windows: dict[str, int],
    record: dict[str, Any],
    source: Path,
    table: str,
) -> None:
    """Score a file with all heads in one pass."""
    score_heads(
        {name: work / "heads" / f"{name}.safetensors" for name in heads},
        source,
        arguments.results / "scores" / f"{table}.parquet",
        backbone=arguments.backbone,
        record=record,
        command=["python", "-m", "recipes.embedded_guard.ablate"],
        seed=arguments.seed,
        inputs=[path for path in (arguments.out / "train.jsonl", source, arguments.teacher) if path],
        windows=windows,
    )


if __name__ == "__main__":
    main()
