"""`lockgate serve --engine vllm` as a process: two stages, a real client, and what ends an answer early."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx2
import msgspec
import openai
import pytest
from starlette.testclient import TestClient

from lockgate.decisions import LogOptions, read_decisions
from lockgate.gateway import EngineOptions, Gateway, GatewayOptions, create_app
from lockgate.guards import Guard

PROMPTS = (
    "Why does a canal lock hold water?",
    "Write a short poem about a mill.",
    "Name three kinds of bridges.",
    "How do I bake bread?",
)
LENGTH = 48


def chat(client: openai.OpenAI, prompt: str, **how):
    how = {"max_tokens": LENGTH, "temperature": 0, **how}
    return client.chat.completions.create(model="any", messages=[{"role": "user", "content": prompt}], **how)


def collected(stream):
    """The text, the refusal and the finish reason of a stream."""
    text, refusal, reason = "", "", None
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            refusal += getattr(choice.delta, "refusal", None) or ""
            reason = choice.finish_reason or reason
    return text, refusal, reason


def own_answers(guard: Guard, folder: Path) -> dict[str, tuple[str, dict]]:
    """The text and the decision line of each prompt, from Lockgate's own engine."""
    log = folder / "own.db"
    gateway = Gateway.from_guard(guard, GatewayOptions(LogOptions(log), engine=EngineOptions(kv_tokens=4096)))
    gateway.warm()
    found = {}
    with TestClient(create_app(gateway), base_url="http://127.0.0.1") as client:
        for prompt in PROMPTS:
            body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": LENGTH}
            answer = client.post("/v1/chat/completions", json={**body, "temperature": 0, "stream": True})
            chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
            line = decisions_in(log)[-1]
            found[prompt] = ("".join(delta.get("content") or "" for delta in deltas), line)
    return found


@pytest.fixture(scope="module")
def guard(tmp_path_factory) -> Guard:
    """The embedded guard with a cascade that asks about everything and flags half of the answers."""
    made = Guard.load("embedded")
    assert made.cascade is not None
    judges = {"text": made.text, "voices": made.record.voices}
    open_to_all = replace(made.cascade, escalate=-50.0, flag=50.0, tolerance=0.0)
    scores = own_answers(
        made.with_cascade(made.classifier, open_to_all, **judges), tmp_path_factory.mktemp("all")
    )
    ranked = sorted(line["scores"]["mixed"] for _, line in scores.values())
    between = replace(open_to_all, flag=(ranked[1] + ranked[2]) / 2)
    ready = made.with_cascade(made.classifier, between, **judges)
    return ready.save(tmp_path_factory.mktemp("guard") / "guard")


@pytest.fixture(scope="module")
def server(guard, tmp_path_factory):
    """The URL, the process and the decision log of the server."""
    log = tmp_path_factory.mktemp("log") / "decisions.db"
    command = [sys.executable, "-m", "lockgate", "serve", "--engine", "vllm", "--guard", str(guard.path)]
    command += ["--port", "0", "--kv-tokens", "8192", "--decisions", str(log), "--max-streams", "4"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if ready := re.search(r"Lockgate is ready: (http://\S+)", line):
            break
    else:
        pytest.fail("the server did not start: " + "".join(lines[-5:]))
    try:
        yield ready[1], process, log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server[0] + "/v1", api_key="none", max_retries=0, timeout=120)


def decisions_in(log: Path) -> list[dict]:
    return [msgspec.to_builtins(found) for found in read_decisions(log)]


def last_line(log: Path, count: int) -> dict:
    lines = decisions_in(log)
    assert len(lines) == count
    return lines[-1]


def test_it_decides_as_lockgates_own_engine_does(guard, server, client, tmp_path):
    log = server[2]
    before = len(decisions_in(log))
    own = own_answers(guard, tmp_path)
    decisions = set()
    for number, prompt in enumerate(PROMPTS, 1):
        text, refusal, reason = collected(chat(client, prompt, stream=True))
        line = last_line(log, before + number)
        decisions.add(line["decision"])
        expected, one = own[prompt]
        assert text == expected
        for field in ("decision", "token_index", "category", "verdicts", "completion_tokens"):
            assert line[field] == one[field]
        assert line["scores"]["max_answer"] == pytest.approx(one["scores"]["max_answer"], abs=1e-3)
        halted = line["decision"] in ("halt", "block")
        assert (reason == "content_filter") is halted
        assert bool(refusal) is halted
        assert line["verdicts"] > 0
    assert len(decisions) > 1, "the threshold tells no two prompts apart"


def test_two_choices_and_a_stop_string(guard, server, client):
    answer = chat(client, PROMPTS[1], n=2, stop=["\n"], max_tokens=16)
    assert len(answer.choices) == 2
    assert all("\n" not in (choice.message.content or "") for choice in answer.choices)
    assert answer.choices[0].message.content == answer.choices[1].message.content


def test_logprobs_are_refused_in_words(client):
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        chat(client, PROMPTS[0], logprobs=True)


def test_a_client_that_leaves_frees_its_memory(server, client):
    url, _, log = server
    before = len(decisions_in(log))
    stream = chat(client, PROMPTS[3], stream=True, max_tokens=1500)
    next(iter(stream))
    stream.close()
    with httpx2.Client(base_url=url, timeout=60) as plain:
        for _ in range(200):
            if plain.get("/readyz").json()["kv_tokens"]["used"] == 0:
                break
            time.sleep(0.1)
        else:
            pytest.fail("the memory was not freed")
    assert last_line(log, before + 1)["decision"] in ("cancelled", "halt", "block")
    assert chat(client, PROMPTS[2], max_tokens=4).choices[0].finish_reason in ("length", "content_filter")


def engine_processes(parent: int) -> list[int]:
    """The processes below `parent`."""
    found, front = [], [parent]
    while front:
        pid = front.pop()
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = [int(child) for child in (task / "children").read_text().split()]
            found += children
            front += children
    return found


def test_a_killed_engine_closes_streams_and_is_said(server, client):
    url, process, log = server
    before = len(decisions_in(log))
    stream = chat(client, PROMPTS[3], stream=True, max_tokens=1500)
    next(iter(stream))
    for pid in engine_processes(process.pid):
        os.kill(pid, signal.SIGKILL)
    _, refusal, reason = collected(stream)
    assert reason == "content_filter"
    assert refusal
    assert last_line(log, before + 1)["decision"] in ("error", "halt", "block")
    with httpx2.Client(base_url=url, timeout=60) as plain:
        for _ in range(200):
            ready = plain.get("/readyz")
            if ready.status_code != 200:
                break
            time.sleep(0.1)
        assert ready.status_code == 503
        assert any("engine" in problem for problem in ready.json()["problems"])
    with pytest.raises(openai.APIStatusError) as raised:
        chat(client, PROMPTS[0])
    assert raised.value.status_code == 503
