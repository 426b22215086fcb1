"""Thresholds with a bound: what a refusal budget allows, and what sample it takes to claim it."""

from lockgate.calibration._bounds import (
    Interval,
    allowed_flags,
    clopper_pearson,
    clopper_pearson_upper,
    required_n,
)
from lockgate.calibration._threshold import (
    BudgetRow,
    Calibration,
    Exclusion,
    budget_table,
    choose_threshold,
    plain_quantile_threshold,
)

__all__ = [
    "BudgetRow",
    "Calibration",
    "Exclusion",
    "Interval",
    "allowed_flags",
    "budget_table",
    "choose_threshold",
    "clopper_pearson",
    "clopper_pearson_upper",
    "plain_quantile_threshold",
    "required_n",
]
