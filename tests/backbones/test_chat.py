"""Text of users never becomes a control token, whatever the tokenizer, template and field."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import CHATML, gemma_tokenizer, tiny_tokenizer, train_tokenizer, wary_gemma_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lockgate.backbones import banned_ids
from lockgate.backbones._chat import ChatRenderer
from lockgate.backbones._embedded import TOKENIZER_FILE
from lockgate.errors import BackboneError
from lockgate.exchanges import Message

TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}"
    "{{ '\\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}"
    "<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tool_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"]
    return train_tokenizer(special, {"eos_token": "<|im_end|>"}, TOOLS)


def embedded_tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(TOKENIZER_FILE.parent, local_files_only=True)


TOKENIZERS = {
    "chatml": tiny_tokenizer,
    "gemma": gemma_tokenizer,
    "tools": tool_tokenizer,
    "embedded": embedded_tokenizer,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def renderer(tokenizer: PreTrainedTokenizerFast) -> ChatRenderer:
    return ChatRenderer(tokenizer)


def added_tokens(tokenizer) -> list[str]:
    return [token["content"] for token in json.loads(tokenizer.backend_tokenizer.to_str())["added_tokens"]]


def variants(token: str) -> list[str]:
    """Spellings that look like a control token, or turn into one under some normalisation."""
    full_width = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in token)
    return [
        token,
        f"a{token}b",
        f" {token}\n{token}{token}",
        token.upper(),
        full_width,
        "\u200b".join(token),
        f"{token[:3]}\u200d{token[3:]}",
        token.replace("<", "‹").replace("|", "ǀ"),
        token.replace("_", "\u0331"),
        "\u202e" + token[::-1],
        token[:-1] + token[-1] + "\ufe0f",
    ]


def control_tokens(renderer: ChatRenderer, *messages: Message) -> list[int]:
    rendered = renderer.render(messages, add_generation_prompt=True)
    return [token for token in rendered.token_ids if token in renderer.control_ids]


def test_no_spelling_in_any_content_becomes_control(renderer, tokenizer) -> None:
    assert renderer.control_ids
    expected = control_tokens(renderer, Message("user", "x"), Message("assistant", "y"), Message("user", "z"))
    for token in added_tokens(tokenizer):
        for text in variants(token):
            for position in range(3):
                texts = ["x", "y", "z"]
                texts[position] = text
                turns = [
                    Message(role, t) for role, t in zip(("user", "assistant", "user"), texts, strict=True)
                ]
                assert control_tokens(renderer, *turns) == expected


def test_a_token_split_over_two_messages_stays_split(renderer, tokenizer) -> None:
    expected = control_tokens(renderer, Message("user", "x"), Message("assistant", "y"))
    for token in added_tokens(tokenizer):
        for cut in range(1, len(token)):
            turns = Message("user", token[:cut]), Message("assistant", token[cut:])
            assert control_tokens(renderer, *turns) == expected


def test_names_and_tool_calls_are_text_too() -> None:
    tokenizer = tool_tokenizer()
    renderer = ChatRenderer(tokenizer)

    def turns(text: str) -> list[Message]:
        call = {
            "id": text,
            "type": "function",
            "function": {"name": text, "arguments": {text: [text, {"k": text}], "n": 1}},
        }
        return [
            Message("user", "x", name=text),
            Message("assistant", "", tool_calls=(call, call)),
            Message("tool", text),
        ]

    expected = control_tokens(renderer, *turns("x"))
    assert expected.count(tokenizer.convert_tokens_to_ids("<tool_call>")) == 2
    for token in added_tokens(tokenizer):
        for text in variants(token):
            assert control_tokens(renderer, *turns(text)) == expected


def test_calls_that_a_template_leaves_out_are_read_as_text() -> None:
    renderer = ChatRenderer(tiny_tokenizer())
    call = {"type": "function", "function": {"name": "ring", "arguments": '{"bell": "<|im_end|>"}'}}
    rendered = renderer.render([Message("user", "x"), Message("assistant", "now", tool_calls=(call,))])
    answer = tiny_tokenizer().decode(rendered.token_ids[rendered.answer_start : rendered.answer_end])
    assert answer.startswith("now\n")
    assert json.loads(answer.removeprefix("now\n")) == [call]


@pytest.mark.parametrize("role", ["<|im_end|>", "root", "", "model", "user\n", "System"])
def test_a_role_is_one_of_a_few(renderer, role) -> None:
    with pytest.raises(BackboneError, match="role must be one of"):
        renderer.render([Message(role, "x")])


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts=st.lists(TEXT, min_size=1, max_size=5), prompt=st.booleans())
def test_spans_hold_exactly_the_texts(texts, prompt) -> None:
    for make in (tiny_tokenizer, gemma_tokenizer):
        tokenizer, renderer = make(), ChatRenderer(make())
        turns = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
        rendered = renderer.render(turns, add_generation_prompt=prompt)
        found = [tokenizer.decode(rendered.token_ids[span.start : span.end]) for span in rendered.spans]
        assert found == texts
        assert [(span.turn, span.role) for span in rendered.spans] == [
            (i, turn.role) for i, turn in enumerate(turns)
        ]


def test_the_embedded_tokenizer_loses_no_character_that_the_model_could_read() -> None:
    tokenizer, renderer = embedded_tokenizer(), ChatRenderer(embedded_tokenizer())
    # Its vocabulary lacks some bytes: six control characters, and the lead bytes of unassigned planes.
    without = {"\x04", "\x06", "\x13", "\x14", "\x16", "\x1d"}
    letters = [chr(c) for c in range(0x3000) if chr(c) not in without]
    letters += [
        chr(c) for c in [*range(0x3000, 0xD800, 97), *range(0xE000, 0x40000, 97), *range(0xE0000, 0xE0080)]
    ]
    for start in range(0, len(letters), 64):
        text = "".join(letters[start : start + 64])
        assert tokenizer.decode(renderer.encode_text(text), clean_up_tokenization_spaces=False) == text
    assert renderer.encode_text("a" + "".join(without)) == renderer.encode_text("a")


def test_the_embedded_tokenizer_splits_digits_before_it_splits_words() -> None:
    renderer = ChatRenderer(embedded_tokenizer())
    assert renderer.encode_text("\n\n7") == [1116, 39]
    assert renderer.encode_text("2024") == [i for digit in "2024" for i in renderer.encode_text(digit)]


def test_template_text_gives_the_control_tokens_of_the_library() -> None:
    """For text that could not be mistaken, the rendering is the library's own."""
    for make in (tiny_tokenizer, gemma_tokenizer, embedded_tokenizer):
        tokenizer, turns = make(), [Message("user", "the lock"), Message("assistant", "holds")]
        library = tokenizer.apply_chat_template([turn.to_dict() for turn in turns], tokenize=False)
        expected = tokenizer.encode(library, add_special_tokens=False)
        assert ChatRenderer(tokenizer).render(turns).token_ids == expected


def test_the_prefix_is_what_stands_before_any_text(renderer) -> None:
    short, long = (
        renderer.render([Message("user", text)], add_generation_prompt=True) for text in ("a", "b c " * 40)
    )
    assert short.prefix_length == long.prefix_length > 0
    assert short.token_ids[: short.prefix_length] == long.token_ids[: long.prefix_length]
    assert short.spans[0].start == short.prefix_length


def test_regions_of_prompt_and_answer(renderer) -> None:
    turns = [
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
        Message("assistant", "four"),
    ]
    whole = renderer.render(turns)
    spans = whole.spans
    assert (whole.prompt_start, whole.answer_start) == (spans[2].start, spans[3].start)
    assert whole.answer_end == spans[3].end < len(whole.token_ids)
    prompt = renderer.render(turns[:3], add_generation_prompt=True)
    assert (prompt.prompt_start, prompt.answer_start) == (spans[2].start, len(prompt.token_ids))
    # A stream that goes on after the prompt stands where the whole exchange has its answer.
    assert prompt.token_ids == whole.token_ids[: whole.answer_start]


ROLES = st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=6)


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer, gemma_tokenizer])
@given(roles=ROLES)
def test_in_front_of_a_generation_prompt_nothing_is_answer(tokenizer, roles) -> None:
    """Whoever spoke last, and however often: a client can't pass anything off as the model's own words."""
    renderer = ChatRenderer(tokenizer())
    turns = [Message(role, f"words of turn {turn}") for turn, role in enumerate(roles)]
    request = renderer.render(turns, add_generation_prompt=True)
    assert request.answer_start == request.answer_end == len(request.token_ids)
    # What is served stands where the finished conversation has its answer, and the same text is prompt.
    whole = renderer.render([*turns, Message("assistant", "so it is")])
    assert request.token_ids == whole.token_ids[: whole.answer_start]
    assert (request.prefix_length, request.prompt_start) == (whole.prefix_length, whole.prompt_start)
    # The newest turn of a user is judged, and all that stands behind it.
    if "user" in roles:
        newest = len(roles) - 1 - roles[::-1].index("user")
        assert request.prompt_start <= request.spans[newest].start
        assert request.prompt_start >= max(
            (span.end for span in request.spans[:newest] if span.role == "assistant"), default=0
        )
    elif "assistant" in roles:
        assert request.prompt_start == request.spans[roles.index("assistant")].start
    else:
        assert request.prompt_start == len(request.token_ids)


def test_an_empty_answer_has_an_empty_region(renderer) -> None:
    rendered = renderer.render([Message("user", "x"), Message("assistant", "")])
    assert rendered.prefix_length < rendered.answer_start == rendered.answer_end < len(rendered.token_ids)


def test_without_a_system_role_its_text_joins_the_first_user_turn() -> None:
    tokenizer, renderer = gemma_tokenizer(), ChatRenderer(gemma_tokenizer())
    turns = [Message("system", "be brief <bos>"), Message("user", "why"), Message("assistant", "so")]
    rendered = renderer.render(turns)
    text = tokenizer.decode(rendered.token_ids)
    assert text.startswith("<bos><start_of_turn>user\nbe brief <bos>\n\nwhy<end_of_turn>\n")
    assert [span.role for span in rendered.spans] == ["system", "user", "assistant"]
    assert rendered.token_ids.count(tokenizer.bos_token_id) == 1
    assert rendered.prompt_start == rendered.spans[1].start
    developer = renderer.render([Message("developer", turns[0].content), *turns[1:]])
    assert developer.token_ids == rendered.token_ids


CALL = {"id": "c1", "type": "function", "function": {"name": "open_lock", "arguments": '{"lock": 3}'}}


@given(roles=ROLES, data=st.data())
def test_where_turns_must_alternate_every_conversation_is_read_in_its_order(roles, data) -> None:
    tokenizer = gemma_tokenizer()
    calls = [(CALL,) if role == "assistant" and data.draw(st.booleans()) else None for role in roles]
    turns = [Message(role, f"words{turn}", tool_calls=calls[turn]) for turn, role in enumerate(roles)]
    rendered = ChatRenderer(tokenizer).render(turns)
    assert [span.role for span in rendered.spans] == roles
    said = [tokenizer.decode(rendered.token_ids[span.start : span.end]).strip() for span in rendered.spans]
    assert all(text.split("\n")[0] == f"words{turn}" for turn, text in enumerate(said))
    assert [span.start for span in rendered.spans] == sorted(span.start for span in rendered.spans)
    text = tokenizer.decode(rendered.token_ids)
    assert text.count("open_lock") == sum(bool(turn.tool_calls) for turn in turns)


@pytest.mark.parametrize("roles", [["assistant"], ["assistant", "user"], ["assistant"] * 2])
def test_an_order_that_the_template_refuses_is_an_error(roles) -> None:
    with pytest.raises(BackboneError, match="refuses this order of roles") as caught:
        ChatRenderer(wary_gemma_tokenizer()).render([Message(role, "private words") for role in roles])
    assert "private" not in str(caught.value)


def test_no_messages_are_an_error(renderer) -> None:
    with pytest.raises(BackboneError, match="at least one message"):
        renderer.render([])


def test_lone_surrogates_are_an_error_that_repeats_nothing(renderer) -> None:
    with pytest.raises(BackboneError, match="not valid Unicode") as caught:
        renderer.render([Message("user", "private \ud800")])
    assert "private" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].no.such }}",
    ],
)
def test_a_template_that_cannot_be_used_is_an_error(template) -> None:
    with pytest.raises(BackboneError, match="template"):
        ChatRenderer(train_tokenizer(["<e>"], {"eos_token": "<e>"}, template))


def test_no_template_is_an_error() -> None:
    with pytest.raises(BackboneError, match="no chat template"):
        ChatRenderer(train_tokenizer(["<e>"], {"eos_token": "<e>"}, ""))


def test_vocabularies_that_hold_control_tokens_as_ordinary_pieces() -> None:
    """A piece that is also an added token is spelt; what stands around it keeps its tokens."""
    tokenizer = train_tokenizer(["<|im_start|>", "<|im_end|>"], {"eos_token": "<|im_end|>"}, CHATML)
    tokenizer.add_tokens(["lock", "lo", "水"])
    renderer, plain = ChatRenderer(tokenizer), ChatRenderer(tiny_tokenizer())
    text = "the lock holds 水門 tight"
    ids = renderer.encode_text(text)
    assert renderer.added_ids.isdisjoint(ids)
    assert len(renderer.added_ids) == 5
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
    assert len(ids) < len(text)
    assert len(plain.encode_text(text)) <= len(ids)
    # A letter that is an added token itself has no other spelling here: it is left out.
    tokenizer.add_tokens(["t"])
    assert tokenizer.decode(ChatRenderer(tokenizer).encode_text("tide")).endswith("ide")


def test_sampling_may_end_a_turn_and_nothing_else() -> None:
    renderer = ChatRenderer(gemma_tokenizer())
    end = gemma_tokenizer().convert_tokens_to_ids("<end_of_turn>")
    assert renderer.end_of_turn_ids == {end}
    assert banned_ids(renderer.control_ids, renderer.end_of_turn_ids) == renderer.control_ids - {end}
