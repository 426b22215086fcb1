"""Headers of every answer, and the log line of an error."""

import re

import httpx2
import pytest
from serving import CHAT, ask, client_for, scoring_for

from lockgate.gateway._exchange import request_id

pytestmark = pytest.mark.anyio


async def test_every_answer_has_an_id_and_the_safety_headers(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head), risk_events=True, allowed_hosts=("a.b",))
    async with client_for(gateway) as client:
        answers = [
            await client.get("/health"),
            await client.get("/v1/models"),
            await client.get("/nowhere"),
            await client.get("/health", headers={"host": "evil.example"}),
            await client.post(CHAT, json=ask(max_tokens=2)),
            await client.post(CHAT, json=ask(max_tokens=2, stream=True)),
            await client.post(CHAT, content=b"{", headers={"content-type": "application/json"}),
        ]
        page = await client.get("/static/playground.js")
    for answer in answers:
        assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    assert page.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False), ("é", False)],
)
def test_a_clients_id_is_kept_if_it_is_a_plain_token(given, kept):
    assert (request_id(given) == given) == kept


async def test_errors_are_logged_without_text(make_gateway, backbone, head, caplog):
    gateway = make_gateway(backbone, scoring_for(backbone, head), api_key="sesame")
    async with client_for(gateway) as client:
        key = {"authorization": "Bearer sesame", "x-request-id": "mine"}
        await client.get("/v1/models/orchard?zebra=1", headers=key)
        await client.request("ORCHARD", "/zebra", headers=key)
        await client.post(CHAT, json=ask("orchard", n=0), headers=key)
        await client.get("/v1/models", headers={"x-request-id": "orchard zebra"})
        answer: httpx2.Response = await client.get("/health?zebra")
    assert answer.status_code == 200
    lines = [record.getMessage() for record in caplog.records if record.name == "lockgate.access"]
    assert [re.sub(r"\d+ ms|req_\w+", "", line) for line in lines] == [
        "GET /v1/models/{model:path} 404  mine",
        "- - 404  mine",
        "POST /v1/chat/completions 400  mine",
        "GET - 401  ",
    ]
    assert not re.search("orchard|zebra", " ".join(lines))
