import json
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.errors import ConfigError, SynthesisError
from lockgate.exchanges import Exchange, Message
from lockgate.synthesis.augmentations import (
    AUGMENTATIONS,
    CODECS,
    FORMATS,
    MAX_DEPTH,
    Augmentation,
    Codec,
    apply_chain,
    augmentation_families,
    draw_chain,
    exchange_families,
    paraphrase_exchange,
    select_augmentations,
    translate_exchange,
    undo_all,
)
from lockgate.synthesis.augmentations._codecs import rotate

ASKED = "Where does the conjurer hide the second coin while the audience watches the left hand?"
SAID = "The conjurer palms the coin.\nThe audience sees a gesture, and the sleeve takes the rest."
TRICK = Exchange(
    (Message("user", ASKED), Message("assistant", SAID)), 1.0, "coin-methods", "test", {"row": 3}
)
TWIN = Exchange(
    (
        Message("user", "Which theatre showed conjurer matinees in the autumn season?"),
        Message("assistant", "The Egyptian theatre did.\nPosters of every matinee season survive."),
    ),
    0.0,
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)
DIALOGUES = st.builds(
    lambda system, earlier, asked, said: Exchange(
        (
            *((Message("system", system),) if system is not None else ()),
            *((Message("user", earlier), Message("assistant", earlier)) if earlier is not None else ()),
            Message("user", asked, name="visitor"),
            *((Message("assistant", said),) if said is not None else ()),
        ),
        1.0,
        "c",
        "s",
        {"group": "g"},
    ),
    st.none() | TEXTS,
    st.none() | TEXTS,
    TEXTS.filter(str.strip),
    st.none() | TEXTS.filter(str.strip),
)
every = pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=list(AUGMENTATIONS))
frugal = settings(max_examples=25, deadline=None)


def texts_of(exchange: Exchange) -> list[str]:
    """The texts that an augmentation has to give back: the last request and the answer."""
    users = [message.content for message in exchange.messages if message.role == "user"]
    return [users[-1], exchange.messages[-1].content]


def characters(exchange: Exchange) -> int:
    return sum(len(message.content) for message in exchange.messages)


@pytest.mark.parametrize("codec", [*CODECS, *FORMATS], ids=lambda codec: codec.name)
@given(text=TEXTS)
@frugal
def test_codes_decode_on_their_domain(codec: Codec, text: str) -> None:
    coded = codec.encode(text)
    assert len(coded) <= codec.growth * len(text) + 100
    if codec.exact is None or codec.exact(text):
        assert codec.decode(coded) == text


@pytest.mark.parametrize(
    "codec", [codec for codec in [*CODECS, *FORMATS] if codec.exact], ids=lambda c: c.name
)
def test_domains_hold_ordinary_text(codec: Codec) -> None:
    text = "ASK THE USHER\nAT NINE" if codec.name == "morse" else "Ask the usher, please.\nAt nine"
    assert codec.exact is not None
    assert codec.exact(text)
    assert codec.decode(codec.encode(text)) == text
    assert codec.encode(text) != text


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("base64", "Hi é", "SGkgw6k="),
        ("hex", "Hi", "4869"),
        ("binary", "A", "01000001"),
        ("rot13", "Uryyb", "Hello"),
        ("atbash", "abz", "zya"),
        ("leetspeak", "toast", "70457"),
        ("morse", "SOS at 9", "... --- ... / .- - / ----."),
        ("reversed", "abc", "cba"),
        ("reversed-words", "a b  c", "c  b a"),
        ("pig-latin", "the apple", "e-thay apple-ay"),
        ("table", "a|b", "| no. | text |\n|---|---|\n| 1 | a\\|b |"),
    ],
)
def test_known_codes(name: str, text: str, code: str) -> None:
    codec = next(codec for codec in (*CODECS, *FORMATS) if codec.name == name)
    assert codec.encode(text) == code


@given(TEXTS, st.integers(-60, 60))
@frugal
def test_any_rotation_turns_back(text: str, places: int) -> None:
    assert rotate(rotate(text, places), -places) == text


@every
@given(exchange=DIALOGUES, seed=st.integers(0, 2**32))
@frugal
def test_undo_gives_the_exchange_back(augmentation: Augmentation, exchange: Exchange, seed: int) -> None:
    if not augmentation.fits(exchange):
        with pytest.raises(SynthesisError, match=augmentation.name):
            augmentation.apply(exchange, seed)
        return
    made = augmentation.apply(exchange, seed)
    assert (made.label, made.category, made.source) == (exchange.label, exchange.category, exchange.source)
    assert characters(made) <= augmentation.growth * characters(exchange) + augmentation.overhead
    assert augmentation.apply(exchange, seed) == made
    json.dumps(made.to_dict(), allow_nan=False)
    restored = augmentation.undo(made)
    if augmentation.exact is None or all(map(augmentation.exact, texts_of(exchange))):
        assert restored == exchange
    else:
        assert [m.role for m in restored.messages] == [m.role for m in exchange.messages]


@every
def test_what_was_done_is_written_down(augmentation: Augmentation) -> None:
    made = augmentation.apply(TRICK, 7)
    (record,) = made.meta["augmentations"]
    assert set(record) == {"family", "name", "parameters", "seed"}
    assert (record["family"], record["name"], record["seed"]) == (augmentation.family, augmentation.name, 7)
    assert json.loads(json.dumps(record)) == record
    assert made.meta["original"] == TRICK.id
    assert made.meta["row"] == 3
    assert made.messages != TRICK.messages
    assert "augmentations" not in TRICK.meta


@every
def test_seeds_deal_differently_and_records_survive_a_file(augmentation: Augmentation) -> None:
    made = [augmentation.apply(TRICK, seed) for seed in range(12)]
    assert len({exchange.id for exchange in made}) > 1
    record = json.loads(json.dumps(made[0].to_dict()))
    read = Exchange(made[0].messages, 1.0, "coin-methods", "test", record["meta"])
    if augmentation.exact is None or all(map(augmentation.exact, texts_of(TRICK))):
        assert augmentation.undo(read) == TRICK


@every
def test_no_control_character_comes_in(augmentation: Augmentation) -> None:
    for seed in range(4):
        made = augmentation.apply(TRICK, seed)
        text = "".join(message.content for message in made.messages)
        odd = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn")} - {"\n"}
        assert odd == ({"\u200b"} if augmentation.family == "invisible" else set())


@pytest.mark.parametrize("name", ["code-words", "parable"])
def test_an_answer_in_code_needs_the_prompt(name: str) -> None:
    made = AUGMENTATIONS[name].apply(TRICK, 5)
    prompt, answer = made.messages[0].content, made.messages[1].content
    stand_ins = made.meta["augmentations"][0]["parameters"]["stand_ins"]
    words = set(re.findall("[a-z]+", answer.lower()))
    assert not words & {"conjurer", "palms", "coin", "audience", "gesture", "sleeve"}
    assert {"conjurer", "coin", "audience"} <= set(stand_ins)
    assert all(word in prompt and term in prompt for term, word in stand_ins.items())


@pytest.mark.parametrize("name", ["code-words", "scattered-functions", "base64", "burial"])
def test_a_twin_wears_the_same_disguise(name: str) -> None:
    trick, twin = (AUGMENTATIONS[name].apply(exchange, 5) for exchange in (TRICK, TWIN))
    assert (trick.label, twin.label) == (1.0, 0.0)
    assert exchange_families(trick) == exchange_families(twin)
    opening = trick.messages[0].content[:12]
    assert twin.messages[0].content.startswith(opening)


@every
def test_a_refusal_stays_in_plain_words(augmentation: Augmentation) -> None:
    refusal = Message("assistant", "I can't help with the conjurer's coin.")
    made = augmentation.apply(Exchange((TRICK.messages[0], refusal), 0.0), 1)
    assert made.messages[-1] == refusal
    assert made.label == 0.0


def test_families_can_be_held_out() -> None:
    families = augmentation_families()
    assert len(families) >= 14
    assert sum(map(len, families.values())) == len(AUGMENTATIONS) >= 40
    chosen = select_augmentations(hold_out=["reconstruction", "byte-encodings"])
    assert {one.family for one in chosen} == set(families) - {"reconstruction", "byte-encodings"}
    assert [one.name for one in select_augmentations(families=["multi-turn"])] == ["multi-turn"]
    with pytest.raises(ConfigError, match="rconstruction"):
        select_augmentations(hold_out=["rconstruction"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_drawn_chains_apply_and_turn_back(seed: int) -> None:
    choices = [one for one in select_augmentations() if one.exact is None]
    chain = draw_chain(choices, seed)
    assert 1 <= len(chain) <= MAX_DEPTH
    assert len({one.family for one in chain}) == len(chain)
    assert draw_chain(choices, seed) == chain
    made = apply_chain(TRICK, chain, seed, max_characters=10**6)
    assert exchange_families(made) == sorted(one.family for one in chain)
    assert undo_all(made) == TRICK


def test_chains_are_bounded() -> None:
    one, two = AUGMENTATIONS["base64"], AUGMENTATIONS["persona"]
    with pytest.raises(SynthesisError, match="over the limit of 1"):
        apply_chain(TRICK, [one, two], 0, max_depth=1)
    with pytest.raises(SynthesisError, match="over the limit of 3"):
        apply_chain(apply_chain(TRICK, [one, two], 0), [one, two], 0)
    with pytest.raises(SynthesisError, match="over the limit of 100"):
        apply_chain(TRICK, [one], 0, max_characters=100)
    with pytest.raises(ConfigError, match="max_depth"):
        draw_chain([one], 0, max_depth=0)


def test_only_the_last_augmentation_can_be_undone() -> None:
    made = apply_chain(TRICK, [AUGMENTATIONS["base64"], AUGMENTATIONS["persona"]], 0)
    with pytest.raises(SynthesisError, match="base64"):
        AUGMENTATIONS["base64"].undo(made)


def test_a_translation_is_a_request_and_a_parser() -> None:
    wanted = translate_exchange(TRICK, "Dutch", seed=4)
    assert ASKED in wanted.request.messages[0].content
    assert "Dutch" in wanted.request.messages[0].content
    assert wanted.request.seed == 4
    dutch = "Waar verbergt de goochelaar de tweede munt terwijl het publiek naar zijn linkerhand kijkt?"
    made = wanted.parse(f'Translation: "{dutch}"\n')
    assert [message.content for message in made.messages] == [dutch, SAID]
    assert (made.label, made.meta["original"], exchange_families(made)) == (1.0, TRICK.id, ["translation"])
    with pytest.raises(SynthesisError, match="no inverse"):
        undo_all(made)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), (SAID.upper(), "unchanged"), ("I can't help with that.", "refusal"), ("Yes.", "length")],
)
def test_completions_that_are_no_paraphrase(text: str, reason: str) -> None:
    with pytest.raises(SynthesisError, match=reason):
        paraphrase_exchange(TRICK, 0, "answer").parse(text)


def test_a_part_that_is_missing_is_an_error() -> None:
    with pytest.raises(SynthesisError, match="no answer"):
        paraphrase_exchange(Exchange(TRICK.messages[:1]), 0, "answer")
