"""Whatever stands in a field of a request to an upstream, it is read or refused."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from prompt_cases import BASE, CHAT, COMPLETIONS, MESSAGES, PROMPT_CASES, RESPONSES
from relaying import relayed
from scripted_upstream import Reply, chat_body
from serving import client_for, scoring_for

from lockgate.gateway._errors import ApiError
from lockgate.gateway._requests import NUMBERS
from lockgate.gateway.upstream._routes import DIALECTS

ROUTES = {f"/v1{dialect.path}": dialect for dialect in DIALECTS}
ODD = (None, True, -1, 10**400, 1e308, "", "\x00\u202e", [], [[]], [None], [{}], {}, {"a": 1})
MORE: dict[str, list[dict[str, Any]]] = {
    CHAT: [],
    COMPLETIONS: [],
    MESSAGES: [],
    RESPONSES: [
        {"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}], "content": []}]}
    ],
}


@pytest.fixture
def gateway(make_gateway, backbone, head):
    return make_gateway(backbone, scoring_for(backbone, head))


def bodies(route: str) -> Iterator[dict[str, Any]]:
    yield dict(BASE[route])
    for fields in [*MORE[route], *(case for row in PROMPT_CASES.values() for case in row[route])]:
        yield {**BASE[route], **fields}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each object or list in a JSON value, and each of its keys or indices."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def with_oddities(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same body with something odd in place of each of its values."""
    for number, _ in enumerate(places(body)):
        for odd in ODD:
            changed = copy.deepcopy(body)
            holder, key = list(places(changed))[number]
            holder[key] = odd
            yield changed


def texts_or_status(route: str, body: dict[str, Any]) -> list[Any] | int:
    """The texts that the guard reads of a request, or the status with which it is refused."""
    try:
        return [message.content for message in ROUTES[route].read_request(body, "refuse", 8).messages]
    except ApiError as error:
        return error.status


@pytest.mark.parametrize("route", ROUTES)
def test_odd_values_are_read_or_refused(route):
    read = 0
    for body in bodies(route):
        for changed in with_oddities(body):
            texts = texts_or_status(route, changed)
            read += isinstance(texts, list)
            assert (
                400 <= texts < 500 if isinstance(texts, int) else all(isinstance(one, str) for one in texts)
            )
    assert read


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("route", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": [{"type": [], "text": "why"}]}]}),
        (MESSAGES, {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": {}}]}]}),
        (RESPONSES, {"input": [{"type": ["message"], "role": "user", "content": "why"}]}),
        (RESPONSES, {"input": [{"type": "reasoning", "summary": 1}]}),
    ],
)
async def test_a_type_that_is_no_text_is_named(gateway, route, body):
    async with relayed(gateway, Reply([chat_body("so")], kind="application/json")) as (client, upstream):
        answer = await client.post(route, json={"model": "big", **body})
        assert (answer.status_code, upstream.requests) == (400, [])
        assert "expected text" in json.dumps(answer.json()["error"])


@pytest.mark.anyio
@pytest.mark.parametrize("name", NUMBERS)
async def test_a_number_beyond_all_ranges_is_refused(gateway, name):
    body = b'{"messages": [{"role": "user", "content": "why"}], "%s": 1%s}' % (name.encode(), b"0" * 400)
    async with client_for(gateway) as client:
        answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize(
    "arguments", [{"enable_thinking": False}, {"reasoning_effort": "high"}, {"k": None}, {}, None]
)
def test_a_switch_of_the_chat_template_is_no_text(arguments):
    plain = ROUTES[CHAT].read_request(dict(BASE[CHAT]), "refuse", 8)
    asked = ROUTES[CHAT].read_request({**BASE[CHAT], "chat_template_kwargs": arguments}, "refuse", 8)
    assert asked.messages == plain.messages
