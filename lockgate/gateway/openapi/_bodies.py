"""JSON schemas of request bodies, made from the tables of fields with which requests are checked."""

from collections.abc import Iterable, Mapping
from typing import Any

from lockgate.gateway._fields import IGNORED, REFUSED, SCHEMAS
from lockgate.gateway._messages import LONGEST_NAME, MAX_MESSAGES, ROLES
from lockgate.gateway.checks._decisions import FIELDS, LONGEST_ID, LONGEST_TEXT
from lockgate.gateway.checks._moderations import MAX_INPUTS
from lockgate.gateway.upstream import _chat, _completions, _messages, _responses

Schema = Mapping[str, Any]
_FLAG = {"type": ["boolean", "null"]}
_COUNT = {"type": ["integer", "null"], "minimum": 1}
_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/components/schemas/Part"}}]}

PARTS: Mapping[str, Schema] = {
    "Part": {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    },
    "Messages": {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_MESSAGES,
        "items": {
            "type": "object",
            "required": ["role", "content"],
            "properties": {
                "role": {"enum": sorted(ROLES)},
                "content": _CONTENT,
                "name": {"type": ["string", "null"], "maxLength": LONGEST_NAME},
            },
        },
    },
}


def _refused(table: Mapping[str, tuple[str, tuple[object, ...]]], words: str) -> dict[str, Schema]:
    """Return schemas of fields that may only hold a value that means "not used"."""
    return {
        name: {"description": words.format(why), "enum": list(unused)}
        for name, (why, unused) in table.items()
    }


CHAT: Schema = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        **SCHEMAS,
        **{name: {"description": "Ignored: the answer is the same without it."} for name in sorted(IGNORED)},
        **_refused(REFUSED, "Refused: {} are not supported."),
    },
}
_LIST = {"type": ["array", "null"], "maxItems": MAX_MESSAGES}


def _turns(roles: Iterable[str]) -> Schema:
    # An upstream may know parts that are not listed here.
    part = {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}}
    content = {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]}
    turn = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": sorted(roles)}, "content": content},
    }
    return {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": turn}


_READ: Mapping[str, Mapping[str, Schema]] = {
    "/chat/completions": {
        "messages": _turns(_chat.ROLES),
        **dict.fromkeys(("tools", "functions"), _LIST),
        **dict.fromkeys(("n", "max_tokens", "max_completion_tokens"), _COUNT),
        "prediction": {"description": "Read as the user's words."},
        "stream": _FLAG,
    },
    "/completions": {
        "prompt": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "maxItems": 1}]},
        "suffix": {"type": ["string", "null"]},
        **dict.fromkeys(("n", "max_tokens"), _COUNT),
        "stream": _FLAG,
    },
    "/responses": {
        "input": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES}]},
        "instructions": {"description": "The operator's words."},
        "tools": _LIST,
        "max_output_tokens": _COUNT,
        "stream": _FLAG,
    },
    "/messages": {
        "messages": _turns(_messages.ROLES),
        "system": {"description": "The operator's words."},
        "tools": _LIST,
        "max_tokens": _COUNT,
        "stream": _FLAG,
    },
}


_UNREADABLE = {
    "/chat/completions": _chat.REFUSED,
    "/completions": _completions.REFUSED,
    "/responses": _responses.REFUSED,
    "/messages": {},
}


def relayed(path: str) -> Schema:
    """Return the schema of what the guard reads of a request to an upstream. Other fields pass."""
    read = _READ[path]
    return {
        "type": "object",
        "required": [next(iter(read))],
        "properties": {**read, **_refused(_UNREADABLE[path], "Refused: {}.")},
    }


MODERATION: Schema = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": {"type": "string"}},
                {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Part"}},
            ]
        },
        "model": {"description": "Ignored."},
    },
}
_DECISION: Mapping[str, Schema] = {
    "messages": {"$ref": "#/components/schemas/Messages"},
    "open": {**_FLAG, "description": "Opens a check. The answer comes in further calls."},
    "id": {"type": ["string", "null"], "maxLength": LONGEST_ID, "description": "Goes on with an open check."},
    "text": {"type": ["string", "null"], "maxLength": LONGEST_TEXT, "description": "More of the answer."},
    "end": {**_FLAG, "description": "The answer is whole."},
    "model": {"description": "Ignored."},
}
DECISION: Schema = {
    "type": "object",
    "properties": {name: _DECISION[name] for name in FIELDS},
    "additionalProperties": False,
    "oneOf": [{"required": ["messages"]}, {"required": ["id"]}],
}
GUARDRAIL: Schema = {
    "type": "object",
    "required": ["input_type"],
    "properties": {
        "input_type": {"enum": ["request", "response"]},
        "litellm_call_id": {"type": ["string", "null"]},
        "texts": {"type": ["array", "null"], "items": {"type": "string"}},
        "structured_messages": _LIST,
        "images": _LIST,
        "tool_calls": _LIST,
    },
}
