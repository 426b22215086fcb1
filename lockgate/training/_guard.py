"""From labelled exchanges to an uncalibrated guard."""

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
# A thousandth of the scores' spread is what batch mates and builds of the libraries may move a logit.
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
    """Train a probe and bind it into a guard with a provisional threshold.

    A tenth of the prompts is held out; the threshold is the highest score of its harmless exchanges, which
    claims
    nothing: calibrate before you rely on it. Activations and the state of the fit are kept in `work`, where
    an interrupted run goes on.

    Raises:
        TrainingError: no usable rows, or rows of one label only.
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
    """Threshold above all held-out harmless exchanges; above nothing at all if there are none."""
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
    """Harmful and harmless exchanges by source, as the training record names them."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"harmful": 0, "harmless": 0})
    for row in exchanges:
        counts[row.source or "unnamed"]["harmful" if (row.label or 0.0) >= 0.5 else "harmless"] += 1
    return dict(counts)


def config_dict(config: ProbeConfig) -> dict[str, object]:
    """A probe's settings as plain types."""
    values = asdict(config)
    values["layers"] = list(config.layers)
    return values
