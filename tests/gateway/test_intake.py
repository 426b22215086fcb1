"""The hand-over of an answer's text: nothing is over before all of it was taken, whatever comes when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_backbone

from lockgate.gateway._intake import Intake

BACKBONE = tiny_backbone("llama")
WORDS = st.lists(st.sampled_from(["the", " lock", " don't", "\n", "é", "你好", " 🙂"]), max_size=4).map(
    "".join
)
STEPS = st.lists(WORDS | st.integers(1, 3), max_size=12)


@given(steps=STEPS, late=st.integers(1, 3))
def test_an_answer_is_over_when_all_of_it_was_taken_as_settled(steps, late) -> None:
    intake, text, settled = Intake(BACKBONE.tokenise_answer()), "", ""
    for step in steps:
        if isinstance(step, str):
            intake.give(step)
            text += step
        else:
            settled += "".join(token.text for token in intake.take(step).settled)
        assert intake.ended is None
    intake.end("stop")
    while intake.ended is None:
        assert intake.is_waiting
        settled += "".join(token.text for token in intake.take(late).settled)
    assert (intake.ended, settled) == ("stop", text)


def test_no_text_follows_the_end() -> None:
    intake = Intake(BACKBONE.tokenise_answer())
    intake.end("length")
    with pytest.raises(RuntimeError, match="after the end"):
        intake.give("more")
