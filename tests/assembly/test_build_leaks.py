"""Reviews and evaluation files must not leak into the parts and figures of a build."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_runs import POLICY, QUICK, labelled_row, traffic_row, write_rows
from factory_runs import scripted_source, tiny_plan
from scores import make_scores

from lockgate.assembly import BuildInputs
from lockgate.assembly._measure import measure, summarise_refusals, without_refusals
from lockgate.assembly._rows import PLAIN, REFUSAL, BuildRows, gather_rows
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange
from lockgate.synthesis.factory import SynthesisResult


def synthetic_row(number: int, part: str) -> Exchange:
    row = labelled_row(number, float(number % 2))
    meta = {"split": part, "pair": f"pair {number // 2}"}
    return Exchange(row.messages, row.label, row.category, "synthesis", meta)


def write_reviews(folder: Path, verdicts: dict[str, str]) -> Path:
    lines = [json.dumps({"id": name, "verdict": verdict}) for name, verdict in verdicts.items()]
    (folder / "reviews.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "reviews.jsonl"


def gather(folder: Path, synthetic: list[Exchange], **options: Any) -> BuildRows:
    unread: Any = None
    inputs = BuildInputs(
        constitution=options.pop("constitution", POLICY),
        generator=scripted_source(),
        backbone=unread,
        factory=tiny_plan(),
        training=QUICK,
        **options,
    )
    return gather_rows(
        inputs, SynthesisResult(folder, write_rows(folder / "exchanges.jsonl", synthetic), {}, ())
    )


def test_reviewed_traffic_does_not_set_the_threshold(tmp_path) -> None:
    synthetic = [synthetic_row(i, "train" if i < 40 else "test") for i in range(60)]
    traffic = [traffic_row(i) for i in range(200)]
    verdicts = {row.id: "harmful" if i % 2 else "harmless" for i, row in enumerate(traffic[:80])}
    reviews = write_reviews(tmp_path, verdicts)
    rows = gather(
        tmp_path, synthetic, feedback=reviews, benign=(write_rows(tmp_path / "traffic.jsonl", traffic),)
    )
    assert rows.budget is not None
    assert rows.reviews
    assert not {row.id for row in rows.calibration} & set(verdicts)
    assert rows.counts["dropped"]["benign/reviewed"] == len(rows.reviews)
    # Reviewers had judged 80 prompts; a fifth of all was drawn to train anyway, by hash and not by them.
    drawn = {row.id for row in rows.training if row.source == "shop"}
    calibrated = {row.id for row in rows.calibration}
    without = gather(tmp_path, synthetic, benign=(tmp_path / "traffic.jsonl",))
    lost = {row.id for row in without.calibration} - calibrated
    assert lost == set(verdicts) & {row.id for row in without.calibration}
    assert rows.counts["calibration_reviewed"] == len(lost) > 20
    assert without.counts["calibration_reviewed"] == 0
    assert lost <= drawn | {row.id for row in rows.reviews}


def test_a_reviewed_held_out_row_takes_its_pair_along(tmp_path) -> None:
    synthetic = [synthetic_row(i, "train" if i < 40 else "test") for i in range(80)]
    verdicts = {row.id: "harmful" for row in synthetic[41:80:4]}
    rows = gather(tmp_path, synthetic, feedback=write_reviews(tmp_path, verdicts))
    trained = {row.meta["pair"] for row in rows.training}
    judged = {row.meta["pair"] for row in (*rows.held_out, *rows.provisional)}
    assert judged
    assert not judged & trained
    assert not judged & {row.meta["pair"] for row in rows.reviews}
    assert rows.counts["dropped"]["held_out/related_to_review"] >= 10


def refused_row(number: int, part: str) -> Exchange:
    row = synthetic_row(2 * number, part)
    return replace(row, meta={**row.meta, "role": "refused", "pair": f"refusal {number}"})


def test_refusals_from_templates_are_a_kind_of_their_own(tmp_path) -> None:
    harmful = [synthetic_row(i, "train" if i < 41 else "test") for i in range(1, 81, 2)]
    harmless = [synthetic_row(i, "train" if i < 41 else "test") for i in range(0, 80, 2)]
    refused = [refused_row(i, "train" if i < 50 else "test") for i in range(45, 60)]
    rows = gather(tmp_path, [*harmful, *harmless, *refused])
    assert sum(row.meta.get("role") == "refused" for row in rows.training) == 5
    for part in ("held_out", "provisional"):
        own = getattr(rows, part)
        kinds = Counter((row.source, row.label) for row in own)
        assert kinds[REFUSAL, 0.0] == sum(row.meta.get("role") == "refused" for row in own) > 0
        assert rows.counts[part] == {
            "harmful": kinds[PLAIN, 1.0],
            "harmless": kinds[PLAIN, 0.0],
            "refusals": kinds[REFUSAL, 0.0],
        }
    # They can't set a provisional threshold by themselves.
    few = [row for row in harmless if row.meta["split"] == "train"]
    with pytest.raises(TrainingError, match="no held-out harmless exchange"):
        gather(tmp_path, [*harmful, *few, *refused])


def test_a_rate_of_false_alarms_rests_on_ordinary_rows() -> None:
    table = make_scores(90, sources=(PLAIN, REFUSAL, PLAIN), harmful=0.0)
    refusals = np.arange(90) % 3 == 1
    flagged = table.with_column("flagged", refusals | (np.arange(90) < 3))
    assert without_refusals(flagged).flagged.mean() == 2 / 60
    found = summarise_refusals(flagged)
    assert found is not None
    assert (found["n"], found["rate"]["value"]) == (30, 1.0)
    assert summarise_refusals(without_refusals(flagged)) is None


def test_prompts_without_an_answer_are_in_no_figure() -> None:
    table = make_scores(60)
    answers = table.floats("max_answer").copy()
    answers[::3] = np.nan
    figures = {"name": "file", "provenance": {}}
    found = measure(table.with_column("max_answer", answers), make_scores(40, prefix="b"), **figures)
    assert found is not None
    assert found.n == 40
    assert found.n_harmful == int((table.labels[~np.isnan(answers)] >= 0.5).sum())
    assert measure(table.with_column("max_answer", np.full(60, np.nan)), table, **figures) is None
