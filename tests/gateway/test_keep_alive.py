"""A stream is kept open while nothing may leave, and this reveals nothing."""

import json
import threading
import time

import httpx2
import openai
import pytest
from live import Valve, serving
from serving import CHAT, NEVER, REFUSAL, ask, scoring_for

from lockgate.gateway import _answers


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(_answers, "PING_SECONDS", 0.1)


def held(make_gateway, backbone, head, **options):
    valve = Valve(backbone, head)
    valve.let_through(0)
    flag = options.pop("flag", NEVER)
    scoring = scoring_for(backbone, head, flag, tap=valve, flag_on=options.pop("flag_on", "answer"))
    return make_gateway(backbone, scoring, **options), valve


def test_the_first_comment_comes_within_two_seconds(make_gateway, backbone, head):
    gateway, valve = held(make_gateway, backbone, head)
    with serving(gateway) as url, httpx2.Client(base_url=url, timeout=30) as client:
        started = time.monotonic()
        with client.stream("POST", CHAT, json=ask(max_tokens=3, stream=True)) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            assert next(lines) == ": ping"
            assert time.monotonic() - started < 2.0
            valve.open()
            rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""]


def test_comments_between_tokens_change_no_event(quick, make_gateway, backbone, head):
    plain, valve = held(make_gateway, backbone, head)
    valve.open()
    slow, brake = held(make_gateway, backbone, head)
    seen = []
    for gateway, tap in ((plain, None), (slow, brake)):
        with serving(gateway) as url, httpx2.Client(base_url=url, timeout=30) as client:
            with client.stream("POST", CHAT, json=ask(max_tokens=12, stream=True)) as response:
                lines = []
                for line in response.iter_lines():
                    lines.append(line)
                    # A step at each comment: the answer hangs again after every token.
                    if tap is not None and line == ": ping":
                        tap.let_through(1)
            seen.append(lines)
    assert seen[1].count(": ping") > 4
    assert ": ping" not in seen[0]
    deltas = [
        [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
        for lines in seen
    ]
    text = ["".join(delta.get("content") or "" for delta in part) for part in deltas]
    assert text[0] == text[1] != ""
    assert {line for line in seen[1] if not line.startswith("data:")} == {"", ": ping"}


def test_the_openai_client_passes_over_comments(quick, make_gateway, backbone, head):
    gateway, valve = held(make_gateway, backbone, head, flag=-NEVER)
    with serving(gateway) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)
        stream = client.chat.completions.create(**ask(max_tokens=8), stream=True)
        time.sleep(0.5)
        valve.open()
        chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.refusal or "" for delta in deltas) == REFUSAL
    assert not any(delta.content for delta in deltas)
    assert chunks[-1].choices[0].finish_reason == "content_filter"


def test_where_a_flagged_prompt_is_an_error_the_status_waits(quick, make_gateway, backbone, head):
    gateway, valve = held(make_gateway, backbone, head, flag=-NEVER, flag_on="both", block_input_status=400)
    with serving(gateway) as url, httpx2.Client(base_url=url, timeout=30) as client:
        threading.Timer(0.5, valve.open).start()
        response = client.post(CHAT, json=ask(max_tokens=3, stream=True))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "content_filter"
