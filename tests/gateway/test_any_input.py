"""Whatever a client sends, the server answers below 500, in the error shape."""

import json
import string
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from serving import CHAT, GatewayFactory, ask, scoring_for

from lockgate.gateway import create_app
from lockgate.gateway._fields import HONOURED, IGNORED, REFUSED

JSON = {"content-type": "application/json"}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "x"])
PARTS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image_url", "refusal", "x"])}, optional={"text": VALUES}
    ),
    max_size=3,
)
MESSAGES = st.lists(
    VALUES
    | st.fixed_dictionaries(
        {"role": ROLES, "content": st.text(max_size=60) | PARTS | VALUES},
        optional={"name": VALUES, "tool_calls": VALUES, "refusal": VALUES, "audio": VALUES},
    ),
    max_size=5,
)
FIELDS = st.dictionaries(
    st.sampled_from(sorted(HONOURED | IGNORED | set(REFUSED)))
    .filter(lambda name: name != "messages"),
    VALUES | st.integers(-2, 6) | st.floats(-1, 2),
    max_size=4,
)  # fmt: skip
BODIES = st.builds(
    lambda messages, fields, limit: {"messages": messages, "max_tokens": limit, **fields},
    MESSAGES | VALUES | st.just([{"role": "user", "content": "why does the lock hold"}]),
    FIELDS,
    st.integers(1, 3),
)
CHECKS = ("/v1/moderations", "/v1/decisions", "/beta/litellm_basic_guardrail_api")
PATHS = st.sampled_from([CHAT, *CHECKS, "/v1/models", "/v1/models/", "/health", "/readyz", "/", "/static/"])
CHECK_BODIES = st.fixed_dictionaries(
    {},
    optional={
        "messages": MESSAGES | VALUES,
        "input": st.text(max_size=40) | st.lists(st.text(max_size=20), max_size=3) | PARTS | VALUES,
        "open": st.booleans() | VALUES,
        "id": st.text(max_size=10) | VALUES,
        "text": st.text(max_size=10) | VALUES,
        "end": st.booleans() | VALUES,
        "input_type": st.sampled_from(["request", "response"]) | VALUES,
        "litellm_call_id": st.sampled_from(["one", "two"]) | VALUES,
        "texts": st.lists(st.text(max_size=20), max_size=3) | VALUES,
        "structured_messages": MESSAGES | VALUES,
        "tool_calls": st.lists(
            st.fixed_dictionaries({"function": VALUES | st.dictionaries(st.just("arguments"), VALUES)}),
            max_size=2,
        )
        | VALUES,
        "images": VALUES,
    },
)
SUITE = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def application():
    """The served application. It runs for all examples."""
    import asyncio

    backbone = tiny_backbone("llama")
    with TemporaryDirectory() as folder, asyncio.Runner() as runner:
        gateway = GatewayFactory(Path(folder))(
            backbone, scoring_for(backbone, random_head(backbone)), risk_events=True
        )
        app = create_app(gateway)
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        try:
            yield app, runner
        finally:
            runner.run(lifespan.__aexit__(None, None, None))


def answer_of(application, method, path, **request):
    app, runner = application

    async def send():
        # An exception of the application fails the test too.
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **request)

    return runner.run(send())


def check(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    return answer.status_code


@SUITE
@given(body=BODIES)
def test_any_json_is_answered_or_refused(application, body):
    check(
        answer_of(application, "POST", CHAT, content=json.dumps(body).encode(errors="replace"), headers=JSON)
    )


@SUITE
@given(path=st.sampled_from(CHECKS), body=CHECK_BODIES)
def test_any_check_is_answered_or_refused(application, path, body):
    check(
        answer_of(application, "POST", path, content=json.dumps(body).encode(errors="replace"), headers=JSON)
    )


@SUITE
@given(body=st.binary(max_size=200) | VALUES.map(json.dumps).map(str.encode))
def test_any_bytes_are_refused(application, body):
    status = check(answer_of(application, "POST", CHAT, content=body, headers=JSON))
    assert status >= 400


@SUITE
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X"]),
    path=PATHS,
    tail=st.text(alphabet=string.printable.strip() + "é%", max_size=12),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "content-type",
                "content-length",
                "host",
                "authorization",
                "x-request-id",
                "range",
                "accept",
                "if-modified-since",
                "if-none-match",
                "x-lockgate-risk",
            ]
        ),
        st.text(alphabet=string.printable[:95].strip(), max_size=20),
        max_size=3,
    ),
)
def test_any_route_method_and_header_is_answered(application, method, path, tail, headers):
    try:
        answer = answer_of(application, method, path + tail.replace("#", ""), headers=headers)
    except httpx2.InvalidURL:
        return
    assert answer.status_code < 500, answer.text


def test_a_plain_request_is_answered(application):
    """The examples above would prove nothing if all were refused."""
    assert check(answer_of(application, "POST", CHAT, json=ask(max_tokens=2))) == 200
    bodies = ({"input": "why"}, {"messages": ask()["messages"]}, {"input_type": "request", "texts": ["why"]})
    for path, body in zip(CHECKS, bodies, strict=True):
        assert check(answer_of(application, "POST", path, json=body)) == 200
