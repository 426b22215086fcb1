"""A study from its tables to its page; tables and specs that do not fit are refused by name."""

import json
import re

import numpy as np
import pytest
import yaml
from pages import check
from studies import SPEC, make_study

from lockgate.errors import ConfigError, ExchangeError
from lockgate.tables import BlockTrace, ScoresTable
from recipes.reproduce_ccpp.study import StudySpec, render_study, study, write_study_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def result(folder):
    return study(make_study(folder), provenance={"k": "<v>"})


def test_every_figure_is_there(result):
    assert [system.name for system in result.systems] == [
        "last_generation",
        "exchange",
        "cascade",
        "production",
        "probe",
    ]
    assert result.system("last_generation").relative_compute_engine == 100.0
    exchange, production = result.system("exchange"), result.system("production")
    assert production.relative_compute_engine < 0.3 * exchange.relative_compute_engine
    assert production.relative_compute_front > 100
    assert exchange.relative_compute_engine == exchange.relative_compute_front
    assert exchange.escalated is None
    assert production.escalated.method == "clopper-pearson"
    assert [point.fpr for point in production.points] == [0.01, 0.05]
    assert {own.part: own.kind for own in production.points[0].sets} == {
        "harmful_one": "harmful",
        "harmful_two": "harmful",
        "hard_benign": "hard_benign",
        "disguise_keys": "disguised",
    }
    assert [own.name for own in result.scorers] == ["probe", "small", "text"]
    assert result.spearman.names == ("probe", "exchange", "input", "output", "small", "text")
    assert {view.property for view in result.views} == {"source", "category", "language", "turns", "length"}
    assert len(result.robustness) == 5 * 2 * 2


def test_scores_of_the_exchange_system_are_plain_maxima(result, folder):
    def largest(part):
        trace = BlockTrace.read(folder / "probe_exchange" / f"{part}.blocks.parquet")
        return np.array([np.nanmax(trace.classifier[trace.of(row)]) for row in trace.rows])

    table = ScoresTable.read(folder / "probe_exchange" / "calibration.parquet")
    _, first = np.unique(table.groups, return_index=True)
    reference = np.sort(largest("calibration")[first])
    cut = reference[len(reference) - 1 - int(0.01 * len(reference))]
    point = result.system("exchange").points[0]
    assert point.cut == cut
    assert point.flagged.value == (largest("benign_test") > cut).mean()
    rates, found = [], []
    for part in ("harmful_one", "harmful_two"):
        labels = ScoresTable.read(folder / "probe_exchange" / f"{part}.parquet").labels
        found.append((largest(part) > cut)[labels >= 0.5])
        rates.append(found[-1].mean())
    assert point.tpr.value == pytest.approx(np.concatenate(found).mean())
    assert point.tpr_macro.value == pytest.approx(np.mean(rates))


def test_frontier_and_mixing_meet_the_systems(result):
    production = result.system("production")
    points = {point.escalation: point for point in result.frontier if point.system == "production"}
    assert points[0.1].relative_compute_engine == pytest.approx(production.relative_compute_engine)
    assert points[0.1].tpr == production.points[0].tpr
    assert points[1.0].escalate is None
    compute = [point.relative_compute_engine for point in points.values()]
    assert compute == sorted(compute)
    own = result.mixing[0]
    assert (own.first, own.second, own.chosen) == ("probe", "exchange", production.weight)
    assert own.points[0].log_auroc == pytest.approx(result.mixing[1].points[0].log_auroc, abs=0.1)


def test_the_same_tables_give_the_same_result(result, folder):
    again = study(folder / "systems.yaml", provenance={"k": "<v>"})
    assert again.to_dict() == result.to_dict()
    assert render_study(again) == render_study(result)


def test_the_report_is_one_page_and_plain_json(result, tmp_path):
    paths = write_study_report(result, tmp_path / "new")
    assert json.loads(paths["json"].read_text()) == json.loads(json.dumps(result.to_dict()))
    page = paths["html"].read_text()
    assert check(page).svg == 3
    assert "&lt;v&gt;" in page
    assert "not shown" in page


def test_a_study_without_the_older_systems(tmp_path):
    path = make_study(tmp_path, disguised=[], others=[])
    spec = yaml.safe_load(path.read_text())
    for name in ("input", "output", "screen", "hard_benign", "languages"):
        del spec[name]
    path.write_text(yaml.safe_dump(spec))
    found = study(path)
    assert [system.name for system in found.systems] == ["exchange", "production", "probe"]
    assert found.compute_reference == "exchange"
    check(render_study(found))


def test_pooled_parts_are_one_set_in_means_over_sets(folder, result):
    spec = StudySpec.read(folder / "systems.yaml")
    pooled = StudySpec.model_validate(
        spec.model_dump() | {"pooled": {"both": ("harmful_two", "harmful_one")}}
    )
    assert pooled.harmful_sets == (("harmful_two", "harmful_one"),)
    assert spec.harmful_sets == (("harmful_one",), ("harmful_two",))
    found = study(pooled)
    for own, other in zip(found.systems, result.systems, strict=True):
        for point, apart in zip(own.points, other.points, strict=True):
            assert point.tpr_macro.value == pytest.approx(point.tpr.value)
            assert (point.tpr, point.sets) == (apart.tpr, apart.sets)
    for row, macro in zip(found.robustness[::2], found.robustness[1::2], strict=True):
        assert macro.difference.value == pytest.approx(row.difference.value)
    rows = {own.name: own for own in found.scorers}
    assert rows["probe"].tpr_macro == pytest.approx(found.system("probe").points[1].tpr.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wieght": 1}, r"systems\.yaml: wieght: .*; known fields: name, root, exchange"),
        ({"production": {"escalation": 0.1, "mix": 1}}, r"systems\.yaml: production\.mix: "),
        ({"production": {"escalation": 0}}, r"production\.escalation: "),
        ({"harmful": []}, "harmful: "),
        ({"harmful": ["calibration"]}, "part calibration is named twice"),
        ({"pooled": {"x": ["harmful_one", "other"]}}, "pooled: other must be one of the harmful parts"),
        ({"pooled": {"x": ["harmful_one"] * 2}}, "in one pool only"),
        ({"pooled": {"x": ["harmful_one"]}}, r"pooled\.x: "),
        ({"input": None}, "input and output make one system"),
        ({"claim_point": 0.01}, "claim_point must be larger"),
        ({"harmful": ["../x"]}, r"harmful\.0: "),
    ],
)
def test_wrong_specs_are_refused_by_field(tmp_path, changes, message):
    path = tmp_path / "systems.yaml"
    path.write_text(yaml.safe_dump(SPEC | changes))
    with pytest.raises(ConfigError, match=message):
        StudySpec.read(path)


@pytest.mark.parametrize("text", ["- a\n", "a: [", ""])
def test_what_is_no_mapping_is_no_spec(tmp_path, text):
    path = tmp_path / "systems.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        StudySpec.read(path)


def rewrite(folder, model, part, change):
    path = folder / model / f"{part}.parquet"
    change(ScoresTable.read(path)).write(path)


def test_tables_that_do_not_fit_are_refused(tmp_path):
    path = make_study(tmp_path)
    spec = StudySpec.read(path)
    with pytest.raises(ExchangeError, match=r"nowhere/benign_test\.parquet: cannot be read"):
        study(spec.model_copy(update={"exchange": "nowhere"}))
    with pytest.raises(ExchangeError, match="part harmful_one holds 51 harmful rows; expected ordinary"):
        study(spec.model_copy(update={"benign": "harmful_one", "harmful": ("harmful_two",)}))
    with pytest.raises(ExchangeError, match="tokens_stage2 other than length"):
        study(spec.model_copy(update={"verdict_tokens": 5}))
    with pytest.raises(ExchangeError, match=r"production\.weight is to be chosen"):
        study(spec.model_copy(update={"development": None}))

    rewrite(tmp_path, "input", "hard_benign", lambda t: t.select(np.arange(len(t))[::-1]))
    with pytest.raises(ExchangeError, match=r"input/hard_benign\.parquet: holds other exchanges than"):
        study(path)

    make_study(tmp_path)
    rewrite(tmp_path, "small", "benign_test", lambda t: t.with_column("flops_stage2", np.zeros(len(t))))
    with pytest.raises(ExchangeError, match="has no flops_stage2"):
        study(path)

    make_study(tmp_path)
    groups = np.array(["dev-0"] * 40)
    rewrite(tmp_path, "probe_exchange", "hard_benign", lambda t: t.with_column("prompt_group", groups))
    with pytest.raises(ExchangeError, match="40 rows of part hard_benign share a prompt with part dev"):
        study(path)

    make_study(tmp_path)
    (tmp_path / "text" / "calibration.parquet").unlink()
    with pytest.raises(ExchangeError, match=r"scorer text has no calibration\.parquet"):
        study(path)

    make_study(tmp_path)
    rewrite(tmp_path, "probe_exchange", "benign_test", lambda t: t.with_column("length", np.ones(len(t))))
    with pytest.raises(ExchangeError, match="holds answers longer than their exchanges"):
        study(path)
