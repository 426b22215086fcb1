"""The exchange classifier's verdicts, files and refusals."""

import copy
import math

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import TOLERANCE, VERDICT_WORDS, fresh, planted, random_classifier, tiny_classifier
from models import tiny_backbone, tiny_model, tokenizer_for

from lockgate.backbones import Backbone, Feed, RenderedChat, SessionPool
from lockgate.classifiers import ExchangeClassifier, block_ends, judge, make_wrapper, score_blocks
from lockgate.errors import (
    BackboneError,
    BackboneMismatch,
    ConfigError,
    ContextOverflow,
    ExchangeError,
    GuardError,
)
from lockgate.exchanges import Exchange, Message

ARCHITECTURES = ("llama", "qwen2_sliding", "gemma2")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("head", ["verdict", "value"])
@settings(max_examples=4, deadline=None)
@given(
    turns=st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.booleans()), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_verdicts_do_not_depend_on_chunks_mates_or_earlier_verdicts(architecture, head, turns) -> None:
    """Each turn asks some sessions in one step: which, after how many tokens more, told before or with it."""
    classifier = tiny_classifier(architecture, head)
    chats = [classifier.render(planted(i, i % 2, 6 + i).messages) for i in range(3)]
    with classifier.pool(2000) as pool:
        sessions = [classifier.open(pool, chat, chat.answer_end) for chat in chats]
        for turn in [*turns, [(n, 99, False) for n in range(3)]]:
            requests = {}
            for n, step, told in turn:
                new = chats[n].token_ids[sessions[n].length : chats[n].answer_end][:step]
                if n in requests:
                    continue
                if told:
                    sessions[n].extend(new)
                requests[n] = (sessions[n], [] if told else new)
            for n, verdict in zip(requests, judge(pool, list(requests.values())), strict=True):
                expected = fresh(classifier, chats[n].token_ids[: sessions[n].length], chats[n].answer_start)
                assert verdict == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE)
        assert [session.length for session in sessions] == [chat.answer_end for chat in chats]
        for session in sessions:
            session.close()
        assert pool.kv_used_tokens == 0


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("reads", ["exchange", "prompt", "answer"])
@pytest.mark.parametrize("head", ["verdict", "value"])
def test_blocks_of_whole_exchanges(architecture, reads, head) -> None:
    classifier = tiny_classifier(architecture, head, reads)
    rows = [planted(i, i % 2, 4 + 3 * i) for i in range(7)]
    rows.insert(2, Exchange((Message("user", "only a prompt"),)))
    rows.insert(3, Exchange((Message("user", "and an"), Message("assistant", ""))))
    found = list(score_blocks(classifier, iter(rows), stride=4, first_number=5))
    assert [scores.number for scores in found] == list(range(5, 14))
    for scores, row in zip(found, rows, strict=True):
        chat = classifier.render(row.messages)
        assert scores.ends == block_ends(chat.answer_end - chat.answer_start, 4)
        for end, logit in zip(scores.ends, scores.logits, strict=True):
            expected = fresh(classifier, chat.token_ids[: chat.answer_start + end], chat.answer_start)
            assert logit == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE)
        read = chat.answer_end + len(scores.ends) * classifier.tokens_per_verdict
        assert scores.tokens == read - min(chat.prefix_length, chat.answer_start)
        assert scores.flops > 0
        assert scores.cpu_s >= 0
    if reads == "prompt":
        assert all(scores.ends == [0] for scores in found)


def test_what_each_kind_reads() -> None:
    row = planted(1, 1)
    other = Exchange((Message("user", "something else"), row.messages[-1]))
    texts = {
        reads: [
            tiny_backbone().decode(tiny_classifier(reads=reads).render(r.messages).token_ids)
            for r in (row, other)
        ]
        for reads in ("exchange", "prompt", "answer")
    }
    question, answer = (message.content for message in row.messages)
    assert question in texts["exchange"][0]
    assert answer in texts["exchange"][0]
    assert answer not in texts["prompt"][0]
    assert question in texts["prompt"][0]
    assert texts["answer"][0] == texts["answer"][1]
    assert answer in texts["answer"][0]


def test_block_ends() -> None:
    assert block_ends(0) == [0]
    assert block_ends(8) == [0, 8]
    assert block_ends(17) == [0, 8, 16, 17]
    assert block_ends(2, 1) == [0, 1, 2]


@pytest.mark.parametrize("head", ["verdict", "value"])
def test_beyond_the_context_a_verdict_depends_on_the_cut_alone(head) -> None:
    base = Backbone(tiny_model(), tokenizer_for("llama"), name="short")
    base.context_length = 48
    classifier = random_classifier(base, head=head)
    row = planted(3, 1, 40)
    chat = classifier.render(row.messages)
    assert chat.answer_end > 70
    found = next(score_blocks(classifier, [row], stride=4))
    for end, logit in zip(found.ends, found.logits, strict=True):
        with classifier.pool(100) as pool:
            session = classifier.open(pool, chat, chat.answer_end)
            start = chat.answer_start
            alone = judge(pool, [(session, chat.token_ids[start : start + end])])[0]
            assert logit == pytest.approx(alone, abs=TOLERANCE, rel=TOLERANCE)
    assert found.tokens < 3 * (chat.answer_end + len(found.ends) * classifier.tokens_per_verdict)


class Numberless(ExchangeClassifier):
    number = math.nan

    def verdict_logits(self, hidden):
        return super().verdict_logits(hidden) * 0 + self.number


@pytest.mark.parametrize("number", [math.nan, -math.inf, math.inf])
def test_a_verdict_that_is_no_number_is_the_highest(number) -> None:
    good = tiny_classifier()
    bad = Numberless(good.base, good.record, good.tensors)
    bad.number = number
    assert set(next(score_blocks(bad, [planted(1, 1)])).logits) == {math.inf}


def test_the_base_is_left_as_it_is() -> None:
    base = Backbone(tiny_model("qwen2"), tokenizer_for("qwen2"), name="base")
    ids = list(range(3, 30))
    state = copy.deepcopy(base.model.state_dict())
    identity = base.identity.to_dict()
    classifier = random_classifier(base)
    next(score_blocks(classifier, [planted(1, 1)]))
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(tensor, state[name])
    with SessionPool(base, 50) as pool:
        after = pool.step([Feed(pool.open(50), ids, True)])[0]
    again = Backbone(tiny_model("qwen2"), tokenizer_for("qwen2"), name="base")
    with SessionPool(again, 50) as pool:
        torch.testing.assert_close(pool.step([Feed(pool.open(50), ids, True)])[0], after)
    assert again.identity.to_dict() == identity


@pytest.mark.parametrize("head", ["verdict", "value"])
@pytest.mark.parametrize("depth", [None, 2])
def test_saved_and_loaded_it_gives_the_same_scores(tmp_path, head, depth) -> None:
    base = tiny_backbone("qwen3")
    classifier = random_classifier(base, head=head, depth=depth, layers=1)
    classifier.save(tmp_path / "c")
    classifier.save(tmp_path / "c")
    loaded = ExchangeClassifier.load(tmp_path / "c", base)
    rows = [planted(i, i % 2) for i in range(4)]
    assert loaded.sha256 == classifier.sha256
    assert loaded.record == classifier.record
    for found, expected in zip(score_blocks(loaded, rows), score_blocks(classifier, rows), strict=True):
        assert found.logits == pytest.approx(expected.logits, abs=1e-5, rel=1e-5)
    other = random_classifier(base, head=head, depth=depth, layers=1, seed=1)
    assert other.sha256 != classifier.sha256
    assert loaded.backbone.n_layers == (depth or 3)


def test_peft_reads_the_folder(tmp_path) -> None:
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    base = tiny_backbone("qwen2")
    classifier = random_classifier(base)
    classifier.save(tmp_path / "c")
    model = copy.deepcopy(base.model)
    inject_adapter_in_model(LoraConfig.from_pretrained(tmp_path / "c"), model)
    odd = set_peft_model_state_dict(model, load_file(tmp_path / "c" / "adapter_model.safetensors"))
    assert not odd.unexpected_keys
    plain = Backbone(model, base.tokenizer, name="adapted")
    row = [*classifier.render(planted(1, 1).messages).token_ids, *classifier.suffix]
    yes, no = (base.chat.encode_text(word)[0] for word in VERDICT_WORDS)
    with SessionPool(plain, len(row)) as pool:
        logits = pool.step([Feed(pool.open(len(row)), row, True)])[0]
    assert (logits[yes] - logits[no]).item() == pytest.approx(
        fresh(classifier, row[: -len(classifier.suffix)], 1), rel=1e-3, abs=1e-3
    )


@pytest.mark.parametrize(
    "name", ["classifier.yaml", "adapter_config.json", "adapter_model.safetensors", "value_head.safetensors"]
)
def test_a_damaged_folder_is_named(tmp_path, name) -> None:
    base = tiny_backbone()
    random_classifier(base, head="value").save(tmp_path / "c")
    path = tmp_path / "c" / name
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], b"", None):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(GuardError, match="c"):
            ExchangeClassifier.load(tmp_path / "c", base)
        path.write_bytes(whole)
    ExchangeClassifier.load(tmp_path / "c", base)


def test_only_a_classifier_is_replaced(tmp_path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("text")
    with pytest.raises(GuardError, match="is no classifier"):
        tiny_classifier().save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_another_backbone_is_refused(tmp_path) -> None:
    tiny_classifier().save(tmp_path / "c")
    with pytest.raises(BackboneMismatch, match="differs in"):
        ExchangeClassifier.load(tmp_path / "c", tiny_backbone("qwen2"))
    with pytest.raises(BackboneMismatch, match="tensors_sha256"):
        ExchangeClassifier.load(tmp_path / "c", tiny_backbone(seed=1))


def test_records_from_elsewhere(tmp_path) -> None:
    tiny_classifier().save(tmp_path / "c")
    path = tmp_path / "c" / "classifier.yaml"
    content = yaml.safe_load(path.read_text())
    for change in ({"reads": "mind"}, {"surprise": 1}, {"adapter": {**content["adapter"], "rank": 0}}):
        path.write_text(yaml.safe_dump({**content, **change}))
        with pytest.raises(GuardError, match=next(iter(change))):
            ExchangeClassifier.load(tmp_path / "c", tiny_backbone())


def test_verdict_words_must_be_single_and_distinct() -> None:
    backbone = tiny_backbone()
    with pytest.raises(ConfigError, match=r"' yes' is . tokens"):
        make_wrapper(backbone)
    with pytest.raises(ConfigError, match="same token"):
        make_wrapper(backbone, words=("y", "y"))
    with pytest.raises(ConfigError, match="is 0 tokens"):
        make_wrapper(backbone, words=("y", ""))
    for control in ("<|im_end|>", "<|im_start|>"):
        with pytest.raises(ConfigError, match="expected one"):
            make_wrapper(backbone, words=("y", control))
    wrapper = make_wrapper(backbone, words=VERDICT_WORDS)
    assert backbone.tokenizer.decode(wrapper.suffix) == "<|im_end|>\nHarm:"


def test_steps_that_are_refused_read_nothing() -> None:
    classifier = tiny_classifier()
    chat = classifier.render(planted(1, 1).messages)
    with classifier.pool(500) as pool, classifier.pool(500) as elsewhere:
        first, second = (classifier.open(pool, chat, chat.answer_start + 3) for _ in range(2))
        foreign = classifier.open(elsewhere, chat, 100)
        assert judge(pool, []) == []
        with pytest.raises(BackboneError, match="asked twice"):
            judge(pool, [(first, [5]), (first, [6])])
        with pytest.raises(BackboneError, match="of its pool"):
            judge(pool, [(first, [5]), (foreign, [6])])
        with pytest.raises(ContextOverflow, match="do not fit"):
            judge(pool, [(first, [5]), (second, [6] * 4)])
        assert first.length == second.length == chat.answer_start
        second.close()
        with pytest.raises(BackboneError, match="open"):
            judge(pool, [(second, [5])])
        ids = [*chat.token_ids[: chat.answer_start], 5]
        assert judge(pool, [(first, [5])])[0] == pytest.approx(fresh(classifier, ids, 1), abs=1e-4, rel=1e-4)
        with pytest.raises(ContextOverflow, match="prompt has"):
            classifier.open(pool, chat, 2)
        with pytest.raises(BackboneError, match="pool of its own"):
            classifier.open(SessionPool(tiny_backbone(), 99), chat, 99)


def test_a_prompt_longer_than_a_step_is_read_in_pieces() -> None:
    base = Backbone(tiny_model(), tokenizer_for("llama"), name="long")
    base.context_length = 1600
    for head in ("verdict", "value"):
        classifier = random_classifier(base, head=head)
        ids = [(7 * k) % base.vocab_size for k in range(1300)]
        for start in (2, 1250):
            chat = RenderedChat(ids, 3, [], 3, start, len(ids))
            with classifier.pool(1600) as pool:
                found = judge(pool, [(classifier.open(pool, chat, 1300), ids[start:])])[0]
            expected = fresh(classifier, ids, start)
            assert found == pytest.approx(expected, abs=1e-3, rel=1e-3)


def test_what_cannot_be_rendered_is_named_without_its_text() -> None:
    bad = Exchange((Message("assistant", "secret"), Message("system", "secret")))
    with pytest.raises(ExchangeError, match=f"exchange 1 .{bad.id}") as caught:
        list(score_blocks(tiny_classifier("gemma2"), [planted(1, 0), bad]))
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="stride"):
        next(score_blocks(tiny_classifier(), [], stride=0))
