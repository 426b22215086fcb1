"""Scorers apart from the gateway: the same answers leave, and a scorer that dies ends only its own."""

import queue

import pytest
from engine_runs import running_engine, start
from given import give, given_run
from hypothesis import given, settings
from hypothesis import strategies as st
from local_scorers import engine_with_scorers
from logs import checked, decisions_in
from models import random_head, tiny_backbone
from serving import scoring_for
from staging import until
from test_given import split_text

from lockgate.gateway._records import UNCHECKED
from lockgate.gateway.scorers import Part, ScorerCore
from lockgate.gateway.scorers._core import UNKNOWN
from lockgate.gateway.scorers._sessions import GONE, LATE, NONE_FREE

BACKBONE = tiny_backbone("llama")
HEAD = random_head(BACKBONE)
ANSWER = "the lock holds as it should"


def opened(engine, *runs):
    """Start runs, and wait until their prompts are cleared."""
    for run in runs:
        begun: queue.Queue[None] = queue.Queue()
        run.job.begin = lambda begun=begun: begun.put(None)
        start(engine, run)
        begun.get(timeout=30)


def runs(count, **options):
    made = [given_run(BACKBONE, f"why so {'!' * number}", **options) for number in range(count)]
    for number, run in enumerate(made):
        run.job.id = f"given-{number}"
    return made


def reason_of(folder, run):
    (found,) = [one for one in decisions_in(folder / "decisions.db") if one["id"] == run.job.id]
    return found["decision"], found["reason"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """An engine that reads itself, and one whose scorers read, with a threshold that some answers pass."""
    scoring = scoring_for(BACKBONE, HEAD, 0.05)
    here, apart = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("apart")
    with running_engine(BACKBONE, scoring, here) as own:
        other = scoring_for(BACKBONE, HEAD, 0.05)
        with engine_with_scorers(BACKBONE, other, apart) as (engine, scorers):
            yield own, engine, scorers


@given(texts=st.lists(split_text(), min_size=1, max_size=3), memory=st.sampled_from([None, 48]))
@settings(max_examples=40, deadline=None)
def test_what_leaves_is_what_an_engine_with_its_own_model_lets_out(both, texts, memory) -> None:
    own, apart, scorers = both
    found = []
    for engine in (own, apart):
        run = given_run(BACKBONE, "why so", n=len(texts), memory=memory)
        opened(engine, run)
        for choice, parts in enumerate(texts):
            give(engine, run, parts, choice)
        run.finish()
        ends = sorted((event for event in run.seen if hasattr(event, "decision")), key=lambda e: e.choice)
        found.append([(end.decision, end.refusal, end.completion_tokens) for end in ends])
        passed = {end.choice: run.text(end.choice) for end in ends if end.decision == "pass"}
        assert passed == {choice: "".join(texts[choice]) for choice in passed}
        for choice, parts in enumerate(texts):
            assert "".join(parts).startswith(run.text(choice))
    assert found[0] == found[1]
    assert len(scorers.leases) - len(scorers.released) <= 1


def test_a_scorer_that_dies_ends_its_own_streams_and_no_other(tmp_path) -> None:
    with engine_with_scorers(BACKBONE, scoring_for(BACKBONE, HEAD), tmp_path) as (engine, scorers):
        four = runs(4)
        opened(engine, *four)
        for run in four:
            engine.give(run.job, 0, ANSWER)
            assert run.first().text
        dead = scorers.all[0]
        lost = [run for run, lease in zip(four, scorers.leases, strict=True) if lease.scorer is dead]
        scorers.kill(dead)
        for run in lost:  # although nothing is given to them any more
            run.finish()
        for run in [run for run in four if run not in lost]:
            give(engine, run, [" and more of it"])
            run.finish()
        (late,) = runs(1)
        late.job.id = "late"
        opened(engine, late)
    assert len(lost) == 2
    for run in lost:
        assert (run.end.decision, run.end.reason, run.end.refusal) == ("error", "content_filter", UNCHECKED)
        assert ANSWER.startswith(run.text())
        assert reason_of(tmp_path, run) == ("error", "it was killed")
    for run in [run for run in four if run not in lost]:
        assert (run.end.decision, run.text()) == ("pass", ANSWER + " and more of it")
    assert checked(tmp_path / "decisions.db").unfinished == 0


def test_what_is_under_way_when_a_scorer_dies_never_leaves(tmp_path) -> None:
    with engine_with_scorers(BACKBONE, scoring_for(BACKBONE, HEAD), tmp_path, scorers=1) as (engine, scorers):
        (run,) = runs(1)
        opened(engine, run)
        (scorer,) = scorers.all
        scorer.idle()
        before = scorer.reads
        scorer.go.clear()
        give(engine, run, [ANSWER])
        until(lambda: scorer.reads > before)
        scorer.dead = True
        scorer.go.set()
        run.finish()
    assert (run.text(), run.end.decision) == ("", "error")
    assert reason_of(tmp_path, run) == ("error", GONE)


def test_a_scorer_that_is_gone_before_it_has_read_is_replaced_once(tmp_path) -> None:
    scoring = scoring_for(BACKBONE, HEAD)
    with engine_with_scorers(BACKBONE, scoring, tmp_path, scorers=3) as (engine, scorers):
        first, second = runs(2)
        # It takes calls, and each fails: nobody has noticed yet that its process is gone.
        scorers.all[0].dead = True
        scorers.free_dead = True
        opened(engine, first)
        give(engine, first, [ANSWER])
        assert first.finish().text() == ANSWER
        scorers.all[1].dead = scorers.all[2].dead = True
        start(engine, second).finish()
        leased = [scorers.all.index(lease.scorer) for lease in scorers.leases]
        assert scorers.released == scorers.leases
        assert engine.kv_used_tokens == 0
    assert leased == [0, 1, 2, 0]
    assert (first.end.decision, second.end.decision, second.text()) == ("pass", "error", "")


def test_a_scorer_that_hangs_delays_no_other_and_counts_as_gone(tmp_path) -> None:
    scoring = scoring_for(BACKBONE, HEAD)
    with engine_with_scorers(BACKBONE, scoring, tmp_path, step_timeout=0.3) as (engine, scorers):
        held, free = runs(2)
        opened(engine, held, free)
        scorers.leases[0].scorer.go.clear()
        give(engine, held, [ANSWER])
        give(engine, free, [ANSWER])
        free.finish()
        assert not held.job.done
        held.finish()
    assert (free.end.decision, free.text()) == ("pass", ANSWER)
    assert (held.end.decision, held.text()) == ("error", "")
    assert reason_of(tmp_path, held) == ("error", LATE)


def test_a_request_waits_for_a_scorer_and_hinders_no_other(tmp_path) -> None:
    with engine_with_scorers(BACKBONE, scoring_for(BACKBONE, HEAD), tmp_path) as (engine, scorers):
        waits, other = runs(2)
        scorers.free = False
        start(engine, waits)
        give(engine, waits, [ANSWER])
        until(lambda: bool(scorers.leases))
        scorers.free = True
        opened(engine, other)
        give(engine, other, [ANSWER])
        assert other.finish().text() == ANSWER
        assert not waits.job.done
        scorers.leases[0].grant(scorers.all[0])
        assert waits.finish().text() == ANSWER


def test_a_request_without_a_scorer_ends_in_time(tmp_path) -> None:
    scoring = scoring_for(BACKBONE, HEAD)
    with engine_with_scorers(BACKBONE, scoring, tmp_path, patience=0.2) as (engine, scorers):
        (run,) = runs(1, n=2)
        scorers.free = False
        start(engine, run)
        run.finish()
        assert scorers.released == scorers.leases
        assert engine.kv_used_tokens == 0
    assert [event.decision for event in run.seen] == ["error", "error"]
    found = decisions_in(tmp_path / "decisions.db")
    assert {one["reason"] for one in found} == {NONE_FREE}


@pytest.mark.parametrize("mode", ["shadow", "open"])
def test_where_a_fault_stops_nothing_the_answer_goes_on(tmp_path, mode) -> None:
    scoring = scoring_for(BACKBONE, HEAD)
    with engine_with_scorers(BACKBONE, scoring, tmp_path, scorers=1) as (engine, scorers):
        (run,) = runs(1)
        run.job.mode, run.job.fails_open = ("shadow", False) if mode == "shadow" else ("enforce", True)
        opened(engine, run)
        engine.give(run.job, 0, ANSWER)
        run.first()
        scorers.kill(scorers.all[0])
        give(engine, run, [" and more of it"])
        run.finish()
    assert (run.text(), run.end.refusal) == (ANSWER + " and more of it", None)
    assert run.end.decision == "error"


def test_a_client_that_leaves_frees_the_memory_of_the_scorer(tmp_path) -> None:
    with engine_with_scorers(BACKBONE, scoring_for(BACKBONE, HEAD), tmp_path) as (engine, scorers):
        (run,) = runs(1, n=2)
        opened(engine, run)
        until(lambda: sum(scorer.core.used_tokens for scorer in scorers.all) == 2 * run.job.capacity)
        engine.cancel(run.job)
        until(lambda: scorers.released == scorers.leases)
        for scorer in scorers.all:
            scorer.idle()
            assert scorer.core.used_tokens == 0


def test_a_scorer_reads_what_it_can_and_names_the_rest() -> None:
    core = ScorerCore(BACKBONE, scoring_for(BACKBONE, HEAD), kv_tokens=64, streams=4)
    core.open("short", 8, [])
    core.open("long", 32, [])
    core.fork("none", "unknown", 3, 8)
    parts = [
        Part("short", 0, [5] * 9),
        Part("long", 0, [5] * 9),
        Part("long", 40, [5]),
        Part("none", 0, [5]),
    ]
    too_long, good, *unknown = core.read(parts[:2] + parts[3:])
    assert (too_long.rows, too_long.fault) == (None, "ContextOverflow")
    assert good.rows.shape == (9, HEAD.n_outputs)
    assert [one.fault for one in unknown] == [UNKNOWN]
    assert core.read([parts[2]])[0].fault == UNKNOWN
    # A part that begins earlier is read from there, and gives the same.
    again = core.read([Part("long", 4, [5] * 5)])[0]
    assert again.rows == pytest.approx(good.rows[4:], abs=1e-5)
