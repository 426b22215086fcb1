"""Templates that write more than turns: files and served streams get the same tokens on any date."""

import datetime as real
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import CHATML, save_tiny, tiny_model
from odd_templates import DATED, LATE_SYSTEM, TEMPLATES, tokenizer_with
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from lockgate.backbones import Backbone
from lockgate.backbones._chat import ChatRenderer
from lockgate.backbones._selftest import self_test
from lockgate.backbones._templates import FIXED_DATE
from lockgate.errors import BackboneError
from lockgate.exchanges import Message


@pytest.fixture(scope="module", params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return tokenizer_with(TEMPLATES[request.param])


@pytest.fixture(scope="module")
def renderer(tokenizer) -> ChatRenderer:
    return ChatRenderer(tokenizer)


WORDS = st.text("ab <|>/thinkq\n", max_size=12)


@given(
    texts=st.lists(WORDS, min_size=1, max_size=3),
    answer=WORDS,
    system=st.none() | WORDS,
)
def test_an_answer_is_read_behind_the_tokens_of_its_request(
    renderer, tokenizer, texts, answer, system
) -> None:
    turns = [] if system is None else [Message("system", system)]
    for number, text in enumerate(texts):
        turns += [Message("assistant", "so")] if number else []
        turns += [Message("user", text)]
    request = renderer.render(turns, add_generation_prompt=True)
    whole = renderer.render([*turns, Message("assistant", answer, name="Ada")])
    assert whole.token_ids[: whole.answer_start] == request.token_ids
    assert (whole.prefix_length, whole.prompt_start) == (request.prefix_length, request.prompt_start)
    assert tokenizer.decode(whole.token_ids[whole.answer_start : whole.answer_end]) == answer
    assert set(whole.token_ids[whole.answer_end :]) & renderer.end_of_turn_ids
    for chat, messages in ((request, turns), (whole, [*turns, Message("assistant", answer)])):
        assert [span.turn for span in chat.spans] == list(range(len(messages)))
        for span in chat.spans:
            assert tokenizer.decode(chat.token_ids[span.start : span.end]) == messages[span.turn].content
    newest = request.spans[-1]
    assert request.prompt_start == newest.start


def test_a_system_text_in_the_last_turn_is_no_prompt() -> None:
    renderer = ChatRenderer(tokenizer_with(LATE_SYSTEM))
    turns = [
        Message("system", "be brief"),
        Message("user", "why"),
        Message("assistant", "so"),
        Message("user", "and then"),
    ]
    chat = renderer.render(turns, add_generation_prompt=True)
    system, first, _, last = chat.spans
    assert first.end < system.start < system.end < last.start == chat.prompt_start
    assert chat.prefix_length == first.start


@pytest.mark.parametrize("template", [DATED, DATED.replace("strftime_now", "(strftime_now)")])
def test_the_clock_moves_no_token(template, monkeypatch) -> None:
    tokenizer = tokenizer_with(template)
    turns = [Message("user", "why"), Message("assistant", "so")]

    def rendered_in(year: int) -> list[int]:
        class Clock(real.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(year, 5, 4)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        return ChatRenderer(tokenizer).render(turns).token_ids

    assert rendered_in(2031) == rendered_in(2047)
    assert FIXED_DATE.strftime("It is %d %B %Y") in tokenizer.decode(rendered_in(2031))


def test_only_a_template_that_asks_for_the_date_has_it_in_its_identity() -> None:
    model = tiny_model("llama")
    dated, plain = (
        Backbone(model, tokenizer_with(template), name="t").identity.hashes for template in (DATED, CHATML)
    )
    assert dated["template_date"] == FIXED_DATE.isoformat()
    assert "template_date" not in plain


@pytest.mark.parametrize(
    ("added", "named"),
    [
        ("{{ ['a', 'b'] | random }}", "`random`"),
        ("{{ [['a', 'b']] | map('random') | first }}", "`random`"),
        ("{% if false %}{{ lipsum(1) }}{% endif %}", r"lipsum\(\)"),
    ],
)
def test_a_template_that_draws_lots_is_refused(added, named) -> None:
    with pytest.raises(BackboneError, match=named):
        ChatRenderer(tokenizer_with(added + CHATML))


def test_broken_jinja_is_an_error() -> None:
    with pytest.raises(BackboneError, match="not valid Jinja"):
        ChatRenderer(tokenizer_with("{% for m in messages %}{{ m.content }}"))


def test_the_self_test_finds_a_template_whose_text_moves(monkeypatch) -> None:
    tokenizer = tokenizer_with(CHATML)
    renderer = ChatRenderer(tokenizer)
    assert all(check.ok for check in self_test(renderer, tokenizer))
    plain, count = renderer.template.render, iter(range(1000))

    def moving(turns, *, add_generation_prompt):
        return f"{next(count)}{plain(turns, add_generation_prompt=add_generation_prompt)}"

    monkeypatch.setattr(renderer.template, "render", moving)
    failed = {check.name for check in self_test(renderer, tokenizer) if not check.ok}
    assert {"two renderings are equal", "served and scored tokens agree"} <= failed


def test_named_templates_use_the_default(tmp_path) -> None:
    save_tiny("llama", tmp_path)
    expected = Backbone.load(tmp_path).identity
    template = (tmp_path / "chat_template.jinja").read_text()
    more = tmp_path / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("tools only")
    assert Backbone.load(tmp_path).identity == expected
    # The default in the configuration, where templates in files would hide it.
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    assert Backbone.load(tmp_path).identity == expected


def test_named_templates_without_a_default_are_named() -> None:
    tokenizer = tokenizer_with(CHATML)
    tokenizer.chat_template = {"tool_use": CHATML, "rag": CHATML}
    with pytest.raises(BackboneError, match=r"called default \(there are rag, tool_use\)"):
        ChatRenderer(tokenizer)
