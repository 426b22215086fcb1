"""Plots of a threshold: their words are the figures that a loop over the rows gives."""

from html import escape

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.evaluation import BudgetPoint, recall_plot, score_lines_plot

SCORES = st.lists(st.floats(-5, 5) | st.just(-np.inf), max_size=12)


@settings(max_examples=15, deadline=None)
@given(SCORES, SCORES, st.floats(-4, 4))
def test_the_words_count_what_lies_above_the_cut(benign, harmful, cut) -> None:
    found = score_lines_plot({"benign": benign, "harmful": harmful}, cut, "budget 1 %")
    finite = {
        name: [score for score in scores if np.isfinite(score)]
        for name, scores in {"benign": benign, "harmful": harmful}.items()
    }
    if not any(finite.values()):
        assert found is None
        return
    assert found is not None
    for name, scores in finite.items():
        if scores:
            share = sum(score > cut for score in scores) / len(scores)
            assert f"{name}, {len(scores)} rows, {share:.1%} above" in found
        else:
            assert f"{name}, " not in found
    assert found.startswith("<svg")
    assert 'role="img"' in found


def test_recall_is_told_for_each_budget() -> None:
    points = [BudgetPoint(0.001, 2.0, 0.25), BudgetPoint(0.01, 1.0, 0.5)]
    found = recall_plot(points, 0.01)
    assert found is not None
    assert "25.0% at 0.1 %, 50.0% at 1 %" in found
    assert "claimed" in found
    assert "claimed" not in (recall_plot(points, None) or "")
    assert recall_plot([], 0.01) is None


@pytest.mark.parametrize("name", ["a $b$ c", "<b>"])
def test_names_are_text_and_no_markup(name) -> None:
    found = score_lines_plot({name: [0.0, 1.0]}, 0.5, "budget")
    assert found is not None
    assert "<b>" not in found
    assert f"{escape(name)}, 2 rows, 50.0% above" in found
