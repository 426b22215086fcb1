"""Both stages' readings of files of exchanges, for a cascade that is not calibrated yet (CC++ section 5)."""

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
    """A scores table and, row by row, what both stages read at the end of every block.

    Attributes:
        table: stage 1's readings. Its other columns tell of a cascade that asks about everything.
        traces: one a row, with a verdict for every block.
    """

    table: ScoresTable
    traces: tuple[Trace, ...]

    def select(self, mask: NDArray[np.bool_]) -> "StagedScores":
        """The rows where `mask` [N] holds."""
        kept = zip(self.traces, mask.tolist(), strict=True)
        return StagedScores(self.table.select(mask), tuple(trace for trace, wanted in kept if wanted))

    def mixed_by(self, cascade: Cascade, flag_on: FlagOn) -> NDArray[np.float64]:
        """Largest mixed score of each row [N] under a cascade; minus infinity where it asks nothing."""
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
    """Have the guard's probe and a classifier read every block of files of exchanges.

    What is read stays in `folder`, without text: an interrupted run goes on there, and a finished file is
    not read again while guard, classifier and file are the same.

    Args:
        stride: answer tokens of a block.
        report: told after each chunk how many exchanges of which file are done.

    Raises:
        BackboneMismatch, GuardError: the classifier does not fit the guard. ExchangeError: a file that cannot
            be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Every block is judged where all are asked for; this cascade flags nothing, whatever it reads.
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
    report: Callable[[Path, int], None] = lambda _path, _done: None,
) -> Path:
    """Score a file into a table of `folder`, unless it is there for this guard and content.

    Args:
        blocks: have stage 2 judge every block and write the trace, `.blocks.parquet` beside the table.
        report: told after each chunk how many exchanges of the file are done.

    Raises:
        ExchangeError: a file that cannot be read.
    """
    content = file_sha256(source)
    table, done = folder / f"{content[:16]}.parquet", folder / f"{content[:16]}.json"
    key = {"guard": guard.sha256, "input": content, "blocks": blocks}
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
            report=lambda count: report(source, count),
        )
        left = [table, trace] if blocks else [table]
        Mark(key, {path.name: hash_path(path) for path in left}).write(done)
    return table
