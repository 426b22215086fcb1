"""The learning curve: figures on scripted verdicts, and the way from a finished build to the picture."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.append(str(Path(__file__).parents[2] / "assembly"))

from build_runs import QUICK, traffic_row, write_rows
from factory_runs import scripted_source, tiny_plan

from lockgate.assembly import BuildInputs, build_guard
from lockgate.backbones import Backbone
from lockgate.guards import Guard
from recipes.policy_portability import learning_curve
from recipes.policy_portability.curve_figures import NOTHING, figures
from recipes.policy_portability.policy_labelled import LABELLED
from recipes.policy_portability.policy_pairs import PAIRS, load_policies, read_pairs
from recipes.policy_portability.small_sets import SCHEMA
from recipes.steps import check_part, update_summary

NAME = "stage-magic"
# What both a build and its further builds are made with here, in place of a build's own settings.
TINY = {"epochs": QUICK.epochs, "learning_rate": QUICK.learning_rate, "least_rows": QUICK.least_rows,
        "reading": QUICK.reading, "baseline": QUICK.baseline}  # fmt: skip


def scripted(shares: dict[str, float], n: int = 12) -> pa.Table:
    """Verdicts of systems that are right on the first so many pairs, and call the others harmless."""
    lines = []
    for system, share in shares.items():
        for name in load_policies():
            for pair in range(n):
                for side in "ab":
                    label = int((side == "a") == (name == NAME))
                    flagged = bool(label) if pair < share * n else False
                    lines.append(
                        {"system": system, "constitution": name, "pair": f"p{pair}",
                         "side": side, "id": f"{pair}{side}",
                         "label": label, "score": 0.0, "flagged": flagged, "flipped": True}
                    )  # fmt: skip
    return pa.Table.from_pylist(lines, schema=SCHEMA)


def test_figures_are_by_number_of_labelled_exchanges() -> None:
    shares = {"0": 0.25, "10": 0.5, "200": 1.0, "keyword_answer": 0.5, "keyword_exchange": 0.25, NOTHING: 0.0}
    found = figures(scripted(shares))
    policy, curve = found["policy"], found["curve"]
    assert {size: one["value"] for size, one in policy["both_right"].items()} == {
        "0": 0.25,
        "10": 0.5,
        "200": 1.0,
    }
    assert policy["keywords"]["list"] == "keyword_answer"
    assert policy[NOTHING]["both_right"]["value"] == 0.0
    assert policy["balanced_accuracy"]["0"]["value"] == 0.625
    assert curve["minus_keywords"]["200"]["both_right"]["value"] == 0.5
    assert set(curve["minus_none"]) == {"10", "200"}
    for size, gain in curve["minus_none"].items():
        assert gain["both_right"]["value"] == pytest.approx(shares[size] - shares["0"])
        assert gain["both_right"]["ci"][0] <= gain["both_right"]["value"] <= gain["both_right"]["ci"][1]


def test_steps_share_a_result_file(tmp_path) -> None:
    summary = tmp_path / "policy.json"
    first = {"policy": {"both_right": {"0": 1}, "keywords": {"list": "a"}}, "systems": {"x": 1}}
    second = {"policy": {"both_right": {"10": 2}}, "curve": {"n": 3}}
    update_summary(first, summary)
    update_summary(second, summary)
    assert json.loads(summary.read_text()) == {
        "policy": {"both_right": {"0": 1, "10": 2}, "keywords": {"list": "a"}},
        "systems": {"x": 1}, "curve": {"n": 3},
    }  # fmt: skip
    check_part(first, summary)
    check_part(second, summary)
    for wrong in ({"systems": {}}, {"policy": {"both_right": {"0": 5}}}, {"curve": {}}):
        with pytest.raises(SystemExit, match=r"policy\.json differs from the table"):
            check_part(wrong, summary)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, saved_backbone):
    """A finished build of one policy on a tiny backbone, with its guard and traffic."""
    folder = tmp_path_factory.mktemp("curve")
    lines = PAIRS.read_text(encoding="utf-8").splitlines(keepends=True)[:4]
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    lines = LABELLED.read_text(encoding="utf-8").splitlines(keepends=True)[:12]
    (folder / "labelled.jsonl").write_text("".join(lines), encoding="utf-8")
    traffic = write_rows(folder / "traffic.jsonl", [traffic_row(number) for number in range(90)])
    inputs = BuildInputs(
        constitution=load_policies()[NAME],
        generator=scripted_source(),
        backbone=Backbone.load(saved_backbone("llama")),
        factory=tiny_plan(),
        training=replace(QUICK, budget=0.05),
        benign=(traffic,),
        evaluation=(folder / "pairs.jsonl",),
    )
    build_guard(inputs, folder / "guard")
    return folder, saved_backbone("llama")


def run(finished, tmp_path, *more: str, build: str = "guard.build", monkeypatch) -> None:
    folder, backbone = finished
    words = [
        f"--build={NAME}={folder / build}",
        f"--guard={NAME}={folder / 'guard'}",
        f"--backbone={backbone}",
    ]
    words += [f"--benign={folder / 'traffic.jsonl'}", f"--out={tmp_path / 'curve'}", "--sizes", "12"]
    words += [f"--pairs={folder / 'pairs.jsonl'}", f"--labelled={folder / 'labelled.jsonl'}", "--budget=0.05"]
    parse = learning_curve._parse
    monkeypatch.setattr(learning_curve, "_parse", lambda words: _with(parse(words), TINY))
    learning_curve.main([*words, *_files(tmp_path), *more])
    monkeypatch.undo()


def _with(options, settings):
    options.settings = settings
    return options


def _files(tmp_path) -> list[str]:
    return [
        f"--table={tmp_path / 'curve.parquet'}",
        f"--summary={tmp_path / 'policy.json'}",
        f"--picture={tmp_path / 'curve.svg'}",
    ]


def test_from_a_finished_build_to_the_picture_and_back(finished, tmp_path, monkeypatch, capsys) -> None:
    folder, backbone = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "guard.build").rglob("*") if path.is_file()}
    run(finished, tmp_path, monkeypatch=monkeypatch)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = json.loads((tmp_path / "policy.json").read_text())
    assert set(found["policy"]["both_right"]) == {"0", "12"}
    feedback = found["curve"]["made_from"]["guards"][f"{NAME}:12"]["rows"]["feedback"]
    assert (feedback["trained"], feedback["held_out"]) == (12, 0)
    # The table has what the guards say, and nothing of the texts.
    guard = Guard.load(tmp_path / "curve" / f"{NAME}-12", backbone=backbone)
    wanted = list(guard.score_many([row.exchange for row in read_pairs(folder / "pairs.jsonl")]))
    own = [row for row in pq.read_table(tmp_path / "curve.parquet").to_pylist() if row["system"] == "12"]
    np.testing.assert_allclose(
        [row["score"] for row in own], [score.mixed_max for score in wanted], atol=1e-4
    )
    assert [row["flagged"] for row in own] == [score.flagged for score in wanted]
    drawing = (tmp_path / "curve.svg").read_text()
    assert all(word in drawing for word in (NAME, "keyword list", "pass everything", "labelled exchanges"))
    learning_curve.main([*_files(tmp_path), "--check"])
    # Run again, nothing is built again, and the figures are the same.
    capsys.readouterr()
    run(finished, tmp_path, monkeypatch=monkeypatch)
    assert "read training rows" not in capsys.readouterr().out
    assert json.loads((tmp_path / "policy.json").read_text()) == found


def test_what_does_not_fit_is_told_before_anything_is_built(finished, tmp_path, monkeypatch) -> None:
    with pytest.raises(SystemExit, match="no finished build there"):
        run(finished, tmp_path, build="nothing", monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=r"expected --build and --guard for the same constitutions"):
        learning_curve.main([*_files(tmp_path), f"--build={NAME}=x"])
    with pytest.raises(SystemExit, match="expected NAME=DIR"):
        learning_curve.main([*_files(tmp_path), "--build=tea=x"])
    other = finished[0] / "other.jsonl"
    other.write_text((finished[0] / "pairs.jsonl").read_text())
    with pytest.raises(SystemExit, match="expected a build with --evaluation"):
        run(finished, tmp_path, f"--pairs={other}", monkeypatch=monkeypatch)
    assert not (tmp_path / "curve" / f"{NAME}-12").exists()


@pytest.mark.skipif(not learning_curve.TABLE.exists(), reason="not measured yet")
def test_committed_figures_follow_from_the_committed_table() -> None:
    check_part(learning_curve.compute(learning_curve.TABLE), learning_curve.SUMMARY)
