"""JSON schemas of answers."""

from collections.abc import Mapping
from typing import Any

from lockgate.gateway._options import MODES

_TEXT = {"type": "string"}
_TEXT_OR_NONE = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}


def _object(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON schemas
    """Return the schema of an object that always has these fields."""
    return {"type": "object", "required": list(fields), "properties": fields}


_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
_MESSAGE = _object(role={"const": "assistant"}, content=_TEXT_OR_NONE, refusal=_TEXT_OR_NONE)
_CHOICE = _object(
    index=_COUNT,
    message=_MESSAGE,
    finish_reason={"enum": ["stop", "length", "content_filter"]},
    logprobs={"type": ["object", "null"]},
)
_MODEL = _object(id=_TEXT, object={"const": "model"}, created={"type": "integer"}, owned_by=_TEXT)
_RESULT = _object(
    flagged={"type": "boolean"},
    categories={"type": "object", "additionalProperties": {"type": "boolean"}},
    category_scores={"type": "object", "additionalProperties": {"enum": [0, 1]}},
)

SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "Anything": {"type": "object"},
    "Error": _object(error=_object(message=_TEXT, type=_TEXT, param=_TEXT_OR_NONE, code=_TEXT_OR_NONE)),
    "AnyError": _object(error={"type": ["object", "string"]}),
    "Completion": _object(
        id=_TEXT,
        object={"const": "chat.completion"},
        created={"type": "integer"},
        model=_TEXT,
        choices={"type": "array", "minItems": 1, "items": _CHOICE},
        usage=_USAGE,
    ),
    "Model": _MODEL,
    "ModelList": _object(object={"const": "list"}, data={"type": "array", "items": _MODEL}),
    "Moderation": _object(id=_TEXT, model=_TEXT, results={"type": "array", "minItems": 1, "items": _RESULT}),
    "Decision": _object(
        id=_TEXT,
        object={"const": "decision"},
        mode={"enum": list(MODES)},
        decision={"enum": [None, "pass", "block", "halt", "error"]},
        enforced={"type": "boolean"},
        stage={"type": ["integer", "null"]},
        category=_TEXT_OR_NONE,
        refusal=_TEXT_OR_NONE,
        received=_COUNT,
        released=_COUNT,
    ),
    "Guardrail": _object(action={"enum": ["NONE", "BLOCKED"]}),
    "Health": _object(status={"enum": ["ok", "down"]}, mode={"enum": list(MODES)}, version=_TEXT),
    "Ready": _object(
        status={"enum": ["ready", "degraded", "unavailable"]},
        mode={"enum": list(MODES)},
        problems={"type": "array", "items": _TEXT},
    ),
}
