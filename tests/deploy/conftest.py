"""A guard on a tiny model, as an operator would have it in a folder."""

import pytest
from models import tiny_backbone
from parts import make_guard

from lockgate.backbones import Backbone


@pytest.fixture(scope="session")
def guard_folders(tmp_path_factory):
    """A folder with `guard` and `model`."""
    root = tmp_path_factory.mktemp("deployed")
    backbone = tiny_backbone("qwen2", seed=3)
    backbone.model.save_pretrained(root / "model")
    backbone.tokenizer.save_pretrained(root / "model")
    make_guard(Backbone.load(root / "model"), flag=1e6).save(root / "guard")
    return root
