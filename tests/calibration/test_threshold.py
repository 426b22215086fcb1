import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lockgate.calibration import (
    Calibration,
    allowed_flags,
    budget_table,
    choose_threshold,
    plain_quantile_threshold,
)
from lockgate.errors import CalibrationError

# Few distinct values, so that ties are the rule.
tied = st.lists(st.integers(-3, 3).map(float), min_size=60, max_size=200)
wide = st.lists(st.floats(-1e6, 1e6), min_size=60, max_size=200)


def flagged_by_serving(scores, calibration):
    return sum(score > calibration.threshold - calibration.tolerance for score in scores)


@given(tied | wide, st.floats(0.05, 0.5), st.floats(0, 0.1))
def test_never_more_flags_than_k(scores, budget, tolerance):
    assume(allowed_flags(len(scores), budget) is not None)
    groups = [str(i) for i in range(len(scores))]
    calibration = choose_threshold(scores, groups, budget, tolerance)
    assert calibration.k == allowed_flags(len(scores), budget)
    assert flagged_by_serving(scores, calibration) <= calibration.k
    assert calibration.flagged == flagged_by_serving(scores, calibration)
    assert calibration.bound <= budget
    slack = 1e-9 * max(1.0, *map(abs, scores))
    gaps = np.diff(sorted(scores))
    if gaps.min() > slack:
        assert calibration.flagged == calibration.k
        assert calibration.threshold == pytest.approx(calibration.cut + tolerance, abs=slack)


@given(st.floats(-1e9, 1e9), st.floats(0, 1))
def test_the_cut_itself_is_never_flagged_whatever_the_rounding(cut, tolerance):
    calibration = choose_threshold([cut] * 80, [str(i) for i in range(80)], 0.1, tolerance)
    assert not cut > calibration.threshold - calibration.tolerance
    above = math.nextafter(calibration.threshold, math.inf)
    assert above > calibration.threshold - calibration.tolerance


@given(tied, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(scores, random):
    rows = [(score, str(i), str(i % 3)) for i, score in enumerate(scores)]
    shuffled = list(rows)
    random.shuffle(shuffled)

    def run(table):
        values, groups, sources = zip(*table, strict=True)
        return choose_threshold(values, groups, 0.2, 1e-3, sources=sources).to_dict()

    assert run(rows) == run(shuffled)


def test_the_first_row_of_a_prompt_stands_for_it():
    scores = [1.0, 9.0] + [0.0] * 98
    groups = ["same", "same"] + [str(i) for i in range(98)]
    calibration = choose_threshold(scores, groups, 0.04, 0.0)
    assert (calibration.n, calibration.duplicates_dropped, calibration.k) == (99, 1, 0)
    assert calibration.cut == 1.0


def test_exclusions_are_reported_with_and_without():
    scores = [50.0, 40.0, *np.linspace(-1, 1, 98)]
    ids = [f"id{i}" for i in range(100)]
    calibration = choose_threshold(
        scores, ids, 0.04, 0.5, ids=ids, exclusions=[("id0", "spam"), ("id1", "mislabelled")]
    )
    assert calibration.n == 98
    assert calibration.threshold == 1.5
    assert calibration.threshold_without_exclusions == 50.5
    assert [row.reason for row in calibration.excluded] == ["spam", "mislabelled"]
    assert choose_threshold(scores, ids, 0.04, 0.5).threshold_without_exclusions is None


@pytest.mark.parametrize(
    ("ids", "exclusions", "message"),
    [
        (None, [("a", "r")], "no ids"),
        (["a"] * 100, [("b", "r")], "match no row"),
        (["a"] * 100, [("a", " ")], "no reason"),
        (["a"] * 99, [], "99 entries for 100"),
    ],
)
def test_unusable_exclusions_are_refused(ids, exclusions, message):
    with pytest.raises(CalibrationError, match=message):
        choose_threshold([0.0] * 100, [str(i) for i in range(100)], 0.1, 0.0, ids=ids, exclusions=exclusions)


def test_a_sample_too_small_is_told_what_it_would_take():
    with pytest.raises(CalibrationError, match=r"500 distinct benign prompts.*at least 5990 distinct"):
        choose_threshold([0.0] * 500, [str(i) for i in range(500)], 0.0005, 0.0)


def test_duplicates_do_not_help_a_sample():
    with pytest.raises(CalibrationError, match="1 distinct"):
        choose_threshold([0.0] * 6000, ["one"] * 6000, 0.0005, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "call",
    [
        lambda scores: choose_threshold(scores, ["a", "b"], 0.5, 0.0),
        lambda scores: plain_quantile_threshold(scores, 0.1),
        budget_table,
    ],
)
def test_scores_that_are_not_finite_are_refused(call, bad):
    with pytest.raises(CalibrationError, match="row 1"):
        call([0.0, bad])


def test_columns_of_another_length_are_refused():
    with pytest.raises(CalibrationError, match="lengths has 3 entries for 2 scores"):
        choose_threshold([0.0, 1.0], ["a", "b"], 0.9, 0.0, lengths=[1, 2, 3])


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_unusable_tolerances_are_refused(tolerance):
    with pytest.raises(CalibrationError, match="tolerance"):
        choose_threshold([0.0], ["a"], 0.5, tolerance)


def test_description_covers_kept_rows_and_survives_json():
    n = 200
    calibration = choose_threshold(
        np.arange(n),
        [str(i) for i in range(n)],
        0.05,
        1e-3,
        lengths=np.arange(n) * 10,
        sources=["a", "b"] * 100,
        languages=["en"] * 200,
    )
    assert calibration.length_deciles[0] == 0
    assert calibration.length_deciles[10] == 1990
    assert calibration.sources == {"a": 100, "b": 100}
    assert calibration.quantiles["1"] == 199
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


def test_foreign_records_are_refused():
    good = choose_threshold([0.0] * 80, [str(i) for i in range(80)], 0.1, 0.0).to_dict()
    for change in ({"surprise": 1}, {"excluded": [{"id": "x"}]}):
        with pytest.raises(CalibrationError, match="not a calibration record"):
            Calibration.from_dict(good | change)


@given(tied | wide, st.floats(0.001, 0.999))
def test_plain_quantile_flags_at_most_its_share(scores, fpr):
    cut = plain_quantile_threshold(scores, fpr)
    assert cut in scores
    assert sum(score > cut for score in scores) <= fpr * len(scores) + 1e-6


def test_plain_quantile_counts_whole_flags_despite_rounding():
    assert plain_quantile_threshold(np.arange(100), 0.29) == 70
    assert plain_quantile_threshold(np.arange(12_000), 0.001) == 11_987
    with pytest.raises(CalibrationError, match="fpr"):
        plain_quantile_threshold([1.0], 1.0)
    with pytest.raises(CalibrationError, match="at least one row"):
        plain_quantile_threshold([], 0.1)


def test_budget_table_is_monotone_and_says_what_it_cannot_carry():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=3000)
    rows = budget_table(scores)
    assert [row.k is None for row in rows[:3]] == [True, True, False]
    assert rows[0].required_n == math.ceil(math.log(0.05) / math.log(1 - 0.0002))
    cuts = [row.cut for row in rows if row.cut is not None]
    assert cuts == sorted(cuts, reverse=True)
    by_rule = choose_threshold(scores, [str(i) for i in range(3000)], 0.01, 0.0)
    assert {row.budget: row.cut for row in rows}[0.01] == by_rule.cut
    assert budget_table(scores, groups=["g"] * 3000)[0].n == 1
