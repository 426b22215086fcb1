"""A judge as a second stage: what is asked, in how many calls, and how blocks are read."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_backbone
from text_judges import Counting, talk

from lockgate.errors import ConfigError, ContextOverflow, ExchangeError, JudgeError
from lockgate.exchanges import Exchange, Message
from lockgate.guards import Ask, Conversation, VerdictScheduler
from lockgate.judges import JudgeReading, JudgeStage

BACKBONE = tiny_backbone()
ANSWER = "the naïve café 水門 🚤 and the boat!"


class Recorder(Counting):
    """A judge that counts its calls too."""

    def judge(self, talks):
        self.calls = [*getattr(self, "calls", []), len(talks)]
        return super().judge(talks)


def conversation(prompt: str, answer: str = "") -> Conversation:
    chat = BACKBONE.render([Message("user", prompt)], add_generation_prompt=True)
    return Conversation(chat, len(chat.token_ids) + 200, BACKBONE.chat.encode_text(answer))


def ask(prompt: str, answer: str) -> Ask:
    made = conversation(prompt, answer)
    return Ask(made, made.chat.answer_start + len(made.answer))


def test_all_conversations_that_wait_are_asked_about_in_one_call():
    """Also long ones: an endpoint takes them at once, and a local model makes its own batches."""
    judge = Recorder()
    asks = [ask(f"{number} " + "why " * 300, "the boat") for number in range(12)]
    with VerdictScheduler(JudgeStage(judge, BACKBONE).open_verdicts(0), piece_tokens=16) as scheduler:
        found = scheduler.step(asks)
    assert judge.calls == [12]
    assert all(given.over and given.error is None for given in found)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_a_growing_answer_is_read_as_text_whatever_its_pieces(pieces):
    judge = Recorder()
    tokens = BACKBONE.chat.encode_text(ANSWER)
    made = conversation("why")
    source = JudgeStage(judge, BACKBONE).open_verdicts(0)
    with VerdictScheduler(source) as scheduler:
        for piece in pieces:
            made.answer.extend(tokens[len(made.answer) : len(made.answer) + piece])
            scheduler.verdict_on(Ask(made, made.chat.answer_start + len(made.answer)))
    texts = [asked[1].content if len(asked) > 1 else "" for asked in judge.asked]
    assert all(asked[0] == Message("user", "why") for asked in judge.asked)
    assert all(ANSWER.startswith(text) for text in texts)
    whole = BACKBONE.decode(tokens[: len(made.answer)])
    assert texts[-1] == whole.rstrip("\ufffd")


@pytest.mark.parametrize("stride", [1, 3, 8, 100])
def test_blocks_of_whole_exchanges(stride):
    judge = Recorder()
    rows = [Exchange(talk("why", ANSWER * number)) for number in range(3)] + [Exchange(talk("only a prompt"))]
    scores = list(JudgeStage(judge, BACKBONE).read_blocks(rows, stride=stride))
    assert [found.exchange for found in scores] == rows
    assert judge.calls == [sum(len(found.ends) for found in scores)]
    for found, row in zip(scores, rows, strict=True):
        answer = row.messages[-1].content if len(row.messages) > 1 else ""
        n = len(BACKBONE.chat.encode_text(answer)) if answer else 0
        assert found.ends == [*range(0, n, stride), n] if n else [0]
        assert found.logits[-1] == answer.count("!") - 0.5
        assert found.cpu_s == 0.25 * len(found.ends)
    with pytest.raises(ConfigError, match="stride"):
        list(JudgeStage(judge, BACKBONE).read_blocks(rows, stride=0))


def test_a_judge_without_a_verdict_is_an_error_in_blocks_and_infinite_in_streams():
    class Broken(Counting):
        def judge(self, talks):
            return [JudgeReading(math.inf) for _ in talks]

    stage = JudgeStage(Broken(), BACKBONE)
    with pytest.raises(JudgeError, match="the logit is no finite number"):
        next(stage.read_blocks([Exchange(talk("a", "b"))], stride=8))
    with VerdictScheduler(stage.open_verdicts(0)) as scheduler:
        assert scheduler.verdict_on(ask("a", "b")) == math.inf


def test_tokens_without_messages_are_read_as_their_text_and_too_many_are_refused():
    judge = Counting()
    source = JudgeStage(judge, BACKBONE).open_verdicts(0)
    chat = BACKBONE.render([Message("user", "where is the boat")], add_generation_prompt=True)
    session = source.open(replace(chat, request=(), spans=[]), chat.answer_start + 2)
    source.judge([(session, [])])
    assert judge.asked[0][0].role == "user"
    assert "where is the boat" in judge.asked[0][0].content
    with pytest.raises(ContextOverflow):
        source.judge([(session, [5, 5, 5])])
    with pytest.raises(ContextOverflow):
        source.open(chat, 1)
    with pytest.raises(ExchangeError, match="exchange 0"):
        next(JudgeStage(judge, BACKBONE).read_blocks([Exchange(())], stride=8))
