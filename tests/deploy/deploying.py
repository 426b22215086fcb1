"""What tests of `deploy/` share: tools that may be missing, and servers that start with a deployed config."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from processes import Command

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
EXTRA = "pip install -r requirements-deploy.txt"
# Keys in these tests. The server reads them from where the deployed config says.
CLIENT_KEY = "sk-deployed-client"


def missing(words: str) -> None:
    """Skip a test for want of a tool, unless CI says that it must run."""
    if os.environ.get("LOCKGATE_REQUIRE_DEPLOY") == "1":
        pytest.fail(words)
    pytest.skip(words)


def program(name: str, hint: str) -> str:
    """The path of a program, which may be in the environment of the tests."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        missing(f"no {name}: {hint}")
    return str(found)


def module(name: str) -> Any:
    """A module of `requirements-deploy.txt`."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        missing(f"no {name}: {EXTRA}")


def write_config(path: Path, config: Mapping[str, Any], places: Mapping[str, str]) -> Path:
    """Write a deployed config as it is, except for beginnings of paths, and with a free port."""
    text = yaml.safe_dump(config, sort_keys=False)
    for there, here in places.items():
        assert there in text, there
        text = text.replace(there, here)
    found = yaml.safe_load(text)
    found["listen"]["port"] = 0
    path.write_text(yaml.safe_dump({**found, "threads": 1}))
    return path


@contextmanager
def serving(preloaded: Any, config: Path, *words: str, variables: Mapping[str, str]) -> Iterator[Command]:
    """A server with a config file, when it is ready."""
    command = Command(
        *("lockgate", "serve", "--config", config, "--json", *words),
        cwd=config.parent,
        preloaded=preloaded,
        variables=variables,
    )
    try:
        command.first_line()
        yield command
    finally:
        command.close()


def ask(url: str, key: str | None = CLIENT_KEY) -> httpx2.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    question = {"messages": [{"role": "user", "content": "why does the lock hold"}], "max_tokens": 3}
    return httpx2.post(f"{url}/v1/chat/completions", json=question, headers=headers, timeout=60)
