"""Verdicts from the base's activations are those of the whole classifier."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import TOLERANCE, fresh, planted, random_classifier, tiny_classifier
from models import tiny_backbone

from lockgate.backbones import Feed, RenderedChat, SessionPool
from lockgate.errors import BackboneError, ContextOverflow
from recipes.reproduce_ccpp.shared_reader import SharedReader

ARCHITECTURES = ("llama", "qwen2_sliding", "qwen3", "gemma", "gemma2", "gemma3")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("head", ["verdict", "value"])
@settings(max_examples=2, deadline=None)
@given(
    cuts=st.lists(st.sets(st.integers(1, 30), max_size=4), min_size=2, max_size=2),
    quiet=st.sets(st.integers(0, 9), max_size=4),
)
def test_the_same_verdicts(architecture, head, cuts, quiet) -> None:
    classifier = tiny_classifier(architecture, head)
    base = tiny_backbone(architecture)
    reader = SharedReader(classifier)
    chats = [classifier.render(planted(i, i % 2, 6).messages) for i in range(2)]
    plans = []
    for chat, chosen in zip(chats, cuts, strict=True):
        inside = (chat.prefix_length + cut for cut in chosen)
        edges = [chat.prefix_length, *sorted(e for e in inside if e < chat.answer_end), chat.answer_end]
        plans.append(list(itertools.pairwise(edges)))
    room = len(classifier.suffix)
    with SessionPool(base, 1000) as below, reader.pool(1000) as own:
        sessions = []
        for chat in chats:
            prefix = chat.token_ids[: chat.prefix_length]
            held = below.open(chat.answer_end + room, prefix=prefix)
            sessions.append(reader.open(own, held, chat, chat.answer_end))
        for number, turn in enumerate(itertools.zip_longest(*plans)):
            feeds = [
                (n, chats[n].token_ids[part[0] : part[1]]) for n, part in enumerate(turn) if part is not None
            ]
            below.step([Feed(sessions[n].base, ids) for n, ids in feeds], reader.tap)
            hidden = iter(reader.tap.hidden.split([len(ids) for _, ids in feeds]))
            for n, ids in feeds:
                sessions[n].extend(ids, next(hidden))
            # A value head has nothing to say of a prompt that is not yet whole.
            asked = [
                n
                for n, _ in feeds
                if number not in quiet and (classifier.suffix or sessions[n].length >= chats[n].answer_start)
            ]
            for n, verdict in zip(asked, reader.judge(own, [sessions[n] for n in asked]), strict=True):
                ids = chats[n].token_ids[: sessions[n].length]
                assert verdict == pytest.approx(
                    fresh(classifier, ids, chats[n].answer_start), abs=TOLERANCE, rel=TOLERANCE
                )
        for session in sessions:
            session.close()
        assert own.kv_used_tokens == 0


def test_what_cannot_be_shared() -> None:
    with pytest.raises(BackboneError, match="nothing to share"):
        SharedReader(random_classifier(tiny_backbone(), layers=3))


def test_sessions_that_do_not_go_together() -> None:
    classifier, base = tiny_classifier(), tiny_backbone()
    reader = SharedReader(classifier)
    ids = [5, 6, 7]
    chat = RenderedChat(ids, 0, [], 0, 3, 3)
    with SessionPool(base, 100) as below, reader.pool(100) as own:
        tight = below.open(3)
        session = reader.open(own, tight, chat, 3)
        with pytest.raises(BackboneError, match="different tokens"):
            reader.judge(own, [session])
        below.step([Feed(tight, ids)], reader.tap)
        with pytest.raises(BackboneError, match="different tokens"):
            reader.judge(own, [session])
        with pytest.raises(BackboneError, match="expected one each"):
            session.extend(ids, reader.tap.hidden[:2])
        session.extend(ids, reader.tap.hidden)
        with pytest.raises(ContextOverflow, match="room for"):
            reader.judge(own, [session])
        with pytest.raises(BackboneError, match="open both together"):
            reader.open(own, tight, chat, 3)


def test_the_cost_is_that_of_the_top_blocks_and_the_suffixes() -> None:
    classifier = tiny_classifier()
    reader = SharedReader(classifier)
    whole = classifier.flops(100, 0)
    assert reader.flops(100, 0, 0) == pytest.approx(whole * 2 / 3)
    assert reader.flops(100, 0, 2) - reader.flops(100, 0, 1) == classifier.flops(
        classifier.tokens_per_verdict, 100
    )
