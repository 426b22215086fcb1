"""`/metrics`: what Prometheus reads agrees with the decision log, and holds no text and no key."""

from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families
from relaying import relayed
from scripted_upstream import Reply, chat_stream
from serving import CHAT, NEVER, ask, client_for, decisions_of, scoring_for
from test_given import BACKBONE, HEAD, smoothed

from lockgate.decisions import LogOptions
from lockgate.errors import ConfigError
from lockgate.gateway import GatewayOptions

pytestmark = pytest.mark.anyio
PROMPT, ANSWER = "why does the lock hold", "The lock holds the water back."


def read(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """All samples by name, as Prometheus's own parser reads them."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(found, name: str, **labels: str) -> float:
    (one,) = [number for own, number in found[name] if own == labels]
    return one


async def test_counts_are_those_of_the_decision_log(make_gateway) -> None:
    top = max(smoothed(PROMPT, ANSWER))
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, top - 1e-3, flag_on="answer"))
    streams = [chat_stream([text]) for text in (ANSWER, "The gate.", ANSWER, "The")]
    async with relayed(gateway, *map(Reply, ([one] for one in streams))) as (client, _):
        for _ in streams:
            await client.post(CHAT, json=ask(PROMPT, stream=True))
        await client.post(CHAT, json={"model": "big"})
        await client.post("/v1/decisions", json={"messages": ask(PROMPT)["messages"]})
        await client.get("/nothing/here")
        page = await client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    found, lines = read(page.text), decisions_of(gateway)
    counted = {labels["decision"]: 0.0 for labels, _ in found["lockgate_exchanges_total"]}
    for labels, number in found["lockgate_exchanges_total"]:
        assert labels["route"] in (CHAT, "checks")
        counted[labels["decision"]] += number
    assert counted == Counter(line["decision"] for line in lines)
    assert counted["halt"] >= 1
    assert value(found, "lockgate_tokens_total", side="prompt") == sum(one["prompt_tokens"] for one in lines)
    assert value(found, "lockgate_tokens_total", side="answer") == sum(
        one["completion_tokens"] for one in lines
    )
    assert value(found, "lockgate_exchange_seconds_count", decision="pass") == counted["pass"]
    assert value(found, "lockgate_margin_count", stage="1") == len(
        [line for line in lines if line["scores"]["max_answer"] is not None]
    )
    above = sum(line["scores"]["max_answer"] is not None and line["decision"] == "halt" for line in lines)
    below = value(found, "lockgate_margin_bucket", stage="1", le="0.0")
    assert value(found, "lockgate_margin_count", stage="1") - below == above
    assert value(found, "lockgate_http_requests_total", route=CHAT, status="400") == 1
    assert value(found, "lockgate_http_requests_total", route="-", status="404") == 1
    assert value(found, "lockgate_decision_records", state="written") == len(lines)
    assert value(found, "lockgate_ready") == 1
    assert value(found, "lockgate_upstream_up", upstream="upstream") == 1
    assert found["lockgate_step_seconds_count"][0][1] > 0
    for secret in (PROMPT, ANSWER, "nothing/here", lines[0]["id"]):
        assert secret not in page.text


RIGHT = {"authorization": "Bearer sk-metrics"}


@pytest.mark.parametrize(
    ("options", "headers", "status"),
    [
        ({}, {}, 200),
        ({}, {"x-forwarded-for": "192.0.2.1"}, 403),
        ({"loopback": False}, {}, 403),
        ({"api_key": "sk-client"}, {"authorization": "Bearer sk-client"}, 403),
        ({"metrics_key": "sk-metrics"}, {}, 401),
        ({"metrics_key": "sk-metrics"}, {"authorization": "Basic sk-metrics"}, 401),
        ({"metrics_key": "sk-metrics", "api_key": "sk-client"}, {"authorization": "Bearer sk-client"}, 401),
        ({"metrics_key": "sk-metrics", "api_key": "sk-client", "loopback": False}, RIGHT, 200),
    ],
)
async def test_clients_may_not_read_it(make_gateway, options, headers, status) -> None:
    """A count that changes with a client's own request would tell it how close it was."""
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD), **options)
    async with client_for(gateway) as client:
        found = await client.get("/metrics", headers=headers)
    assert found.status_code == status
    assert ("lockgate_margin" in found.text) == (status == 200)
    assert "sk-" not in found.text


def test_a_key_of_a_client_is_none_for_the_metrics(tmp_path) -> None:
    for key in ("sk-client", ""):
        with pytest.raises(ConfigError, match="metrics_key"):
            GatewayOptions(LogOptions(tmp_path / "log"), api_key="sk-client", metrics_key=key)


async def test_the_request_id_reaches_the_upstream_and_the_client(make_gateway) -> None:
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, NEVER))
    async with relayed(gateway, Reply([chat_stream([ANSWER])])) as (client, upstream):
        own = await client.post(CHAT, json=ask(PROMPT, stream=True), headers={"x-request-id": "mine-1"})
        made = await client.post(CHAT, json=ask(PROMPT, stream=True), headers={"x-request-id": "not a token"})
    sent = [headers["x-request-id"] for headers in upstream.headers]
    assert sent == [own.headers["x-request-id"], made.headers["x-request-id"]]
    assert sent[0] == "mine-1"
    assert sent[1].startswith("req_")
