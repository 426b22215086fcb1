"""How much of an upstream's answer is read in one step: never less than asked, never later than promised."""

import threading

import pytest
from engine_runs import running_engine, start
from given import give, given_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from serving import NEVER, scoring_for
from staging import staged
from test_given import smoothed

from lockgate.cascade import Cascade
from lockgate.errors import ConfigError
from lockgate.gateway import Hold
from lockgate.gateway._events import Released
from lockgate.gateway._intake import Intake

BACKBONE = tiny_backbone("llama")
HEAD = random_head(BACKBONE)
WORDS = st.lists(
    st.sampled_from(["the", " lock", " don't", "\n", "é", "你好", " 🙂"]), min_size=1, max_size=4
)
MINUTE = 60.0
EDGE = 4


class CountedCalls:
    """A function, and how often it was called."""

    def __init__(self, function) -> None:
        self._function = function
        self.count = 0

    def __call__(self, *arguments):
        self.count += 1
        return self._function(*arguments)


def tokens_of(text: str) -> int:
    return len(BACKBONE.chat.vocabulary.encode_answer(text))


@given(
    texts=st.lists(WORDS.map("".join), min_size=1, max_size=8),
    pauses=st.lists(st.floats(0, 2), min_size=8, max_size=8),
    hold=st.integers(2, 12),
)
def test_text_is_due_when_it_is_enough_or_old_or_the_last(texts, pauses, hold) -> None:
    now = 0.0
    intake = Intake(BACKBONE.tokenise_answer(), Hold(hold, 1.0), lambda: now)
    waiting, since = "", 0.0
    for text, pause in zip(texts, pauses, strict=False):
        since = since if waiting else now
        intake.give(text)
        waiting += text
        now += pause
        assert intake.due_at == since + 1.0
        if not intake.is_due:
            assert now < since + 1.0
            # Tokens of a part may differ from those of the whole by the few at its edge.
            assert tokens_of(waiting) < hold + EDGE
            continue
        assert now >= since + 1.0 or tokens_of(waiting) >= hold - EDGE
        # Everything is read, the last word only for a try.
        intake.take(10_000)
        assert (intake.is_waiting, intake.is_due, intake.due_at) == (False, False, None)
        waiting = ""
    intake.end("stop")
    assert intake.is_due
    assert intake.due_at is None


def test_the_first_of_many_words_is_not_read_before_the_step_is_full() -> None:
    intake = Intake(BACKBONE.tokenise_answer(), Hold(4, MINUTE), lambda: 0.0)
    due = []
    for word in ["the", " lock", " the", " lock", " the"]:
        intake.give(word)
        due.append(intake.is_due)
    assert due == [False] * due.index(True) + [True] * (len(due) - due.index(True))
    assert due.index(True) >= 1


def test_a_step_waits_until_it_is_full_or_the_answer_ends(tmp_path) -> None:
    with running_engine(BACKBONE, scoring_for(BACKBONE, HEAD), tmp_path) as engine:
        held = start(engine, given_run(BACKBONE, "why so", hold=Hold(12, MINUTE)))
        for word in ["the", *[" lock"] * 4]:
            engine.give(held.job, 0, word)
        other = start(engine, given_run(BACKBONE, "why so"))
        give(engine, other, ["the lock holds"])
        other.finish()
        assert held.events.empty()
        for word in [" lock"] * 40:
            engine.give(held.job, 0, word)
        first = held.first()
        assert isinstance(first, Released)
        engine.end_given(held.job, 0, "stop")
        assert held.finish().text() == "the" + " lock" * 44
    pieces = [event.text for event in held.seen if isinstance(event, Released)]
    assert len(pieces) <= 2 + 45 // 12 * 2


def test_text_leaves_when_it_has_waited_for_long(tmp_path) -> None:
    with running_engine(BACKBONE, scoring_for(BACKBONE, HEAD), tmp_path) as engine:
        run = start(engine, given_run(BACKBONE, "why so", hold=Hold(64, 0.05)))
        engine.give(run.job, 0, "the lock")
        event = run.first()
        assert isinstance(event, Released)
        give(engine, run, [" holds"])
        assert run.finish().text() == "the lock holds"


def test_nothing_spins_while_text_is_due_behind_a_verdict(tmp_path) -> None:
    """An answer that waits for the second stage can't read on, however long its text has waited."""
    always = Cascade(escalate=-NEVER, flag=NEVER, weight=0.0, stride=4)
    scoring, made = staged(BACKBONE, HEAD, always)
    with running_engine(BACKBONE, scoring, tmp_path) as engine:
        plans = CountedCalls(engine._stepper.plan)
        engine._stepper.plan = plans
        made[0].stuck.set()
        run = start(engine, given_run(BACKBONE, "why so", hold=Hold(2, 0.001)))
        engine.give(run.job, 0, "the lock holds the lock")
        assert made[0].entered.wait(30)
        engine.give(run.job, 0, " holds")
        before = plans.count
        assert not threading.Event().wait(0.2)
        spun = plans.count - before
        made[0].stuck.clear()
        made[0].go.set()
        give(engine, run, [])
        assert run.finish().text() == "the lock holds the lock holds"
    assert spun <= 5


@pytest.mark.parametrize("given_hold", [(0, 1.0), (65, 1.0), (8, 0.0), (8, 61.0), (8, float("nan"))])
def test_a_hold_has_bounds(given_hold) -> None:
    with pytest.raises(ConfigError, match="hold: expected 1 to 64 tokens"):
        Hold(*given_hold)


@given(where=st.floats(0, 1))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_of_a_step_leaves_in_which_a_token_is_flagged(tmp_path, where) -> None:
    answer = "the lock holds the water back, the lock holds the boat"
    scores = smoothed("why so", answer)
    line = sorted(scores)[min(len(scores) - 1, int(where * len(scores)))] - 1e-3
    with running_engine(BACKBONE, scoring_for(BACKBONE, HEAD, line, flag_on="answer"), tmp_path) as engine:
        run = start(engine, given_run(BACKBONE, "why so", hold=Hold(64, MINUTE)))
        give(engine, run, [answer])
        run.finish()
    assert tokens_of(answer) < 64
    assert (run.end.decision, run.text()) == ("halt", "")
