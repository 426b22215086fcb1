"""Answers that are written elsewhere: scored as files are, and released in order."""

import math
import queue

import pytest
from engine_runs import oracle_scores, running_engine, start
from given import give, given_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from serving import scoring_for
from staging import staged, until

from lockgate.cascade import Cascade
from lockgate.exchanges import Message
from lockgate.gateway import Hold
from lockgate.gateway._events import Finished, Released, Unserved
from lockgate.gateway._intake import Intake, Taken
from lockgate.guards import regions_of

BACKBONE = tiny_backbone("llama")
HEAD = random_head(BACKBONE)
WORDS = st.lists(
    st.sampled_from(
        ["the", " lock", " holds", "\n", "  ", " don't", " 12", "3", ".", "é", "你好", " 🙂", "<|im_end|>"]
    ),
    max_size=40,
)


@st.composite
def split_text(draw: st.DrawFn) -> list[str]:
    text = "".join(draw(WORDS))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def smoothed(prompt: str, answer: str) -> list[float]:
    """The smoothed logits of the answer's tokens, in one pass over the finished exchange."""
    chat = BACKBONE.render([Message("user", prompt), Message("assistant", answer)])
    regions = regions_of(chat)
    scores = oracle_scores(BACKBONE, HEAD, chat.token_ids[: chat.answer_end], regions)
    return scores[regions.answer_start - regions.start :]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    with running_engine(BACKBONE, scoring_for(BACKBONE, HEAD), tmp_path_factory.mktemp("calm")) as engine:
        yield engine


HOLDS = st.sampled_from([Hold(), Hold(3, 0.005), Hold(20, 0.005)])


@given(parts=split_text(), hold=HOLDS)
@settings(max_examples=40)
def test_text_leaves_as_it_arrived_with_the_scores_of_the_finished_answer(calm, parts, hold) -> None:
    run = start(calm, given_run(BACKBONE, "why so", hold=hold))
    give(calm, run, parts)
    run.finish()
    answer = "".join(parts)
    assert run.text() == answer
    assert run.end.decision == "pass"
    expected = smoothed("why so", answer)
    if expected:
        assert run.end.max_answer == pytest.approx(max(expected), abs=1e-4)
    assert run.end.completion_tokens == len(expected)


@given(parts=split_text(), quantile=st.floats(0, 1), hold=HOLDS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flag_stops_the_text_at_the_token_that_files_flag(tmp_path, parts, quantile, hold) -> None:
    answer = "".join(parts)
    expected = smoothed("why so", answer)
    if len(expected) < 5:
        return
    line = sorted(expected)[min(len(expected) - 1, int(quantile * len(expected)))] - 1e-3
    with running_engine(BACKBONE, scoring_for(BACKBONE, HEAD, line), tmp_path) as engine:
        run = start(engine, given_run(BACKBONE, "why so", hold=hold))
        give(engine, run, parts)
        run.finish()
    # The prompt's scored tokens count for min_tokens too, so any answer token may flag.
    flagged = next((number for number, score in enumerate(expected) if score > line), None)
    if flagged is None:
        assert run.end.decision == "pass"
        return
    assert run.end.decision == "halt"
    assert run.end.completion_tokens <= flagged + 1
    tokens = BACKBONE.chat.vocabulary.encode_answer_tokens(answer)
    # Nothing from the flagged token on has left.
    assert len(run.text()) <= sum(len(token.text) for token in tokens[:flagged])
    assert answer.startswith(run.text())
    assert isinstance(run.seen[-1], Finished)


class EndsMeanwhile(Intake):
    """An intake whose answer ends while a step reads what it has taken."""

    def take(self, most: int) -> Taken:
        taken = super().take(most)
        self.end("stop")
        return taken


@pytest.mark.parametrize("line", [-math.inf, math.inf])
@pytest.mark.parametrize("answer", ["lock", " don'tthe", "the lock holds", "你好你好"])
def test_the_last_word_is_judged_if_the_end_comes_while_it_is_read(tmp_path, answer, line) -> None:
    with running_engine(BACKBONE, scoring_for(BACKBONE, HEAD, line, flag_on="answer"), tmp_path) as engine:
        run = given_run(BACKBONE, "why so")
        run.job.intakes[0] = EndsMeanwhile(BACKBONE.tokenise_answer())
        engine.give(run.job, 0, answer)
        start(engine, run).finish()
    assert (run.end.decision, run.text()) == (("halt", "") if line < 0 else ("pass", answer))
    if line > 0:
        assert run.end.completion_tokens == len(BACKBONE.chat.vocabulary.encode_answer(answer))


class Unreadable(Intake):
    """An intake whose text can't be tokenised."""

    def take(self, most: int) -> Taken:
        raise ValueError("no tokens")


def test_a_text_that_can_not_be_read_ends_only_its_own_answer(tmp_path) -> None:
    with running_engine(BACKBONE, scoring_for(BACKBONE, HEAD), tmp_path) as engine:
        good, bad = given_run(BACKBONE, "why so"), given_run(BACKBONE, "why so")
        begun: queue.Queue[None] = queue.Queue()
        good.job.begin = lambda: begun.put(None)
        bad.job.intakes[0] = Unreadable(BACKBONE.tokenise_answer())
        start(engine, good)
        begun.get(timeout=30)
        engine.give(bad.job, 0, "lock")
        start(engine, bad).finish()
        give(engine, good, ["the lock holds"])
        good.finish()
    assert (bad.end.decision, bad.text()) == ("error", "")
    assert (good.end.decision, good.text()) == ("pass", "the lock holds")


def test_each_piece_leaves_before_the_next_arrives(calm) -> None:
    run = start(calm, given_run(BACKBONE, "why"))
    for piece in ["The", " lo", "ck", " is", " sh", "ut", "."]:
        calm.give(run.job, 0, piece)
        while not run.text().endswith(piece):
            run.first()
    calm.end_given(run.job, 0, "length")
    assert run.finish().end.reason == "length"


def test_a_long_answer_goes_on_in_windows(calm) -> None:
    run = start(calm, given_run(BACKBONE, "why", memory=96))
    text = "".join(f" the lock {number} holds" for number in range(120))
    give(calm, run, [text])
    assert run.finish().text() == text
    assert run.end.completion_tokens == len(BACKBONE.chat.vocabulary.encode_answer(text)) > 500


def test_a_prompt_longer_than_its_memory_is_read_in_windows(calm) -> None:
    run = start(calm, given_run(BACKBONE, "why " * 300, memory=128))
    begun: queue.Queue[None] = queue.Queue()
    run.job.begin = lambda: begun.put(None)
    begun.get(timeout=30)
    give(calm, run, ["so"])
    assert run.finish().text() == "so"


@pytest.mark.parametrize("spare", [0, 1, 2, 3, 4])
def test_a_memory_that_holds_little_more_than_the_prefix_is_enough(calm, spare) -> None:
    run = given_run(BACKBONE, "why so")
    run.job.memory = len(run.job.prefix) + spare
    start(calm, run)
    give(calm, run, [" the lock", " holds"])
    run.finish()
    assert (run.end.decision, run.text()) == (("pass", " the lock holds") if spare else ("error", ""))


def test_choices_share_the_prompt_and_nothing_else(calm) -> None:
    run = start(calm, given_run(BACKBONE, "why", n=3))
    for choice, text in enumerate(["first one", "second one, longer", ""]):
        give(calm, run, [text[:5], text[5:]], choice)
    run.finish()
    assert [run.text(choice) for choice in range(3)] == ["first one", "second one, longer", ""]


def test_a_flagged_prompt_never_lets_an_answer_begin(tmp_path) -> None:
    scoring = scoring_for(BACKBONE, HEAD, -math.inf, flag_on="both")
    with running_engine(BACKBONE, scoring, tmp_path) as engine:
        run = given_run(BACKBONE, "why does the lock hold", n=2)
        run.job.begin = lambda: pytest.fail("the answers were asked for")
        start(engine, run).finish()
    assert [event.decision for event in run.seen if isinstance(event, Finished)] == ["block", "block"]


@pytest.mark.parametrize("verdict", [-1.0, 1.0])
def test_held_text_waits_for_the_verdict(tmp_path, verdict) -> None:
    always = Cascade(escalate=-math.inf, flag=0.0, weight=0.0, stride=4)
    scoring, made = staged(BACKBONE, HEAD, always)
    with running_engine(BACKBONE, scoring, tmp_path) as engine:
        until(lambda: bool(made))
        made[0].constant = verdict
        run = start(engine, given_run(BACKBONE, "why"))
        give(engine, run, [" the lock holds the water back", " for now."])
        run.finish()
    if verdict > 0:
        assert (run.text(), run.end.decision) == ("", "halt")
    else:
        assert (run.text(), run.end.decision) == (" the lock holds the water back for now.", "pass")


def test_an_answer_that_is_given_up_tells_why(calm) -> None:
    run = start(calm, given_run(BACKBONE, "why"))
    calm.give(run.job, 0, "so it")
    calm.give_up(run.job, Unserved(502, "upstream_ended", "It ended.", 1))
    assert run.finish().end.unserved.status == 502
    assert all(isinstance(event, Released) for event in run.seen[:-1])


@given(parts=split_text())
@settings(max_examples=20)
def test_it_tells_when_it_has_read_all_that_has_arrived(calm, parts) -> None:
    run = given_run(BACKBONE, "why so")
    news: queue.Queue[int] = queue.Queue()
    run.job.caught_up = lambda _, characters: news.put(characters)
    start(calm, run)
    given_so_far = 0
    for part in filter(None, parts):
        calm.give(run.job, 0, part)
        given_so_far += len(part)
        while (read := news.get(timeout=30)) < given_so_far:
            pass
        assert read == given_so_far
        while not run.events.empty():
            run.first()
        # No verdict is due and nothing is flagged, so all that was read has left.
        assert len(run.text()) == given_so_far
    calm.end_given(run.job, 0, "stop")
    run.finish()


def test_a_last_word_that_would_flag_does_not_leave(tmp_path) -> None:
    """More text may still change its tokens. If none comes, the end decides."""
    answer = "the lock holds the water"
    *before, last = smoothed("why so", answer)
    assert last > max(before), "the word was chosen for this"
    line = (last + max(before)) / 2
    with running_engine(BACKBONE, scoring_for(BACKBONE, HEAD, line), tmp_path) as engine:
        run, read = given_run(BACKBONE, "why so"), queue.Queue()
        run.job.caught_up = lambda choice, characters: read.put(characters)
        start(engine, run)
        engine.give(run.job, 0, answer)
        while read.get(timeout=30) < len(answer):
            pass
        seen = [event.text for event in list(run.events.queue) if isinstance(event, Released)]
        assert "water" not in "".join(seen)
        engine.end_given(run.job, 0, "stop")
        assert run.finish().end.decision == "halt"
    assert "water" not in run.text()


def test_a_last_word_that_would_be_held_does_not_leave(tmp_path) -> None:
    always = Cascade(escalate=-math.inf, flag=0.0, weight=0.0, stride=64)
    scoring, made = staged(BACKBONE, HEAD, always)
    with running_engine(BACKBONE, scoring, tmp_path) as engine:
        until(lambda: bool(made))
        made[0].constant = -1.0
        run, read = given_run(BACKBONE, "why"), queue.Queue()
        run.job.caught_up = lambda choice, characters: read.put(characters)
        start(engine, run)
        engine.give(run.job, 0, "lock")
        while read.get(timeout=30) < 4:
            pass
        assert run.events.empty()
        engine.end_given(run.job, 0, "stop")
        assert run.finish().text() == "lock"
