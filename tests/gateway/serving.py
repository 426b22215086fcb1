"""Helpers for the gateway's tests: a gateway on a tiny model, its client, and requests."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from logs import decisions_in

from lockgate.backbones import Backbone
from lockgate.cascade import FlagOn, Thresholds
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.decisions import LogOptions
from lockgate.gateway import EngineOptions, Gateway, GatewayOptions, Scoring, create_app
from lockgate.guards import Stages

REFUSAL = "The gates stay shut."
NEVER = 1e9
CHAT = "/v1/chat/completions"


def scoring_for(
    backbone: Backbone,
    head: ProbeHead,
    flag: float = NEVER,
    *,
    flag_on: FlagOn = "answer",
    min_tokens: int = 4,
    tap: Any = None,
) -> Scoring:
    """A guard's share of the engine, around a probe."""
    return Scoring(
        stages=Stages(head, Thresholds(flag, min_tokens=min_tokens, flag_on=flag_on)),
        tap=tap or ProbeTap([head], backbone.hidden_size),
        refusal=REFUSAL,
        guard="0123456789abcdef",
    )


class GatewayFactory:
    """Makes gateways with a decision log of their own, and reads those logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def __call__(self, backbone: Backbone, scoring: Scoring | None, **options: Any) -> Gateway:
        engine = {
            name: options.pop(name)
            for name in (
                "mode",
                "max_streams",
                "max_queue",
                "kv_tokens",
                "step_timeout",
                "verdict_timeout",
                "queue_timeout",
                "verdict_breaker",
                "release",
            )
            if name in options
        }
        if scoring is None:
            engine["mode"] = "off"
        path = self._folder / f"decisions-{next(self._numbers)}.db"
        options.setdefault("log", LogOptions(path))
        return Gateway(backbone, scoring, GatewayOptions(engine=EngineOptions(**engine), **options))


def path_of(gateway: Gateway) -> Path:
    path = gateway.decisions.place.path
    assert path is not None
    return path


def decisions_of(gateway: Gateway) -> list[dict[str, Any]]:
    return decisions_in(path_of(gateway))


@asynccontextmanager
async def client_for(gateway: Gateway, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client inside the running application."""
    app = create_app(gateway)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", **options) as client:
            yield client


def ask(text: str = "why does the lock hold", **fields: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    """Chunks of a stream; it must be well formed and end with [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    # A slow machine has the server keep the stream alive.
    lines = [line for line in lines if line != ": ping"]
    assert all(line.startswith("data: ") for line in lines)
    payloads = [line.removeprefix("data: ") for line in lines]
    assert payloads.pop() == "[DONE]"
    return [json.loads(payload) for payload in payloads]


def text_of(events: Sequence[dict[str, Any]], choice: int = 0) -> str:
    return "".join(
        item["delta"].get("content") or ""
        for event in events
        for item in event["choices"]
        if item["index"] == choice
    )


async def eventually(condition: Callable[[], bool]) -> None:
    """Let other tasks and threads run until something holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.to_thread(lambda: None)
