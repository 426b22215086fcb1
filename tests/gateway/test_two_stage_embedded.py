"""What `make serve`, `lockgate.load` and `lockgate doctor` do with an embedded guard of two stages."""

import json
from types import SimpleNamespace

import pytest
from classifying import random_classifier
from models import random_head, save_tiny
from serving import CHAT, ask, client_for, decisions_of

import lockgate
from lockgate.backbones import Backbone, embedded_identity, embedded_path
from lockgate.cascade import Cascade, Thresholds
from lockgate.cli import main
from lockgate.cli._serve_run import _load
from lockgate.constitution import constitution_path, load_constitution
from lockgate.decisions import LogOptions
from lockgate.gateway import EngineOptions, GatewayOptions
from lockgate.guards import Guard, _bundle


@pytest.fixture
def embedded(tmp_path, monkeypatch) -> Guard:
    """A tiny model where the embedded one lies, and a guard of two stages where the package has its own."""
    monkeypatch.setenv("LOCKGATE_HOME", str(tmp_path / "home"))
    save_tiny("llama", embedded_path())
    (embedded_path() / "complete.json").write_text(json.dumps(embedded_identity()))
    backbone = Backbone.load("embedded")
    guard = Guard.create(
        name="small", backbone=backbone, constitution=load_constitution("stage-magic"),
        constitution_yaml=constitution_path("stage-magic").read_text(encoding="utf-8"),
        head=random_head(backbone), thresholds=Thresholds(1e9, flag_on="answer", min_tokens=1),
        classifier=random_classifier(backbone), cascade=Cascade(-1e9, 1e9, 0.5),
    ).save(tmp_path / "bundle")  # fmt: skip
    monkeypatch.setitem(_bundle._SHIPPED, "embedded", tmp_path / "bundle")
    return guard


def test_it_is_loaded_and_scores_by_both_stages(embedded) -> None:
    guard = lockgate.load("embedded")
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the boat"}]
    found = guard.score(messages)
    assert guard.sha256 == embedded.sha256
    assert (found.stage, found.mixed_max) == (2, embedded.score(messages).mixed_max)
    with guard.stream(messages[:1]) as stream:
        stream.push(guard.backbone.chat.encode_text("the boat"))
        assert not stream.finish().flagged


def test_the_doctor_names_its_stages_and_asks_both(embedded, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--offline", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["embedded guard"]["found"] == "small, two stages, uncalibrated"
    assert checks["works offline"]["ok"], checks
    assert "verdicts given" in checks["works offline"]["found"]


@pytest.mark.anyio
async def test_serving_starts_warm_and_asks_the_second_stage(embedded, tmp_path) -> None:
    options = GatewayOptions(
        LogOptions(tmp_path / "decisions.db"), EngineOptions(max_streams=2, verdict_timeout=600)
    )
    settings = SimpleNamespace(
        guard="embedded", backbone="embedded", device="auto", dtype="auto", threads=None, engine="lockgate"
    )
    gateway = _load(settings, options, {})
    assert gateway.problems() == []
    assert gateway.about_guard["stages"] == 2
    async with client_for(gateway) as client:
        ready = (await client.get("/readyz")).json()
        assert (ready["status"], ready["verdicts"]["alive"]) == ("ready", True)
        answer = (await client.post(CHAT, json=ask(max_tokens=9))).json()
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    line = decisions_of(gateway)[0]
    assert (line["decision"], line["stage"], line["fault"]) == ("pass", 2, None)
    assert line["verdicts"] >= 1
