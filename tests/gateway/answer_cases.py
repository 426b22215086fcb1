"""A case for each row of the table of answers in docs/upstream.md, on each route. MARK stands for the text.

An empty list says that the API has no such field.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prompt_cases import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from scripted_upstream import BASE, DONE, delta, event

Body = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer in both shapes: the events of its stream, and one body. None: it has not this shape.

    Attributes:
        repeats: whether all its text is content, said again in other fields.
    """

    events: Sequence[Body] = ()
    body: Body | None = None
    repeats: bool = False


def stream_of(route: str, events: Sequence[Body]) -> bytes:
    """The bytes of a stream, as the API of a route has them."""
    if route in (CHAT, COMPLETIONS):
        return b"".join(map(event, events)) + DONE
    return b"".join(f"event: {found['type']}\n".encode() + event(found) for found in events)


# Chat completions
def chat(*parts: Body, whole: Body | None = None, choice: Body | None = None, **top: Any) -> Answer:
    """A chat completion of these deltas. `whole` is its message, `choice` and `top` hold further fields."""
    beside, message = choice or {}, {"role": "assistant", "content": "so", **(whole or parts[0])}
    events = [delta(**part) for part in parts]
    events = [{**found, **top, "choices": [{**found["choices"][0], **beside}]} for found in events]
    one = {"index": 0, "message": message, "finish_reason": "stop", **beside}
    body = {**BASE, "object": "chat.completion", "choices": [one], **top}
    return Answer([delta(role="assistant", content=""), *events, delta(0, "stop")], body)


def called(arguments: str, name: str = "open_lock", **more: Any) -> Body:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function, **more}]}


def _more(arguments: str) -> Body:
    return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}


def _tokens(*texts: str, **more: Any) -> list[Body]:
    return [
        {"token": t, "logprob": -1.0, "bytes": list(t.encode()), "top_logprobs": [], **more} for t in texts
    ]


def _chances(entries: list[Body]) -> Body:
    return {"logprobs": {"content": entries, "refusal": None}}


CUSTOM = {"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "f", "input": "MARK"}}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


# Completions
def completion(text: str = "MARK", choice: Body | None = None, **top: Any) -> Answer:
    one = {"index": 0, "text": text, "finish_reason": None, **(choice or {})}
    base = {**BASE, "object": "text_completion", **top}
    end = {**one, "text": "", "finish_reason": "stop", **({"logprobs": None} if choice else {})}
    return Answer(
        [{**base, "choices": [one]}, {**base, "choices": [end]}],
        {**base, "choices": [{**one, "finish_reason": "stop"}]},
    )


# Anthropic's messages
_MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "big"}
_USE = {"input_tokens": 3, "output_tokens": 1}
_END = {"stop_reason": "end_turn", "stop_sequence": None}


def message(block: Body, *deltas: Body, whole: Body | None = None, **top: Any) -> Answer:
    """A message with one block, as it begins, grows and stands in a body."""
    head = {**_MESSAGE, "content": [], "usage": _USE, **top}
    events: list[Body] = [
        {"type": "message_start", "message": head},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": part} for part in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": _END, "usage": _USE},
        {"type": "message_stop"},
    ]
    return Answer(events, {**head, **_END, "content": [whole or block]})


_TEXT = {"type": "text", "text": ""}
_THOUGHT = {"type": "thinking", "thinking": "", "signature": ""}
_TOOL = {"type": "tool_use", "id": "toolu_1", "name": "open_lock", "input": {}}


def _part(text: str) -> Body:
    return {"type": "text_delta", "text": text}


# Responses
_HEAD = {"id": "resp_1", "object": "response", "created_at": 1, "model": "big"}
_CALLED = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "open_lock", "arguments": ""}


def response(item: Body, *steps: Body, **top: Any) -> Answer:
    """A response with one item. `steps` are the events between its beginning and its end."""
    head = {**_HEAD, **top}
    bare = {
        key: value for key, value in item.items() if key not in ("content", "arguments", "input", "summary")
    }
    events = [
        {"type": "response.created", "response": {**head, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": bare},
        *({"output_index": 0, "item_id": item["id"], **step} for step in steps),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {**head, "status": "completed", "output": [item]}},
    ]
    numbered = [{**step, "sequence_number": number} for number, step in enumerate(events)]
    return Answer(numbered, {**head, "status": "completed", "output": [item]})


def _spoken(part: Body, **more: Any) -> Body:
    return {"id": "msg_1", "type": "message", "role": "assistant", "content": [part], **more}


def _said(text: str, **more: Any) -> Answer:
    """A message of a response, first in parts and then as a whole."""
    place = {"content_index": 0, **more}
    return response(
        _spoken({"type": "output_text", "text": text, "annotations": [], **more}),
        {"type": "response.output_text.delta", **place, "delta": text},
        {"type": "response.output_text.done", **place, "text": text},
    )


_REFUSED = {"type": "refusal", "refusal": "MARK"}
_MUSED = {"type": "reasoning", "id": "rs_1", "summary": []}
_ENTERED = {"type": "custom_tool_call", "id": "ct_1", "call_id": "call_1", "name": "f", "input": "MARK"}
_GATE = '{"gate": "MARK"}'
_GIVEN = {"type": "response.function_call_arguments.delta", "delta": _GATE}

ANSWER_CASES: Mapping[str, Mapping[str, Sequence[Answer]]] = {
    "content, refusals, reasoning": {
        CHAT: [chat({field: "MARK"}) for field in ("content", "refusal", "reasoning", "reasoning_content")]
        + [chat({"content": "and "}, {"content": "MARK"}, whole={"content": "and MARK"})]
        + [chat({"reasoning_details": [{"type": "reasoning.text", "text": "MARK"}]})],
        COMPLETIONS: [completion()],
        RESPONSES: [
            _said("MARK"),
            response(
                _spoken(_REFUSED), {"type": "response.refusal.delta", "content_index": 0, "delta": "MARK"}
            ),
            response(_spoken(_REFUSED)),
            *(
                response({**_MUSED, field: [{"type": f"{kind}_text", "text": "MARK"}]}, *steps)
                for field, kind in (("summary", "summary"), ("content", "reasoning"))
                for steps in ((), ({"type": f"response.reasoning_{kind}_text.delta", "delta": "MARK"},))
            ),
        ],
        MESSAGES: [
            message(_TEXT, _part("MARK"), whole={**_TEXT, "text": "MARK"}),
            message({**_TEXT, "text": "MARK"}),
            message(
                _THOUGHT,
                {"type": "thinking_delta", "thinking": "MARK"},
                whole={**_THOUGHT, "thinking": "MARK"},
            ),
        ],
    },
    "names and arguments of tool calls, streamed and whole": {
        CHAT: [
            chat(called(_GATE)),
            chat(called("{}", "MARK")),
            chat(called(""), _more('{"gate"'), _more(': "MARK"}'), whole=called(_GATE)),
            chat({"function_call": {"name": "open_lock", "arguments": _GATE}}),
            chat({"tool_calls": [CUSTOM]}),
        ],
        COMPLETIONS: [],
        RESPONSES: [
            response({**_CALLED, "arguments": _GATE}, _GIVEN),
            response({**_CALLED, "arguments": _GATE}),
            response({**_CALLED, "name": "MARK"}),
            response(_ENTERED, {"type": "response.custom_tool_call_input.delta", "delta": "MARK"}),
            response(_ENTERED, {"type": "response.custom_tool_call_input.done", "input": "MARK"}),
            response(_ENTERED),
        ],
        MESSAGES: [
            message(
                _TOOL,
                {"type": "input_json_delta", "partial_json": _GATE},
                whole={**_TOOL, "input": {"a": "MARK"}},
            ),
            message({**_TOOL, "input": {"gate": "MARK"}}),
            message({**_TOOL, "name": "MARK"}),
        ],
    },
    "`logprobs`": {
        CHAT: [
            replace(chat({"content": "so"}, choice=_chances(_tokens("s", "o"))), repeats=True),
            replace(chat({"content": "so"}, choice={"logprobs": None}), repeats=True),
            chat({"content": "so"}, choice=_chances(_tokens("s", "MARK"))),
            chat({"content": "so"}, choice=_chances(_tokens("so", top_logprobs=[{"token": "MARK"}]))),
            chat({"content": "so"}, choice=_chances(_tokens("so", odd="MARK"))),
            chat(
                {"content": "so"}, choice={"logprobs": {**_chances(_tokens("so"))["logprobs"], "odd": "MARK"}}
            ),
        ],
        COMPLETIONS: [
            replace(
                completion("so", {"logprobs": {"tokens": ["s", "o"], "token_logprobs": [-1.0, -2.0]}}),
                repeats=True,
            ),
            replace(
                completion("so", {"logprobs": {"tokens": ["so"], "top_logprobs": [{"so": -1.0}]}}),
                repeats=True,
            ),
            replace(completion("so", {"logprobs": None}), repeats=True),
            completion("so", {"logprobs": {"tokens": ["MARK"], "token_logprobs": [-1.0]}}),
            completion("so", {"logprobs": {"tokens": ["so"], "top_logprobs": [{"MARK": -1.0}]}}),
        ],
        RESPONSES: [
            replace(_said("so", logprobs=_tokens("s", "o")), repeats=True),
            replace(_said("so", logprobs=[]), repeats=True),
            _said("so", logprobs=_tokens("s", "MARK")),
            _said("so", logprobs=_tokens("so", top_logprobs=[{"token": "MARK"}])),
        ],
        MESSAGES: [],
    },
    "ids, roles, numbers, usage, seals of thoughts": {
        CHAT: [
            chat(
                {"content": "so", "role": "MARK"},
                id="MARK",
                model="MARK",
                system_fingerprint="MARK",
                usage=USAGE,
            ),
            chat({"content": "so"}, choice={"stop_reason": "MARK"}),
        ],
        COMPLETIONS: [completion("so", id="MARK", model="MARK", usage={**USAGE, "odd": "MARK"})],
        RESPONSES: [
            response(
                _spoken({"type": "output_text", "text": "so"}, role="MARK", status="MARK"),
                metadata={"a": "MARK"},
            ),
            response({**_MUSED, "encrypted_content": "MARK"}),
            response(
                _spoken({"type": "output_text", "text": "so"}), instructions="MARK", tools=[{"name": "MARK"}]
            ),
        ],
        MESSAGES: [
            message(_TEXT, _part("so"), id="MARK", model="MARK", usage={**_USE, "odd": "MARK"}),
            message(
                _THOUGHT,
                {"type": "signature_delta", "signature": "MARK"},
                whole={**_THOUGHT, "signature": "MARK"},
            ),
            message({"type": "redacted_thinking", "data": "MARK"}),
        ],
    },
}
# Parts of an answer that are as they are, whatever they hold.
_PLAIN = ("usage", "metadata")
# One answer with all that an API has, to put unknown fields into.
SAMPLES: Mapping[str, Answer] = {
    CHAT: chat(
        {"content": "so"}, called('{"gate"'), _more(": 1}"), whole={"content": "so", **called('{"gate": 1}')},
        choice=_chances(_tokens("so")), usage=None,
    ),
    COMPLETIONS: completion("so", {"logprobs": {"tokens": ["so"]}}),
    RESPONSES: response({**_CALLED, "arguments": "{}"}, {**_GIVEN, "delta": "{}"}),
    MESSAGES: message(_TOOL, {"type": "input_json_delta", "partial_json": "{}"}),
}  # fmt: skip


def with_odd(value: Any) -> Iterator[Any]:
    """Yield a JSON value once for each object in it, with a field that nobody has heard of in that object."""
    if isinstance(value, dict):
        yield {**value, "odd": "MARK"}
        for key, item in value.items():
            if key not in _PLAIN:
                yield from ({**value, key: made} for made in with_odd(item))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from ([*value[:number], made, *value[number + 1 :]] for made in with_odd(item))


def odd_answers(route: str) -> list[Answer]:
    """Answers with an unknown field, one for each place that it can have."""
    samples = [SAMPLES[route]]
    if route == MESSAGES:
        samples += [
            message(_TEXT, _part("so")),
            message(_THOUGHT, {"type": "signature_delta", "signature": "x"}),
        ]
        samples += [
            message({"type": "redacted_thinking", "data": "x"}),
            message({"type": "odd", "text": "so"}),
        ]
    if route == RESPONSES:
        samples += [_said("so")]
    found = []
    for sample in samples:
        found += [Answer(events=events) for events in with_odd(list(sample.events))]
        found += [Answer(body=body) for body in with_odd(sample.body)]
    return found


def as_bytes(body: Body) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
