import json

import numpy as np
import pytest
from scores import make_scores
from sklearn.metrics import roc_auc_score

from lockgate.calibration import clopper_pearson, plain_quantile_threshold
from lockgate.errors import ExchangeError
from lockgate.evaluation import Baseline, compare, evaluate
from lockgate.tables import ScoresTable


@pytest.fixture(scope="module")
def table():
    return make_scores(600, seed=1, repeat=2)


@pytest.fixture(scope="module")
def calibration():
    return make_scores(3000, seed=2, harmful=0.0, prefix="c")


@pytest.fixture(scope="module")
def result(table, calibration):
    return evaluate(table, calibration=calibration, resamples=300)


def test_counts_and_rankings(result, table):
    assert (result.n, result.n_prompts, result.n_calibration) == (600, 300, 3000)
    assert result.n_harmful == table.labels.sum()
    probe = result.scorer("probe")
    assert probe.auroc.value == pytest.approx(roc_auc_score(table.labels, table.floats("mixed_max")))
    assert probe.auroc.lower < probe.auroc.value < probe.auroc.upper
    assert [scorer.name for scorer in result.scorers] == ["probe", "prompt_alone", "length_alone"]
    assert abs(result.scorer("prompt_alone").auroc.value - 0.5) < 0.1
    assert result.scorer("length_alone").column == "length"
    assert result.warnings == ()


def test_thresholds_are_plain_quantiles_of_calibration(result, table, calibration):
    point = next(point for point in result.scorers[0].operating_points if point.name == "0.01")
    expected = plain_quantile_threshold(calibration.floats("mixed_max"), 0.01)
    assert (point.threshold, point.origin) == (expected, "calibration")
    flags = table.floats("mixed_max") > expected
    harmful = table.labels == 1
    assert point.tpr.value == pytest.approx(flags[harmful].mean())
    assert point.realised_fpr.value == pytest.approx(flags[~harmful].mean())
    interval = clopper_pearson(int(flags[~harmful].sum()), int((~harmful).sum()))
    assert (point.realised_fpr.lower, point.realised_fpr.upper) == interval


def test_the_guards_own_decisions_are_an_operating_point(result, table):
    point = result.scorers[0].operating_points[-1]
    assert (point.name, point.threshold) == ("guard", None)
    assert point.tpr.value == pytest.approx(table.flagged[table.labels == 1].mean())
    assert all(p.name != "guard" for scorer in result.scorers[1:] for p in scorer.operating_points)


def test_breakdowns_add_up(result):
    probe = result.scorers[0]
    overall = probe.operating_points[0].realised_fpr
    for parts in (probe.fpr_by_source, probe.fpr_by_length):
        assert sum(part.n for part in parts) == result.n_benign
        flagged = sum(part.n * part.rates["0.01"].value for part in parts)
        assert flagged == pytest.approx(overall.value * result.n_benign)
        assert all(part.rates["0.01"].method == "clopper-pearson" for part in parts)
    assert len(probe.fpr_by_length) == 10
    assert [part.key for part in probe.tpr_by_category] == ["weapons"]
    assert [own.source for own in probe.within_sources] == ["alpha", "beta"]


def test_ranked_rows_are_the_extremes(result, table):
    scores, benign = table.floats("mixed_max"), table.labels == 0
    assert [row.score for row in result.highest_benign] == sorted(scores[benign], reverse=True)[:50]
    assert [row.score for row in result.lowest_harmful] == sorted(scores[~benign])[:50]
    assert result.highest_benign[0].id in table.ids


def test_the_result_is_json_and_seeded(result, table, calibration):
    document = json.dumps(result.to_dict(), allow_nan=False)
    again = evaluate(table, calibration=calibration, resamples=300)
    assert document == json.dumps(again.to_dict(), allow_nan=False)
    other = evaluate(table, calibration=calibration, resamples=300, seed=1)
    assert other.scorers[0].auroc.lower != result.scorers[0].auroc.lower


def test_order_of_rows_does_not_matter(table, calibration, result):
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = evaluate(table.select(order), calibration=calibration, resamples=300)
    assert shuffled.scorers[0].auroc.value == result.scorers[0].auroc.value
    assert shuffled.scorers[0].tpr_by_category == result.scorers[0].tpr_by_category


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_label_is_enough(share, calibration):
    result = evaluate(make_scores(60, harmful=share), calibration=calibration, resamples=100)
    assert result.scorers[0].auroc is None
    assert result.scorers[0].roc is None
    point = result.scorers[0].operating_points[0]
    assert (point.tpr is None) == (share == 0.0)
    assert (point.realised_fpr is None) == (share == 1.0)
    json.dumps(result.to_dict(), allow_nan=False)


def test_harmful_rows_alone_need_calibration_for_thresholds():
    result = evaluate(make_scores(60, harmful=1.0), resamples=100)
    assert [point.name for point in result.scorers[0].operating_points] == ["guard"]


def test_doubtful_set_ups_are_noted(table, calibration):
    bare = ScoresTable(table.table.drop_columns(["prompt_group"]))
    notes = " ".join(evaluate(bare, resamples=100).warnings)
    assert "No prompt_group" in notes
    assert "come from the evaluated benign rows" in notes
    notes = " ".join(evaluate(table, calibration=table, resamples=100).warnings)
    assert "share a prompt with the calibration" in notes
    notes = " ".join(
        evaluate(table, calibration=make_scores(50, harmful=0.0, prefix="x"), resamples=100).warnings
    )
    assert "too few for a share of 0.01, 0.001" in notes
    split = table.select(
        np.array(
            [(s == "alpha") == (y == 1) for s, y in zip(table.texts("source"), table.labels, strict=True)]
        )
    )
    assert "No source holds both labels" in " ".join(evaluate(split, resamples=100).warnings)


def test_unlabelled_rows_are_counted_and_left_out(table):
    labels = table.labels
    labels[:100] = np.nan
    result = evaluate(relabel(table, labels), resamples=100)
    assert (result.n, result.n_unlabelled) == (500, 100)
    with pytest.raises(ExchangeError, match="no row of the scores table has a label"):
        evaluate(relabel(table, np.full(600, np.nan)))


def relabel(table, labels):
    position = table.table.column_names.index("label")
    values = [None if np.isnan(label) else float(label) for label in labels]
    return ScoresTable(table.table.set_column(position, "label", [values]))


def rescore(table, name, values):
    return ScoresTable(table.table.set_column(table.table.column_names.index(name), name, [list(values)]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_say_nothing_are_refused(table, bad):
    with pytest.raises(ExchangeError, match="1 rows have a mixed_max"):
        evaluate(rescore(table, "mixed_max", [bad, *table.floats("mixed_max")[1:]]))


def test_a_row_in_which_nothing_could_flag_ranks_lowest(table):
    values = table.floats("mixed_max")
    values[int(np.argmax(table.labels))] = -np.inf
    result = evaluate(rescore(table, "mixed_max", values), resamples=100)
    assert result.lowest_harmful[0].score < values[np.isfinite(values)].min()
    json.dumps(result.to_dict(), allow_nan=False)


def test_what_was_never_escalated_is_never_flagged(table, calibration):
    escalated = np.arange(600) % 3 == 0
    scores = np.where(escalated, 5.0 + np.arange(600), -np.inf)
    reference = np.where(np.arange(3000) < 3, -3.0, -np.inf)
    own, traffic = rescore(table, "mixed_max", scores), rescore(calibration, "mixed_max", reference)
    result = evaluate(own, calibration=traffic, resamples=100)
    point = result.scorers[0].operating_points[0]
    harmful = table.labels == 1
    assert point.threshold is None
    assert point.tpr.value == pytest.approx(escalated[harmful].mean())
    assert point.realised_fpr.value == pytest.approx(escalated[~harmful].mean())
    # With finite scores in both tables the other floor is no higher either.
    lifted = rescore(calibration, "mixed_max", np.where(np.arange(3000) < 300, 900.0, -np.inf))
    point = evaluate(own, calibration=lifted, resamples=100).scorers[0].operating_points[0]
    assert (point.threshold, point.tpr.value) == (900.0, 0.0)
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_classifier_adds_its_columns(table, calibration):
    values = [None if i % 3 else float(i) for i in range(600)]
    cascade = rescore(table, "classifier_max", values)
    names = [scorer.name for scorer in evaluate(cascade, calibration=calibration, resamples=100).scorers]
    assert names == ["mixed", "probe", "classifier", "prompt_alone", "length_alone"]


def test_baselines_enter_as_columns_and_as_tables(table, calibration):
    rng = np.random.default_rng(0)
    wider = table.with_column("baseline_text", rng.normal(size=600))
    calibrated = calibration.with_column("baseline_text", rng.normal(size=3000))
    other = make_scores(600, seed=1, gap=5.0, repeat=2)
    shuffled = other.select(rng.permutation(600))
    result = evaluate(
        wider, calibration=calibrated, baselines=[Baseline("better", shuffled, calibration)], resamples=200
    )
    assert result.scorer("text").operating_points[0].origin == "calibration"
    assert result.scorer("better").auroc.value == pytest.approx(
        roc_auc_score(other.labels, other.floats("mixed_max"))
    )
    versus = {comparison.second: comparison for comparison in result.versus}
    rows = {row.metric: row for row in versus["better"].differences}
    assert rows["auroc"].difference.upper < 0
    assert {"tpr_at_0.01", "fpr_at_0.001", "log_auroc"} <= rows.keys()
    with pytest.raises(ExchangeError, match="baseline gap has no score for 300 exchanges"):
        evaluate(table, baselines=[Baseline("gap", other.select(np.arange(300)))])
    with pytest.raises(ExchangeError, match="two scorers are named probe"):
        evaluate(table, baselines=[Baseline("probe", other)])


def test_paired_differences_are_narrower_than_unpaired(table, calibration):
    rng = np.random.default_rng(3)
    noisy = rescore(table, "mixed_max", table.floats("mixed_max") + 0.05 * rng.normal(size=600))
    found = compare(table, noisy, names=("a", "b"), calibrations=(calibration, calibration), resamples=500)
    rows = {row.metric: row.difference for row in found.differences}
    alone = evaluate(table, resamples=500).scorers[0].auroc
    assert rows["auroc"].lower <= rows["auroc"].value <= rows["auroc"].upper
    assert rows["auroc"].upper - rows["auroc"].lower < 0.2 * (alone.upper - alone.lower)
    assert (rows["tpr_guard"].value, rows["tpr_guard"].upper) == (0.0, 0.0)


def test_a_table_against_itself_differs_nowhere(table):
    found = compare(table, table, resamples=100)
    assert all(row.difference.value == row.difference.lower == 0.0 for row in found.differences)


def test_tables_are_compared_on_what_both_hold(table):
    found = compare(table.select(np.arange(400)), table.select(np.arange(100, 600)[::-1]), resamples=100)
    assert (found.n, found.only_first, found.only_second) == (300, 100, 200)
    assert next(row for row in found.differences if row.metric == "auroc").difference.value == 0.0


def test_tables_that_cannot_be_compared_are_refused(table):
    with pytest.raises(ExchangeError, match="different labels"):
        compare(table, relabel(table, 1 - table.labels))
    with pytest.raises(ExchangeError, match="share no labelled exchange"):
        compare(table, make_scores(5, prefix="other"))


def test_constant_lengths_and_scores_make_no_trouble(table):
    flat = rescore(rescore(table, "length", [7] * 600), "mixed_max", [0.0] * 600)
    result = evaluate(flat, resamples=100)
    assert result.scorers[0].auroc.value == 0.5
    assert result.scorers[0].histogram is None
    assert [part.key for part in result.scorers[0].fpr_by_length] == ["7-7"]
    assert result.worst_source is None
