"""Step 4: score every calibration and test exchange with one head, by the code that serves. Takes hours on two cores.

    python -m recipes.embedded_guard.score --out runs/embedded --head NAME --workers 2
    python -m recipes.embedded_guard.score --out runs/embedded --newer --workers 2    # after `voice_rows`

With `--newer`, the probe of the guard in the package scores the parts that `voice_rows` makes.

Writes scores tables (ids and scores, no text) to `results/embedded_guard/scores/`. An interrupted run resumes.
Finished tables are not made again while the head stays the same.
"""

import hashlib
import itertools
import json
from collections import defaultdict
from pathlib import Path

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.classifiers import ProbeHead
from lockgate.constitution import dump_constitution, load_constitution
from lockgate.exchanges import read_exchanges
from lockgate.guards import Guard, TrainingRecord
from lockgate.traffic import score_file
from lockgate.training import config_dict, training_counts
from recipes.embedded_guard.train import MAX_TOKENS, RESULTS, configs
from recipes.embedded_guard.two_stages import NEWER
from recipes.steps import reporter, step_parser

PARTS = (
    "test_own_sgbench",
    "test_gptfuzz",
    "test_adaptive_attacks",
    "hard_benign",
    "test_saferlhf_mini",
    "benign_test",
    "calibration",
)


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and models")
    head = parser.add_mutually_exclusive_group(required=True)
    head.add_argument("--head", help="name of the head, as in choice.json")
    head.add_argument("--newer", action="store_true", help="score the parts of `voice_rows`")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--parts", nargs="*", help="parts to score; the default is all")
    parser.add_argument(
        "--limit", type=int, help="score only the first rows; the files are shuffled, so these are a sample"
    )
    arguments = parser.parse_args()
    guard = Guard.load("embedded") if arguments.newer else provisional_guard(arguments.out, arguments.head)
    tables = RESULTS / "scores"
    tables.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts or (NEWER if arguments.newer else PARTS):
        source = head_of(arguments.out / f"{part}.jsonl", arguments.limit)
        target, stamp = tables / f"{part}.parquet", arguments.out / f"{part}.scored"
        key = f"{guard.record.probe_sha256} {hashlib.sha256(source.read_bytes()).hexdigest()}"
        if target.exists() and stamp.exists() and stamp.read_text() == key:
            continue
        table = score_file(
            guard,
            source,
            source.with_suffix(".parquet"),
            workers=arguments.workers,
            screen=arguments.newer,
            report=reporter(part),
        )
        table.write(target)
        stamp.write_text(key)
        print(f"{part}: done, {len(table)} exchanges", flush=True)


def head_of(path: Path, rows: int | None) -> Path:
    if rows is None:
        return path
    target = path.with_suffix(f".{rows}.jsonl")
    with path.open(encoding="utf-8") as lines:
        target.write_text("".join(itertools.islice(lines, rows)), encoding="utf-8")
    return target


def provisional_guard(out: Path, name: str) -> Guard:
    """Make a guard from the chosen head that flags nothing. The thresholds come later, from the scores."""
    saved = out / "guard"
    head = ProbeHead.load(out / "heads" / f"{name}.safetensors")
    backbone = Backbone.load("embedded")
    policy = load_constitution("general-harms")
    config = next(config for config in configs() if config.name == name)
    train = list(read_exchanges(out / "train.jsonl"))
    dataset = json.loads((RESULTS / "dataset.json").read_text())
    guard = Guard.create(
        name="Lockgate embedded guard",
        backbone=backbone,
        constitution=policy,
        constitution_yaml=dump_constitution(policy),
        head=head,
        thresholds=Thresholds(flag=1e9, tolerance=0.0, flag_on="both"),
        training=TrainingRecord(
            recipe="recipes/embedded_guard",
            config={"head": name, "probe": config_dict(config), "site": "residual", "max_tokens": MAX_TOKENS},
            exchanges=training_counts(train),
            tokens_seen=tokens_seen(out),
            data_sha256=dataset["parts"]["train"]["sha256"],
            seeds=[config.seed],
            notes=[
                "Weights learned only from permissively licensed public sets and the backbone's own answers.",
                "English; single turns and short dialogues; training exchanges were cut to their last 448 tokens.",
                "Harmful labels of own answers and of dialogues come from language-model readers, see "
                "recipes/embedded_guard/labelling.md; their error is in results/embedded_guard/label_agreement.json.",
            ],
        ),
    )
    return guard.save(saved)


def tokens_seen(out: Path) -> int:
    counts: dict[str, int] = defaultdict(int)
    for meta in (out / "windows").glob("*/*.json"):
        for row in json.loads(meta.read_text())["exchanges"]:
            counts[row["id"]] = 8 * (row["end"] - row["start"] + 1)
    return sum(counts.values())


if __name__ == "__main__":
    main()
