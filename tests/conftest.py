"""Fixtures for all tests. `models` holds tiny random backbones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The models in tests are so small that handing work to other threads costs more than the work.
torch.set_num_threads(1)

# A busy machine is no failure.
settings.register_profile("lockgate", deadline=None)
settings.load_profile("lockgate")


@pytest.fixture(scope="session")
def saved_backbone(tmp_path_factory) -> Callable[[str], Path]:
    """Directory of a tiny model by architecture, written once."""
    from models import save_tiny

    folder = tmp_path_factory.mktemp("backbones")

    def saved(architecture: str) -> Path:
        path = folder / architecture
        return path if path.exists() else save_tiny(architecture, path)

    return saved
