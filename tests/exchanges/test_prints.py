"""Fingerprints of prompts find what was trained on, equal or near, and hold no text."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.curation import shingle_jaccard
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, Message, PromptMatch, PromptPrints, prompt_group

VOCABULARY = [f"{a}{b}" for a in ("ca", "lo", "mi", "bri", "or") for b in ("nal", "ck", "ll", "dge", "chard")]


def sentence(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(VOCABULARY) for _ in range(words))


def row(prompt: str) -> Exchange:
    return Exchange((Message("user", prompt), Message("assistant", "yes")))


def test_equal_prompts_are_found_whatever_their_case_and_stops() -> None:
    known = PromptPrints.of([row("Why does the lock hold?"), row("why does the lock hold"), row("水門")])
    assert len(known) == 2
    texts = ["WHY, does the lock hold!", "why does the lock not hold", "水門", ""]
    assert known.find(texts) == [PromptMatch("equal", 1.0), None, PromptMatch("equal", 1.0), None]
    groups = [prompt_group(row(text)) for text in texts]
    assert known.holds([*groups, "some-id", "Z" * 16]).tolist() == [True, False, True, False, False, False]


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), words=st.integers(20, 120), changed=st.integers(0, 12))
def test_near_ones_are_found_and_others_are_not(seed, words, changed) -> None:
    texts = [sentence(seed + i, words) for i in range(20)]
    known = PromptPrints.of_texts(texts)
    draw = random.Random(seed)
    altered = texts[3].split()
    for place in draw.sample(range(words), min(changed, words)):
        altered[place] = "towpath"
    found = known.find([" ".join(altered), sentence(seed + 10**7, words)])
    likeness = shingle_jaccard(" ".join(altered), texts[3])
    if likeness == 1:
        assert found[0] == PromptMatch("equal", 1.0)
    elif likeness > 0.92:
        assert found[0] is not None
        assert found[0].kind == "near"
        assert found[0].value == pytest.approx(likeness, abs=0.2)
    elif likeness < 0.5:
        assert found[0] is None
    assert found[1] is None


def test_saved_and_joined_prints_are_the_same(tmp_path) -> None:
    texts = [sentence(i, 30) for i in range(9)]
    first, second = PromptPrints.of_texts(texts[:6]), PromptPrints.of_texts(texts[4:])
    first.save(tmp_path / "a")
    joined, whole = PromptPrints.load(tmp_path / "a") | second, PromptPrints.of_texts(texts)
    np.testing.assert_array_equal(joined.hashes, whole.hashes)
    np.testing.assert_array_equal(joined.signatures, whole.signatures)
    assert (np.diff(whole.hashes.astype(np.float64)) > 0).all()
    whole.save(tmp_path / "b")
    assert not any(word.encode() in (tmp_path / "b").read_bytes() for word in VOCABULARY)
    assert (tmp_path / "b").stat().st_size < 140 * 9 + 400
    empty = PromptPrints.of([])
    empty.save(tmp_path / "c")
    assert len(PromptPrints.load(tmp_path / "c")) == 0
    assert (empty | first).find(texts[:1]) == [PromptMatch("equal", 1.0)]
    assert empty.find(texts[:1]) == [None]


@pytest.mark.parametrize("damage", [b"", b"nothing", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_other_files_are_refused(tmp_path, damage) -> None:
    (tmp_path / "x").write_bytes(damage)
    with pytest.raises(ExchangeError, match="x: not a readable file of prompt fingerprints"):
        PromptPrints.load(tmp_path / "x")
    with pytest.raises(ExchangeError, match="not a readable file"):
        PromptPrints.load(tmp_path / "none")
