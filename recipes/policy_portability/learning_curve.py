"""How far a user gets with 10, 50 and 200 labelled exchanges: guards built again with them judge the pairs.

    python -m recipes.policy_portability.learning_curve --build NAME=GUARD.build ... --guard NAME=GUARD ... \\
        --benign TRAFFIC [--out runs/policy/curve]
    python -m recipes.policy_portability.learning_curve --check

NAME is a constitution. `--build` is the working folder of its finished build, and `--guard` the guard that this build
made, without labels. The data of the build are copied, never changed. Each further guard is what
`lockgate build ... --feedback` makes of the first rows of `labelled.jsonl`: nothing is written anew, the probe is trained
on the reviews too, and the threshold is set again on the traffic. The comparison with the old guard, which changes
nothing in the new one, is left out. All guards read the pairs in one pass. Run it again after an interruption.

Writes `results/synthesis/learning_curve.parquet` (ids, labels, scores, verdicts; no text), its part of
`results/policy.json` and the picture in the documents. Nothing is chosen on the pairs. `--check` recomputes the figures.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.assembly import BuildInputs, BuildProgress, TrainingPlan, build_guard
from lockgate.backbones import Backbone
from lockgate.constitution import Constitution
from lockgate.durable import file_sha256, hash_json, hash_path
from lockgate.errors import ConfigError
from lockgate.exchanges import read_exchanges
from lockgate.feedback import FeedbackRule
from lockgate.guards import Guard, score_exchanges
from lockgate.synthesis import Generator, GeneratorSource
from lockgate.synthesis.factory import FactoryPlan, embedded_source
from recipes.policy_portability.curve_figures import NOTHING, draw, figures
from recipes.policy_portability.policy_keywords import VIEWS, best_cut, keyword_scores
from recipes.policy_portability.policy_labelled import LABELLED, SIZES, read_labelled, write_reviews
from recipes.policy_portability.policy_pairs import (
    PAIRS,
    POLICIES,
    RESULTS,
    PairedExchange,
    flipped_pairs,
    load_policies,
    read_pairs,
)
from recipes.policy_portability.small_sets import SCHEMA
from recipes.steps import METADATA, facts_of, figures_of_table, reporter, step_parser

TABLE, SUMMARY = RESULTS / "learning_curve.parquet", RESULTS.parent / "policy.json"
PICTURE = RESULTS.parents[1] / "docs" / "images" / "learning-curve.svg"
Places = dict[tuple[str, str], Path]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    found = figures_of_table(options, _measure, compute)
    if found is not None:
        draw(found["curve"], found["policy"]["keywords"]["list"], options.picture)


def compute(table: Path) -> dict[str, Any]:
    """Compute all figures of a table, with the facts about its guards and files."""
    content = pq.read_table(table)
    made = facts_of(content)
    found = figures(content)
    told = {
        "command": "python -m recipes.policy_portability.learning_curve",
        **found["curve"],
        "made_from": made,
    }
    return {"policy": found["policy"], "curve": told}


def grow(
    name: str, finished: Path, size: int, out: Path, options: argparse.Namespace, backbone: Backbone
) -> Path:
    """Build a guard with the first `size` labelled exchanges, from the data of a finished build.

    Args:
        name: the constitution.
        finished: the working folder of its build.
        size: number of labelled exchanges.
        out: folder of the guard.
        options: the options of this step.
        backbone: the guard's backbone.

    Returns:
        The guard's folder.

    Raises:
        LockgateError: the build is not finished, belongs to another policy, or a step fails.
    """
    policy, card = load_policies()[name], _card(finished, load_policies()[name], options.pairs)
    reviews = out.with_name(f"{out.name}-reviews.jsonl")
    write_reviews(read_labelled(options.labelled)[:size], name, reviews)
    training = TrainingPlan.preset(
        "small",
        folds=options.folds,
        budget=options.budget,
        feedback=FeedbackRule(hold_out=0.0),
        **options.settings,
    )
    files = [hash_path(path) for path in (reviews, options.pairs, *options.benign)]
    key = hash_json([policy.sha256, card, repr(training), files, backbone.identity.hashes])
    done = out.with_name(f"{out.name}.json")
    if done.is_file() and json.loads(done.read_text()).get("key") == key and out.is_dir():
        return out
    work = out.with_name(f"{out.name}.build")
    _copy_data(finished, work)
    inputs = BuildInputs(
        constitution=policy,
        generator=_generator(card["generator"], finished),
        backbone=backbone,
        factory=FactoryPlan(**card["plan"]),
        training=training,
        benign=tuple(options.benign),
        evaluation=(options.pairs,),
        feedback=reviews,
        workers=options.workers,
        watch=_Watch(out.name),
    )
    result = build_guard(inputs, out, work=work)
    rows = result.report["rows"]
    done.write_text(
        json.dumps({"key": key, "rows": {part: rows[part] for part in ("training", "feedback")}}) + "\n"
    )
    return out


def _measure(options: argparse.Namespace) -> pa.Table:
    builds, guards = _named(options.build, "--build"), _named(options.guard, "--guard")
    if not builds or builds.keys() != guards.keys() or not options.benign:
        sys.exit(
            "expected --build and --guard for the same constitutions, and the traffic of the builds (--benign)"
        )
    backbone = Backbone.load("embedded" if options.backbone is None else str(options.backbone))
    options.out.mkdir(parents=True, exist_ok=True)
    places: Places = {(name, "0"): place for name, place in guards.items()}
    for size in options.sizes:
        for name, finished in builds.items():
            places[name, str(size)] = grow(
                name, finished, size, options.out / f"{name}-{size}", options, backbone
            )
    return _score(read_pairs(options.pairs), places, builds, backbone, options)


def _score(
    rows: Sequence[PairedExchange],
    places: Places,
    builds: dict[str, Path],
    backbone: Backbone,
    options: argparse.Namespace,
) -> pa.Table:
    guards = {key: Guard.load(path, backbone=backbone) for key, path in places.items()}
    policies = load_policies()
    for (name, _), guard in guards.items():
        if guard.constitution.sha256 != policies[name].sha256:
            sys.exit(f"{guard.path}: this guard was not built from the constitution {name} as it stands here")
    lines = [*_guard_lines(rows, guards, backbone), *_other_lines(rows, builds)]
    flipped = flipped_pairs(rows)
    table = pa.Table.from_pylist(
        [{**line, "flipped": line["pair"] in flipped} for line in lines], schema=SCHEMA
    )
    made = {
        "pairs_sha256": file_sha256(options.pairs),
        "labelled_sha256": file_sha256(options.labelled),
        "guards": {":".join(key): _facts(guard, places[key]) for key, guard in guards.items()},
    }
    return table.replace_schema_metadata({METADATA: json.dumps(made)})


def _guard_lines(
    rows: Sequence[PairedExchange], guards: dict[tuple[str, str], Guard], backbone: Backbone
) -> Iterator[dict[str, Any]]:
    report = reporter("pairs")
    read = score_exchanges(
        backbone, [guard.stages for guard in guards.values()], [row.exchange for row in rows]
    )
    for number, (row, found) in enumerate(zip(rows, read, strict=True), 1):
        for (name, size), one in zip(guards, found, strict=True):
            yield _line(size, name, row, one.mixed_max, one.flagged)
        if number % 50 == 0:
            report(f"{number} of {len(rows)} exchanges scored")


def _other_lines(rows: Sequence[PairedExchange], builds: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Yield the verdicts of the keyword lists, cut on the rows of the build, and of passing everything."""
    for name, folder in builds.items():
        policy = load_policies()[name]
        learned = [row for row in read_exchanges(folder / "training.jsonl") if row.label is not None]
        labels = np.array([float(row.label or 0.0) >= 0.5 for row in learned])
        for view in VIEWS:
            cut = best_cut(keyword_scores(learned, policy, view), labels)
            for row, own in zip(
                rows, keyword_scores([one.exchange for one in rows], policy, view).tolist(), strict=True
            ):
                yield _line(f"keyword_{view}", name, row, own, own > cut)
        for row in rows:
            yield _line(NOTHING, name, row, 0.0, False)


def _line(system: str, name: str, row: PairedExchange, found: float, flagged: bool) -> dict[str, Any]:
    return {
        "system": system, "constitution": name, "pair": row.pair, "side": row.side, "id": row.exchange.id,
        "label": row.labels[name], "score": found, "flagged": flagged,
    }  # fmt: skip


def _facts(guard: Guard, place: Path) -> dict[str, Any]:
    found, done = guard.calibration, place.with_name(f"{place.name}.json")
    return {
        "sha256": guard.sha256,
        "stages": guard.record.stages,
        "budget": None if found is None else found.budget,
        "n": None if found is None else found.n,
        "rows": json.loads(done.read_text())["rows"] if done.is_file() else None,
    }


def _card(finished: Path, policy: Constitution, pairs: Path) -> dict[str, Any]:
    """Read the data card of a finished build. Raises ConfigError if it does not fit."""
    source = finished / "data" / "card.json"
    if not source.is_file() or not (finished / "training.jsonl").is_file():
        raise ConfigError(
            f"{finished}: no finished build there; expected the folder in which `lockgate build` worked, GUARD.build"
        )
    card: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    if card["constitution"]["sha256"] != policy.sha256:
        raise ConfigError(
            f"{source}: built from another policy than {policy.name} as it stands here; build again"
        )
    if [one["name"] for one in card["evaluation"]] != [pairs.name] or card["seeds"] or card["judge"]:
        raise ConfigError(
            f"{source}: expected a build with --evaluation {pairs} and without --prompts and --judge, so that its data can "
            "be used again"
        )
    return card


def _copy_data(finished: Path, work: Path) -> None:
    """Copy the data of a build and the mark that they are complete, unless they are there."""
    mark = Path("steps") / "synthesize.json"
    if (work / mark).is_file():
        return
    shutil.copytree(finished / "data", work / "data", dirs_exist_ok=True)
    (work / "steps").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(finished / mark, work / mark)


def _generator(name: str, finished: Path) -> GeneratorSource:
    """Return a generator of that name that writes nothing, so that only finished data pass as its own."""
    identity = name
    if name.startswith("embedded/"):
        _, dtype, streams, *_ = name.split("/")
        identity = embedded_source(dtype=dtype, streams=int(streams)).identity
    return GeneratorSource(name, partial(_no_generator, finished), identity=identity)


def _no_generator(finished: Path) -> Generator:
    raise ConfigError(
        f"{finished}: its data don't fit this call, and nothing is written anew; give the files of the build (--pairs), "
        "and run the version of Lockgate that built it"
    )


class _Watch:
    """Prints each step of a build once, with the guard's name in front."""

    def __init__(self, name: str) -> None:
        self.report, self.step = reporter(name), ""

    def __call__(self, news: BuildProgress) -> None:
        if news.step != self.step:
            self.step = news.step
            self.report(self.step)


def _named(values: Sequence[str], option: str) -> dict[str, Path]:
    found = {}
    for value in values:
        name, _, path = value.partition("=")
        if name not in POLICIES or not path:
            sys.exit(f"{option}: expected NAME=DIR with a name of {', '.join(POLICIES)}")
        found[name] = Path(path)
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = step_parser(__doc__)
    for option, told in (
        ("--build", "working folder of a finished build"),
        ("--guard", "the guard that it made"),
    ):
        parser.add_argument(option, action="append", default=[], metavar="NAME=DIR", help=told)
    parser.add_argument("--benign", action="append", type=Path, default=[], help="traffic of the builds")
    parser.add_argument("--out", type=Path, default=Path("runs/policy/curve"), help="folder for the guards")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of labelled exchanges"
    )
    parser.add_argument("--backbone", type=Path, help="the guards' backbone, if it is not the embedded one")
    parser.add_argument("--workers", type=int, default=1, help="processes that read")
    parser.add_argument("--folds", type=int, default=0, help="--folds of the builds")
    parser.add_argument("--budget", type=float, default=0.0005, help="--budget of the builds")
    parser.add_argument("--pairs", type=Path, default=PAIRS, help="file of the pairs")
    parser.add_argument("--labelled", type=Path, default=LABELLED, help="file of the labelled exchanges")
    parser.add_argument("--table", type=Path, default=TABLE, help="table to write or check")
    parser.add_argument("--summary", type=Path, default=SUMMARY, help="result file to write or check")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="picture to draw")
    parser.add_argument("--check", action="store_true", help="fail if the committed figures differ")
    parser.set_defaults(settings={})
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
