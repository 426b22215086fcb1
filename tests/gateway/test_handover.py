"""Another guard takes over in a running engine: no stream is judged by two, and nothing leaves unscored."""

import math
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from engine_runs import new_run, running_engine, start
from given import give, given_run
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import decisions_in
from models import random_head, tiny_backbone
from remote_model import LocalModel
from serving import NEVER, scoring_for
from staging import staged, until
from taps import StuckTap

from lockgate.backbones import front
from lockgate.cascade import Cascade
from lockgate.errors import LockgateError
from lockgate.gateway._events import Finished

BACKBONE = tiny_backbone("llama")
TEXTS = ("why does the lock hold", "the mill and the orchard", "水門 " * 12)
ANSWER = ["The lock ", "holds the water back", " and the boat waits.", " 水門 ", "So it is."]
PROBE, OTHER, BOTH = "probe", "other", "both"


def guard(kind: str):
    if kind == BOTH:
        scoring, _ = staged(BACKBONE, random_head(BACKBONE, 2), Cascade(-math.inf, math.inf, 0.5, stride=4))
    else:
        scoring = scoring_for(
            BACKBONE, random_head(BACKBONE, 0 if kind == PROBE else 1), NEVER if kind == PROBE else 0.3
        )
    return replace(scoring, guard=kind, refusal=f"refused by {kind}")


@contextmanager
def engine_of(scoring, **options):
    """An engine, and the decisions in its log when it has ended."""
    found = []
    with TemporaryDirectory() as folder:
        with running_engine(BACKBONE, scoring, Path(folder), **options) as engine:
            yield engine, found
        found += decisions_in(Path(folder) / "decisions.db")


def asked(number: int, text: str, n: int, *, is_given: bool):
    run = given_run(BACKBONE, text, n=n) if is_given else new_run(BACKBONE, text, 12, n=n, temperature=1.0)
    run.job.id = f"job-{number}"
    return run


def seen_in(record, run):
    """What a guard has made of a choice: the record without times, and what the client got."""
    choice = record["choice"]
    end = next(event for event in run.seen if isinstance(event, Finished) and event.choice == choice)
    times = ("id", "time", "queue_ms", "first_token_ms", "total_ms", "scores")
    facts = {name: value for name, value in record.items() if name not in times}
    return facts, record["scores"], run.text(choice), end.refusal


def same(found, wanted):
    """Equal, but for the scores' last digits: a batch of another size adds up in another order."""
    return (
        found[0] == wanted[0] and found[2:] == wanted[2:] and found[1] == pytest.approx(wanted[1], abs=1e-3)
    )


@cache
def alone(kind: str, text: str, n: int, is_given: bool):
    """The same request under one guard, in an engine of its own."""
    run = asked(0, text, n, is_given=is_given)
    with engine_of(guard(kind)) as (engine, log):
        start(engine, run)
        if is_given:
            for choice in range(n):
                give(engine, run, ANSWER, choice)
        run.finish()
    return {record["choice"]: seen_in(record, run) for record in log}


requests = st.tuples(st.sampled_from(TEXTS), st.sampled_from([1, 2]), st.booleans())


@settings(max_examples=6, deadline=None)
@given(
    before=st.lists(requests, min_size=1, max_size=4),
    after=st.lists(requests, max_size=2),
    kinds=st.permutations([PROBE, OTHER, BOTH]),
    parts=st.integers(0, len(ANSWER)),
)
def test_every_stream_has_one_guard_and_its_record_names_it(before, after, kinds, parts):
    """Whatever is open, waits or arrives at the change: each answer is that of the guard in its record."""
    runs = [
        asked(number, *request[:2], is_given=request[2]) for number, request in enumerate([*before, *after])
    ]
    with engine_of(guard(kinds[0]), max_streams=2) as (engine, log):
        for run in runs[: len(before)]:
            start(engine, run)
            if run.job.intakes:
                for choice in range(run.job.n):
                    for part in ANSWER[:parts]:
                        engine.give(run.job, choice, part)
        changes = threading.Thread(target=lambda: [engine.exchange(guard(kind)) for kind in kinds[1:]])
        changes.start()
        for run in runs[len(before) :]:
            start(engine, run)
        for number, run in enumerate(runs):
            if run.job.intakes:
                left = ANSWER[parts:] if number < len(before) else ANSWER
                for choice in range(run.job.n):
                    give(engine, run, left, choice)
        for run in runs:
            run.finish()
        changes.join(30)
        assert engine.scoring.guard == kinds[-1]
        last = asked(len(runs), TEXTS[0], 1, is_given=False)
        start(engine, last).finish()
    assert engine.kv_used_tokens == 0
    assert len(log) == sum(run.job.n for run in runs) + 1
    assert log[-1]["guard"] == kinds[-1]
    for record in log[:-1]:
        number = int(record["id"].removeprefix("job-"))
        text, n, is_given = [*before, *after][number]
        wanted = alone(record["guard"], text, n, is_given)[record["choice"]]
        assert same(seen_in(record, runs[number]), wanted)


def exchanging(engine, scoring, patience=30.0):
    """Start an exchange on another thread. Return the thread, and where its error will be."""
    errors = []

    def run():
        try:
            engine.exchange(scoring, patience)
        except LockgateError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_streams_that_stay_too_long_are_given_up_and_waiting_ones_keep_their_place():
    with engine_of(guard(PROBE)) as (engine, log):
        stays, waits = asked(0, TEXTS[0], 1, is_given=True), asked(1, TEXTS[1], 1, is_given=False)
        start(engine, stays)
        engine.give(stays.job, 0, ANSWER[0])
        stays.first()
        thread, errors = exchanging(engine, guard(OTHER), patience=0.3)
        until(lambda: engine._handover.next is not None)
        start(engine, waits)
        stays.finish()
        waits.finish()
        thread.join(30)
        assert errors == []
    assert (stays.end.unserved.status, stays.end.given_up) == (503, True)
    assert "".join(ANSWER).startswith(stays.text())
    assert [record["guard"] for record in log] == [PROBE, OTHER]


def test_requests_that_wait_for_the_change_still_expire():
    with engine_of(guard(PROBE), queue_timeout=0.4) as (engine, _):
        stays, waits = asked(0, TEXTS[0], 1, is_given=True), asked(1, TEXTS[1], 1, is_given=False)
        start(engine, stays)
        until(lambda: engine.active_streams == 1)
        thread, errors = exchanging(engine, guard(OTHER))
        until(lambda: engine._handover.next is not None)
        assert start(engine, waits).finish().end.unserved.code == "overloaded"
        give(engine, stays, ANSWER)
        assert stays.finish().end.decision == "pass"
        thread.join(30)
        assert errors == []


class Unopenable:
    def open_verdicts(self, kv_tokens):
        raise LockgateError("no memory")


def broken(kind: str):
    """A guard that can't take over, and what is said about it."""
    if kind == "probe":
        head = random_head(BACKBONE)
        return scoring_for(BACKBONE, replace(head, bias=head.bias * math.nan)), "no finite scores"
    scoring, _ = staged(BACKBONE, random_head(BACKBONE))
    if kind == "opening":
        return replace(scoring, stages=replace(scoring.stages, second=Unopenable())), "no memory"
    second = scoring.stages.second
    opened = second.open_verdicts

    class Nothing:
        def open_verdicts(self, kv_tokens):
            source = opened(kv_tokens)
            source.constant = math.nan
            return source

    return replace(scoring, stages=replace(scoring.stages, second=Nothing())), "no finite verdict"


@pytest.mark.parametrize("kind", ["probe", "opening", "verdict"])
def test_a_guard_that_fails_its_trial_changes_nothing(kind):
    scoring, said = broken(kind)
    with engine_of(guard(BOTH)) as (engine, log):
        with pytest.raises(LockgateError, match=said):
            engine.exchange(scoring)
        run = asked(0, TEXTS[0], 1, is_given=False)
        start(engine, run).finish()
        assert engine.faults.open == {}
    [record] = log
    assert same(seen_in(record, run), alone(BOTH, TEXTS[0], 1, False)[0])
    assert BACKBONE.tap is None


def test_one_exchange_at_a_time_and_a_closing_engine_ends_it():
    with engine_of(guard(PROBE)) as (engine, log):
        stays = asked(0, TEXTS[0], 1, is_given=True)
        start(engine, stays)
        until(lambda: engine.active_streams == 1)
        thread, errors = exchanging(engine, guard(BOTH))
        until(lambda: engine._handover.next is not None)
        with pytest.raises(LockgateError, match="another guard is taking over"):
            engine.exchange(guard(OTHER))
        engine.close()
        thread.join(30)
        assert errors == ["the server is stopping"]
        stays.finish()
        with pytest.raises(LockgateError, match="stopping"):
            engine.exchange(guard(OTHER))
    [record] = log
    assert (record["guard"], record["decision"]) == (PROBE, "cancelled")


@pytest.mark.parametrize("prepared", [True, False])
def test_a_step_that_hangs_lets_the_exchange_fail_in_time(prepared):
    head = random_head(BACKBONE)
    tap = StuckTap([head], BACKBONE.hidden_size)
    old = replace(scoring_for(BACKBONE, head, tap=tap), guard="old")
    with engine_of(old, step_timeout=0.5) as (engine, log):
        run, other = asked(0, TEXTS[0], 1, is_given=True), asked(1, TEXTS[1], 1, is_given=False)
        start(engine, run)
        until(lambda: engine.active_streams == 1)
        if prepared:
            thread, errors = exchanging(engine, guard(OTHER))
            until(lambda: engine._handover.next is not None)
        tap.stuck.set()
        engine.give(run.job, 0, "".join(ANSWER))
        assert tap.entered.wait(30)
        if not prepared:  # the trial itself waits for the step
            thread, errors = exchanging(engine, guard(OTHER))
        began = time.monotonic()
        thread.join(20)
        assert time.monotonic() - began < 15
        assert errors == ["a step of the model hangs"]
        assert run.finish().end.decision == "error"
        tap.stuck.clear()
        tap.go.set()
        until(lambda: not engine.stalled)
        assert start(engine, other).finish().end.decision == "pass"
        engine.exchange(guard(OTHER))
        assert engine.scoring.guard == OTHER
    assert [record["guard"] for record in log] == ["old", "old"]


def test_engines_that_need_a_restart_say_so(tmp_path):
    cut = front(BACKBONE, 2)
    head = random_head(cut)
    with (
        running_engine(cut, scoring_for(cut, head), tmp_path) as engine,
        pytest.raises(LockgateError, match=r"reads layer 2, .* layers from 2 on; start it again"),
    ):
        engine.exchange(guard(PROBE))
    with (
        running_engine(BACKBONE, None, tmp_path) as engine,
        pytest.raises(LockgateError, match="keeps its guard"),
    ):
        engine.exchange(guard(PROBE))
    own = random_head(BACKBONE)
    with (
        running_engine(BACKBONE, scoring_for(BACKBONE, own), tmp_path, LocalModel(BACKBONE, own)) as engine,
        pytest.raises(LockgateError, match="keeps its guard"),
    ):
        engine.exchange(guard(PROBE))
