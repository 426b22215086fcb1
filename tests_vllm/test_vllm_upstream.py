"""`lockgate serve --upstream` in front of a plain vLLM: one start of vLLM and of two gateways for all tests.

The tests run in the order of this file, because the last one stops vLLM.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from conftest import CONTEXT, MODEL, save_guard
from processes import Command
from served_vllm import VllmServer

from lockgate.backbones.outline import read_outline
from lockgate.cascade import Thresholds

NAME = "small"
PROMPT = [{"role": "user", "content": "Why does a canal lock hold water?"}]
LENGTH = 24
# An answer that takes vLLM many seconds, and ends by its length alone.
LONG = {"max_tokens": 600, "ignore_eos": True}
KIND = {"type": "string", "enum": ["lock", "canal"]}
SHAPE = {"type": "object", "properties": {"kind": KIND}, "required": ["kind"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Look up.", "parameters": SHAPE}}
CASES: dict[str, dict[str, Any]] = {
    "text": {},
    "two choices and a stop string": {"n": 2, "temperature": 1, "seed": 7, "stop": ["."]},
    "logprobs": {"logprobs": True, "max_tokens": 6},
    "JSON schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SHAPE}}
    },
    "a tool": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 80},
    "a tool if it likes": {"tools": [TOOL], "tool_choice": "auto"},
    # A text that may be the stop string's begin stays in vLLM, and the tokens' texts do not.
    "text that vLLM holds back": {"stop": ["zq" * 40], "logprobs": True},
}


@pytest.fixture(scope="module")
def starting(tmp_path_factory) -> Iterator[VllmServer]:
    """A plain vLLM that may not answer yet, so that the gateways start beside it."""
    arguments = {
        "model": str(read_outline(MODEL).path),
        "served_model_name": [NAME],
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 2 * CONTEXT,
        "max_num_seqs": 8,
        "kv_cache_memory_bytes": 192 * 2**20,
        # Keys and values of an earlier request could differ in their last bits.
        "enable_prefix_caching": False,
        # On processors vLLM ends if the prompt of a request with a seed comes in pieces.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": 2048,
    }
    started = VllmServer(
        arguments,
        tmp_path_factory.mktemp("vllm"),
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
    )
    yield started
    started.close()


@contextmanager
def gateway(folder: Path, *options: str) -> Iterator[Command]:
    command = Command("-m", "lockgate", "serve", *options, "--threads", "1", "--json", cwd=folder)
    try:
        yield command
    finally:
        command.close()


@pytest.fixture(scope="module")
def gateways(starting, backbone, tmp_path_factory) -> Iterator[tuple[str, str]]:
    """The URLs of two gateways: with the embedded guard, and with one that flags whatever it reads.

    The second one only records flags of `/v1/completions`, and soon takes a silent upstream for dead.
    """
    folder = tmp_path_factory.mktemp("gateways")
    guard = save_guard(folder / "strict", backbone, Thresholds(-math.inf, min_tokens=1, flag_on="answer"))
    config = {
        "guard": str(guard),
        "upstreams": {"vllm": {"url": starting.url, "idle_timeout": 5.0}},
        "routes": {"/v1/completions": {"mode": "shadow"}},
        "listen": {"port": 0},
        "limits": {"kv_tokens": 4096},
    }
    (folder / "lockgate.yaml").write_text(json.dumps(config))
    plain = ("--upstream", starting.url, "--port", "0", "--kv-tokens", "8192", "--decisions", "plain.db")
    strict = ("--config", "lockgate.yaml", "--decisions", "strict.db")
    with gateway(folder, *plain) as first, gateway(folder, *strict) as second:
        lines = [command.first_line() for command in (first, second)]
        starting.wait()
        yield json.loads(lines[0])["url"] + "/v1", json.loads(lines[1])["url"] + "/v1"


@pytest.fixture(scope="module")
def vllm(starting, gateways) -> VllmServer:
    """vLLM, once it answers."""
    return starting


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)


def chat(url: str, **how: Any) -> Any:
    how = {"model": NAME, "messages": PROMPT, "temperature": 0, "max_tokens": LENGTH, **how}
    return client_of(url).chat.completions.create(**how)


def streamed(url: str, **how: Any) -> tuple[dict[int, dict[str, Any]], Any]:
    """The choices of a stream as those of a whole answer, and the usage. vLLM may join tokens in a chunk."""
    found: dict[int, dict[str, Any]] = {}
    usage = None
    for chunk in chat(url, stream=True, stream_options={"include_usage": True}, **how):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            empty = {"content": "", "calls": [], "tokens": [], "reason": None}
            one = found.setdefault(choice.index, empty)
            one["content"] += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                if call.function.name:
                    one["calls"].append((call.function.name, ""))
                name, text = one["calls"].pop()
                one["calls"].append((name, text + (call.function.arguments or "")))
            one["tokens"] += choice.logprobs.content if choice.logprobs else []
            one["reason"] = choice.finish_reason or one["reason"]
    return found, usage


def whole(url: str, **how: Any) -> tuple[dict[int, dict[str, Any]], Any]:
    answer = chat(url, **how)
    found = {
        choice.index: {
            "content": choice.message.content or "",
            "calls": [
                (call.function.name, call.function.arguments) for call in choice.message.tool_calls or []
            ],
            "tokens": choice.logprobs.content if choice.logprobs else [],
            "reason": choice.finish_reason,
        }
        for choice in answer.choices
    }
    return found, answer.usage


def lines_of(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream, as they arrive."""
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def until(reached: Callable[[], bool], seconds: float = 20) -> None:
    last = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < last
        time.sleep(0.1)


def test_the_models_are_those_of_vllm(vllm, gateways) -> None:
    for url in gateways:
        assert [model.id for model in client_of(url).models.list()] == [NAME]


@pytest.mark.parametrize("ask", [whole, streamed])
@pytest.mark.parametrize("name", CASES)
def test_answers_are_those_of_vllm(vllm, gateways, name, ask) -> None:
    expected, found = (ask(url, **CASES[name]) for url in (vllm.url, gateways[0]))
    assert found == expected
    choices, usage = found
    assert usage.completion_tokens > 0
    assert len(choices) == CASES[name].get("n", 1)
    if name == "JSON schema":
        assert json.loads(choices[0]["content"])["kind"] in KIND["enum"]
    else:
        assert choices[0]["content"] or choices[0]["calls"]
    if name == "a tool":
        assert {function for function, _ in choices[0]["calls"]} == {"look_up"}


@pytest.mark.parametrize("case", ["text", "JSON schema", "a tool", "logprobs", "text that vLLM holds back"])
def test_a_halt_lets_nothing_out(vllm, gateways, case) -> None:
    how = {"model": NAME, "messages": PROMPT, "temperature": 0, "max_tokens": LENGTH, **CASES[case]}
    expected = whole(vllm.url, **CASES[case])[0][0]
    for stream in (True, False):
        body = httpx2.post(f"{gateways[1]}/chat/completions", json={**how, "stream": stream}, timeout=120)
        assert body.status_code == 200
        assert "content_filter" in body.text
        events = [json.loads(line[6:]) for line in body.text.splitlines() if line.startswith("data: {")]
        for event in events or [body.json()]:
            for choice in event["choices"]:
                part = choice.get("delta") or choice.get("message") or {}
                assert not part.get("content")
                assert not part.get("tool_calls")
                assert not choice.get("logprobs")
        pieces = [
            word for word in expected["content"].split() if len(word) > 5 and word not in json.dumps(how)
        ]
        assert not [word for word in pieces if word in body.text]


def test_a_halt_ends_vllms_answer(vllm, gateways) -> None:
    before = vllm.figures()
    parts = list(
        chat(gateways[1], stream=True, max_tokens=LONG["max_tokens"], extra_body={"ignore_eos": True})
    )
    assert parts[-1].choices[0].finish_reason == "content_filter"
    until(lambda: vllm.figures()["num_requests_running"] == 0)
    after = vllm.figures()
    assert after["prompt_tokens_total"] > before["prompt_tokens_total"], "vLLM was never asked"
    assert after["generation_tokens_total"] - before["generation_tokens_total"] < LONG["max_tokens"] / 2


def test_a_client_that_leaves_ends_vllms_answer(vllm, gateways) -> None:
    before = vllm.figures()["generation_tokens_total"]
    parts = chat(gateways[0], stream=True, max_tokens=LONG["max_tokens"], extra_body={"ignore_eos": True})
    next(part for part in parts if part.choices[0].delta.content)
    assert vllm.figures()["num_requests_running"] == 1
    parts.close()
    until(lambda: vllm.figures()["num_requests_running"] == 0)
    assert vllm.figures()["generation_tokens_total"] - before < LONG["max_tokens"] / 2


@pytest.mark.parametrize("field", ["return_token_ids", "return_tokens_as_token_ids"])
def test_token_ids_are_refused(vllm, gateways, field) -> None:
    # vLLM sends the ids of text that it holds back itself, which the guard has not read yet.
    for url in gateways:
        with pytest.raises(openai.BadRequestError, match=field):
            chat(url, extra_body={field: True})
    assert chat(gateways[0], max_tokens=2, extra_body={field: False}).usage.completion_tokens == 2


def test_a_stopped_vllm_ends_in_errors(vllm, gateways) -> None:
    """At SIGTERM vLLM ends its engine and leaves open streams silent. At SIGKILL they break off."""
    body = {"model": NAME, "stream": True, "temperature": 0, **LONG}
    plain, hasty = gateways
    with (
        httpx2.stream(
            "POST", f"{plain}/chat/completions", json={**body, "messages": PROMPT}, timeout=120
        ) as one,
        httpx2.stream("POST", f"{hasty}/completions", json={**body, "prompt": "A lock"}, timeout=120) as two,
    ):
        first, second = lines_of(one), lines_of(two)
        assert next(first)["choices"]
        assert next(second)["choices"]
        vllm.process.send_signal(signal.SIGTERM)
        ends = [list(second)[-1]]
        vllm.close()
        ends.append(list(first)[-1])
    for end in ends:
        broke_off = end.get("error", {}).get("code", "").startswith("upstream_")
        # vLLM may find the time to say that it gives the answer up.
        given_up = [choice["finish_reason"] for choice in end.get("choices", ())] == ["abort"]
        assert broke_off or given_up, end
