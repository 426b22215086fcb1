"""Folds keep groups whole, spread both labels, and depend on keys alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.errors import TrainingError
from lockgate.training import grouped_folds


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.integers(0, 40), min_size=30, max_size=120),
    count=st.integers(2, 5),
    seed=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_folds_keep_groups_and_both_labels(prompts, count, seed, order) -> None:
    keys = [[f"prompt/{number}", *([f"phrase/{number // 3}"] if number < 12 else [])] for number in prompts]
    harmful = np.array([number % 3 == 0 for number in prompts])
    try:
        folds, groups = grouped_folds(keys, harmful, count, seed=seed)
    except TrainingError:
        wanted = {group for group, _ in zip(groups_of(keys), harmful, strict=True)}
        assert len(wanted) < 3 * count + 41
        return
    place = {}
    for own, fold, group in zip(keys, folds.tolist(), groups, strict=True):
        for key in own:
            assert place.setdefault(key, (fold, group)) == (fold, group)
    for fold in range(count):
        assert harmful[folds == fold].any()
        assert not harmful[folds != fold].all()
        assert harmful[folds != fold].any()
    shuffled = list(range(len(keys)))
    order.shuffle(shuffled)
    again, _ = grouped_folds([keys[row] for row in shuffled], harmful[shuffled], count, seed=seed)
    assert again.tolist() == folds[shuffled].tolist()


def groups_of(keys) -> list[str]:
    return [min(own) for own in keys]


def test_folds_are_of_about_one_size() -> None:
    keys = [[f"prompt/{row}"] for row in range(400)]
    harmful = np.arange(400) % 5 == 0
    folds, _ = grouped_folds(keys, harmful, 4)
    assert np.bincount(folds).tolist() == [100] * 4
    assert np.bincount(folds[harmful]).tolist() == [20] * 4
    assert grouped_folds(keys, harmful, 4, seed=1)[0].tolist() != folds.tolist()


def test_harmless_rows_that_fall_into_one_fold_are_refused() -> None:
    # Groups are dealt out by their harmful rows: the two with a harmless row meet in the emptier fold.
    keys = [["a"]] * 20 + [["b"]] * 11 + [["c"]] * 6
    harmful = np.array([True] * 20 + [True] * 10 + [False] + [True] * 5 + [False])
    with pytest.raises(TrainingError, match="the harmless rows can't be spread over 2 folds"):
        grouped_folds(keys, harmful, 2)


@pytest.mark.parametrize("harmful", [[True] * 20, [False] * 20, [True] * 2 + [False] * 18])
def test_a_fold_without_a_label_is_refused(harmful) -> None:
    with pytest.raises(TrainingError, match="can't make 3 folds"):
        grouped_folds([[f"prompt/{row}"] for row in range(20)], np.array(harmful), 3)
