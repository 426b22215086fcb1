"""A real server process with a guard before a scripted model, for other tools that attack it."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browsers import serving_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.idle import serving
from benchmarks.tiny import save_marking_guard

ROOT = Path(__file__).parents[2]
LOCAL = "http://127.0.0.1:8000"


class Model:
    """A model that answers by `answer`, and keeps what it was asked."""

    def __init__(self, answer: Callable[[list[dict[str, Any]]], str]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._answer = answer
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        message = {"role": "assistant", "content": self._answer(body["messages"])}
        return JSONResponse(
            {
                "id": "m",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )


@contextmanager
def guarded(folder: Path, model: Model) -> Iterator[str]:
    """The URL of `lockgate serve` before a model. Its guard flags the mark; its log is `decisions.db`."""
    guard, backbone = save_marking_guard(folder)
    words = ["--guard", str(guard), "--backbone", str(backbone), "--threads", "1"]
    with serving_app(model.app) as upstream:
        log = ["--upstream", f"{upstream}/v1", "--decisions", str(folder / "decisions.db")]
        with serving([*words, *log]) as (_, url):
            yield url


def from_the_page(heading: str, language: str, url: str) -> str:
    """The first block of code in a section of docs/adapters.md, for the server at `url`."""
    page = (ROOT / "docs" / "adapters.md").read_text()
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found is not None
    assert LOCAL in found.group(1)
    return found.group(1).replace(LOCAL, url)


def text_of(messages: Any) -> str:
    """What makes a conversation known again: roles and contents."""
    return json.dumps([[message["role"], message["content"] or ""] for message in messages])
