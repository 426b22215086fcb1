"""A second stage that hangs, is late, fails or dies halts only the streams that wait for it."""

import math

import pytest
from classifying import FaultyVerdicts
from engine_runs import new_run, oracle_answer, running_engine, start
from serving import client_for
from staging import decisions, staged, until

from lockgate.gateway import Engine, _verdicts
from lockgate.gateway._records import UNCHECKED

TEXTS = ("why does the lock hold", "the mill and the orchard", "where is the boat? 7", "what now " * 60)


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
    assert made[0].kv_used_tokens == engine.kv_used_tokens == 0


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
        until(lambda: engine.verdicts.oldest == 0)
        engine.verdicts.timeout = 600
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
        until(lambda: engine.verdicts.waiting == 2)
        made[0].broken = SystemExit()
        made[0].stuck.clear()
        made[0].go.set()
        late = new_run(backbone, TEXTS[0], max_tokens=21)
        for run in (*victims, late):
            if run is late:
                start(engine, run)
            assert (run.finish().end.decision, run.text()) == ("error", "")
        assert start(engine, mate).finish().end.decision == "pass"
        assert engine.verdicts.alive is False
        assert engine.verdicts.waiting == 0
        assert engine.faults.open == {"second stage": "the second stage's thread has ended"}
    assert made[0].kv_used_tokens == engine.kv_used_tokens == 0
    errors = [line for line in decisions(tmp_path) if line["decision"] == "error"]
    assert {(line["reason"], line["fault"]) for line in errors} == {
        ("the second stage's thread has ended", "second stage")
    }
    assert len(errors) == 3


def test_a_second_stage_that_hangs_gathers_nothing(tmp_path, backbone, head):
    scoring, made = staged(backbone, head)
    with running_engine(backbone, scoring, tmp_path, verdict_timeout=0.05) as engine:
        worker = engine.verdicts._worker
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
        for ticket in self.engine.verdicts._worker._waiting:
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
            until(lambda engine=engine: engine.verdicts.waiting == 3)
            made[0].stuck.clear()
            made[0].go.set()
            assert {run.finish().end.decision for run in runs} == {"pass"}
        for run in runs:
            assert run.text() == backbone.decode(oracle_answer(backbone, run.job.prompt, 24))
        lines = sorted(decisions(tmp_path / str(number)), key=lambda line: line["id"])
        alone.append([line["scores"]["mixed"] for line in lines])
    assert alone[0] == pytest.approx(alone[1], abs=1e-3)
