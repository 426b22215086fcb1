"""Rows of a pipeline: exchanges that carry where they come from in `meta`."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, overload

from lockgate.errors import SynthesisError
from lockgate.exchanges import Exchange, Message, exchange_from_dict

Row = Exchange

_In = TypeVar("_In")
_Out = TypeVar("_Out")

ROW, PARENT, STEPS, REJECTED = "row", "parent", "steps", "rejected"


@dataclass(frozen=True, slots=True)
class Reject:
    """What a step's function returns for a row that goes no further. `reason` is one of a few words."""

    reason: str
    detail: str = ""


class Mapped(Sequence[_Out], Generic[_In, _Out]):
    """A sequence seen through a function, which is applied anew at each reading: nothing is held."""

    def __init__(self, items: Sequence[_In], function: Callable[[_In], _Out]) -> None:
        self._items = items
        self._function = function

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[_Out]:
        return map(self._function, self._items)

    @overload
    def __getitem__(self, place: int) -> _Out: ...
    @overload
    def __getitem__(self, place: slice) -> list[_Out]: ...
    def __getitem__(self, place: int | slice) -> _Out | list[_Out]:
        if isinstance(place, slice):
            return [self._function(item) for item in self._items[place]]
        return self._function(self._items[place])


def row_id(row: Row) -> str:
    """The row's id, 16 hex digits, set when it entered the pipeline or was derived.

    Raises:
        SynthesisError: it has none; rows come from `Pipeline.run` or `derive_row`.
    """
    found = row.meta.get(ROW)
    if not isinstance(found, str):
        raise SynthesisError(f"meta.{ROW}: missing; build new rows with derive_row")
    return found


def number_rows(rows: Iterable[Exchange]) -> Iterator[Row]:
    """Give each row an id by its content, equal rows one by their order as well. Ids that are there stay."""
    seen: dict[bytes, int] = {}
    for row in rows:
        if isinstance(row.meta.get(ROW), str):
            yield row
            continue
        digest = hashlib.sha256(encode_row(row)).digest()[:12]
        number = seen.get(digest, 0)
        seen[digest] = number + 1
        yield replace(row, meta={**row.meta, ROW: _hash(digest.hex(), number)})


def derive_row(
    row: Row,
    step: str,
    number: int = 0,
    *,
    messages: tuple[Message, ...] | None = None,
    label: float | None = None,
    category: str | None = None,
    source: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Row:
    """A new row made from `row` by the step of this name; what is not given is kept.

    The id comes from the parent's id, the step and `number`, so give each of several children its own. `meta`
    is laid over the parent's.
    """
    steps = [*row.meta.get(STEPS, []), step]
    own = {ROW: _hash(row_id(row), step, number), PARENT: row_id(row), STEPS: steps}
    return Exchange(
        messages=row.messages if messages is None else messages,
        label=row.label if label is None else label,
        category=row.category if category is None else category,
        source=row.source if source is None else source,
        meta={**row.meta, **(meta or {}), **own},
    )


def row_seed(row: Row, step: str, attempt: int = 0) -> int:
    """31 bits from the row's id, the step's name and the attempt: what endpoints take as a seed."""
    return int(_hash(row_id(row), step, attempt)[:8], 16) & 0x7FFFFFFF


def encode_row(row: Row) -> bytes:
    """One line of JSON, with its newline; equal rows give equal bytes.

    Raises:
        SynthesisError: a value that JSON or Unicode can't carry.
    """
    try:
        text = json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False, sort_keys=True)
        return text.encode("utf-8") + b"\n"
    except (TypeError, ValueError) as error:
        raise SynthesisError(f"a row can't be written as JSON ({type(error).__name__})") from None


def decode_row(line: bytes) -> Row:
    """The inverse of `encode_row`."""
    return exchange_from_dict(json.loads(line))


def reject_row(row: Row, step: str, reject: Reject) -> Row:
    """The row as it stands in the sink: with step, reason and detail in `meta.rejected`."""
    why = {"step": step, "reason": reject.reason, "detail": reject.detail}
    return replace(row, meta={**row.meta, REJECTED: why})


def _hash(*parts: str | int) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
