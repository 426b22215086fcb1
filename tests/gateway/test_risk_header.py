"""Scores of tokens: who gets them, and that nobody else does."""

import httpx2
import pytest
from serving import CHAT, ask, client_for, scoring_for

from lockgate.errors import ConfigError

pytestmark = pytest.mark.anyio
ASKED = {"x-lockgate-risk": "1"}


async def sends_scores(gateway, **headers):
    async with client_for(gateway) as client:
        found = set()
        for stream in (False, True):
            answer = await client.post(CHAT, json=ask(max_tokens=4, stream=stream), headers=headers)
            assert answer.status_code == 200
            found.add("lockgate" in answer.text or "score" in answer.text or "threshold" in answer.text)
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, False),
        ({"risk_events": True}, True),
        ({"risk_events": True, "risk_header": False}, False),
        ({"risk_header": True}, True),
        ({"risk_events": True, "loopback": False}, False),
    ],
)
async def test_the_option_and_the_header_are_both_needed(make_gateway, backbone, head, options, sent):
    assert await sends_scores(make_gateway(backbone, scoring_for(backbone, head), **options), **ASKED) == sent
    assert not await sends_scores(make_gateway(backbone, scoring_for(backbone, head), **options))


@pytest.mark.parametrize(
    "header",
    ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "x-forwarded-proto", "X-Real-IP"],
)
async def test_behind_a_proxy_no_score_leaves(make_gateway, backbone, head, header):
    gateway = make_gateway(backbone, scoring_for(backbone, head), risk_events=True, risk_header=True)
    assert not await sends_scores(gateway, **ASKED, **{header: "x"})


async def test_with_a_key_no_score_leaves(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head), risk_events=True, api_key="sesame")
    assert not await sends_scores(gateway, **ASKED, authorization="Bearer sesame")


@pytest.mark.parametrize("options", [{"api_key": "sesame"}, {"loopback": False}])
async def test_the_option_is_refused_where_it_would_help_an_attacker(make_gateway, backbone, head, options):
    with pytest.raises(ConfigError, match="--risk-header"):
        make_gateway(backbone, scoring_for(backbone, head), risk_header=True, **options)


async def test_served_names_are_retrieved_and_others_are_404(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head), model_names=("embedded", "org/name"))
    async with client_for(gateway) as client:
        for name in ("embedded", "org/name", backbone.name):
            found: httpx2.Response = await client.get(f"/v1/models/{name}")
            assert (found.status_code, found.json()["id"]) == (200, name)
        missing = await client.get("/v1/models/other")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
