"""Fields of a request: honoured, ignored or refused, in the code as in the documents."""

import json
import re
from pathlib import Path

import pytest
from serving import ask, client_for, scoring_for

from lockgate.gateway import ApiError
from lockgate.gateway._fields import HONOURED, IGNORED, REFUSED
from lockgate.gateway._requests import parse_chat_request

DOCUMENT = Path(__file__).parents[2] / "docs" / "serve.md"
# Values that clients send when they mean to use the field.
USED = {
    "min_tokens": 5, "continue_final_message": True, "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"think": True}, "guided_json": {"type": "object"}, "guided_regex": "a+",
    "guided_choice": ["a"], "guided_grammar": "root ::= x", "structured_outputs": {"regex": "a"},
    "prompt_logprobs": 1, "best_of": 2, "echo": True, "use_beam_search": True, "ignore_eos": True,
    "include_stop_str_in_output": True, "add_generation_prompt": False, "documents": [{"text": "x"}],
    "audio": {"voice": "x"}, "modalities": ["text", "audio"], "prediction": {"type": "content"},
    "web_search_options": {}, "reasoning_effort": "high", "store": True, "tools": [{"type": "function"}],
    "tool_choice": "required", "response_format": {"type": "json_schema"}, "repetition_penalty": 1.2,
}  # fmt: skip


def parse(**fields):
    return parse_chat_request(ask(**fields), vocabulary_size=100, max_choices=4)


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_is_refused_is_named_and_its_unused_values_pass(name):
    for unused in REFUSED[name][1]:
        parse(**{name: unused})
    for value in (USED.get(name, "x"), {"a": 1}, -7):
        with pytest.raises(ApiError) as refused:
            parse(**{name: value})
        assert (refused.value.status, refused.value.param) == (400, name)
        assert refused.value.code == "unsupported_value"


def test_a_boolean_is_no_number():
    for name, value in (("best_of", True), ("echo", 0), ("min_tokens", False)):
        with pytest.raises(ApiError):
            parse(**{name: value})


def test_ignored_fields_change_nothing():
    plain = parse()
    for name in (*IGNORED, "made_up"):
        for value in ("x", {"a": "b"}, [1], None):
            assert parse(**{name: value}) == plain


def test_every_field_has_one_fate():
    assert not HONOURED & IGNORED
    assert not (HONOURED | IGNORED) & set(REFUSED)
    assert set(USED) <= set(REFUSED)


def test_the_document_says_what_the_code_does():
    rows = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+) \| (honoured|ignored|refused)(.*) \|$", DOCUMENT.read_text(), re.M
    )
    told = {name: (fate, rest) for names, fate, rest in rows for name in re.findall(r"`(\w+)`", names)}
    fates = {name: fate for name, (fate, _) in told.items()}
    assert fates == {
        **dict.fromkeys(HONOURED, "honoured"),
        **dict.fromkeys(IGNORED, "ignored"),
        **dict.fromkeys(REFUSED, "refused"),
    }
    for name, (_, unused) in REFUSED.items():
        values = [json.loads(value) for value in re.findall(r"`([^`]+)`", told[name][1])]
        assert values == [value for value in unused if value is not None]


@pytest.mark.anyio
async def test_a_client_gets_the_error(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        response = await client.post("/v1/chat/completions", json=ask(max_tokens=2, min_tokens=5))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "min_tokens")
