"""The exchange record and its validation.

Error messages name the field and what was expected. They never repeat a value: values are user text.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lockgate.errors import ExchangeError
from lockgate.exchanges._fields import ContentFault, content_text, json_type

ROLES = ("system", "developer", "user", "assistant", "tool")
_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")
# Fields of other formats. Errors may name these keys; any other unknown key may be a user's text.
_KNOWN_ELSEWHERE = frozenset(
    (
        *("annotations", "audio", "citations", "created_at", "from", "function_call", "id", "images"),
        *("metadata", "parts", "reasoning", "reasoning_content", "reasoning_details", "refusal"),
        *("thinking", "thought", "timestamp", "value", "weight"),
    )
)
RECORD_KEYS = ("messages", "label", "category", "source", "meta")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: one of `ROLES`.
        content: text, possibly empty.
        name: name of the speaker, if any.
        tool_calls: calls of an assistant's turn, in OpenAI's form.
        tool_call_id: the call that a tool's turn answers.
    """

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = field(default=None, hash=False)
    tool_call_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form. Keys that are not set are left out."""
        record: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            record["name"] = self.name
        if self.tool_calls is not None:
            record["tool_calls"] = list(self.tool_calls)
        if self.tool_call_id is not None:
            record["tool_call_id"] = self.tool_call_id
        return record


@dataclass(frozen=True, slots=True)
class Exchange:
    """A conversation up to and including an assistant's answer, with its label and origin.

    The constructor trusts its arguments. `exchange_from_dict` checks them.

    Attributes:
        messages: the turns, in order.
        label: probability that the exchange is harmful (1 harmful, 0 harmless); None if it is unknown.
        category: id of a category; None if it is unknown.
        source: name of the data set that it comes from.
        meta: anything else, as JSON values.
    """

    messages: tuple[Message, ...]
    label: float | None = None
    category: str | None = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the messages in canonical JSON, without label and meta."""
        canonical = json.dumps(
            [message.to_dict() for message in self.messages],
            ensure_ascii=False,
            sort_keys=True,
            separators=(",", ":"),
        )
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:16]

    @property
    def is_prompt_only(self) -> bool:
        """Whether there is no answer to judge: the last message is not the assistant's."""
        return not self.messages or self.messages[-1].role != "assistant"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the record. `exchange_from_dict` reads it back."""
        record: dict[str, Any] = {
            "messages": [message.to_dict() for message in self.messages],
            "label": self.label,
            "category": self.category,
            "source": self.source,
        }
        if self.meta:
            record["meta"] = dict(self.meta)
        return record


def exchange_from_dict(obj: object) -> Exchange:
    """Check a decoded record and build an `Exchange`. Unknown top-level keys go into `meta`.

    Raises:
        ExchangeError: a field is bad. The error starts with the field, as in `messages[0].role: ...`.
    """
    if not isinstance(obj, Mapping):
        raise ExchangeError(f"record: expected an object with `messages`, found {json_type(obj)}")
    if "messages" not in obj:
        raise ExchangeError("messages: missing; expected a list of {role, content} objects")
    return Exchange(
        messages=messages_from_list(obj["messages"]),
        label=_label(obj.get("label")),
        category=_optional_text(obj.get("category"), "category"),
        source=_optional_text(obj.get("source"), "source") or "",
        meta=_meta(obj),
    )


def messages_from_list(obj: object) -> tuple[Message, ...]:
    """Check a decoded list of messages and build the messages.

    Raises:
        ExchangeError: the list is empty or a message is malformed. The error starts with the field.
    """
    if isinstance(obj, str | bytes) or not isinstance(obj, Sequence):
        raise ExchangeError(f"messages: expected a list of {{role, content}} objects, found {json_type(obj)}")
    if not obj:
        raise ExchangeError("messages: the list is empty; an exchange needs at least one message")
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(obj))


def _message(obj: object, where: str) -> Message:
    if isinstance(obj, Message):
        obj = obj.to_dict()
    if not isinstance(obj, Mapping):
        raise ExchangeError(f"{where}: expected an object with role and content, found {json_type(obj)}")
    unknown = [str(key) for key, value in obj.items() if not _is_read(str(key), value, obj)]
    if unknown:
        # No classifier would read text under an unknown key. It is refused, so that nothing passes unscored.
        named = sorted(set(unknown) & _KNOWN_ELSEWHERE)
        which = f" ({', '.join(named)})" if named else ""
        raise ExchangeError(
            f"{where}: {len(unknown)} unknown key(s){which}; a message may hold {', '.join(_MESSAGE_KEYS)}. "
            "Move other data to the record's `meta`"
        )
    role = obj.get("role")
    if role not in ROLES:
        raise ExchangeError(f"{where}.role: expected one of {', '.join(ROLES)}")
    calls = _tool_calls(obj.get("tool_calls"), f"{where}.tool_calls")
    try:
        content = content_text(obj, str(role))
    except ContentFault as fault:
        raise ExchangeError(f"{where}.content: {fault.what} (at {fault.field})") from None
    return Message(
        role=str(role),
        content=_valid_text(content, f"{where}.content"),
        name=_optional_text(obj.get("name"), f"{where}.name"),
        tool_calls=calls,
        tool_call_id=_optional_text(obj.get("tool_call_id"), f"{where}.tool_call_id"),
    )


def _is_read(key: str, value: object, message: Mapping[str, Any]) -> bool:
    """Whether this key can be left out without losing any of the message."""
    if key in _MESSAGE_KEYS or value is None or value in ([], {}, ""):
        # SDKs write fields that were not used too: as null, or as an empty list, object or text.
        return True
    return key == "refusal" and message.get("content") is None


def _tool_calls(value: object, where: str) -> tuple[dict[str, Any], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(call, Mapping) for call in value):
        raise ExchangeError(f"{where}: expected a list of objects")
    calls = tuple(dict(call) for call in value)
    _check_json(calls, where)
    return calls or None


def _label(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExchangeError(f"label: expected a number in [0, 1] or null, found {json_type(value)}")
    if not 0.0 <= value <= 1.0 or math.isnan(value):
        raise ExchangeError("label: expected a number in [0, 1] or null, found a number outside")
    return float(value)


def _meta(record: Mapping[str, Any]) -> dict[str, Any]:
    given = record.get("meta")
    if given is not None and not isinstance(given, Mapping):
        raise ExchangeError(f"meta: expected an object, found {json_type(given)}")
    meta = dict(given or {})
    for key, value in record.items():
        if key in RECORD_KEYS:
            continue
        if key in meta and meta[key] != value:
            raise ExchangeError("meta: a key is both in `meta` and beside it, with different values")
        meta[key] = value
    if meta:
        _check_json(meta, "meta")
    return meta


def _optional_text(value: object, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ExchangeError(f"{where}: expected text or null, found {json_type(value)}")
    return _valid_text(value, where)


def _valid_text(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ExchangeError(
            f"{where}: not valid Unicode: a lone surrogate at character {error.start}; "
            "decode the source again or replace it with U+FFFD"
        ) from None
    return text


def _check_json(value: object, where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ExchangeError(f"{where}: holds text that is not valid Unicode (a lone surrogate)") from None
    except (TypeError, ValueError, RecursionError):
        raise ExchangeError(f"{where}: holds a value that JSON can't carry (or is nested too deep)") from None
