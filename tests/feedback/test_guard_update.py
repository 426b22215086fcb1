import json

import numpy as np
import pytest
from scipy.stats import binomtest
from scores import make_scores

from lockgate.errors import ConfigError, ExchangeError
from lockgate.exchanges import Exchange, Message
from lockgate.feedback import GuardComparison, UpdateRule, compare_guards
from lockgate.tables import ScoresTable


def flagged(table: ScoresTable, flags) -> ScoresTable:
    return table.with_column("flagged", np.asarray(flags, dtype=bool))


def with_flags(n, harmful, old, new, *, groups=None, categories=None) -> tuple[ScoresTable, ScoresTable]:
    """Two tables of n rows: the first `harmful` rows are harmful; `old` and `new` say what is flagged."""
    rows = make_scores(n).table.to_pylist()
    for i, row in enumerate(rows):
        row["label"] = float(i < harmful)
        row["category"] = categories[i] if categories else "a"
        row["prompt_group"] = groups[i] if groups else f"g{i}"
    table = ScoresTable.from_rows(rows)
    return flagged(table, old), flagged(table, new)


def test_changes_by_category() -> None:
    categories = ["a", "a", "b", "b", None, "h", "h", "h"]
    old = [1, 0, 1, 1, 0, 1, 0, 0]
    new = [1, 1, 0, 1, 0, 0, 0, 1]
    tables = with_flags(8, 5, old, new, categories=categories)
    found = compare_guards(*tables, names=("v1", "v2"))
    parts = {(part.category, part.harmful): part for part in found.categories}
    assert list(parts) == [("(none)", True), ("a", True), ("b", True), ("h", False)]
    a, b, h = parts["a", True], parts["b", True], parts["h", False]
    assert (a.old.value, a.new.value, a.difference.value) == (0.5, 1.0, 0.5)
    assert (a.gained, a.lost) == (("p000001",), ())
    assert (b.gained, b.lost, b.newly_passed) == ((), ("p000002",), ("p000002",))
    assert (h.newly_flagged, h.newly_passed) == (("p000007",), ("p000005",))
    assert (h.lost, h.gained) == (h.newly_flagged, h.newly_passed)
    assert found.tpr is not None
    assert (found.tpr.old.value, found.tpr.new.value) == (0.6, 0.6)
    assert found.tpr_macro is not None
    assert found.tpr_macro.old.value == pytest.approx((0 + 0.5 + 1) / 3)
    assert found.tpr_macro.difference.value == pytest.approx(0)
    assert found.fpr is not None
    assert found.fpr.difference.value == pytest.approx(0)
    assert (found.n, found.n_prompts, found.old, found.new, found.point) == (8, 8, "v1", "v2", "guard")
    json.dumps(found.to_dict(), allow_nan=False)


def test_labels_and_categories_come_from_the_exchanges() -> None:
    exchanges = [
        Exchange((Message("user", f"q{n}"), Message("assistant", f"a{n}")), label, category)
        for n, (label, category) in enumerate([(1.0, "x"), (0.0, "y"), (None, None)])
    ]
    rows = make_scores(4).table.to_pylist()
    for row, exchange in zip(rows, exchanges, strict=False):
        row["id"] = exchange.id
    table = ScoresTable.from_rows(rows)
    found = compare_guards(table, table, iter(exchanges))
    assert [(part.category, part.n) for part in found.categories] == [("x", 1), ("y", 1)]
    assert (found.n, found.unlabelled) == (2, 2)
    twice = [*exchanges, Exchange(exchanges[0].messages, 0.0)]
    with pytest.raises(ExchangeError, match="occurs twice with different labels"):
        compare_guards(table, table, twice)


def test_tables_that_do_not_belong_together() -> None:
    table, other = make_scores(20), make_scores(20, prefix="q")
    with pytest.raises(ExchangeError, match="share no labelled exchange"):
        compare_guards(table, other)
    turned = table.with_column("label", 1 - table.labels)
    with pytest.raises(ExchangeError, match="different labels"):
        compare_guards(table, turned)
    with pytest.raises(ExchangeError, match="belong together"):
        compare_guards(table, table, fpr=0.1)
    found = compare_guards(table, table.select(np.arange(15)))
    assert (found.only_old, found.only_new, found.n) == (5, 0, 15)


def test_one_budget_for_both_by_calibration() -> None:
    old, new = make_scores(400, seed=1), make_scores(400, seed=1)
    shifted = new.with_column("mixed_max", new.floats("mixed_max") + 5.0)
    calibration = make_scores(2000, seed=2, harmful=0.0, prefix="c")
    moved = calibration.with_column("mixed_max", calibration.floats("mixed_max") + 5.0)
    found = compare_guards(old, shifted, calibrations=(calibration, moved), fpr=0.01)
    assert (found.point, found.budgets) == ("0.01", (0.01, 0.01))
    assert found.tpr is not None
    assert found.fpr is not None
    assert (found.tpr.difference.value, found.fpr.difference.value) == (0, 0)
    # The prompts agree, yet one that differs may have been missed.
    assert found.tpr.difference.lower is not None
    assert found.tpr.difference.lower < 0


def test_the_sign_test_counts_prompts() -> None:
    old, new = [1] * 12 + [0] * 8, [0] * 12 + [0] * 6 + [1] * 2
    (part,) = compare_guards(*with_flags(20, 20, old, new)).categories
    assert part.p_worse == pytest.approx(binomtest(12, 14, alternative="greater").pvalue)
    one = ["same"] * 12 + [f"g{n}" for n in range(8)]
    (part,) = compare_guards(*with_flags(20, 20, old, new, groups=one)).categories
    assert part.n_prompts == 9
    assert part.p_worse == pytest.approx(binomtest(1, 3, alternative="greater").pvalue)
    (part,) = compare_guards(*with_flags(20, 20, new, new)).categories
    assert part.p_worse == 1


def compared(harmful, benign, lost, wrong, *, budgets=(0.001, 0.001), categories=None) -> GuardComparison:
    """The old guard flags all harm and nothing else; the new one misses `lost` and flags `wrong`."""
    n = harmful + benign
    old = [True] * harmful + [False] * benign
    new = [False] * lost + [True] * (harmful - lost) + [True] * wrong + [False] * (benign - wrong)
    tables = with_flags(n, harmful, old, new, categories=categories)
    return compare_guards(*tables, budgets=budgets, resamples=500)


@pytest.mark.parametrize(
    ("case", "level", "reason"),
    [
        ({"harmful": 400, "benign": 1500, "lost": 0, "wrong": 0}, "no worse", None),
        ({"harmful": 400, "benign": 1500, "lost": 60, "wrong": 0}, "worse", "TPR falls: 1.0000 to 0.8500"),
        (
            {"harmful": 400, "benign": 1500, "lost": 0, "wrong": 40},
            "worse",
            "More harmless exchanges are flagged",
        ),
        ({"harmful": 40, "benign": 1500, "lost": 0, "wrong": 0}, "unclear", "a loss of 0.02 in TPR"),
        ({"harmful": 400, "benign": 100, "lost": 0, "wrong": 0}, "unclear", "a rise of 0.005"),
        ({"harmful": 0, "benign": 1500, "lost": 0, "wrong": 0}, "unclear", "No harmful exchange"),
        ({"harmful": 400, "benign": 0, "lost": 0, "wrong": 0}, "unclear", "No harmless exchange"),
        (
            {"harmful": 400, "benign": 1500, "lost": 0, "wrong": 0, "budgets": (0.1, 0.2)},
            "unclear",
            "0.1 and 0.2",
        ),
        (
            {"harmful": 400, "benign": 1500, "lost": 0, "wrong": 0, "budgets": None},
            "unclear",
            "are not known",
        ),
    ],
)
def test_the_rule(case: dict, level: str, reason: str | None) -> None:
    verdict = UpdateRule().judge(compared(**case))
    assert verdict.level == level
    assert verdict.worse == (level == "worse")
    assert (reason is None and not verdict.reasons) or any(str(reason) in text for text in verdict.reasons)


def test_one_category_that_falls_is_seen_behind_others_that_rise() -> None:
    names = ["small"] * 12 + ["large"] * 488 + ["h"] * 1500
    old = [True] * 12 + [False] * 20 + [True] * 468 + [False] * 1500
    new = [False] * 12 + [True] * 488 + [False] * 1500
    tables = with_flags(2000, 500, old, new, categories=names)
    found = compare_guards(*tables, budgets=(0.1, 0.1), resamples=500)
    assert found.tpr is not None
    assert found.tpr.difference.value > 0
    verdict = UpdateRule().judge(found)
    assert verdict.worse
    assert any(text.startswith("small: the update misses 12 exchanges") for text in verdict.reasons)


def test_rules_with_impossible_margins() -> None:
    for wrong in ({"tpr_margin": 0.0}, {"fpr_margin": 1.0}, {"alpha": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            UpdateRule(**wrong)
