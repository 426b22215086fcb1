"""A gateway behind a real socket, a tap that pauses the engine, and a browser."""

import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Locator, Page, expect
from staging import until

from lockgate.backbones import Backbone
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.gateway import Gateway, bind, create_app, url_of
from lockgate.gateway.upstream import UpstreamClient

# A machine that does other work at the same time may take longer than the default of 5 s.
expect.set_options(timeout=20_000)

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
    """A probe tap that lets only so many steps pass: a test decides how far an answer has come."""

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
def serving(gateway: Gateway, upstream: UpstreamClient | None = None) -> Iterator[str]:
    """The URL of `gateway`, served from a thread until the block ends. An `upstream` writes its answers."""
    options: dict[str, Any] = {"log_level": "warning", "lifespan": "on", "ws": "none"}
    server = uvicorn.Server(
        uvicorn.Config(create_app(gateway, upstream), timeout_graceful_shutdown=2, **options)
    )
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        # Clients of a server that could not start would wait for ever.
        until(lambda: server.started or not thread.is_alive())
        assert server.started
        try:
            yield url_of(bound)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@dataclass(frozen=True)
class Site:
    """A served gateway: its address, the valve of its engine, and its threshold."""

    url: str
    gateway: Gateway
    valve: Valve
    threshold: float


@dataclass
class Visit:
    """An open page, and all that went wrong or elsewhere on it."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    may_fail: bool = False

    def ask(self, text: str, state: str | re.Pattern[str] | None = "done") -> None:
        """Send a message, and wait until the answer has reached a state."""
        self.page.get_by_label("Your message").fill(text)
        self.page.keyboard.press("Enter")
        if state is not None:
            expect(self.answer).to_have_attribute("data-state", state, timeout=30_000)

    @property
    def answer(self) -> Locator:
        return self.page.locator(".answer").last

    @property
    def tokens(self) -> Locator:
        return self.answer.locator(".token")

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Frame by frame. Playwright's own waiting evaluates text, which the page's policy forbids."""
        last = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < last
            self.page.evaluate("new Promise(requestAnimationFrame)")


def find_chromium() -> str:
    """Where Chromium is. Skips the module where there is none, or fails it if a browser is required."""
    path = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
    if Path(path).is_file():
        return path
    words = "no Chromium: install it (Debian: apt install chromium) or set CHROMIUM"
    if os.environ.get("LOCKGATE_REQUIRE_BROWSER") == "1":
        pytest.fail(words)
    pytest.skip(words, allow_module_level=True)
