"""Train an uncalibrated guard on labelled exchanges."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lockgate.backbones import Backbone, Site
from lockgate.cascade import Thresholds
from lockgate.classifiers import ProbeHead
from lockgate.constitution import dump_constitution, load_constitution
from lockgate.curation import grouped_split
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange, PromptPrints, prompt_group
from lockgate.guards import Guard, Stages, TrainingRecord, score_exchanges
from lockgate.training._fit import ProbeConfig, fit_probes
from lockgate.training._windows import STRIDE, WindowCache, build_cache

_HELD_OUT = 0.1
# Batch mates and library builds may change a logit by a thousandth of the scores' spread.
_TOLERANCE_SHARE = 1e-3


def train_guard(
    exchanges: Sequence[Exchange],
    *,
    backbone: Backbone,
    constitution: str | Path,
    config: ProbeConfig,
    site: Site = "residual",
    max_tokens: int = 1024,
    work: Path,
    report: Callable[[str], None] = lambda _: None,
) -> Guard:
    """Train a probe and make a guard with a provisional threshold.

    A tenth of the prompts is held out. The threshold is the highest score of their harmless exchanges. It
    makes no claim: calibrate the guard before you rely on it.

    Args:
        exchanges: exchanges. Those without a label or an answer are ignored.
        backbone: backbone that the probe reads.
        constitution: shipped name or path of the policy that the labels follow.
        config: settings of the probe.
        site: place in a layer where activations are read.
        max_tokens: longer exchanges keep the template's prefix and their last tokens.
        work: folder for activations and the state of the fit. A later call with the same arguments resumes
            from it.
        report: function that receives a line about the progress.

    Raises:
        TrainingError: no exchange is usable, or all have the same label.
    """
    usable = [row for row in exchanges if row.label is not None and not row.is_prompt_only]
    if not usable:
        raise TrainingError(
            "no exchange has both a label and an answer: prompts alone cannot train an exchange probe"
        )
    policy = load_constitution(constitution)
    parts = grouped_split(
        [[prompt_group(row)] for row in usable], {"train": 1 - _HELD_OUT, "held": _HELD_OUT}
    )
    training = [row for row, part in zip(usable, parts, strict=True) if part == "train"]
    held = [row for row, part in zip(usable, parts, strict=True) if part == "held"]
    _check_labels(training)
    for done in build_cache(
        backbone, training, work / "windows", layers=config.layers, site=site, max_tokens=max_tokens
    ):
        report(f"activations: {done}/{len(training)} exchanges")
    cache = WindowCache(work / "windows")
    named = {row.category for row in training if (row.label or 0) >= 0.5}
    head = fit_probes(
        cache,
        cache.exchanges,
        [config],
        category_ids=[name for name in policy.category_ids if name in named],
        checkpoint=work / "fit.safetensors",
        report=report,
    )[0]
    return Guard.create(
        name=f"{policy.name} on {backbone.name}",
        backbone=backbone,
        constitution=policy,
        constitution_yaml=dump_constitution(policy),
        head=head,
        thresholds=provisional_thresholds(backbone, head, held),
        training=_record(usable, cache, config),
        training_prompts=PromptPrints.of(usable),
    )


def provisional_thresholds(backbone: Backbone, head: ProbeHead, held: Sequence[Exchange]) -> Thresholds:
    """Return a threshold above the scores of all held-out harmless exchanges, or 0 if there are none."""
    stages = Stages(head, Thresholds(flag=float("inf")))
    scores = np.array([found[0].max_score for found in score_exchanges(backbone, [stages], held)])
    harmless = scores[[row.label is not None and row.label < 0.5 for row in held]] if len(held) else scores
    tolerance = _TOLERANCE_SHARE * float(scores.std()) if len(scores) else 0.0
    return Thresholds(flag=float(harmless.max()) + tolerance if len(harmless) else 0.0, tolerance=tolerance)


def _check_labels(training: Sequence[Exchange]) -> None:
    harmful = sum((row.label or 0.0) >= 0.5 for row in training)
    if harmful in (0, len(training)):
        raise TrainingError(
            f"{len(training)} training exchanges, {harmful} of them harmful: both labels are needed"
        )


def _record(usable: Sequence[Exchange], cache: WindowCache, config: ProbeConfig) -> TrainingRecord:
    digest = hashlib.sha256("\n".join(f"{row.id} {row.label}" for row in usable).encode()).hexdigest()
    return TrainingRecord(
        recipe="lockgate train probe",
        config={
            "probe": config_dict(config),
            "site": cache.meta["site"],
            "max_tokens": cache.meta["max_tokens"],
        },
        exchanges=training_counts(usable),
        tokens_seen=STRIDE * sum(row.end - row.start + 1 for row in cache.exchanges),
        data_sha256=digest,
        seeds=[config.seed],
    )


def training_counts(exchanges: Sequence[Exchange]) -> dict[str, dict[str, int]]:
    """Count harmful and harmless exchanges by source, for the training record."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"harmful": 0, "harmless": 0})
    for row in exchanges:
        counts[row.source or "unnamed"]["harmful" if (row.label or 0.0) >= 0.5 else "harmless"] += 1
    return dict(counts)


def config_dict(config: ProbeConfig) -> dict[str, object]:
    """Return the settings of a probe as plain types."""
    values = asdict(config)
    values["layers"] = list(config.layers)
    return values
