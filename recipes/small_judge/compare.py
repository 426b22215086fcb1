"""The same judge alone on all traffic and behind a guard's probe: flags, recall, bound and cost at one budget.

    python -m recipes.small_judge.compare DEMO [--guard GUARD] [--budget 0.005]
    python -m recipes.small_judge.compare --check

DEMO is the folder that `recipes.small_judge.make` has made. Writes `results/judges.parquet` (ids and scores, no text;
seconds and tokens beside them) and the part `judges` of `results/policy.json`. `--check` computes the figures again.
The exchanges are made of patterns, so the figures show what the two ways cost. They say nothing about real judges.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.backbones import Backbone
from lockgate.calibration import choose_threshold, clopper_pearson
from lockgate.durable import scratch_folder
from lockgate.exchanges import Exchange, prompt_group, read_exchanges
from lockgate.guards import Guard
from lockgate.judges import JudgeCost, KeptJudge, find_judge, open_judge
from lockgate.traffic import CalibrationPlan, SecondStagePlan, gather_evidence, judge_exchanges
from recipes.steps import METADATA, facts_of, figures_of_table, reporter, step_parser

RESULTS = Path(__file__).parents[2] / "results"
TABLE, SUMMARY = RESULTS / "judges.parquet", RESULTS / "policy.json"
NAME = "small-sequence-classifier"
WAYS = {"alone": "judge", "behind_probe": "behind", "probe_alone": "probe"}
SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("id", pa.string()),
        ("prompt_group", pa.string()),
        ("probe", pa.float64()),
        ("judge", pa.float64()),
        # Null: the probe never asked the judge.
        ("behind", pa.float64()),
    ]
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.demo is None and not options.check:
        sys.exit("expected the folder that `python -m recipes.small_judge.make` has made, or --check")
    figures_of_table(options, measure, compute)


def compute(table: Path) -> dict[str, Any]:
    """Return the figures of a table: thresholds by the rule of every calibration, and what they find."""
    content = pq.read_table(table)
    made = facts_of(content)
    parts = {name: content.filter(pa.compute.equal(content["part"], name)) for name in ("traffic", "harmful")}
    ways = {way: _way(parts["traffic"], parts["harmful"], column, made, way) for way, column in WAYS.items()}
    told = {key: value for key, value in made.items() if key != "cost"}
    command = "python -m recipes.small_judge.compare"
    return {"judges": {NAME: {**ways, "made_from": {"command": command, **told}}}}


def _way(traffic: pa.Table, harmful: pa.Table, column: str, made: dict[str, Any], way: str) -> dict[str, Any]:
    scores, caught = (_scores(part, column) for part in (traffic, harmful))
    found = choose_threshold(
        scores, traffic["prompt_group"].to_pylist(), made["budget"], 0.0, unjudged=column == "behind"
    )
    flagged = int((caught > found.cut).sum())
    return {
        "tpr": {
            "value": round(flagged / len(caught), 4),
            "ci": [round(end, 4) for end in clopper_pearson(flagged, len(caught))],
            "n": len(caught),
        },
        "flagged": found.flagged,
        "n": found.n,
        "bound": round(found.bound, 6),
        "asked": round(float(np.isfinite(scores).mean()), 4) if column != "probe" else 0.0,
        "cost": made["cost"][way],
    }


def _scores(table: pa.Table, column: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([-math.inf if value is None else value for value in table[column].to_pylist()])


def measure(options: argparse.Namespace) -> pa.Table:
    """Let the judge read all of the traffic, then what the guard's probe escalates.

    Raises:
        LockgateError: the guard, the judge or a file can't be used, or the traffic is too small for the budget.
    """
    traffic, development = options.demo / "traffic.jsonl", options.demo / "development.jsonl"
    guard = Guard.load(options.guard, backbone=Backbone.load(options.backbone))
    judge = open_judge(find_judge(options.demo / "judge"))
    report = reporter("judge")
    with scratch_folder(options.demo / "compare.state", "recipes.small_judge.compare") as folder:
        kept = KeptJudge(judge, folder)
        scores = judge_exchanges(kept, [traffic]).floats("mixed_max")
        cost = {"alone": _cost(kept.cost), "probe_alone": _cost(JudgeCost())}
        report(f"{len(scores)} exchanges judged alone")
        harmful = [row for row in read_exchanges(development) if row.label]
        told = judge_exchanges(kept, [development])
        alone = told.select(told.labels >= 0.5).floats("mixed_max")
        stage = SecondStagePlan(
            None, (development,), judge=judge, stride=options.stride, escalation=options.escalation
        )
        plan = CalibrationPlan(budget=options.budget, second_stage=stage, scratch=folder / "behind")
        with gather_evidence(guard, [traffic], plan) as evidence:
            ready, found = evidence.guard, evidence.judged
            behind, read = evidence.table.floats("mixed_max"), evidence.scored
        assert ready is not None
        assert found is not None
        report("calibrated behind the probe")
        cost["behind_probe"] = _cost(next(row.cost for row in found.arrangements if "behind" in row.name))
        prompts = guard.thresholds.flag_on == "both"
        probe = _probe(read.floats("max_prompt"), read.floats("max_answer"), prompts)
        found_harmful = list(ready.score_many(harmful))
        prompt, answer = (
            np.array([getattr(one, name) for one in found_harmful], float)
            for name in ("max_prompt", "max_answer")
        )
        rows = [
            *_rows("traffic", read_exchanges(traffic), probe, scores, behind),
            *_rows(
                "harmful",
                harmful,
                _probe(prompt, answer, prompts),
                alone,
                [one.mixed_max for one in found_harmful],
            ),
        ]
    facts = {
        "budget": options.budget,
        "guard_sha256": guard.sha256,
        "judge_sha256": judge.sha256,
        "correlation": found.correlation.to_dict(),
        "gains": [gain.to_dict() for gain in found.gains],
        "cost": cost,
    }
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return table.replace_schema_metadata({METADATA: json.dumps(facts)})


def _probe(prompt: np.ndarray[Any, Any], answer: np.ndarray[Any, Any], prompts: bool) -> np.ndarray[Any, Any]:
    return np.asarray(np.fmax(prompt, answer) if prompts else answer)


def _rows(
    part: str,
    exchanges: Sequence[Exchange] | Iterator[Exchange],
    probe: Sequence[float] | np.ndarray[Any, Any],
    judge: Sequence[float] | np.ndarray[Any, Any],
    behind: Sequence[float] | np.ndarray[Any, Any],
) -> list[dict[str, Any]]:
    return [
        {
            "part": part,
            "id": row.id,
            "prompt_group": prompt_group(row),
            "probe": float(one),
            "judge": float(two),
            "behind": float(three) if math.isfinite(three) else None,
        }
        for row, one, two, three in zip(exchanges, probe, judge, behind, strict=True)
    ]


def _cost(found: JudgeCost) -> dict[str, Any]:
    return {**asdict(found), "seconds": round(found.seconds, 2)}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = step_parser(__doc__)
    parser.add_argument("demo", type=Path, nargs="?", help="folder of the judge and its exchanges")
    parser.add_argument("--guard", default="embedded", help="the guard whose probe screens")
    parser.add_argument("--backbone", default="embedded", help="the guard's backbone")
    parser.add_argument("--budget", type=float, default=0.005, help="refusal budget")
    parser.add_argument(
        "--escalation", type=float, default=0.025, help="largest share that the judge is asked about"
    )
    parser.add_argument("--stride", type=int, default=32, help="answer tokens of a block")
    parser.add_argument("--table", type=Path, default=TABLE, help="table to write or check")
    parser.add_argument("--summary", type=Path, default=SUMMARY, help="result file to write or check")
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
