"""Step 9: add a text baseline to the embedded guard as its second stage.

    python -m recipes.embedded_guard.second_stage --out runs/embedded --workers 2           # fit, calibrate, report
    python -m recipes.embedded_guard.second_stage --out runs/embedded --install             # and install the guard

The baseline is fitted on `voice_train.jsonl` (see `voice_rows`). Only exchanges that may be escalated are judged. Stage 1
reads them once, by the code that serves; that takes an hour on two cores and resumes. A new baseline reads their text
again, without the model. Scores tables and block traces (no text) go to `results/embedded_guard/two_stage/`, and the
guard goes to `--out/two_stage/guard`. Traces of parts that the exchange classifier has judged keep its verdicts in the
column `voice_classifier`, for `third_voice`.

The guard in the package changes only with `--install`. It is refused if two stages catch less of the development
exchanges than one, or if the guard takes more than 25 MB.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lockgate.backbones import Backbone
from lockgate.calibration import Exclusion, refuse_training_prompts
from lockgate.cascade import Cascade
from lockgate.classifiers.text import TextBaseline, TextBaselineConfig
from lockgate.errors import LockgateError
from lockgate.evaluation import collect_provenance
from lockgate.exchanges import (
    Exchange,
    PromptPrints,
    prompt_group,
    prompt_text,
    read_exchanges,
    write_exchanges,
)
from lockgate.guards import EMBEDDED, Guard, TextStage
from lockgate.tables import BlockTrace, ScoresTable
from lockgate.traffic import score_file
from recipes.embedded_guard.two_stages import (
    PARTS,
    SETTINGS,
    Screen,
    calibrate,
    choose_drift,
    choose_screen,
    read_part,
)
from recipes.embedded_guard.voice_rows import ATTACKS, PURE
from recipes.steps import step_parser

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "embedded_guard"
SUMMARY = ROOT / "results" / "embedded_guard.json"
MAX_BYTES = 25_000_000
C = 10.0
# What a variant of the baseline learns from beside the training exchanges, by source. `text` is for the guard; the
# others show what each step gains.
VARIANTS: dict[str, Callable[[str], bool]] = {
    "text_train": lambda _: False,
    "text_near": lambda source: source == "near_policy",
    "text_harmless": lambda source: source not in (*ATTACKS, *PURE),
    "text": lambda _: True,
}


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder with the parts of the other steps")
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
    check_inputs(out)
    head = json.loads((RESULTS / "choice.json").read_text())["head"]
    backbone = Backbone.load("embedded")
    guard = Guard.load("embedded", backbone=backbone)
    texts = {variant: fitted(out, variant) for variant in VARIANTS}
    screen = choose_screen(read_part(RESULTS, "calibration", head))
    scorer = scoring_guard(guard, texts["text"], screen, out)
    for part in arguments.parts or PARTS:
        score_part(scorer, texts, part, head, screen, out, RESULTS, arguments.workers)
    if arguments.parts:
        return
    drift = choose_drift(RESULTS, head, guard.thresholds.flag_on)
    settings = write_settings(scorer, screen, drift, RESULTS)
    subprocess.run([sys.executable, "-m", "recipes.embedded_guard.report"], check=True)
    found = json.loads(SUMMARY.read_text())
    known = training_prompts([out / "train.jsonl", out / "voice_train.jsonl"], out / "calibration.jsonl")
    ready = guard.with_training_prompts(known)
    made = calibrated_guard(ready, texts["text"], head, found, settings, out, RESULTS)
    print(f"guard of two stages in {made.path}, {bundle_bytes(out) / 1e6:.1f} MB", flush=True)
    if arguments.install:
        install(made, found, EMBEDDED)
        subprocess.run([sys.executable, "-m", "recipes.embedded_guard.report"], check=True)


def check_inputs(out: Path) -> None:
    """End the program if a part is missing. The message says what to run first."""
    if missing := [
        part for part in ("train", "voice_train", *PARTS) if not (out / f"{part}.jsonl").is_file()
    ]:
        sys.exit(
            f"{out}: lacks {', '.join(f'{part}.jsonl' for part in missing)}; run recipes/embedded_guard/run.sh first"
        )


def fitted(out: Path, variant: str) -> TextBaseline:
    """Return a text baseline of `voice_train.jsonl`, in half precision. It is fitted once.

    Args:
        variant: one of `VARIANTS`, which says what it learns from.
    """
    source, folder = out / "voice_train.jsonl", out / variant
    stamp, key = (
        folder / "fitted",
        hashlib.sha256(source.read_bytes() + f"{variant} {C}".encode()).hexdigest(),
    )
    if not (stamp.exists() and stamp.read_text() == key):
        trained = {row.id for row in read_exchanges(out / "train.jsonl")}
        rows = [row for row in read_exchanges(source) if row.id in trained or VARIANTS[variant](row.source)]
        groups = [str(row.meta.get("question") or prompt_group(row)) for row in rows]
        TextBaseline.fit(rows, groups, TextBaselineConfig(cs=(C,), folds=2)).rounded().save(folder)
        stamp.write_text(key)
        print(f"{variant}: fitted on {len(rows)} exchanges", flush=True)
    return TextBaseline.load(folder)


def scoring_guard(guard: Guard, text: TextBaseline, screen: Screen, out: Path) -> Guard:
    """Make a guard of both stages with the escalation threshold. The other settings come later, from the traces."""
    (out / "two_stage").mkdir(parents=True, exist_ok=True)
    open_gate = Cascade(escalate=screen.escalate, flag=1e9, weight=0.5)
    return guard.with_cascade(None, open_gate, text=text).save(out / "two_stage" / "scoring_guard")


def score_part(
    guard: Guard,
    texts: Mapping[str, TextBaseline],
    part: str,
    head: str,
    screen: Screen,
    out: Path,
    results: Path,
    workers: int,
) -> None:
    """Score the exchanges of a part that may be escalated, into a committed table and trace, unless that is done.

    Args:
        texts: text baselines by variant. `text` is the guard's, whose verdicts become the trace's.
    """
    first = read_part(results, part, head)
    wanted = [first.ids[row] for row in screen.suspects(first)]
    rows = choose_rows(out / f"{part}.jsonl", wanted)
    table, blocks = (results / "two_stage" / f"{part}{suffix}" for suffix in (".parquet", ".blocks.parquet"))
    table.parent.mkdir(parents=True, exist_ok=True)
    stamp = out / "two_stage" / f"{part}.scored"
    readers = [texts[name].sha256 for name in sorted(texts)]
    key = hashlib.sha256(json.dumps([wanted, scoring_key(guard), readers]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == key and table.exists() and blocks.exists():
        return
    if not (blocks.exists() and table.exists() and ScoresTable.read(table).ids == wanted):
        source = out / "two_stage" / f"{part}.jsonl"
        write_exchanges(source, rows)
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
        fresh = BlockTrace.read(traced)
        # No other judge has read these blocks.
        replace(fresh, voices={"classifier": np.full(len(fresh), np.nan, dtype=np.float32)}).write(blocks)
    judged(guard, texts, rows, BlockTrace.read(blocks)).write(blocks)
    stamp.write_text(key)
    print(f"{part}: done", flush=True)


def judged(
    guard: Guard, texts: Mapping[str, TextBaseline], rows: list[Exchange], trace: BlockTrace
) -> BlockTrace:
    """Return the trace with the verdicts of the text baselines on every block, as `TextStage` gives them.

    Those of `text` are the trace's. Verdicts of other judges are kept as their voices.
    """
    assert guard.cascade is not None
    counts = [len(trace.row[trace.of(row)]) for row in range(len(rows))]
    voices = {"classifier": trace.classifier, **trace.voices}
    for name, text in texts.items():
        stage = TextStage(text, guard.backbone)
        verdicts = [scores.logits for scores in stage.read_blocks(rows, stride=guard.cascade.stride)]
        if [len(own) for own in verdicts] != counts:
            sys.exit(
                "second_stage: the rows have other blocks than their committed trace; remove it to score them again"
            )
        voices[name] = np.array([logit for own in verdicts for logit in own], dtype=np.float32)
    return replace(trace, classifier=voices["text"], voices=voices)


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
    assert record.text is not None
    assert record.cascade is not None
    return json.dumps([record.probe_sha256, record.text.sha256, record.cascade.model_dump()])


def write_settings(guard: Guard, screen: Screen, drift: float, results: Path) -> dict[str, Any]:
    """Write the settings that the tables were scored with. The file is not touched if nothing has changed."""
    assert guard.text is not None
    assert guard.cascade is not None
    content: dict[str, Any] = {
        "text": {"c": guard.text.c, "rows": guard.text.n_rows, "sha256": guard.text.sha256},
        "probe_sha256": guard.record.probe_sha256,
        "escalate": screen.escalate,
        "stride": guard.cascade.stride,
        "calm_blocks": guard.cascade.calm_blocks,
        "drift": drift,
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
    text: TextBaseline,
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
    ready = guard.with_cascade(None, calibration, text=text)
    counts = two["points"]["budget"]["benign"]["benign_test"]["two_stages"]
    claim = [
        f"claim limited to English (with a few per cent of Chinese), to {int(max(calibration.calibration.length_deciles))} "
        "tokens, and to traffic like the sources above",
        f"realised on {counts['n']} other benign exchanges: {counts['hits']} flagged ({counts['rate']:.3%})",
        f"stage 2 is asked about {calibration.escalated:.2%} of the calibration exchanges",
        f"the text baseline learned from {text.n_rows} exchanges of public sets and of data/near_policy "
        "(results/embedded_guard/voice_rows.json); answers of closed models among them carry their makers' output "
        "terms, whatever the licence of the set says",
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
