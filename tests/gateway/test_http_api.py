"""The HTTP interface, driven through the real application on a tiny model."""

import asyncio
import json

import pytest
from logs import text_of_log
from models import tiny_backbone
from serving import (
    CHAT,
    NEVER,
    REFUSAL,
    ask,
    client_for,
    decisions_of,
    events_of,
    eventually,
    path_of,
    scoring_for,
    text_of,
)
from taps import BrokenTap, StuckTap

pytestmark = pytest.mark.anyio

ALWAYS = -NEVER


async def test_completion_has_the_openai_shape(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        body = (await client.post(CHAT, json=ask(max_tokens=9))).json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == backbone.name
    choice = body["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["refusal"] is None
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert body["usage"]["completion_tokens"] == 9
    assert body["usage"]["total_tokens"] == 9 + body["usage"]["prompt_tokens"]


async def test_stream_has_the_openai_shape_and_the_same_text(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        whole = (await client.post(CHAT, json=ask(max_tokens=20))).json()
        fields = {"stream": True, "stream_options": {"include_usage": True}}
        events = events_of(await client.post(CHAT, json=ask(max_tokens=20, **fields)))
    assert len({event["id"] for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-2]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == whole["usage"]
    assert all(event["usage"] is None for event in events[:-1])
    assert text_of(events) == whole["choices"][0]["message"]["content"]
    assert not any("lockgate" in event for event in events)


async def test_usage_is_left_out_unless_asked_for(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        events = events_of(await client.post(CHAT, json=ask(max_tokens=3, stream=True)))
    assert all("usage" not in event for event in events)


async def test_flagged_prompt_gives_the_halting_shape(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head, ALWAYS, flag_on="both"))
    async with client_for(gateway) as client:
        body = (await client.post(CHAT, json=ask())).json()
        events = events_of(await client.post(CHAT, json=ask(stream=True)))
    message = body["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, REFUSAL)
    assert body["choices"][0]["finish_reason"] == "content_filter"
    assert [event["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": ""},
        {"refusal": REFUSAL},
        {},
    ]
    assert events[-1]["choices"][0]["finish_reason"] == "content_filter"
    for line in decisions_of(gateway):
        assert (line["decision"], line["enforced"], line["completion_tokens"]) == ("block", True, 0)
        assert line["category"] in head.category_ids


async def test_flagged_prompt_can_be_a_400(make_gateway, backbone, head):
    scoring = scoring_for(backbone, head, ALWAYS, flag_on="both")
    gateway = make_gateway(backbone, scoring, block_input_status=400)
    async with client_for(gateway) as client:
        for stream in (False, True):
            response = await client.post(CHAT, json=ask(stream=stream))
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "content_filter"


async def test_flagged_answer_halts_the_stream(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head, ALWAYS, flag_on="answer", min_tokens=30))
    async with client_for(gateway) as client:
        fields = {"stream": True, "stream_options": {"include_usage": True}}
        events = events_of(await client.post(CHAT, json=ask(max_tokens=60, **fields)))
    assert text_of(events) == ""
    assert [event["choices"][0]["delta"] for event in events[:-1]][1:] == [{"refusal": REFUSAL}, {}]
    assert events[-2]["choices"][0]["finish_reason"] == "content_filter"
    assert events[-1]["usage"]["completion_tokens"] >= 1
    assert decisions_of(gateway)[0]["decision"] == "halt"


async def test_shadow_mode_records_and_lets_pass(make_gateway, backbone, head):
    free = make_gateway(backbone, None)
    shadow = make_gateway(backbone, scoring_for(backbone, head, ALWAYS, flag_on="both"), mode="shadow")
    async with client_for(free) as client:
        expected = (await client.post(CHAT, json=ask(max_tokens=20))).json()
    async with client_for(shadow) as client:
        body = (await client.post(CHAT, json=ask(max_tokens=20))).json()
        health = (await client.get("/health")).json()
    assert body["choices"] == expected["choices"]
    assert body["usage"] == expected["usage"]
    assert health["mode"] == "shadow"
    line = decisions_of(shadow)[0]
    assert (line["decision"], line["enforced"], line["mode"]) == ("block", False, "shadow")


async def test_off_mode_installs_no_hooks(make_gateway, head):
    backbone = tiny_backbone("qwen2", seed=7)
    gateway = make_gateway(backbone, None)
    async with client_for(gateway) as client:
        await client.post(CHAT, json=ask(max_tokens=5))
        assert not any(module._forward_hooks for module in backbone.model.modules())
        assert (await client.get("/readyz")).json()["mode"] == "off"
    line = decisions_of(gateway)[0]
    assert line["guard"] is None
    assert line["scores"] == {"max_prompt": None, "max_answer": None, "threshold": None}


async def test_decision_line_holds_no_text_and_is_there_with_the_response(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        body = (await client.post(CHAT, json=ask("orchard zebra", max_tokens=5, n=2))).json()
        lines = decisions_of(gateway)
        raw = text_of_log(path_of(gateway))
    assert [(line["id"], line["choice"]) for line in lines] == [(body["id"], 0), (body["id"], 1)]
    assert {line["decision"] for line in lines} == {"pass"}
    assert "orchard" not in raw
    assert lines[0]["scores"]["max_prompt"] is not None
    assert path_of(gateway).stat().st_mode & 0o777 == 0o600


async def test_choices_are_independent_and_repeatable(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    request = ask(max_tokens=12, n=3, temperature=1.5, seed=5)
    async with client_for(gateway) as client:
        body = (await client.post(CHAT, json=request)).json()
        events = events_of(await client.post(CHAT, json={**request, "stream": True}))
        alone = (await client.post(CHAT, json={**request, "n": 1})).json()
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert len(set(texts)) == 3
    assert [text_of(events, choice) for choice in range(3)] == texts
    assert alone["choices"][0]["message"]["content"] == texts[0]
    assert gateway.engine.kv_used_tokens == 0


async def test_stop_string_is_cut_and_never_sent(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        text = (await client.post(CHAT, json=ask(max_tokens=30))).json()["choices"][0]["message"]["content"]
        stop = text[7:11]
        body = (await client.post(CHAT, json=ask(max_tokens=30, stop=stop))).json()
        events = events_of(await client.post(CHAT, json=ask(max_tokens=30, stop=[stop, "zzzz"], stream=True)))
    assert body["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert text_of(events) == text[: text.index(stop)]


async def test_logprobs_belong_to_the_text(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        body = (await client.post(CHAT, json=ask(max_tokens=12, logprobs=True))).json()
        refused = await client.post(CHAT, json=ask(max_tokens=12, logprobs=True, top_logprobs=3))
    choice = body["choices"][0]
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    assert len(entries) == 12
    assert all(entry["logprob"] <= 0 and entry["top_logprobs"] == [] for entry in entries)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "top_logprobs"


async def test_logit_bias_cannot_bring_back_a_control_token(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    start = backbone.tokenizer.convert_tokens_to_ids("<|im_start|>")
    wanted = backbone.tokenizer.encode("lock", add_special_tokens=False)[0]
    async with client_for(gateway) as client:
        biased = ask(max_tokens=4, logit_bias={str(start): 100, str(wanted): 99})
        body = (await client.post(CHAT, json=biased)).json()
    assert body["choices"][0]["message"]["content"] == backbone.decode([wanted] * 4)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 99}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"seed": 1.5}, "seed"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "user", "content": "lock " * 600}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}] * 600}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 1_000_000}]}, "messages"),
    ],
)
async def test_bad_field_is_named_and_the_server_goes_on(make_gateway, backbone, head, fields, param):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        response = await client.post(CHAT, json={**ask(max_tokens=2), **fields})
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == param
        assert error["type"] == "invalid_request_error"
        assert (await client.post(CHAT, json=ask(max_tokens=2))).status_code == 200


async def test_overlong_prompt_has_its_own_code(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        response = await client.post(CHAT, json=ask("lock " * 600))
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, None),
        (b"\xff", 400, "invalid_json"),
        (b"[" * 100_000, 400, None),
        (json.dumps(ask("x\ud800y")).encode(), 400, "invalid_unicode"),
        (json.dumps(ask("\udc00\ud800")).encode(), 400, "invalid_unicode"),
        (b'{"messages": "' + b"x" * 5_000_000 + b'"}', 413, "request_too_large"),
    ],
)
async def test_bad_body_is_refused(make_gateway, backbone, head, body, status, code):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        response = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    if code is not None:
        assert response.json()["error"]["code"] == code


async def test_only_json_is_read(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        response = await client.post(CHAT, content=json.dumps(ask()), headers={"content-type": "text/plain"})
    assert response.status_code == 415


async def test_unknown_fields_and_null_defaults_pass(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    request = ask(max_tokens=2, n=None, stop=None, user="me", metadata={"a": "b"}, made_up=[1], tools=[])
    async with client_for(gateway) as client:
        assert (await client.post(CHAT, json=request)).status_code == 200


async def test_content_parts_and_sent_back_refusals_are_read(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    parts = [{"type": "text", "text": "why does "}, {"type": "text", "text": "the lock hold"}]
    history = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "the mill"},
        {"role": "assistant", "content": None, "refusal": REFUSAL, "tool_calls": None},
    ]
    async with client_for(gateway) as client:
        plain = (await client.post(CHAT, json=ask(max_tokens=8))).json()
        same = {**ask(max_tokens=8), "messages": [{"role": "user", "content": parts}]}
        split = (await client.post(CHAT, json=same)).json()
        longer = {**ask(max_tokens=8), "messages": [*history, {"role": "user", "content": "again"}]}
        assert (await client.post(CHAT, json=longer)).status_code == 200
    assert split["choices"] == plain["choices"]


async def test_models_and_health_name_mode_and_guard(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        models = (await client.get("/v1/models")).json()
        one = await client.get(f"/v1/models/{backbone.name}")
        missing = await client.get("/v1/models/other")
        ready = await client.get("/readyz")
    assert models["object"] == "list"
    assert models["data"][0]["id"] == backbone.name
    assert models["data"][0]["lockgate"]["mode"] == "enforce"
    assert one.json() == models["data"][0]
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


async def test_unknown_routes_and_methods_have_error_bodies(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        for response, status in ((await client.get("/v2"), 404), (await client.get(CHAT), 405)):
            assert response.status_code == status
            assert "message" in response.json()["error"]


async def test_api_key_is_asked_for(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head), api_key="sesame")
    async with client_for(gateway) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic sesame"}):
            response = await client.post(CHAT, json=ask(max_tokens=1), headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        right = {"authorization": "Bearer sesame"}
        assert (await client.post(CHAT, json=ask(max_tokens=1), headers=right)).status_code == 200
        assert (await client.get("/health")).status_code == 200


async def test_rebound_host_names_are_refused_on_loopback(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        bad = await client.get("/health", headers={"host": "evil.example"})
        good = [
            await client.get("/health", headers={"host": host})
            for host in ("127.0.0.1:8000", "[::1]:8000", "localhost")
        ]
    assert bad.status_code == 400
    assert [response.status_code for response in good] == [200, 200, 200]


async def test_risk_events_only_for_the_playground(make_gateway, backbone, head):
    asked = {"x-lockgate-risk": "1"}
    request = ask(max_tokens=10, stream=True)
    closed = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(closed) as client:
        assert "lockgate" not in (await client.post(CHAT, json=request, headers=asked)).text
    opened = make_gateway(backbone, scoring_for(backbone, head), risk_events=True)
    async with client_for(opened) as client:
        assert "lockgate" not in (await client.post(CHAT, json=request)).text
        events = events_of(await client.post(CHAT, json=request, headers=asked))
    tokens = [token for event in events for token in event.get("lockgate", {}).get("tokens", [])]
    assert "".join(token["text"] for token in tokens) == text_of(events)
    assert len(tokens) == 10
    assert all(isinstance(token["score"], float) for token in tokens)
    assert events[-1]["lockgate"]["decision"] == "pass"


async def test_a_full_queue_is_a_429_with_retry_after(make_gateway, backbone, head):
    tap = StuckTap([head], backbone.hidden_size)
    tap.stuck.set()
    gateway = make_gateway(backbone, scoring_for(backbone, head, tap=tap), max_streams=1, max_queue=1)
    async with client_for(gateway) as client:
        running = asyncio.create_task(client.post(CHAT, json=ask(max_tokens=2)))
        await eventually(lambda: gateway.engine.active_streams == 1)
        waiting = asyncio.create_task(client.post(CHAT, json=ask(max_tokens=2)))
        await eventually(lambda: gateway.engine.waiting == 1)
        refused = await client.post(CHAT, json=ask(max_tokens=2))
        tap.go.set()
        assert [(await task).status_code for task in (running, waiting)] == [200, 200]
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_failing_probe_is_a_refusal_and_a_degraded_state(make_gateway, backbone, head):
    tap = BrokenTap([head], backbone.hidden_size)
    gateway = make_gateway(backbone, scoring_for(backbone, head, tap=tap))
    async with client_for(gateway) as client:
        tap.broken = True
        body = (await client.post(CHAT, json=ask())).json()
        degraded = (await client.get("/readyz")).json()
        tap.broken = False
        assert (await client.post(CHAT, json=ask(max_tokens=2))).json()["choices"][0]["message"]["content"]
        healed = (await client.get("/readyz")).json()
    assert body["choices"][0]["finish_reason"] == "content_filter"
    assert body["choices"][0]["message"]["content"] is None
    assert body["choices"][0]["message"]["refusal"]
    assert degraded["status"] == "degraded"
    assert degraded["problems"] == ["scoring: RuntimeError"]
    assert healed["status"] == "ready"
    assert healed["faults"] == {"total": 1, "unguarded": 0, "second_stage": 0, "last": "RuntimeError"}
