"""A case for each row of the table of requests in docs/upstream.md, on each route. MARK stands for the text.

An empty list says that the API has no such field.
"""

from collections.abc import Mapping, Sequence
from typing import Any

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
ROUTES = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
Fields = Mapping[str, Any]
Cases = Mapping[str, Mapping[str, Sequence[Fields]]]

ASKED = {"role": "user", "content": "why does the lock hold"}
AGAIN = {"role": "user", "content": "and the gate"}
BASE: Mapping[str, Fields] = {
    CHAT: {"model": "big", "messages": [ASKED]},
    COMPLETIONS: {"model": "big", "prompt": ASKED["content"]},
    RESPONSES: {"model": "big", "input": ASKED["content"]},
    MESSAGES: {"model": "big", "max_tokens": 64, "messages": [ASKED]},
}
FUNCTION = {"name": "open_lock", "arguments": '{"gate": "MARK"}'}
CALL = {"id": "call_1", "type": "function", "function": FUNCTION}


def turns(*messages: Fields) -> Fields:
    return {"messages": list(messages)}


def items(*given: Fields) -> Fields:
    return {"input": list(given)}


def said(role: str, *parts: Fields) -> Fields:
    return {"role": role, "content": list(parts) or "MARK"}


def text(kind: str = "text") -> Fields:
    return {"type": kind, "text": "MARK"}


def answered(**fields: Any) -> Fields:
    """A conversation in which the model has answered."""
    return turns(ASKED, {"role": "assistant", "content": "it holds", **fields}, AGAIN)


_TOOL = {"name": "f", "description": "MARK"}
_SCHEMA = {"type": "object", "properties": {"gate": {"type": "string", "description": "MARK"}}}
_PLAIN_FILE = {"type": "text", "data": "MARK"}
_IMAGE = {"type": "image_url", "image_url": {"url": "data:MARK"}}
_AUDIO = {"type": "input_audio", "input_audio": {"data": "MARK", "format": "wav"}}
_FILE = {"type": "file", "file": {"file_data": "MARK"}}
_SHOWN = {"type": "input_image", "image_url": "data:MARK"}
_ENCLOSED = {"type": "input_file", "file_data": "MARK"}
_SOURCE = {"type": "base64", "media_type": "image/png", "data": "MARK"}
_RESULT = {"type": "tool_result", "tool_use_id": "toolu_1"}
_USED = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}

PROMPT_CASES: Cases = {
    "`system` and `developer` turns, `instructions`, Anthropic's `system`": {
        CHAT: [turns(said(role), ASKED) for role in ("system", "developer")]
        + [
            turns(said("system", text()), ASKED),
            turns(ASKED, {"role": "assistant", "content": "it"}, said("system"), AGAIN),
        ],
        COMPLETIONS: [],
        RESPONSES: [{"instructions": "MARK"}]
        + [items(said(role), ASKED) for role in ("system", "developer")]
        + [items(said("developer", text("input_text")), ASKED)],
        MESSAGES: [{"system": "MARK"}, {"system": [text()]}],
    },
    "such turns behind the newest prompt": {
        CHAT: [turns(ASKED, said("system"))],
        COMPLETIONS: [],
        RESPONSES: [items(ASKED, said("developer"))],
        MESSAGES: [turns(ASKED, said("system"))],
    },
    "definitions of tools and functions": {
        CHAT: [
            {"tools": [{"type": "function", "function": _TOOL}]},
            {"functions": [_TOOL]},
            {**turns(said("system"), ASKED), "tools": [{"type": "function", "function": _TOOL}]},
        ],
        COMPLETIONS: [],
        RESPONSES: [{"tools": [{"type": "function", **_TOOL}]}],
        MESSAGES: [{"tools": [_TOOL]}, {"system": "be brief", "tools": [_TOOL]}],
    },
    "the form of the answer: `response_format`, `text.format`, `guided_json` and its relatives, grammars": {
        CHAT: [
            {"response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": _SCHEMA}}},
            {**turns(said("system"), ASKED), "guided_json": _SCHEMA},
            {"guided_choice": ["yes", "MARK"]},
            {"guided_regex": "MARK+"},
            {"structured_outputs": {"json": _SCHEMA}},
            {"grammar": 'root ::= "MARK"'},
            {"json_schema": _SCHEMA},
            {"format": _SCHEMA},
        ],
        COMPLETIONS: [{"guided_json": _SCHEMA}, {"response_format": {"type": "regex", "pattern": "MARK"}}],
        RESPONSES: [
            {"text": {"format": {"type": "json_schema", "name": "f", "schema": _SCHEMA}, "verbosity": "low"}}
        ],
        MESSAGES: [
            {"output_format": {"type": "json_schema", "schema": _SCHEMA}},
            {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": _SCHEMA}}},
        ],
    },
    "`user` turns, `input`, `prompt`, `suffix`, a `prediction`": {
        CHAT: [
            turns(said("user")),
            turns(said("user", text())),
            turns(ASKED, {"role": "assistant", "content": "it holds"}, said("user")),
            {"prediction": {"type": "content", "content": "MARK"}},
            {"prediction": {"type": "content", "content": [text()]}},
        ],
        COMPLETIONS: [{"prompt": "MARK"}, {"prompt": ["MARK"]}, {"suffix": "MARK"}],
        RESPONSES: [
            {"input": "MARK"},
            items(said("user")),
            items({"type": "message", **said("user", text("input_text"))}),
        ],
        MESSAGES: [
            turns(said("user")),
            turns(said("user", text())),
            turns(said("user", {"type": "document", "source": _PLAIN_FILE})),
            turns(said("user", {"type": "document", "title": "MARK", "source": {**_PLAIN_FILE, "data": ""}})),
        ],
    },
    "`assistant` turns, their thoughts, refusals and tool calls": {
        CHAT: [
            answered(content="MARK"),
            answered(content=[text()]),
            answered(content=[{"type": "refusal", "refusal": "MARK"}]),
            *(answered(**{field: "MARK"}) for field in ("refusal", "reasoning", "reasoning_content")),
            answered(reasoning_details=[{"type": "reasoning.text", "text": "MARK"}]),
            answered(tool_calls=[CALL]),
            answered(content=None, tool_calls=[CALL]),
            answered(tool_calls=[{**CALL, "function": {"name": "MARK", "arguments": "{}"}}]),
            answered(
                tool_calls=[{"id": "call_1", "type": "custom", "custom": {"name": "f", "input": "MARK"}}]
            ),
            answered(function_call=FUNCTION),
        ],
        COMPLETIONS: [],
        RESPONSES: [
            items(ASKED, said("assistant", text("output_text")), AGAIN),
            items(ASKED, said("assistant", {"type": "refusal", "refusal": "MARK"}), AGAIN),
            items(ASKED, {"type": "function_call", "call_id": "c", **FUNCTION}, AGAIN),
            items(ASKED, {"type": "function_call", "call_id": "c", "name": "MARK", "arguments": ""}, AGAIN),
            items(ASKED, {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "MARK"}, AGAIN),
            items(ASKED, {"type": "reasoning", "summary": [text("summary_text")]}, AGAIN),
            items(ASKED, {"type": "reasoning", "summary": [], "content": [text("reasoning_text")]}, AGAIN),
        ],
        MESSAGES: [
            answered(content="MARK"),
            answered(content=[text()]),
            answered(content=[{"type": "thinking", "thinking": "MARK", "signature": "x"}]),
            answered(content=[{**_USED, "input": {"gate": "MARK"}}]),
            answered(content=[{**_USED, "name": "MARK"}]),
            answered(content=[{"type": "compaction", "content": "MARK"}]),
        ],
    },
    "an `assistant` turn at the end, with which the answer begins": {
        CHAT: [turns(ASKED, said("assistant"))],
        COMPLETIONS: [],
        RESPONSES: [items(ASKED, said("assistant", text("output_text")))],
        MESSAGES: [turns(ASKED, said("assistant"))],
    },
    "results of tools": {
        CHAT: [
            turns(
                ASKED, {"role": "assistant", "tool_calls": []}, {"tool_call_id": "1", **said("tool", *parts)}
            )
            for parts in ((), (text(),))
        ]
        + [
            turns(ASKED, {"role": "function", "name": "f", "content": "MARK"}),
            turns(ASKED, said("tool"), AGAIN),
        ],
        COMPLETIONS: [],
        RESPONSES: [
            items(ASKED, {"type": f"{kind}_output", "call_id": "c", "output": output})
            for kind in ("function_call", "custom_tool_call")
            for output in ("MARK", [text("input_text")])
        ],
        MESSAGES: [
            turns(
                ASKED,
                {"role": "assistant", "content": [_USED]},
                said("user", {**_RESULT, "content": content}),
            )
            for content in ("MARK", [text()])
        ],
    },
    "images, audio, files": {
        CHAT: [turns(said("user", part)) for part in (_IMAGE, _AUDIO, _FILE)]
        + [answered(audio={"id": "MARK"})],
        COMPLETIONS: [],
        RESPONSES: [items(said("user", part)) for part in (_SHOWN, _ENCLOSED)]
        + [items(ASKED, {"type": "function_call_output", "call_id": "c", "output": [_SHOWN]})],
        MESSAGES: [turns(said("user", {"type": kind, "source": _SOURCE})) for kind in ("image", "document")]
        + [turns(ASKED, said("user", {**_RESULT, "content": [{"type": "image", "source": _SOURCE}]}))],
    },
    "`previous_response_id`, `conversation`, stored prompts, references to items": {
        CHAT: [],
        COMPLETIONS: [],
        RESPONSES: [
            {"previous_response_id": "MARK"},
            {"conversation": {"id": "MARK"}},
            {"prompt": {"id": "MARK"}},
            items(ASKED, {"type": "item_reference", "id": "MARK"}),
        ],
        MESSAGES: [],
    },
    "token ids, several prompts in one request": {
        CHAT: [],
        COMPLETIONS: [{"prompt": [5, 6]}, {"prompt": [[5, 6]]}, {"prompt": ["one", "MARK"]}],
        RESPONSES: [],
        MESSAGES: [],
    },
    "`chat_template_kwargs` that say more than a word or two": {
        CHAT: [
            {"chat_template_kwargs": {"model_identity": f"You are a lock keeper {'of old ' * 3}MARK"}},
            {"chat_template_kwargs": {"enable_thinking": False, "builtin_tools": ["lock"] * 9 + ["MARK"]}},
        ],
        COMPLETIONS: [],
        RESPONSES: [],
        MESSAGES: [],
    },
    "`documents`, `prompt_embeds`, a `chat_template`, and such among `chat_template_kwargs`": {
        CHAT: [
            {"documents": [{"title": "lock", "text": "MARK"}]},
            {"chat_template": "MARK {{ messages }}"},
            {"chat_template_kwargs": {"documents": [{"text": "MARK"}]}},
            {"chat_template_kwargs": {"chat_template": "MARK {{ messages }}"}},
            {"chat_template_kwargs": {"messages": [ASKED]}},
        ],
        COMPLETIONS: [{"prompt_embeds": "TUFSSw=="}],
        RESPONSES: [],
        MESSAGES: [],
    },
    "`top_logprobs` and its relatives, token ids of the answer, answers in audio or in the background": {
        CHAT: [
            {"return_token_ids": True},
            {"return_tokens_as_token_ids": True},
            {"logprobs": True, "top_logprobs": 2},
            {"prompt_logprobs": 1},
            {"audio": {"voice": "x", "format": "wav"}},
            {"modalities": ["text", "audio"]},
        ],
        COMPLETIONS: [
            {"logprobs": 3},
            {"prompt_logprobs": 1},
            {"best_of": 2},
            {"return_token_ids": True},
        ],
        RESPONSES: [{"top_logprobs": 2}, {"background": True}],
        MESSAGES: [],
    },
}
