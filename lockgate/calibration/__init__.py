"""Calibration: thresholds that keep a refusal budget, with a bound and the sample that shows it."""

from lockgate.calibration._bounds import (
    Interval,
    allowed_flags,
    clopper_pearson,
    clopper_pearson_upper,
    required_n,
)
from lockgate.calibration._cascade import (
    ESCALATIONS,
    WEIGHTS,
    CascadeCalibration,
    WeightRow,
    calibrate_cascade,
    calibrate_sparingly,
)
from lockgate.calibration._escalation import (
    LengthRow,
    Trace,
    choose_drift,
    escalation_threshold,
    split_by_length,
)
from lockgate.calibration._threshold import (
    DEFAULT_BUDGETS,
    BudgetRow,
    Calibration,
    Exclusion,
    budget_table,
    check_sample,
    choose_threshold,
    first_of_each_group,
    plain_quantile_threshold,
    refuse_training_prompts,
    stored_threshold,
)

__all__ = [
    "DEFAULT_BUDGETS",
    "ESCALATIONS",
    "WEIGHTS",
    "BudgetRow",
    "Calibration",
    "CascadeCalibration",
    "Exclusion",
    "Interval",
    "LengthRow",
    "Trace",
    "WeightRow",
    "allowed_flags",
    "budget_table",
    "calibrate_cascade",
    "calibrate_sparingly",
    "check_sample",
    "choose_drift",
    "choose_threshold",
    "clopper_pearson",
    "clopper_pearson_upper",
    "escalation_threshold",
    "first_of_each_group",
    "plain_quantile_threshold",
    "refuse_training_prompts",
    "required_n",
    "split_by_length",
    "stored_threshold",
]
