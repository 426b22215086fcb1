"""`lockgate calibrate --judge` without a guard: the threshold of a judge that reads everything by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lockgate.cli._calibrate_scores import check_output, choose
from lockgate.cli._common import names_of_options
from lockgate.cli._scoring import watch_files
from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from lockgate.judges import Judge, JudgeAddress, KeptJudge
    from lockgate.tables import ScoresTable
    from lockgate.traffic import CalibrationPlan

_OPTIONS = {"traffic": "--input", "exclusions": "--exclude", "development": "--development"}
COLUMN = "logit"


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """The options of the command that go with a judge and without a guard."""

    judge: "JudgeAddress | str"
    inputs: Sequence[Path]
    development: Sequence[Path]
    scores: Sequence[Path]
    output: Path | None
    save_scores: Path | None
    budget: float
    exclude: Path | None
    training: Sequence[Path]
    tolerance: float | None
    json: bool


def calibrate_judge(options: JudgeOptions, needs_guard: Mapping[str, object]) -> None:
    """Have the judge read the traffic, choose its threshold, and print and write it.

    Args:
        options: the options.
        needs_guard: values of the options that need a guard, by their name.

    Raises:
        ConfigError: options do not go together.
        CalibrationError, ExchangeError: the traffic can't be calibrated on.
        JudgeError: the judge can't be used, or gives no verdict.
    """
    if given := [name for name, value in needs_guard.items() if value]:
        raise ConfigError(f"{given[0]} needs a guard; name it before the options")
    if options.scores or not options.inputs:
        raise ConfigError("--judge reads exchanges; give them with --input, and leave --scores out")
    if options.output is None:
        raise ConfigError("--judge needs --output, a JSON file: verdicts are kept beside it until the end")
    check_output(options.output)
    if options.save_scores is not None and not options.save_scores.parent.is_dir():
        raise ConfigError(f"--save-scores: the folder {options.save_scores.parent} does not exist; make it")
    with names_of_options(_OPTIONS):
        _calibrate(options, options.output)


def _calibrate(options: JudgeOptions, output: Path) -> None:
    from lockgate.durable import scratch_folder
    from lockgate.judges import JudgeAddress, KeptJudge, find_judge, open_judge
    from lockgate.traffic import check_judged

    named = options.judge
    judge = open_judge(named.file() if isinstance(named, JudgeAddress) else find_judge(named))
    try:
        judge.check()
        plan = _plan(options)
        check_judged(options.inputs, options.development, plan, judge.training_prompts)
        with scratch_folder(output.with_name(output.name + ".state"), "lockgate calibrate") as folder:
            kept = KeptJudge(judge, folder)
            table = _read(kept, options)
            if options.save_scores is not None:
                table.write(options.save_scores)
            choose(
                table,
                plan,
                files=options.inputs,
                column=COLUMN,
                output=output,
                json=options.json,
                judge=_describe(judge, kept),
            )
    finally:
        judge.close()
    if not options.json:
        cost = kept.cost
        typer.echo(
            f"{judge.file.shown} gave {cost.verdicts} verdicts in {cost.seconds:.1f} s, "
            f"{cost.prompt_tokens + cost.completion_tokens} tokens{_money(kept)}"
        )


def _plan(options: JudgeOptions) -> "CalibrationPlan":
    from lockgate.traffic import CalibrationPlan, read_exclusions

    return CalibrationPlan(
        budget=options.budget,
        exclusions=() if options.exclude is None else read_exclusions(options.exclude),
        training=tuple(options.training),
        tolerance=options.tolerance,
        labelled=bool(options.development),
    )


def _read(kept: "KeptJudge", options: JudgeOptions) -> "ScoresTable":
    """Return the verdicts on the traffic, followed by those on the harmful development exchanges."""
    from lockgate.tables import ScoresTable
    from lockgate.traffic import judge_exchanges

    with watch_files("the judge reads") as watch:
        tables = [judge_exchanges(kept, options.inputs, report=watch)]
        if options.development:
            tried = judge_exchanges(kept, options.development, report=watch)
            tables.append(tried.select(tried.labels >= 0.5))
    return ScoresTable.concat(tables)


def _describe(judge: "Judge", kept: "KeptJudge") -> dict[str, object]:
    """Return the judge's part of the JSON document."""
    file, cost = judge.file, kept.cost
    return {
        "name": file.shown,
        "kind": file.kind,
        "sha256": judge.sha256,
        "cost": {**asdict(cost), "money": cost.money(file.price)},
        "currency": None if file.price is None else file.price.currency,
    }


def _money(kept: "KeptJudge") -> str:
    money, price = kept.cost.money(kept.file.price), kept.file.price
    return "" if money is None or price is None else f", {money:.4g} {price.currency}"
