"""Compare the paper's systems on the tables that a spec names.

`python -m recipes.reproduce_ccpp.study SPEC.yaml --output DIR`
"""

import argparse
import json
import sys
from pathlib import Path

from lockgate.errors import LockgateError
from lockgate.evaluation import Estimate, collect_provenance
from recipes.reproduce_ccpp.study import StudyData, StudyResult, StudySpec, study, write_study_report


def main(argv: list[str] | None = None) -> int:
    """Write `systems.html` and `systems.json`. The exit status is 2 if the spec or its tables can't be used."""
    parser = argparse.ArgumentParser(prog="python -m recipes.reproduce_ccpp.study", description=__doc__)
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder for the report (HTML and JSON)")
    parser.add_argument("--name", help="name of the study in the report; the default is in the spec")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(argv)
    try:
        spec = StudySpec.read(arguments.spec)
        if arguments.name:
            spec = spec.model_copy(update={"name": arguments.name})
        inputs = [arguments.spec, *StudyData(spec).files()]
        provenance = collect_provenance(sys.argv, {"bootstrap": spec.seed}, inputs)
        result = study(spec, provenance=provenance)
        paths = write_study_report(result, arguments.output)
    except LockgateError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        report = {kind: str(path) for kind, path in paths.items()}
        print(json.dumps({"reports": [report], "systems": result.to_dict()}))
        return 0
    _print(result)
    print(f"report: {paths['html']}")
    return 0


def _print(result: StudyResult) -> None:
    for warning in result.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print(
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
    for row in (columns, *rows):
        print("\t".join(row))


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    if estimate.lower is None or estimate.upper is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} [{estimate.lower:.4f}, {estimate.upper:.4f}]"


if __name__ == "__main__":
    sys.exit(main())
