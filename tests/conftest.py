"""Fixtures for all tests. `models` holds tiny random backbones."""

import atexit
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# The models in tests are so small that handing work to other threads costs more than the work.
torch.set_num_threads(1)

# A busy machine is no failure.
settings.register_profile("lockgate", deadline=None)
settings.load_profile("lockgate")

# Collections would look at all imported objects again and again, and for over a second at the end.
gc.disable()
atexit.register(gc.freeze)


def pytest_collection_finish() -> None:
    """Leave what was imported out of collections: it is there to stay."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Any]:
    """A process whose forks are commands, started when the first test asks for it."""
    from processes import Preloaded

    process = Preloaded()
    yield process
    process.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of our own, started when the first test asks for it."""
    from postgres import Postgres, binaries

    if binaries() is None:
        assert not os.environ.get("LOCKGATE_REQUIRE_POSTGRES"), "PostgreSQL is not installed"
        pytest.skip("PostgreSQL is not installed")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def saved_backbone(tmp_path_factory) -> Callable[[str], Path]:
    """Directory of a tiny model by architecture, written once."""
    from models import save_tiny

    folder = tmp_path_factory.mktemp("backbones")

    def saved(architecture: str) -> Path:
        path = folder / architecture
        return path if path.exists() else save_tiny(architecture, path)

    return saved
