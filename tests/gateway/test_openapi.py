"""The description of the API is complete, and the server does as it says, whatever it is asked."""

import json
from typing import Any

import anyio
import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import serving
from prompt_cases import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from relaying import relayed
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from scripted_upstream import Reply
from serving import client_for, scoring_for
from starlette.routing import Route

from lockgate import __version__
from lockgate.gateway import create_app, create_passing_app
from lockgate.gateway._fields import HONOURED, IGNORED, REFUSED
from lockgate.gateway.checks import CHECK_ROUTES
from lockgate.gateway.checks._decisions import FIELDS
from lockgate.gateway.upstream import UpstreamClient, UpstreamOptions
from lockgate.gateway.upstream import _chat as chat_dialect

DESCRIPTION = "/openapi.json"
AS_DESCRIBED = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
CHECKED = {route.path for route in CHECK_ROUTES}
BOUNDED = settings(
    max_examples=6, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
BASE = {"id": "up-1", "created": 1, "model": "big"}


def answer(request: httpx2.Request) -> httpx2.Response:
    """A short answer in the API and the shape that was asked for."""
    if request.method == "GET":
        return httpx2.Response(200, json={"object": "list", "data": [{"id": "big"}]})
    asked, path = json.loads(request.content), request.url.path
    choices = [
        {
            "index": number,
            "text": "so",
            "message": {"role": "assistant", "content": "so"},
            "delta": {"content": "so"},
        }
        for number in range(asked.get("n") or 1)
    ]
    ends = [{**choice, "delta": {}, "text": "", "finish_reason": "stop"} for choice in choices]
    item = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
    body: dict[str, Any] = {
        CHAT: {**BASE, "choices": choices},
        COMPLETIONS: {**BASE, "choices": choices},
        RESPONSES: {**BASE, "object": "response", "output": [item]},
        MESSAGES: {**BASE, "type": "message", "content": [{"type": "text", "text": "so"}]},
    }[path]
    events: list[dict[str, Any]] = {
        RESPONSES: [{"type": "response.completed", "response": body}],
        MESSAGES: [
            {"type": "message_start", "message": {**body, "content": []}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
            {"type": "message_stop"},
        ],
    }.get(path, [{**BASE, "choices": choices}, {**BASE, "choices": ends}])
    if not asked.get("stream"):
        return httpx2.Response(200, json=body)
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=text)


def upstream() -> UpstreamClient:
    return UpstreamClient(UpstreamOptions("http://upstream/v1"), httpx2.MockTransport(answer))


@pytest.fixture
def gateway(make_gateway, backbone, head):
    # Answers of the model are short, because little memory is there for them.
    return make_gateway(
        backbone, scoring_for(backbone, head), max_streams=2, kv_tokens=96, default_max_tokens=4
    )


@pytest.mark.parametrize("kind", ["engine", "relay", "pass"])
def test_every_route_is_described(gateway, kind) -> None:
    if kind == "pass":
        app = create_passing_app(gateway.options, upstream())
    else:
        app = create_app(gateway, upstream() if kind == "relay" else None)
    page = {"/", "/playground/{name}"}
    paths = {route.path_format for route in app.routes if isinstance(route, Route)} - page
    [route] = [route for route in app.routes if getattr(route, "path", "") == DESCRIPTION]
    assert route.methods == {"GET", "HEAD"}
    assert set(document_of(app)["paths"]) == paths


def document_of(app) -> dict[str, Any]:
    transport = httpx2.ASGITransport(app=app)

    async def fetch() -> dict[str, Any]:
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get(DESCRIPTION)).json()

    return anyio.run(fetch)


def body_of(document: dict[str, Any], path: str) -> dict[str, Any]:
    return document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def test_fields_are_those_of_the_parser(gateway) -> None:
    found = document_of(create_app(gateway))
    assert found["info"]["version"] == __version__
    assert set(body_of(found, CHAT)["properties"]) == {*HONOURED, *IGNORED, *REFUSED}
    assert body_of(found, CHAT)["properties"]["best_of"]["enum"] == [None, 1]
    assert set(body_of(found, "/v1/decisions")["properties"]) == set(FIELDS)
    found = document_of(create_app(gateway, upstream()))
    assert set(chat_dialect.REFUSED) <= set(body_of(found, CHAT)["properties"])


@pytest.mark.anyio
async def test_it_needs_the_key_that_other_routes_need(make_gateway, backbone, head) -> None:
    async with client_for(make_gateway(backbone, scoring_for(backbone, head))) as client:
        assert (await client.get(DESCRIPTION)).status_code == 200
    keyed = make_gateway(backbone, scoring_for(backbone, head), api_key="sesame")
    async with relayed(keyed, Reply()) as (client, _):
        assert (await client.get(DESCRIPTION)).status_code == 401
        own = {"authorization": "Bearer sesame"}
        assert (await client.get(DESCRIPTION, headers=own)).status_code == 200


@pytest.mark.parametrize("kind", ["engine", "relay"])
def test_whatever_is_asked_the_answer_is_as_described(gateway, kind) -> None:
    with serving(gateway, upstream() if kind == "relay" else None) as url:
        document = httpx2.get(url + DESCRIPTION).json()
        found = schemathesis.openapi.from_dict(document)
        operations = [result.ok() for result in found.get_all_operations()]
        assert len(operations) == len(document["paths"])
        if kind == "relay":  # the checks are the same as with the own engine
            operations = [operation for operation in operations if operation.path not in CHECKED]
        statuses: dict[str, set[int]] = {}
        for operation in operations:
            modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

            @given(case=st.one_of(modes))
            @settings(BOUNDED)
            def ask(case) -> None:
                response = case.call_and_validate(base_url=url, checks=AS_DESCRIBED, timeout=60)
                statuses.setdefault(case.operation.label, set()).add(response.status_code)

            ask()
    # Not only refusals: the shape of answers is compared too.
    answering = {"engine": (CHAT, "/v1/moderations"), "relay": (CHAT, COMPLETIONS, RESPONSES, MESSAGES)}
    assert all(200 in statuses[f"POST {path}"] for path in answering[kind])
