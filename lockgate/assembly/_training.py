"""Training of the probe, and the guard around it. Its threshold is infinite, so it flags nothing yet.

With a small set the settings of the fit are chosen first, on rows that a fit has not seen (`choose_probe`).
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from lockgate.assembly._fit import choose_fit
from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._inputs import BuildInputs, BuildProgress
from lockgate.assembly._reading import Reading, read_windows
from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.classifiers import ProbeHead
from lockgate.constitution import dump_constitution
from lockgate.durable import hash_path
from lockgate.exchanges import Exchange, PromptPrints
from lockgate.guards import Guard, TrainingRecord
from lockgate.synthesis import room_on
from lockgate.training import STRIDE, ProbeConfig, config_dict, fit_probes, training_counts

HEAD, WINDOWS, FIT = "probe.safetensors", "windows", "fit.safetensors"


def train_head(folder: BuildFolder, inputs: BuildInputs, training: Sequence[Exchange]) -> dict[str, Any]:
    """Train the probe and save it in the folder.

    The activations are removed afterwards.

    Returns:
        Tokens seen, precision, the settings of the fit and why they were chosen. `held_out` has the folds and
        the scores of rows that a fit has not seen; it is None if nothing was chosen.
    """
    backbone, plan = inputs.backbone, inputs.training
    config = plan.probe(backbone.n_layers)
    reading = Reading(config.layers, plan.max_tokens, plan.reading_dtype(backbone.placement))
    key = {
        "backbone": backbone.identity.hashes,
        "training": hash_path(folder.path / "training.jsonl"),
        "categories": inputs.constitution.category_ids,
        "configs": [config_dict(one) for one in plan.candidates(backbone.n_layers)],
        "folds": [plan.folds, plan.choose_below],
        "reading": [reading.max_tokens, reading.dtype],
        "one_process": inputs.workers == 1,
    }
    return folder.step("train", key, [HEAD], lambda: _train(folder, inputs, training, reading))


def _train(
    folder: BuildFolder,
    inputs: BuildInputs,
    training: Sequence[Exchange],
    reading: Reading,
) -> dict[str, Any]:
    # Windows of other rows or settings have a folder of another name. An earlier build's folders are removed.
    distinct, places = distinct_rows(training)
    own = _windows_name(distinct, inputs.backbone, reading, inputs.workers)
    for stale in folder.path.glob(f"{WINDOWS}-*"):
        if stale.name != own:
            folder.remove(stale.name)

    def advance(done: int) -> None:
        inputs.watch(BuildProgress("read training rows", done, len(distinct), "exchanges"))

    with room_on(folder.path):
        cache = read_windows(
            inputs.backbone,
            distinct,
            folder.path / own,
            reading,
            workers=inputs.workers,
            report=advance,
        )
        cache.exchanges = [cache.exchanges[place] for place in places]
        chosen = choose_fit(folder, inputs, training, cache, own)
        config: ProbeConfig = chosen.pop("config")
        named = {row.category for row in training if (row.label or 0.0) >= 0.5}
        head = fit_probes(
            cache,
            cache.exchanges,
            [config],
            category_ids=[name for name in inputs.constitution.category_ids if name in named],
            checkpoint=folder.path / FIT,
            report=lambda line: inputs.watch(_epoch(line, config.epochs)),
        )[0]
        head.save(folder.path / HEAD)
    tokens = STRIDE * sum(row.end - row.start + 1 for row in cache.exchanges)
    del cache
    folder.remove(own)
    (folder.path / FIT).unlink(missing_ok=True)
    return {"tokens": tokens, "dtype": reading.dtype, "probe": config_dict(config), **chosen}


def distinct_rows(rows: Sequence[Exchange]) -> tuple[list[Exchange], list[int]]:
    """Return each row once, and for every row its place among them. Copies are read only once."""
    place: dict[tuple[object, ...], int] = {}
    distinct: list[Exchange] = []
    places = []
    for row in rows:
        key = (row.id, row.label, row.category, row.source)
        if key not in place:
            place[key] = len(distinct)
            distinct.append(row)
        places.append(place[key])
    return distinct, places


def bind_guard(
    folder: BuildFolder,
    inputs: BuildInputs,
    rows: Sequence[Exchange],
    seen: dict[str, Any],
    notes: Sequence[str] = (),
) -> Guard:
    """Create a guard from the trained probe, with an infinite threshold.

    Args:
        folder: the build's folder with the probe.
        inputs: the build's inputs.
        rows: the training rows.
        seen: what `train_head` returned.
        notes: further sentences for the record.
    """
    policy, plan = inputs.constitution, inputs.training
    return Guard.create(
        name=f"{policy.name} on {inputs.backbone.name}",
        backbone=inputs.backbone,
        constitution=policy,
        constitution_yaml=dump_constitution(policy),
        head=ProbeHead.load(folder.path / HEAD),
        thresholds=Thresholds(flag=float("inf")),
        training=TrainingRecord(
            recipe="lockgate build",
            config={
                "probe": seen["probe"],
                "choice": seen["choice"],
                "site": "residual",
                "max_tokens": plan.max_tokens,
                "dtype": seen["dtype"],
                "generator": inputs.generator.name,
                "plan": inputs.factory.model_dump(mode="json"),
            },
            exchanges=training_counts(rows),
            tokens_seen=int(seen["tokens"]),
            data_sha256=hash_path(folder.path / "training.jsonl") or "",
            seeds=[inputs.factory.seed, plan.seed],
            notes=[
                f"Synthetic exchanges were written by {inputs.generator.name}; they train, they never judge.",
                *notes,
            ],
        ),
        training_prompts=PromptPrints.of(rows),
    )


def _windows_name(rows: Sequence[Exchange], backbone: Backbone, reading: Reading, workers: int) -> str:
    content = [
        *(f"{row.id} {row.label} {row.category} {row.source}" for row in rows),
        repr((sorted(backbone.identity.hashes.items()), reading, workers == 1)),
    ]
    return f"{WINDOWS}-{hashlib.sha256(chr(10).join(content).encode()).hexdigest()[:12]}"


def _epoch(line: str, epochs: int) -> BuildProgress:
    done = int(line.split()[1].partition("/")[0])
    return BuildProgress("fit the probe", done, epochs, "epochs")
