"""Start the server, ask it over HTTP, and stop it."""

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

__all__ = ["serve_once"]

_QUESTIONS = ("How long does tea take to draw?", "Name three rivers.", "What is a canal lock?")
_TOKENS = 24
_START_TIMEOUT, _ANSWER_TIMEOUT, _STOP_TIMEOUT = 1800.0, 600.0, 120.0


def serve_once(line: Sequence[str]) -> dict[str, Any]:
    """Run the server's command line, ask three questions, and stop it.

    Returns:
        How the server described itself, how the answers ended, and the seconds that they took. No text.

    Raises:
        SystemExit: the server did not start, or did not stop in order.
    """
    start = time.monotonic()
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            first = server.stdout.readline()
            if not first:
                raise SystemExit("serve: the server ended before it was ready; see above")
            ready = json.loads(first)
            started = time.monotonic() - start
            answers = [_ask(ready["url"], ready["model"], question) for question in _QUESTIONS]
            state = _get(f"{ready['url']}/readyz")
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(_STOP_TIMEOUT)
    about = {key: ready["guard"][key] for key in ("precision", "stages", "calibrated", "budget")}
    return {
        "start_s": round(started, 1),
        "guard": about,
        "status": state["status"],
        "decisions": state["decisions"]["written"],
        "answers": answers,
        "exit_code": server.returncode,
    }


def _ask(url: str, model: str, question: str) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": _TOKENS,
        "temperature": 0,
    }
    request = urllib.request.Request(  # noqa: S310 - the address of the server that this recipe started
        f"{url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    start = time.monotonic()
    found = _get(request)
    return {
        "finish_reason": found["choices"][0]["finish_reason"],
        "completion_tokens": found["usage"]["completion_tokens"],
        "seconds": round(time.monotonic() - start, 2),
    }


def _get(request: str | urllib.request.Request) -> dict[str, Any]:
    # A proxy from the environment must not see what goes to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_ANSWER_TIMEOUT) as reply:
        found: dict[str, Any] = json.load(reply)
    return found
