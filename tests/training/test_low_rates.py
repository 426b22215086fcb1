"""Recall at low false-positive rates: by hand, against a slow oracle, and its gains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.errors import TrainingError
from lockgate.training import LowRateRecall


def oracle(scores, harmful, parts, rates) -> float:
    found = []
    for name in sorted(set(parts[~harmful]) - {""}):
        quiet = scores[~harmful & (parts == name)]
        for rate in rates:
            # Harmful rows above which at most this share of the harmless rows lies, or as high.
            hits = [(quiet >= score).sum() <= rate * len(quiet) + 1e-9 for score in scores[harmful]]
            found.append(np.mean(hits))
    return float(np.mean(found))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(6, 60),
    ties=st.booleans(),
    names=st.sampled_from([("a",), ("a", "b"), ("a", "b", "")]),
)
def test_the_mean_recall_is_that_of_a_slow_count(seed, n, ties, names) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, n).astype(float) if ties else rng.normal(size=n)
    harmful = np.arange(n) % 3 == 0
    parts = np.array([names[i % len(names)] for i in range(n)])
    if not set(parts[~harmful]) - {""}:
        return
    rates = (0.0, 0.25, 0.5)
    judge = LowRateRecall(harmful, list(range(n)), parts.tolist(), rates=rates)
    assert judge.value(scores) == pytest.approx(oracle(scores, harmful, parts, rates))
    # Only the order of the scores counts.
    assert judge.value(np.exp(scores)) == judge.value(scores)


def test_a_part_of_few_rows_counts_as_much_as_one_of_many() -> None:
    harmful = np.array([True] * 4 + [False] * 12)
    scores = np.array([4.0, 3, 2, 1] + [0.0] * 10 + [2.5, 2.5])
    parts = [""] * 4 + ["many"] * 10 + ["few"] * 2
    assert LowRateRecall(harmful, list(range(16)), parts).value(scores) == (1.0 + 0.5) / 2


def test_a_real_gain_is_beyond_chance_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    harmful = np.arange(600) % 4 == 0
    judge = LowRateRecall(harmful, list(range(600)), ["own"] * 600)
    weak = rng.normal(size=600) + harmful
    strong, noise = weak + 2 * harmful, weak + rng.normal(scale=0.05, size=600)
    gain = judge.gain(strong, weak)
    assert 0 < gain.lower < gain.value < 1
    assert gain.error > 0
    assert judge.gain(noise, weak).lower < 0
    assert judge.gain(weak, weak).value == judge.gain(weak, weak).error == 0.0
    assert judge.gain(strong, weak) == LowRateRecall(harmful, list(range(600)), ["own"] * 600).gain(
        strong, weak
    )


def test_rows_of_one_group_are_drawn_together() -> None:
    harmful = np.arange(200) % 2 == 0
    scores = np.where(harmful, np.arange(200) % 7, 3.0)
    other = np.zeros(200)
    alone = LowRateRecall(harmful, list(range(200)), ["own"] * 200).gain(scores, other)
    joined = LowRateRecall(harmful, [row // 20 for row in range(200)], ["own"] * 200).gain(scores, other)
    assert joined.value == alone.value
    assert joined.error != alone.error


@pytest.mark.parametrize(
    ("harmful", "parts"),
    [([True, True], ["a", "a"]), ([False, False], ["a", "a"]), ([True, False], ["a", ""])],
)
def test_rows_of_one_label_are_refused(harmful, parts) -> None:
    with pytest.raises(TrainingError, match="both labels"):
        LowRateRecall(np.array(harmful), [0, 1], parts)


def test_lengths_must_agree() -> None:
    with pytest.raises(TrainingError, match="for each row"):
        LowRateRecall(np.array([True, False]), [0], ["a", "a"])
