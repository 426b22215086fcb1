"""A gateway behind a real socket, a tap that holds the engine back, and the browser that looks at them."""

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from lockgate.backbones import Backbone
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.gateway import Gateway, bind, create_app, url_of

CHROMIUM_ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Valve(ProbeTap):
    """A probe tap through which only so many steps pass, so that a test decides how far an answer has come."""

    def __init__(self, backbone: Backbone, head: ProbeHead) -> None:
        super().__init__([head], backbone.hidden_size)
        self._turned = threading.Condition()
        self._left = math.inf

    def let_through(self, steps: float) -> None:
        with self._turned:
            self._left = steps
            self._turned.notify_all()

    def open(self) -> None:
        self.let_through(math.inf)

    def begin(self, tokens: int) -> None:
        with self._turned:
            assert self._turned.wait_for(lambda: self._left > 0, timeout=60)
            self._left -= 1
        super().begin(tokens)


@contextmanager
def serving(gateway: Gateway) -> Iterator[str]:
    """The URL of `gateway`, served from a thread until the block ends."""
    options: dict[str, Any] = {"log_level": "warning", "lifespan": "on", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(create_app(gateway), timeout_graceful_shutdown=2, **options))
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            yield url_of(bound)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def chromium_path() -> str:
    """Where Chromium is; skips the test where there is none, or fails it if a browser is required."""
    path = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
    if Path(path).is_file():
        return path
    words = "no Chromium: install it (Debian: apt install chromium) or set CHROMIUM"
    if os.environ.get("LOCKGATE_REQUIRE_BROWSER") == "1":
        pytest.fail(words)
    pytest.skip(words)
