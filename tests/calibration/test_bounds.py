import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest

from lockgate.calibration import allowed_flags, clopper_pearson, clopper_pearson_upper, required_n
from lockgate.errors import CalibrationError

counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_two_sided_interval_agrees_with_scipy(count, confidence):
    k, n = count
    expected = binomtest(k, n).proportion_ci(confidence, method="exact")
    assert clopper_pearson(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(counts)
def test_one_sided_bound_is_the_beta_quantile_and_has_its_coverage(count):
    k, n = count
    bound = clopper_pearson_upper(k, n)
    if k < n:
        assert bound == pytest.approx(beta.ppf(0.95, k + 1, n - k), abs=1e-10)
        # By definition: at the bound, k events or fewer have probability 5 %.
        assert binom.cdf(k, n, bound) == pytest.approx(0.05, abs=1e-7)
    else:
        assert bound == 1.0


def test_no_trials_say_nothing():
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson_upper(0, 0) == 1.0
    assert allowed_flags(0, 0.5) is None


@pytest.mark.parametrize(
    ("n", "budget", "k"), [(12_000, 0.001, 6), (12_000, 0.0005, 1), (5_000, 0.0005, None)]
)
def test_allowed_flags_of_the_stated_cases(n, budget, k):
    assert allowed_flags(n, budget) == k


@given(st.integers(1, 5000), st.floats(1e-4, 0.5), st.sampled_from([0.9, 0.95]))
def test_allowed_flags_is_the_largest_that_fits(n, budget, confidence):
    k = allowed_flags(n, budget, confidence)
    if k is None:
        assert clopper_pearson_upper(0, n, confidence) > budget
    else:
        assert clopper_pearson_upper(k, n, confidence) <= budget
        assert clopper_pearson_upper(k + 1, n, confidence) > budget


@given(st.floats(5e-4, 0.5), st.integers(0, 8))
def test_required_n_is_the_smallest_that_carries_the_flags(budget, flags):
    n = required_n(budget, flags)
    assert clopper_pearson_upper(flags, n) <= budget
    assert clopper_pearson_upper(flags, n - 1) > budget if n - 1 >= flags else True


def test_required_n_at_zero_flags_is_the_rule_of_three():
    assert required_n(0.0005) == 5990
    assert required_n(0.001) == 2995


@pytest.mark.parametrize(
    "call",
    [
        lambda: clopper_pearson(2, 1),
        lambda: clopper_pearson(-1, 5),
        lambda: clopper_pearson_upper(0, 5, 1.0),
        lambda: allowed_flags(10, 0.0),
        lambda: allowed_flags(10, 1.0),
        lambda: required_n(0.1, -1),
    ],
)
def test_impossible_arguments_are_refused(call):
    with pytest.raises(CalibrationError):
        call()
