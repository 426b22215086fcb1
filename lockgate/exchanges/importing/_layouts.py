"""Layouts of rows: finding the layout of a data set, and reading the conversations of a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lockgate.constitution import Columns, Shape
from lockgate.errors import ExchangeError
from lockgate.exchanges._read import unpack_columns
from lockgate.exchanges._record import Exchange, Message, exchange_from_dict
from lockgate.exchanges.importing._cells import read_cell, read_text
from lockgate.exchanges.importing._faults import RowFault, shown_name
from lockgate.exchanges.importing._turns import (
    TurnReader,
    checked_messages,
    has_markers,
    list_items,
    read_dialogue,
)

SIDES = ("chosen", "rejected")


class Draft(NamedTuple):
    """A conversation of a row, with its side in a preference or the record that it was read from."""

    messages: tuple[Message, ...]
    side: str | None = None
    record: Exchange | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A shape, and the columns that it reads."""

    shape: Shape
    columns: Columns
    turns: TurnReader

    def drafts(self, row: Mapping[str, Any]) -> list[Draft]:
        """Return the conversations of a row: two for a preference, else one.

        Raises:
            RowFault: the row does not have this layout. The fault names the column.
        """
        return _DRAFTS[self.shape](row, self.columns, self.turns)


_PROMPTS = ("prompt", "instruction", "question", "query", "goal", "behavior", "user_input", "text")
_ANSWERS = ("response", "output", "completion", "answer", "reply", "target")
_TURNS = ("messages", "conversations", "conversation")


def find_layout(
    shape: Shape, given: Columns, samples: Mapping[str, Sequence[object]], turns: TurnReader
) -> Layout:
    """Find the layout of a data set. Columns that are not given are found by their usual names.

    Args:
        shape: the shape to use. "auto" finds it from the columns.
        given: the columns that the mapping names.
        samples: columns of the first rows, with some of their values.
        turns: reader of lists of turns.

    Raises:
        ExchangeError: no layout fits, or a column that the shape needs can't be found.
    """
    found = shape if shape != "auto" else _shape_of(given, samples)
    columns = _fill(found, given, samples) if found is not None else None
    if found is None or columns is None:
        there = ", ".join(shown_name(name) for name in list(samples)[:30]) or "none"
        wanted = "no known layout" if found is None else f"{found}: a column it needs is not there"
        raise ExchangeError(
            f"shape: {wanted}; the columns are {there}. Say `shape` and `columns` in the mapping"
        )
    return Layout(found, columns, turns)


def _shape_of(given: Columns, samples: Mapping[str, Sequence[object]]) -> Shape | None:
    if given.chosen or given.rejected or set(SIDES) <= set(samples):
        return "preference"
    if given.response is None and (turns := given.messages or _first(_TURNS, samples)):
        if turns == "messages" and {"label", "category", "source"} <= set(samples):
            return "exchange"
        return "sharegpt" if _has_from(samples.get(turns, ())) else "messages"
    prompt = given.prompt or _first(_PROMPTS, samples)
    if prompt is None:
        return None
    return "prompt_response" if given.response or _first(_ANSWERS, samples) else "prompt"


def _has_from(values: Sequence[object]) -> bool:
    for value in values:
        try:
            items = list_items(value, "")
        except RowFault:
            continue
        if items and isinstance(items[0], Mapping):
            return "from" in items[0] and items[0].get("role") is None
    return False


def _fill(shape: Shape, given: Columns, samples: Mapping[str, Sequence[object]]) -> Columns | None:
    update: dict[str, Any] = {}
    if shape in ("prompt", "prompt_response") and given.prompt is None:
        prompt = _first(_PROMPTS, samples)
        # Alpaca's form: an instruction and, in some rows, a text that the instruction is about.
        alpaca = prompt == "instruction" and "input" in samples and shape == "prompt_response"
        update["prompt"] = ["instruction", "input"] if alpaca else prompt
    if shape == "prompt_response" and given.response is None:
        update["response"] = _first(_ANSWERS, samples)
    if shape in ("messages", "sharegpt") and given.messages is None:
        update["messages"] = _first(_TURNS, samples)
    if shape == "preference":
        update |= {side: side for side in SIDES if getattr(given, side) is None and side in samples}
        if given.prompt is None and "prompt" in samples:
            update["prompt"] = "prompt"
    columns = given.model_copy(update=update)
    needed = {
        "prompt": (columns.prompt,),
        "prompt_response": (columns.prompt, columns.response),
        "messages": (columns.messages,),
        "sharegpt": (columns.messages,),
        "preference": (columns.chosen, columns.rejected),
    }
    return columns if all(needed.get(shape, ())) else None


def _first(names: Sequence[str], samples: Mapping[str, Sequence[object]]) -> str | None:
    return next((name for name in names if name in samples), None)


def _exchange(row: Mapping[str, Any], columns: Columns, turns: TurnReader) -> list[Draft]:
    try:
        record = exchange_from_dict(unpack_columns(row))
    except RowFault:
        raise
    except ExchangeError as error:
        field, _, message = str(error).partition(": ")
        raise RowFault("malformed", field, message) from None
    return [Draft(record.messages, record=record)]


def _messages(row: Mapping[str, Any], columns: Columns, turns: TurnReader) -> list[Draft]:
    column = str(columns.messages)
    messages = turns.read(read_cell(row, column), column)
    system = _system(row, columns) if messages[0].role != "system" else ()
    return [Draft(_with_text((*system, *messages), column))]


def _prompt(row: Mapping[str, Any], columns: Columns, turns: TurnReader) -> list[Draft]:
    return [Draft(_asked(row, columns, turns))]


def _prompt_response(row: Mapping[str, Any], columns: Columns, turns: TurnReader) -> list[Draft]:
    answer = _answer(read_text(row, str(columns.response)), str(columns.response))
    return [Draft((*_asked(row, columns, turns), *answer))]


def _preference(row: Mapping[str, Any], columns: Columns, turns: TurnReader) -> list[Draft]:
    names = (str(columns.chosen), str(columns.rejected))
    drafts = [Draft(_side(row, name, columns, turns), side) for side, name in zip(SIDES, names, strict=True)]
    if drafts[0].messages == drafts[1].messages:
        raise RowFault("same-sides", names[1], "the same as the other side; nothing is preferred")
    return drafts


def _side(row: Mapping[str, Any], name: str, columns: Columns, turns: TurnReader) -> tuple[Message, ...]:
    """Read a side: a whole dialogue, as text or as turns, or only the answer to the prompt's column."""
    value = read_cell(row, name)
    if isinstance(value, str) and not has_markers(value):
        return (*_before(row, name, columns, turns), *_answer(value, name))
    if value is None:
        raise RowFault("empty-answer", name, "null; expected an answer")
    messages = read_dialogue(value, name) if isinstance(value, str) else turns.read(value, name)
    if messages[0].role == "assistant":
        messages = (*_before(row, name, columns, turns), *messages)
    if messages[-1].role != "assistant" or not _has_content(messages[-1]):
        raise RowFault("empty-answer", name, "ends without the assistant's answer")
    return messages


def _before(row: Mapping[str, Any], name: str, columns: Columns, turns: TurnReader) -> tuple[Message, ...]:
    if columns.prompt is None:
        raise RowFault("empty-prompt", name, "holds an answer alone; say which column is the `prompt`")
    return _asked(row, columns, turns)


def _asked(row: Mapping[str, Any], columns: Columns, turns: TurnReader) -> tuple[Message, ...]:
    names = [columns.prompt] if isinstance(columns.prompt, str) else list(columns.prompt or ())
    system = _system(row, columns)
    if len(names) == 1:
        value = read_cell(row, names[0])
        if value is not None and not isinstance(value, str):
            return _with_text((*system, *turns.read(value, names[0])), names[0])
        if isinstance(value, str) and has_markers(value):
            return (*system, *read_dialogue(value, names[0]))
    texts = [read_text(row, name) for name in names]
    text = "\n\n".join(text for text in texts if text.strip())
    if not text:
        raise RowFault("empty-prompt", names[0], "no text; expected a prompt")
    return (*system, *checked_messages([{"role": "user", "content": text}], names[0]))


def _system(row: Mapping[str, Any], columns: Columns) -> tuple[Message, ...]:
    text = read_text(row, columns.system) if columns.system is not None else ""
    if not text.strip():
        return ()
    return checked_messages([{"role": "system", "content": text}], str(columns.system))


def _answer(text: str, name: str) -> tuple[Message, ...]:
    if not text.strip():
        raise RowFault("empty-answer", name, "no text; expected an answer")
    return checked_messages([{"role": "assistant", "content": text}], name)


def _with_text(messages: tuple[Message, ...], name: str) -> tuple[Message, ...]:
    if not any(_has_content(message) for message in messages if message.role != "assistant"):
        raise RowFault("empty-prompt", name, "no turn before the answer holds text")
    if messages[-1].role == "assistant" and not _has_content(messages[-1]):
        raise RowFault("empty-answer", name, "the last turn is the assistant's and holds no text")
    return messages


def _has_content(message: Message) -> bool:
    return bool(message.content.strip() or message.tool_calls)


_DRAFTS: Mapping[Shape, Callable[[Mapping[str, Any], Columns, TurnReader], list[Draft]]] = {
    "exchange": _exchange,
    "messages": _messages,
    "sharegpt": _messages,
    "prompt": _prompt,
    "prompt_response": _prompt_response,
    "preference": _preference,
}
