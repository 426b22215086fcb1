"""Turns of a conversation in the forms of data sets: OpenAI, ShareGPT, Human and Assistant in one text."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lockgate.errors import ExchangeError
from lockgate.exchanges._fields import ContentFault, content_text, json_type
from lockgate.exchanges._read import refuse_constant
from lockgate.exchanges._record import ROLES, Message, messages_from_list
from lockgate.exchanges.importing._faults import RowFault, shown_name

ROLE_NAMES: Mapping[str, str] = {
    **{role: role for role in ROLES},
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_KEPT = ("name", "tool_calls", "tool_call_id")
_MARKER = re.compile(r"(?:\A\s*|(?:\r\n?|\n){2})(Human|Assistant):")


@dataclass(frozen=True, slots=True)
class TurnReader:
    """A reader of lists of turns.

    Attributes:
        roles: further names of roles, with the role that each stands for.
        ignored: keys that hold no part of the conversation.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    ignored: Collection[str] = ()

    def read(self, value: object, where: str) -> tuple[Message, ...]:
        """Return the messages of a list of objects with `role` and `content`, or `from` and `value`.

        Raises:
            RowFault: the value is no such list, or a turn holds something that a message can't carry.
        """
        items = list_items(value, where)
        if not items:
            raise RowFault("empty-prompt", where, "the list is empty; expected at least one turn")
        turns = [self._turn(item, f"{where}[{number}]") for number, item in enumerate(items)]
        return checked_messages(turns, where)

    def _turn(self, item: object, where: str) -> dict[str, Any]:
        if not isinstance(item, Mapping):
            raise RowFault(
                "wrong-type", where, f"expected an object with role and content, found {json_type(item)}"
            )
        role_key, text_key = ("role", "content") if item.get("role") is not None else ("from", "value")
        for key, value in item.items():
            if key in (role_key, text_key, *_KEPT, *self.ignored) or value is None or value in ([], {}, ""):
                continue
            if key == "refusal" and item.get(text_key) is None:
                continue
            raise RowFault(
                "unknown-key",
                where,
                f"unknown key: {shown_name(str(key))}; if it holds no part of the conversation, list it in "
                "`ignore_keys` of the mapping",
            )
        role = item.get(role_key)
        name = self.roles.get(role) or ROLE_NAMES.get(role.strip().lower()) if isinstance(role, str) else None
        if name is None:
            raise RowFault(
                "unknown-role",
                f"{where}.{role_key}",
                f"expected one of {', '.join(ROLE_NAMES)}; give other names in `roles` of the mapping",
            )
        kept = {key: item[key] for key in _KEPT if item.get(key)}
        return {"role": name, "content": _content(item, name, text_key, where), **kept}


def _content(item: Mapping[str, Any], role: str, key: str, where: str) -> str:
    try:
        return content_text(item, role, key)
    except ContentFault as fault:
        reason = "unsupported-part" if fault.unsupported else "wrong-type"
        raise RowFault(reason, f"{where}.{fault.field}", fault.what) from None


def list_items(value: object, where: str) -> Sequence[object]:
    """Return a list of items.

    The value is a list, a list as JSON text (in CSV), or an object of columns. `datasets` stores lists of
    objects in the last form.

    Raises:
        RowFault: the value is none of these.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=refuse_constant)
        except (ValueError, RecursionError):
            raise RowFault(
                "wrong-type", where, "expected a list of turns, found text that isn't JSON"
            ) from None
    if isinstance(value, Mapping):
        lists = {key: column for key, column in value.items() if isinstance(column, list)}
        if lists and len(lists) == len(value) and len({len(column) for column in lists.values()}) == 1:
            return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
    if not isinstance(value, list):
        raise RowFault("wrong-type", where, f"expected a list of turns, found {json_type(value)}")
    return value


def has_markers(text: str) -> bool:
    """Whether a text begins like a dialogue of Human and Assistant."""
    found = _MARKER.match(text)
    return found is not None


def read_dialogue(text: str, where: str) -> tuple[Message, ...]:
    """Read the turns of a text in which paragraphs begin with `Human:` or `Assistant:`. Turns are trimmed.

    An empty last turn of the assistant is dropped: it only invites the answer. A paragraph inside an answer
    that begins with one of these words counts as a turn.

    Raises:
        RowFault: the text does not begin with a marker, or an earlier turn is empty.
    """
    _, *pieces = _MARKER.split(text)
    if not has_markers(text):
        raise RowFault("wrong-type", where, "expected a dialogue that begins with `Human:` or `Assistant:`")
    turns = list(zip(pieces[::2], (piece.strip() for piece in pieces[1::2]), strict=True))
    if turns[-1] == ("Assistant", ""):
        turns.pop()
    if not turns:
        raise RowFault("empty-prompt", where, "the dialogue holds no text")
    if not all(content for _, content in turns):
        raise RowFault("malformed", where, "a turn of the dialogue is empty")
    roles = {"Human": "user", "Assistant": "assistant"}
    return checked_messages([{"role": roles[name], "content": content} for name, content in turns], where)


def checked_messages(turns: Sequence[Mapping[str, Any]], where: str) -> tuple[Message, ...]:
    """Build messages, with the checks of a record.

    Raises:
        RowFault: a check fails, for example because a text is not valid Unicode.
    """
    try:
        return messages_from_list(turns)
    except ExchangeError as error:
        place, _, message = str(error).partition(": ")
        raise RowFault("malformed", where + place.removeprefix("messages"), message) from None
