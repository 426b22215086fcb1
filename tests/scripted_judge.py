"""A server that answers as a judge's endpoint, well or badly as a test decides."""

import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Manners = Callable[[dict[str, Any], int], Response | float | None]


def harm_of(text: str) -> float:
    """The probability of "Yes" that the endpoint gives a text: it grows with the exclamation marks."""
    return 1 / (1 + math.exp(2 - text.count("!")))


def verdict(text: str, *, top: bool = True) -> dict[str, Any]:
    """The reply of a model that says Yes or No, with nine tenths of its probability."""
    yes = harm_of(text)
    listed = [
        {"token": token, "logprob": math.log(share)}
        for token, share in (("Yes", 0.8 * yes), (" yes", 0.1 * yes), ("No", 0.9 * (1 - yes)), ("Well", 0.1))
    ]
    listed.sort(key=lambda entry: -entry["logprob"])
    entry = {**listed[0], "top_logprobs": listed if top else []}
    choice = {"message": {"role": "assistant", "content": listed[0]["token"]}, "finish_reason": "length"}
    choice["logprobs"] = {"content": [entry]}
    return {"choices": [choice], "usage": {"prompt_tokens": len(text), "completion_tokens": 1}}


@dataclass
class Scripted:
    """What the server was asked, and how it behaves: `manners` gives a response, seconds to wait, or None."""

    url: str = ""
    manners: Manners = lambda body, number: None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    async def answer(self, request: Request) -> Response:
        body = json.loads(await request.body())
        number = len(self.bodies)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            found = self.manners(body, number)
            if isinstance(found, float):
                await anyio.sleep(found)
            if isinstance(found, Response):
                return found
            return JSONResponse(verdict(body["messages"][-1]["content"], top="top_logprobs" in body))
        finally:
            self.in_flight -= 1


@contextmanager
def serving_judge(manners: Manners = lambda body, number: None) -> Iterator[Scripted]:
    """A scripted endpoint on a free port until the block ends."""
    scripted = Scripted(manners=manners)
    app = Starlette(routes=[Route("/v1/chat/completions", scripted.answer, methods=["POST"])])
    options: dict[str, Any] = {"log_level": "error", "lifespan": "off", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **options))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        scripted.url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            yield scripted
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
