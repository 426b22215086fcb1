"""The policy test: two guards, built in the same way from two constitutions, judge the same pairs of exchanges.

    python -m recipes.policy_portability.evaluate --guard stage-magic=DIR --guard magic-school=DIR \\
        [--train stage-magic=FILE --train magic-school=FILE] [--backbone DIR]
    python -m recipes.policy_portability.evaluate --check

Writes `results/synthesis/policy.parquet` (ids, scores and labels, no text) and the figures in
`results/synthesis/policy.json`. `--train` names the exchanges that each guard was trained on. They set the cut of the
keyword list, and a text baseline is fitted to them. `--check` recomputes the figures from the table.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lockgate.classifiers.text import TextBaseline
from lockgate.constitution import Constitution
from lockgate.curation import EvaluationIndex
from lockgate.durable import file_sha256, open_atomic
from lockgate.errors import LockgateError
from lockgate.exchanges import Exchange, prompt_group, read_exchanges
from lockgate.guards import Guard
from recipes.policy_portability.policy_figures import SCHEMA, SCORERS, figures
from recipes.policy_portability.policy_keywords import VIEWS, best_cut, keyword_scores
from recipes.policy_portability.policy_pairs import (
    PAIRS,
    POLICIES,
    RESULTS,
    PairedExchange,
    load_policies,
    read_pairs,
)
from recipes.steps import METADATA, check_figures, facts_of, step_parser

Columns = dict[str, NDArray[Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.check:
        check_figures(compute(options.table), options.summary)
        return
    guards, train = _named(options.guard, "--guard"), _named(options.train, "--train")
    if set(guards) != set(POLICIES):
        sys.exit(f"--guard: expected one for each of {', '.join(POLICIES)}")
    try:
        table = score(read_pairs(options.pairs), guards, train, options.pairs, options.backbone)
    except LockgateError as error:
        sys.exit(str(error))
    with open_atomic(options.table) as file:
        pq.write_table(table, file, compression="zstd")
    with open_atomic(options.summary) as file:
        file.write((json.dumps(compute(options.table), indent=1) + "\n").encode())


def compute(table: Path) -> dict[str, Any]:
    """Compute all figures of a table, with the facts about its guards and files."""
    content = pq.read_table(table)
    made = facts_of(content)
    return {"command": "python -m recipes.policy_portability.evaluate", **figures(content), "made_from": made}


def score(
    rows: Sequence[PairedExchange],
    guards: dict[str, Path],
    train: dict[str, Path],
    pairs: Path,
    backbone: Path | None = None,
) -> pa.Table:
    """Return the scores and verdicts of every scorer under both constitutions.

    Raises:
        LockgateError: a guard or a file can't be read.
    """
    policies = load_policies()
    parts: list[pa.Table] = []
    made: dict[str, Any] = {"pairs_sha256": file_sha256(pairs), "guards": {}, "train_sha256": {}}
    for name in POLICIES:
        learned = _training(train[name], pairs) if name in train else None
        if name in train:
            made["train_sha256"][name] = file_sha256(train[name])
        found, made["guards"][name] = _guard(name, guards[name], policies[name], rows, backbone)
        found |= _keyword(rows, policies[name], learned) | _text(rows, learned)
        parts.append(_table(name, rows, found))
    return pa.concat_tables(parts).replace_schema_metadata({METADATA: json.dumps(made)})


def _guard(
    name: str, path: Path, policy: Constitution, rows: Sequence[PairedExchange], backbone: Path | None
) -> tuple[Columns, dict[str, Any]]:
    guard = Guard.load(path, backbone=backbone)
    if guard.constitution.sha256 != policy.sha256:
        sys.exit(f"{path}: this guard was not built from the constitution {name} as it stands here")
    scores = list(guard.score_many([row.exchange for row in rows]))
    print(f"{name}: {len(scores)} exchanges scored", flush=True)
    record = guard.record
    columns = {
        "guard": np.array([one.mixed_max for one in scores], float),
        "guard_flagged": np.array([one.flagged for one in scores]),
    }
    return columns, {
        "guard_sha256": guard.sha256,
        "constitution_sha256": policy.sha256,
        "flag": record.decides.flag,
        "flag_on": record.thresholds.flag_on,
        "calibrated": record.calibration is not None,
    }


def _training(path: Path, pairs: Path) -> list[Exchange]:
    """Read the labelled exchanges of a training file. They must not overlap with the pairs."""
    index = EvaluationIndex.from_files([pairs])
    rows = [row for row in read_exchanges(path) if row.label is not None and not row.is_prompt_only]
    leaks = [leak for row in rows if (leak := index.find_leak(row)) is not None]
    if leaks:
        sys.exit(
            f"{path}: {len(leaks)} training rows meet the pairs ({leaks[0].reason}); name {pairs.name} as an "
            "evaluation file when the data are made, and build the guard again"
        )
    return rows


def _keyword(rows: Sequence[PairedExchange], policy: Constitution, learned: list[Exchange] | None) -> Columns:
    found: Columns = {}
    for view in VIEWS:
        scores = keyword_scores([row.exchange for row in rows], policy, view)
        cut = 0.0
        if learned is not None:
            labels = np.array([float(row.label or 0.0) >= 0.5 for row in learned])
            cut = best_cut(keyword_scores(learned, policy, view), labels)
        found |= {f"keyword_{view}": scores, f"keyword_{view}_flagged": scores > cut}
    return found


def _text(rows: Sequence[PairedExchange], learned: list[Exchange] | None) -> Columns:
    if learned is None:
        return {}
    baseline = TextBaseline.fit(learned, [prompt_group(row) for row in learned])
    scores = baseline.decision_function([row.exchange for row in rows])
    return {"text": scores, "text_flagged": scores > 0}


def _table(name: str, rows: Sequence[PairedExchange], found: Columns) -> pa.Table:
    columns: dict[str, Any] = {
        "pair": [row.pair for row in rows],
        "side": [row.side for row in rows],
        "id": [row.exchange.id for row in rows],
        "constitution": [name] * len(rows),
        "category": [row.categories[name] for row in rows],
        "label": [row.labels[name] for row in rows],
    }
    for scorer in (*SCORERS, *(f"{one}_flagged" for one in SCORERS)):
        columns[scorer] = found.get(scorer, [None] * len(rows))
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in SCHEMA})


def _named(values: Sequence[str], option: str) -> dict[str, Path]:
    found = {}
    for value in values:
        name, _, path = value.partition("=")
        if name not in POLICIES or not path:
            sys.exit(f"{option}: expected NAME=PATH with a name of {', '.join(POLICIES)}")
        found[name] = Path(path)
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = step_parser(__doc__)
    parser.add_argument(
        "--guard",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="folder of the guard of each constitution",
    )
    parser.add_argument(
        "--train", action="append", default=[], metavar="NAME=FILE", help="training data of each guard"
    )
    parser.add_argument(
        "--backbone", type=Path, help="folder of the guards' backbone, if it is not the embedded one"
    )
    parser.add_argument("--pairs", type=Path, default=PAIRS, help="file of the pairs")
    parser.add_argument(
        "--table", type=Path, default=RESULTS / "policy.parquet", help="scores table to write or check"
    )
    parser.add_argument("--summary", type=Path, default=RESULTS / "policy.json", help="result file to write")
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
