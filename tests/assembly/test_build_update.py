"""`--update`: how a retrained guard differs, and whether it replaces the old one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from build_runs import POLICY, QUICK, build, labelled_row, traffic_row, write_rows
from factory_runs import scripted_source
from models import tiny_backbone

from lockgate.assembly import BuildInputs, summarise_build
from lockgate.assembly._build import _Build
from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._rows import REFUSAL
from lockgate.assembly._update import _lost_claim
from lockgate.calibration import clopper_pearson_upper
from lockgate.durable import hash_json, hash_path
from lockgate.errors import GuardError
from lockgate.exchanges import read_exchanges
from lockgate.feedback import FeedbackRule
from lockgate.guards import Guard
from lockgate.synthesis import GeneratorSource, ScriptedGenerator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backbone(saved_backbone) -> Path:
    return saved_backbone("llama")


@pytest.fixture(scope="module")
def before(tmp_path_factory, backbone) -> dict[str, Path]:
    """A guard, its sources, and reviews of its verdicts."""
    folder = tmp_path_factory.mktemp("before")
    data = write_rows(folder / "data.jsonl", [labelled_row(i, float(i % 2)) for i in range(30)])
    traffic = write_rows(folder / "traffic.jsonl", [traffic_row(i) for i in range(90)])
    rows = [labelled_row(i, float(i % 2)) for i in range(200, 248)]
    # Prompts alone, labelled: nothing in them can be flagged.
    rows[40:] = [replace(row, messages=row.messages[:1]) for row in rows[40:]]
    judged = write_rows(folder / "judged.jsonl", rows)
    learns = replace(QUICK, epochs=10)
    build(folder, backbone, learns, data=(data,), benign=(traffic,), evaluation=(judged,))
    lines = []
    for number in range(300, 324):
        row = labelled_row(number, 1.0)
        verdict = "harmful" if number % 2 else "harmless"
        lines.append({"exchange": replace(row, label=None, category=None).to_dict(), "verdict": verdict})
    # One that trained as harmless and is said to be harmful.
    lines.append({"id": labelled_row(2, 0.0).id, "verdict": "harmful"})
    # And some of the traffic, which the guard had flagged.
    lines += [{"id": traffic_row(number).id, "verdict": "harmless"} for number in range(8)]
    reviews = folder / "reviews.jsonl"
    reviews.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"guard": folder / "guard", "data": data, "traffic": traffic, "judged": judged, "reviews": reviews}


def update(before, folder: Path, backbone: Path, training=QUICK, **options):
    return build(
        folder,
        backbone,
        training,
        data=(before["data"],),
        benign=(before["traffic"],),
        evaluation=(before["judged"],),
        update=before["guard"],
        out=folder / "new",
        **options,
    )


def test_reviews_train_and_each_category_is_compared(before, tmp_path, backbone) -> None:
    # Fewer reviews than forty would all train.
    training = replace(QUICK, feedback=FeedbackRule(least_held_out=0))
    result = update(before, tmp_path, backbone, training, feedback=before["reviews"], accept=True)
    assert result.guard == tmp_path / "new"
    counts = result.report["rows"]["feedback"]
    assert counts["relabelled"] == 1
    assert counts["trained"] + counts["held_out"] == 33
    training = list(read_exchanges(result.folder / "training.jsonl"))
    assert [row.label for row in training if row.id == labelled_row(2, 0.0).id] == [1.0] * counts["copies"]
    found = result.report["update"]
    assert found["verdict"] in ("no worse", "unclear", "worse")
    assert found["point"] == "guard"
    kinds = {(change["category"], change["harmful"]) for change in found["categories"]}
    assert {harmful for _, harmful in kinds} == {True, False}
    assert sum(c["n"] for c in found["categories"]) == found["n"]
    held_out = [row for row in read_exchanges(result.folder / "held_out.jsonl") if row.source != REFUSAL]
    assert found["n"] + found["left_out"] == len(held_out) + 40
    assert found["reviews"]["n"] == counts["held_out"]
    assert any(line.startswith("compared with the old guard") for line in summarise_build(result.report))
    assert "Compared with the old guard" in result.pages["html"].read_text()
    # The calibration is no random sample of the traffic any more: everything that states the claim says so.
    left_out = result.report["rows"]["calibration_reviewed"]
    assert 0 < left_out <= 8
    rate, reviewed = (result.report["claim"][name] for name in ("false_refusal_rate", "reviewed"))
    assert reviewed["prompts"] == left_out
    assert reviewed["bound_if_flagged"] == clopper_pearson_upper(
        rate["flagged"] + left_out, rate["n"] + left_out
    )
    said = f"not a random sample: {left_out} distinct prompts"
    card = (result.guard / "README.md").read_text()
    for text in (card, result.pages["html"].read_text(), "\n".join(result.report["limits"])):
        assert said in text
    assert f"; {left_out} reviewed prompts are not in that sample" in "\n".join(
        summarise_build(result.report)
    )


def test_what_is_worse_is_not_put_in_place_unless_accepted(before, tmp_path, backbone) -> None:
    # Weights that never leave zero: the same score for everything, so that nothing is caught.
    blind = replace(QUICK, epochs=1, learning_rate=1e-30)
    result = update(before, tmp_path, backbone, blind)
    assert result.report["claim"]["reviewed"] is None
    assert "random sample" not in (result.candidate / "README.md").read_text()
    assert result.report["update"]["verdict"] == "worse"
    assert result.guard is None
    assert not (tmp_path / "new").exists()
    assert any("TPR falls" in reason for reason in result.refused)
    assert Guard.load(result.candidate, backbone=backbone).calibration is not None
    accepted = update(before, tmp_path, backbone, blind, accept=True)
    assert accepted.refused == ()
    assert hash_path(tmp_path / "new") == hash_path(result.candidate)
    assert accepted.report["update"]["accepted"]


def test_an_update_without_traffic_does_not_replace_a_claim(before, tmp_path, backbone) -> None:
    result = build(tmp_path, backbone, data=(before["data"],), update=before["guard"], out=tmp_path / "new")
    assert result.report["claim"]["budget"] is None
    assert result.report["update"]["verdict"] == "worse"
    assert result.refused[0].startswith("The old guard keeps a refusal budget of 5.00%")
    assert "--benign" in result.refused[0]
    assert not (tmp_path / "new").exists()


def test_a_looser_budget_is_a_lost_claim() -> None:
    def claiming(budget):
        return SimpleNamespace(calibration=None if budget is None else SimpleNamespace(budget=budget))

    assert _lost_claim(claiming(None), claiming(None)) is None
    assert _lost_claim(claiming(0.01), claiming(0.01)) is None
    assert _lost_claim(claiming(0.01), claiming(0.001)) is None
    assert "refusal budget of 0.10%, and the new one only 1.00%" in _lost_claim(
        claiming(0.001), claiming(0.01)
    )
    assert "not calibrated" in _lost_claim(claiming(0.001), claiming(None))


def test_updates_are_told_apart_by_all_that_they_are_made_from(before, tmp_path) -> None:
    """What keeps the guard of before: an update that was replaced and is run again, and no other one."""
    first = BuildInputs(POLICY, scripted_source(), tiny_backbone(), training=QUICK)
    judge = GeneratorSource("judge", lambda: ScriptedGenerator({}, name="judge"))
    elsewhere = GeneratorSource("judge", judge.make, identity="judge at another address")
    judged = replace(first, judge=judge, judge_rows=before["data"])
    others = [
        first,
        replace(first, backbone=tiny_backbone(seed=1)),
        replace(first, generator=elsewhere),
        judged,
        replace(judged, judge=elsewhere),
        replace(judged, judge_rows=before["judged"]),
        replace(first, benign=(before["traffic"],)),
        replace(first, feedback=before["reviews"]),
        replace(first, training=replace(QUICK, epochs=4)),
    ]

    def made_from(inputs: BuildInputs) -> str:
        return hash_json(_Build(inputs, tmp_path / "guard", BuildFolder(tmp_path / "work"), ())._made_from())

    assert len({made_from(inputs) for inputs in others}) == len(others)
    assert made_from(first) == made_from(replace(first, backbone=tiny_backbone(), workers=1, accept=True))


def test_an_update_in_place_keeps_what_was_before(before, tmp_path, backbone) -> None:
    shutil.copytree(before["guard"], tmp_path / "guard")
    was = hash_path(tmp_path / "guard")
    options = {
        "data": (before["data"],), "benign": (before["traffic"],), "feedback": before["reviews"],
        "update": tmp_path / "guard", "accept": True,
    }  # fmt: skip
    build(tmp_path, backbone, **options)
    now = hash_path(tmp_path / "guard")
    assert now != was
    # Run again after it was replaced, it still compares with the guard of before, and ends the same.
    first = json.loads((tmp_path / "guard.build" / "report.json").read_text())["update"]
    build(tmp_path, backbone, **options)
    assert hash_path(tmp_path / "guard") == now
    assert hash_path(tmp_path / "guard.build" / "previous") == was
    assert json.loads((tmp_path / "guard.build" / "report.json").read_text())["update"] == first
    # Killed between the two moves that replace a guard: nothing stands in its place.
    shutil.rmtree(tmp_path / "guard")
    with pytest.raises(GuardError, match="gaurd"):
        build(tmp_path, backbone, **{**options, "update": tmp_path / "gaurd"})
    build(tmp_path, backbone, **options)
    assert hash_path(tmp_path / "guard") == now
    assert json.loads((tmp_path / "guard.build" / "report.json").read_text())["update"] == first
