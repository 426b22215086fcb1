"""Traffic that the guard was trained on can't support a budget."""

import pytest
from test_two_stage_calibration import make_traces

from lockgate.calibration import Exclusion, calibrate_cascade, refuse_training_prompts
from lockgate.errors import CalibrationError
from lockgate.exchanges import PromptMatch, PromptPrints, text_hash


def test_the_refusal_counts_names_and_says_what_to_do() -> None:
    matches = [
        None,
        PromptMatch("equal", 1.0),
        PromptMatch("near", 0.8),
        None,
        PromptMatch("equal", 1.0),
        PromptMatch("near", 0.9),
    ]
    ids = [f"row-{i}" for i in range(6)]
    with pytest.raises(CalibrationError) as refused:
        refuse_training_prompts(matches, ids)
    text = str(refused.value)
    assert "4 of 6 calibration exchanges" in text
    assert "2 equal, 2 near-duplicates), the first with ids row-1, row-2, row-4: " in text
    assert "--exclude" in text
    refuse_training_prompts(matches, ids, excluded={"row-1", "row-2", "row-4", "row-5"})
    refuse_training_prompts([None], ["x"])


def test_a_cascade_is_not_calibrated_on_training_prompts() -> None:
    prompts = [f"prompt {i}" for i in range(400)]
    groups, known = [text_hash(text) for text in prompts], PromptPrints.of_texts(prompts[7:8])
    settings = {"budget": 0.02, "escalation": 0.1, "flag_on": "answer", "weights": (0.5,), "training": known}
    with pytest.raises(CalibrationError, match=f"1 of 400 .* with ids {groups[7]}:"):
        calibrate_cascade(make_traces(400, 0, 3), groups, **settings)
    found = calibrate_cascade(
        make_traces(400, 0, 3), groups, ids=prompts, exclusions=[Exclusion("prompt 7", "trained on")],
        **settings,
    )  # fmt: skip
    assert found.calibration.n == 399
