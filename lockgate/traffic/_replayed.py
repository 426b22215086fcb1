"""The result of a replay: what another guard or threshold would change."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockgate.errors import ConfigError
from lockgate.traffic._recorded import Kind

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """The settings of a replay.

    Attributes:
        thresholds: thresholds to count with, on the scale of the score that decides. The first one says which
            exchanges are listed as changed. Without any, the guard's own does.
        decisions: decision logs with what the server decided about the traffic.
        skip_invalid: leave malformed exchanges out, and count them.
        workers: number of processes that score, with one thread each.
        scratch: folder for scores, without text. An interrupted replay continues there, and a later one of
            the same exchanges scores nothing again. By default nothing is kept.

    Raises:
        ConfigError: a threshold is no finite number.
    """

    thresholds: tuple[float, ...] = ()
    decisions: tuple[Path, ...] = ()
    skip_invalid: bool = False
    workers: int = 1
    scratch: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that can't work."""
        if not all(math.isfinite(threshold) for threshold in self.thresholds):
            raise ConfigError("thresholds: expected finite numbers, scores at which to flag")


class Counts(NamedTuple):
    """Exchanges by their decision before and now. A flagged one counts as halted, in the prompt too."""

    newly_halted: int
    newly_passed: int
    still_halted: int
    still_passed: int


class ThresholdRow(NamedTuple):
    """What one threshold would do. Of the admitted exchanges it would refuse `counts.newly_halted`."""

    threshold: float
    counts: Counts


class Change(NamedTuple):
    """An exchange with another decision.

    Attributes:
        id: its id. In a decision log, the id of the response and the number of the answer.
        file, row: the number of its file, from 0, and its number there, from 1.
        halted: whether it is halted now. Otherwise it was halted before.
        category: category of the flag, now or else before; None if it is unknown.
        stage: the last stage that was asked; None if it is unknown.
        score: the score that decides now; None if there is none, or if a reading failed.
    """

    id: str
    file: int
    row: int
    halted: bool
    category: str | None
    stage: int | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Compared:
    """Exchanges with their decisions before and their scores now, N of each.

    Attributes:
        ids: ids.
        places: numbers of the file and of the row.
        before: whether the exchange was halted.
        scores: scores that decide now. Minus infinity never flags, infinity always does.
        categories_before, categories: categories of the flag then and now.
        stages: last stages that were asked.
        cut: whether the recorded answer ended at a flag. Nothing is known of what would have followed.
    """

    ids: Sequence[str]
    places: Sequence[tuple[int, int]]
    before: NDArray[np.bool_]
    scores: NDArray[np.float64]
    categories_before: Sequence[str | None]
    categories: Sequence[str | None]
    stages: Sequence[int | None]
    cut: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Replay:
    """What a guard or threshold would change in recorded traffic.

    Attributes:
        kind: whether exchanges were scored again, or recorded scores were compared.
        files: the files.
        against: what the decisions before are: `the log`, `another guard`, or `nothing` if every exchange
            counts as admitted.
        threshold, tolerance: an exchange is halted if its score is above `threshold - tolerance`.
        counts: all exchanges by decision.
        by_category: halted exchanges by the category of the flag, now or else before.
        by_stage: all exchanges by the last stage that was asked.
        thresholds: the counts at the guard's own threshold and at each of the plan's, in ascending order.
        changes: the exchanges with another decision, in the order of the files.
        cut_short: newly passed exchanges whose recorded answer ended at the flag. What would have followed is
            unknown.
        unenforced: exchanges that were halted in the record only, as in shadow mode.
        left_out: number of records that are not compared, by the reason.
        skip_invalid: whether malformed exchanges were left out. The rows of `changes` do not count them.
    """

    kind: Kind
    files: tuple[Path, ...]
    against: Literal["the log", "another guard", "nothing"]
    threshold: float
    tolerance: float
    counts: Counts
    by_category: Mapping[str, Counts]
    by_stage: Mapping[str, Counts]
    thresholds: tuple[ThresholdRow, ...]
    changes: tuple[Change, ...]
    cut_short: int
    unenforced: int
    left_out: Mapping[str, int]
    skip_invalid: bool = False

    @property
    def n(self) -> int:
        """Number of exchanges that are compared."""
        return sum(self.counts)

    @property
    def admitted(self) -> int:
        """Number of exchanges that passed before."""
        return self.counts.newly_halted + self.counts.still_passed

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures, with an entry for each change."""
        return {
            "kind": self.kind,
            "files": [str(path) for path in self.files],
            "against": self.against,
            "threshold": _finite(self.threshold),
            "tolerance": self.tolerance,
            "n": self.n,
            "admitted": self.admitted,
            "counts": self.counts._asdict(),
            "by_category": {name: counts._asdict() for name, counts in self.by_category.items()},
            "by_stage": {name: counts._asdict() for name, counts in self.by_stage.items()},
            "thresholds": [
                {"threshold": _finite(row.threshold), **row.counts._asdict()} for row in self.thresholds
            ],
            "cut_short": self.cut_short,
            "unenforced": self.unenforced,
            "left_out": dict(self.left_out),
            "changes": [describe_change(change, self.files) for change in self.changes],
        }


def describe_change(change: Change, files: Sequence[Path]) -> dict[str, Any]:
    """Return the JSON-ready facts on a changed exchange."""
    return {
        "id": change.id,
        "file": str(files[change.file]),
        "row": change.row,
        "change": "newly halted" if change.halted else "newly passed",
        "category": change.category,
        "stage": change.stage,
        "score": change.score,
    }


def summarise(
    rows: Compared,
    own: float,
    tolerance: float,
    plan: ReplayPlan,
    **known: Any,  # noqa: ANN401 - fields of `Replay`
) -> Replay:
    """Count what changes at each threshold, and list the changes at the first one.

    Args:
        rows: the exchanges.
        own: the guard's threshold.
        tolerance: numeric uncertainty of a score.
        plan: the settings.
        known: the fields of `Replay` that are known without counting.
    """
    threshold = plan.thresholds[0] if plan.thresholds else own
    after = flags(rows.scores, threshold, tolerance)
    newly_passed = rows.before & ~after
    categories = [
        (now if halted and now is not None else before) or _UNKNOWN
        for before, now, halted in zip(rows.categories_before, rows.categories, after, strict=True)
    ]
    halted = rows.before | after
    return Replay(
        threshold=threshold,
        tolerance=tolerance,
        counts=_count(rows.before, after),
        by_category=_count_by(categories, rows.before, after, halted),
        by_stage=_count_by(
            [_UNKNOWN if stage is None else str(stage) for stage in rows.stages],
            rows.before,
            after,
            np.ones_like(after),
        ),
        thresholds=tuple(
            ThresholdRow(one, _count(rows.before, flags(rows.scores, one, tolerance)))
            for one in sorted({own, *plan.thresholds})
        ),
        changes=tuple(_changes(rows, after, categories)),
        cut_short=int((newly_passed & rows.cut).sum()),
        unenforced=int((rows.before & ~rows.cut).sum()) if known["against"] == "the log" else 0,
        **known,
    )


def count_changes(
    before: NDArray[np.bool_], scores: NDArray[np.float64], threshold: float, tolerance: float
) -> Counts:
    """Count exchanges by their decision before and the one that a threshold makes now.

    Args:
        before: whether each exchange was flagged [N].
        scores: the scores that decide [N].
        tolerance: numeric uncertainty of a score.
    """
    return _count(before, flags(scores, threshold, tolerance))


def flags(scores: NDArray[np.float64], threshold: float, tolerance: float) -> NDArray[np.bool_]:
    """Return which scores flag [N], as serving decides. A score that is no number does."""
    found: NDArray[np.bool_] = ~(scores <= threshold - tolerance)
    return found


def _changes(rows: Compared, after: NDArray[np.bool_], categories: Sequence[str]) -> Iterable[Change]:
    for row in np.flatnonzero(rows.before != after).tolist():
        file, number = rows.places[row]
        yield Change(
            rows.ids[row],
            file,
            number,
            bool(after[row]),
            None if categories[row] == _UNKNOWN else categories[row],
            rows.stages[row],
            _finite(float(rows.scores[row])),
        )


def _count(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Counts:
    kinds = (after & ~before, before & ~after, before & after, ~before & ~after)
    return Counts(*(int(kind.sum()) for kind in kinds))


def _count_by(
    names: Sequence[str],
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
) -> dict[str, Counts]:
    column = np.asarray(names, dtype=str)
    found = {}
    for name in sorted(set(column[wanted].tolist())):
        own = wanted & (column == name)
        found[name] = _count(before[own], after[own])
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
