"""What choosing the fit and trying a text voice gain on the pairs, for guards built from a constitution alone.

    python -m recipes.policy_portability.small_sets --guard NAME:SYSTEM=DIR ... --train NAME=FILE ... [--backbone DIR]
    python -m recipes.policy_portability.small_sets --check

NAME is a constitution. SYSTEM is `standard` (the settings of earlier builds), `chosen` (the fit that the build chose) or
`voice` (the same with the text voice as a second stage). `--kept NAME=SYSTEM` says what the build kept: that is the
system `build` of the figures. All guards read the pairs in one pass. `--train` sets the cut of the keyword list.

Writes `results/synthesis/small_sets.parquet` (ids, labels, scores and verdicts, no text) and `results/policy.json`.
Nothing is chosen on the pairs. `--check` recomputes the figures from the table.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.backbones import Backbone
from lockgate.durable import file_sha256
from lockgate.exchanges import read_exchanges
from lockgate.guards import Guard, score_exchanges
from recipes.policy_portability.policy_keywords import VIEWS, best_cut, keyword_scores
from recipes.policy_portability.policy_pairs import (
    PAIRS,
    POLICIES,
    RESULTS,
    PairedExchange,
    flipped_pairs,
    load_policies,
    read_pairs,
)
from recipes.policy_portability.small_set_figures import SYSTEMS, figures
from recipes.steps import METADATA, facts_of, figures_of_table, step_parser

TABLE, SUMMARY = RESULTS / "small_sets.parquet", RESULTS.parent / "policy.json"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("system", "constitution", "pair", "side", "id")),
        ("label", pa.int64()),
        ("score", pa.float64()),
        ("flagged", pa.bool_()),
        # Whether the constitutions judge an exchange of the pair differently.
        ("flipped", pa.bool_()),
    ]
)
Rows = Iterator[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    figures_of_table(options, lambda own: score(read_pairs(own.pairs), own), compute)


def compute(table: Path) -> dict[str, Any]:
    """Compute all figures of a table, with the facts about its guards and files."""
    content = pq.read_table(table)
    made = facts_of(content)
    found = figures(content, made["kept"])
    return {"command": "python -m recipes.policy_portability.small_sets", **found, "made_from": made}


def score(rows: Sequence[PairedExchange], options: argparse.Namespace) -> pa.Table:
    """Return scores and verdicts of all guards and of the keyword lists, one line for each exchange and system.

    Raises:
        LockgateError: a guard or a file can't be read.
    """
    places = _guards(options.guard)
    backbone = Backbone.load("embedded" if options.backbone is None else str(options.backbone))
    guards = {key: Guard.load(path, backbone=backbone) for key, path in places.items()}
    train = {name: Path(path) for name, path in _named(options.train, "--train").items()}
    made: dict[str, Any] = {
        "pairs_sha256": file_sha256(options.pairs),
        "kept": _named(options.kept, "--kept"),
        "guards": {":".join(key): _facts(guard) for key, guard in guards.items()},
        "train_sha256": {name: file_sha256(path) for name, path in train.items()},
    }
    lines = [*_guard_lines(rows, guards, backbone), *_keyword_lines(rows, train, made)]
    flipped = flipped_pairs(rows)
    lines = [{**line, "flipped": line["pair"] in flipped} for line in lines]
    table = pa.Table.from_pylist(lines, schema=SCHEMA)
    return table.replace_schema_metadata({METADATA: json.dumps(made)})


def _guard_lines(
    rows: Sequence[PairedExchange], guards: dict[tuple[str, str], Guard], backbone: Backbone
) -> Rows:
    stages = [guard.stages for guard in guards.values()]
    read = score_exchanges(backbone, stages, [row.exchange for row in rows])
    for number, (row, found) in enumerate(zip(rows, read, strict=True), 1):
        for (name, system), one in zip(guards, found, strict=True):
            yield _line(system, name, row, one.mixed_max, one.flagged)
        if number % 50 == 0:
            print(f"{number} of {len(rows)} exchanges scored", flush=True)


def _keyword_lines(rows: Sequence[PairedExchange], train: dict[str, Path], made: dict[str, Any]) -> Rows:
    made["keyword_cuts"] = {}
    for name, policy in load_policies().items():
        if name not in train:
            continue
        learned = [row for row in read_exchanges(train[name]) if row.label is not None]
        labels = np.array([float(row.label or 0.0) >= 0.5 for row in learned])
        for view in VIEWS:
            cut = best_cut(keyword_scores(learned, policy, view), labels)
            made["keyword_cuts"][f"{name}:{view}"] = cut
            scores = keyword_scores([row.exchange for row in rows], policy, view)
            for row, own in zip(rows, scores.tolist(), strict=True):
                yield _line(f"keyword_{view}", name, row, own, own > cut)


def _line(system: str, name: str, row: PairedExchange, found: float, flagged: bool) -> dict[str, Any]:
    return {
        "system": system,
        "constitution": name,
        "pair": row.pair,
        "side": row.side,
        "id": row.exchange.id,
        "label": row.labels[name],
        "score": found,
        "flagged": flagged,
    }


def _facts(guard: Guard) -> dict[str, Any]:
    found = guard.calibration
    return {
        "sha256": guard.sha256,
        "stages": guard.record.stages,
        "budget": None if found is None else found.budget,
        "n": None if found is None else found.n,
    }


def _guards(values: Sequence[str]) -> dict[tuple[str, str], Path]:
    found = {}
    for value in values:
        key, _, path = value.partition("=")
        name, _, system = key.partition(":")
        if name not in POLICIES or system not in SYSTEMS or not path:
            sys.exit(
                f"--guard: expected NAME:SYSTEM=DIR, NAME of {', '.join(POLICIES)}, SYSTEM of {', '.join(SYSTEMS)}"
            )
        found[name, system] = Path(path)
    if not found:
        sys.exit("--guard: expected at least one")
    return found


def _named(values: Sequence[str], option: str) -> dict[str, str]:
    found = {}
    for value in values:
        name, _, content = value.partition("=")
        if name not in POLICIES or not content:
            sys.exit(f"{option}: expected NAME=..., with a name of {', '.join(POLICIES)}")
        found[name] = content
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = step_parser(__doc__)
    for option, shape, told in (
        ("--guard", "NAME:SYSTEM=DIR", "folder of a guard"),
        ("--train", "NAME=FILE", "training rows of a constitution's build"),
        ("--kept", "NAME=SYSTEM", "system that the build of a constitution kept"),
    ):
        parser.add_argument(option, action="append", default=[], metavar=shape, help=told)
    parser.add_argument("--backbone", type=Path, help="the guards' backbone, if it is not the embedded one")
    parser.add_argument("--pairs", type=Path, default=PAIRS, help="file of the pairs")
    parser.add_argument("--table", type=Path, default=TABLE, help="table to write or check")
    parser.add_argument("--summary", type=Path, default=SUMMARY, help="result file to write or check")
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
