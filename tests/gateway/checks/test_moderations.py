"""`/v1/moderations`: OpenAI's shape, the policy's categories, and no score."""

import json

import openai
import pytest
from checking import BACKBONE, HEAD, score_of
from serving import NEVER, client_for, decisions_of, scoring_for
from taps import BrokenTap, StuckTap
from test_openai_client import client_of, live

from lockgate.exchanges import Message
from lockgate.gateway import CheckOptions

pytestmark = pytest.mark.anyio

PATH = "/v1/moderations"
TEXTS = ["the lock holds the water back", "why does the canal run past the mill", "a boat"]


@pytest.fixture
def make(make_gateway):
    def make(flag=NEVER, flag_on="both", **options):
        return make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, flag, flag_on=flag_on), **options)

    return make


def offline(scoring, text):
    """The guard's scores of a text that is a user's prompt in a file."""
    return score_of(scoring, Message("user", text))


async def moderate(client, given, **fields):
    response = await client.post(PATH, json={"input": given, **fields})
    assert response.status_code == 200, response.text
    return response


async def test_each_text_gets_what_the_guard_says_about_a_prompt(make):
    scores = [offline(scoring_for(BACKBONE, HEAD, flag_on="both"), text).max_prompt for text in TEXTS]
    gateway = make(sorted(scores)[1] - 1e-3)
    async with client_for(gateway) as client:
        response = await moderate(client, TEXTS, model="omni-moderation-latest")
    body = response.json()
    assert body["id"].startswith("modr-")
    assert body["model"] == BACKBONE.name
    expected = [offline(gateway.engine.scoring, text) for text in TEXTS]
    assert [one["flagged"] for one in body["results"]] == [one.flagged for one in expected]
    assert sum(one.flagged for one in expected) == 2
    for result, score in zip(body["results"], expected, strict=True):
        assert set(result) == {"flagged", "categories", "category_scores", "category_applied_input_types"}
        assert result["categories"] == {name: name == score.category for name in HEAD.category_ids}
        assert result["category_scores"] == {
            name: float(name == score.category) for name in HEAD.category_ids
        }
        assert set(result["category_applied_input_types"]) == set(HEAD.category_ids)
    assert response.headers["x-lockgate-judged-as"] == "prompt"
    lines = decisions_of(gateway)
    assert sorted(line["decision"] for line in lines) == ["block", "block", "pass"]


async def test_only_nought_and_one_leave_even_where_scores_may(make):
    gateway = make(-NEVER, risk_events=True)
    async with client_for(gateway) as client:
        response = await client.post(PATH, json={"input": TEXTS[0]}, headers={"x-lockgate-risk": "1"})
    scores = response.json()["results"][0]["category_scores"]
    assert sorted(scores.values()) == [*[0.0] * (len(scores) - 1), 1.0]


async def test_a_guard_that_flags_only_answers_judges_the_text_as_one(make):
    async with client_for(make(-NEVER, flag_on="answer")) as client:
        response = await moderate(client, TEXTS[0])
    assert response.headers["x-lockgate-judged-as"] == "answer"
    assert response.json()["results"][0]["flagged"]


async def test_text_parts_are_one_text(make):
    gateway = make()
    parts = [{"type": "text", "text": TEXTS[0][:8]}, {"type": "text", "text": TEXTS[0][8:]}]
    async with client_for(gateway) as client:
        assert len((await moderate(client, parts)).json()["results"]) == 1
        await moderate(client, TEXTS[0])
    first, second = decisions_of(gateway)
    assert first["scores"] == second["scores"]


async def test_categories_can_have_other_names(make):
    names = {HEAD.category_ids[0]: "illicit", HEAD.category_ids[1]: "illicit"}
    gateway = make(-NEVER, checks=CheckOptions(moderation_names=names))
    async with client_for(gateway) as client:
        result = (await moderate(client, TEXTS[0])).json()["results"][0]
    kept = [name for name in HEAD.category_ids if name not in names]
    assert set(result["categories"]) == {"illicit", *kept}
    assert sum(result["categories"].values()) == 1


async def test_shadow_mode_says_so(make):
    gateway = make(-NEVER, mode="shadow")
    async with client_for(gateway) as client:
        response = await moderate(client, TEXTS[0])
    assert response.headers["x-lockgate-mode"] == "shadow"
    assert response.json()["results"][0]["flagged"]
    assert decisions_of(gateway)[0]["enforced"] is False


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        (None, "input", None),
        (5, "input", None),
        ([], "input", "empty_array"),
        (["x"] * 65, "input", None),
        ([{"type": "image_url", "image_url": {"url": "https://x"}}], "input[0].type", "unsupported_value"),
        ([{"type": "text", "text": 5}], "input[0].text", None),
        (["x", 5], "input[1]", None),
        ("x" * 3_000_000, "messages", "context_length_exceeded"),
    ],
)
async def test_bad_input_is_named(make, given, param, code):
    async with client_for(make()) as client:
        response = await client.post(PATH, json={"input": given})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
async def test_a_guard_that_fails_gives_no_result(make_gateway, mode):
    tap = BrokenTap([HEAD], BACKBONE.hidden_size)
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, tap=tap, flag_on="both"), mode=mode)
    async with client_for(gateway) as client:
        tap.broken = True
        response = await client.post(PATH, json={"input": TEXTS})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "check_failed")
    assert int(response.headers["retry-after"]) >= 1


async def test_a_guard_that_is_late_gives_no_result(make_gateway):
    tap = StuckTap([HEAD], BACKBONE.hidden_size)
    scoring = scoring_for(BACKBONE, HEAD, tap=tap, flag_on="both")
    async with client_for(make_gateway(BACKBONE, scoring, checks=CheckOptions(wait_timeout=0.3))) as client:
        tap.stuck.set()
        response = await client.post(PATH, json={"input": TEXTS})
        tap.go.set()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "check_timeout")


async def test_a_server_without_a_guard_says_so(make_gateway):
    async with client_for(make_gateway(BACKBONE, None)) as client:
        response = await client.post(PATH, json={"input": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "no_guard")


def test_the_openai_client_reads_it(make):
    gateway = make(-NEVER)
    with live(gateway) as url, client_of(url) as client:
        one = client.moderations.create(input=TEXTS[0], model="omni-moderation-latest")
        several = client.moderations.create(input=TEXTS)
        parts = client.moderations.create(input=[{"type": "text", "text": TEXTS[0]}])
        with pytest.raises(openai.BadRequestError) as caught:
            client.moderations.create(input=[{"type": "image_url", "image_url": {"url": "https://x"}}])
    assert caught.value.code == "unsupported_value"
    assert one.results[0].flagged
    assert parts.results[0].categories == one.results[0].categories
    assert len(several.results) == 3
    found = one.results[0].categories.model_dump(by_alias=True)
    assert json.dumps(found).count("true") == 1
