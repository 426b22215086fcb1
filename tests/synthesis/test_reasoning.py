"""A generator's reasoning is not part of its answer, and no row holds it."""

import pytest
from factory_runs import run_factory, scripted_source
from fake_endpoint import serving_endpoint
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from lockgate.exchanges import Message
from lockgate.synthesis import Completion, EndpointConfig, EndpointGenerator, GenerationRequest
from lockgate.synthesis._reasoning import strip_reasoning
from lockgate.synthesis.factory._estimate import write_stand_in

THOUGHTS = [
    "<think>{}</think>",
    "<THINK>\n{}\n</THINK>\n\n",
    "<thinking>{}</thinking>",
    "<reasoning>{}</reasoning>\n",
    "<scratchpad>{}</scratchpad>",
    "[THINK]{}[/THINK]",
    "◁think▷{}◁/think▷",
    "<think>{}<think>twice</think> over </think>",
    # The prompt's template has opened it.
    "{}</think>\n",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "analysis{}assistantfinal",
]


@pytest.mark.parametrize("frame", THOUGHTS)
@given(
    thought=st.text("the coin, then\n*1.", min_size=1, max_size=30),
    answer=st.text("a coin\n*2.", min_size=1, max_size=30).map(str.strip).filter(bool),
)
def test_marked_thoughts_are_taken_out(frame, thought, answer) -> None:
    found = strip_reasoning(frame.replace("{}", f"W{thought}") + answer)
    assert found == answer


@pytest.mark.parametrize(
    "text",
    [
        "<think>I was cut here",
        "<think>all of it</think>\n",
        "So: <thinking> and never out",
        "<|channel|>analysis<|message|>only this",
        "one </think><think> two",
    ],
)
def test_a_text_without_an_answer_is_none(text) -> None:
    assert strip_reasoning(text) is None


@given(st.text("think<>/ \nanalysis", max_size=40).filter(lambda text: "think>" not in text))
def test_a_text_without_marks_stays_as_it_is(text) -> None:
    assert strip_reasoning(text) == text


def test_a_data_set_holds_no_thought_and_its_card_counts_them(tmp_path) -> None:
    plain = run_factory(tmp_path / "plain")
    source = scripted_source(lambda asked: f"<think>Hm, a hunch.</think>\n{write_stand_in(asked)}")
    thinking = run_factory(tmp_path / "thinking", source=source)
    rows = thinking.exchanges.read_text()
    assert "hunch" not in rows
    assert "think>" not in rows
    assert rows == plain.exchanges.read_text()
    assert thinking.card["reasoning"]["stripped"] > 0
    assert thinking.card["reasoning"]["rejected"] == 0
    assert "reasoning" not in plain.card
    assert "reasoning in the text" in (thinking.folder / "README.md").read_text()


def test_an_answer_that_was_all_thought_is_empty_and_no_broken_endpoint() -> None:
    message = {"role": "assistant", "content": None, "reasoning_content": "hm"}
    body = {"choices": [{"message": message, "finish_reason": "length"}]}
    with serving_endpoint(manners=lambda body_, attempt: JSONResponse(body)) as endpoint:
        config = EndpointConfig(base_url=endpoint.url, model="m", trust_env=False)
        request = GenerationRequest((Message("user", "x"),), max_tokens=4)
        outcome = EndpointGenerator(config).generate([request])[0]
    assert isinstance(outcome, Completion)
    assert outcome.text == ""
