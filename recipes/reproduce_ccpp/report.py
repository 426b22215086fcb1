"""Last step: compute every figure of the four systems from the committed tables.

python -m recipes.reproduce_ccpp.report             # results/four_systems.json, the reports, the tables in docs/results.md
python -m recipes.reproduce_ccpp.report --check     # fail if the committed figures differ

systems.yaml says which tables these are and how they are named; disguise.yaml does so for the stand-ins, a study of
their own by models of their own. What representation re-use saves comes from cost.json. In docs/results.md the
tables stand between `<!-- systems:start -->` and `<!-- systems:end -->`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from lockgate.durable import file_sha256
from lockgate.evaluation import Delay, Estimate, Robustness
from recipes.reproduce_ccpp.study import (
    FrontierPoint,
    Mixing,
    PointRates,
    RankCorrelations,
    ScorerComparison,
    StudyData,
    StudyResult,
    StudySpec,
    SystemResult,
    render_study,
    study,
)
from recipes.reproduce_ccpp.summary_tables import summary_tables
from recipes.results_page import RESULTS_PAGE, write_block
from recipes.steps import step_parser

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAPER = ("last_generation", "exchange", "cascade", "production")
AIM = 40.0


def main(argv: list[str] | None = None) -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    parser.add_argument(
        "--spec", type=Path, default=HERE / "systems.yaml", help="YAML file that names the tables"
    )
    parser.add_argument(
        "--disguise",
        type=Path,
        default=HERE / "disguise.yaml",
        help="YAML file that names the tables of the stand-ins",
    )
    parser.add_argument(
        "--summary", type=Path, default=ROOT / "results" / "four_systems.json", help="result file to write"
    )
    parser.add_argument("--page", type=Path, default=RESULTS_PAGE, help="document with the tables")
    arguments = parser.parse_args(argv)
    spec, disguise = StudySpec.read(arguments.spec), StudySpec.read(arguments.disguise)
    results = [study(own, provenance=provenance_of(own)) for own in (spec, disguise)]
    found = rounded(
        {
            **summarise(results[0]),
            "shared": shared_figures(results[0], spec),
            "precision": {name: read_scoring(spec, name).get("dtype") for name in models_of(spec)},
            "disguise": disguise_figures(results[1]),
        }
    )
    if arguments.check:
        check(found, arguments.summary, arguments.page)
        return
    arguments.summary.write_text(json.dumps(found, indent=1) + "\n")
    for own, result, name in zip((spec, disguise), results, ("report", "disguise"), strict=True):
        (own.root / f"{name}.html").write_text(render_study(result))
    write_block(arguments.page, "systems", summary_tables(found))


def provenance_of(spec: StudySpec) -> dict[str, Any]:
    """Return the study's inputs. Exits if the tables were made by a probe of another size than the spec says."""
    counted = read_scoring(spec, spec.exchange).get("probe_flops", spec.probe_flops)
    if counted != spec.probe_flops:
        sys.exit(f"{spec.exchange}: its probe takes {counted} FLOPs a token; set probe_flops to that")
    return {
        "command": "python -m recipes.reproduce_ccpp.report",
        "seeds": {"bootstrap": spec.seed},
        "inputs": {str(path.relative_to(spec.root)): file_sha256(path) for path in StudyData(spec).files()},
    }


def models_of(spec: StudySpec) -> list[str]:
    names = (spec.exchange, spec.input, spec.output, spec.screen, *spec.others)
    return [name for name in names if name is not None and read_scoring(spec, name).get("dtype")]


def read_scoring(spec: StudySpec, model: str) -> dict[str, Any]:
    """Read the record that `score` writes beside a model's tables."""
    path = spec.root / model / "scoring.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def check(found: dict[str, Any], summary: Path, page: Path) -> None:
    kept = json.loads(summary.read_text())
    differing = sorted(key for key in {*found, *kept} if found.get(key) != kept.get(key))
    if differing:
        sys.exit(f"{summary.name} differs from the tables: {', '.join(differing)}")
    if summary_tables(found) not in page.read_text():
        sys.exit(f"{page.name} differs from {summary.name}: run python -m recipes.reproduce_ccpp.report")
    print("every figure follows from the committed tables")


def summarise(result: StudyResult) -> dict[str, Any]:
    """The result file: what the documents quote."""
    systems = {system.name: system_figures(system) for system in result.systems}
    return {
        "operating_point": result.operating_point,
        "claim_point": result.claim_point,
        "n_calibration": result.n_calibration,
        "n_benign": result.n_benign,
        "n_harmful": result.n_harmful,
        "n_harmful_prompts": result.n_harmful_prompts,
        "compute_reference": result.compute_reference,
        "systems": {name: systems[name] for name in PAPER if name in systems},
        "probe": systems["probe"],
        "robustness": [robustness_figures(row) for row in result.robustness],
        "scorers": {row.name: scorer_figures(row) for row in result.scorers},
        "claim": claim(result),
        "spearman": None if result.spearman is None else spearman_figures(result.spearman),
        "delay": {row.system: delay_figures(row) for row in result.delay},
        "frontier": [frontier_figures(point) for point in result.frontier],
        "mixing": [mixing_figures(own) for own in result.mixing],
        "warnings": list(result.warnings),
        "inputs": result.provenance["inputs"],
        "seed": result.provenance["seeds"]["bootstrap"],
        "command": result.provenance["command"],
    }


def robustness_figures(row: Robustness) -> dict[str, Any]:
    return {
        "first": row.first,
        "second": row.second,
        "fpr": row.fpr,
        "macro": row.macro,
        "difference": row.difference.value,
        "ci": interval(row.difference),
        "at_least_as_robust": row.at_least,
    }


def scorer_figures(row: ScorerComparison) -> dict[str, Any]:
    return {
        "n_calibration": row.n_calibration,
        "n_harmful": row.n_harmful,
        "tpr_macro": row.tpr_macro,
        "exchange_tpr_macro": row.exchange_tpr_macro,
        "exchange_minus_scorer": row.difference.value,
        "ci": interval(row.difference),
        "exchange_beats": row.exchange_beats,
    }


def frontier_figures(point: FrontierPoint) -> dict[str, Any]:
    return {
        "system": point.system,
        "escalation": point.escalation,
        "escalated": point.escalated,
        "relative_compute_engine": point.relative_compute_engine,
        "relative_compute_front": point.relative_compute_front,
        **rate("tpr", point.tpr),
    }


def mixing_figures(own: Mixing) -> dict[str, Any]:
    points = [
        {
            "weight": point.weight,
            "log_auroc": point.log_auroc,
            **{f"tpr_at_{fpr}": value_of(found) for fpr, found in point.tpr.items()},
        }
        for point in own.points
    ]
    return {"first": own.first, "second": own.second, "chosen": own.chosen, "points": points}


def claim(result: StudyResult) -> dict[str, Any]:
    """Return the claims: the exchange classifier's lead, and the aim for the production system."""
    exchange, production = result.system("exchange"), result.system("production")
    rows = [
        row
        for row in result.robustness
        if (row.first, row.second, row.fpr) == ("production", "exchange", result.operating_point)
    ]
    ratio = exchange.relative_compute_engine / production.relative_compute_engine
    return {
        "exchange_beats": {
            row.name: row.exchange_beats for row in result.scorers if row.name in ("probe", "text")
        },
        "production_at_least_as_robust": all(row.at_least for row in rows),
        "exchange_compute_over_production": ratio,
        "aim": AIM,
        "aim_reached": ratio >= AIM and all(row.at_least for row in rows),
    }


def system_figures(system: SystemResult) -> dict[str, Any]:
    operating, lenient = system.points
    return {
        "relative_compute_engine": system.relative_compute_engine,
        "relative_compute_front": system.relative_compute_front,
        "relative_cpu_engine": system.relative_cpu_engine,
        "relative_cpu_front": system.relative_cpu_front,
        **point_figures(operating),
        **rate("escalated", system.escalated),
        "escalate": system.escalate,
        "weight": system.weight,
        "at_claim_point": point_figures(lenient),
    }


def point_figures(point: PointRates) -> dict[str, Any]:
    return {
        **rate("tpr", point.tpr),
        **rate("tpr_macro", point.tpr_macro),
        **rate("flagged", point.flagged),
        "cut": point.cut,
        "sets": {
            own.part: {
                "kind": own.kind,
                **{
                    key: found
                    for name, estimate in (("detected", own.detected), ("false_alarms", own.false_alarms))
                    if estimate is not None
                    for key, found in {**rate(name, estimate), f"n_{name}": estimate.n}.items()
                },
            }
            for own in point.sets
        },
    }


def shared_figures(result: StudyResult, spec: StudySpec) -> dict[str, Any] | None:
    """Return the figures of the exchange classifier on the backbone's activations: same scores, less compute.

    None if they are not measured. In front of an upstream, the backbone's own reading is counted too, as for stage 1.
    """
    path = spec.root / "cost.json"
    if not path.exists():
        return None
    cost = json.loads(path.read_text())
    exchange, probe = result.system("exchange"), result.system("probe")
    ratio = cost["shared_over_alone"]
    engine = exchange.relative_compute_engine * ratio["flops"]
    reading = probe.relative_compute_front - probe.relative_compute_engine
    return {
        "n": cost["n"],
        "flops_over_exchange": ratio["flops"],
        "cpu_over_exchange": ratio["cpu"],
        "largest_difference": cost["largest_difference"],
        "relative_compute_engine": engine,
        "relative_compute_front": engine + reading,
    }


def disguise_figures(result: StudyResult) -> dict[str, Any]:
    """Return what each system flags of the stand-ins and of their harmless twins, at its cut on ordinary traffic."""
    shown = {
        system.name: {**point_figures(system.points[0]), **rate("escalated", system.escalated)}
        for system in result.systems
    }
    return {
        "operating_point": result.operating_point,
        "n_calibration": result.n_calibration,
        "n_benign": result.n_benign,
        "systems": {
            name: {key: own[key] for key in ("flagged", "flagged_ci", "escalated", "cut", "sets")}
            for name, own in shown.items()
        },
        "warnings": list(result.warnings),
        "inputs": result.provenance["inputs"],
    }


def delay_figures(delay: Delay) -> dict[str, Any]:
    return {
        **rate("halted", delay.halted),
        **rate("before_half", delay.before_half),
        **rate("before_any", delay.at_prompt),
        "tokens_median": None if delay.tokens is None else delay.tokens[0],
        "tokens_90": None if delay.tokens is None else delay.tokens[1],
        "share_median": None if delay.share is None else delay.share[0],
        "share_90": None if delay.share is None else delay.share[1],
    }


def spearman_figures(found: RankCorrelations) -> dict[str, Any]:
    return {
        "n": found.n,
        "names": list(found.names),
        "rho": [[value_of(entry) for entry in row] for row in found.matrix],
        "ci": [[None if entry is None else interval(entry) for entry in row] for row in found.matrix],
    }


def rate(name: str, estimate: Estimate | None) -> dict[str, Any]:
    return {name: value_of(estimate), f"{name}_ci": None if estimate is None else interval(estimate)}


def value_of(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def interval(estimate: Estimate) -> list[float | None]:
    return [estimate.lower, estimate.upper]


def rounded(value: Any) -> Any:  # noqa: ANN401
    """Round to six significant digits, which other machines reproduce."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
