"""The recipe of the two-stage embedded guard, on tiny models: what it skips and what it refuses."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from models import random_head, tiny_backbone
from voices import random_text

from lockgate.calibration import Trace, calibrate_cascade
from lockgate.cascade import Cascade, Thresholds
from lockgate.constitution import constitution_path, load_constitution
from lockgate.errors import CalibrationError
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.guards import Guard, read_bundle
from lockgate.tables import BlockTrace
from lockgate.traffic import score_file
from recipes.embedded_guard import second_stage, two_stages

WORDS = ["canal", "lock", "gate", "bridge", "mill", "orchard", "boat", "water", "path", "towpath"]
SIZES = {"calibration": 500, "dev": 120, "traffic_dev": 160, "benign_test": 60, "hard_benign": 12}
BUDGET = 0.01
TEXTS = {"text": random_text(), "text_other": random_text(seed=1)}


class Made(NamedTuple):
    """What the recipe has made: `guard` has one stage, `scorer` two and no final threshold."""

    guard: Guard
    scorer: Guard
    screen: two_stages.Screen
    out: Path
    results: Path
    settings: dict[str, Any]

    def part(self, name: str) -> two_stages.FirstStage:
        return two_stages.read_part(self.results, name, "tiny")

    def traces(self, name: str) -> list[Trace]:
        return two_stages.read_traces(self.results, name, self.part(name), self.screen)

    def calibrate(self, **changes):
        settings = self.settings | changes
        return two_stages.calibrate(self.results, "tiny", "answer", BUDGET, settings=settings)

    def figures(self):
        return two_stages.figures(self.results, "tiny", "answer", BUDGET)


def make_row(number: int, label: float | None) -> Exchange:
    draw = np.random.default_rng(number)
    prompt, answer = (" ".join(draw.choice(WORDS, size)) for size in (3, int(draw.integers(4, 24))))
    turns = (Message("user", f"{prompt} {number}?"), Message("assistant", answer))
    return Exchange(turns, label, None, "made")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Parts, stage 1's committed scores, and both stages' as the recipe makes them."""
    folder = tmp_path_factory.mktemp("recipe")
    out, results = folder / "out", folder / "results"
    (results / "scores").mkdir(parents=True)
    out.mkdir()
    backbone, text = tiny_backbone(), constitution_path("stage-magic").read_text(encoding="utf-8")
    guard = Guard.create(
        name="tiny", backbone=backbone, constitution=load_constitution("stage-magic"), constitution_yaml=text,
        head=random_head(backbone, 1), thresholds=Thresholds(9.0, flag_on="answer", min_tokens=8),
    ).save(out / "guard")  # fmt: skip
    number = 0
    for part in two_stages.PARTS:
        size = SIZES.get(part, 30)
        harmful = part in ("dev", "voice_dev") or part.startswith("test_")
        rows = [
            make_row(number + i, 1.0 if harmful and i % 3 == 0 else 0.0 if harmful else None)
            for i in range(size)
        ]
        number += size
        write_exchanges(out / f"{part}.jsonl", rows)
        table = score_file(guard, out / f"{part}.jsonl", results / "scores" / f"{part}.parquet")
        if part == "dev":
            columns = {"id": table.ids, "source": table.texts("source"), "label": table.labels}
            for region in ("prompt", "answer"):
                columns[f"tiny:{region}"] = table.floats(f"max_{region}")
            pq.write_table(pa.table(columns), results / "scores" / "dev_heads.parquet")
    screen = two_stages.choose_screen(two_stages.read_part(results, "calibration", "tiny"))
    scorer = second_stage.scoring_guard(guard, random_text(), screen, out)
    for part in two_stages.PARTS:
        second_stage.score_part(scorer, TEXTS, part, "tiny", screen, out, results, 1)
    tokens = {"part": ["calibration"] * 4, "answer_tokens": [1, 301, 302, 303]}
    pq.write_table(pa.table(tokens), results / "scores" / "answer_tokens.parquet")
    settings = second_stage.write_settings(scorer, screen, 0.3, results)
    return Made(guard, scorer, screen, out, results, settings)


def test_scoring_what_may_be_escalated_equals_scoring_everything(made, tmp_path) -> None:
    """The serving code over every exchange: those left out are never escalated, all others score the same."""
    found, seen = made.calibrate(), 0
    whole: dict[str, list[Trace]] = {}
    table_path, trace_path = tmp_path / "t.parquet", tmp_path / "b.parquet"
    for part in two_stages.PARTS:
        table = score_file(made.scorer, made.out / f"{part}.jsonl", table_path, blocks=trace_path)
        left_out = np.setdiff1d(np.arange(len(table)), made.screen.suspects(made.part(part)))
        assert (table.floats("mixed_max")[left_out] == -np.inf).all()
        seen += len(left_out)
        blocks = BlockTrace.read(trace_path)
        rows = [blocks.of(row) for row in range(len(table))]
        whole[part] = [Trace(blocks.probe[row], blocks.classifier[row]) for row in rows]
        scores = [
            two_stages.mixed_scores(own, found.cascade, "answer") for own in (whole[part], made.traces(part))
        ]
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)
    assert seen > 400
    tried = [trace for part in two_stages.DEVELOPMENT for trace in whole[part]]
    harmful = np.concatenate([made.part(part).harmful for part in two_stages.DEVELOPMENT])
    again = calibrate_cascade(
        whole["calibration"], made.part("calibration").groups, budget=BUDGET,
        escalation=two_stages.ESCALATION, escalate=made.screen.escalate, flag_on="answer",
        development_benign=[trace for trace, bad in zip(tried, harmful, strict=True) if not bad],
        development_harmful=[trace for trace, bad in zip(tried, harmful, strict=True) if bad],
        selection_fpr=two_stages.SELECTION,
        drift=0.3,
    )  # fmt: skip
    assert again.cascade.flag == pytest.approx(found.cascade.flag, abs=1e-3)
    assert again.cascade.weight == found.cascade.weight
    assert (again.escalated, again.caught) == (found.escalated, found.caught)


def test_the_screen_keeps_to_its_budget_and_to_single_precision(made) -> None:
    assert 0 < made.calibrate().escalated <= two_stages.ESCALATION
    assert float(np.float32(made.screen.escalate)) == made.screen.escalate
    first = made.part("calibration")
    assert 12 <= len(made.screen.suspects(first)) <= 14
    assert abs(first.highest - made.screen.escalate).min() > 1e-6
    flat = replace(first, prompt=np.zeros(500), answer=np.zeros(500))
    with pytest.raises(CalibrationError, match="no threshold escalates"):
        two_stages.choose_screen(flat)


def test_the_drift_is_the_smallest_that_escalates_few_enough_long_answers(made, monkeypatch) -> None:
    first, traces = made.part("calibration"), made.traces("calibration")
    long = np.arange(500) % 2 == 0
    monkeypatch.setattr(two_stages, "answer_tokens", lambda *_: np.where(long, 301, 300))
    monkeypatch.setattr(two_stages, "DRIFTS", (0.0, 0.5, 1.0, 2.0, 50.0))

    def share(drift: float) -> float:
        cascade = Cascade(made.screen.escalate, np.inf, 0.5, drift=drift)
        asked = np.isfinite(two_stages.mixed_scores(traces, cascade, "answer"))
        return float(asked[long].mean())

    for allowed in sorted({share(drift) for drift in two_stages.DRIFTS}):
        monkeypatch.setattr(two_stages, "LONG_SHARE", allowed)
        found = two_stages.choose_drift(made.results, "tiny", "answer")
        assert found == next(drift for drift in two_stages.DRIFTS if share(drift) <= allowed)
    monkeypatch.setattr(two_stages, "LONG_SHARE", -1.0)
    with pytest.raises(CalibrationError, match="no drift up to 50"):
        two_stages.choose_drift(made.results, "tiny", "answer")
    assert len(first.ids) == 500


def test_nothing_is_scored_twice_and_changed_tables_are_noticed(made, monkeypatch) -> None:
    monkeypatch.setattr(second_stage, "score_file", None)
    second_stage.score_part(made.scorer, TEXTS, "dev", "tiny", made.screen, made.out, made.results, 1)
    assert second_stage.write_settings(made.scorer, made.screen, 0.3, made.results) == made.settings
    with pytest.raises(CalibrationError, match="scored with another escalation threshold"):
        made.calibrate(escalate=1.5)
    lower = replace(made.screen, escalate=made.screen.escalate - 1)
    with pytest.raises(CalibrationError, match=r"two_stage/dev\.parquet: expected the \d+ exchanges"):
        made._replace(screen=lower).traces("dev")
    with pytest.raises(SystemExit, match="lacks 1 exchanges"):
        second_stage.choose_rows(made.out / "dev.jsonl", [made.part("dev").ids[3], "0" * 16])


def test_figures_compare_one_stage_with_two_at_one_budget(made) -> None:
    found, calibration = made.figures(), made.calibrate()
    assert found == json.loads(json.dumps(found))
    assert (found["n"], found["k"], found["budget"]) == (500, calibration.calibration.k, BUDGET)
    at = found["points"]["budget"]
    first = made.part("test_gptfuzz")
    mixed = two_stages.mixed_scores(made.traces("test_gptfuzz"), calibration.cascade, "answer")
    row = at["sets"]["gptfuzz"]
    flags = (first.answer > at["cuts"][0], mixed > calibration.calibration.cut)
    rates = [own[first.harmful].mean() for own in flags]
    assert [row[side]["tpr"] for side in ("one_stage", "two_stages")] == rates
    assert row["difference"] == pytest.approx(rates[1] - rates[0])
    assert row["ci"][0] <= row["difference"] <= row["ci"][1]
    assert at["benign"]["benign_test"]["two_stages"]["n"] == 60
    tried = at["development"]
    assert found["not_worse_in_development"] == (tried["two_stages"]["tpr"] >= tried["one_stage"]["tpr"])
    text = "\n".join(two_stages.result_lines(found, shipped=False))
    assert "not shipped" in text
    assert "| mean over these four sets | 40 |" in text
    assert made._replace(results=made.results.parent).figures() is None


def test_shares_of_rows_that_share_prompts_are_drawn_by_prompt() -> None:
    """Ten prompts of ten equal rows each say no more than ten rows."""
    hits = np.repeat(np.arange(10) < 3, 10)
    apart = two_stages.share(hits, np.arange(100).astype(str))
    assert apart == two_stages.share(hits)
    together = two_stages.share(hits, np.repeat(np.arange(10), 10).astype(str))
    assert (together["rate"], together["hits"], together["n"]) == (0.3, 30, 100)
    assert together["ci"][0] < apart["ci"][0] - 0.05
    assert together["ci"][1] > apart["ci"][1] + 0.05


def test_the_guard_is_installed_only_when_asked_and_never_when_worse(made, tmp_path, monkeypatch) -> None:
    alone = {"auroc": 0.5, "tpr_at_0.001": 0.1, "ci": [0, 1]}
    sets = {"x": {"n": 3, "probe": alone, "baseline": alone}}
    found = {"flag_on": "answer", "budget": BUDGET, "sets": sets, "two_stage": made.figures()}
    prints = second_stage.training_prompts([made.out / "dev.jsonl"], made.out / "calibration.jsonl")
    with pytest.raises(CalibrationError, match="500 of 500 calibration exchanges"):
        second_stage.training_prompts([made.out / "calibration.jsonl"], made.out / "calibration.jsonl")
    ready = second_stage.calibrated_guard(
        made.guard.with_training_prompts(prints),
        made.scorer.text,
        "tiny",
        found,
        made.settings,
        made.out,
        made.results,
    )
    calibration = made.calibrate()
    assert (ready.cascade, ready.calibration) == (calibration.cascade, calibration.calibration)
    card = (ready.path / "README.md").read_text()
    assert "## Two stages" in card
    assert len(ready.training_prompts) == 120
    assert "One stage against two, both at the budget of 1.00%" in card
    target = tmp_path / "embedded"
    made.guard.save(target)
    before = {path: path.read_bytes() for path in target.iterdir()}
    worse, better = (
        {**found, "two_stage": {**found["two_stage"], "not_worse_in_development": fine}}
        for fine in (False, True)
    )
    with pytest.raises(SystemExit, match="not installed: two stages catch"):
        second_stage.install(ready, worse, target)
    with monkeypatch.context() as patch:
        patch.setattr(second_stage, "MAX_BYTES", 1000)
        with pytest.raises(SystemExit, match="not installed: 0"):
            second_stage.install(ready, better, target)
    assert {path: path.read_bytes() for path in target.iterdir()} == before
    second_stage.install(ready, better, target)
    assert read_bundle(target).record.cascade is not None
    assert Guard.load(target, backbone=made.guard.backbone).cascade == calibration.cascade


def test_without_its_parts_the_recipe_says_what_to_run_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["second_stage.py", "--out", str(tmp_path), "--install"])
    with pytest.raises(SystemExit, match=r"lacks train\.jsonl, voice_train\.jsonl.*run\.sh"):
        second_stage.main()
