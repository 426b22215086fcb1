"""A local server in OpenAI's shape. The test decides how it behaves."""

import asyncio
import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


def words_of(body: dict[str, Any]) -> str:
    """An answer that depends on the messages and the seed alone."""
    basis = json.dumps([body["messages"], body["seed"]], sort_keys=True)
    return "answer " + hashlib.sha256(basis.encode()).hexdigest()[:12]


def reply(text: str | None, finish: str = "stop", **usage: int) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": usage or {"prompt_tokens": 5, "completion_tokens": 3},
    }


# What to answer to the n-th attempt (from 0) at a request; None is the usual answer.
Manners = Callable[[dict[str, Any], int], Response | None]


@dataclass
class Endpoint:
    url: str = ""
    manners: Manners = lambda body, attempt: None
    hold: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        key = (body["model"], request.headers["idempotency-key"])
        attempt = self.attempts[key]
        self.attempts[key] += 1
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.in_flight >= self.hold:
                self.full.set()
            await self.full.wait()
            return self.manners(body, attempt) or JSONResponse(reply(words_of(body)))
        finally:
            self.in_flight -= 1

    def repeated(self, model: str) -> int:
        """Requests of a model that were sent more often than once."""
        return sum(count - 1 for (name, _), count in self.attempts.items() if name == model)


@contextmanager
def serving_endpoint(**options: Any) -> Iterator[Endpoint]:
    """A server on a free port until the step ends."""
    endpoint = Endpoint(**options)
    app = Starlette(routes=[Route("/v1/chat/completions", endpoint.answer, methods=["POST"])])
    config: dict[str, Any] = {"log_level": "warning", "lifespan": "off", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **config))
    # asyncio sends answers without delay only over sockets that name their protocol: 40 ms for each request.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        endpoint.url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            yield endpoint
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
