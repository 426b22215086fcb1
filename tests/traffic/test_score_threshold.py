"""The threshold file: written and read the same, and its rule flags what the calibration flags."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.calibration import choose_threshold
from lockgate.durable import file_sha256
from lockgate.errors import CalibrationError
from lockgate.traffic import ScoreThreshold


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-30, 30).map(lambda n: n / 7), min_size=60, max_size=90),
    st.floats(0, 0.1),
    st.booleans(),
)
def test_the_rule_flags_the_rows_above_the_cut(scores, tolerance, lower) -> None:
    sign = -1.0 if lower else 1.0
    values = sign * np.array(scores)
    calibration = choose_threshold(values, [str(i) for i in range(len(values))], 0.1, tolerance)
    found = ScoreThreshold.of(calibration, [], column="s", lower_is_harmful=lower)
    flags = [found.flags(score) for score in scores]
    assert sum(flags) == calibration.flagged == found.flagged <= found.k
    assert flags == [score < found.cut if lower else score > found.cut for score in scores]
    # The rule in words is the rule.
    rule = found.to_dict()["flag_if"]
    known = {"threshold": found.threshold, "tolerance": found.tolerance}
    assert flags == [eval(rule, {}, {"score": score, **known}) for score in scores]  # noqa: S307
    assert found.flags(math.nan)


def test_a_file_is_read_back_the_same(tmp_path) -> None:
    source = tmp_path / "s.csv"
    source.write_text("s\n1\n")
    calibration = choose_threshold(np.arange(60.0), [str(i) for i in range(60)], 0.1, 0.0)
    made = ScoreThreshold.of(calibration, [source], recall={"n": 3, "flagged": 1})
    made.write(tmp_path / "t.json")
    assert ScoreThreshold.read(tmp_path / "t.json") == made
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["lockgate_threshold"] == 1
    assert content["inputs"] == {str(source): file_sha256(source)}
    assert (content["n"], content["k"], content["bound"]) == (60, calibration.k, calibration.bound)


@pytest.mark.parametrize("change", [{"lockgate_threshold": 2}, {"flag_if": "never"}, {"more": 1}])
def test_other_files_are_refused(tmp_path, change) -> None:
    calibration = choose_threshold(np.arange(60.0), [str(i) for i in range(60)], 0.1, 0.0)
    content = ScoreThreshold.of(calibration, []).to_dict() | change
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=r"t\.json"):
        ScoreThreshold.read(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(CalibrationError, match="not a threshold file"):
        ScoreThreshold.read(tmp_path / "t.json")
