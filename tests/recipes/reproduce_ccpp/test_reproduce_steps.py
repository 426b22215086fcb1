"""The study's recipe from data to report, on a tiny backbone: every model, resumed, and checked."""

import importlib
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from models import random_head

from lockgate.backbones import Backbone, derive
from lockgate.cascade import Thresholds
from lockgate.classifiers import ExchangeClassifier, score_blocks
from lockgate.classifiers.text import TextBaselineConfig
from lockgate.constitution import dump_constitution, load_constitution
from lockgate.exchanges import Exchange, Message, read_exchanges, write_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.training import ProbeConfig
from recipes.embedded_guard.teacher import read_soft_labels

RECIPE = Path(__file__).parents[3] / "recipes" / "reproduce_ccpp"
WORDS = [
    first + second
    for first in ("lan", "mir", "bor", "tel", "kan", "vio")
    for second in ("tern", "ror", "chard", "low", "dle", "lin")
]
HARM = "boat boat boat boat boat"


@pytest.fixture(scope="module")
def steps() -> SimpleNamespace:
    """The recipe's steps by name."""
    names = [path.stem for path in RECIPE.glob("*.py") if path.stem != "__init__"]
    found: dict[str, ModuleType] = {
        name: importlib.import_module(f"recipes.reproduce_ccpp.{name}") for name in names
    }
    return SimpleNamespace(**found)


def row(number: int, label: float = 0.0, source: str = "some", words: int = 8, **meta: object) -> Exchange:
    """An exchange with a prompt of its own; a harmful answer repeats one word."""
    draw = random.Random(number)
    ask = " ".join(draw.sample(WORDS, 5))
    answer = " ".join(draw.choice(WORDS) for _ in range(words))
    if label >= 0.5:
        answer = f"{answer} {HARM}"
    return Exchange((Message("user", ask), Message("assistant", answer)), label, None, source, dict(meta))


def write_data(folder: Path) -> None:
    """What the embedded guard's recipe would have prepared."""
    folder.mkdir()
    mixed = [float(i % 2) for i in range(30)]
    parts = {
        "train": [row(i, mixed[i]) for i in range(30)],
        "dev": [row(100 + i, mixed[i]) for i in range(10)],
        "hard_benign": [row(200 + i) for i in range(4)],
        "calibration": [row(300 + i, words=4 + i % 9) for i in range(30)],
        "benign_test": [row(400 + i, words=4 + i % 9) for i in range(16)],
        "test_saferlhf_mini": [row(500 + i, mixed[i]) for i in range(8)],
        "test_own_sgbench": [row(600 + i, mixed[i]) for i in range(6)],
        "test_gptfuzz": [row(700 + i, mixed[i], words=40 * (i < 2) + 4) for i in range(4)],
        "test_adaptive_attacks": [row(800 + i, mixed[i], words=40 * (i < 2) + 4) for i in range(4)],
    }
    for name, rows in parts.items():
        write_exchanges(folder / f"{name}.jsonl", rows)


def write_stand_ins(folder: Path) -> None:
    """Pairs of an attack and its twin by family, and refusals."""
    for number, (part, size) in enumerate((("train", 8), ("test", 5))):
        rows = [
            row(
                1000 * (number + 1) + 10 * f + 2 * i + int(harmful),
                float(harmful),
                family=family,
                twin=str(i),
            )
            for f, family in enumerate(("plain", "obfuscation", "reconstruction"))
            for i in range(size)
            for harmful in (False, True)
        ]
        refused = [row(9000 + number, family="plain", refused=True)]
        marked = [
            replace(own, meta={**own.meta, "harmful_request": (own.label or 0.0) >= 0.5})
            for own in rows + refused
        ]
        write_exchanges(folder / f"disguise_{part}.jsonl", marked)


def write_guard(backbone: Path, target: Path) -> Path:
    loaded = Backbone.load(backbone)
    policy = load_constitution("general-harms")
    Guard.create(
        name="tiny",
        backbone=loaded,
        constitution=policy,
        constitution_yaml=dump_constitution(policy),
        head=random_head(loaded),
        thresholds=Thresholds(flag=1e9, flag_on="both", min_tokens=2),
    ).save(target)
    return target


def write_spec(name: str, folder: Path, results: Path) -> Path:
    """The recipe's own spec with what differs for a tiny model."""
    content = yaml.safe_load((RECIPE / f"{name}.yaml").read_text())
    scoring = json.loads((results / content["exchange"] / "scoring.json").read_text())
    changes = {"root": str(results), "resamples": 100, "probe_flops": scoring["probe_flops"]}
    changes |= {"production": {**content["production"], "escalation": 0.3}}
    # The suffix: the end of the turn and a question of one token.
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, **changes, "verdict_tokens": 3}))
    return path


def test_from_data_to_report(
    tmp_path: Path,
    steps: SimpleNamespace,
    saved_backbone: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    backbone = saved_backbone("llama")
    out, results = tmp_path / "runs", tmp_path / "results"
    places = steps.places.Places(out, results, str(backbone), str(write_guard(backbone, tmp_path / "guard")))
    write_data(tmp_path / "data")
    sizes = steps.dataset.Sizes(calibration=28, benign_test=15, harmful=22, limit=160)
    parts = steps.dataset.choose_parts(tmp_path / "data", Backbone.load(backbone).render, sizes)
    steps.dataset.write_parts(parts, out, tmp_path / "data", sizes, results)
    write_stand_ins(out)

    def train() -> None:
        for config in steps.train.CONFIGS.values():
            depth = config.depth and config.depth // 10
            tiny = {"layers": 1, "rank": 2, "tokens": 500, "tokens_per_step": 256, "depth": depth}
            steps.train.train(places, replace(config, **tiny, question="?", words=("0", "1")))
        steps.probe.train_probe(places, ProbeConfig("tiny", (0, 1, 2), epochs=2), 1500)
        steps.baselines.score_text(places, TextBaselineConfig(bits=8, cs=(1.0,), folds=2))

    def score(models: list[str]) -> None:
        for name in models:
            for part, wanted in steps.parts.MODELS[name].parts.items():
                steps.score.score_part(places, name, part, wanted, workers=1)

    train()
    score(list(steps.parts.MODELS))
    steps.cost.measure(places, 12)
    check_tables(results)
    check_teacher(steps.teach.write_labels, places)

    capsys.readouterr()
    stamps = {path: path.stat().st_mtime_ns for path in results.rglob("*.parquet")}
    train()
    score(["probe_exchange", "value"])
    assert capsys.readouterr().out.count("there already") == len(steps.train.CONFIGS) + 2
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.parquet")} == stamps

    check_report(steps.report.main, tmp_path, results)


def check_tables(results: Path) -> None:
    """Each model has read what it is to read, in the precision that its record tells."""
    assert json.loads((results / "value" / "scoring.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((results / "probe_exchange" / "scoring.json").read_text())["dtype"] == "bfloat16"
    assert not (results / "value" / "dev.parquet").exists()
    # Adapters stay with the run; results keep how they were trained.
    assert {path.suffix for path in (results / "models").iterdir()} == {".json"}
    plain = ScoresTable.read(results / "disguise_input" / "disguise_plain.parquet")
    assert (len(plain), plain.labels.sum()) == (10, 5)
    reference = ScoresTable.read(results / "probe_exchange" / "calibration.parquet")
    for name in ("input", "output", "small", "text"):
        assert ScoresTable.read(results / name / "calibration.parquet").ids == reference.ids
    cost = json.loads((results / "cost.json").read_text())
    assert cost["n"] == 12
    assert cost["largest_difference"] < 1e-3
    assert cost["shared_over_alone"]["flops"] < 1


def check_teacher(write: Callable[[Any], str], places: Any) -> None:
    """Every training exchange has a soft label, and it is the last verdict's."""
    rows = list(read_exchanges(places.out / "train.jsonl"))
    said = write(places)
    labels = read_soft_labels(places.results / "teacher" / "labels.parquet")
    assert labels.keys() == {row.id for row in rows}
    assert said.startswith(f"{len(rows)} exchanges; of {sum(row.label or 0 for row in rows):.0f} harmful")
    reader = Backbone.load(places.backbone)
    classifier = ExchangeClassifier.load(places.model("exchange"), reader)
    classifier.backbone = derive(classifier.backbone, dtype=torch.bfloat16)
    last = {score.exchange.id: score.logits[-1] for score in score_blocks(classifier, rows, stride=10**6)}
    assert {name: pytest.approx(1 / (1 + math.exp(-logit))) for name, logit in last.items()} == labels


def check_report(report: Callable[[list[str]], None], folder: Path, results: Path) -> None:
    """The figures are written, and follow from the tables."""
    page, summary = folder / "results.md", folder / "four_systems.json"
    page.write_text("<!-- systems:start -->\n<!-- systems:end -->\n")
    specs = {name: write_spec(name, folder, results) for name in ("systems", "disguise")}
    options = ["--spec", specs["systems"], "--disguise", specs["disguise"], "--summary", summary]
    command = [str(part) for part in [*options, "--page", page]]
    report(command)
    report([*command, "--check"])
    found = json.loads(summary.read_text())
    assert list(found["systems"]) == ["last_generation", "exchange", "cascade", "production"]
    assert set(found["scorers"]) == {"probe", "small", "text", "medium", "value"}
    assert (
        found["shared"]["relative_compute_engine"] < found["systems"]["exchange"]["relative_compute_engine"]
    )
    assert found["precision"]["medium"] == "bfloat16"
    sets = found["disguise"]["systems"]["exchange"]["sets"]
    assert {name: (own["n_detected"], own["n_false_alarms"]) for name, own in sets.items()} == {
        f"disguise_{name}": (5, 5) for name in ("plain", "obfuscation", "reconstruction")
    }
    assert "| obfuscation |" in page.read_text()
    assert "<svg" in (results / "report.html").read_text()
    assert "<svg" in (results / "disguise.html").read_text()

    content = yaml.safe_load(specs["systems"].read_text())
    specs["systems"].write_text(yaml.safe_dump({**content, "probe_flops": 1.0}))
    with pytest.raises(SystemExit, match="probe_flops"):
        report(command)


def test_ordinary_rows_of_another_policy_are_harmless_and_judged(
    tmp_path: Path, steps: SimpleNamespace
) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_exchanges(first, [row(1, 1.0), row(2)])
    asked = [row(3, harmful_request=True), row(4, harmful_request=None), row(5, 1.0, harmful_request=False)]
    write_exchanges(second, [*asked, row(6, harmful_request=False)])
    found = steps.train.read_training([first, second])
    assert [own.id for own in found] == [row(1, 1.0).id, row(2).id, row(6).id]
    assert len(steps.train.read_training([second])) == 4


def test_a_part_is_the_first_rows_of_its_family(tmp_path: Path, steps: SimpleNamespace) -> None:
    rows = [row(i, family=("plain", "other")[i % 2], twin=str(i)) for i in range(8)]
    write_exchanges(tmp_path / "all.jsonl", [row(9, family="plain"), *rows])
    part = steps.parts.Part("all", 3, "plain")
    assert [own.id for own in part.read(tmp_path)] == [rows[i].id for i in (0, 2, 4)]
    assert [own.id for own in read_exchanges(part.path(tmp_path))] == [rows[i].id for i in (0, 2, 4)]
    assert steps.parts.Part("all").path(tmp_path) == tmp_path / "all.jsonl"
