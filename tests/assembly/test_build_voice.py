"""A build chooses its fit, tries a text voice, and calibrates both stages together if it keeps it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from build_runs import QUICK, build, labelled_row, traffic_row, write_rows

from lockgate.assembly import TrainingPlan, summarise_build
from lockgate.assembly import _voice as voice_module
from lockgate.assembly._rows import ORIGIN, TRAFFIC
from lockgate.assembly._voice import describe_voice
from lockgate.durable import hash_path
from lockgate.errors import CalibrationError, ConfigError
from lockgate.exchanges import read_exchanges
from lockgate.guards import Guard, read_bundle
from lockgate.tables import ScoresTable

pytestmark = pytest.mark.slow

BASELINE = replace(QUICK.baseline, excerpt=40)
PLAN = replace(QUICK, folds=3, decays=(30.0,), escalations=(0.2, 0.5), delay=16, baseline=BASELINE)


@pytest.fixture(scope="module")
def backbone(saved_backbone) -> Path:
    return saved_backbone("llama")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, tuple[Path, ...]]:
    """Words tell the labels of these rows, and a random backbone's probe learns little."""
    folder = tmp_path_factory.mktemp("sources")
    rows = {
        "benign": [traffic_row(i) for i in range(150)],
        "data": [labelled_row(i, float(i % 2)) for i in range(80)],
        "evaluation": [labelled_row(i, float(i % 2)) for i in range(100, 112)],
    }
    return {name: (write_rows(folder / f"{name}.jsonl", own),) for name, own in rows.items()}


@pytest.fixture(scope="module")
def kept(tmp_path_factory, backbone, sources):
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        # So few rows show no gain beyond chance; what follows needs a voice.
        patch.setattr(voice_module, "pays", lambda gain: True)
        result = build(folder, backbone, PLAN, **sources)
    return folder, result


def test_both_stages_have_one_calibration(kept, backbone) -> None:
    folder, result = kept
    guard = Guard.load(folder / "guard", backbone=backbone)
    voice, found = result.report["voice"], guard.calibration
    assert voice["kept"]
    assert guard.cascade is not None
    assert guard.cascade.weight == voice["weight"]
    assert guard.cascade.delay == 16
    assert "newest 16 answer tokens" in (folder / "guard" / "README.md").read_text()
    assert guard.record.text.sha256 == voice["sha256"]
    assert found is not None
    assert found.flagged <= found.k
    assert result.report["threshold"] == guard.cascade.flag == found.threshold
    rows = list(read_exchanges(folder / "guard.build" / "calibration.jsonl"))
    scores = list(guard.score_many(rows))
    assert sum(one.flagged for one in scores) == found.flagged
    asked = np.mean([one.stage == 2 for one in scores])
    assert asked <= max(voice["escalation"], 4 * found.budget)
    assert f"the text voice is asked about {asked:.2%} of this traffic" in guard.record.claim


def test_the_scores_of_the_report_are_those_of_the_guard(kept, backbone, sources) -> None:
    folder, result = kept
    guard = Guard.load(folder / "guard", backbone=backbone)
    judged = list(read_exchanges(*sources["evaluation"]))
    flagged = [one.flagged for one in guard.score_many(judged)]
    (found,) = result.report["evaluation"]
    caught = sum(own for own, row in zip(flagged, judged, strict=True) if row.label == 1)
    assert found["tpr"]["value"] == pytest.approx(caught / found["n_harmful"])
    assert all(np.isfinite(row["score"]) for row in result.report["top"]["highest"])


def test_report_and_bundle_say_what_was_chosen_and_why(kept) -> None:
    folder, result = kept
    fit = result.report["fit"]
    assert fit["reason"] is None
    assert next(one["name"] for one in fit["tried"]) == "layers 1 to 2, weight decay 1"
    record = read_bundle(folder / "guard").record.training
    assert record.config["choice"]["chosen"] == record.config["probe"]["name"] == fit["chosen"]
    lines = summarise_build(result.report)
    page = (folder / "guard.build" / "report.html").read_text()
    for line in ("fit of the probe: ", "text voice: kept as the second stage"):
        assert any(note.startswith(line) for note in record.notes)
        assert any(own.startswith(line) for own in lines)
        assert line in page
    report = json.loads((folder / "guard.build" / "report.json").read_text())
    assert report["voice"]["tried"][0]["name"] == "probe alone"


def test_traffic_that_trains_is_marked(kept) -> None:
    folder, _ = kept
    rows = list(read_exchanges(folder / "guard.build" / "training.jsonl"))
    traffic = [row for row in rows if row.source == "shop"]
    assert len(traffic) == 30
    assert all(row.meta[ORIGIN] == TRAFFIC for row in traffic)
    assert not any(ORIGIN in row.meta for row in rows if row.source != "shop")


def test_a_build_that_is_whole_tries_nothing_again(kept, backbone, sources, monkeypatch) -> None:
    folder, _ = kept
    before = hash_path(folder / "guard")
    steps = []
    build(folder, backbone, PLAN, watch=lambda state: steps.append(state.step), **sources)
    assert steps == []
    assert hash_path(folder / "guard") == before


def again(kept, tmp_path: Path, *steps: str) -> Path:
    """Copy the build's folder without the marks of some steps, so that only these run again."""
    shutil.copytree(kept[0] / "guard.build", tmp_path / "guard.build")
    for step in steps:
        (tmp_path / "guard.build" / "steps" / f"{step}.json").unlink()
    return tmp_path


def test_a_voice_that_pays_by_chance_only_is_left_out(kept, tmp_path, backbone, sources, monkeypatch) -> None:
    monkeypatch.setattr(voice_module, "pays", lambda gain: False)
    result = build(again(kept, tmp_path, "voice"), backbone, PLAN, **sources)
    guard = Guard.load(tmp_path / "guard", backbone=backbone)
    assert guard.cascade is None
    assert not result.report["voice"]["kept"]
    assert "beyond chance" in describe_voice(result.report["voice"])
    assert "so the delay is left out" in describe_voice(result.report["voice"])
    assert any("text voice: left out" in note for note in guard.record.training.notes)


def test_an_update_keeps_the_delay_unless_it_is_told_another(kept, tmp_path, backbone, sources) -> None:
    again(kept, tmp_path)
    shutil.copytree(kept[0] / "guard", tmp_path / "guard")
    for asked, found in ((None, 16), (0, 0)):
        build(
            tmp_path, backbone, replace(PLAN, delay=asked), update=tmp_path / "guard", accept=True, **sources
        )
        assert read_bundle(tmp_path / "guard").record.cascade.delay == found


def test_a_voice_that_cannot_be_calibrated_is_left_out(
    kept, tmp_path, backbone, sources, monkeypatch
) -> None:
    def refuse(*arguments):
        raise CalibrationError("the second stage decides nothing")

    monkeypatch.setattr("lockgate.assembly._build.set_stages", refuse)
    result = build(again(kept, tmp_path), backbone, PLAN, **sources)
    assert "decides nothing" in result.report["voice"]["reason"]
    table = ScoresTable.read(tmp_path / "guard.build" / "scores" / "calibration.parquet")
    guard = Guard.load(tmp_path / "guard", backbone=backbone)
    cut = guard.thresholds.flag - guard.thresholds.tolerance
    assert (table.floats("mixed_max") > cut).sum() == guard.calibration.flagged


def test_without_traffic_no_voice_is_tried(kept, tmp_path, backbone, sources) -> None:
    result = build(
        again(kept, tmp_path), backbone, PLAN, data=sources["data"], evaluation=sources["evaluation"]
    )
    assert result.report["voice"] == {
        "kept": False,
        "reason": "a guard of two stages needs traffic that supports a budget",
        "delay": 16,
    }
    assert result.report["fit"]["tried"]


@pytest.mark.parametrize(
    ("changes", "reason"), [({"folds": 0}, "no cross-validation"), ({"choose_below": 20}, "more than 20")]
)
def test_without_folds_nothing_is_chosen(kept, tmp_path, backbone, sources, changes, reason) -> None:
    result = build(again(kept, tmp_path), backbone, replace(PLAN, **changes), **sources)
    assert reason in result.report["fit"]["reason"]
    assert result.report["fit"]["chosen"] == "layers 1 to 2, weight decay 1"
    assert "not tried" in describe_voice(result.report["voice"])


def test_an_update_without_new_rows_is_not_scored_again(kept, backbone, sources, tmp_path) -> None:
    folder, _ = kept
    steps = []
    result = build(
        folder,
        backbone,
        PLAN,
        update=folder / "guard",
        watch=lambda state: steps.append(state.step),
        **sources,
    )
    assert result.report["update"]["verdict"] == "no worse"
    assert not [step for step in steps if step.startswith(("score", "fit", "choose"))]


@pytest.mark.parametrize(
    "changes", [{"folds": 1}, {"folds": -1}, {"voice_weights": (1.0,)}, {"escalations": ()}]
)
def test_plans_out_of_range_are_refused(changes) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        TrainingPlan(**changes)


def test_candidates_begin_with_the_standard_settings() -> None:
    found = TrainingPlan().candidates(30)
    assert replace(found[0], name="probe") == TrainingPlan().probe(30)
    assert len({one.name for one in found}) == len(found) == 12
    assert {one.layers for one in found} == {tuple(range(12, 27)), tuple(range(12, 19)), tuple(range(19, 27))}
    assert {one.layers for one in TrainingPlan(layers=(3, 4)).candidates(30)} == {(3, 4)}
