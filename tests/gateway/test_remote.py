"""Streams whose tokens another process makes: what leaves, what a lost row does, what a dead process does."""

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from engine_runs import new_run, oracle_answer, oracle_scores, running_engine, start
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import decisions_in
from models import random_head, tiny_backbone
from remote_model import LocalModel, remote_stepper
from serving import REFUSAL, scoring_for

from lockgate.backbones import Feed
from lockgate.decisions import DecisionLog, LogOptions
from lockgate.errors import BackboneMismatch
from lockgate.gateway import Engine, EngineDown, EngineOptions
from lockgate.gateway._remote import GAP

TEXTS = ("why does the lock hold", "the mill and the orchard", "what now " * 40)


def decisions(folder):
    return decisions_in(folder / "decisions.db")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    quantile=st.floats(0, 1),
    text=st.sampled_from(TEXTS),
    flag_on=st.sampled_from(["answer", "both"]),
    min_tokens=st.sampled_from([1, 4, 16, 40]),
    n=st.sampled_from([1, 2]),
    architecture=st.sampled_from(["llama", "qwen2"]),
)
def test_only_cleared_tokens_ever_leave(seed, quantile, text, flag_on, min_tokens, n, architecture):
    """For any probe, threshold and chunks of the prompt: the client gets what the oracle says was cleared."""
    backbone = tiny_backbone(architecture)
    head = random_head(backbone, seed)
    run = new_run(backbone, text, max_tokens=24, n=n)
    answer = oracle_answer(backbone, run.job.prompt, 24)
    scores = oracle_scores(backbone, head, [*run.job.prompt, *answer], run.job.regions)
    flag = float(np.quantile(scores, quantile)) + 1e-3
    regions = run.job.regions
    first = regions.answer_start if flag_on == "answer" else regions.prompt_start
    flagged = [
        place + regions.start
        for place, score in enumerate(scores)
        if (place >= min_tokens - 1 or place == len(scores) - 1)
        and place + regions.start >= first
        and score > flag
    ]
    cleared = answer[: max(0, flagged[0] - regions.answer_start)] if flagged else answer
    scoring = scoring_for(backbone, head, flag, flag_on=flag_on, min_tokens=min_tokens)
    model = LocalModel(backbone, head, seed=seed)
    with TemporaryDirectory() as folder, running_engine(backbone, scoring, Path(folder), model) as engine:
        start(engine, run).finish()
    assert (engine.kv_used_tokens, model.running, model.closed) == (0, {}, True)
    for choice in range(n):
        assert backbone.decode(cleared).startswith(run.text(choice))
    if flagged:
        assert (run.end.reason, run.end.refusal) == ("content_filter", REFUSAL)
        assert run.end.decision == ("halt" if flagged[0] >= regions.answer_start else "block")
    else:
        assert [run.text(choice) for choice in range(n)] == [backbone.decode(answer)] * n
        assert run.end.decision == "pass"


def lost(arrival):
    return replace(arrival, rows=arrival.rows[:-1]) if arrival.token_ids else arrival


def unscored(arrival):
    return replace(arrival, rows=None)


def shifted(arrival):
    return replace(arrival, first=arrival.first + 1) if arrival.token_ids else arrival


def poisoned(arrival):
    return replace(arrival, rows=np.full_like(arrival.rows, np.nan))


def refused(arrival):
    return replace(arrival, fault="a row was not written", rows=None, token_ids=())


@pytest.mark.parametrize("spoil", [lost, unscored, shifted, poisoned, refused])
def test_a_lost_score_closes_the_stream(tmp_path, backbone, head, spoil):
    run = new_run(backbone, TEXTS[0], max_tokens=12)
    model = LocalModel(backbone, head, spoil=spoil)
    with running_engine(backbone, scoring_for(backbone, head), tmp_path, model) as engine:
        start(engine, run).finish()
        assert run.text() == ""
        assert (run.end.decision, run.end.reason) == ("error", "content_filter")
    assert engine.kv_used_tokens == 0
    assert decisions(tmp_path)[0]["decision"] == "error"


def test_rows_in_the_middle_of_an_answer_are_not_missed_in_silence(tmp_path, backbone, head):
    seen = []

    def drop_the_fifth(arrival):
        seen.append(arrival)
        answers = [one for one in seen if one.token_ids]
        return replace(arrival, token_ids=(), rows=arrival.rows[:0]) if len(answers) == 5 else arrival

    run = new_run(backbone, TEXTS[0], max_tokens=12)
    with running_engine(
        backbone, scoring_for(backbone, head), tmp_path, LocalModel(backbone, head, spoil=drop_the_fifth)
    ) as engine:
        start(engine, run).finish()
    answer = oracle_answer(backbone, run.job.prompt, 12)
    assert (run.end.decision, run.text()) == ("error", backbone.decode(answer[:4]))
    assert decisions(tmp_path)[0]["reason"] == GAP


@pytest.mark.parametrize("spoil", [lost, unscored, shifted, poisoned])
def test_in_shadow_mode_a_lost_score_changes_no_answer(tmp_path, backbone, head, spoil):
    run = new_run(backbone, TEXTS[0], max_tokens=12)
    model = LocalModel(backbone, head, spoil=spoil)
    with running_engine(backbone, scoring_for(backbone, head), tmp_path, model, mode="shadow") as engine:
        start(engine, run).finish()
    assert run.text() == backbone.decode(oracle_answer(backbone, run.job.prompt, 12))
    assert (run.end.decision, run.end.enforced) == ("error", False)


def test_without_a_guard_tokens_come_without_scores(tmp_path, backbone):
    run = new_run(backbone, TEXTS[0], max_tokens=12)
    with running_engine(backbone, None, tmp_path, LocalModel(backbone, None)) as engine:
        start(engine, run).finish()
    assert run.text() == backbone.decode(oracle_answer(backbone, run.job.prompt, 12))
    assert run.end.decision == "pass"


def test_a_control_token_from_the_model_closes_the_stream(tmp_path, backbone, head):
    banned = next(iter(backbone.control_ids - backbone.eos_ids))

    def control(arrival):
        return replace(arrival, token_ids=[banned]) if arrival.token_ids else arrival

    run = new_run(backbone, TEXTS[0], max_tokens=12)
    with running_engine(
        backbone, scoring_for(backbone, head), tmp_path, LocalModel(backbone, head, spoil=control)
    ) as engine:
        start(engine, run).finish()
    assert (run.text(), run.end.decision) == ("", "error")


def test_a_client_that_leaves_stops_the_order(tmp_path, backbone, head):
    run = new_run(backbone, TEXTS[0], max_tokens=400)
    model = LocalModel(backbone, head)
    with running_engine(backbone, scoring_for(backbone, head), tmp_path, model) as engine:
        start(engine, run).first()
        engine.cancel(run.job)
        run.finish()
        other = start(engine, new_run(backbone, TEXTS[1], max_tokens=4)).finish()
        assert other.end.decision == "pass"
    assert (model.aborted, decisions(tmp_path)[0]["decision"]) == ([f"{run.job.id}-0"], "cancelled")


def test_a_dead_process_ends_all_streams_and_takes_no_more(tmp_path, backbone, head):
    runs = [new_run(backbone, text, max_tokens=40) for text in TEXTS]
    model = LocalModel(backbone, head, dies_after=6)
    with running_engine(backbone, scoring_for(backbone, head), tmp_path, model) as engine:
        for run in runs:
            start(engine, run)
        for run in runs:
            run.finish()
            assert (run.end.decision, run.end.reason) == ("error", "content_filter")
        engine._threads[0].join(10)
        assert not engine.alive
        with pytest.raises(EngineDown):
            engine.submit(new_run(backbone, "again").job)
        assert "engine" in engine.faults.open
    assert [line["reason"] for line in decisions(tmp_path)] == ["ModelGone"] * 3


class Hanging(LocalModel):
    """A model whose process dies while the engine waits for it, and nobody says so."""

    dead = False

    @property
    def alive(self) -> bool:
        return not self.dead

    def step(self):
        time.sleep(0.2)
        return []


@pytest.mark.parametrize("busy", [True, False])
def test_a_process_that_dies_unseen_is_noticed(tmp_path, backbone, head, busy):
    model = Hanging(backbone, head)
    run = new_run(backbone, TEXTS[0])
    with running_engine(backbone, scoring_for(backbone, head), tmp_path, model, step_timeout=2) as engine:
        if busy:
            start(engine, run)
        model.dead = True
        engine._threads[0].join(20)
        assert not engine.alive
        if busy:
            assert run.finish().end.decision == "error"
        with pytest.raises(EngineDown):
            engine.submit(new_run(backbone, "again").job)
        assert "engine" in engine.faults.open


def stepper_with(backbone, head, model, expected):
    def make(wiring):
        stepper = remote_stepper(backbone, scoring_for(backbone, head), model)(wiring)
        stepper._expect = expected
        return stepper

    return make


@pytest.mark.parametrize("other", [False, True])
def test_a_model_that_computes_something_else_is_refused(tmp_path, backbone, head, other):
    wrong = random_head(backbone, 77) if other else head
    model = LocalModel(backbone, wrong)
    log = DecisionLog(LogOptions(tmp_path / "decisions.db"))

    def expected(chat):
        own = LocalModel(backbone, head)
        session = own.pool.open(len(chat.token_ids), chat.token_ids[: chat.prefix_length])
        own.pool.step([Feed(session, chat.token_ids[chat.prefix_length :])], own.tap)
        return own.tap.logits.numpy()

    engine = Engine(
        backbone,
        scoring_for(backbone, head),
        log,
        EngineOptions(),
        stepper_with(backbone, head, model, expected),
    )
    if other:
        with pytest.raises(BackboneMismatch, match="another model"):
            engine.warm()
    else:
        engine.warm()
    engine.close()
    assert model.closed
