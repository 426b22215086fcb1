"""Scores of both stages for files of exchanges, before their cascade is calibrated (CC++ section 5)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import Trace
from lockgate.cascade import Cascade, FlagOn, simulate
from lockgate.classifiers import ExchangeClassifier
from lockgate.durable import Mark, file_sha256, hash_path
from lockgate.guards import Guard
from lockgate.tables import BlockTrace, ScoresTable
from lockgate.traffic._files import score_file


@dataclass(frozen=True, slots=True)
class StagedScores:
    """A scores table, with the scores of both stages at the end of every block.

    Attributes:
        table: scores table. The columns of stage 2 and the mixed scores belong to a cascade that asks about
            every block.
        traces: block scores of each row, with a verdict for every block.
    """

    table: ScoresTable
    traces: tuple[Trace, ...]

    def select(self, mask: NDArray[np.bool_]) -> "StagedScores":
        """Return the rows where `mask` [N] is true."""
        kept = zip(self.traces, mask.tolist(), strict=True)
        return StagedScores(self.table.select(mask), tuple(trace for trace, wanted in kept if wanted))

    def mixed_by(self, cascade: Cascade, flag_on: FlagOn) -> NDArray[np.float64]:
        """Return the largest mixed score of each row [N] under a cascade. -inf: it asks about no block."""
        found = [
            simulate(np.asarray(probe), np.asarray(classifier), cascade, flag_on=flag_on)
            for probe, classifier in self.traces
        ]
        return np.array([outcome.mixed_max for outcome in found], dtype=np.float64)


def score_stages(
    guard: Guard,
    classifier: ExchangeClassifier,
    sources: Sequence[Path],
    folder: Path,
    *,
    stride: int = 8,
    workers: int = 1,
    report: Callable[[Path, int], None] = lambda _path, _done: None,
) -> StagedScores:
    """Have the guard's probe and a classifier score every block of files of exchanges.

    Scores stay in `folder`, without text. An interrupted run continues there. A finished file is not read
    again while guard, classifier and file stay the same.

    Args:
        guard: the guard. Its probe is stage 1.
        classifier: the second stage.
        sources: files of exchanges.
        folder: folder for the scores. It is made if it does not exist.
        stride: answer tokens of a block.
        workers: number of processes, with one thread each.
        report: called after each chunk with the file and the number of its exchanges that are done.

    Raises:
        BackboneMismatch, GuardError: the classifier does not fit the guard.
        ExchangeError: a file can't be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # This cascade asks about every block and never flags.
    asked = Cascade(escalate=0.0, flag=1e9, weight=0.5, stride=stride)
    scoring = guard.with_cascade(classifier, asked).save(folder / "guard")
    tables, traces = [], []
    for source in sources:
        place = score_once(scoring, source, folder, workers=workers, blocks=True, report=report)
        scores, trace = ScoresTable.read(place), BlockTrace.read(place.with_suffix(".blocks.parquet"))
        rows = [trace.of(row) for row in range(len(scores))]
        tables.append(scores)
        traces += [Trace(trace.probe[own], trace.classifier[own]) for own in rows]
    return StagedScores(ScoresTable.concat(tables), tuple(traces))


def score_once(
    guard: Guard,
    source: Path,
    folder: Path,
    *,
    workers: int = 1,
    blocks: bool = False,
    screen: bool = False,
    skip_invalid: bool = False,
    report: Callable[[Path, int], None] = lambda _path, _done: None,
) -> Path:
    """Score a file into a table in `folder`, unless the table of this guard and content is there.

    Args:
        guard: the guard.
        source: file of exchanges.
        folder: folder of the table.
        workers: number of processes, with one thread each.
        blocks: have stage 2 judge every block, and write the trace beside the table (`.blocks.parquet`).
        screen: score with stage 1 alone, as `score_file` does.
        skip_invalid: leave bad records out.
        report: called after each chunk with the file and the number of its exchanges that are done.

    Returns:
        Path of the scores table.

    Raises:
        ExchangeError: the file can't be read.
    """
    content = file_sha256(source)
    table, done = folder / f"{content[:16]}.parquet", folder / f"{content[:16]}.json"
    key = {
        "guard": guard.sha256,
        "input": content,
        "blocks": blocks,
        "screen": screen,
        "skip_invalid": skip_invalid,
    }
    if guard.precision_shift is not None:
        key["precision"] = str(guard.backbone.placement)
    trace = table.with_suffix(".blocks.parquet")
    mark = Mark.read(done)
    if mark is None or mark.key != key or not mark.stands(folder):
        done.unlink(missing_ok=True)
        score_file(
            guard,
            source,
            table,
            workers=workers,
            blocks=trace if blocks else None,
            all_blocks=blocks,
            screen=screen,
            skip_invalid=skip_invalid,
            report=lambda count: report(source, count),
        )
        left = [table, trace] if blocks else [table]
        Mark(key, {path.name: hash_path(path) for path in left}).write(done)
    return table
