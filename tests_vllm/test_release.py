"""Nothing leaves a real vLLM unscored or uncleared."""

import numpy as np
import pytest
from driver import Request, asked, reference, run
from hypothesis import given
from hypothesis import strategies as st

from lockgate.cascade import Regions, StreamState, Thresholds

WORDS = ("lock", "canal", "why", "bread", "river", "seven", "poem", "boat", "list", "water")
PROMPTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join)


def stream(head, request: Request, thresholds: Thresholds, rows: np.ndarray) -> StreamState:
    state = StreamState(thresholds, head.gamma, Regions(**request.regions), head.category_ids)
    state.consume(rows)
    state.finish()
    return state


@given(
    texts=st.lists(PROMPTS, min_size=1, max_size=4),
    flag=st.floats(-12, 4),
    flag_on=st.sampled_from(["answer", "both"]),
    min_tokens=st.integers(1, 40),
    leaves=st.sets(st.integers(0, 3)),
    when=st.integers(1, 12),
)
def test_what_leaves_is_what_the_state_lets_leave(
    engine, backbone, head, clearing, texts, flag, flag_on, min_tokens, leaves, when
) -> None:
    book = engine.engine_core.engine_core.scheduler.book
    thresholds = Thresholds(flag=flag, min_tokens=min_tokens, flag_on=flag_on)
    requests = [asked(backbone, str(number), text, 10) for number, text in enumerate(texts)]

    def leave(step: int, known: dict[str, Request]) -> None:
        for number in leaves:
            request = known.get(str(number))
            if step == when and request is not None and request.ended is None:
                request.ended = "left"
                engine.abort_request([request.name])

    with clearing(thresholds):
        found = run(engine, requests, leave)
    assert (len(book), book.faults) == (0, 0)
    free = run(
        engine,
        [asked(backbone, request.name, text, 10) for request, text in zip(requests, texts, strict=True)],
    )
    for name, request in found.items():
        full = free[name]
        state = stream(head, request, thresholds, np.array(full.rows))
        # Batches move a logit by some millionths. A case on that edge says nothing.
        close = np.abs(scores(head, request, full) - flag).min() < 1e-3
        if close:
            continue
        assert request.tokens == full.tokens[: len(request.tokens)]
        assert len(request.tokens) <= state.released
        if request.ended != "left":
            assert len(request.tokens) == state.released
            assert (request.stop == "lockgate") == state.flagged
            assert not request.rows


def scores(head, request: Request, full: Request) -> np.ndarray:
    state = StreamState(Thresholds(flag=1e9), head.gamma, Regions(**request.regions), head.category_ids)
    return state.consume(np.array(full.rows))


def test_a_flagged_prompt_gets_no_answer(engine, book, backbone, head, clearing) -> None:
    with clearing(Thresholds(flag=-100.0, min_tokens=1, flag_on="both")):
        (request,) = run(engine, [asked(backbone, "one", "What is a lock?", 10)]).values()
    assert (request.tokens, request.ended, request.stop) == ([], "stop", "lockgate")


def test_a_long_prompt_is_ended_in_its_first_piece(engine, book, backbone, clearing) -> None:
    steps: list[int] = []
    text = "What is a lock? " * 60
    with clearing(Thresholds(flag=-100.0, min_tokens=1, flag_on="both")):
        (request,) = run(engine, [asked(backbone, "one", text, 10)], lambda n, _: steps.append(n)).values()
    assert (request.tokens, request.stop) == ([], "lockgate")
    assert len(steps) <= 2 < len(request.prompt) // 64


def test_a_row_that_was_not_written_ends_the_request(engine, book, backbone, head, monkeypatch) -> None:
    from lockgate.vllm import scheduler

    def spoiled(output):
        found = taken(output)
        return {name: (first, np.where(first > 40, np.nan, rows)) for name, (first, rows) in found.items()}

    taken = scheduler.StepRows.by_request
    monkeypatch.setattr(scheduler.StepRows, "by_request", spoiled)
    (request,) = run(engine, [asked(backbone, "one", "What is a lock?", 60)]).values()
    assert request.stop == "lockgate-fault"
    assert len(request.tokens) == 41 - len(request.prompt)
    monkeypatch.setattr(scheduler.StepRows, "by_request", lambda output: {})
    (request,) = run(engine, [asked(backbone, "two", "What is a lock?", 60)]).values()
    assert (request.tokens, request.stop) == ([], "lockgate-fault")
    assert book.faults == 2
    book.faults = 0


@pytest.mark.parametrize(
    "options", [{"logprobs": 0}, {"prompt_logprobs": 0}, {"seed": 1, "temperature": 1.0}]
)
def test_a_refused_request_leaves_the_others_alone(engine, book, backbone, options) -> None:
    sound = asked(backbone, "sound", "What is a lock?", 5)
    refused = asked(backbone, "refused", "What is a lock?", 5, **options)
    found = run(engine, [refused, sound])
    assert found["refused"].ended == "error"
    assert found["refused"].stop.startswith("lockgate-refused: ")
    assert (found["refused"].tokens, found["refused"].rows) == ([], [])
    assert len(found["sound"].tokens) == 5
    alone = run(engine, [asked(backbone, "alone", "What is a lock?", 5, **options)])
    assert alone["alone"].ended == "error"


def test_several_answers_to_one_prompt_are_streams_of_their_own(engine, book, backbone, head) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    prompt = asked(backbone, "", "Write a short poem about water.", 1).prompt
    params = SamplingParams(
        n=3, temperature=1.0, max_tokens=6, detokenize=False, output_kind=RequestOutputKind.DELTA
    )
    engine.add_request("several", {"prompt_token_ids": prompt}, params)
    tokens: dict[int, list[int]] = {0: [], 1: [], 2: []}
    rows: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    while engine.has_unfinished_requests():
        for output in engine.step():
            for part in output.outputs:
                tokens[part.index] += part.token_ids
                note = output.kv_transfer_params["lockgate"]
                rows[part.index] += list(np.frombuffer(note["rows"], np.float32).reshape(note["n"], -1))
    assert len({tuple(found) for found in tokens.values()}) > 1
    for index, found in tokens.items():
        expected = reference(backbone, head, [*prompt, *found])
        np.testing.assert_allclose(rows[index], expected, atol=1e-2)
