"""The summary of making data and guards from a constitution: `results/synthesis.json`.

    python -m recipes.policy_portability.synthesis_report --build stage-magic=DIR --build magic-school=DIR
    python -m recipes.policy_portability.synthesis_report           # make the summary from the committed files
    python -m recipes.policy_portability.synthesis_report --check   # fail if the committed summary differs

`--build` names the working folders of `lockgate build` (GUARD.build). Their times and counts go to `builds.json`. The
other sources are the benchmarks' files and two scores tables, those of the policy test and of the comparison of training
sets. Figures of the tables are computed again. `--check` also computes the table of near-duplicates again. If a part is
not measured yet, the error names the command that measures it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.dedup import SETTINGS, table
from lockgate.durable import file_sha256, open_atomic
from lockgate.errors import LockgateError
from lockgate.evaluation import collect_provenance
from recipes.embedded_guard import value_figures
from recipes.policy_portability.build_records import read_build
from recipes.policy_portability.policy_figures import figures
from recipes.policy_portability.policy_pairs import POLICIES, RESULTS, load_policies
from recipes.policy_portability.synthesis_words import summary_words
from recipes.results_page import RESULTS_PAGE, write_block
from recipes.steps import step_parser

COMMAND = "python -m recipes.policy_portability.synthesis_report"
BUILD = (
    "lockgate build CONSTITUTION --out runs/policy/NAME --benign TRAFFIC --evaluation "
    f"recipes/policy_portability/pairs.jsonl, then {COMMAND} --build NAME=runs/policy/NAME.build, for "
    + " and ".join(POLICIES)
)
NEEDED = {
    "builds.json": BUILD,
    "policy.parquet": "python -m recipes.policy_portability.evaluate "
    + " ".join(
        f"--guard {name}=runs/policy/{name} --train {name}=runs/policy/{name}.build/training.jsonl"
        for name in POLICIES
    ),
    "value.parquet": "python -m recipes.embedded_guard.synthetic --out runs/embedded --synthetic DIR",
    "dedup.json": "python -m benchmarks.dedup --rows 10000 40000",
    "throughput.json": "python -m benchmarks.synthesis --only throughput",
    "memory.json": "python -m benchmarks.synthesis --only memory --rows 10000 200000",
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    try:
        if options.build:
            record_builds(options.build, options.results, options.interrupted)
        require(options.results)
        found = compute(options.results, options.resamples)
    except LockgateError as error:
        sys.exit(str(error))
    if options.check:
        check(found, options.summary, options.results, options.page)
        return
    inputs = {name: file_sha256(options.results / name) for name in NEEDED}
    provenance = {
        **collect_provenance(COMMAND.split(), {"bootstrap": value_figures.SEED}, []),
        "inputs": inputs,
    }
    _write(options.summary, {**found, "provenance": provenance})
    write_block(options.page, "synthesis", summary_words(found))
    print(
        json.dumps(
            {key: found[key] for key in ("build_minutes", "policy", "tpr", "rows_per_second")}, indent=1
        )
    )


def record_builds(values: Sequence[str], results: Path, interrupted: bool) -> None:
    """Write the records of the builds' folders. Raises the errors of `read_build`."""
    target, policies = results / "builds.json", load_policies()
    builds = json.loads(target.read_text())["builds"] if target.exists() else {}
    for value in values:
        name, _, path = value.partition("=")
        if name not in POLICIES or not path:
            sys.exit(f"--build: expected NAME=DIR with a name of {', '.join(POLICIES)}")
        builds[name] = read_build(Path(path), policies[name], interrupted=interrupted)
    _write(target, {"command": f"{COMMAND} --build NAME=DIR", "builds": builds})


def require(results: Path) -> None:
    """End with an error that says how to measure a missing part."""
    missing = {name: command for name, command in NEEDED.items() if not (results / name).is_file()}
    if "builds.json" not in missing:
        builds = json.loads((results / "builds.json").read_text())["builds"]
        if lacking := [name for name in POLICIES if name not in builds]:
            missing[f"builds.json: {', '.join(lacking)}"] = BUILD
    if missing:
        lines = [f"  {name}: {command}" for name, command in missing.items()]
        sys.exit("\n".join([f"not measured yet, in {results.name}/:", *lines]))


def compute(results: Path, resamples: int) -> dict[str, Any]:
    """Compute the summary. Figures of the two scores tables are computed again."""
    builds = json.loads((results / "builds.json").read_text())["builds"]
    speed = json.loads((results / "throughput.json").read_text())
    policy = pq.read_table(results / "policy.parquet")
    same_guards(policy.schema.metadata, builds)
    value = value_figures.compute(results / "value.parquet", resamples)
    dedup = json.loads((results / "dedup.json").read_text())
    memory = json.loads((results / "memory.json").read_text())
    own = figures(policy)
    return {
        "command": COMMAND,
        "build_minutes": builds[POLICIES[0]]["minutes"],
        "builds": {name: _build(builds[name]) for name in POLICIES},
        "policy": {
            **own["policy"],
            "both_right_ci": own["scorers"]["guard"]["together"]["both_right"]["ci"],
            "n_exchanges": own["n_exchanges"],
        },
        "policy_by_constitution": {name: _policy(own["scorers"], name) for name in POLICIES},
        "tpr": value["tpr"],
        "tpr_is": _explain(value),
        "dedup": {key: part for key, part in dedup.items() if key != "command"},
        "memory": {key: part for key, part in memory.items() if key != "command"},
        "rows_per_second": {name: row["documents_per_s"] for name, row in speed["blocks"].items()},
        "rows_per_second_ci": {name: row["ci"] for name, row in speed["blocks"].items()},
        "rows_per_second_of": {key: speed[key] for key in ("documents", "answer_words", "machine")},
    }


def same_guards(metadata: dict[bytes, bytes] | None, builds: dict[str, Any]) -> None:
    """End with an error if the policy test judged other guards than those of these builds."""
    judged = json.loads((metadata or {}).get(b"lockgate", b"{}")).get("guards", {})
    for name in POLICIES:
        if judged.get(name, {}).get("guard_sha256") != builds[name]["guard_sha256"]:
            sys.exit(
                f"policy.parquet: another guard for {name} than builds.json records; judge the pairs again "
                f"({NEEDED['policy.parquet']}) or record its build again ({COMMAND} --build)"
            )


def check(found: dict[str, Any], summary: Path, results: Path, page: Path) -> None:
    """End with an error unless the committed files give this summary and the page's words, and the seeds give the
    table of near-duplicates.
    """
    if not summary.is_file():
        sys.exit(f"{summary.name}: not written yet; run: {COMMAND}")
    kept, again = json.loads(summary.read_text()), json.loads(json.dumps(found))
    differing = sorted(
        key for key in again.keys() | kept.keys() - {"provenance"} if again.get(key) != kept.get(key)
    )
    if differing:
        sys.exit(f"{summary.name} differs from the committed results: {', '.join(differing)}; run: {COMMAND}")
    if summary_words(found) not in page.read_text():
        sys.exit(f"{page.name} says something else than {summary.name}; run: {COMMAND}")
    if json.loads((results / "dedup.json").read_text())["table"] != duplicates():
        sys.exit(f"dedup.json: its table is not what the seeds give; run: {NEEDED['dedup.json']}")
    print("every figure follows from the committed results")


@cache
def duplicates() -> dict[str, Any]:
    """Make the benchmark's table from its seeds."""
    return {name: table(*setting) for name, setting in SETTINGS.items()}


def _build(record: dict[str, Any]) -> dict[str, Any]:
    kept = (
        "minutes",
        "minutes_in_steps",
        "in_one_go",
        "lost_attempts",
        "cores",
        "seconds",
        "rows",
        "calibrated",
    )
    return {key: record[key] for key in kept}


def _policy(scorers: dict[str, Any], name: str) -> dict[str, Any]:
    """The results on the pairs of one constitution's guard, and of the best keyword list."""
    kept = ("both_right", "both_right_opposed", "balanced_accuracy", "tpr", "fpr", "ordered")
    lists = [own[name] for scorer, own in scorers.items() if scorer.startswith("keyword")]
    keyword = max(lists, key=lambda own: own["balanced_accuracy"]["value"])
    return {
        who: {key: own[key] for key in kept}
        for who, own in (("guard", scorers["guard"][name]), ("keyword", keyword))
    }


def _explain(value: dict[str, Any]) -> dict[str, Any]:
    """The numbers behind the three main figures, also at 1 % and without a threshold."""
    rows = value["regions"][value_figures.REGION]
    kept = (
        "n",
        "n_harmful",
        "n_harmless",
        "n_prompts",
        "harmful_by_source",
        "macro",
        "threshold",
        "intervals",
    )
    wanted = ("auroc", "macro_tpr_at_0.01", "macro_tpr_at_0.001")
    return {
        "metric": f"macro TPR at {value_figures.FPR:g} FPR on the development list, score of the {value_figures.REGION}",
        **{key: value[key] for key in kept},
        "trained_on": {
            name: {k: own[k] for k in ("exchanges", "harmful")}
            for name, own in value["run"]["training"].items()
        },
        **{key: {name: rows[name][key] for name in value_figures.SETS} for key in wanted},
        "minus_public": {
            name: {key: rows[name]["minus_reference"][key] for key in wanted}
            for name in value_figures.SETS[1:]
        },
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = step_parser(__doc__)
    parser.add_argument(
        "--build",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="working folder of each build (GUARD.build)",
    )
    parser.add_argument(
        "--interrupted",
        action="store_true",
        help="accept a build with lost attempts; its time is too low then",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for figures and tables without text"
    )
    parser.add_argument(
        "--summary", type=Path, default=RESULTS.with_suffix(".json"), help="result file to write"
    )
    parser.add_argument("--page", type=Path, default=RESULTS_PAGE, help="document with the table")
    parser.add_argument("--resamples", type=int, default=2000, help="resamples for intervals")
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
