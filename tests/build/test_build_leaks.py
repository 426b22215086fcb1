"""What reviews and evaluation files must not do to the parts and figures of a build."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from build_runs import POLICY, QUICK, labelled_row, traffic_row, write_rows
from factory_runs import scripted_source, tiny_plan
from scores import make_scores

from lockgate.build import BuildInputs
from lockgate.build._measure import measure
from lockgate.build._rows import BuildRows, gather_rows
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
        constitution=POLICY,
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
    traffic = [traffic_row(i) for i in range(150)]
    verdicts = {row.id: "harmful" if i % 2 else "harmless" for i, row in enumerate(traffic[:40])}
    reviews = write_reviews(tmp_path, verdicts)
    rows = gather(
        tmp_path, synthetic, feedback=reviews, benign=(write_rows(tmp_path / "traffic.jsonl", traffic),)
    )
    assert rows.budget is not None
    assert rows.reviews
    assert not {row.id for row in rows.calibration} & set(verdicts)
    assert rows.counts["dropped"]["benign/reviewed"] == len(rows.reviews)
    # Reviewers had judged 40 prompts; a fifth of all was drawn to train anyway, by hash and not by them.
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
