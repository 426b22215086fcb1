"""`lockgate evaluate`: make a report from scores, or compare two guards."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from lockgate.cli._common import DeviceOption, DtypeOption, JsonFlag, print_json, print_table
from lockgate.cli._scoring import BackboneOption, WorkersOption, load_guard, read_scores, score_with_progress

if TYPE_CHECKING:
    from lockgate.evaluation import Baseline, Comparison, Estimate, EvaluationResult
    from lockgate.tables import ScoresTable

GuardName = Annotated[str, typer.Argument(metavar="GUARD", help="A guard's folder, or `embedded`.")]
SecondName = Annotated[
    str | None, typer.Argument(metavar="[GUARD_B]", help="Second guard, to compare with the first.")
]
InputOption = Annotated[
    list[Path] | None, typer.Option("--input", help="Labelled exchanges to score. May be repeated.")
]
ScoresOption = Annotated[
    list[Path] | None,
    typer.Option("--scores", help="Scores tables of GUARD, instead of --input. May be repeated."),
]
SecondScores = Annotated[
    list[Path] | None, typer.Option("--scores-b", help="Scores tables of GUARD_B. May be repeated.")
]
CalibrationOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--calibration", help="Scores tables of benign traffic that set the thresholds. May be repeated."
    ),
]
SecondCalibration = Annotated[
    list[Path] | None,
    typer.Option("--calibration-b", help="Scores tables of the same traffic by GUARD_B. May be repeated."),
]
BaselineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline",
        metavar="NAME=FILE",
        help="Name and scores table of a baseline on the same exchanges. May be repeated.",
    ),
]
BaselineCalibration = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline-calibration",
        metavar="NAME=FILE",
        help="Name of that baseline and its scores table of the calibration traffic. May be repeated.",
    ),
]
OutputOption = Annotated[Path, typer.Option(help="Folder for the report (HTML and JSON) and the scores.")]


def register(app: typer.Typer) -> None:
    app.command()(evaluate)


def evaluate(
    guard: GuardName,
    output: OutputOption,
    second: SecondName = None,
    inputs: InputOption = None,
    scores: ScoresOption = None,
    scores_b: SecondScores = None,
    calibration: CalibrationOption = None,
    calibration_b: SecondCalibration = None,
    baseline: BaselineOption = None,
    baseline_calibration: BaselineCalibration = None,
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    backbone: BackboneOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    workers: WorkersOption = 1,
    json: JsonFlag = False,
) -> None:
    """Evaluate a guard on labelled exchanges, or on their scores tables.

    With --scores no model is loaded, and GUARD is only a name. With two guards the report also has paired
    differences. The second guard's report goes into the folder `second` of OUTPUT.
    """
    from lockgate.evaluation import check_report, collect_provenance, compare
    from lockgate.evaluation import evaluate as evaluate_table

    check_report()
    files = _Files(inputs, scores, scores_b, second, output)
    tables = files.tables(guard, second, _Reader(backbone, device, dtype, workers))
    calibrations = [_read(calibration), _read(calibration_b)]
    extra = [*_paths_of(baseline), *_paths_of(baseline_calibration)]
    provenance = collect_provenance(
        ["lockgate", *sys.argv[1:]],
        {"bootstrap": seed},
        [*files.given, *(calibration or []), *(calibration_b or []), *extra],
    )
    results = [
        evaluate_table(
            table,
            name=name,
            calibration=calibrations[i],
            baselines=_baselines(baseline, baseline_calibration) if i == 0 else (),
            resamples=resamples,
            seed=seed,
            provenance=provenance,
        )
        for i, (name, table) in enumerate(tables)
    ]
    if len(tables) == 2:
        comparison = compare(
            tables[0][1],
            tables[1][1],
            names=(tables[0][0], tables[1][0]),
            calibrations=(calibrations[0], calibrations[1]),
            resamples=resamples,
            seed=seed,
        )
        results[0] = replace(results[0], comparison=comparison)
    _finish(results, output, json)


def _finish(results: Sequence["EvaluationResult"], output: Path, json: bool) -> None:
    from lockgate.evaluation import write_report

    folders = [output, output / "second"]
    written = [write_report(result, folder) for result, folder in zip(results, folders, strict=False)]
    if json:
        reports = [{kind: str(path) for kind, path in paths.items()} for paths in written]
        print_json({"reports": reports, "results": [result.to_dict() for result in results]})
        return
    for result, paths in zip(results, written, strict=True):
        _print_result(result)
        typer.echo(f"report: {paths['html']}")


class _Reader(NamedTuple):
    """How exchanges are scored: the options of the same names."""

    backbone: str | None
    device: str
    dtype: str
    workers: int


class _Files:
    """The source of the scores: given tables, or exchanges that the guards score first."""

    def __init__(
        self,
        inputs: list[Path] | None,
        scores: list[Path] | None,
        scores_b: list[Path] | None,
        second: str | None,
        output: Path,
    ) -> None:
        from lockgate.errors import ConfigError

        if bool(inputs) == bool(scores):
            raise ConfigError("give either --input (exchanges to score) or --scores (existing scores tables)")
        if scores and (second is not None) != bool(scores_b):
            raise ConfigError(
                "two guards need two sets of scores: --scores for GUARD, --scores-b for GUARD_B"
            )
        if inputs and scores_b:
            raise ConfigError("--scores-b goes with --scores; with --input both guards score the same files")
        self._inputs = inputs
        self._scores = (scores or [], scores_b or [])
        self._output = output
        self.given = [*(inputs or []), *self._scores[0], *self._scores[1]]

    def tables(self, guard: str, second: str | None, reader: "_Reader") -> list[tuple[str, "ScoresTable"]]:
        guards = [guard] if second is None else [guard, second]
        tables = []
        for number, name in enumerate(guards):
            paths = self._score(name, number, reader) if self._inputs else self._scores[number]
            tables.append((name, read_scores(paths)))
        return tables

    def _score(self, guard: str, number: int, reader: "_Reader") -> list[Path]:
        folder = self._output / ("scores" if number == 0 else "scores_b")
        folder.mkdir(parents=True, exist_ok=True)
        loaded = load_guard(guard, reader.backbone, reader.device, reader.dtype)
        made = []
        for position, path in enumerate(self._inputs or []):
            stem = re.sub(r"\.(jsonl|parquet)(\.gz|\.zst)?$", "", path.name)
            made.append(folder / f"{position}_{stem}.parquet")
            score_with_progress(loaded, path, made[-1], reader.workers)
        return made


def _read(paths: Sequence[Path] | None) -> "ScoresTable | None":
    return read_scores(paths) if paths else None


def _named(values: Sequence[str] | None) -> dict[str, Path]:
    from lockgate.errors import ConfigError

    named: dict[str, Path] = {}
    for value in values or ():
        name, separator, path = value.partition("=")
        if not (name and separator and path) or name in named:
            raise ConfigError(f"{value}: expected NAME=FILE, with each name once")
        named[name] = Path(path)
    return named


def _paths_of(values: Sequence[str] | None) -> list[Path]:
    return list(_named(values).values())


def _baselines(scores: Sequence[str] | None, calibrations: Sequence[str] | None) -> list["Baseline"]:
    from lockgate.errors import ConfigError
    from lockgate.evaluation import Baseline
    from lockgate.tables import ScoresTable

    named, calibrated = _named(scores), _named(calibrations)
    unknown = sorted(calibrated.keys() - named.keys())
    if unknown:
        raise ConfigError(f"--baseline-calibration {unknown[0]} has no --baseline of that name")
    return [
        Baseline(name, ScoresTable.read(path), _read([calibrated[name]] if name in calibrated else None))
        for name, path in named.items()
    ]


def _print_result(result: "EvaluationResult") -> None:
    for warning in result.warnings:
        typer.echo(f"note: {warning}", err=True)
    points = [point.name for point in result.scorers[0].operating_points]
    typer.echo(
        f"{result.name}: {result.n_harmful} harmful, {result.n_benign} benign, {result.n_prompts} prompts"
    )
    rows = []
    for scorer in result.scorers:
        found = {point.name: point for point in scorer.operating_points}
        cells = [_cell(found[name].tpr) if name in found else "-" for name in points]
        cells += [_cell(found[name].realised_fpr) if name in found else "-" for name in points]
        rows.append((scorer.name, _cell(scorer.auroc), _cell(scorer.log_auroc), *cells))
    columns = ("scorer", "AUROC", "log AUROC", *(f"TPR {p}" for p in points), *(f"FPR {p}" for p in points))
    print_table(columns, rows)
    if result.comparison is not None:
        _print_comparison(result.comparison)


def _print_comparison(comparison: "Comparison") -> None:
    typer.echo(f"{comparison.first} minus {comparison.second}, {comparison.n} exchanges, paired by prompt")
    print_table(
        ("metric", comparison.first, comparison.second, "difference"),
        [
            (row.metric, f"{row.first:.4f}", f"{row.second:.4f}", _cell(row.difference, signed=True))
            for row in comparison.differences
        ],
    )


def _cell(estimate: "Estimate | None", signed: bool = False) -> str:
    if estimate is None:
        return "-"
    form = "+.4f" if signed else ".4f"
    if estimate.lower is None or estimate.upper is None:
        return format(estimate.value, form)
    return f"{estimate.value:{form}} [{estimate.lower:{form}}, {estimate.upper:{form}}]"
