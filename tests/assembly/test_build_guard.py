"""`build_guard` on a tiny backbone: its results, its claims, and its refusals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from build_runs import POLICY, QUICK, build, labelled_row, traffic_row, write_rows
from factory_runs import refuse_about, tiny_plan

from lockgate.assembly import BuildInputs, TrainingPlan, estimate_build, summarise_build
from lockgate.assembly._measure import without_refusals
from lockgate.assembly._rows import possible_budget
from lockgate.assembly._threshold import _describe_dropped
from lockgate.calibration import allowed_flags, clopper_pearson_upper, required_n
from lockgate.durable import hash_path
from lockgate.errors import CalibrationError, ConfigError, GuardError, TrainingError
from lockgate.exchanges import PromptPrints, prompt_group, prompt_text, read_exchanges
from lockgate.guards import Guard, read_bundle
from lockgate.tables import ScoresTable

PLAN = tiny_plan(queries={"harmful_per_category": 5})


@pytest.fixture(scope="module")
def backbone(saved_backbone) -> Path:
    return saved_backbone("llama")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    """Traffic that repeats a prompt, labelled rows that repeat each other, and evaluation items in both."""
    folder = tmp_path_factory.mktemp("sources")
    traffic = [traffic_row(i) for i in range(120)]
    data = [labelled_row(i, float(i % 2)) for i in range(30)]
    judged = [labelled_row(i, float(i % 2)) for i in range(100, 112)]
    leaked = [replace(judged[0], source="copied"), replace(traffic[5], label=1.0)]
    return {
        "traffic": write_rows(
            folder / "traffic.jsonl", [*traffic, traffic[0], replace(judged[1], label=None)]
        ),
        "data": write_rows(folder / "data.jsonl", [*data, data[3], leaked[0], replace(data[4], label=1.0)]),
        "evaluation": write_rows(folder / "judged.jsonl", judged),
    }


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, backbone, sources):
    folder = tmp_path_factory.mktemp("calibrated")
    result = build(
        folder,
        backbone,
        benign=(sources["traffic"],),
        data=(sources["data"],),
        evaluation=(sources["evaluation"],),
    )
    return folder, result


def rows_of(folder: Path, part: str) -> list:
    return list(read_exchanges(folder / "guard.build" / f"{part}.jsonl"))


def test_a_guard_claims_what_its_traffic_carries(calibrated, backbone) -> None:
    folder, result = calibrated
    guard = Guard.load(folder / "guard", backbone=backbone)
    found, claim = guard.calibration, result.report["claim"]
    assert found is not None
    assert found.n == len({prompt_group(row) for row in rows_of(folder, "calibration")}) == 96
    assert found.budget == claim["budget"] == possible_budget(96, 0.0005) == 0.05
    assert claim["wished_needs"] == required_n(0.0005)
    assert (claim["reason"], claim["false_refusal_rate"]["n"]) == (None, 96)
    assert guard.record.provisional is None
    table = ScoresTable.read(folder / "guard.build" / "scores" / "calibration.parquet")
    crossed = table.floats("mixed_max") > guard.thresholds.flag - guard.thresholds.tolerance
    assert crossed.sum() == found.flagged <= found.k
    card = (folder / "guard" / "README.md").read_text()
    assert "within the budget of 5.000%" in card
    assert "## Measured" in card
    assert "Uncalibrated" not in card


def test_a_claim_names_the_traffic_that_is_not_in_its_sample(calibrated, backbone) -> None:
    folder, _ = calibrated
    found = Guard.load(folder / "guard", backbone=backbone).calibration
    assert _describe_dropped(found, {"benign/no_answer": 3, "data/held_out_prompt": 2}) == []
    counts = {"benign/trained_prompt_near": 2, "benign/trained_prompt_equal": 1, "benign/held_out_prompt": 4}
    trained, held_out = _describe_dropped(found, counts)
    assert trained.startswith("left out: 3 exchanges of the traffic whose prompts are near a training prompt")
    assert held_out.startswith("left out: 4 exchanges")
    worst = clopper_pearson_upper(found.flagged + 4, found.n + 4, found.confidence)
    assert held_out.endswith(f"the bound would be {worst:.3%}")


def test_no_prompt_stands_in_two_parts(calibrated, sources) -> None:
    folder, result = calibrated
    training = PromptPrints.of(rows_of(folder, "training"))
    for part in ("held_out", "calibration"):
        assert rows_of(folder, part)
        assert not training.holds([prompt_group(row) for row in rows_of(folder, part)]).any()
    assert all(m is None for m in training.find([prompt_text(row) for row in rows_of(folder, "calibration")]))
    judged = {prompt_group(row) for row in read_exchanges(sources["evaluation"])}
    for part in ("training", "calibration"):
        assert not judged & {prompt_group(row) for row in rows_of(folder, part)}
    dropped = result.report["rows"]["dropped"]
    assert dropped["benign/evaluation_leak"] == 1
    assert dropped["data/evaluation_leak"] == 1
    assert dropped["data/duplicate"] == 1
    assert dropped["data/duplicate_of_another_label"] == 1
    assert len(rows_of(folder, "dropped")) == sum(dropped.values())
    assert all(row.meta["rejected"]["reason"] for row in rows_of(folder, "dropped"))


def test_training_holds_all_sources_and_says_so(calibrated) -> None:
    folder, result = calibrated
    by_source = read_bundle(folder / "guard").record.training.exchanges
    assert by_source["mine"] == {"harmful": 15, "harmless": 15}
    assert by_source["shop"] == {"harmful": 0, "harmless": 24}
    assert by_source["synthesis/stage-magic"]["harmful"] > 0
    assert result.report["rows"]["benign_training"] == 24
    assert result.report["rows"]["traffic_prompts"] == 120


def test_the_report_says_how_good_it_is_and_what_limits_it(calibrated) -> None:
    folder, result = calibrated
    report = json.loads((folder / "guard.build" / "report.json").read_text())
    assert report == json.loads(json.dumps(result.report))
    held = report["held_out"]
    assert held["n_harmful"] == sum(row.label == 1 for row in rows_of(folder, "held_out"))
    assert held["tpr"]["lower"] - 1e-9 <= held["tpr"]["value"] <= held["tpr"]["upper"]
    assert {part["key"] for part in held["tpr_by_category"]} <= set(POLICY.category_ids)
    assert sum(part["n"] for part in held["tpr_by_kind"]) == held["n_harmful"]
    assert report["evaluation"][0]["name"] == "judged.jsonl"
    assert report["limits"]
    assert f"--out {report['guard']} --benign FILE --update {report['guard']}" in report["next"][-1]
    page = (folder / "guard.build" / "report.html").read_text()
    assert "<h2>Limits</h2>" in page
    texts = [m.content for row in rows_of(folder, "training") for m in row.messages]
    assert not any(text in page or text in json.dumps(report) for text in texts)
    lines = summarise_build(report)
    assert any(line.startswith("refusal budget 5.00%") for line in lines)


def test_a_build_that_is_whole_is_not_made_again(calibrated, backbone, sources) -> None:
    folder, _ = calibrated
    before = hash_path(folder / "guard")
    marks = {p.name: p.stat().st_mtime_ns for p in (folder / "guard.build" / "steps").iterdir()}

    def never(request):
        raise AssertionError("nothing is left to ask")

    options = {"benign": (sources["traffic"],), "data": (sources["data"],)}
    build(folder, backbone, evaluation=(sources["evaluation"],), script=never, **options)
    assert hash_path(folder / "guard") == before
    assert marks == {p.name: p.stat().st_mtime_ns for p in (folder / "guard.build" / "steps").iterdir()}


@pytest.mark.slow
def test_without_traffic_nothing_is_claimed(tmp_path, backbone) -> None:
    steps = []
    result = build(tmp_path, backbone, watch=lambda state: steps.append(state))
    record = read_bundle(tmp_path / "guard").record
    assert record.calibration is None
    # Refusals from templates are too easy to set a threshold or a rate by.
    ordinary, refused = {}, {}
    for part in ("held_out", "provisional"):
        harmless = [row for row in rows_of(tmp_path, part) if row.label == 0]
        refused[part] = sum(row.meta["role"] == "refused" for row in harmless)
        ordinary[part] = len(harmless) - refused[part]
    assert all(refused.values())
    assert record.provisional.n == ordinary["provisional"]
    held = result.report["held_out"]
    assert (held["n_harmless"], held["refusals"]["n"]) == (ordinary["held_out"], refused["held_out"])
    assert "refusals from templates" in (tmp_path / "guard.build" / "report.html").read_text()
    assert "refusals from templates" in "\n".join(summarise_build(result.report))
    claim = result.report["claim"]
    assert (claim["budget"], claim["false_refusal_rate"]) == (None, None)
    assert "--benign" in claim["reason"]
    assert "--benign" not in result.report["next"][-1]
    assert "**Uncalibrated.**" in (tmp_path / "guard" / "README.md").read_text()
    assert "UNCALIBRATED" in summarise_build(result.report)[0]
    assert "uncalibrated" in (tmp_path / "guard.build" / "report.html").read_text()
    parts = [
        {row.meta.get("original", row.id) for row in rows_of(tmp_path, p)}
        for p in ("held_out", "provisional")
    ]
    assert not parts[0] & parts[1]
    # The threshold stands above all of so few rows.
    table = ScoresTable.read(tmp_path / "guard.build" / "scores" / "provisional.parquet")
    cut = record.thresholds.flag - record.thresholds.tolerance
    assert (without_refusals(table).floats("mixed_max")[without_refusals(table).labels < 0.5] <= cut).all()
    names = {step.step for step in steps}
    assert {"read training rows", "fit the probe", "score held_out", "synthesize: answers"} <= names
    assert not list((tmp_path / "guard.build").glob("windows*"))


@pytest.mark.slow
def test_traffic_that_is_too_little_claims_nothing(tmp_path, backbone) -> None:
    traffic = write_rows(tmp_path / "few.jsonl", [traffic_row(i) for i in range(20)])
    claim = build(tmp_path, backbone, benign=(traffic,)).report["claim"]
    assert claim["budget"] is None
    assert "16 distinct prompts of traffic carry no budget" in claim["reason"]


@pytest.mark.parametrize("prompts", [0, 58, 59, 298, 299, 2995, 5990, 100_000])
def test_budgets_follow_from_the_number_of_prompts(prompts) -> None:
    found = possible_budget(prompts, 0.0005)
    assert found is None or (found >= 0.0005 and allowed_flags(prompts, found) is not None)
    assert found == {0: None, 58: None, 59: 0.05, 298: 0.02, 299: 0.01, 2995: 0.001}.get(prompts, 0.0005)


def test_what_cannot_train_or_calibrate_is_refused(tmp_path, backbone) -> None:
    harmful = write_rows(tmp_path / "harmful.jsonl", [traffic_row(1), labelled_row(2, 1.0)])
    with pytest.raises(CalibrationError, match="exchange 2 is labelled harmful"):
        build(tmp_path, backbone, benign=(harmful,))
    assert not (tmp_path / "guard").exists()
    with pytest.raises(TrainingError, match=r"\d+ harmful and \d+ harmless .* at least 500") as caught:
        build(tmp_path, backbone, replace(QUICK, least_rows=500))
    assert "--data" in str(caught.value)
    with pytest.raises(ConfigError, match="no such file"):
        build(tmp_path, backbone, benign=(tmp_path / "none.jsonl",))
    with pytest.raises(GuardError, match="no such guard"):
        build(tmp_path, backbone, update=tmp_path / "no-guard")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("the only copy")
    with pytest.raises(GuardError, match="other files"):
        build(tmp_path, backbone, out=tmp_path / "thesis")
    with pytest.raises(ConfigError, match="--work"):
        build(tmp_path, backbone, work=tmp_path / "thesis")


@pytest.mark.slow
def test_a_generator_that_refuses_a_category_is_named(tmp_path, backbone) -> None:
    result = build(tmp_path, backbone, script=refuse_about("escape"))
    assert any("escape-secrets" in warning for warning in result.report["warnings"])
    assert "escape-secrets" in result.report["generator"]["refused_categories"]
    assert any("escape-secrets" in line for line in result.report["changes"])


@pytest.mark.parametrize(
    "changes",
    [{"budget": 0}, {"benign_share": 1}, {"epochs": 0}, {"reading": "float8"}, {"provisional_fpr": 1.0}],
)
def test_plans_out_of_range_are_refused(changes) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        TrainingPlan(**changes)


def test_layers_are_a_band_in_the_middle_or_those_asked_for() -> None:
    assert TrainingPlan().probe(30).layers == tuple(range(12, 27))
    assert TrainingPlan().probe(1).layers == (0,)
    assert TrainingPlan(layers=(2, 4)).probe(5).layers == (2, 4)
    with pytest.raises(ConfigError, match="layers 0 to 2"):
        TrainingPlan(layers=(3,)).probe(3)


def test_an_estimate_reads_files_and_asks_nobody(sources) -> None:
    found = estimate_build(POLICY, PLAN, QUICK, benign=[sources["traffic"]], data=[sources["data"]]).to_dict()
    assert found["synthesis"]["requests"] > 0
    assert found["budget"]["possible"] == 0.05
    assert found["calibration"]["exchanges"] == 98
    assert found["training"]["tokens"] > 10 * found["training"]["exchanges"]


def test_workers_need_a_backbone_on_disk(backbone) -> None:
    from models import tiny_backbone

    from lockgate.synthesis import GeneratorSource

    with pytest.raises(ConfigError, match="memory only"):
        BuildInputs(POLICY, GeneratorSource("none", lambda: None), tiny_backbone(), workers=2)
