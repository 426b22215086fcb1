"""The engine with a second stage: what is held, what waits, and what a stage that hangs affects."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from classifying import tiny_classifier
from engine_runs import new_run, oracle_answer, running_engine, start
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from remote_model import LocalModel
from serving import CHAT, REFUSAL, ask, client_for, decisions_of, scoring_for
from staging import LOUD, decisions, staged, thresholds_of, until
from voices import random_text

from lockgate.cascade import Cascade, simulate
from lockgate.exchanges import Message
from lockgate.gateway._events import Released
from lockgate.guards import ClassifierStage, GuardStream, Panel, Stages, TextStage, Voice

HELD = Message("assistant", "the gate is held and the")
BEHIND = (
    (),
    (HELD,),
    (HELD, Message("user", "and then"), HELD),
    (HELD, HELD),
    (HELD, Message("system", "short")),
)
TEXTS = ("why does the lock hold", "the mill and the orchard", "where is the boat? 7", "what now " * 60)


def second_stage(voices, classifier, backbone):
    """A second stage of a classifier, of a text baseline, or of both."""
    stages = {"classifier": ClassifierStage(classifier), "text": TextStage(random_text(), backbone)}
    if voices in stages:
        return stages[voices]
    return Panel(tuple(Voice(name, stage) for name, stage in stages.items()))


def readings(backbone, head, messages, answer, thresholds, stride, second):
    """Both stages' logits at each block's end: the probe's watched, the second stage's asked for apart."""
    probe = []
    deaf = Stages(head, thresholds, Cascade(math.inf, math.inf, 0.0, stride=stride), second)
    watcher = GuardStream(backbone, deaf, messages, 64)
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
    verdicts = second.open_verdicts(0)
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


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    text=st.sampled_from(TEXTS),
    behind=st.sampled_from(BEHIND),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    flag_on=st.sampled_from(["answer", "both"]),
    min_tokens=st.sampled_from([1, 8, 40]),
    stride=st.sampled_from([1, 3, 8]),
    drift=st.sampled_from([0.0, 3.0]),
    delay=st.sampled_from([0, 5]),
    max_tokens=st.sampled_from([1, 8, 21]),
    architecture=st.sampled_from(["llama", "qwen2"]),
    remote=st.booleans(),
    voices=st.sampled_from(["classifier", "text", "panel"]),
)
def test_a_served_stream_does_what_its_simulated_trace_does(
    seed,
    text,
    behind,
    shares,
    flag_on,
    min_tokens,
    stride,
    drift,
    delay,
    max_tokens,
    architecture,
    remote,
    voices,
):
    backbone = tiny_backbone(architecture)
    second = second_stage(voices, tiny_classifier(architecture), backbone)
    head = random_head(backbone, seed)
    messages = [Message("user", text), *behind]
    run = new_run(backbone, text, max_tokens=max_tokens, behind=behind)
    answer = oracle_answer(backbone, run.job.prompt, max_tokens)
    thresholds = thresholds_of(flag_on, min_tokens)
    probe, classifier = readings(backbone, head, messages, answer, thresholds, stride, second)
    cascade = Cascade(0.0, math.inf, 0.5, stride=stride, drift=drift, delay=delay)
    corrected = cascade.corrected_blocks(np.array(probe)).tolist()
    mixed = [cascade.mix(p, c) for p, c in zip(corrected, classifier, strict=True) if math.isfinite(p)]
    cascade = replace(cascade, escalate=between(corrected, shares[0]), flag=between(mixed, shares[1]))
    expected = simulate(probe, classifier, cascade, flag_on=flag_on)
    served = [n for n in expected.judged_blocks if not expected.flagged or n <= expected.flag_block]
    kind = {"kind": lambda _, kv_tokens: second.open_verdicts(kv_tokens)} if voices != "classifier" else {}
    scoring, made = staged(backbone, head, cascade, flag_on=flag_on, min_tokens=min_tokens, **kind)
    model = LocalModel(backbone, head, seed=seed) if remote else None
    with TemporaryDirectory() as folder, running_engine(backbone, scoring, Path(folder), model) as engine:
        start(engine, run).finish()
        assert engine.verdicts.waiting == 0
        engine.close()
        line = decisions(folder)[0]
    assert engine.kv_used_tokens == 0
    assert voices != "classifier" or made[0].kv_used_tokens == 0
    assert (line["verdicts"], line["stage"]) == (len(served), 2 if served else 1)
    last = expected.flag_block if expected.flagged else len(probe) - 1
    wanted = cascade.escalate + drift * math.log2(1 + last * stride / 64)
    assert line["scores"]["threshold"] == pytest.approx(wanted, abs=1e-5)
    assert line["decision"] == (
        "pass" if not expected.flagged else "halt" if expected.flag_block else "block"
    )
    if not expected.flagged:
        assert run.text() == backbone.decode(answer)
        return
    assert (run.end.reason, run.end.refusal) == ("content_filter", REFUSAL)
    with GuardStream(backbone, Stages(head, thresholds, cascade, second), messages, 64) as stream:
        for token in answer:
            if stream.verdict.flagged:
                break
            stream.push(token)
        stream.finish()
        allowed, index = stream.released, stream.verdict.token_index
    assert line["token_index"] == index
    assert backbone.decode(answer[:allowed]).startswith(run.text())
    assert len(run.tokens()) <= allowed


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["enforce", "shadow"])
async def test_requests_that_end_in_an_assistant_turn_are_judged_like_others(
    make_gateway, backbone, head, mode
):
    scoring, _ = staged(backbone, head)
    gateway = make_gateway(backbone, scoring, mode=mode)
    async with client_for(gateway) as client:
        for words in range(12):
            begun = {"role": "assistant", "content": "the gate " * words}
            body = ask(max_tokens=9, temperature=0)
            body["messages"] = [*body["messages"], begun]
            answer = (await client.post(CHAT, json=body)).json()
            assert answer["choices"][0]["finish_reason"] in ("stop", "length")
            line = decisions_of(gateway)[-1]
            blocks = math.ceil(line["completion_tokens"] / LOUD.stride)
            assert (line["decision"], line["verdicts"], line["fault"]) == ("pass", max(1, blocks), None)
        assert (await client.get("/readyz")).json()["status"] == "ready"
        refused = await client.post(CHAT, json=ask(continue_final_message=True))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "continue_final_message")


@pytest.mark.parametrize("constant", [None, math.nan])
def test_starting_up_takes_a_step_of_both_stages(make_gateway, backbone, head, constant):
    scoring, made = staged(backbone, head)
    gateway = make_gateway(backbone, scoring)
    made[0].constant = constant
    gateway.warm()
    assert made[0].sizes == [1]
    assert made[0].kv_used_tokens == gateway.engine.kv_used_tokens == 0
    found = ["second stage: it gave no finite verdict"] if constant is not None else []
    assert gateway.problems() == found


def test_verdicts_that_wait_together_are_given_together(tmp_path, backbone, head):
    runs = [new_run(backbone, text, max_tokens=9) for text in TEXTS[:3]]
    scoring, made = staged(backbone, head)
    with running_engine(backbone, scoring, tmp_path, verdict_timeout=600) as engine:
        made[0].stuck.set()
        start(engine, runs[0])
        assert made[0].entered.wait(30)
        for run in runs[1:]:
            start(engine, run)
        until(lambda: engine.verdicts.waiting == 3)
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
    assert made[0].kv_used_tokens == engine.kv_used_tokens == 0


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
    stages = Stages(head, thresholds_of(), LOUD, ClassifierStage(tiny_classifier("llama", judge)))
    watcher = GuardStream(backbone, stages, [Message("user", text)], 16)
    with watcher as stream:
        watched = [stream.push(token).score for token in answer]
        stream.finish()
        mixed = stream._state.mixed_max
    np.testing.assert_allclose([token.score for token in run.tokens()], watched, atol=1e-3)
    assert decisions(tmp_path)[0]["scores"]["mixed"] == pytest.approx(mixed, abs=1e-3)
