"""The benchmark of white-box attacks: its command, its result file, and that the file tells no text."""

import json
import sys

import pytest
import yaml
from classifying import random_classifier
from models import save_tiny
from parts import make_guard

from benchmarks import whitebox
from lockgate.backbones import Backbone
from lockgate.cascade import Cascade

ANSWER = "the lock holds the water back. the boat waits between two gates, and the canal runs past the mill"


@pytest.fixture
def files(tmp_path):
    backbone = Backbone.load(save_tiny("llama", tmp_path / "model"))
    plain = make_guard(backbone, flag=-99.0)
    plain.with_cascade(random_classifier(backbone), Cascade(-99.0, -99.0, 0.5)).save(tmp_path / "guard")
    make_guard(backbone, seed=4).save(tmp_path / "other")
    query = {"category": "c", "text": "how does the boat run", "answers": [ANSWER]}
    content = {
        "name": "canals",
        "constitution": "stage-magic",
        "queries": [query | {"id": "a"}, query | {"id": "b"}],
    }
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def test_the_command_writes_numbers_and_goes_on(files, monkeypatch) -> None:
    output = files / "whitebox.json"
    arguments = [
        "--guard",
        files / "guard",
        "--backbone",
        files / "model",
        "--queries",
        files / "queries.yaml",
    ]
    arguments += ["--other", f"seed-4={files / 'other'}", "--state", files / "state", "--output", output]
    arguments += ["--suffix", 2, "--steps", 1, "--batch", 2]
    monkeypatch.setattr(sys, "argv", ["whitebox", *map(str, arguments)])
    whitebox.main()
    found = json.loads(output.read_text())["attacks"]
    assert list(found["attacks"]) == [
        f"{target}-{space}"
        for target in ("guard", "probe", "classifier")
        for space in ("tokens", "embeddings")
    ]
    assert found["budget"]["steps"] == 1
    for name, figures in found["attacks"].items():
        assert [one["query"] for one in figures["queries"]] == ["a", "b"]
        assert figures["n"] == 2
        assert ("transfer" in figures) == name.endswith("tokens")
    assert found["attacks"]["guard-tokens"]["transfer"]["seed-4"]["n"] == 2
    text = output.read_text()
    assert not [word for word in ("lock", "boat", "canal") if f" {word}" in text]
    before = sorted(path.read_text() for path in (files / "state").iterdir())
    whitebox.main()
    assert sorted(path.read_text() for path in (files / "state").iterdir()) == before
    assert json.loads(output.read_text())["attacks"]["attacks"] == found["attacks"]
