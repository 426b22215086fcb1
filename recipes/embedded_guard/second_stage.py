"""Step 8: add an exchange classifier to the embedded guard as its second stage.

    python -m recipes.embedded_guard.second_stage --out runs/embedded --workers 2           # score, calibrate, report
    python -m recipes.embedded_guard.second_stage --out runs/embedded --install             # and install the guard

`recipes.reproduce_ccpp.train` leaves the classifier in `runs/four_systems/models/exchange`; `--classifier` names another
folder. Only exchanges that may be escalated are scored, by the code that serves. That takes an hour on two cores and
resumes. Scores tables and block traces (no text) go to `results/embedded_guard/two_stage/`, and the guard goes to
`--out/two_stage/guard`.

The guard in the package changes only with `--install`. It is refused if two stages catch less of the development
exchanges than one, or if the guard takes more than 25 MB.
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
    parser.add_argument("--out", type=Path, required=True, help="folder with the parts of the other steps")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="folder of the classifier")
    parser.add_argument(
        "--training",
        type=Path,
        nargs="+",
        help="training data of probe and classifier [OUT/train.jsonl]",
    )
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--parts", nargs="*", choices=PARTS, help="score only these and stop")
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
    """End the program if the classifier or a part is missing. The message says what to run first."""
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
    """Make a guard of both stages with the escalation threshold. The other settings come later, from the traces."""
    (out / "two_stage").mkdir(parents=True, exist_ok=True)
    open_gate = Cascade(escalate=screen.escalate, flag=1e9, weight=0.5)
    return guard.with_cascade(classifier, open_gate).save(out / "two_stage" / "scoring_guard")


def score_part(
    guard: Guard, part: str, head: str, screen: Screen, out: Path, results: Path, workers: int
) -> None:
    """Score the exchanges of a part that may be escalated, into a committed table and trace, unless that is done."""
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
    """Return the exchanges with these ids, in this order. Ends the program if the file lacks one."""
    rows = {row.id: row for row in read_exchanges(path)}
    if missing := [key for key in wanted if key not in rows]:
        sys.exit(
            f"{path}: lacks {len(missing)} exchanges of the scores table, the first with id {missing[0]}"
        )
    return [rows[key] for key in wanted]


def scoring_key(guard: Guard) -> str:
    """Return everything that the scores depend on, except their input."""
    record = guard.record
    assert record.classifier is not None
    assert record.cascade is not None
    return json.dumps([record.probe_sha256, record.classifier.sha256, record.cascade.model_dump()])


def write_settings(guard: Guard, screen: Screen, results: Path) -> dict[str, Any]:
    """Write the settings that the tables were scored with. The file is not touched if nothing has changed."""
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
    """Write the guard as it would be shipped, with its card.

    Args:
        found: content of results/embedded_guard.json.
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
    """Return fingerprints of the training prompts.

    Raises:
        CalibrationError: calibration holds one of them or a near-duplicate.
    """
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
    """Write the guard into the package. If it is refused, end the program and leave the package unchanged."""
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
