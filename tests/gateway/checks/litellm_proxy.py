"""LiteLLM's real proxy in a process of its own, before a scripted model, with Lockgate as its guardrail."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lockgate.gateway import bind, url_of


def find_litellm() -> str:
    """Where the command is. Skips the module where there is none, or fails it if it is required."""
    beside = Path(sys.executable).with_name("litellm")
    path = os.environ.get("LITELLM") or shutil.which("litellm") or (str(beside) if beside.is_file() else None)
    if path is not None:
        return path
    words = "no LiteLLM proxy: pip install 'litellm[proxy]', or set LITELLM to its command"
    if os.environ.get("LOCKGATE_REQUIRE_LITELLM") == "1":
        pytest.fail(words)
    pytest.skip(words, allow_module_level=True)


class ScriptedModel:
    """A chat model that writes `pieces`, one chunk each."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])

    async def _complete(self, request: Request) -> Response:
        base = {"id": "scripted", "created": 0, "model": "scripted"}
        if (await request.json()).get("stream"):
            return StreamingResponse(self._chunks(base), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(self.pieces)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return JSONResponse({**base, "object": "chat.completion", "choices": [choice], "usage": usage})

    async def _chunks(self, base: dict[str, Any]) -> AsyncIterator[str]:
        deltas = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": piece}, None) for piece in self.pieces]
        for delta, reason in [*deltas, ({}, "stop")]:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            chunk = {**base, "object": "chat.completion.chunk", "choices": [choice]}
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """The URL of an application, served from a thread until the block ends."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            yield url_of(bound)
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def litellm_proxy(
    command: str, folder: Path, *, model: str, guard: str, key: str, **guardrail: Any
) -> Iterator[openai.OpenAI]:
    """A client of a proxy that shows all requests and answers of `model` to the server at `guard`."""
    parameters = {
        "guardrail": "generic_guardrail_api",
        "mode": ["pre_call", "post_call"],
        "api_base": guard,
        "api_key": key,
        "default_on": True,
        **guardrail,
    }
    settings = {
        "model_list": [
            {
                "model_name": "scripted",
                "litellm_params": {
                    "model": "openai/scripted",
                    "api_base": f"{model}/v1",
                    "api_key": "none",
                    "max_retries": 0,
                },
            }
        ],
        "guardrails": [{"guardrail_name": "lockgate", "litellm_params": parameters}],
    }
    config = folder / "litellm.yaml"
    config.write_text(yaml.safe_dump(settings))
    port = _free_port()
    words = [command, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    own_key = f"sk-{secrets.token_hex(32)}"
    offline = {
        "LITELLM_MASTER_KEY": own_key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "NO_PROXY": "*",
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (folder / "litellm.txt").open("wb") as output:
        process = subprocess.Popen(
            words, cwd=folder, env={**environment, **offline}, stdout=output, stderr=output
        )
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}", process)
            with openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key=own_key, max_retries=0
            ) as client:
                yield client
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    last = time.monotonic() + 180
    while True:
        assert process.poll() is None, "the proxy has ended"
        assert time.monotonic() < last, "the proxy does not start"
        try:
            if httpx2.get(f"{url}/health/liveliness", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
