"""The fields of a chat completion request, and what the server does with each.

A field that would change the meaning of the answer is honoured or refused. Only fields that change nothing
are ignored. The table in `docs/serve.md` says the same, and a test compares the two.
"""

from collections.abc import Mapping
from typing import Any

from lockgate.gateway._messages import unsupported

MAX_STOPS = 4
LONGEST_STOP = 1_000
LONGEST_MODEL_NAME = 256
MAX_SEED = 2**63 - 1
MAX_BIAS = 100
# Numbers: the value without the field, the least and the most.
NUMBERS: Mapping[str, tuple[float, float, float]] = {
    "temperature": (1.0, 0, 2),
    "top_p": (1.0, 0, 1),
    "presence_penalty": (0.0, -2, 2),
    "frequency_penalty": (0.0, -2, 2),
}
_STOP = {"type": "string", "minLength": 1, "maxLength": LONGEST_STOP}
_FLAG = {"type": ["boolean", "null"]}
_COUNT = {"type": ["integer", "null"], "minimum": 1}
_BIASES = {"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS}
# The fields that are honoured, as JSON schemas for the description of the API.
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "messages": {"$ref": "#/components/schemas/Messages"},
    "model": {"type": ["string", "null"], "maxLength": LONGEST_MODEL_NAME},
    **dict.fromkeys(("n", "max_tokens", "max_completion_tokens"), _COUNT),
    "stop": {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}, {"type": "null"}]},
    **dict.fromkeys(("stream", "logprobs"), _FLAG),
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": _FLAG}},
    **{
        name: {"type": ["number", "null"], "minimum": least, "maximum": most}
        for name, (_, least, most) in NUMBERS.items()
    },
    "top_k": {"type": ["integer", "null"], "minimum": -1},
    "seed": {"type": ["integer", "null"], "minimum": -MAX_SEED - 1, "maximum": MAX_SEED},
    "logit_bias": {"type": ["object", "null"], "additionalProperties": _BIASES},
}
HONOURED = frozenset(SCHEMAS)
# Names, bookkeeping and speed. The answer is the same with and without them.
IGNORED = frozenset(
    {
        *("user", "safety_identifier", "metadata", "service_tier", "parallel_tool_calls", "request_id"),
        *("prompt_cache_key", "prompt_cache_retention", "priority", "return_token_ids"),
    }
)
# Fields that are refused unless they hold a value that means "not used", and what they ask for.
REFUSED: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "tools": ("tools", (None, [])),
    "tool_choice": ("tools", (None, "none", "auto")),
    "functions": ("functions", (None, [])),
    "function_call": ("functions", (None, "none", "auto")),
    "response_format": ("response formats other than text", (None, {"type": "text"})),
    "structured_outputs": ("structured outputs", (None, {})),
    "guided_json": ("structured outputs", (None,)),
    "guided_regex": ("structured outputs", (None,)),
    "guided_choice": ("structured outputs", (None, [])),
    "guided_grammar": ("structured outputs", (None,)),
    "guided_decoding_backend": ("structured outputs", (None,)),
    "modalities": ("modalities other than text", (None, ["text"])),
    "audio": ("audio answers", (None,)),
    "documents": ("documents", (None, [])),
    "web_search_options": ("web searches", (None,)),
    "moderation": ("moderation objects (the guard is always on)", (None,)),
    "prediction": ("predicted outputs", (None,)),
    "store": ("stored answers", (None, False)),
    "reasoning_effort": ("reasoning efforts", (None, "none")),
    "verbosity": ("verbosities", (None, "medium")),
    "top_logprobs": ("alternatives to the chosen token: they would leave unscored and", (None, 0)),
    "prompt_logprobs": ("probabilities of the prompt", (None, 0)),
    "echo": ("echoed prompts", (None, False)),
    "suffix": ("suffixes", (None,)),
    "continue_final_message": ("continued messages", (None, False)),
    "add_generation_prompt": ("requests without a generation prompt", (None, True)),
    "chat_template": ("other chat templates", (None,)),
    "chat_template_kwargs": ("arguments of the chat template", (None, {})),
    "best_of": ("the best of several answers", (None, 1)),
    "use_beam_search": ("beam search", (None, False)),
    "length_penalty": ("beam search", (None, 1)),
    "ignore_eos": ("answers that go on after their end", (None, False)),
    "min_tokens": ("shortest answers", (None, 0)),
    "min_p": ("least probabilities", (None, 0)),
    "repetition_penalty": ("repetition penalties (frequency_penalty is)", (None, 1)),
    "bad_words": ("words that may not occur", (None, [])),
    "allowed_token_ids": ("lists of allowed tokens (logit_bias is)", (None, [])),
    "stop_token_ids": ("stop tokens (stop takes strings)", (None, [])),
    "include_stop_str_in_output": ("answers with their stop string", (None, False)),
    "skip_special_tokens": ("control tokens in answers", (None, True)),
    "truncate_prompt_tokens": ("truncated prompts", (None,)),
}


def check_fields(payload: Mapping[str, Any]) -> None:
    """Refuse the fields that ask for something that the server can't do. Raises ApiError (400)."""
    for name, (what, unused) in REFUSED.items():
        if name in payload and not any(_same(payload[name], value) for value in unused):
            raise unsupported(name, what)


def _same(given: object, unused: object) -> bool:
    """Compare as JSON does: a boolean is no number."""
    return given == unused and isinstance(given, bool) == isinstance(unused, bool)
