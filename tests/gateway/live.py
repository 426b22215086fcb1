"""A gateway behind a real socket, a tap that pauses the engine, and a browser."""

import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from browsers import serving_app
from playwright.sync_api import Locator, Page, expect

from lockgate.backbones import Backbone
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.gateway import Gateway, create_app
from lockgate.gateway.upstream import UpstreamClient


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
    with serving_app(create_app(gateway, upstream), lifespan="on") as url:
        yield url


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
