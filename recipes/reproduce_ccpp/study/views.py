"""Breakdowns of a study: flagged shares of each system by source, category, language, length and turns."""

from collections.abc import Mapping, Sequence

import numpy as np

from lockgate.evaluation import Clusters, Mask, by_key, by_length
from lockgate.tables import ScoresTable
from recipes.reproduce_ccpp.study.data import StudyData
from recipes.reproduce_ccpp.study.result import View

__all__ = ["StudyFlags", "views_of"]

Keys = list[str | None]


class StudyFlags:
    """Flags [N] of each system on each tested part, and the rows of these parts one after the other."""

    def __init__(self, data: StudyData, flags: Mapping[tuple[str, str], Mask]) -> None:
        spec = data.spec
        # Disguised sets are reported separately, because they would dominate every breakdown.
        self.parts = [spec.benign, *spec.harmful, *spec.hard_benign]
        self.tables = [data.reference(part).table for part in self.parts]
        self.harmful = np.concatenate([data.reference(part).harmful for part in self.parts])
        groups = np.concatenate([data.reference(part).groups for part in self.parts])
        self.clusters = Clusters(groups, spec.resamples, spec.seed)
        self.languages = spec.languages
        self._flags = flags

    def of(self, name: str) -> Mask:
        """Return one system's flags over all parts [sum of N]."""
        return np.concatenate([self._flags[name, part] for part in self.parts])

    def keys(self, column: str) -> Keys:
        """Return the values of a property over all parts; None if a part does not have it."""
        return [key for table in self.tables for key in self._of_table(table, column)]

    def _of_table(self, table: ScoresTable, column: str) -> Keys:
        if table.has(column):
            return [None if value is None else str(value) for value in table.table.column(column).to_pylist()]
        if column == "language":
            return [self.languages.get(str(source)) for source in table.texts("source")]
        return [None] * len(table)


def views_of(flags: StudyFlags, names: Sequence[str]) -> tuple[View, ...]:
    """Return flagged shares at the operating point, for harmful and benign rows.

    A property that no part has is left out. Intervals of harmful rows are by prompt. Those of benign rows, and those by
    length, are Clopper-Pearson.
    """
    masks = {name: flags.of(name) for name in names}
    views = []
    for column in ("source", "category", "language", "turns"):
        keys = flags.keys(column)
        if any(key is not None for key in keys):
            parts = (
                by_key(keys, flags.harmful, masks, flags.clusters, exact=False),
                by_key(keys, ~flags.harmful, masks, flags.clusters, exact=True),
            )
            views.append(View(column, *parts))
    lengths = np.concatenate([table.lengths for table in flags.tables])
    views.append(
        View(
            "length",
            by_length(lengths, flags.harmful, masks, flags.clusters),
            by_length(lengths, ~flags.harmful, masks, flags.clusters),
        )
    )
    return tuple(views)
