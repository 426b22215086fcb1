"""One cell of a row, found by its column's name or by a path into nested columns."""

import datetime
import json
from collections.abc import Mapping
from typing import Any

from lockgate.exchanges._fields import json_type
from lockgate.exchanges.importing._faults import RowFault, shown_name


def read_cell(row: Mapping[str, Any], column: str) -> Any:  # noqa: ANN401
    """Return the value of a column. `a.b` is the column of that name, or else `b` within `a`.

    Raises:
        RowFault: the row has no such column.
    """
    if column in row:
        return row[column]
    head, dot, rest = column.partition(".")
    inner = row[head] if dot and head in row else None
    if not isinstance(inner, Mapping):
        there = ", ".join(shown_name(str(name)) for name in list(row)[:20])
        raise RowFault("missing-column", column, f"no such column; this row has {there or 'none'}")
    return read_cell(inner, rest)


def read_text(row: Mapping[str, Any], column: str) -> str:
    """Return a column's text. Null gives the empty text.

    Raises:
        RowFault: there is no such column, or it holds something other than text.
    """
    value = read_cell(row, column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowFault("wrong-type", column, f"expected text, found {json_type(value)}")
    return value


def plain_text(value: object) -> str | None:
    """Write a single value as YAML and JSON do, so that a mapping can name it. Other values give None."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    return value.strip() if isinstance(value, str) else None


def json_value(value: object, column: str) -> Any:  # noqa: ANN401
    """Turn a value into one that `meta` can hold. Dates become text.

    Raises:
        RowFault: the value is bytes, or anything else that JSON can't carry.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_dates)
        text.encode("utf-8")
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise RowFault(
            "wrong-type", column, "holds a value that JSON can't carry; leave it out of `columns.meta`"
        ) from None


def _dates(value: object) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise TypeError
