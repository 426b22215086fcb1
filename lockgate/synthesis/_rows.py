"""Rows of a pipeline: exchanges with their origin in `meta`."""

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
    """A function's result for a row that is dropped. `reason` is one of a few fixed words."""

    reason: str
    detail: str = ""


class Mapped(Sequence[_Out], Generic[_In, _Out]):
    """A sequence seen through a function. Each access applies the function again; nothing is kept."""

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
    """Return the row's id, 16 hex digits. `Pipeline.run` and `derive_row` set it.

    Raises:
        SynthesisError: The row has no id.
    """
    found = row.meta.get(ROW)
    if not isinstance(found, str):
        raise SynthesisError(f"meta.{ROW}: missing; build new rows with derive_row")
    return found


def number_rows(rows: Iterable[Exchange]) -> Iterator[Row]:
    """Give each row an id from its content; equal rows also by their order. Existing ids stay."""
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
    """Make a new row from `row` in the step of this name. Fields that are not given are kept.

    The id comes from the parent's id, the step and `number`. Give each of several children its own number.
    `meta` is merged into the parent's `meta`.
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
    """Return a seed from the row's id, the step's name and the attempt: 31 bits, which endpoints accept."""
    return int(_hash(row_id(row), step, attempt)[:8], 16) & 0x7FFFFFFF


def encode_row(row: Row) -> bytes:
    """Write a row as one line of JSON with its newline. Equal rows give equal bytes.

    Raises:
        SynthesisError: JSON or Unicode can't hold a value.
    """
    try:
        text = json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False, sort_keys=True)
        return text.encode("utf-8") + b"\n"
    except (TypeError, ValueError) as error:
        raise SynthesisError(f"a row can't be written as JSON ({type(error).__name__})") from None


def decode_row(line: bytes) -> Row:
    """Read a row from the line that `encode_row` wrote."""
    return exchange_from_dict(json.loads(line))


def reject_row(row: Row, step: str, reject: Reject) -> Row:
    """Return the row with step, reason and detail in `meta.rejected`."""
    why = {"step": step, "reason": reject.reason, "detail": reject.detail}
    return replace(row, meta={**row.meta, REJECTED: why})


def _hash(*parts: str | int) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
