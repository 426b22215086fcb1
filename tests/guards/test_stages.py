"""`Stages` with one stage, with two, and with a second stage that is not a classifier."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from classifying import TokenJudge, tiny_classifier
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from parts import make_exchange, make_guard

from lockgate.backbones import Feed, SessionPool
from lockgate.cascade import Cascade, StreamState, Thresholds
from lockgate.classifiers import ProbeTap
from lockgate.errors import GuardError
from lockgate.exchanges import Exchange, Message
from lockgate.guards import (
    ClassifierStage,
    GuardStream,
    Stages,
    VerdictScheduler,
    regions_of,
    score_exchanges,
)

CASCADE = Cascade(-math.inf, 0.5, 0.0, stride=3)


@cache
def rows():
    return [make_exchange(number, 2 + 3 * number) for number in range(9)]


@torch.inference_mode()
def probe_logits(backbone, head, chat):
    """The head's logits of all scored tokens, by one full pass."""
    tap = ProbeTap([head], backbone.hidden_size)
    end = max(chat.answer_end, chat.prefix_length + 1)
    with SessionPool(backbone, end) as pool:
        pool.step([Feed(pool.open(end), chat.token_ids[:end])], tap)
    return tap.logits[chat.prefix_length :].double().numpy()


def test_a_second_stage_and_a_cascade_belong_together() -> None:
    head, thresholds = make_guard().head, Thresholds(0.5, tolerance=0.25)
    for half in ({"cascade": CASCADE}, {"second": TokenJudge()}):
        with pytest.raises(GuardError, match="needs both a classifier and a cascade"):
            Stages(head, thresholds, **half)
    one = Stages(head, thresholds)
    assert (one.count, one.alarm, one.tolerance, one.open_verdicts(100)) == (1, 0.5, 0.25, None)
    with pytest.raises(GuardError, match="one stage"):
        one.read_blocks([])
    cascade = Cascade(-1.0, 0.5, 0.5, tolerance=0.125)
    two = Stages(head, thresholds, cascade, TokenJudge())
    assert (two.count, two.alarm, two.tolerance) == (2, -1.0, 0.125)
    assert two.open_verdicts(100) is not None
    with pytest.raises(AttributeError):
        two.cascade = None


def test_what_a_guard_shows_of_its_stages() -> None:
    guard = make_guard()
    assert (guard.stages.count, guard.cascade, guard.classifier) == (1, None, None)
    assert guard.record.stages == 1
    assert guard.record.decides is guard.record.thresholds
    both = guard.with_cascade(tiny_classifier(), CASCADE)
    assert both.stages.second == ClassifierStage(tiny_classifier())
    assert (both.stages.cascade, both.classifier) == (CASCADE, tiny_classifier())
    assert both.record.stages == both.stages.count == 2
    assert both.record.decides is both.record.cascade
    assert (both.head, both.thresholds) == (guard.head, guard.thresholds)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 100),
    flag=st.floats(-3, 3),
    flag_on=st.sampled_from(["answer", "both"]),
    min_tokens=st.sampled_from([1, 16, 90]),
)
def test_without_a_second_stage_the_probe_decides_as_ever(seed, flag, flag_on, min_tokens) -> None:
    backbone = tiny_backbone()
    head, thresholds = random_head(backbone, seed), Thresholds(flag, min_tokens=min_tokens, flag_on=flag_on)
    data = [*rows()[:4], Exchange((Message("user", "a prompt alone"),))]
    for row, (found,) in zip(data, score_exchanges(backbone, [Stages(head, thresholds)], data), strict=True):
        chat = backbone.render(row.messages, add_generation_prompt=row.is_prompt_only)
        alone = StreamState(thresholds, head.gamma, regions_of(chat), head.category_ids)
        alone.consume(probe_logits(backbone, head, chat))
        alone.finish()
        scores = [found.max_prompt, found.max_answer, found.max_score]
        np.testing.assert_allclose(scores, [alone.max_prompt, alone.max_answer, alone.max_score], atol=1e-4)
        if abs(alone.max_score - flag) > 1e-3:
            assert (found.flagged, found.category) == (alone.flagged, alone.category)
        assert (found.stage, found.blocks, found.tokens_stage2) == (1, (), 0)
        assert found.mixed_max == found.max_score
        assert found.ranked == (found.max_prompt if found.max_score == -math.inf else found.max_score)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    escalate=st.sampled_from([-math.inf, -1.0, 0.0, 1.0, math.inf]),
    stride=st.integers(1, 9),
    flag_on=st.sampled_from(["answer", "both"]),
    numbers=st.lists(st.integers(0, 8), min_size=1, max_size=5),
)
def test_any_judge_can_be_the_second_stage_of_files_and_streams(escalate, stride, flag_on, numbers) -> None:
    """Its verdicts are those on the tokens up to each block's end, whoever asks for them."""
    backbone, judge = tiny_backbone(), TokenJudge()
    cascade = Cascade(escalate, math.inf, 0.0, stride=stride)
    stages = Stages(random_head(backbone), Thresholds(9.0, min_tokens=4, flag_on=flag_on), cascade, judge)
    data = [rows()[number] for number in numbers]
    for row, (found,) in zip(data, score_exchanges(backbone, [stages], data), strict=True):
        chat = backbone.render(row.messages)
        for block in found.blocks:
            if not math.isnan(block.classifier):
                read = chat.token_ids[: chat.answer_start + block.end]
                assert block.classifier == TokenJudge.opinion(read)
        given = [block.classifier for block in found.blocks if not math.isnan(block.classifier)]
        assert found.stage == (2 if given else 1)
        assert found.mixed_max == max(given, default=-math.inf)
        near = any(abs(block.probe - escalate) < 1e-2 for block in found.blocks)
        with GuardStream(backbone, stages, row.messages[:-1], 500) as stream:
            for token in chat.token_ids[chat.answer_start : chat.answer_end]:
                stream.push(token)
            stream.finish()
        assert near or stream._state.mixed_max == found.mixed_max
    assert judge.open_sessions == 0


def test_one_pass_scores_for_guards_of_one_and_of_two_stages() -> None:
    """Each says what it says alone: the reading does not depend on who judges."""
    backbone = tiny_backbone()
    one = Stages(random_head(backbone, 1), Thresholds(0.5))
    two = Stages(random_head(backbone, 2), Thresholds(0.5), CASCADE, ClassifierStage(tiny_classifier()))
    together = list(score_exchanges(backbone, [one, two], rows()))
    for index, stages in enumerate((one, two)):
        for found, (alone,) in zip(together, score_exchanges(backbone, [stages], rows()), strict=True):
            assert found[index].max_score == pytest.approx(alone.max_score, abs=1e-4)
            assert found[index].mixed_max == pytest.approx(alone.mixed_max, abs=1e-3)
            assert found[index].stage == alone.stage == index + 1
            assert found[index].tokens_stage2 == alone.tokens_stage2


def test_more_exchanges_than_a_group_come_out_in_order() -> None:
    """Calm ones leave at once, others when their group is judged; numbers go on across groups."""
    judge = TokenJudge()
    stages = Stages(random_head(tiny_backbone()), Thresholds(9.0), Cascade(0.0, math.inf, 0.0), judge)
    data = [make_exchange(number % 9, number % 5) for number in range(stages.group + 7)]
    found = [score for (score,) in score_exchanges(tiny_backbone(), [stages], data, first_number=3)]
    assert [score.number for score in found] == list(range(3, 3 + len(data)))
    assert {score.stage for score in found} == {1, 2}
    assert judge.open_sessions == 0


def test_files_and_streams_ask_the_one_scheduler(monkeypatch) -> None:
    def refuse(self, asks):
        if asks:
            raise RuntimeError("nobody judges here")
        return []

    monkeypatch.setattr(VerdictScheduler, "step", refuse)
    backbone = tiny_backbone()
    stages = Stages(random_head(backbone), Thresholds(9.0, min_tokens=1), CASCADE, TokenJudge())
    with pytest.raises(RuntimeError, match="nobody judges here"):
        list(score_exchanges(backbone, [stages], rows()[:1]))
    with GuardStream(backbone, stages, rows()[0].messages[:-1], 50) as stream:
        assert (stream.failure, stream.verdict.flagged, stream.released) == ("RuntimeError", True, 0)
