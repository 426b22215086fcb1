"""The text baseline as a second stage: files, streams and whole blocks read the same text."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from voices import random_text

from lockgate.backbones import Detokeniser, RenderedChat
from lockgate.cascade import Cascade, Thresholds
from lockgate.classifiers import block_ends
from lockgate.errors import ConfigError, ContextOverflow, ExchangeError, GuardError
from lockgate.exchanges import Exchange, Message
from lockgate.guards import (
    Ask,
    Conversation,
    GuardStream,
    Stages,
    TextStage,
    VerdictScheduler,
    score_exchanges,
)

# Several bytes a character, so that blocks end within one, and words that grow across a block's end.
TEXTS = st.text(alphabet="ab é水門🚤 .Σ\n", max_size=40)
REQUESTS = st.lists(TEXTS, min_size=1, max_size=3).map(
    lambda texts: tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
)


def stage(architecture: str = "llama", excerpt: int = 0) -> TextStage:
    return TextStage(random_text(excerpt=excerpt), tiny_backbone(architecture))


def whole_text(backbone, token_ids) -> str:
    detokeniser = Detokeniser(backbone.decode)
    return "".join(detokeniser.push(token) for token in token_ids)


@settings(max_examples=40, deadline=None)
@given(
    request=REQUESTS.filter(lambda turns: turns[-1].role == "user"),
    answer=TEXTS,
    stride=st.integers(1, 9),
    architecture=st.sampled_from(["llama", "gemma2"]),
    excerpt=st.sampled_from([0, 4, 20]),
)
def test_files_streams_and_the_baseline_itself_agree(request, answer, stride, architecture, excerpt) -> None:
    second = stage(architecture, excerpt)
    backbone = second.backbone
    exchange = Exchange((*request, Message("assistant", answer)))
    (found,) = second.read_blocks([exchange], stride=stride)
    chat = backbone.render(exchange.messages)
    ids = chat.token_ids[chat.answer_start : chat.answer_end]
    assert found.ends == block_ends(len(ids), stride)
    assert (found.tokens, found.flops) == (0, 0.0)
    for end, logit in zip(found.ends, found.logits, strict=True):
        so_far = Exchange((*request, Message("assistant", whole_text(backbone, ids[:end]))))
        expected = second.baseline.decision_function([so_far])[0]
        assert logit == pytest.approx(expected, abs=1e-9)
    # The same bits in a stream that asks at every block, and in one that asks at some blocks.
    asked = backbone.render(request, add_generation_prompt=True)
    assert asked.request == chat.request == request
    for ends in (found.ends, found.ends[::2]):
        source = second.open_verdicts(0)
        session = source.open(asked, chat.answer_end)
        assert (session.length, session.cost(5)) == (asked.answer_start, 0)
        given_ = [source.judge([(session, ids[start:end])])[0] for start, end in pairwise([0, *ends])]
        assert given_ == [found.logits[found.ends.index(end)] for end in ends]
        assert session.length == asked.answer_start + ends[-1]
        assert source.flops(session, 0) == 0
        session.close()
        source.close()


@settings(max_examples=25, deadline=None)
@given(
    answer=TEXTS,
    escalate=st.sampled_from([-math.inf, 0.0, math.inf]),
    stride=st.integers(1, 9),
    flag_on=st.sampled_from(["answer", "both"]),
)
def test_a_guard_judges_by_text_in_files_and_streams(answer, escalate, stride, flag_on) -> None:
    second, backbone = stage(), tiny_backbone()
    cascade = Cascade(escalate, math.inf, 0.0, stride=stride)
    stages = Stages(random_head(backbone), Thresholds(9.0, min_tokens=4, flag_on=flag_on), cascade, second)
    row = Exchange((Message("user", "why does the 門 hold?"), Message("assistant", answer)))
    ((scored,),) = score_exchanges(backbone, [stages], [row])
    ((everything,),) = score_exchanges(backbone, [stages], [row], all_blocks=True)
    (blocks,) = second.read_blocks([row], stride=stride)
    assert [block.classifier for block in everything.blocks] == blocks.logits[: len(everything.blocks)]
    for asked, full in zip(scored.blocks, everything.blocks, strict=True):
        assert math.isnan(asked.classifier) or asked.classifier == full.classifier
    assert (scored.tokens_stage2, scored.flops_stage2) == (0, 0.0)
    chat = backbone.render(row.messages)
    with GuardStream(backbone, stages, row.messages[:-1], 500) as stream:
        for token in chat.token_ids[chat.answer_start : chat.answer_end]:
            stream.push(token)
        stream.finish()
    near = any(abs(block.probe - escalate) < 1e-2 for block in scored.blocks)
    assert stream.failure is None
    assert near or stream._state.mixed_max == scored.mixed_max


@settings(max_examples=25, deadline=None)
@given(request=REQUESTS, answer=TEXTS, piece=st.integers(1, 40), finished=st.booleans())
def test_a_prompt_in_pieces_changes_no_verdict(request, answer, piece, finished) -> None:
    second, backbone = stage(), tiny_backbone()
    ids = backbone.chat.encode_text(answer)
    chat = backbone.render(request, add_generation_prompt=True)
    if finished and request[-1].role == "user":
        chat = backbone.render((*request, Message("assistant", answer)))
    capacity = chat.answer_start + len(ids)
    verdicts = []
    for piece_tokens in (None, piece):
        conversation = Conversation(chat, capacity, ids)
        with VerdictScheduler(second.open_verdicts(0), piece_tokens=piece_tokens) as scheduler:
            ends = (chat.answer_start, chat.answer_start + len(ids) // 2, capacity)
            verdicts.append([scheduler.verdict_on(Ask(conversation, end)) for end in ends])
            assert scheduler.holds(conversation) == capacity
    assert verdicts[0] == verdicts[1]


def test_a_job_without_messages_is_read_by_its_tokens() -> None:
    second, backbone = stage(), tiny_backbone()
    ids = backbone.chat.encode_text("the 水門 holds")
    source = second.open_verdicts(0)
    session = source.open(RenderedChat(ids, 0, [], 0, len(ids), len(ids)), 100)
    texts = [Message("assistant", "and the boat")]
    # A role's line would stand before the request if there were a message.
    expected = random_text().decision_function([Exchange((Message("assistant", "and the boat"),))])[0]
    given_ = source.judge([(session, backbone.chat.encode_text("and the boat"))])[0]
    assert given_ != pytest.approx(expected)
    alone = source.open(RenderedChat([], 0, [], 0, 0, 0), 100)
    assert source.judge([(alone, backbone.chat.encode_text(texts[0].content))])[0] == pytest.approx(expected)


def test_too_many_tokens_and_other_bad_input_are_refused() -> None:
    source = stage().open_verdicts(0)
    chat = tiny_backbone().render([Message("user", "why")], add_generation_prompt=True)
    with pytest.raises(ContextOverflow, match="the session is for 2"):
        source.open(chat, 2)
    session = source.open(chat, chat.answer_start + 1)
    with pytest.raises(ContextOverflow, match="2 more do not fit"):
        source.judge([(session, [5, 6])])
    with pytest.raises(GuardError, match="reads prompts"):
        TextStage(random_text(view="prompt"), tiny_backbone())
    with pytest.raises(ConfigError, match="stride"):
        list(stage().read_blocks([], stride=0))
    rows = [
        Exchange((Message("user", "fine"),)),
        Exchange((Message("assistant", "private"), Message("user", "private"))),
    ]
    with pytest.raises(ExchangeError, match=r"exchange 1 \([0-9a-f]{16}\)") as caught:
        list(stage("gemma2").read_blocks(rows, stride=8))
    assert "private" not in str(caught.value)
