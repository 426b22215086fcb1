"""The document: an operation for each route that the server has."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from lockgate._version import __version__
from lockgate.gateway._errors import json_response
from lockgate.gateway.openapi import _answers as answers
from lockgate.gateway.openapi import _bodies as bodies

PATH = "/openapi.json"
# Who writes the answers: this server's engine, an upstream under the guard, or an upstream without one.
Kind = Literal["engine", "relay", "pass"]
_EVENTS: dict[str, Any] = {"text/event-stream": {}}
_SUMMARIES = {
    "/chat/completions": "An answer to a conversation, streamed or whole.",
    "/completions": "The continuation of a text.",
    "/responses": "An answer to a conversation, in items.",
    "/messages": "Anthropic's messages.",
}


def openapi_route(routes: Iterable[BaseRoute], kind: Kind) -> Route:
    """Return the route with the description of `routes` and of itself."""
    paths = [route.path_format for route in routes if isinstance(route, Route)]
    document = describe([*paths, PATH], kind)

    async def description(_: Request) -> Response:
        return json_response(document)

    return Route(PATH, description, methods=["GET"])


def describe(paths: Iterable[str], kind: Kind) -> dict[str, Any]:
    """Return the document for the routes with these paths."""
    operations = _operations(kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lockgate",
            "version": __version__,
            "description": "A guarded, OpenAI-compatible server.",
        },
        "paths": {path: operations[path] for path in paths if path in operations},
        "components": {
            "schemas": {**bodies.PARTS, **answers.SCHEMAS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # A server on loopback may have no key.
        "security": [{"key": []}, {}],
    }


def _operations(kind: Kind) -> dict[str, dict[str, Any]]:
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    own = kind == "engine"
    models, model = ("ModelList", "Model") if own else ("Anything", "Anything")
    health = {"get": _operation("Whether the process works.", "Health", kind, down=True)}
    return {
        **{f"/v1{path}": _answering(path, kind) for path in _SUMMARIES},
        "/v1/models": {"get": _operation("The models.", models, kind)},
        "/v1/models/{model}": {"parameters": [name], "get": _operation("One model.", model, kind)},
        "/v1/moderations": _checking("Judge single texts.", "Moderation", bodies.MODERATION),
        "/v1/decisions": _checking(
            "Judge an exchange, or an answer as it comes.", "Decision", bodies.DECISION
        ),
        "/beta/litellm_basic_guardrail_api": _checking(
            "LiteLLM's generic guardrail.", "Guardrail", bodies.GUARDRAIL
        ),
        "/health": health,
        "/healthz": health,
        "/readyz": {"get": _operation("Whether the server can answer.", "Ready", kind, down=True)},
        "/metrics": {"get": _plain(_operation("Metrics for Prometheus.", "Anything", kind))},
        PATH: {"get": _operation("This description.", "Anything", kind)},
    }


def _answering(path: str, kind: Kind) -> dict[str, Any]:
    body: Mapping[str, Any] = {"type": "object"} if kind == "pass" else bodies.relayed(path)
    answer = "Anything"
    if kind == "engine" and path == "/chat/completions":
        body, answer = bodies.CHAT, "Completion"
    found = _operation(_SUMMARIES[path], answer, kind)
    found["responses"]["200"]["content"].update(_EVENTS)
    return {"post": {**found, "requestBody": _json_body(body)}}


def _checking(summary: str, answer: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"post": {**_operation(summary, answer, "engine"), "requestBody": _json_body(body)}}


def _operation(summary: str, answer: str, kind: Kind, *, down: bool = False) -> dict[str, Any]:
    """Return an operation without a body. `down` says that a 503 has the shape of the answer."""
    # An upstream's own errors pass.
    error = "Error" if kind == "engine" else "AnyError"
    responses = {
        "200": _response("The answer.", answer),
        "4XX": _response("The request was refused.", error),
        "5XX": _response("The server or its upstream has failed.", error),
    }
    if down:
        responses["503"] = _response("The server can't answer.", answer)
    return {"summary": summary, "responses": responses}


def _plain(operation: dict[str, Any]) -> dict[str, Any]:
    """Return an operation that answers with plain text instead of JSON."""
    answer = {"description": "The answer.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {**operation, "responses": {**operation["responses"], "200": answer}}


def _response(words: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": words, "content": content}


def _json_body(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}
