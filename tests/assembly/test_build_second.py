"""A build with a pool mines it with the new probe and trains a second stage, also after interruptions."""

from dataclasses import replace
from pathlib import Path

import pytest
from build_runs import POLICY, QUICK, build, labelled_row, traffic_row, write_rows
from factory_runs import tiny_plan

from lockgate.assembly import estimate_build, summarise_build
from lockgate.backbones import Backbone
from lockgate.classifiers import ExchangeClassifier
from lockgate.durable import hash_path
from lockgate.errors import ConfigError
from lockgate.exchanges import PromptPrints, prompt_text, read_exchanges
from lockgate.guards import Guard
from lockgate.traffic import MINED, CalibrationPlan, MiningPlan, SecondStagePlan, calibrate, manifest_of, mine
from lockgate.training import ClassifierConfig

pytestmark = pytest.mark.slow

PLAN = replace(
    QUICK,
    mine_top=0.25,
    classifier=ClassifierConfig(
        words=("y", "n"), layers=1, rank=2, max_tokens=100, tokens=1500, tokens_per_step=400
    ),
)


@pytest.fixture(scope="module")
def backbone(saved_backbone) -> Path:
    return saved_backbone("llama")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, tuple[Path, ...]]:
    """Traffic, labelled rows, evaluation items, and a pool that repeats some of each."""
    folder = tmp_path_factory.mktemp("sources")
    traffic = [traffic_row(i) for i in range(90)]
    data = [labelled_row(i, float(i % 2)) for i in range(30)]
    judged = [labelled_row(i, float(i % 2)) for i in range(100, 108)]
    pool = [traffic_row(i) for i in range(300, 360)]
    unlabelled = replace(data[1], label=None)
    pool += [*traffic[:20], replace(judged[0], label=None), data[0], unlabelled, labelled_row(500, 1.0)]
    named = {"benign": traffic, "data": data, "evaluation": judged, "mine": pool}
    return {name: (write_rows(folder / f"{name}.jsonl", rows),) for name, rows in named.items()}


@pytest.fixture(scope="module")
def built(tmp_path_factory, backbone, sources):
    folder = tmp_path_factory.mktemp("built")
    return folder, build(folder, backbone, PLAN, **sources)


def rows_of(folder: Path, part: str) -> list:
    return list(read_exchanges(folder / "guard.build" / f"{part}.jsonl"))


def test_the_pool_is_mined_by_the_new_probe_without_held_out_prompts(
    built, backbone, sources, tmp_path
) -> None:
    folder, result = built
    mined = rows_of(folder, "mined")
    kept = [
        *rows_of(folder, "calibration"),
        *rows_of(folder, "held_out"),
        *read_exchanges(*sources["evaluation"]),
    ]
    met = PromptPrints.of(kept).find([prompt_text(row) for row in mined])
    assert mined
    assert met == [None] * len(mined)
    second = result.report["second_stage"]
    # The evaluation item, and the traffic that doesn't train.
    assert second["overlap"] >= 10
    assert (second["mined"], second["cut"]) == (len(mined), min(row.meta[MINED]["score"] for row in mined))
    candidate = Guard.load(folder / "guard.build" / "candidate", backbone=backbone)
    left = [
        row
        for row in read_exchanges(*sources["mine"])
        if PromptPrints.of(kept).find([prompt_text(row)]) == [None]
    ]
    write_rows(tmp_path / "left.jsonl", left)
    plan = MiningPlan(top=PLAN.mine_top, unlabelled_as=0)
    mine(candidate, [tmp_path / "left.jsonl"], tmp_path / "hard.jsonl", plan)
    assert [row.id for row in read_exchanges(tmp_path / "hard.jsonl")] == [row.id for row in mined]


def test_the_second_stage_learns_on_what_the_probe_lets_through(built, backbone) -> None:
    folder, result = built
    made = ExchangeClassifier.load(folder / "guard.build" / "classifier", Backbone.load(backbone))
    training = made.record.training
    second = result.report["second_stage"]
    screen, (mined,) = training["selection"]["screen"], training["selection"]["mined"]
    rows = rows_of(folder, "training")
    assert second["sha256"] == made.sha256
    assert training["exchanges"]["harmful"] == sum(row.label >= 0.5 for row in rows)
    assert screen["above"] == mined["cut"] == second["cut"]
    kept = screen["counts"]["above"] + screen["counts"]["drawn"]
    # A row of --data that is harmful trains as that, whatever an unlabelled copy in the pool says.
    assert kept < training["exchanges"]["harmless"] <= kept + second["mined"]
    assert screen["counts"]["left_out"] > 0
    lines = summarise_build(result.report)
    assert any(line.startswith("second stage in ") for line in lines)
    assert any("--classifier" in line for line in result.report["next"])
    page = (folder / "guard.build" / "report.html").read_text()
    assert "second stage in " in page


def test_guard_and_second_stage_make_a_guard_of_two_stages(built, backbone, sources) -> None:
    folder, _ = built
    guard = Guard.load(folder / "guard", backbone=backbone)
    stage = SecondStagePlan(folder / "guard.build" / "classifier", weight=0.5, escalation=0.3)
    two = calibrate(
        guard, folder / "guard.build" / "calibration.jsonl", CalibrationPlan(budget=0.05, second_stage=stage)
    )
    assert two.classifier is not None
    known = two.training_prompts.find([prompt_text(row) for row in rows_of(folder, "mined")])
    assert all(match is not None for match in known)


def test_an_interrupted_build_ends_with_the_same_second_stage(built, tmp_path, backbone, sources) -> None:
    folder, _ = built

    def stop(step: str, at: int):
        def watch(state) -> None:
            if state.step == step and state.done >= at:
                raise KeyboardInterrupt

        return watch

    for step in ("mine the pool", "screen training rows"):
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, backbone, PLAN, watch=stop(step, 64), **sources)
    assert not (tmp_path / "guard").exists()
    build(tmp_path, backbone, PLAN, **sources)
    for name in ("guard", "guard.build/classifier", "guard.build/mined.jsonl"):
        assert hash_path(tmp_path / name) == hash_path(folder / name), name
    manifests = [
        manifest_of(place / "guard.build" / "mined.jsonl").read_bytes() for place in (folder, tmp_path)
    ]
    assert manifests[0] == manifests[1]
    assert not (tmp_path / "guard.build" / "screen").exists()
    assert not (tmp_path / "guard.build" / "classifier.state").exists()


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        ([labelled_row(1, 1.0)], {}, "pool: no harmless exchange"),
        ([], {}, "pool: no harmless exchange"),
        (
            [traffic_row(1)],
            {"classifier": replace(PLAN.classifier, rank=100_000)},
            "a guard's bundle",
        ),
        ([traffic_row(1)], {"classifier": replace(PLAN.classifier, words=(" yes", " no"))}, "tokens for"),
    ],
)
def test_a_second_stage_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path, backbone, rows, changes, words
) -> None:
    def never(request):
        raise AssertionError("nothing may be asked")

    pool = write_rows(tmp_path / "pool.jsonl", rows)
    with pytest.raises(ConfigError, match=words):
        build(tmp_path, backbone, replace(PLAN, **changes), mine=(pool,), script=never)
    assert not (tmp_path / "guard.build").exists()


def test_a_pool_of_held_out_prompts_is_refused_before_the_probe_is_trained(
    tmp_path, backbone, sources
) -> None:
    steps: list[str] = []
    options = {name: sources[name] for name in ("benign", "data", "evaluation")}
    pool = write_rows(tmp_path / "pool.jsonl", list(read_exchanges(*sources["evaluation"])))
    with pytest.raises(ConfigError, match=r"pool: no harmless exchange .* with held-out prompts"):
        build(tmp_path, backbone, PLAN, mine=(pool,), watch=lambda s: steps.append(s.step), **options)
    assert "read training rows" not in steps


def test_an_estimate_counts_the_pool(sources) -> None:
    found = estimate_build(POLICY, tiny_plan(), PLAN, mine=sources["mine"]).to_dict()
    assert found["mining"]["exchanges"] == 84
    assert found["mining"]["tokens"] > 84 * 10
