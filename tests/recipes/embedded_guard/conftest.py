"""Steps of the embedded guard's recipe by name."""

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch


@pytest.fixture
def script() -> Iterator[Callable[[str], ModuleType]]:
    """A step of the recipe by its name."""
    threads = torch.get_num_threads()
    yield lambda name: importlib.import_module(f"recipes.embedded_guard.{name}")
    torch.set_num_threads(threads)
