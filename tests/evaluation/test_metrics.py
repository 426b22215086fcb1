import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import roc_auc_score, roc_curve

from lockgate.evaluation import auroc, log_auroc, wilson
from lockgate.evaluation._curves import area, log_area, tpr_on_grid, weighted_roc
from lockgate.evaluation._intervals import Clusters, estimate_curves, exact_rate, rate_by_prompt

labelled = st.lists(
    st.tuples(st.integers(-4, 4).map(float) | st.floats(-100, 100), st.booleans()), min_size=2, max_size=80
).filter(lambda rows: len({label for _, label in rows}) == 2)


def split(rows):
    scores, harmful = zip(*rows, strict=True)
    return np.array(scores), np.array(harmful)


@given(labelled)
def test_auroc_agrees_with_scikit_learn(rows):
    scores, harmful = split(rows)
    assert auroc(scores, harmful) == pytest.approx(roc_auc_score(harmful, scores), abs=1e-12)


@given(labelled, st.integers(0, 100))
def test_weighted_area_agrees_with_scikit_learn_and_with_repetition(rows, seed):
    scores, harmful = split(rows)
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, len(rows))).astype(float)
    weights[:, [int(np.argmax(harmful)), int(np.argmin(harmful))]] = 1
    areas = area(weighted_roc(scores, harmful, weights))
    for row, value in zip(weights, areas, strict=True):
        assert value == pytest.approx(roc_auc_score(harmful, scores, sample_weight=row), abs=1e-12)
        times = row.astype(int)
        assert value == pytest.approx(auroc(np.repeat(scores, times), np.repeat(harmful, times)), abs=1e-12)


def test_auroc_without_both_classes_is_not_a_number():
    assert np.isnan(auroc(np.array([1.0, 2.0]), np.array([True, True])))


@given(labelled)
def test_log_area_is_the_integral_of_the_reachable_tpr(rows):
    scores, harmful = split(rows)
    grid = np.logspace(-3, -1, 20_001)
    middles = np.sqrt(grid[1:] * grid[:-1])
    fpr, tpr, _ = roc_curve(harmful, scores, drop_intermediate=False)
    reachable = tpr[np.searchsorted(fpr, middles, side="right") - 1]
    assert log_auroc(scores, harmful) == pytest.approx(reachable.mean(), abs=1e-3)
    assert np.allclose(tpr_on_grid(scores, harmful, middles), reachable)


def test_log_area_of_the_extremes():
    harmful = np.array([True] * 5 + [False] * 5)
    assert log_auroc(np.arange(10)[::-1].astype(float), harmful) == pytest.approx(1.0)
    assert log_auroc(np.arange(10).astype(float), harmful) == 0.0
    # 1 of 50 benign rows on top: nothing below 2 %, everything above.
    scores = np.concatenate([[9.0], np.full(20, 5.0), np.zeros(49)])
    harmful = np.array([False] + [True] * 20 + [False] * 49)
    assert log_auroc(scores, harmful) == pytest.approx(np.log(0.1 / 0.02) / np.log(100))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(count):
    k, n = count
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_without_trials():
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_of_singletons_agrees_with_scipys():
    values = np.random.default_rng(1).normal(size=300)
    clusters = Clusters([str(i) for i in range(300)], seed=3)
    drawn = clusters.means(values)
    expected = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=0)
    assert drawn.std() == pytest.approx(expected.standard_error, rel=0.08)
    assert np.percentile(drawn, 2.5) == pytest.approx(expected.confidence_interval.low, abs=0.02)


def test_repeating_every_row_does_not_narrow_an_interval_by_prompt():
    rng = np.random.default_rng(0)
    flags = rng.random(200) < 0.3
    once = rate_by_prompt(flags, Clusters(np.arange(200)))
    often = rate_by_prompt(np.repeat(flags, 10), Clusters(np.repeat(np.arange(200), 10)))
    assert (once.method, often.method) == ("wilson", "cluster-bootstrap")
    assert (often.n, often.n_prompts) == (2000, 200)
    assert often.upper - often.lower == pytest.approx(once.upper - once.lower, rel=0.1)


def test_resamples_are_seeded_and_chunking_changes_nothing(monkeypatch):
    values = np.arange(50.0)
    groups = np.arange(50) // 2
    whole = Clusters(groups, seed=5).means(values)
    assert np.array_equal(whole, Clusters(groups, seed=5).means(values))
    assert not np.array_equal(whole, Clusters(groups, seed=6).means(values))
    for name in ("_CHUNK_CELLS", "_ROW_CHUNK_CELLS"):
        monkeypatch.setattr(f"lockgate.evaluation._intervals.{name}", 50 * 7)
    assert np.allclose(whole, Clusters(groups, seed=5).means(values))
    rows = np.concatenate(list(Clusters(groups, seed=5).row_weights()))
    assert rows.shape == (2000, 50)
    assert np.allclose(rows @ values / rows.sum(axis=1), whole)


def test_agreement_of_all_rows_is_not_certainty():
    estimate = rate_by_prompt(np.ones(30, dtype=bool), Clusters(np.arange(30) // 3))
    assert estimate.value == 1.0
    assert estimate.lower == pytest.approx(wilson(10, 10)[0])
    assert rate_by_prompt(np.ones(0, dtype=bool), Clusters([])) is None


def test_exact_rate_is_clopper_pearson():
    estimate = exact_rate(np.array([True] + [False] * 99), np.arange(100))
    expected = binomtest(1, 100).proportion_ci(0.95, method="exact")
    assert (estimate.lower, estimate.upper) == pytest.approx((expected.low, expected.high))
    assert exact_rate(np.zeros(0, dtype=bool), []) is None


def test_interval_of_the_auroc_has_about_its_coverage():
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        harmful = rng.random(150) < 0.5
        scores = rng.normal(size=150) + 1.0 * harmful
        estimate = estimate_curves((area,), scores, harmful, Clusters(np.arange(150), 400, seed))[0]
        # Phi(1 / sqrt 2) for unit normals one apart.
        hits += estimate.lower <= 0.7602 <= estimate.upper
    assert hits >= 34


def test_one_class_gives_no_estimate():
    assert estimate_curves((area, log_area), np.zeros(3), np.zeros(3, dtype=bool), Clusters(["a"] * 3)) == [
        None,
        None,
    ]
