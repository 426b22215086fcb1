"""LiteLLM's generic guardrail endpoint: rounds of growing text, each read once."""

import asyncio
from types import SimpleNamespace

import pytest
from checking import (
    ANSWER,
    BACKBONE,
    HEAD,
    MARGINS,
    PROMPT,
    TEXTS,
    answer_tokens,
    offline,
    prompt_tokens,
    score_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import NEVER, REFUSAL, client_for, decisions_of, scoring_for
from staging import staged
from taps import BrokenTap, CountingTap, StuckTap

from lockgate.cascade import Cascade
from lockgate.exchanges import Message
from lockgate.gateway import CheckOptions
from lockgate.gateway._policies import Policies, Policy
from lockgate.gateway.checks import _rounds

pytestmark = pytest.mark.anyio

PATH = "/beta/litellm_basic_guardrail_api"
NONE = {"action": "NONE"}


def about_request(messages=PROMPT, call="call-1", **fields):
    texts = [one["content"] for one in messages if isinstance(one, dict) and isinstance(one["content"], str)]
    return {
        "input_type": "request",
        "litellm_call_id": call,
        "litellm_trace_id": "trace-1",
        "texts": texts,
        "structured_messages": messages,
        "images": None,
        "tools": None,
        "tool_calls": None,
        "request_data": {"user_api_key_alias": "me"},
        "request_headers": {"accept": "*/*"},
        "litellm_version": "1.108.7",
        "additional_provider_specific_params": {},
        "model": "any",
        **fields,
    }


def about_answer(*texts, call="call-1", **fields):
    base = about_request([], call, structured_messages=None)
    return {**base, "input_type": "response", "texts": list(texts), **fields}


async def post(client, body, **headers):
    response = await client.post(PATH, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
def make(make_gateway):
    def make(flag=NEVER, flag_on="answer", tap=None, **options):
        scoring = scoring_for(BACKBONE, HEAD, flag, flag_on=flag_on, tap=tap)
        return make_gateway(BACKBONE, scoring, **options)

    return make


async def test_a_prompt_is_let_through_or_blocked(make):
    for flag in (-NEVER, NEVER):
        gateway = make(flag, "both")
        async with client_for(gateway) as client:
            found = await post(client, about_request())
        if flag < 0:
            assert found == {"action": "BLOCKED", "blocked_reason": REFUSAL}
        else:
            assert found["action"] == "NONE"
        assert decisions_of(gateway)[0]["decision"] == ("block" if flag < 0 else "pass")


async def test_each_round_reads_only_new_text(make):
    tap = CountingTap([HEAD], BACKBONE.hidden_size)
    gateway = make(tap=tap)
    words = [f"{word} " for word in (ANSWER * 3).split()]
    async with client_for(gateway) as client:
        await post(client, about_request())
        before, text = tap.rows, ""
        for word in words:
            text += word
            assert await post(client, about_answer(text)) == {**NONE, "stream_holdback_chars": [0]}
        read = tap.rows - before
    # Each round tries the last word once more. Reading all text in each round would be 40 times as much.
    assert read < prompt_tokens() + 4 * answer_tokens(text)
    assert len(decisions_of(gateway)) == 2  # the prompt's, and the answer's, which the end of the server ends


async def test_the_answer_is_judged_with_its_prompt(make):
    """The call about the answer does not show the prompt; the call id finds it."""
    gateway = make()
    async with client_for(gateway) as client:
        await post(client, about_request())
        await post(client, about_answer(ANSWER))
        await post(client, about_answer(ANSWER, call="another"))
    ended = {line["prompt_tokens"]: line["scores"]["max_answer"] for line in decisions_of(gateway)}
    with_prompt = offline(gateway.engine.scoring, ANSWER).max_answer
    without = offline(gateway.engine.scoring, ANSWER, "").max_answer
    assert sorted(filter(None, ended.values())) == pytest.approx(sorted([with_prompt, without]), abs=1e-3)


@given(answer=TEXTS.filter(bool), cuts=st.lists(st.integers(1, 90), max_size=5), above=MARGINS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_round_lets_out_what_files_would_flag(make, answer, cuts, above):
    """LiteLLM lets all text of its last round out. So each round must be safe as the last one."""
    gateway = make(offline(scoring_for(BACKBONE, HEAD), answer).max_answer + above)
    rounds = [answer[:cut] for cut in sorted({*(cut for cut in cuts if cut < len(answer)), len(answer)})]

    async def run():
        async with client_for(gateway) as client:
            await post(client, about_request())
            return [await post(client, about_answer(text)) for text in rounds]

    found = asyncio.run(run())
    stopped = False
    for text, reply in zip(rounds, found, strict=True):
        stopped |= offline(gateway.engine.scoring, text).flagged
        assert reply["action"] == ("BLOCKED" if stopped else "NONE")


async def test_a_blocked_answer_stays_blocked_and_another_start_begins_again(make):
    gateway = make(offline(scoring_for(BACKBONE, HEAD), ANSWER).max_answer - 1e-3)
    async with client_for(gateway) as client:
        await post(client, about_request())
        for text in (ANSWER, ANSWER + " and"):
            assert (await post(client, about_answer(text)))["action"] == "BLOCKED"
        assert not offline(gateway.engine.scoring, "so").flagged
        assert (await post(client, about_answer("so")))["action"] == "NONE"


async def test_several_answers_of_a_call_are_told_apart(make):
    tap = CountingTap([HEAD], BACKBONE.hidden_size)
    gateway = make(tap=tap)
    one, two = "the lock holds the water", "a canal runs past the mill"
    async with client_for(gateway) as client:
        await post(client, about_request())
        # The second answer may begin first, so places in the list say nothing.
        await post(client, about_answer(two))
        await post(client, about_answer(one, two + ", the bridge"))
        found = await post(client, about_answer(one + " back", two + ", the bridge and"))
        assert len(gateway.engine._active) == 2
    assert found == {**NONE, "stream_holdback_chars": [0, 0]}


async def test_an_answer_that_rests_gets_its_decision_and_frees_its_memory(make, monkeypatch):
    monkeypatch.setattr(_rounds, "IDLE_SECONDS", 0.05)
    gateway = make()
    async with client_for(gateway) as client:
        await post(client, about_answer(ANSWER))
        async with asyncio.timeout(20):
            while gateway.engine.kv_used_tokens or not decisions_of(gateway):
                await asyncio.sleep(0.02)
        assert (await post(client, about_answer(ANSWER + " now")))["action"] == "NONE"
    assert decisions_of(gateway)[0]["decision"] == "pass"


async def test_resting_answers_make_room(make):
    """Memory for one answer only: a second call ends the first one's check, and both go on."""
    gateway = make(kv_tokens=512, default_max_tokens=200)
    async with client_for(gateway) as client:
        for text in (ANSWER, ANSWER + " and"):
            for call in ("one", "two", "three"):
                found = await post(client, about_answer(text, call=call))
                assert found["action"] == "NONE"
    assert {line["decision"] for line in decisions_of(gateway)[:4]} == {"pass"}


async def test_clients_with_other_keys_share_nothing(make):
    gateway = make(offline(scoring_for(BACKBONE, HEAD), ANSWER).max_answer - 1e-3)
    async with client_for(gateway) as client:
        await post(client, about_request(), **{"x-api-key": "one"})
        blocked = await post(client, about_answer(ANSWER), **{"x-api-key": "one"})
        await post(client, about_answer("so"), **{"x-api-key": "two"})
    assert blocked["action"] == "BLOCKED"
    lines = decisions_of(gateway)
    assert lines[-1]["prompt_tokens"] < lines[0]["prompt_tokens"]


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
async def test_images_are_not_let_through(make, mode):
    gateway = make(mode=mode)
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    async with client_for(gateway) as client:
        for body in (
            about_request(images=["data:"]),
            about_request(picture),
            about_answer("so", images=["x"]),
        ):
            found = await post(client, body)
            assert found["action"] == ("BLOCKED" if mode == "enforce" else "NONE")


@pytest.mark.parametrize(("percent", "action"), [(100.0, "BLOCKED"), (0.0, "NONE")])
async def test_a_canary_stops_images_for_its_share(make, percent, action):
    policies = Policies(Policy("canary", percent))
    async with client_for(make(policies=policies)) as client:
        assert (await post(client, about_request(images=["data:"])))["action"] == action


async def test_nobody_can_have_the_prompts_of_others_forgotten(monkeypatch):
    monkeypatch.setattr(_rounds, "MOST_PROMPT_CHARACTERS", 1000)
    monkeypatch.setattr(_rounds, "MOST_PROMPTS", 10)
    gateway = SimpleNamespace(options=SimpleNamespace(engine=SimpleNamespace(max_streams=2)))
    rounds = _rounds.Rounds(gateway)
    rounds.remember("mine", "me", [Message("user", "why")])
    for number in range(50):
        rounds.remember(f"theirs {number}", "them", [Message("user", "x" * 150)])
    assert not rounds.has_forgotten("mine")
    assert rounds.has_forgotten("theirs 0")
    assert not rounds.has_forgotten("theirs 49")


async def test_an_answer_whose_prompt_is_gone_is_not_let_through(make, monkeypatch):
    monkeypatch.setattr(_rounds, "MOST_PROMPTS", 2)
    async with client_for(make()) as client:
        for number in range(4):
            assert await post(client, about_request(call=f"call-{number}")) == {
                **NONE,
                "stream_holdback_chars": [0],
            }
        assert (await post(client, about_answer("so", call="call-0")))["action"] == "BLOCKED"
        assert (await post(client, about_answer("so", call="call-3")))["action"] == "NONE"
        # Of calls that only show their answers, no prompt was ever known.
        assert (await post(client, about_answer("so", call="other")))["action"] == "NONE"


async def test_an_answer_to_a_prompt_that_could_not_be_read_is_not_let_through(make):
    async with client_for(make(longest_prompt=8)) as client:
        refused = await client.post(PATH, json=about_request([{"role": "user", "content": "why " * 500}]))
        assert refused.status_code == 400
        assert (await post(client, about_answer("so")))["action"] == "BLOCKED"


async def test_shadow_mode_blocks_and_holds_nothing(make):
    gateway = make(-NEVER, "both", mode="shadow")
    async with client_for(gateway) as client:
        assert (await post(client, about_request()))["action"] == "NONE"
        found = await post(client, about_answer("so"))
    assert found == {**NONE, "stream_holdback_chars": [0]}
    assert {(line["decision"], line["enforced"]) for line in decisions_of(gateway)} >= {("block", False)}


async def test_tool_calls_and_results_are_read(make):
    """A tool's result counts as a user's words, and a call's arguments as the model's."""
    call = {"id": "1", "type": "function", "function": {"name": "open", "arguments": '{"gate": "north"}'}}
    messages = [
        *PROMPT,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "the gate is open"},
        {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "the lock is shut"}]},
    ]
    same = (
        Message("user", PROMPT[0]["content"]),
        Message("assistant", 'open {"gate": "north"}'),
        Message("user", "the gate is open\n\nthe lock is shut"),
    )
    gateway = make(flag_on="both")
    async with client_for(gateway) as client:
        await post(
            client, about_request(messages, tools=[{"type": "function", "function": {"name": "open"}}])
        )
        await post(client, about_answer(tool_calls=[call]))
    score = score_of(gateway.engine.scoring, *same)
    first, second = decisions_of(gateway)
    assert first["scores"]["max_prompt"] == pytest.approx(score.max_prompt, abs=1e-4)
    assert second["completion_tokens"] == len(
        BACKBONE.chat.vocabulary.encode_answer('open {"gate": "north"}')
    )


async def test_a_guard_that_fails_blocks_and_one_that_is_late_is_a_503(make):
    broken, stuck = BrokenTap([HEAD], BACKBONE.hidden_size), StuckTap([HEAD], BACKBONE.hidden_size)
    async with client_for(make(tap=broken)) as client:
        broken.broken = True
        assert (await post(client, about_answer("so")))["action"] == "BLOCKED"
    async with client_for(make(tap=stuck, checks=CheckOptions(wait_timeout=0.3))) as client:
        stuck.stuck.set()
        response = await client.post(PATH, json=about_answer("so"))
        stuck.go.set()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "check_timeout")


async def test_the_key_may_come_as_either_header(make):
    gateway = make(api_key="sesame")
    async with client_for(gateway) as client:
        for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}):
            response = await client.post(PATH, json=about_request(), headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        for headers in ({"x-api-key": "sesame"}, {"authorization": "Bearer sesame"}):
            assert (await post(client, about_request(), **headers))["action"] == "NONE"
        refused = await client.post("/v1/decisions", json={}, headers={"x-api-key": "sesame"})
    assert refused.status_code == 401


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input_type"),
        ({"input_type": "other"}, "input_type"),
        (about_request(call=5), "litellm_call_id"),
        (about_request(texts="x"), "texts"),
        (about_answer(5), "texts"),
        (about_answer(*["x"] * 65), "texts"),
        (about_request([{"role": "wizard", "content": "x"}]), "structured_messages[0].role"),
        (about_request([{"role": "user", "content": 5}]), "structured_messages[0].content"),
        (about_request(["x"]), "structured_messages[0]"),
    ],
)
async def test_a_bad_field_is_named(make, body, param):
    async with client_for(make()) as client:
        response = await client.post(PATH, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_an_empty_request_is_let_through(make):
    async with client_for(make()) as client:
        assert (await post(client, about_request([])))["action"] == "NONE"
        assert (await post(client, about_answer("", call=None)))["action"] == "NONE"


async def test_an_answer_that_is_held_makes_room_for_its_own_judgement(make_gateway):
    """Memory for one check only. Held text is judged aside, which must not wait for the answer itself."""
    always = Cascade(escalate=-NEVER, flag=0.0, weight=0.0, stride=64)
    scoring, made = staged(BACKBONE, HEAD, always)
    gateway = make_gateway(BACKBONE, scoring, kv_tokens=512, default_max_tokens=200)
    async with client_for(gateway) as client:
        made[0].constant = -1.0
        for text in (ANSWER, ANSWER + " and"):
            found = await post(client, about_answer(text))
            assert found == {**NONE, "stream_holdback_chars": [len(text)]}
        made[0].constant = 1.0
        assert (await post(client, about_answer(ANSWER + " and more")))["action"] == "BLOCKED"


async def test_held_text_is_told_for_the_choice_that_holds_it(make_gateway):
    """LiteLLM reads the numbers by place. A choice that has no text yet has a place too."""
    always = Cascade(escalate=-NEVER, flag=0.0, weight=0.0, stride=64)
    scoring, made = staged(BACKBONE, HEAD, always)
    gateway = make_gateway(BACKBONE, scoring)
    async with client_for(gateway) as client:
        made[0].constant = -1.0
        found = await post(client, about_answer("", ANSWER, ""))
    assert found == {**NONE, "stream_holdback_chars": [0, len(ANSWER), 0]}


@pytest.mark.parametrize(
    "call",
    [
        {"type": "custom", "custom": {"name": "shell", "input": ANSWER}},
        {"type": "function", "function": ANSWER},
        {"type": "function", "function": {"name": "open", "arguments": {"gate": ANSWER}}},
        ANSWER,
    ],
)
async def test_a_tool_call_of_any_shape_is_read(make, call):
    async with client_for(make(-NEVER)) as client:
        assert (await post(client, about_answer(tool_calls=[call])))["action"] == "BLOCKED"


async def test_an_answer_that_was_stopped_aside_stays_blocked(make_gateway):
    """Its own check has flagged nothing, and the next verdict would be calm."""
    always = Cascade(escalate=-NEVER, flag=0.0, weight=0.0, stride=64)
    scoring, made = staged(BACKBONE, HEAD, always)
    gateway = make_gateway(BACKBONE, scoring)
    async with client_for(gateway) as client:
        made[0].constant = 1.0
        assert (await post(client, about_answer(ANSWER)))["action"] == "BLOCKED"
        made[0].constant = -1.0
        assert (await post(client, about_answer(ANSWER + " and more")))["action"] == "BLOCKED"
        assert (await post(client, about_answer("so")))["action"] == "NONE"
