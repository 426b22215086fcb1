"""`lockgate evaluate --systems`: the paper's comparison, from the tables that a spec names."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lockgate.cli._common import print_json, print_table

if TYPE_CHECKING:
    from lockgate.evaluation import Estimate, StudyResult


def compare_systems(name: str, spec_path: Path, output: Path, *, alone: bool, json: bool) -> None:
    """Write `systems.html` and `systems.json`. Raises ConfigError where other tables are given too."""
    from lockgate.errors import ConfigError
    from lockgate.evaluation import StudyData, StudySpec, collect_provenance, study, write_study_report

    if not alone:
        raise ConfigError("--systems names its tables in the spec; give no other tables and no second guard")
    spec = StudySpec.read(spec_path).model_copy(update={"name": name})
    provenance = collect_provenance(
        ["lockgate", *sys.argv[1:]], {"bootstrap": spec.seed}, [spec_path, *StudyData(spec).files()]
    )
    result = study(spec, provenance=provenance)
    paths = write_study_report(result, output)
    if json:
        report = {kind: str(path) for kind, path in paths.items()}
        print_json({"reports": [report], "systems": result.to_dict()})
        return
    _print(result)
    typer.echo(f"report: {paths['html']}")


def _print(result: "StudyResult") -> None:
    for warning in result.warnings:
        typer.echo(f"note: {warning}", err=True)
    typer.echo(
        f"{result.name}: {result.n_harmful} harmful, {result.n_benign} benign, cuts at "
        f"{result.operating_point:g} of {result.n_calibration} calibration prompts"
    )
    rows = [
        (
            system.name,
            f"{system.relative_compute_engine:.2f}",
            f"{system.relative_compute_front:.2f}",
            _cell(system.escalated),
            _cell(system.points[0].tpr),
            _cell(system.points[0].tpr_macro),
            _cell(system.points[0].flagged),
        )
        for system in result.systems
    ]
    columns = ("system", "compute % engine", "compute % front", "escalated", "TPR", "macro TPR", "flagged")
    print_table(columns, rows)


def _cell(estimate: "Estimate | None") -> str:
    if estimate is None:
        return "-"
    if estimate.lower is None or estimate.upper is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} [{estimate.lower:.4f}, {estimate.upper:.4f}]"
