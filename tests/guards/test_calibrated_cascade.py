"""A calibrated cascade enters only a guard that flags where it was calibrated to flag."""

import numpy as np
import pytest
from classifying import tiny_classifier
from models import tiny_backbone
from parts import make_guard

from lockgate.calibration import Trace, calibrate_cascade
from lockgate.errors import CalibrationError


def test_a_calibrated_cascade_fits_the_guards_own_region() -> None:
    rng = np.random.default_rng(0)
    benign = [Trace(*rng.normal(size=(2, 4))) for _ in range(400)]
    groups = [str(i) for i in range(400)]
    guard = make_guard(tiny_backbone(), flag_on="answer")
    classifier = tiny_classifier()

    def calibrate(flag_on):
        return calibrate_cascade(benign, groups, budget=0.02, escalation=0.1, flag_on=flag_on, weights=(0.5,))

    with pytest.raises(CalibrationError, match="calibrated with flag_on = both, the guard has answer"):
        guard.with_cascade(classifier, calibrate("both"))
    found = calibrate("answer")
    ready = guard.with_cascade(classifier, found)
    assert ready.cascade == found.cascade
    assert ready.calibration == found.calibration
