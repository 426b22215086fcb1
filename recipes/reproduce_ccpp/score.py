"""Step 3: score every exchange of the study with every model. Scores tables and block traces hold no text.

    python -m recipes.reproduce_ccpp.score --out runs/four_systems --model probe_exchange --workers 2

`probe_exchange` is a guard of two stages that asks its classifier at every block, by the code that serves. The other
models are classifiers alone. They are for comparison and never shipped. All read in bfloat16, in calibration and test
alike; that is twice as fast if the processor supports it. Guards that are shipped are calibrated in float32 on tables of
their own. `scoring.json` beside the tables names their precision, classifier and rows.

Times on two cores: an hour for `probe_exchange`, half an hour or less for each of `input`, `output` and `small`, ten
minutes each for `medium` and `value`, which read some parts only, fifteen for the `disguise_` models together, half an
hour for `teacher`. An interrupted run resumes. Finished tables are not made again.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lockgate.backbones import Backbone, derive
from lockgate.cascade import Cascade
from lockgate.classifiers import BlockScores, ExchangeClassifier, score_blocks
from lockgate.durable import file_sha256
from lockgate.durable.processes import run_parts
from lockgate.errors import GuardError
from lockgate.exchanges import Exchange, prompt_group, read_exchanges
from lockgate.guards import EMBEDDED, ExchangeScore, Guard, read_bundle
from lockgate.tables import BlockTrace, ScoresTable
from lockgate.traffic import score_row
from recipes.reproduce_ccpp.parts import MODELS, STRIDE, Model, Part
from recipes.reproduce_ccpp.places import DISGUISE_GUARD, Places, make_parser, read_places

CHUNK = 64


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=MODELS, required=True, help="folder of tables to make")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--parts", nargs="*", help="parts to score; the default is all of the model's")
    arguments = parser.parse_args()
    known = MODELS[arguments.model].parts
    wanted = known if arguments.parts is None else arguments.parts
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"--parts: {arguments.model} does not read {unknown[0]}; it reads {', '.join(known)}")
    places = read_places(arguments)
    for part in wanted:
        score_part(places, arguments.model, part, known[part], arguments.workers)


def score_part(places: Places, name: str, part: str, rows: Part, workers: int) -> None:
    """Write the tables of one part, unless tables of the same rows and model exist."""
    model = MODELS[name]
    folder = places.results / name
    folder.mkdir(parents=True, exist_ok=True)
    source, table = rows.path(places.out), folder / f"{part}.parquet"
    trace = table.with_suffix(".blocks.parquet")
    of = describe(places, model)
    key = {"rows": file_sha256(source), **of}
    if table.exists() and trace.exists() and read_record(folder).get("parts", {}).get(part) == key["rows"]:
        kept = read_record(folder)
        if {entry: kept.get(entry) for entry in of} == of:
            return
    # Never reuse chunks of another model or file.
    mark = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    score_chunks(places, name, source, table, trace, places.out / f"{name}.{part}.{mark}.parts", workers)
    write_record(folder, of, part, key["rows"])
    print(f"{name} {part}: done", flush=True)


def describe(places: Places, model: Model) -> dict[str, Any]:
    """Return what made the tables of a folder: model, precision, rows."""
    classifier = file_sha256(places.model(model.classifier) / "classifier.yaml")
    if not model.probe:
        whole = {} if model.stride == STRIDE else {"stride": model.stride}
        return {"classifier": classifier, "dtype": "bfloat16", **whole}
    bundle = read_bundle(first_stage(places, model))
    # A product and a sum for every weight, at every token.
    return {
        "classifier": classifier,
        "dtype": "bfloat16",
        "probe": bundle.record.probe_sha256,
        "probe_flops": 2 * bundle.head.weights.numel(),
    }


def read_record(folder: Path) -> dict[str, Any]:
    path = folder / "scoring.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def write_record(folder: Path, of: dict[str, Any], part: str, rows: str) -> None:
    """Record a finished part. Records of another model are dropped."""
    kept = read_record(folder)
    parts = kept.get("parts", {}) if {entry: kept.get(entry) for entry in of} == of else {}
    content = {**of, "parts": dict(sorted({**parts, part: rows}.items()))}
    (folder / "scoring.json").write_text(json.dumps(content, indent=1) + "\n")


def first_stage(places: Places, model: Model) -> Path:
    """Return the guard whose probe reads along."""
    if model.classifier != "exchange":
        return places.out / DISGUISE_GUARD
    return EMBEDDED if places.guard == "embedded" else Path(places.guard)


def score_chunks(
    places: Places, name: str, source: Path, table: Path, trace: Path, parts: Path, workers: int
) -> None:
    parts.mkdir(exist_ok=True)
    if workers == 1:
        work(places, name, source, parts, 0, 1)
    else:
        run_parts(
            work,
            [(places, name, source, parts, i, workers) for i in range(workers)],
            lost=GuardError("a scoring process ended by itself; run again to go on"),
        )
    rows = [
        json.loads(line)
        for path in sorted(parts.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    traced = [(row["row"], row.pop("ends"), row.pop("probe"), row.pop("logits")) for row in rows]
    ScoresTable.from_rows(rows).write(table)
    BlockTrace.from_rows(traced).write(trace)
    shutil.rmtree(parts)


def work(places: Places, name: str, source: Path, parts: Path, worker: int, workers: int) -> None:
    """Score one worker's chunks of a file."""
    torch.set_num_threads(1)
    read = open_reader(places, MODELS[name])
    rows = read_exchanges(source)
    for number in itertools.count():
        chunk = list(itertools.islice(rows, CHUNK))
        if not chunk:
            return
        target = parts / f"{number:08d}.jsonl"
        if number % workers != worker or target.exists():
            continue
        lines = [json.dumps(row) for row in read(chunk, number * CHUNK)]
        partial = target.with_suffix(".part")
        partial.write_text("".join(line + "\n" for line in lines))
        os.replace(partial, target)
        print(f"{name} {source.stem}: {(number + 1) * CHUNK}", flush=True)


def open_reader(places: Places, model: Model) -> Callable[[list[Exchange], int], Iterator[dict[str, Any]]]:
    """Return a function that makes the rows of a chunk from its exchanges and the number of the first one."""
    backbone = Backbone.load(places.backbone)
    classifier = ExchangeClassifier.load(places.model(model.classifier), backbone)
    # The adapter is merged in float32; then all weights are rounded once.
    classifier.backbone = derive(classifier.backbone, dtype=torch.bfloat16)
    if not model.probe:
        return lambda chunk, first: map(
            row_of, score_blocks(classifier, chunk, stride=model.stride, first_number=first)
        )
    # Asks about every block and flags nothing: thresholds come later, from the traces.
    open_gate = Cascade(escalate=0.0, flag=1e9, weight=0.5)
    guard = Guard.load(first_stage(places, model), backbone=backbone).with_cascade(classifier, open_gate)
    guard.backbone = derive(backbone, dtype=torch.bfloat16)
    return lambda chunk, first: (
        guard_row(score) for score in guard.score_many(chunk, first_number=first, all_blocks=True)
    )


def guard_row(score: ExchangeScore) -> dict[str, Any]:
    row = score_row(score)
    blocks = row.pop("blocks")
    return {
        **row,
        "ends": [block.end for block in blocks],
        "probe": [block.probe for block in blocks],
        "logits": [block.classifier for block in blocks],
    }


def row_of(score: BlockScores) -> dict[str, Any]:
    exchange, best = score.exchange, max(score.logits)
    return {
        "row": score.number,
        **{key: getattr(exchange, key) for key in ("id", "source", "label", "category")},
        "probe_max": best,
        "classifier_max": best,
        "mixed_max": best,
        "flagged": False,
        "stage": 2,
        "tokens_stage1": 0,
        "tokens_stage2": score.tokens,
        "flops_stage1": 0.0,
        "flops_stage2": score.flops,
        "cpu_s_stage1": 0.0,
        "cpu_s_stage2": score.cpu_s,
        "prompt_group": prompt_group(exchange),
        "length": score.tokens,
        "ends": score.ends,
        "probe": [math.nan] * len(score.logits),
        "logits": score.logits,
    }


if __name__ == "__main__":
    main()
