"""Tokenizers with state, and added tokens that are not control tokens."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import CHATML, save_tiny, tiny_backbone, tiny_tokenizer, train_tokenizer
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lockgate.backbones import Backbone, banned_ids
from lockgate.backbones._chat import ChatRenderer
from lockgate.backbones.generation import generate_answers
from lockgate.errors import BackboneError
from lockgate.exchanges import Message

ROLE_TOKENS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TURNS = [Message("user", "the lock holds " * 30), Message("assistant", "the water back " * 30)]


def added(*contents: str, template: str = CHATML) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with ordinary added tokens."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = train_tokenizer(special, {"eos_token": "<|im_end|>"}, template)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in contents])
    return tokenizer


def change_tokenizer(path, **changes) -> None:
    file = path / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


TRUNCATION = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 64},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 2,
    "pad_type_id": 0,
    "pad_token": "<|im_end|>",
}


@pytest.mark.parametrize("change", [{"truncation": TRUNCATION}, {"padding": PADDING}])
def test_limits_in_the_tokenizers_file_have_no_effect(tmp_path, change) -> None:
    expected = Backbone.load(save_tiny("llama", tmp_path)).render(TURNS)
    change_tokenizer(tmp_path, **change)
    assert Backbone.load(tmp_path).render(TURNS) == expected


def test_limits_that_a_caller_left_behind_have_no_effect() -> None:
    tokenizer = added()
    renderer = ChatRenderer(tokenizer)
    expected = renderer.render(TURNS)
    tokenizer("the lock", truncation=True, max_length=1)
    assert renderer.render(TURNS) == expected
    assert ChatRenderer(tokenizer).render(TURNS) == expected


def test_dropped_merges_have_no_effect(tmp_path) -> None:
    expected = Backbone.load(save_tiny("llama", tmp_path)).render(TURNS)
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    change_tokenizer(tmp_path, model={**model, "dropout": 0.9})
    loaded = Backbone.load(tmp_path)
    assert loaded.render(TURNS) == loaded.render(TURNS) == expected


def test_a_tokenizer_that_loses_text_is_refused(tmp_path) -> None:
    save_tiny("llama", tmp_path)
    change_tokenizer(tmp_path, normalizer={"type": "Lowercase"})
    with pytest.raises(BackboneError, match="self-test failed, texts are read whole"):
        Backbone.load(tmp_path)


CODE = "if x:\n        y\n\n    z </think> <table>"


def test_blanks_are_text_and_the_models_words_are_its_own() -> None:
    tokenizer = added("\n\n", "    ", "</think>", "<table>")
    renderer = ChatRenderer(tokenizer)
    blank = set(tokenizer.convert_tokens_to_ids(["\n\n", "    "]))
    words = set(tokenizer.convert_tokens_to_ids(["</think>", "<table>"]))
    assert not renderer.control_ids & (blank | words)
    asked = renderer.render([Message("user", CODE)], add_generation_prompt=True)
    assert blank <= set(asked.token_ids)
    assert not words & set(asked.token_ids)
    whole = renderer.render([Message("user", CODE), Message("assistant", CODE)])
    answer = whole.token_ids[whole.answer_start : whole.answer_end]
    # What the model would have written, token for token; the same words of a client are letters.
    assert answer == tokenizer.encode(CODE, add_special_tokens=False)
    assert whole.token_ids[: whole.answer_start] == asked.token_ids
    history = renderer.render([Message("user", "x"), Message("assistant", CODE), Message("user", "y")])
    assert not words & set(history.token_ids)


@given(st.text("a \n</think>", max_size=40))
def test_added_blanks_lose_no_text(text) -> None:
    tokenizer = blank_tokenizer
    renderer = blank_renderer
    rendered = renderer.render([Message("user", text), Message("assistant", text)])
    for span in rendered.spans:
        assert tokenizer.decode(rendered.token_ids[span.start : span.end]) == text


blank_tokenizer = added("\n\n", "  ", "    ", "</think>")
blank_tokenizer.add_tokens([AddedToken("\n", special=False, lstrip=True, rstrip=True)])
blank_renderer = ChatRenderer(blank_tokenizer)


def test_tokens_around_turns_are_control_tokens_special_or_not() -> None:
    names = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "</think>")
    tokenizer = added(*names, template=ROLE_TOKENS)
    renderer = ChatRenderer(tokenizer)
    marks = set(tokenizer.convert_tokens_to_ids(list(names[:4])))
    assert marks <= renderer.control_ids
    assert tokenizer.convert_tokens_to_ids("</think>") not in renderer.control_ids
    assert renderer.end_of_turn_ids == {tokenizer.convert_tokens_to_ids("<|end|>")}
    plain = renderer.render([Message("user", "x"), Message("assistant", "x")])
    for name in names[:4]:
        spelt = renderer.render([Message("user", name), Message("assistant", f"a{name}b")])
        count = [sum(token in marks for token in chat.token_ids) for chat in (plain, spelt)]
        assert count[0] == count[1]


def resized(path, tokenizer: PreTrainedTokenizerFast, rows: int | None) -> Backbone:
    save_tiny("llama", path)
    tokenizer.save_pretrained(path)
    if rows is not None:
        model = AutoModelForCausalLM.from_pretrained(str(path))
        model.resize_token_embeddings(rows)
        model.save_pretrained(path)
    return Backbone.load(path)


def test_the_model_may_write_blanks(tmp_path) -> None:
    tokenizer = added("    ", "</think>")
    backbone = resized(tmp_path, tokenizer, len(tokenizer))
    free = set(tokenizer.convert_tokens_to_ids(["    ", "</think>"]))
    assert not free & banned_ids(backbone.control_ids, backbone.eos_ids)
    # A head that prefers one of them above all writes it, and it is text.
    wanted = tokenizer.convert_tokens_to_ids("</think>")
    with torch.no_grad():
        backbone.model.get_output_embeddings().weight[wanted] = 0
        bias = torch.zeros(backbone.vocab_size)
        bias[wanted] = 1e4
    backbone.model.get_output_embeddings().bias = torch.nn.Parameter(bias)
    answers = generate_answers(backbone, [[Message("user", "why")]], max_tokens=3, temperature=0)
    assert dict(answers) == {0: "</think>" * 3}


def test_added_tokens_without_an_embedding_are_never_read_nor_written(tmp_path) -> None:
    backbone = resized(tmp_path, added("    ", "</think>", "<extra>"), None)
    text = "a    b </think> <extra>"
    chat = backbone.render([Message("user", text), Message("assistant", text)])
    assert max(chat.token_ids) < backbone.vocab_size
    assert backbone.decode(chat.token_ids[chat.answer_start : chat.answer_end]) == text
    answers = generate_answers(backbone, [[Message("user", text)]], max_tokens=4, temperature=0)
    assert [number for number, _ in answers] == [0]


def test_turns_without_an_embedding_are_refused_by_name(tmp_path) -> None:
    names = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
    with pytest.raises(BackboneError, match=r"every token has an embedding.*<\|user\|>.*387 rows"):
        resized(tmp_path, added(*names, template=ROLE_TOKENS), None)


def test_a_larger_vocabulary_than_the_model_is_refused(tmp_path) -> None:
    save_tiny("llama", tmp_path)
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    model["vocab"]["zzz"] = len(tiny_tokenizer()) + 3
    change_tokenizer(tmp_path, model=model)
    with pytest.raises(BackboneError, match="1 tokens from id 387 on"):
        Backbone.load(tmp_path)


def test_the_self_test_of_a_sound_backbone_passes() -> None:
    backbone = tiny_backbone()
    checks = backbone.self_test()
    assert len(checks) == 5
    assert all(check.ok for check in checks)
