"""Labels and categories of a row, by the rules of its mapping."""

import math
from collections.abc import Mapping
from typing import Any

from lockgate.constitution import DataMapping, LabelRule
from lockgate.exchanges._fields import json_type
from lockgate.exchanges.importing._cells import json_value, plain_text, read_cell
from lockgate.exchanges.importing._faults import RowFault
from lockgate.exchanges.importing._layouts import Draft


def find_label(
    rule: LabelRule | None, row: Mapping[str, Any], draft: Draft, split: str | None
) -> float | None:
    """Return the label of one conversation of a row. Without a rule it is the record's own, or None.

    Raises:
        RowFault: the rule does not cover this row.
    """
    if rule is None:
        return draft.record.label if draft.record is not None else None
    if rule.splits is not None:
        if split not in rule.splits:
            raise RowFault("label", "label.splits", f"has no entry for split {split}; add it")
        return rule.splits[split]
    if rule.sides is not None:
        if draft.side not in rule.sides:
            what = "a row that is no preference" if draft.side is None else f"side {draft.side}"
            raise RowFault("label", "label.sides", f"has no entry for {what}")
        return rule.sides[draft.side]
    return rule.constant if rule.column is None else _from_column(rule, rule.column, row)


def _from_column(rule: LabelRule, column: str, row: Mapping[str, Any]) -> float | None:
    value = read_cell(row, column)
    if rule.equals is not None:
        return _named(rule, rule.equals, value, column)
    if value is None or value == "":
        return None
    number = _number(value, column)
    if rule.threshold is not None:
        return float(number >= rule.threshold if rule.harmful == "above" else number < rule.threshold)
    if not 0 <= number <= 1:
        raise RowFault("label", column, "a number outside [0, 1]; give a `threshold` or `equals`")
    return number


def _named(rule: LabelRule, labels: Mapping[str, float | None], value: object, column: str) -> float | None:
    """Return the label that a value stands for. `otherwise` does not apply to an empty cell."""
    name = "null" if value is None else plain_text(value)
    if name is None:
        raise RowFault("label", column, f"expected a single value for `equals`, found {json_type(value)}")
    if name in labels:
        return labels[name]
    empty = value is None or name in ("", "nan")
    if empty and "null" in labels:  # CSV knows no null, and some writers know only NaN
        return labels["null"]
    if rule.lists_all:
        raise RowFault("label", column, "a value that `label.equals` doesn't list; add it, or `otherwise`")
    return None if empty else rule.otherwise


def _number(value: object, column: str) -> float:
    try:
        # CSV knows text only.
        number = float(value) if isinstance(value, str | bool | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowFault(
            "label", column, f"expected a number, found {json_type(value)}; give `equals` for words"
        )
    return number


class CategoryFinder:
    """The map from the data set's categories to the constitution's. `column` is None if rows have none."""

    def __init__(self, mapping: DataMapping, known: frozenset[str], column: str | None) -> None:
        self._mapping = mapping
        self._known = known
        self._order = {name: place for place, name in enumerate(mapping.categories)}
        self._column = column

    def names(self, row: Mapping[str, Any], draft: Draft) -> list[str]:
        """Return the data set's own names of the row's category: one, several, or none.

        Raises:
            RowFault: the column holds neither text nor names.
        """
        if draft.record is not None and self._column is None:
            value: object = draft.record.category
        elif self._column is None:
            return []
        else:
            value = read_cell(row, self._column)
        if isinstance(value, Mapping):
            value = [name for name, holds in value.items() if holds is True]
        names = [
            plain_text(item) for item in (value if isinstance(value, list) else [value]) if item is not None
        ]
        if None in names:
            raise RowFault("wrong-type", self._column or "category", "expected a name or a list of names")
        kept: list[str] = json_value([name for name in names if name], self._column or "category")
        return kept

    def target(self, names: list[str]) -> str | None:
        """Return the constitution's id for the name that comes first in the mapping, or None."""
        mapped = [name for name in names if name in self._order]
        if mapped:
            return self._mapping.categories[min(mapped, key=self._order.__getitem__)]
        if not self._mapping.categories:
            # Without a list of names, a name that is an id of the constitution stands for itself.
            return next((name for name in names if name in self._known), None)
        return None
