"""Step 2, with `train`: a probe for the stand-in policy. It learns from the same data as the disguise classifiers.

    python -m recipes.reproduce_ccpp.probe --out runs/four_systems

Layers and loss are the same as for the embedded guard's probe. Writes a guard that flags nothing to
`--out/disguise_guard`. It is scored but never shipped. Takes ten minutes on two cores and resumes.
"""

import hashlib
import json
from collections.abc import Sequence

import torch

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.classifiers import ProbeHead
from lockgate.constitution import Constitution, dump_constitution, load_constitution
from lockgate.durable import file_sha256
from lockgate.evaluation import collect_provenance
from lockgate.exchanges import Exchange
from lockgate.guards import Guard, TrainingRecord
from lockgate.training import (
    STRIDE,
    ProbeConfig,
    WindowCache,
    build_cache,
    config_dict,
    fit_probes,
    training_counts,
)
from recipes.reproduce_ccpp.places import DISGUISE_GUARD, Places, make_parser, read_places
from recipes.reproduce_ccpp.train import DISGUISE, policy_of, read_training, sources_of

CONFIG = ProbeConfig("12-26", tuple(range(12, 27)))
TOKENS = 250_000
MAX_TOKENS = 448


def main() -> None:
    train_probe(read_places(make_parser(__doc__).parse_args()), CONFIG, TOKENS)


def train_probe(places: Places, config: ProbeConfig, tokens: int) -> None:
    """Make the guard, unless one of the same data and settings exists."""
    target, sources = places.out / DISGUISE_GUARD, sources_of(places, DISGUISE)
    record = places.record("disguise_probe")
    data = " ".join(map(file_sha256, sources))
    inputs = json.loads(json.dumps({"data": data, "config": config_dict(config), "tokens": tokens}))
    if target.exists() and record.exists() and json.loads(record.read_text())["inputs"] == inputs:
        print("disguise_probe: there already", flush=True)
        return
    policy = load_constitution(policy_of(DISGUISE))
    rows, cache, head = fit_head(places, read_training(sources), config, tokens, policy)
    guard = Guard.create(
        name="stand-in guard of the study",
        backbone=Backbone.load(places.backbone),
        constitution=policy,
        constitution_yaml=dump_constitution(policy),
        head=head,
        thresholds=Thresholds(flag=1e9, flag_on="both"),
        training=TrainingRecord(
            recipe="recipes/reproduce_ccpp",
            config={"probe": config_dict(config), "site": "residual", "max_tokens": MAX_TOKENS},
            exchanges=training_counts(rows),
            tokens_seen=STRIDE * sum(row.end - row.start + 1 for row in cache.exchanges),
            data_sha256=file_sha256(sources[0]),
            seeds=[config.seed],
            notes=["Made for a comparison on harmless stand-ins; it guards nothing."],
        ),
    ).save(target)
    command = ["python", "-m", "recipes.reproduce_ccpp.probe", "--out", "runs/four_systems"]
    content = {
        "inputs": inputs,
        "sha256": guard.record.probe_sha256,
        "rows": len(rows),
        "provenance": collect_provenance(command, {"training": config.seed}, sources),
    }
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(content, indent=1) + "\n")


def fit_head(
    places: Places, labelled: list[Exchange], config: ProbeConfig, tokens: int, policy: Constitution
) -> tuple[list[Exchange], WindowCache, ProbeHead]:
    """Return the exchanges that were read, their windows and the fitted probe."""
    # Windows are read in bfloat16, twice as fast, as for the embedded guard. Scoring uses float32.
    reader = Backbone.load(places.backbone, dtype=torch.bfloat16)
    rows = first_tokens(reader, labelled, tokens)
    key = hashlib.sha256("".join(row.id for row in rows).encode()).hexdigest()[:8]
    windows = places.out / f"disguise_windows-{key}"
    for done in build_cache(
        reader, rows, windows, layers=config.layers, site="residual", max_tokens=MAX_TOKENS
    ):
        print(f"activations: {done}/{len(rows)}", flush=True)
    cache = WindowCache(windows)
    named = {row.category for row in rows if (row.label or 0.0) >= 0.5}
    head = fit_probes(
        cache,
        cache.exchanges,
        [config],
        category_ids=[name for name in policy.category_ids if name in named],
        checkpoint=places.out / "disguise_fit.safetensors",
        report=lambda line: print(line, flush=True),
    )[0]
    return rows, cache, head


def first_tokens(backbone: Backbone, rows: Sequence[Exchange], tokens: int) -> list[Exchange]:
    """Return exchanges of about `tokens` tokens, in the order of their ids, which are hashes."""
    chosen, total = [], 0
    for row in sorted(rows, key=lambda row: row.id):
        if total >= tokens:
            break
        chosen.append(row)
        total += min(MAX_TOKENS, len(backbone.render(row.messages).token_ids))
    return chosen


if __name__ == "__main__":
    main()
