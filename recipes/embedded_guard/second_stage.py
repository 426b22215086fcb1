"""Step 8: the embedded guard with an exchange classifier as its second stage.

    python -m recipes.embedded_guard.second_stage --out runs/embedded --workers 2           # score, calibrate, report
    python -m recipes.embedded_guard.second_stage --out runs/embedded --install             # and ship it

The classifier is the one that recipes.reproduce_ccpp.train leaves in `runs/four_systems/models/exchange`; `--classifier`
names another folder. Only exchanges that may be escalated are scored, by the code that serves. That takes an hour on two
cores and resumes. Scores tables and block traces, without text, go to
`results/embedded_guard/two_stage/`, the guard to `--out/two_stage/guard`. The package keeps its guard until `--install`,
which refuses two stages that catch less of the development exchanges than one, or that take more than 25 MB.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from lockgate.backbones import Backbone
from lockgate.calibration import Exclusion, refuse_training_prompts
from lockgate.cascade import Cascade
from lockgate.classifiers import ExchangeClassifier
from lockgate.errors import LockgateError
from lockgate.evaluation import collect_provenance
from lockgate.exchanges import Exchange, PromptPrints, prompt_text, read_exchanges, write_exchanges
from lockgate.guards import EMBEDDED, Guard
from lockgate.traffic import score_file
from recipes.embedded_guard.two_stages import PARTS, SETTINGS, Screen, calibrate, choose_screen, read_part
from recipes.steps import step_parser

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "embedded_guard"
SUMMARY = ROOT / "results" / "embedded_guard.json"
CLASSIFIER = ROOT / "runs" / "four_systems" / "models" / "exchange"
MAX_BYTES = 25_000_000


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the other steps have put their parts")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER)
    parser.add_argument(
        "--training",
        type=Path,
        nargs="+",
        help="what probe and classifier learned from; by default OUT/train.jsonl",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", nargs="*", choices=PARTS, help="score these alone, and stop")
    parser.add_argument("--install", action="store_true", help="also write the guard into the package")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except LockgateError as error:
        sys.exit(f"second_stage: {error}")


def run(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    check_inputs(out, arguments.classifier)
    head = json.loads((RESULTS / "choice.json").read_text())["head"]
    backbone = Backbone.load("embedded")
    guard = Guard.load("embedded", backbone=backbone)
    classifier = ExchangeClassifier.load(arguments.classifier, backbone)
    screen = choose_screen(read_part(RESULTS, "calibration", head))
    scorer = scoring_guard(guard, classifier, screen, out)
    for part in arguments.parts or PARTS:
        score_part(scorer, part, head, screen, out, RESULTS, arguments.workers)
    if arguments.parts:
        return
    settings = write_settings(scorer, screen, RESULTS)
    subprocess.run([sys.executable, "-m", "recipes.embedded_guard.report"], check=True)
    found = json.loads(SUMMARY.read_text())
    training = arguments.training or [out / "train.jsonl"]
    guard = guard.with_training_prompts(training_prompts(training, out / "calibration.jsonl"))
    made = calibrated_guard(guard, classifier, head, found, settings, out, RESULTS)
    print(f"guard of two stages in {made.path}, {bundle_bytes(out) / 1e6:.1f} MB", flush=True)
    if arguments.install:
        install(made, found, EMBEDDED)
        subprocess.run([sys.executable, "-m", "recipes.embedded_guard.report"], check=True)


def check_inputs(out: Path, classifier: Path) -> None:
    """Ends the program, saying what to run first, if the classifier or a part is not there."""
    if not (classifier / "classifier.yaml").is_file():
        sys.exit(
            f"{classifier}: no exchange classifier there yet; train it first: "
            "python -m recipes.reproduce_ccpp.train --out runs/four_systems --only exchange"
        )
    if missing := [part for part in ("train", *PARTS) if not (out / f"{part}.jsonl").is_file()]:
        sys.exit(
            f"{out}: lacks {', '.join(f'{part}.jsonl' for part in missing)}; run recipes/embedded_guard/run.sh first"
        )


def scoring_guard(guard: Guard, classifier: ExchangeClassifier, screen: Screen, out: Path) -> Guard:
    """Both stages with the escalation threshold; what follows on it comes from the traces later."""
    (out / "two_stage").mkdir(parents=True, exist_ok=True)
    open_gate = Cascade(escalate=screen.escalate, flag=1e9, weight=0.5)
    return guard.with_cascade(classifier, open_gate).save(out / "two_stage" / "scoring_guard")


def score_part(
    guard: Guard, part: str, head: str, screen: Screen, out: Path, results: Path, workers: int
) -> None:
    """Score what may be escalated of a part into a committed table and trace, unless that is done."""
    first = read_part(results, part, head)
    wanted = [first.ids[row] for row in screen.suspects(first)]
    source = out / "two_stage" / f"{part}.jsonl"
    write_exchanges(source, choose_rows(out / f"{part}.jsonl", wanted))
    table, blocks = (results / "two_stage" / f"{part}{suffix}" for suffix in (".parquet", ".blocks.parquet"))
    table.parent.mkdir(parents=True, exist_ok=True)
    stamp = out / "two_stage" / f"{part}.scored"
    key = hashlib.sha256(source.read_bytes() + scoring_key(guard).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == key and table.exists() and blocks.exists():
        return
    made, traced = source.with_suffix(".parquet"), source.with_suffix(".blocks.parquet")
    score_file(
        guard,
        source,
        made,
        workers=workers,
        blocks=traced,
        report=lambda done: print(f"{part}: {min(done, len(wanted))} of {len(wanted)}", flush=True),
    )
    shutil.copyfile(made, table)
    shutil.copyfile(traced, blocks)
    stamp.write_text(key)
    print(f"{part}: done", flush=True)


def choose_rows(path: Path, wanted: list[str]) -> list[Exchange]:
    """The exchanges of these ids, in that order. Ends the program if one is not in the file."""
    rows = {row.id: row for row in read_exchanges(path)}
    if missing := [key for key in wanted if key not in rows]:
        sys.exit(
            f"{path}: lacks {len(missing)} exchanges of the scores table, the first with id {missing[0]}"
        )
    return [rows[key] for key in wanted]


def scoring_key(guard: Guard) -> str:
    """What the scores depend on beside their input."""
    record = guard.record
    assert record.classifier is not None
    assert record.cascade is not None
    return json.dumps([record.probe_sha256, record.classifier.sha256, record.cascade.model_dump()])


def write_settings(guard: Guard, screen: Screen, results: Path) -> dict[str, Any]:
    """What the tables were scored with. Kept as it is where nothing has changed."""
    assert guard.classifier is not None
    assert guard.cascade is not None
    content: dict[str, Any] = {
        "classifier": {"name": guard.classifier.name, "sha256": guard.classifier.sha256},
        "probe_sha256": guard.record.probe_sha256,
        "escalate": screen.escalate,
        "stride": guard.cascade.stride,
        "calm_blocks": guard.cascade.calm_blocks,
        "tokens_per_verdict": guard.classifier.tokens_per_verdict,
    }
    path = results / "two_stage" / SETTINGS
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if content == {key: kept.get(key) for key in content}:
            return kept
    command = ["python", "-m", "recipes.embedded_guard.second_stage", "--out", "runs/embedded"]
    content["provenance"] = collect_provenance(command, {}, [])
    path.write_text(json.dumps(content, indent=1) + "\n")
    return content


def calibrated_guard(
    guard: Guard,
    classifier: ExchangeClassifier,
    head: str,
    found: dict[str, Any],
    settings: dict[str, Any],
    out: Path,
    results: Path,
) -> Guard:
    """The guard as it would ship, written with its card.

    Args:
        found: results/embedded_guard.json.
    """
    two = found["two_stage"]
    calibration = calibrate(
        results,
        head,
        found["flag_on"],
        found["budget"],
        read_exclusions(results),
        settings=settings,
        training=guard.training_prompts,
    )
    ready = guard.with_cascade(classifier, calibration)
    counts = two["points"]["budget"]["benign"]["benign_test"]["two_stages"]
    claim = [
        f"claim limited to English (with a few per cent of Chinese), to {int(max(calibration.calibration.length_deciles))} "
        "tokens, and to traffic like the sources above",
        f"realised on {counts['n']} other benign exchanges: {counts['hits']} flagged ({counts['rate']:.3%})",
        f"stage 2 is asked about {calibration.escalated:.2%} of the calibration exchanges",
    ]
    ready = ready.with_calibration(calibration.calibration, claim=claim)
    return ready.save(out / "two_stage" / "guard", results=found)


def training_prompts(training: list[Path], calibration: Path) -> PromptPrints:
    """Fingerprints of what was learned from. Raises CalibrationError if calibration holds any of it, or nearly."""
    known = PromptPrints.of(row for path in training for row in read_exchanges(path))
    rows = list(read_exchanges(calibration))
    refuse_training_prompts(known.find([prompt_text(row) for row in rows]), [row.id for row in rows])
    return known


def read_exclusions(results: Path) -> list[Exclusion]:
    path = results / "exclusions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [Exclusion(row["id"], row["reason"]) for row in rows]


def bundle_bytes(out: Path) -> int:
    return folder_bytes(out / "two_stage" / "guard")


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def install(guard: Guard, found: dict[str, Any], target: Path) -> None:
    """Write the guard into the package. Ends the program, leaving the package as it is, if it is refused."""
    two = found["two_stage"]
    tried = two["points"]["budget"]["development"]
    if not two["not_worse_in_development"]:
        sys.exit(
            f"not installed: two stages catch {tried['two_stages']['tpr']:.3f} of the harmful development exchanges, "
            f"one stage {tried['one_stage']['tpr']:.3f}, at the same budget; {target} keeps its guard"
        )
    assert guard.path is not None
    if (size := folder_bytes(guard.path)) > MAX_BYTES:
        sys.exit(
            f"not installed: {size / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f}; {target} keeps its guard"
        )
    guard.save(target, results=found)
    print(f"installed: {target}", flush=True)


if __name__ == "__main__":
    main()
