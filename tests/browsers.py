"""A browser for tests, and applications behind a real socket."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import expect
from starlette.applications import Starlette

from lockgate.gateway import bind, url_of

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


@contextmanager
def serving_app(app: Starlette, lifespan: Any = "off") -> Iterator[str]:
    """The address of an application that a thread serves until the block ends."""
    options: dict[str, Any] = {"log_level": "warning", "lifespan": lifespan, "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=2, **options))
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        # Clients of a server that could not start would wait for ever.
        deadline = time.monotonic() + 30
        while not server.started and thread.is_alive():
            assert time.monotonic() < deadline
            os.sched_yield()
        assert server.started
        try:
            yield url_of(bound)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def find_chromium() -> str:
    """Where Chromium is. Skips the module where there is none, or fails it if a browser is required."""
    path = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
    if Path(path).is_file():
        return path
    words = "no Chromium: install it (Debian: apt install chromium) or set CHROMIUM"
    if os.environ.get("LOCKGATE_REQUIRE_BROWSER") == "1":
        pytest.fail(words)
    pytest.skip(words, allow_module_level=True)
