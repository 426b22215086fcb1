"""Figures of the comparison of training sets on scores made up by hand, and draws against a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tables import HARMFUL, SOURCES, separated, write_value

from lockgate.calibration import plain_quantile_threshold
from recipes.embedded_guard import value_figures
from recipes.embedded_guard.value_figures import SETS, compute, draw_macro, draw_weights, markdown


def test_macro_counts_sources_alike_and_differences_are_to_public(tmp_path) -> None:
    write_value(tmp_path / "t.parquet", dict(zip(SETS, map(separated, (2, 8, 5)), strict=True)))
    found = compute(tmp_path / "t.parquet", 200)
    # Both rows of a; everything; both of a and half of b.
    assert found["tpr"] == {"public": 0.5, "synthetic": 1.0, "both": 0.75}
    assert found["harmful_by_source"] == {"a": 2, "b": 6}
    assert found["harmless_by_source"] == {"a": 4, "b": 0, "c": 8}
    assert "0 at 0.01, 0 at 0.001" in found["threshold"]
    rows = found["regions"]["answer"]
    assert found["regions"]["both"] == rows
    assert [rows[name]["tpr_at_0.001"][0] for name in SETS] == [0.25, 1.0, 0.625]
    assert [rows[name]["auroc"][0] for name in SETS] == [0.25, 1.0, 0.625]
    both = rows["both"]["macro_tpr_at_0.001"]
    assert both["by_source"]["b"] | {"rate": None} == {"n": 6, "hits": 3, "rate": None}
    assert both["false_positives"] == 0
    for name, value in (("synthetic", 0.5), ("both", 0.25)):
        less = rows[name]["minus_reference"]
        assert less["macro_tpr_at_0.001"]["value"][0] == value
        assert less["auroc"][0] == pytest.approx(rows[name]["auroc"][0] - 0.25)
        low, high = less["macro_tpr_at_0.001"]["threshold_drawn"]
        assert low <= value <= high
    assert "minus_reference" not in rows["public"]
    text = markdown(found)
    assert "`a` 2, `b` 6" in text
    assert "| `both` | 30 (10) |" in text
    assert text.endswith("2 prompt equal.")


def test_rows_of_one_prompt_are_drawn_together(tmp_path) -> None:
    scores = dict.fromkeys(SETS, separated(5))
    write_value(tmp_path / "t.parquet", scores)
    write_value(
        tmp_path / "g.parquet", scores, ["x"] * 2 + ["y"] * 3 + ["z"] * 3 + [f"g{i}" for i in range(12)]
    )
    alone, grouped = (
        compute(tmp_path / f"{name}.parquet", 500)["regions"]["answer"]["both"] for name in "tg"
    )
    figures = [own["macro_tpr_at_0.01"]["threshold_drawn"] for own in (alone, grouped)]
    assert figures[1] == [0.5, 1.0]
    assert figures[0][0] > 0.5
    # Equal scores differ by nothing, whatever is drawn.
    assert grouped["minus_reference"]["macro_tpr_at_0.01"]["threshold_drawn"] == [0.0, 0.0]


@settings(max_examples=20)
@given(st.lists(st.integers(-3, 3), min_size=20, max_size=20), st.sampled_from([0.001, 0.1, 0.3]))
def test_draws_are_those_of_a_plain_loop(values, fpr) -> None:
    scores, groups = np.array(values, float), np.array([f"g{i // 2}" for i in range(20)])
    found = draw_macro(scores, HARMFUL, SOURCES, groups, fpr, 5)
    random = np.random.default_rng(value_figures.SEED)
    weights = {"benign": draw_weights(groups[~HARMFUL], 5, random)}
    for name in "ab":
        weights[name] = draw_weights(groups[HARMFUL & np.equal(SOURCES, name)], 5, random)
    for i in range(5):
        benign = np.repeat(scores[~HARMFUL], weights["benign"][i].astype(int))
        cut = plain_quantile_threshold(benign, fpr)
        rates = []
        for name in "ab":
            own = np.repeat(scores[HARMFUL & np.equal(SOURCES, name)], weights[name][i].astype(int))
            rates.append((own > cut).mean())
        assert found[i] == pytest.approx(np.mean(rates))
