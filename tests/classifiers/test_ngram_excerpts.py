"""Excerpts of an answer beside its whole text: files and streams agree, and a long context hides nothing."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from voices import random_text

from lockgate.classifiers._ngrams import excerpts_of
from lockgate.classifiers.text import ExchangeReader, TextBaseline, TextBaselineConfig, exchange_text
from lockgate.errors import ConfigError, GuardError
from lockgate.exchanges import Exchange, Message

BITS = 10
PIECES = st.one_of(
    st.text(max_size=30), st.sampled_from(["the lock ", "Σ", "İ", "x" * 25, "水門" * 9, "\ud83d", " "])
)


def harm(answer: str, excerpt: int, request: str = "why?") -> float:
    turns = (Message("user", request), Message("assistant", answer))
    return float(random_text(BITS, excerpt=excerpt).decision_function([Exchange(turns)])[0])


@given(st.text(max_size=60), st.integers(1, 12).map(lambda half: 2 * half))
@example("", 2)
@example("abcd", 2)
@example("abcde", 4)
def test_excerpts_cover_the_answer(answer: str, length: int) -> None:
    found = [text.removeprefix("[assistant]\n") for text in excerpts_of(answer, length)]
    step = length // 2
    assert found[0] == answer[:length]
    assert answer == found[0] + "".join(text[step:] for text in found[1:])
    assert all(len(text) == length for text in found[:-1])
    assert len(found[-1]) > step or len(found) == 1


@given(st.lists(PIECES, max_size=8), st.text(max_size=9), st.sampled_from([2, 8, 20, 400]))
@example(["x" * 20, "y" * 20, "z"], "", 20)
def test_a_reader_agrees_with_the_baseline_for_every_split(
    pieces: list[str], prompt: str, excerpt: int
) -> None:
    request = (Message("user", prompt),)
    reader = ExchangeReader(random_text(BITS, excerpt=excerpt), exchange_text(request, "exchange"), excerpt)
    whole = ExchangeReader(random_text(BITS, excerpt=excerpt), exchange_text(request, "exchange"), excerpt)
    answer = ""
    for piece in pieces:
        reader.read(piece)
        answer += piece
        assert reader.logit == pytest.approx(
            harm(answer, excerpt=excerpt, request=prompt), rel=1e-9, abs=1e-9
        )
    whole.read(answer)
    assert whole.logit == reader.logit


@given(st.text(alphabet="abc xyz", min_size=1, max_size=120))
def test_the_logit_is_the_highest_of_the_whole_text_and_each_excerpt_alone(answer: str) -> None:
    # An excerpt alone reads like an answer to nothing.
    alone = [
        float(
            random_text(BITS, view="answer").decision_function([Exchange((Message("assistant", part),))])[0]
        )
        for part in (text.removeprefix("[assistant]\n") for text in excerpts_of(answer, 20))
    ]
    assert harm(answer, 20) == pytest.approx(max(harm(answer, 0), *alone), rel=1e-9, abs=1e-9)


def test_a_baseline_without_excerpts_has_the_hash_that_it_had() -> None:
    plain = random_text(BITS)
    assert plain.sha256 != random_text(BITS, excerpt=40).sha256
    assert plain.sha256 == random_text(BITS, excerpt=0).sha256


def test_excerpts_are_saved(tmp_path) -> None:
    random_text(BITS, excerpt=40).save(tmp_path)
    loaded = TextBaseline.load(tmp_path)
    assert loaded.config.excerpt == 40
    assert loaded.sha256 == random_text(BITS, excerpt=40).sha256
    text = (tmp_path / "text_baseline.json").read_text()
    for damaged in ("3", "-2", '"x"', "2.0"):
        (tmp_path / "text_baseline.json").write_text(text.replace('"excerpt": 40', f'"excerpt": {damaged}'))
        with pytest.raises(GuardError, match="text baseline is incomplete or damaged"):
            TextBaseline.load(tmp_path)


def test_no_excerpts_leave_a_file_that_older_versions_read(tmp_path) -> None:
    random_text(BITS).save(tmp_path)
    assert "excerpt" not in (tmp_path / "text_baseline.json").read_text()
    assert TextBaseline.load(tmp_path).config.excerpt == 0


@pytest.mark.parametrize(("view", "excerpt"), [("exchange", -2), ("exchange", 3), ("prompt", 40)])
def test_excerpts_that_cannot_be_are_refused(view, excerpt) -> None:
    with pytest.raises(ConfigError, match=r"^excerpt: expected|^excerpt: prompts"):
        replace(TextBaselineConfig(), view=view, excerpt=excerpt)
