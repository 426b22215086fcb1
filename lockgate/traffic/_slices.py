"""Parts of the traffic behind a threshold: which are flagged too often, and which are too small to say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import (
    Calibration,
    Interval,
    clopper_pearson,
    clopper_pearson_upper,
    first_of_each_group,
    required_n,
    split_by_length,
)
from lockgate.errors import CalibrationError
from lockgate.tables import ScoresTable

SliceState = Literal["over", "kept", "open", "too small"]
_UNKNOWN = "unknown"
_MOST_TURNS = 10


@dataclass(frozen=True, slots=True)
class Slice:
    """One part of a sample under the threshold that the whole sample gave.

    Attributes:
        by: what the part has in common: `source`, `language`, `length` or `turns`.
        value: which part it is, such as the name of a source, or `40-95` for a range of lengths.
        n: distinct prompts in it.
        flagged: those above the cut.
        interval: two-sided Clopper-Pearson interval of the flagged share.
        bound: one-sided upper bound of the flagged share.
        state: `over` if the interval lies above the budget, `kept` if the bound lies within it, `too small`
            if the bound would exceed the budget even without a flag, and otherwise `open`.
    """

    by: str
    value: str
    n: int
    flagged: int
    interval: Interval
    bound: float
    state: SliceState

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        return {
            "by": self.by,
            "value": self.value,
            "n": self.n,
            "flagged": self.flagged,
            "interval": list(self.interval),
            "bound": self.bound,
            "state": self.state,
        }


def slices(table: ScoresTable, calibration: Calibration) -> tuple[Slice, ...]:
    """Count the flags of a calibration sample by source, language, tenth of length, and turns.

    What the table does not know is left out. The sample is the one that the calibration counts: the first row
    of each prompt, without excluded rows. Each interval is for one slice by itself, and the threshold was
    chosen on the same rows: a slice that stands out is a reason to look, not a proof.

    Args:
        table: scores of the traffic, as in `Evidence.table`.
        calibration: the threshold that was chosen on them.

    Returns:
        The slices, in the order of these properties. Sources and languages are ordered by name.

    Raises:
        CalibrationError: the table does not hold the sample of the calibration.
    """
    listed = {row.id for row in calibration.excluded}
    allowed = np.array([identity not in listed for identity in table.ids], dtype=bool)
    kept = first_of_each_group(table.groups, allowed)
    if len(kept) != calibration.n:
        raise CalibrationError(
            f"the calibration counts {calibration.n} prompts and the table {len(kept)}; give the table that "
            "it was chosen on"
        )
    sample = table.select(kept)
    flags = sample.floats("mixed_max") > calibration.threshold - calibration.tolerance
    needed = minimum_coverage(calibration)
    return tuple(_slice(by, value, flags[rows], calibration, needed) for by, value, rows in _parts(sample))


def minimum_coverage(calibration: Calibration) -> int:
    """Return the smallest number of distinct prompts that can show the budget, if none is flagged."""
    return required_n(calibration.budget, 0, calibration.confidence)


def _slice(by: str, value: str, flags: NDArray[np.bool_], calibration: Calibration, needed: int) -> Slice:
    n, flagged = len(flags), int(flags.sum())
    interval = clopper_pearson(flagged, n, calibration.confidence)
    bound = clopper_pearson_upper(flagged, n, calibration.confidence)
    state: SliceState = "open"
    if interval.lower > calibration.budget:
        state = "over"
    elif bound <= calibration.budget:
        state = "kept"
    elif n < needed:
        state = "too small"
    return Slice(by, value, n, flagged, interval, bound, state)


def _parts(sample: ScoresTable) -> Iterator[tuple[str, str, NDArray[np.intp]]]:
    """Yield the property, the name and the rows of each part."""
    yield from _by_name("source", [value or "unnamed" for value in sample.texts("source")])
    if sample.has("language"):
        yield from _by_name("language", [value or _UNKNOWN for value in sample.texts("language")])
    if sample.has_lengths:
        lengths = sample.lengths
        known = np.flatnonzero(np.isfinite(lengths))
        for part in split_by_length(lengths[known], 10):
            rows = known[part]
            yield "length", f"{lengths[rows].min():g}-{lengths[rows].max():g}", rows
    if sample.has("turns"):
        yield from _by_turns(sample.floats("turns"))


def _by_turns(turns: NDArray[np.float64]) -> Iterator[tuple[str, str, NDArray[np.intp]]]:
    most = np.minimum(turns, _MOST_TURNS)
    for count in np.unique(most[np.isfinite(most)]):
        name = f"{_MOST_TURNS} or more" if count == _MOST_TURNS else f"{count:g}"
        yield "turns", name, np.flatnonzero(most == count)


def _by_name(by: str, values: Sequence[str]) -> Iterator[tuple[str, str, NDArray[np.intp]]]:
    names, which = np.unique(np.asarray(values, dtype=str), return_inverse=True)
    order = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which, minlength=len(names)))[:-1]
    for name, rows in zip(names, np.split(order, ends), strict=True):
        yield by, str(name), rows
