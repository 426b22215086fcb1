"""The engine with a second stage: what is held, what waits, and what a stage that hangs may touch."""

import json
import math
import os
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from classifying import FaultyVerdicts, tiny_classifier
from engine_runs import new_run, oracle_answer, running_engine, start
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from serving import REFUSAL, client_for, scoring_for

from lockgate.cascade import Cascade, CascadeState, StreamState, Thresholds, simulate
from lockgate.exchanges import Message
from lockgate.gateway import Engine, Scoring, _verdicts
from lockgate.gateway._events import Released
from lockgate.gateway._jobs import UNCHECKED
from lockgate.guards import GuardStream, Verdicts

TEXTS = ("why does the lock hold", "the mill and the orchard", "where is the boat? 7", "what now " * 60)
LOUD = Cascade(-math.inf, math.inf, 0.0)
CALM = Cascade(math.inf, math.inf, 0.0)


def thresholds_of(flag_on="answer", min_tokens=4):
    return Thresholds(math.inf, min_tokens=min_tokens, flag_on=flag_on)


def staged(
    backbone, head, cascade=LOUD, *, flag_on="answer", min_tokens=4, kind=FaultyVerdicts, calm=(),
    judge="verdict",
):  # fmt: skip
    """A guard's share of the engine with two stages; streams of the jobs in `calm` never call the second."""
    made = []

    def new_state(regions):
        chosen = CALM if regions in calm else cascade
        stream = StreamState(thresholds_of(flag_on, min_tokens), head.gamma, regions, head.category_ids)
        return CascadeState(chosen, stream)

    def second_stage(kv_tokens):
        made.append(kind(tiny_classifier(backbone.name.removeprefix("tiny-"), judge), kv_tokens))
        return made[-1]

    good = scoring_for(backbone, head)
    scoring = Scoring(good.tap, new_state, REFUSAL, good.guard, cascade.escalate, second_stage)
    return scoring, made


def decisions(folder):
    return [json.loads(line) for line in (Path(folder) / "decisions.jsonl").read_text().splitlines()]


def until(condition) -> None:
    """Let other threads run until something holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def readings(backbone, head, run, answer, thresholds, stride):
    """Both stages' logits at each block's end: the probe's watched, the classifier's asked for apart."""
    probe, messages = [], [Message("user", run.job.seed_basis["text"])]
    watcher = GuardStream(
        backbone, head, thresholds, messages, 64, cascade=Cascade(math.inf, math.inf, 0.0, stride=stride),
        classifier=tiny_classifier(backbone.name.removeprefix("tiny-")),
    )  # fmt: skip
    with watcher as stream:
        probe.append(stream._state.closed.probe)
        for token in answer:
            stream.push(token)
            if stream._state.closed.number == len(probe):
                probe.append(stream._state.closed.probe)
        stream.finish()
        closed = stream._state.closed
        probe = [*probe[: closed.number], closed.probe]
    chat = backbone.render(messages, add_generation_prompt=True)
    verdicts = Verdicts(tiny_classifier(backbone.name.removeprefix("tiny-")), 0)
    session = verdicts.open(chat, 512)
    ends = [0, *range(stride, len(answer), stride), *([len(answer)] if answer else [])]
    classifier = [verdicts.judge([(session, [])])[0]]
    classifier += [verdicts.judge([(session, answer[a:b])])[0] for a, b in pairwise(ends)]
    session.close()
    return [math.nan if value is None else value for value in probe], classifier


def between(values, share):
    """A threshold that no float noise can reach: half-way between two of the values, or beyond all."""
    ranked = sorted({round(value, 3) for value in values if math.isfinite(value)})
    edges = [-1e6, *[(a + b) / 2 for a, b in pairwise(ranked) if b - a > 0.02], 1e6]
    return edges[round(share * (len(edges) - 1))]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    text=st.sampled_from(TEXTS),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    flag_on=st.sampled_from(["answer", "both"]),
    min_tokens=st.sampled_from([1, 8, 40]),
    stride=st.sampled_from([1, 3, 8]),
    max_tokens=st.sampled_from([1, 8, 21]),
    architecture=st.sampled_from(["llama", "qwen2"]),
)
def test_a_served_stream_does_what_its_simulated_trace_does(
    seed, text, shares, flag_on, min_tokens, stride, max_tokens, architecture
):
    backbone = tiny_backbone(architecture)
    head = random_head(backbone, seed)
    run = new_run(backbone, text, max_tokens=max_tokens)
    answer = oracle_answer(backbone, run.job.prompt, max_tokens)
    thresholds = thresholds_of(flag_on, min_tokens)
    probe, classifier = readings(backbone, head, run, answer, thresholds, stride)
    cascade = Cascade(between(probe, shares[0]), math.inf, 0.5, stride=stride, tolerance=0.0)
    mixed = [cascade.mix(p, c) for p, c in zip(probe, classifier, strict=True) if math.isfinite(p)]
    cascade = Cascade(cascade.escalate, between(mixed, shares[1]), 0.5, stride=stride)
    expected = simulate(probe, classifier, cascade, flag_on=flag_on)
    served = [n for n in expected.judged_blocks if not expected.flagged or n <= expected.flag_block]
    scoring, made = staged(backbone, head, cascade, flag_on=flag_on, min_tokens=min_tokens)
    with TemporaryDirectory() as folder, running_engine(backbone, scoring, Path(folder)) as engine:
        start(engine, run).finish()
        assert engine.waiting_verdicts == 0
        engine.close()
        line = decisions(folder)[0]
    assert (engine.pool.kv_used_tokens, made[0].kv_used_tokens) == (0, 0)
    assert (line["verdicts"], line["stage"]) == (len(served), 2 if served else 1)
    assert line["decision"] == (
        "pass" if not expected.flagged else "halt" if expected.flag_block else "block"
    )
    if not expected.flagged:
        assert run.text() == backbone.decode(answer)
        return
    assert (run.end.reason, run.end.refusal) == ("content_filter", REFUSAL)
    messages = [Message("user", text)]
    watcher = GuardStream(
        backbone, head, thresholds, messages, 64, cascade=cascade,
        classifier=tiny_classifier(architecture),
    )  # fmt: skip
    with watcher as stream:
        for token in answer:
            if stream.verdict.flagged:
                break
            stream.push(token)
        stream.finish()
        allowed = stream.released
    assert backbone.decode(answer[:allowed]).startswith(run.text())
    assert len(run.tokens()) <= allowed


def test_a_stage_that_hangs_blocks_no_other_stream(tmp_path, backbone, head):
    victims = [new_run(backbone, TEXTS[0], max_tokens=40), new_run(backbone, TEXTS[3], max_tokens=40)]
    mates = [new_run(backbone, text, max_tokens=60) for text in TEXTS[1:3]]
    answers = {
        run.job.id: backbone.decode(oracle_answer(backbone, run.job.prompt, run.job.max_tokens))
        for run in (*victims, *mates)
    }
    scoring, made = staged(backbone, head, calm=[mate.job.regions for mate in mates])
    with running_engine(backbone, scoring, tmp_path, verdict_timeout=600) as engine:
        source = made[0]
        source.stuck.set()
        for victim in victims:
            start(engine, victim)
        assert source.entered.wait(30)
        for mate in mates:
            assert start(engine, mate).finish().end.decision == "pass"
            assert mate.text() == answers[mate.job.id]
        # Nothing of a stream that waits has left meanwhile.
        assert all(victim.events.empty() for victim in victims)
        source.stuck.clear()
        source.go.set()
        for victim in victims:
            assert victim.finish().end.decision == "pass"
            assert victim.text() == answers[victim.job.id]


def test_a_verdict_that_comes_too_late_halts(tmp_path, backbone, head):
    victim = new_run(backbone, TEXTS[0], max_tokens=40)
    mate = new_run(backbone, TEXTS[1], max_tokens=40)
    scoring, made = staged(backbone, head, calm=[mate.job.regions])
    with running_engine(backbone, scoring, tmp_path, verdict_timeout=0.2) as engine:
        made[0].stuck.set()
        start(engine, victim).finish()
        # It is not taken for a fault of the first stage.
        assert engine.faults.open == {"second stage": "the second stage's verdict came too late"}
        assert start(engine, mate).finish().end.decision == "pass"
        # A stream that never asked says nothing about the second stage.
        assert engine.faults.open == {"second stage": "the second stage's verdict came too late"}
        made[0].go.set()
    assert (victim.end.decision, victim.end.refusal, victim.text()) == ("error", UNCHECKED, "")
    assert victim.events.empty()
    line = decisions(tmp_path)[0]
    assert (line["reason"], line["fault"]) == ("the second stage's verdict came too late", "second stage")
    assert decisions(tmp_path)[1]["fault"] is None
    assert (engine.faults.total, engine.faults.second_stage) == (1, 1)
    assert made[0].kv_used_tokens == engine.pool.kv_used_tokens == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it dies here
@pytest.mark.anyio
async def test_a_second_stage_that_hangs_or_dies_is_seen_until_it_gives_a_verdict(
    make_gateway, backbone, head
):
    mate = new_run(backbone, TEXTS[1], max_tokens=9)
    scoring, made = staged(backbone, head, calm=[mate.job.regions])
    gateway = make_gateway(backbone, scoring, verdict_timeout=0.5)
    async with client_for(gateway) as client:
        engine = gateway.engine

        async def after(text):
            run = mate if text == TEXTS[1] else new_run(backbone, text, max_tokens=9)
            start(engine, run).finish()
            until(lambda: engine.active_streams == 0)
            return run.end.decision, (await client.get("/readyz")).json()

        assert (await client.get("/readyz")).json()["verdicts"] == {
            "waiting": 0, "oldest_s": 0.0, "alive": True,
        }  # fmt: skip
        made[0].stuck.set()
        decision, hung = await after(TEXTS[0])
        assert (decision, hung["status"]) == ("error", "degraded")
        assert hung["verdicts"]["oldest_s"] > 0
        decision, still = await after(TEXTS[1])
        assert (decision, still["status"]) == ("pass", "degraded")
        assert still["problems"] == ["second stage: the second stage's verdict came too late"]
        made[0].stuck.clear()
        made[0].go.set()
        until(lambda: engine.oldest_verdict == 0)
        engine.options = replace(engine.options, verdict_timeout=600)
        decision, healed = await after(TEXTS[2])
        assert (decision, healed["status"], healed["problems"]) == ("pass", "ready", [])
        made[0].broken = SystemExit()
        _, dead = await after(TEXTS[0])
        assert (dead["status"], dead["verdicts"]["alive"]) == ("degraded", False)
        assert "its thread has ended" in str(dead["problems"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it dies here
def test_a_thread_that_ends_fails_all_that_wait_or_ask_at_once(tmp_path, backbone, head):
    victims = [new_run(backbone, text, max_tokens=20) for text in TEXTS[:2]]
    mate = new_run(backbone, TEXTS[2], max_tokens=20)
    scoring, made = staged(backbone, head, calm=[mate.job.regions])
    with running_engine(backbone, scoring, tmp_path, verdict_timeout=600) as engine:
        made[0].stuck.set()
        start(engine, victims[0])
        assert made[0].entered.wait(30)
        start(engine, victims[1])
        until(lambda: engine.waiting_verdicts == 2)
        made[0].broken = SystemExit()
        made[0].stuck.clear()
        made[0].go.set()
        late = new_run(backbone, TEXTS[0], max_tokens=21)
        for run in (*victims, late):
            if run is late:
                start(engine, run)
            assert (run.finish().end.decision, run.text()) == ("error", "")
        assert start(engine, mate).finish().end.decision == "pass"
        assert engine.second_stage_alive is False
        assert engine.waiting_verdicts == 0
        assert engine.faults.open == {"second stage": "the second stage's thread has ended"}
    assert made[0].kv_used_tokens == engine.pool.kv_used_tokens == 0
    errors = [line for line in decisions(tmp_path) if line["decision"] == "error"]
    assert {(line["reason"], line["fault"]) for line in errors} == {
        ("the second stage's thread has ended", "second stage")
    }
    assert len(errors) == 3


@pytest.mark.parametrize("constant", [None, math.nan])
def test_starting_up_takes_a_step_of_both_stages(make_gateway, backbone, head, constant):
    scoring, made = staged(backbone, head)
    gateway = make_gateway(backbone, scoring)
    made[0].constant = constant
    gateway.warm()
    assert made[0].sizes == [1]
    assert made[0].kv_used_tokens == gateway.engine.pool.kv_used_tokens == 0
    found = ["second stage: it gave no finite verdict"] if constant is not None else []
    assert gateway.problems() == found


def test_a_second_stage_that_hangs_gathers_nothing(tmp_path, backbone, head):
    scoring, made = staged(backbone, head)
    with running_engine(backbone, scoring, tmp_path, verdict_timeout=0.05) as engine:
        worker = engine._verdicts
        made[0].stuck.set()
        for text in TEXTS[:3] * 2:
            run = start(engine, new_run(backbone, text, max_tokens=9)).finish()
            assert run.end.decision == "error"
            until(lambda: not engine._active)
            assert not worker._waiting
        # Those whose conversation the hung step may have open.
        assert len(worker._left) <= 1
        made[0].go.set()
        until(lambda: made[0].kv_used_tokens == 0)
        assert not worker._left


class SlowVerdicts(FaultyVerdicts):
    """Every step takes 20 seconds by the clocks of those that wait."""

    engine: Engine
    limits: list[float]

    def judge(self, asks):
        for ticket in self.engine._verdicts._waiting:
            ticket.asked -= 20
            ticket.progressed -= 20
            self.limits.append(ticket.deadline(30))
        with self.engine._wake:
            self.engine._tell()
        until(lambda: not self.engine._news)
        return super().judge(asks)


@pytest.mark.parametrize("room", [16, 10**6])
def test_a_long_conversation_is_late_only_without_progress_or_beyond_its_limit(
    tmp_path, backbone, head, monkeypatch, room
):
    """Read in five pieces; the limit grows with what is still to be read, here by much or not at all."""
    monkeypatch.setattr(_verdicts, "TOKENS_PER_PIECE", 16)
    monkeypatch.setattr(_verdicts, "TOKENS_PER_STEP", room)
    scoring, made = staged(backbone, head, kind=SlowVerdicts)
    run = new_run(backbone, TEXTS[0] + " what" * 60, max_tokens=3)
    assert len(run.job.prompt) > 64
    with running_engine(backbone, scoring, tmp_path, verdict_timeout=30) as engine:
        made[0].engine, made[0].limits = engine, []
        start(engine, run).finish()
        engine.close()
    if room == 16:
        assert run.end.decision == "pass"
        assert len(made[0].sizes) > 4
    else:
        assert (run.end.decision, run.text()) == ("error", "")
        assert "too late" in decisions(tmp_path)[0]["reason"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"broken": RuntimeError("private")}, "RuntimeError"), ({"constant": math.nan}, "no finite verdict")],
)
def test_a_verdict_that_fails_halts_its_stream_alone(tmp_path, backbone, head, fault, reason):
    victims = [new_run(backbone, text, max_tokens=30) for text in TEXTS[:2]]
    mate = new_run(backbone, TEXTS[2], max_tokens=30)
    scoring, made = staged(backbone, head, calm=[mate.job.regions])
    with running_engine(backbone, scoring, tmp_path) as engine:
        for name, value in fault.items():
            setattr(made[0], name, value)
        for run in (*victims, mate):
            start(engine, run)
        assert {victim.finish().end.decision for victim in victims} == {"error"}
        assert mate.finish().end.decision == "pass"
        made[0].broken = made[0].constant = None
        assert start(engine, new_run(backbone, TEXTS[0])).finish().end.decision == "pass"
        assert not engine.faults.open
    lines = [line for line in decisions(tmp_path) if line["decision"] == "error"]
    assert all(reason in line["reason"] for line in lines)
    assert {line["fault"] for line in lines} == {"second stage"}
    assert "private" not in str(lines)
    assert [victim.text() for victim in victims] == ["", ""]


class LonelyVerdicts(FaultyVerdicts):
    """Can't judge several conversations in one step, and leaves their sessions in disorder when it tries."""

    def judge(self, asks):
        if len(asks) > 1:
            super().judge([(session, [1]) for session, _ in asks])
            raise RuntimeError("too many")
        return super().judge(asks)


def test_a_packed_step_that_fails_is_taken_one_by_one(tmp_path, backbone, head):
    alone = []
    for number, together in enumerate((False, True)):
        (tmp_path / str(number)).mkdir()
        runs = [new_run(backbone, text, max_tokens=24) for text in TEXTS[:3]]
        scoring, made = staged(backbone, head, kind=LonelyVerdicts if together else FaultyVerdicts)
        with running_engine(backbone, scoring, tmp_path / str(number), verdict_timeout=600) as engine:
            made[0].stuck.set()
            for run in runs:
                start(engine, run)
            until(lambda engine=engine: engine.waiting_verdicts == 3)
            made[0].stuck.clear()
            made[0].go.set()
            assert {run.finish().end.decision for run in runs} == {"pass"}
        for run in runs:
            assert run.text() == backbone.decode(oracle_answer(backbone, run.job.prompt, 24))
        lines = sorted(decisions(tmp_path / str(number)), key=lambda line: line["id"])
        alone.append([line["scores"]["mixed"] for line in lines])
    assert alone[0] == pytest.approx(alone[1], abs=1e-3)


def test_verdicts_that_wait_together_are_given_together(tmp_path, backbone, head):
    runs = [new_run(backbone, text, max_tokens=9) for text in TEXTS[:3]]
    scoring, made = staged(backbone, head)
    with running_engine(backbone, scoring, tmp_path, verdict_timeout=600) as engine:
        made[0].stuck.set()
        start(engine, runs[0])
        assert made[0].entered.wait(30)
        for run in runs[1:]:
            start(engine, run)
        until(lambda: engine.waiting_verdicts == 3)
        made[0].stuck.clear()
        made[0].go.set()
        for run in runs:
            run.finish()
    assert max(made[0].sizes) >= 2


def test_choices_have_verdicts_of_their_own_behind_one_prompt(tmp_path, backbone, head):
    run = new_run(backbone, TEXTS[0], max_tokens=20, n=3, temperature=1.0)
    scoring, made = staged(backbone, head, flag_on="both")
    with running_engine(backbone, scoring, tmp_path) as engine:
        start(engine, run).finish()
    lines = decisions(tmp_path)
    assert {line["decision"] for line in lines} == {"pass"}
    # The prompt's verdict counts for each of them.
    assert all(line["verdicts"] == 1 + -(-line["completion_tokens"] // 8) for line in lines)
    assert made[0].kv_used_tokens == 0


def test_a_flagged_prompt_blocks_all_choices(tmp_path, backbone, head):
    run = new_run(backbone, TEXTS[0], max_tokens=20, n=2)
    scoring, made = staged(backbone, head, Cascade(-math.inf, 0.0, 0.0), flag_on="both")
    with running_engine(backbone, scoring, tmp_path) as engine:
        made[0].constant = 5.0
        start(engine, run).finish()
    assert [line["decision"] for line in decisions(tmp_path)] == ["block", "block"]
    assert not [event for event in run.seen if isinstance(event, Released)]


@pytest.mark.parametrize("flag_on", ["answer", "both"])
def test_cancelling_while_a_verdict_is_due_frees_everything(tmp_path, backbone, head, flag_on):
    run = new_run(backbone, TEXTS[0], max_tokens=40, n=2)
    scoring, made = staged(backbone, head, flag_on=flag_on)
    with running_engine(backbone, scoring, tmp_path, verdict_timeout=600) as engine:
        made[0].stuck.set()
        start(engine, run)
        assert made[0].entered.wait(30)
        engine.cancel(run.job)
        run.finish()
        made[0].stuck.clear()
        made[0].go.set()
        assert start(engine, new_run(backbone, TEXTS[1])).finish().end.decision == "pass"
        # Long before the server closes.
        until(lambda: made[0].kv_used_tokens == 0)
    assert {line["decision"] for line in decisions(tmp_path)} == {"cancelled", "pass"}
    assert made[0].kv_used_tokens == engine.pool.kv_used_tokens == 0


def test_closing_while_a_verdict_is_due_logs_and_frees(tmp_path, backbone, head):
    scoring, made = staged(backbone, head)
    with running_engine(backbone, scoring, tmp_path, verdict_timeout=600) as engine:
        made[0].stuck.set()
        run = start(engine, new_run(backbone, TEXTS[0], max_tokens=40))
        assert made[0].entered.wait(30)
        made[0].go.set()
    assert run.finish().end.decision in ("cancelled", "pass")
    assert made[0].kv_used_tokens == 0


def test_streams_share_a_small_memory(tmp_path, backbone, head):
    """Room for one conversation: the others wait for it, or take the place of one that is not asked about."""
    runs = [new_run(backbone, text, max_tokens=40 if len(text) < 99 else 200) for text in TEXTS]
    scoring, made = staged(backbone, head)
    limit = backbone.context_length
    assert sum(run.job.capacity for run in runs) > limit
    with running_engine(backbone, scoring, tmp_path, verdict_kv_tokens=limit, verdict_timeout=600) as engine:
        for run in runs:
            start(engine, run)
        assert {run.finish().end.decision for run in runs} == {"pass"}
    assert made[0].kv_used_tokens == 0


def test_in_shadow_mode_a_second_stage_changes_no_answer(tmp_path, backbone, head):
    for folder, fault in (("late", "stuck"), ("flag", None)):
        (tmp_path / folder).mkdir()
        run = new_run(backbone, TEXTS[0], max_tokens=20)
        scoring, made = staged(backbone, head, Cascade(-math.inf, -9.0, 0.0))
        how = {"mode": "shadow", "verdict_timeout": 0.2 if fault else 600}
        with running_engine(backbone, scoring, tmp_path / folder, **how) as engine:
            if fault:
                made[0].stuck.set()
            else:
                made[0].constant = 5.0
            start(engine, run).finish()
            made[0].go.set()
        assert run.text() == backbone.decode(oracle_answer(backbone, run.job.prompt, 20))
        line = decisions(tmp_path / folder)[0]
        assert (line["decision"], line["enforced"]) == ("error" if fault else "halt", False)
        assert line["fault"] == ("second stage" if fault else None)
        assert (line["reason"] is not None) == (fault is not None)


def test_the_decision_says_which_stage_decided(tmp_path, backbone, head):
    run = new_run(backbone, TEXTS[0], max_tokens=20)
    scoring, made = staged(backbone, head, Cascade(-math.inf, 3.0, 0.0))
    with running_engine(backbone, scoring, tmp_path) as engine:
        made[0].constant = 5.0
        start(engine, run).finish()
    line = decisions(tmp_path)[0]
    assert (line["decision"], line["stage"], line["verdicts"]) == ("halt", 2, 1)
    assert line["scores"]["mixed"] == 5.0
    assert (run.end.completion_tokens, line["token_index"], run.text()) == (8, 7, "")


def test_a_stop_string_ends_a_stream_whose_text_was_held(tmp_path, backbone, head):
    free = new_run(backbone, TEXTS[0], max_tokens=40)
    with running_engine(backbone, scoring_for(backbone, head), tmp_path) as engine:
        start(engine, free).finish()
    text = free.text()
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    run = new_run(backbone, TEXTS[0], max_tokens=40, stops=[stop])
    scoring, _ = staged(backbone, head)
    with running_engine(backbone, scoring, tmp_path) as engine:
        start(engine, run).finish()
    assert (run.text(), run.end.reason) == (text[: text.index(stop)], "stop")


@pytest.mark.parametrize("text", TEXTS[2:])
@pytest.mark.parametrize("judge", ["verdict", "value"])
def test_scores_of_a_served_answer_are_those_of_a_watched_one(tmp_path, backbone, head, text, judge):
    run = new_run(backbone, text, max_tokens=16)
    scoring, _ = staged(backbone, head, judge=judge)
    with running_engine(backbone, scoring, tmp_path) as engine:
        start(engine, run).finish()
    answer = oracle_answer(backbone, run.job.prompt, 16)
    watcher = GuardStream(
        backbone, head, thresholds_of(), [Message("user", text)], 16, cascade=LOUD,
        classifier=tiny_classifier("llama", judge),
    )  # fmt: skip
    with watcher as stream:
        watched = [stream.push(token).score for token in answer]
        stream.finish()
        mixed = stream._state.mixed_max
    np.testing.assert_allclose([token.score for token in run.tokens()], watched, atol=1e-3)
    assert decisions(tmp_path)[0]["scores"]["mixed"] == pytest.approx(mixed, abs=1e-3)
