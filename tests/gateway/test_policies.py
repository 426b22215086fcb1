"""Policies: which request is enforced, and what a failure of the guard means for it."""

import math
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from relaying import relayed
from scripted_upstream import Reply, chat_body, chat_stream
from serving import CHAT, REFUSAL, ask, client_for, decisions_of, events_of, scoring_for, text_of
from staging import staged
from taps import BrokenTap, StuckTap
from test_given import BACKBONE, HEAD

from lockgate.cascade import Cascade
from lockgate.errors import ConfigError
from lockgate.gateway._policies import Change, Policies, Policy

TEXTS = ["The lock", " holds the", " water back", ", as it", " should."]
WHOLE = "".join(TEXTS)
STREAM = Reply([chat_stream(TEXTS)])
UNGUARDED = "x-lockgate-unguarded"
OPEN = Policies(routes={CHAT: Change(on_failure="open")})
ALWAYS = Cascade(escalate=-math.inf, flag=-math.inf, weight=0.0)
MODES = st.sampled_from(["enforce", "shadow", "canary", None])


@given(percent=st.floats(0, 100))
def test_a_canary_enforces_its_share_and_more_of_it_enforces_the_same_requests(percent) -> None:
    names = [f"chatcmpl-{number}" for number in range(2000)]
    policy = Policy("canary", percent)
    enforced = {name for name in names if policy.mode_for(name) == "enforce"}
    assert abs(len(enforced) / len(names) - percent / 100) < 0.05
    more = Policy("canary", min(100.0, percent + 5))
    assert enforced <= {name for name in names if more.mode_for(name) == "enforce"}


@pytest.mark.parametrize(("percent", "mode"), [(0.0, "shadow"), (100.0, "enforce")])
def test_the_ends_of_a_canary(percent, mode) -> None:
    assert {Policy("canary", percent).mode_for(str(number)) for number in range(500)} == {mode}


@given(general=MODES, route=MODES, key=MODES)
def test_a_key_goes_before_a_route_and_a_route_before_the_rest(general, route, key) -> None:
    policies = Policies(Policy(general or "enforce"), {CHAT: Change(route)}, {"team": Change(key)})
    assert policies.of(CHAT, "team").mode == (key or route or general or "enforce")
    assert policies.of(CHAT).mode == (route or general or "enforce")
    assert policies.of("/v1/messages", "other").mode == (general or "enforce")


@pytest.mark.parametrize("percent", [-1.0, 101.0, math.nan])
def test_a_share_is_a_percentage(percent) -> None:
    with pytest.raises(ConfigError, match="canary_percent"):
        Policy("canary", percent)


def gateway_of(make_gateway: Any, scoring: Any, policies: Policies, **options: Any) -> Any:
    return make_gateway(BACKBONE, scoring, policies=policies, **options)


@pytest.mark.anyio
async def test_keys_and_routes_have_modes_of_their_own(make_gateway) -> None:
    policies = Policies(keys={"trial": Change("shadow")})
    keys = {"trial": "sk-trial", "team": "sk-team"}
    gateway = gateway_of(make_gateway, scoring_for(BACKBONE, HEAD, -math.inf), policies, keys=keys)
    async with relayed(gateway, STREAM) as (client, _):
        assert (await client.post(CHAT, json=ask(stream=True))).status_code == 401
        texts = {}
        for name, key in keys.items():
            bearer = {"authorization": f"Bearer {key}"}
            texts[name] = text_of(events_of(await client.post(CHAT, json=ask(stream=True), headers=bearer)))
    assert texts == {"trial": WHOLE, "team": ""}
    assert [(line["mode"], line["enforced"]) for line in decisions_of(gateway)] == [
        ("shadow", False),
        ("enforce", True),
    ]


@pytest.mark.anyio
async def test_a_canary_stops_just_the_answers_that_it_enforces(make_gateway) -> None:
    policies = Policies(Policy("canary", 50.0))
    gateway = gateway_of(make_gateway, scoring_for(BACKBONE, HEAD, -math.inf), policies)
    async with relayed(gateway, STREAM) as (client, _):
        texts = [text_of(events_of(await client.post(CHAT, json=ask(stream=True, n=1)))) for _ in range(12)]
        assert (await client.get("/readyz")).json()["mode"] == "canary"
    lines = decisions_of(gateway)
    assert [line["mode"] for line in lines] == [policies.general.mode_for(line["id"]) for line in lines]
    assert texts == ["" if line["mode"] == "enforce" else WHOLE for line in lines]


@pytest.mark.anyio
async def test_the_servers_own_model_follows_policies_too(make_gateway) -> None:
    policies = Policies(routes={CHAT: Change("shadow")})
    gateway = gateway_of(make_gateway, scoring_for(BACKBONE, HEAD, -math.inf), policies)
    async with client_for(gateway) as client:
        events = events_of(await client.post(CHAT, json=ask(stream=True, max_tokens=8)))
    assert text_of(events)
    assert (decisions_of(gateway)[0]["decision"], decisions_of(gateway)[0]["enforced"]) == ("halt", False)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("policies", [OPEN, Policies()], ids=["open", "closed"])
@pytest.mark.parametrize("part", ["probe", "second stage", "step"])
async def test_a_failure_is_a_pass_only_where_the_policy_says_so(
    make_gateway, part, policies, stream
) -> None:
    made, tap = [], None
    if part == "probe":
        tap = BrokenTap([HEAD], BACKBONE.hidden_size)
        tap.broken = True
        scoring = scoring_for(BACKBONE, HEAD, tap=tap)
    elif part == "step":
        tap = StuckTap([HEAD], BACKBONE.hidden_size)
        tap.stuck.set()
        scoring = scoring_for(BACKBONE, HEAD, tap=tap)
    else:
        scoring, made = staged(BACKBONE, HEAD)
    gateway = gateway_of(make_gateway, scoring, policies, verdict_timeout=0.3, step_timeout=0.3)
    for source in made:
        source.stuck.set()
    reply = STREAM if stream else Reply([chat_body(WHOLE)], kind="application/json")
    async with relayed(gateway, reply) as (client, _):
        response = await client.post(CHAT, json=ask(stream=stream))
        told = (await client.get("/readyz")).json()
        for waiting in (*made, *([tap] if isinstance(tap, StuckTap) else [])):
            waiting.go.set()
    line = decisions_of(gateway)[0]
    assert line["decision"] == "error"
    assert told["faults"]["total"] == 1
    if policies is OPEN:
        assert UNGUARDED in response.text or response.headers[UNGUARDED] == "the guard failed"
        said = text_of(events_of_open(response)) if stream else choice_text(response)
        assert said == WHOLE
        assert (line["enforced"], line["unguarded"], line["mode"]) == (False, True, "enforce")
        assert line["finish_reason"] == (None if part == "step" else "stop")
        assert told["faults"]["unguarded"] == 1
        assert told["fails_open"] == [CHAT]
    else:
        assert "water" not in response.text
        assert UNGUARDED not in response.headers
        assert UNGUARDED not in response.text
        assert (line["enforced"], line["unguarded"]) == (True, False)
        assert told["faults"]["unguarded"] == 0
        assert told["fails_open"] == []


def events_of_open(response: httpx2.Response) -> Any:
    """Events of a stream that may hold the comment that nothing guards it. Clients ignore comments."""
    body = response.content.replace(f": {UNGUARDED}: the guard failed\n\n".encode(), b"")
    return events_of(httpx2.Response(response.status_code, headers=response.headers, content=body))


def choice_text(response: Any) -> str:
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.anyio
async def test_a_flag_still_stops_where_failures_pass(make_gateway) -> None:
    gateway = gateway_of(make_gateway, scoring_for(BACKBONE, HEAD, -math.inf), OPEN)
    async with relayed(gateway, STREAM) as (client, _):
        response = await client.post(CHAT, json=ask(stream=True))
    assert text_of(events_of(response)) == ""
    assert UNGUARDED not in response.headers
    assert decisions_of(gateway)[0]["decision"] == "halt"


@pytest.mark.anyio
async def test_the_same_refusal_whichever_stage_flags(make_gateway) -> None:
    found = []
    for scoring in (scoring_for(BACKBONE, HEAD, -math.inf), staged(BACKBONE, HEAD, ALWAYS)[0]):
        shapes = []
        for stream in (True, False):
            gateway = make_gateway(BACKBONE, scoring)
            reply = STREAM if stream else Reply([chat_body(WHOLE)], kind="application/json")
            async with relayed(gateway, reply) as (client, _):
                response = await client.post(CHAT, json=ask(stream=stream))
            body = events_of(response)[1:] if stream else response.json()["choices"]
            shapes.append((response.status_code, sorted(response.headers), REFUSAL in response.text, body))
            assert decisions_of(gateway)[0]["decision"] == "halt"
        found.append(shapes)
    assert found[0] == found[1]
