"""The phases of a served stream, and the stages that it may wait for."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from classifying import TokenJudge
from engine_runs import new_run, oracle_answer, running_engine, start
from serving import scoring_for
from staging import LOUD, decisions, staged, thresholds_of

from lockgate.cascade import Cascade
from lockgate.exchanges import Message
from lockgate.gateway import _jobs
from lockgate.gateway._phases import (
    AwaitingPrompt,
    AwaitingVerdict,
    Closing,
    Decoding,
    Queued,
    ReadingPrompt,
    ticket_of,
)
from lockgate.guards import GuardStream, Stages, VerdictScheduler

TEXT = "why does the lock hold"
NEXT = {
    Queued: {ReadingPrompt, Decoding},  # a choice beside the first begins with its first token
    ReadingPrompt: {AwaitingPrompt, Decoding, Closing},
    AwaitingPrompt: {Decoding, Closing},
    Decoding: {Decoding, AwaitingVerdict, Closing},
    AwaitingVerdict: {Decoding},
    Closing: set(),
}


class WatchedStream(_jobs.Stream):
    """Remembers its phases."""

    def __setattr__(self, name, value):
        if name == "phase":
            self.__dict__.setdefault("path", []).append(value)
        super().__setattr__(name, value)


@pytest.fixture
def paths(monkeypatch):
    """The streams of all jobs made from here on."""
    made = []

    def make(choice):
        made.append(WatchedStream(choice))
        return made[-1]

    monkeypatch.setattr(_jobs, "Stream", make)
    return made


def kinds(stream):
    return [type(phase) for phase in stream.path]


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
@pytest.mark.parametrize("flag_on", ["answer", "both"])
@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_goes_through_its_phases_in_order(tmp_path, backbone, head, paths, mode, flag_on, n):
    run = new_run(backbone, TEXT, max_tokens=20, n=n, temperature=0.0 if n == 1 else 1.0)
    scoring, _ = staged(backbone, head, flag_on=flag_on)
    with running_engine(backbone, scoring, tmp_path, mode=mode) as engine:
        start(engine, run).finish()
    first = kinds(paths[0])
    assert first[:3] == [Queued, ReadingPrompt, AwaitingPrompt if flag_on == "both" else Decoding]
    for stream in paths:
        path = kinds(stream)
        for phase, following in pairwise(path):
            assert following in NEXT[phase]
        # Every block is judged: those in front of the last one while the stream decodes.
        waits = [phase for phase in stream.path if ticket_of(phase) is not None]
        ends = [ticket_of(phase).end - len(run.job.prompt) for phase in waits]
        assert [end for end in ends if end] == [*range(8, stream.answered, 8), stream.answered]
        assert ticket_of(stream.path[0]) is None
        assert path[-1] is Closing


def test_a_stream_of_one_stage_or_without_a_guard_never_waits(tmp_path, backbone, head, paths):
    for folder, scoring in (("guarded", scoring_for(backbone, head)), ("off", None)):
        (tmp_path / folder).mkdir()
        run = new_run(backbone, TEXT, max_tokens=12)
        with running_engine(backbone, scoring, tmp_path / folder) as engine:
            start(engine, run).finish()
            assert engine.verdicts.alive is None
            assert (engine.verdicts.waiting, engine.verdicts.oldest) == (0, 0.0)
    assert [kinds(stream) for stream in paths] == [[Queued, ReadingPrompt, *[Decoding] * 12]] * 2


@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("flag_on", ["answer", "both"])
def test_any_judge_can_be_the_second_stage_of_the_server(tmp_path, backbone, head, stride, flag_on):
    """It has no classifier, no memory and no costs; served and watched, it says the same."""
    judge = TokenJudge()
    cascade = Cascade(-math.inf, math.inf, 0.0, stride=stride)
    stages = Stages(head, thresholds_of(flag_on), cascade, judge)
    run = new_run(backbone, TEXT * 30, max_tokens=20)
    assert len(run.job.prompt) > 256  # read in pieces
    with running_engine(backbone, replace(scoring_for(backbone, head), stages=stages), tmp_path) as engine:
        start(engine, run).finish()
    answer = oracle_answer(backbone, run.job.prompt, 20)
    assert (run.end.decision, run.text()) == ("pass", backbone.decode(answer))
    first = [0] if flag_on == "both" else []
    ends = [*first, *range(stride, len(answer), stride), len(answer)]
    line = decisions(tmp_path)[0]
    assert (line["stage"], line["verdicts"], line["fault"]) == (2, len(ends), None)
    given = [TokenJudge.opinion([*run.job.prompt, *answer[:end]]) for end in ends]
    assert line["scores"]["mixed"] == pytest.approx(max(given), abs=1e-6)
    with GuardStream(backbone, stages, [Message("user", TEXT * 30)], 20) as stream:
        stream.push(answer)
        stream.finish()
    assert stream._state.mixed_max == max(given)
    assert judge.open_sessions == 0


def test_the_server_asks_the_one_scheduler(tmp_path, backbone, head, monkeypatch):
    def refuse(self, asks):
        raise RuntimeError("nobody judges here")

    monkeypatch.setattr(VerdictScheduler, "step", refuse)
    stages = Stages(head, thresholds_of(), LOUD, TokenJudge())
    run = new_run(backbone, TEXT)
    with running_engine(backbone, replace(scoring_for(backbone, head), stages=stages), tmp_path) as engine:
        assert start(engine, run).finish().end.decision == "error"
    line = decisions(tmp_path)[0]
    assert (line["reason"], line["fault"], run.text()) == ("RuntimeError", "second stage", "")


def test_a_guard_that_fails_before_it_reads_holds_no_memory(tmp_path, backbone, head):
    class Stateless(Stages):
        def new_state(self, regions, lowered=0.0):
            raise RuntimeError("no state")

    good = scoring_for(backbone, head)
    broken = replace(good, stages=Stateless(head, thresholds_of()))
    with running_engine(backbone, broken, tmp_path) as engine:
        assert start(engine, new_run(backbone, TEXT)).finish().end.decision == "error"
        assert engine.kv_used_tokens == 0
