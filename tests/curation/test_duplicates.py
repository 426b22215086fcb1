import random
import subprocess
import sys
import unicodedata
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lockgate.exchanges
from lockgate.curation import MinHash, find_duplicates, join_groups, shingle_jaccard
from lockgate.errors import ConfigError
from lockgate.exchanges import Exchange, Message, normalise_text, prompt_group, text_hash

WORDS = [f"word{number}" for number in range(300)]


def brute_jaccard(first: str, second: str, size: int = 5) -> float:
    def shingles(text: str) -> set[tuple[str, ...]]:
        words = normalise_text(text).split(" ")
        return {tuple(words[start : start + size]) for start in range(max(1, len(words) - size + 1))}

    one, two = shingles(first), shingles(second)
    return len(one & two) / len(one | two)


def brute_groups(texts: list[str], threshold: float, size: int = 5) -> list[str]:
    pairs: list[list[str]] = [[str(row)] for row in range(len(texts))]
    for a, b in combinations(range(len(texts)), 2):
        if brute_jaccard(texts[a], texts[b], size) >= threshold:
            pairs[a].append(f"{a}-{b}")
            pairs[b].append(f"{a}-{b}")
    roots = join_groups(pairs)
    hashes = [text_hash(text) for text in texts]
    return [min(digest for digest, root in zip(hashes, roots, strict=True) if root == own) for own in roots]


def varied_texts(seed: int) -> list[str]:
    """Families of texts with a few words changed, cut off or added, so that all degrees of likeness occur."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(25):
        base = rng.choices(WORDS, k=rng.randint(1, 120))
        for _ in range(rng.randint(1, 5)):
            words = list(base)
            for _ in range(rng.choice([0, 0, 1, 2, 5])):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
            texts.append(" ".join(words + rng.choices(WORDS, k=rng.choice([0, 0, 3, 20]))))
    rng.shuffle(texts)
    return texts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.7, 0.9])
def test_groups_equal_brute_force(seed: int, threshold: float) -> None:
    texts = varied_texts(seed)
    groups = find_duplicates(texts, threshold=threshold)
    assert groups == brute_groups(texts, threshold)
    assert 1 < len(set(groups)) < len(texts)


def test_other_settings_equal_brute_force() -> None:
    texts = varied_texts(6)
    groups = find_duplicates(texts, threshold=0.8, minhash=MinHash(words=13, bands=40, rows=3))
    assert groups == brute_groups(texts, 0.8, 13)
    assert groups != find_duplicates(texts, threshold=0.8)
    with pytest.raises(ConfigError, match="bands"):
        MinHash(bands=0)


@given(st.text(max_size=60), st.text(max_size=60))
def test_jaccard_equals_brute_force(first: str, second: str) -> None:
    assert shingle_jaccard(first, second) == pytest.approx(brute_jaccard(first, second))


def test_order_and_company_do_not_change_groups() -> None:
    texts = varied_texts(9)
    groups = find_duplicates(texts)
    assert find_duplicates(texts[::-1]) == groups[::-1]
    assert find_duplicates([*texts, "something else altogether"])[:-1] == groups
    assert find_duplicates([]) == []


def test_groups_are_equal_in_every_process() -> None:
    code = (
        "from lockgate.curation import find_duplicates as f; print(f(['a b c d e f', 'A b, c d e f!', 'x']))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_a_long_text_takes_its_place_in_chunks() -> None:
    rng = random.Random(3)
    long = " ".join(str(rng.random()) for _ in range(9000))
    first, second, third = find_duplicates([long, long + " and more", long[: len(long) // 3]])
    assert first == second != third


def test_boilerplate_below_the_threshold_stays_apart() -> None:
    rng = random.Random(5)
    frame = " ".join(rng.choices(WORDS, k=60))
    texts = [f"{frame} {' '.join(rng.choices(WORDS, k=45))}" for _ in range(300)]
    assert len(set(find_duplicates(texts))) == 300


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Hello,\tWORLD! ", "hello world"),
        ("ｆｕｌｌ width", "full width"),
        ("in\u200bvisible", "invisible"),
        ("What is 3*4?", "what is 3 * 4"),
        ("今天天气", "今 天 天 气"),
        ("?!", "?!"),
        ("", ""),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert normalise_text(text) == normal


@given(st.text())
def test_case_space_and_composition_do_not_count(text: str) -> None:
    assert text_hash(f" {text}\n") == text_hash(text)
    assert text_hash(unicodedata.normalize("NFC", text)) == text_hash(text)


def test_prompt_group_is_about_the_last_user_message() -> None:
    asked = Message("user", "Why is the sky blue?")
    answers = (Exchange((asked, Message("assistant", answer))) for answer in ("a", "b"))
    system = Exchange(
        (Message("system", "s"), Message("user", "first"), Message("user", "why is the SKY blue"))
    )
    assert {prompt_group(exchange) for exchange in (*answers, system)} == {text_hash(asked.content)}
    assert prompt_group(Exchange((Message("assistant", "x"),))) == text_hash("x")


def test_exports_are_there() -> None:
    names = lockgate.exchanges.__all__
    assert len(set(names)) == len(names)
    assert all(hasattr(lockgate.exchanges, name) for name in names)
