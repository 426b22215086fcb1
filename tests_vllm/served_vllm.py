"""vLLM's own server as a process: its address, its log, its figures, and all that it has started."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil

from lockgate.vllm import ENVIRONMENT, command_line

ROOT = Path(__file__).parents[1]
SECONDS = 500


class VllmServer:
    """A server that starts. `wait` returns once it answers."""

    def __init__(self, arguments: dict[str, Any], folder: Path, *options: str) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.root = f"http://127.0.0.1:{found.getsockname()[1]}"
        self.url = f"{self.root}/v1"
        self._log = folder / "vllm.log"
        place = ["--host", "127.0.0.1", "--port", self.root.rpartition(":")[2]]
        environment = {"PYTHONPATH": str(ROOT), "VLLM_ENABLE_V1_MULTIPROCESSING": "1", **ENVIRONMENT}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command_line(arguments, python=sys.executable, options=[*place, *options]),
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        deadline = time.monotonic() + SECONDS
        while not self._answers():
            assert self.process.poll() is None, self._log.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.5)

    def figures(self) -> dict[str, float]:
        """The requests that run now, and the tokens that were read and written so far."""
        names = ("num_requests_running", "prompt_tokens_total", "generation_tokens_total")
        lines = httpx2.get(f"{self.root}/metrics", timeout=30).text.splitlines()
        return {
            name: sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))
            for name in names
        }

    def close(self) -> None:
        """End it and all that it has started."""
        running = self.process.poll() is None
        for child in psutil.Process(self.process.pid).children(recursive=True) if running else []:
            child.kill()
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.root}/health").status_code == 200
        except httpx2.HTTPError:
            return False
