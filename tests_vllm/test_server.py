"""vLLM's own server with the guard inside, over HTTP: one start for all of its tests."""

import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import psutil
import pytest
from conftest import CONTEXT, MODEL, save_guard
from driver import asked, reference
from served_vllm import VllmServer

from lockgate.backbones import Feed, SessionPool
from lockgate.cascade import Regions, StreamState, Thresholds
from lockgate.vllm import engine_arguments

TEXT = "Tell me a story about a lock keeper."
CALM = "What is seven times eight?"
LENGTH = 40


def greedy(backbone, prompt: list[int], count: int) -> list[int]:
    tokens: list[int] = []
    with SessionPool(backbone, len(prompt) + count) as pool:
        session = pool.open(len(prompt) + count)
        piece = prompt
        while len(tokens) < count:
            (logits,) = pool.step([Feed(session, piece, want_logits=True)])
            piece = [int(logits.argmax())]
            tokens += piece
    return tokens


@pytest.fixture(scope="module")
def plan(backbone, head) -> dict[str, Any]:
    """A threshold at which the answer to `TEXT` is flagged in its middle, and how many tokens leave."""
    prompt = asked(backbone, "", TEXT, 1)
    answer = greedy(backbone, prompt.prompt, LENGTH)
    rows = reference(backbone, head, [*prompt.prompt, *answer])[prompt.start :]
    regions = Regions(prompt.start, len(prompt.prompt), len(prompt.prompt))
    smoothed = StreamState(Thresholds(flag=1e9), head.gamma, regions).consume(rows[:, :1])[-LENGTH:]
    highest = np.maximum.accumulate(smoothed)
    rises = [n for n in range(5, LENGTH) if smoothed[n] > highest[n - 1] + 0.01]
    place = rises[0]
    flag = float(highest[place - 1] + smoothed[place]) / 2
    return {"flag": flag, "answer": answer, "place": place}


@pytest.fixture(scope="module")
def server(backbone, plan, tmp_path_factory) -> Iterator[tuple[openai.OpenAI, subprocess.Popen]]:
    folder = tmp_path_factory.mktemp("server")
    thresholds = Thresholds(flag=plan["flag"], min_tokens=1, flag_on="answer")
    guard = save_guard(folder / "guard", backbone, thresholds)
    arguments = engine_arguments(guard, MODEL, release="cleared", context=CONTEXT, cache_bytes=96 * 2**20)
    started = VllmServer(arguments, folder)
    try:
        started.wait()
        yield openai.OpenAI(base_url=started.url, api_key="none", max_retries=0), started.process
    finally:
        started.close()


def chat(client: openai.OpenAI, text: str, **options: Any) -> Any:
    return client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": text}],
        temperature=0,
        **{"max_tokens": LENGTH, **options},
    )


def test_a_flagged_answer_ends_before_the_flagged_token(server, backbone, plan) -> None:
    client, _ = server
    whole = chat(client, TEXT)
    choice = whole.choices[0]
    expected = backbone.tokenizer.decode(plan["answer"][: plan["place"]])
    assert (choice.finish_reason, choice.model_extra["stop_reason"]) == ("stop", "lockgate")
    assert whole.usage.completion_tokens == plan["place"]
    assert choice.message.content == expected


def test_a_flagged_stream(server, backbone, plan) -> None:
    client, _ = server
    parts = list(chat(client, TEXT, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == backbone.tokenizer.decode(
        plan["answer"][: plan["place"]]
    )
    last = parts[-1].choices[0]
    assert (last.finish_reason, last.model_extra["stop_reason"]) == ("stop", "lockgate")


def test_an_answer_up_to_its_limit(server, plan) -> None:
    client, _ = server
    whole = chat(client, TEXT, max_tokens=plan["place"])
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == plan["place"]


def test_other_routes_are_guarded_too(server, backbone, plan) -> None:
    client, _ = server
    found = client.completions.create(
        model=client.models.list().data[0].id,
        prompt=asked(backbone, "", TEXT, 1).prompt,
        temperature=0,
        max_tokens=LENGTH,
    )
    assert found.choices[0].model_extra["stop_reason"] == "lockgate"
    assert found.usage.completion_tokens == plan["place"]


@pytest.mark.parametrize(
    "options", [{"logprobs": True}, {"extra_body": {"vllm_xargs": {"lockgate": "0 0 0"}}}]
)
def test_a_refused_request_is_an_error(server, options) -> None:
    client, _ = server
    with pytest.raises(openai.APIStatusError):
        chat(client, CALM, **options)
    assert chat(client, CALM, max_tokens=2).usage.completion_tokens == 2


def test_a_client_that_leaves_harms_nobody(server) -> None:
    client, _ = server
    for _ in range(3):
        parts = chat(client, "Count to ninety in words.", stream=True, max_tokens=300)
        next(iter(parts))
        parts.close()
    assert chat(client, CALM, max_tokens=3).usage.completion_tokens == 3


def test_a_killed_worker_stops_every_stream(server) -> None:
    client, process = server
    parts = iter(chat(client, CALM, stream=True, max_tokens=400, extra_body={"ignore_eos": True}))
    next(parts)
    below = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in below if "Worker" in " ".join(child.cmdline()) + child.name()]
    assert workers
    for child in workers:
        child.kill()
    ends: list[str | None] = []
    with pytest.raises(openai.APIError):
        for part in parts:
            ends += [choice.finish_reason for choice in part.choices]
    assert set(ends) <= {None}
    process.wait(120)
