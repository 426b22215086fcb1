"""A panel of voices: its logit, its memory and its costs, with an independent sum as the oracle."""

import math
from dataclasses import dataclass, field

import pytest
from classifying import TokenJudge, random_classifier
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from parts import make_exchange
from voices import random_text, two_voices

from lockgate.cascade import Cascade, Thresholds
from lockgate.classifiers import BlockScores
from lockgate.errors import ConfigError, PoolFull
from lockgate.exchanges import Message
from lockgate.guards import (
    ClassifierStage,
    GuardStream,
    Panel,
    Stages,
    TextStage,
    Voice,
    score_exchanges,
)

CHAT = tiny_backbone().render([Message("user", "why does the lock hold")], add_generation_prompt=True)
WEIGHTS = st.tuples(st.floats(0, 2), st.floats(0, 2)).filter(any)


def rows():
    return [make_exchange(number, 2 + 7 * number) for number in range(4)]


@settings(max_examples=8, deadline=None)
@given(weights=WEIGHTS, stride=st.integers(1, 9))
def test_blocks_are_the_weighted_sum_of_the_voices(weights, stride) -> None:
    panel = two_voices(tiny_backbone(), weights)
    apart = [list(voice.stage.read_blocks(rows(), stride=stride)) for voice in panel.voices]
    for found, one, two in zip(panel.read_blocks(iter(rows()), stride=stride), *apart, strict=True):
        expected = [
            weights[0] * (a - 0.3) / 1.7 + weights[1] * (b + 0.2) / 0.4
            for a, b in zip(one.logits, two.logits, strict=True)
        ]
        assert found.logits == pytest.approx(expected)
        assert (found.number, found.exchange, found.ends) == (one.number, one.exchange, one.ends)
        assert (found.tokens, found.flops) == (one.tokens, one.flops)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(weights=WEIGHTS, stride=st.integers(1, 9), escalate=st.sampled_from([-math.inf, 0.0]))
def test_files_and_streams_agree(weights, stride, escalate) -> None:
    backbone = tiny_backbone()
    panel = two_voices(backbone, weights)
    stages = Stages(
        random_head(backbone),
        Thresholds(9.0, min_tokens=4),
        Cascade(escalate, math.inf, 0.0, stride=stride),
        panel,
    )
    data = rows()
    expected = list(panel.read_blocks(data, stride=stride))
    for row, (found,), blocks in zip(data, score_exchanges(backbone, [stages], data), expected, strict=True):
        for block, logit in zip(found.blocks, blocks.logits, strict=True):
            assert math.isnan(block.classifier) or block.classifier == pytest.approx(logit, abs=1e-3)
        asked = sum(not math.isnan(block.classifier) for block in found.blocks)
        assert (found.tokens_stage2 > 0) == (found.flops_stage2 > 0) == (asked > 0)
        chat = backbone.render(row.messages)
        with GuardStream(backbone, stages, row.messages[:-1], 500) as stream:
            for token in chat.token_ids[chat.answer_start : chat.answer_end]:
                stream.push(token)
            stream.finish()
        near = any(abs(block.probe - escalate) < 1e-2 for block in found.blocks)
        assert near or stream._state.mixed_max == pytest.approx(found.mixed_max, abs=1e-3)


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0)])
def test_a_panel_with_one_weight_is_that_voice(weights) -> None:
    backbone = tiny_backbone()
    stages = ClassifierStage(random_classifier(backbone)), TextStage(random_text(), backbone)
    voices = [Voice(str(i), stage, weight=weights[i]) for i, stage in enumerate(stages)]
    alone = stages[weights.index(1.0)]
    for one, other in zip(
        Panel(tuple(voices)).read_blocks(rows(), stride=3), alone.read_blocks(rows(), stride=3), strict=True
    ):
        assert one.logits == other.logits


@given(
    logits=st.tuples(st.floats(), st.floats()),
    weights=WEIGHTS,
)
def test_a_voice_that_fails_flags_whatever_its_weight(logits, weights) -> None:
    voices = tuple(
        Voice(str(index), Fixed(logit), weight=weight)
        for index, (logit, weight) in enumerate(zip(logits, weights, strict=True))
    )
    source = Panel(voices).open_verdicts(0)
    (found,) = source.judge([(source.open(CHAT, 100), [])])
    if all(map(math.isfinite, logits)):
        assert found == pytest.approx(weights[0] * logits[0] + weights[1] * logits[1], nan_ok=True)
    else:
        assert found == math.inf
    (blocks,) = Panel(voices).read_blocks(rows()[:1], stride=8)
    assert blocks.logits == [found] or math.isnan(found)


# Memory and faults


@dataclass
class Fixed:
    """A voice that gives one logit, notes what is open, and fails where it is told to."""

    logit: float = 0.0
    own_cost: int = 0
    fails: str = ""
    open: list = field(default_factory=list)

    def _fail(self, where):
        if self.fails == where:
            raise PoolFull("full") if where == "session" else RuntimeError(where)

    def open_verdicts(self, kv_tokens):
        self._fail("source")
        self.open.append(source := FixedSource(self))
        return source

    def read_blocks(self, exchanges, *, stride):
        for number, exchange in enumerate(exchanges):
            yield BlockScores(number, exchange, [0], [self.logit], 3, 5.0, 0.5)


@dataclass(eq=False)
class FixedSource:
    voice: Fixed
    reads_in_pieces: bool = True

    def open(self, chat, capacity):
        self.voice._fail("session")
        self.voice.open.append(session := FixedSession(self.voice))
        return session

    def judge(self, asks):
        self.voice._fail("judge")
        return [self.voice.logit for _ in asks]

    def flops(self, session, cost):
        return 2.0 * cost

    def close(self):
        self.voice.open.remove(self)
        self.voice._fail("close")


@dataclass(eq=False)
class FixedSession:
    voice: Fixed
    length: int = 7

    def cost(self, new_tokens):
        return self.voice.own_cost + new_tokens

    def close(self):
        self.voice.open.remove(self)
        self.voice._fail("close")


def panel_of(*stages) -> Panel:
    return Panel(tuple(Voice(f"voice {index}", stage) for index, stage in enumerate(stages)))


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_what_was_opened_is_closed_if_another_voice_can_not_be(failing) -> None:
    stages = [Fixed(), Fixed(), Fixed()]
    source = panel_of(*stages).open_verdicts(0)
    stages[failing].fails = "session"
    with pytest.raises(PoolFull):
        source.open(CHAT, 100)
    assert [len(stage.open) for stage in stages] == [1, 1, 1]
    source.close()
    stages[failing].fails = "source"
    with pytest.raises(RuntimeError, match="source"):
        panel_of(*stages).open_verdicts(0)
    assert not any(stage.open for stage in stages)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_all_voices_are_closed_even_if_one_fails_at_it(failing) -> None:
    stages = [Fixed(), Fixed(), Fixed()]
    source = panel_of(*stages).open_verdicts(0)
    session = source.open(CHAT, 100)
    stages[failing].fails = "close"
    for part in (session, source):
        with pytest.raises(RuntimeError, match="close"):
            part.close()
    assert not any(stage.open for stage in stages)


def test_costs_are_those_of_all_voices() -> None:
    source = panel_of(Fixed(own_cost=3), Fixed(own_cost=11)).open_verdicts(0)
    session = source.open(CHAT, 100)
    assert (session.length, session.cost(2)) == (7, 18)
    source.judge([(session, [5, 6])])
    assert source.flops(session, 18) == 2.0 * (5 + 13)


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_prompts_are_read_in_pieces_if_every_voice_can(first, second) -> None:
    source = panel_of(Fixed(), Fixed()).open_verdicts(0)
    for part, can in zip(source._sources, (first, second), strict=True):
        part.reads_in_pieces = can
    assert source.reads_in_pieces == (first and second)


def test_a_panel_that_makes_no_sense_is_refused() -> None:
    for numbers in (
        {"std": 0.0},
        {"std": math.nan},
        {"mean": math.inf},
        {"weight": -1.0},
        {"weight": math.nan},
    ):
        with pytest.raises(ConfigError, match="voice text"):
            Voice("text", TokenJudge(), **numbers)
    with pytest.raises(ConfigError, match="weight above 0"):
        Panel((Voice("text", TokenJudge(), weight=0.0),))
    with pytest.raises(ConfigError, match="weight above 0"):
        Panel(())
    with pytest.raises(ConfigError, match="same name"):
        Panel((Voice("text", TokenJudge()), Voice("text", TokenJudge())))
    other = Fixed()
    other.read_blocks = lambda exchanges, stride: [
        BlockScores(0, row, [0, 1], [0.0, 0.0], 0, 0.0, 0.0) for row in exchanges
    ]
    with pytest.raises(ConfigError, match="different blocks"):
        list(panel_of(Fixed(), other).read_blocks(rows()[:1], stride=8))
