"""The second stage of a build, trained on what the new probe lets through from a pool and from the rows."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._inputs import BuildInputs, BuildProgress, file_hashes
from lockgate.durable import hash_path, scratch_folder
from lockgate.exchanges import read_exchanges
from lockgate.guards import Guard
from lockgate.traffic import (
    ScreenPlan,
    add_mined,
    manifest_of,
    mine,
    read_mined,
    screen_exchanges,
    sift_pool,
)
from lockgate.training import check_settings, train_classifier

_MINED, _CLASSIFIER = "mined.jsonl", "classifier"
_SCREEN, _STATE = "screen", "classifier.state"
# Rows of a build that measure the guard or set its threshold.
_HELD_OUT = ("held_out", "provisional", "calibration", "reviews")


def check_second_stage(inputs: BuildInputs, folder: BuildFolder | None = None) -> None:
    """Check pool and settings before long work. Without a pool there is nothing to check.

    Args:
        inputs: the build's inputs.
        folder: the build's folder, once its rows are divided: the pool must hold more than their prompts.

    Raises:
        ConfigError: the pool holds no harmless exchange, or the classifier would be too large.
    """
    if not inputs.mine:
        return
    held_out = () if folder is None else _held_out(folder, inputs)
    check_settings(inputs.backbone, inputs.training.classifier)
    sift_pool(inputs.mine, inputs.training.mining(held_out))


def train_second_stage(folder: BuildFolder, inputs: BuildInputs, candidate: Guard) -> dict[str, Any] | None:
    """Mine the pool with the probe and train a classifier. Return facts for the report; None without a pool.

    The classifier learns on what the probe would hand to it: all harmful training rows, mined exchanges, and
    of the harmless training rows those above the cut of the mining, with a tenth of the others. Without
    harmless rows of the build's own it could tell harm by the style of the synthetic rows alone.
    """
    if not inputs.mine:
        return None
    mined = _mine(folder, inputs, candidate)
    trained = _train(folder, inputs, candidate, mined)
    return {
        "path": str(folder.path / _CLASSIFIER),
        "mined": mined["file"]["rows"],
        "pool": mined["kinds"]["candidate"],
        "cut": mined["cut"],
        "overlap": mined["kinds"]["overlap"],
        **trained,
    }


def _mine(folder: BuildFolder, inputs: BuildInputs, candidate: Guard) -> dict[str, Any]:
    output = folder.path / _MINED
    held_out = _held_out(folder, inputs)
    key = {
        "guard": candidate.sha256,
        "pool": file_hashes(inputs.mine),
        "held_out": file_hashes(held_out),
        "top": inputs.training.mine_top,
    }

    def watch(_path: Path, done: int) -> None:
        inputs.watch(BuildProgress("mine the pool", done, None, "exchanges"))

    def make() -> Mapping[str, Any]:
        plan = inputs.training.mining(held_out, inputs.workers)
        return mine(candidate, inputs.mine, output, plan, report=watch)

    return folder.step("mine", key, [_MINED, manifest_of(output).name], make)


def _train(
    folder: BuildFolder, inputs: BuildInputs, candidate: Guard, mined: Mapping[str, Any]
) -> dict[str, Any]:
    rows, plan = folder.path / "training.jsonl", inputs.training
    key = {
        "guard": candidate.sha256,
        "training": hash_path(rows),
        "mined": mined["file"]["sha256"],
        "config": asdict(plan.classifier),
        "seed": plan.seed,
    }

    def make() -> dict[str, Any]:
        screen = ScreenPlan(above=mined["cut"], seed=plan.seed, workers=inputs.workers)
        with scratch_folder(folder.path / _SCREEN, "lockgate build") as scratch:
            screened = screen_exchanges(
                candidate,
                [rows],
                screen,
                scratch,
                report=lambda _, done: inputs.watch(
                    BuildProgress("screen training rows", done, None, "exchanges")
                ),
            )
            hard = read_mined([folder.path / _MINED], probe=candidate.record.probe_sha256)
            # Somebody has read these and found them harmful.
            harmful = {row.id for row in read_exchanges(rows) if (row.label or 0.0) >= 0.5}
            made = train_classifier(
                inputs.backbone,
                add_mined(screened.rows, [row for row in hard.rows if row.id not in harmful]),
                plan.classifier,
                constitution=inputs.constitution,
                selection={"mined": hard.facts, "screen": screened.facts},
                checkpoint=folder.path / _STATE,
                report=lambda line: inputs.watch(_progress(line)),
            )
            made.save(folder.path / _CLASSIFIER)
        (folder.path / _STATE).unlink(missing_ok=True)
        training = made.record.training or {}
        return {"sha256": made.sha256, "exchanges": training["exchanges"], "screen": screened.facts["counts"]}

    return folder.step(_CLASSIFIER, key, [_CLASSIFIER], make)


def _held_out(folder: BuildFolder, inputs: BuildInputs) -> tuple[Path, ...]:
    """Return the files with prompts that must not be mined. Empty parts of the build are left out."""
    parts = [folder.path / f"{name}.jsonl" for name in _HELD_OUT]
    return (*(path for path in parts if path.stat().st_size), *inputs.evaluation)


def _progress(line: str) -> BuildProgress:
    done, _, total = line.split()[1].partition("/")
    return BuildProgress("train the second stage", int(done), int(total), "steps")
