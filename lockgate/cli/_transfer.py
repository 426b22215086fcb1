"""`lockgate calibrate --transfer`: measure what another precision or device does to a guard's scores."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lockgate.cli._common import print_json, print_table
from lockgate.cli._scoring import load_guard, read_scores, watch_files

if TYPE_CHECKING:
    from lockgate.tables import ScoresTable
    from lockgate.traffic import CalibrationPlan, Transfer


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """The options of the command, under their own names."""

    guard: str
    backbone: str | None
    device: str
    dtype: str
    inputs: Sequence[Path]
    scores: Sequence[Path]
    output: Path | None
    recalibrate: bool
    json: bool


def transfer(options: TransferOptions, plan: "CalibrationPlan") -> None:
    """Score the traffic in both precisions, print the difference, and write the guard if asked."""
    from lockgate.backbones import choose_placement
    from lockgate.errors import ConfigError
    from lockgate.traffic import compare_precisions, score_traffic

    if not options.inputs:
        raise ConfigError("--transfer: give the exchanges to score (--input)")
    if options.recalibrate and options.output is None:
        raise ConfigError("--recalibrate: a guard is written only with --output")
    choose_placement(options.device, options.dtype)
    with _folder(plan.scratch) as folder:
        before = read_scores(options.scores) if options.scores else _score_as_recorded(options, plan, folder)
        guard = load_guard(options.guard, options.backbone, options.device, options.dtype)
        with watch_files(f"score in {guard.backbone.placement}") as watch:
            after = score_traffic(guard, options.inputs, folder / "after", workers=plan.workers, report=watch)
        found = compare_precisions(guard, before, after)
        if not options.json:
            _print(found)
        if options.output is not None:
            made = found.recalibrate(options.inputs, plan) if options.recalibrate else found.keep()
            made.save(options.output)
    if options.json:
        written = None if options.output is None else str(options.output)
        print_json({"transfer": found.to_dict(), "recalibrated": options.recalibrate, "output": written})
    else:
        typer.echo(
            "no guard written: give --output"
            if options.output is None
            else f"guard written to {options.output}, for {found.after}"
            + (", with a new threshold" if options.recalibrate else ", with its old threshold")
        )


def _score_as_recorded(options: TransferOptions, plan: "CalibrationPlan", folder: Path) -> "ScoresTable":
    """Score as when the threshold was set. The model is gone when this returns, so one fits at a time."""
    from lockgate.errors import ConfigError
    from lockgate.guards import bundle_folder, read_bundle
    from lockgate.traffic import score_traffic

    path = bundle_folder(options.guard)
    record = read_bundle(path).record.backbone
    try:
        guard = load_guard(options.guard, options.backbone, record.device, record.dtype)
    except ConfigError as error:
        raise ConfigError(
            f"--transfer: the threshold was set in {record.dtype} on {record.device}, which is not possible "
            f"here ({error}); give scores from there (--scores)"
        ) from error
    with watch_files(f"score in {guard.backbone.placement}") as watch:
        return score_traffic(guard, options.inputs, folder / "before", workers=plan.workers, report=watch)


@contextmanager
def _folder(scratch: Path | None) -> Iterator[Path]:
    from lockgate.durable import scratch_folder

    if scratch is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
    else:
        with scratch_folder(scratch, "lockgate calibrate --transfer") as kept:
            yield kept


def _print(found: "Transfer") -> None:
    print_table(
        ("score", "exchanges", "largest difference", "mean difference"),
        [
            (name, shift.n, f"{shift.max_abs:.5f}", f"{shift.mean_abs:.5f}")
            for name, shift in (("deciding score", found.decided), ("probe", found.probe))
        ],
    )
    if found.judged_once:
        typer.echo(f"{found.judged_once} exchanges are judged by stage 2 in one of the two only.")
    print_table(
        ("computes in", "flagged", "share", "95 % interval"),
        [
            (name, count, f"{count / found.n:.3%}", f"{interval.lower:.3%} to {interval.upper:.3%}")
            for name, count, interval in zip(
                (found.before, found.after),
                (found.flagged_before, found.flagged_after),
                found.shares,
                strict=True,
            )
        ],
    )
    typer.echo(
        f"{found.flag_changes} of {found.n} decisions change: {found.new_flags} new flags, "
        f"{found.lost_flags} flags lost"
    )
