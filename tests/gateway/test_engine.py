"""The engine against a slow oracle, under load, and with parts that fail."""

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from engine_runs import new_run, oracle_answer, oracle_scores, running_engine, start
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import decisions_in
from models import random_head, tiny_backbone
from serving import REFUSAL, scoring_for
from taps import BrokenTap, CountingTap, StuckTap

from lockgate.cascade import StreamState
from lockgate.errors import ContextOverflow
from lockgate.exchanges import Exchange, Message
from lockgate.gateway import EngineDown, QueueFull
from lockgate.gateway._events import Finished, Released
from lockgate.gateway._records import UNCHECKED
from lockgate.guards import GuardStream, Stages, score_exchanges

TEXTS = (
    "why does the lock hold",
    "the mill and the orchard",
    "where is the boat? 7",
    "水門",
    "what now " * 40,
)


def decisions(folder):
    return decisions_in(folder / "decisions.db")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    quantile=st.floats(0, 1),
    text=st.sampled_from(TEXTS),
    flag_on=st.sampled_from(["answer", "both"]),
    min_tokens=st.sampled_from([1, 4, 16, 40]),
    architecture=st.sampled_from(["llama", "qwen2", "gemma"]),
)
def test_only_cleared_tokens_ever_leave(seed, quantile, text, flag_on, min_tokens, architecture):
    """For any probe and threshold: the client gets what the oracle says was cleared, no more."""
    backbone = tiny_backbone(architecture)
    head = random_head(backbone, seed)
    run = new_run(backbone, text, max_tokens=24)
    prompt, regions = run.job.prompt, run.job.regions
    answer = oracle_answer(backbone, prompt, 24)
    scores = oracle_scores(backbone, head, [*prompt, *answer], regions)
    flag = float(np.quantile(scores, quantile)) + 1e-3
    judged = [max(min_tokens, 1) - 1 <= place or place == len(scores) - 1 for place in range(len(scores))]
    first = regions.answer_start if flag_on == "answer" else regions.prompt_start
    flagged = [
        place
        for place, score in enumerate(scores)
        if judged[place] and place + regions.start >= first and score > flag
    ]
    cleared = answer
    if flagged:
        cleared = answer[: max(0, flagged[0] + regions.start - regions.answer_start)]

    tap = CountingTap([head], backbone.hidden_size)
    scoring = scoring_for(backbone, head, flag, flag_on=flag_on, min_tokens=min_tokens, tap=tap)
    released, lead = 0, []
    deliver, job = run.job.deliver, run.job

    def watch(event):
        nonlocal released
        if isinstance(event, Released):
            released += len(event.tokens)
            lead.append(tap.rows - (len(prompt) - regions.start) - released)
        deliver(event)

    job.deliver = watch
    with TemporaryDirectory() as folder, running_engine(backbone, scoring, Path(folder)) as engine:
        start(engine, run).finish()
    assert engine.kv_used_tokens == 0
    assert run.events.empty()
    assert isinstance(run.seen[-1], Finished)
    assert backbone.decode(cleared).startswith(run.text())
    assert all(count >= 0 for count in lead)
    if flagged:
        assert (run.end.reason, run.end.refusal) == ("content_filter", REFUSAL)
        expected = "halt" if flagged[0] + regions.start >= regions.answer_start else "block"
        assert run.end.decision == expected
    else:
        assert run.text() == backbone.decode(answer)
        assert run.end.decision == "pass"
        assert run.end.refusal is None


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma"])
def test_batch_mates_change_neither_tokens_nor_scores(tmp_path, architecture):
    backbone = tiny_backbone(architecture)
    head = random_head(backbone)
    scoring = scoring_for(backbone, head)
    with running_engine(backbone, scoring, tmp_path) as engine:
        alone = [start(engine, new_run(backbone, text)).finish() for text in TEXTS]
        together = [start(engine, new_run(backbone, text)) for text in TEXTS]
        for run in together:
            run.finish()
    for one, other in zip(alone, together, strict=True):
        assert one.text() == other.text()
        first = [token.score for token in one.tokens()]
        np.testing.assert_allclose([token.score for token in other.tokens()], first, atol=1e-3)


def test_scores_are_those_of_the_oracle(tmp_path, backbone, head):
    run = new_run(backbone, TEXTS[0], max_tokens=16)
    with running_engine(backbone, scoring_for(backbone, head), tmp_path) as engine:
        start(engine, run).finish()
    answer = oracle_answer(backbone, run.job.prompt, 16)
    scores = oracle_scores(backbone, head, [*run.job.prompt, *answer], run.job.regions)
    np.testing.assert_allclose([t.score for t in run.tokens()], scores[-len(answer) :], atol=1e-4)
    assert run.end.max_answer == pytest.approx(max(scores[-len(answer) :]), abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma"])
def test_serving_watching_and_scoring_agree(tmp_path, architecture):
    """The same answer, served, watched token by token, and scored as a whole."""
    backbone = tiny_backbone(architecture)
    head = random_head(backbone)
    scoring = scoring_for(backbone, head, flag_on="both")
    run = new_run(backbone, TEXTS[4], max_tokens=16)
    with running_engine(backbone, scoring, tmp_path) as engine:
        start(engine, run).finish()
    answer = oracle_answer(backbone, run.job.prompt, 16)
    messages = [Message("user", TEXTS[4])]
    with GuardStream(backbone, scoring.stages, messages, max_tokens=16) as stream:
        watched = [stream.push(token).score for token in answer]
    np.testing.assert_allclose([token.score for token in run.tokens()], watched, atol=1e-3)
    prompt = next(iter(score_exchanges(backbone, [scoring.stages], [Exchange(tuple(messages))])))[0]
    assert run.end.max_prompt == pytest.approx(prompt.max_prompt, abs=1e-3)


def test_off_mode_generates_the_same_answer(tmp_path, backbone, head):
    guarded, free = new_run(backbone, TEXTS[1]), new_run(backbone, TEXTS[1])
    with running_engine(backbone, scoring_for(backbone, head), tmp_path) as engine:
        start(engine, guarded).finish()
    with running_engine(backbone, None, tmp_path) as engine:
        start(engine, free).finish()
    assert free.text() == guarded.text()
    assert free.end.completion_tokens == guarded.end.completion_tokens
    assert all(token.score is None for token in free.tokens())


def test_cancelling_frees_memory_and_is_logged(tmp_path, backbone, head):
    with running_engine(backbone, scoring_for(backbone, head), tmp_path) as engine:
        run = start(engine, new_run(backbone, TEXTS[0], max_tokens=400, n=2))
        run.first()
        engine.cancel(run.job)
        run.finish()
        after = start(engine, new_run(backbone, TEXTS[1])).finish()
    assert engine.kv_used_tokens == 0
    assert after.end.decision == "pass"
    assert [line["decision"] for line in decisions(tmp_path)] == ["cancelled", "cancelled", "pass"]


def test_closing_logs_what_was_open(tmp_path, backbone, head):
    with running_engine(backbone, scoring_for(backbone, head), tmp_path, max_streams=1) as engine:
        open_run = start(engine, new_run(backbone, TEXTS[0], max_tokens=400))
        waiting = start(engine, new_run(backbone, TEXTS[1], max_tokens=400))
        open_run.first()
    assert [line["decision"] for line in decisions(tmp_path)] == ["cancelled", "cancelled"]
    assert waiting.finish().text() == ""
    with pytest.raises(EngineDown):
        engine.submit(new_run(backbone, TEXTS[2]).job)


def test_queue_is_bounded(tmp_path, backbone, head):
    tap = StuckTap([head], backbone.hidden_size)
    tap.stuck.set()
    scoring = scoring_for(backbone, head, tap=tap)
    with running_engine(backbone, scoring, tmp_path, max_streams=1, max_queue=1) as engine:
        first = start(engine, new_run(backbone, TEXTS[0], max_tokens=2))
        second = start(engine, new_run(backbone, TEXTS[1], max_tokens=2))
        # One may wait; a second one only while the engine has not yet taken the first from the queue.
        refused = []
        for _ in range(3):
            try:
                start(engine, new_run(backbone, TEXTS[2], max_tokens=2))
            except QueueFull as error:
                refused.append(error.retry_after)
        assert len(refused) >= 2
        assert min(refused) >= 1
        tap.go.set()
        assert {first.finish().end.decision, second.finish().end.decision} == {"pass"}


def test_requests_wait_for_memory(tmp_path, backbone, head):
    runs = [new_run(backbone, text, max_tokens=30) for text in TEXTS[:4]]
    limit = max(run.job.capacity for run in runs)
    with running_engine(backbone, scoring_for(backbone, head), tmp_path, kv_tokens=limit) as engine:
        for run in runs:
            start(engine, run)
        assert {run.finish().end.decision for run in runs} == {"pass"}
        with pytest.raises(ContextOverflow):
            engine.submit(new_run(backbone, TEXTS[0], max_tokens=30, n=2).job)


def test_a_scorer_that_fails_for_one_stream_halts_that_stream_alone(tmp_path, backbone, head):
    good = scoring_for(backbone, head)
    victim = new_run(backbone, TEXTS[0], max_tokens=200)

    class BrokenState(StreamState):
        def consume(self, logits):
            if self.scored > victim.job.regions.answer_start + 5:
                raise RuntimeError("no verdict")
            return super().consume(logits)

    class BrokenForOne(Stages):
        def new_state(self, regions, lowered=0.0):
            kind = BrokenState if regions == victim.job.regions else StreamState
            return kind(self.thresholds, self.head.gamma, regions, self.head.category_ids)

    scoring = replace(good, stages=BrokenForOne(head, good.stages.thresholds))
    with running_engine(backbone, scoring, tmp_path) as engine:
        mate = start(engine, new_run(backbone, TEXTS[4], max_tokens=100))
        start(engine, victim).finish()
        assert engine.faults.total == 1
        assert mate.finish().end.decision == "pass"
        assert start(engine, new_run(backbone, TEXTS[1])).finish().end.decision == "pass"
    assert (victim.end.reason, victim.end.refusal) == ("content_filter", UNCHECKED)
    answer = oracle_answer(backbone, victim.job.prompt, 20)
    assert backbone.decode(answer).startswith(victim.text())
    line = next(line for line in decisions(tmp_path) if line["decision"] == "error")
    assert line["reason"] == "RuntimeError"


def test_a_broken_probe_halts_everything_until_it_works_again(tmp_path, backbone, head):
    tap = BrokenTap([head], backbone.hidden_size)
    with running_engine(backbone, scoring_for(backbone, head, tap=tap), tmp_path) as engine:
        runs = [start(engine, new_run(backbone, text, max_tokens=300)) for text in TEXTS[:3]]
        runs[0].first()
        tap.broken = True
        ends = [run.finish().end for run in runs]
        assert {(end.decision, end.reason, end.refusal) for end in ends} == {
            ("error", "content_filter", UNCHECKED)
        }
        assert engine.faults.open
        tap.broken = False
        assert start(engine, new_run(backbone, TEXTS[0])).finish().end.decision == "pass"
        assert not engine.faults.open
        assert engine.faults.total == 3


def test_scores_that_are_not_numbers_fail_closed(tmp_path, backbone):
    head = random_head(backbone)
    scoring = scoring_for(backbone, head)
    scoring.tap.bias[0] = torch.nan
    with running_engine(backbone, scoring, tmp_path) as engine:
        run = start(engine, new_run(backbone, TEXTS[0])).finish()
    assert (run.end.decision, run.text()) == ("error", "")


def test_in_shadow_mode_a_broken_probe_stops_nothing(tmp_path, backbone, head):
    tap = BrokenTap([head], backbone.hidden_size)
    tap.broken = True
    with running_engine(backbone, scoring_for(backbone, head, tap=tap), tmp_path, mode="shadow") as engine:
        run = start(engine, new_run(backbone, TEXTS[0])).finish()
        assert engine.faults.open
    assert run.text() == backbone.decode(oracle_answer(backbone, run.job.prompt, 20))
    line = decisions(tmp_path)[0]
    assert (line["decision"], line["enforced"], line["finish_reason"]) == ("error", False, "length")


def test_a_step_that_does_not_come_back_fails_closed(tmp_path, backbone, head):
    tap = StuckTap([head], backbone.hidden_size)
    scoring = scoring_for(backbone, head, tap=tap)
    with running_engine(backbone, scoring, tmp_path, step_timeout=0.3) as engine:
        run = start(engine, new_run(backbone, TEXTS[0], max_tokens=400))
        run.first()
        tap.stuck.set()
        run.finish()
        assert engine.stalled
        with pytest.raises(EngineDown):
            engine.submit(new_run(backbone, TEXTS[1]).job)
        tap.stuck.clear()
        tap.go.set()
        while engine.stalled:
            os.sched_yield()
        assert start(engine, new_run(backbone, TEXTS[1])).finish().end.decision == "pass"
    assert (run.end.decision, run.end.refusal) == ("error", UNCHECKED)
    assert run.events.empty()
    assert decisions(tmp_path)[0]["reason"] == "time-out"


def test_a_step_that_returns_late_delivers_nothing(tmp_path, backbone, head):
    """A client has left while a step ran. What the step brings reaches nobody."""
    tap = StuckTap([head], backbone.hidden_size)
    with running_engine(backbone, scoring_for(backbone, head, tap=tap), tmp_path) as engine:
        run = start(engine, new_run(backbone, "why does it hold", 20))
        run.first()
        tap.stuck.set()
        assert tap.entered.wait(30)
        engine.cancel(run.job)
        seen = run.events.qsize()
        tap.stuck.clear()
        tap.go.set()
        run.finish()
    late = [event for event in run.seen[1 + seen :] if isinstance(event, Released)]
    assert late == []
    assert run.end.decision == "cancelled"
