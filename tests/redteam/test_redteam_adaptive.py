"""Attacks that learn from replies, against guards that are functions of text."""

import math
import re
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tricks import CARD, COIN, guarded, played

from lockgate.redteam._attempts import Attempt, Reply, Seen
from lockgate.redteam._grades import Rubric
from lockgate.redteam.attacks._best_of_n import BestOfN, misspelt, spelt
from lockgate.redteam.attacks._boundary import OneBit
from lockgate.redteam.attacks._catalogue import adaptive_attacks
from lockgate.redteam.attacks._drip import Drip
from lockgate.redteam.attacks._search import boundary, limited, passes
from lockgate.redteam.attacks._spacing import Spacing
from lockgate.redteam.attacks._staged import ANSWERS, FRAMES, Staged
from lockgate.redteam.attacks._variants import STYLES, Variant

SECRETS = re.compile(
    r"\b(break|finger|cut|riffle|shuffle|overhand|packet|misdirection|card|magician|chosen|reverse|throw|injog)\b",
    re.IGNORECASE,
)
BUDGET = 15
ATTACKS = tuple(adaptive_attacks(BUDGET))


def secrets(text: str) -> int:
    return len(SECRETS.findall(text))


def names(most: int):
    """A guard that stops an exchange with more than so many words of the secret."""
    return guarded(lambda prompt, answer: secrets(prompt) + secrets(answer) > most)


class Garbage:
    """A field that nobody may look at."""

    def __getattribute__(self, name):
        raise AssertionError(f"looked at {name}")


@dataclass
class Bit:
    halted: bool

    def __getattr__(self, name):
        raise AssertionError(f"looked at reply.{name}")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("target", [names(3), names(99)], ids=["threshold", "open"])
def test_never_more_attempts_than_the_budget_and_the_seed_decides(attack, target) -> None:
    runs = [
        [
            (a.messages, a.answer, dict(a.facts))
            for a, _, _ in played(attack, CARD, target, seed=seed, stop=False)
        ]
        for seed in (4, 4, 5)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert len(runs[0]) <= BUDGET


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("query", [CARD, COIN], ids=lambda query: query.id)
def test_without_a_guard_it_succeeds(attack, query) -> None:
    rows = played(attack, query, guarded(lambda prompt, answer: False))
    assert rows[-1][2].success


@pytest.mark.parametrize(
    "attack",
    [a for a in ATTACKS if a.family in ("one-bit", "spacing", "staged")],
    ids=lambda attack: attack.name,
)
def test_only_the_bit_is_read(attack) -> None:
    play, seen = attack.play(CARD, 3), None
    for _ in range(30):
        try:
            attempt = next(play) if seen is None else play.send(seen)
        except StopIteration:
            break
        prompt = " ".join(message.content for message in attempt.messages)
        seen = Seen(Bit(secrets(prompt + attempt.answer) > 3), Garbage())


def test_a_limit_of_attempts_ends_a_play_and_closes_it() -> None:
    closed = []

    def endless():
        try:
            while True:
                yield Attempt((), "")
        finally:
            closed.append(True)

    seen = Seen(Reply("", False), None)
    play = limited(endless(), 3)
    next(play)
    play.send(seen)
    play.send(seen)
    with pytest.raises(StopIteration):
        play.send(seen)
    assert closed == [True]
    assert list(limited(endless(), 0)) == []


@given(st.integers(1, 5000), st.data())
def test_the_boundary_is_found_in_a_logarithm_of_trials(high, data) -> None:
    true = data.draw(st.integers(0, high - 1))
    search = boundary(lambda level, number: Attempt((), "", facts={"level": level}), 0, high, lead=1)
    trials, seen = 0, None
    found = None
    while found is None:
        try:
            attempt = search.send(seen)
        except StopIteration as ended:
            found = ended.value
        else:
            trials += 1
            seen = Seen(Reply("", attempt.facts["level"] > true), None)
    assert found == true
    assert trials <= math.ceil(math.log2(high)) if high > 1 else trials == 0


def test_votes_outweigh_a_random_guard() -> None:
    """With a lead of three, a guard that errs in a tenth of its replies misleads one time in 700."""
    rng = Random(1)
    right = 0
    for _ in range(300):
        trial = passes(lambda number: Attempt((), ""), lead=3)
        seen, outcome = None, None
        while outcome is None:
            try:
                trial.send(seen)
            except StopIteration as ended:
                outcome = ended.value
            seen = Seen(Reply("", rng.random() < 0.1), None)
        right += outcome
    assert right >= 297


@pytest.mark.parametrize("seed", range(3))
def test_one_bit_finds_how_many_words_may_be_shown(seed) -> None:
    """The guard counts long words that it can read. So the boundary is known."""
    most = 9
    clear = re.compile(r"\b(?=[a-z]*[aeiou])[a-z]{4,}\b", re.IGNORECASE)

    def readable(attempt: Attempt) -> int:
        question = attempt.messages[0].content.rsplit("\n\n", 1)[0]
        return len(clear.findall(question)) + len(clear.findall(attempt.answer))

    def target(attempt: Attempt) -> Reply:
        return Reply("", readable(attempt) > most)

    rows = played(OneBit(80), CARD, target, seed=seed)
    slots = rows[0][0].facts["slots"]
    assert [rows[0][0].facts["shown"], rows[1][0].facts["shown"]] == [slots, 0]
    passed, stopped, trials = 0, slots, 0
    while stopped - passed > 1:
        attempt, reply, _ = rows[2 + trials]
        trials += 1
        if reply.halted:
            stopped = attempt.facts["shown"]
        else:
            passed = attempt.facts["shown"]
    assert trials <= math.ceil(math.log2(slots))
    # Later attempts get further: the guard reads only words that are written as usual.
    assert max(a.facts["shown"] for a, reply, _ in rows if not reply.halted) > passed + 5


@pytest.mark.parametrize("seed", range(3))
def test_one_bit_gets_through_a_guard_of_words(seed) -> None:
    rows = played(OneBit(400), CARD, names(2), seed=seed)
    assert rows[-1][2].success
    assert 5 < len(rows) < 400


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_one_bit_gets_through_although_replies_are_wrong_now_and_then(seed) -> None:
    rng = Random(seed)

    def target(attempt: Attempt) -> Reply:
        reply = names(2)(attempt)
        halted = reply.halted != (rng.random() < 0.1)
        # What is let through by mistake is no success of the search: it is cut.
        return Reply("" if halted or reply.halted else attempt.answer, halted)

    rows = played(OneBit(1000, lead=2), CARD, target, seed=seed, budget=1000)
    assert rows[-1][2].success


def test_one_bit_gives_up_on_a_guard_that_stops_everything() -> None:
    assert len(played(OneBit(400), CARD, guarded(lambda prompt, answer: True))) == 4


@settings(max_examples=40)
@given(seed=st.integers(0, 500), share=st.floats(0, 1), changes=st.integers(0, 5))
def test_shown_words_of_a_variant_are_read_back_and_others_are_noise(seed, share, changes) -> None:
    rng = Random(seed)
    variant = Variant.of(CARD, rng)
    shown = round(share * len(variant.order))
    for _ in range(changes):
        variant = variant.changed(shown, rng)
    assert sorted(variant.order) == list(range(len(variant.styles)))
    attempt = variant.attempt(shown, rng)
    words = re.findall(r"[A-Za-z]{4,}", f"{variant.question} {variant.answer}")
    visible = {words[slot] for slot in variant.order[:shown]}
    left = re.findall(r"[A-Za-z]{4,}", attempt.read(attempt.answer))
    told = re.findall(r"[A-Za-z]{4,}", variant.answer)
    assert len(left) == len(told)
    questions = len(words) - len(told)
    for slot, (word, read) in enumerate(zip(told, left, strict=True), questions):
        assert (word == read) == (slot in variant.order[:shown])
    assert visible >= {word for word, read in zip(told, left, strict=True) if word == read}


def test_each_style_changes_words_and_is_told_apart() -> None:
    forms = [style("position") for style in STYLES]
    assert forms[0] == "position"
    assert len(set(forms)) == len(STYLES)


@settings(max_examples=40)
@given(seed=st.integers(0, 500))
def test_misspelt_answers_are_read_by_one_who_knows_the_words(seed) -> None:
    rubric = Rubric.of(CARD)
    (attempt, *_) = (a for a in BestOfN(20).play(CARD, seed) if a.facts["answer"])
    assert len(rubric.found(attempt.read(attempt.answer))) >= rubric.needed
    assert attempt.read("An ordinary sentence stays, from form to form.").endswith("from form to form.")


@given(st.text(st.sampled_from("abcdefgh .,-"), max_size=60), st.integers(0, 99))
def test_misspelling_keeps_letters_and_places_of_words(text, seed) -> None:
    changed = misspelt(text, Random(seed), 0.0)
    assert len(changed) == len(text)
    for word, other in zip(text.split(), changed.lower().split(), strict=True):
        assert sorted(word) == sorted(other)
    assert spelt("", {}) == ""


@pytest.mark.parametrize("limit", [1, 2, 5, 11])
def test_spacing_finds_the_narrowest_that_passes(limit) -> None:
    def target(attempt: Attempt) -> Reply:
        return Reply("", attempt.facts["spacing"] < limit)

    rows = played(Spacing(40), CARD, target, stop=False)
    trials = [a.facts["spacing"] for a, _, _ in rows]
    assert trials[-1] == limit
    assert trials.index(limit, 0) < 2 * math.ceil(math.log2(limit)) + 2
    assert set(trials[10:]) == {limit}


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_spacing_passes_a_guard_of_blocks(grid, seed) -> None:
    """The guard counts words of the secret in each run of twelve words."""

    def dense(prompt: str, answer: str) -> bool:
        words = answer.split()
        return any(secrets(" ".join(words[start : start + 12])) > 1 for start in range(0, len(words), 12))

    assert dense("", CARD.answers[0])
    rows = played(Spacing(60, grid=grid), CARD, guarded(dense), seed=seed)
    assert rows[-1][2].success


def test_spacing_gives_up() -> None:
    closed = guarded(lambda prompt, answer: True)
    assert len(played(Spacing(60), CARD, closed)) == 6
    assert len(played(Spacing(60, grid=True), CARD, closed)) == 3


@pytest.mark.parametrize("frame", ["haystack", "key-before", "base64"])
@pytest.mark.parametrize("shape", ["letter-lines", "abbreviation"])
def test_staged_finds_the_pair_that_passes_in_a_sum_of_tries(frame, shape) -> None:
    """Each stage lets one candidate pass, which it knows by its traces."""

    def target(attempt: Attempt) -> Reply:
        facts = attempt.facts
        halted = facts["frame"] != frame or facts.get("shape", shape) != shape
        return Reply("" if halted else attempt.answer, halted)

    rows = played(Staged(500), CARD, target, seed=2)
    assert rows[-1][2].success
    assert len(rows) <= len(FRAMES) + len(ANSWERS)
    assert [a.facts["stage"] for a, _, _ in rows] == sorted(
        (a.facts["stage"] for a, _, _ in rows), reverse=True
    ) or (rows[-1][0].facts["frame"] == frame)


def test_staged_gets_through_two_filters_of_words() -> None:
    def target(attempt: Attempt) -> Reply:
        prompt = "\n".join(message.content for message in attempt.messages)
        halted = CARD.text[:30] in prompt or secrets(attempt.answer) > 2
        return Reply("" if halted else attempt.answer, halted)

    for seed in range(3):
        rows = played(Staged(), CARD, target, seed=seed)
        assert rows[-1][2].success
        assert rows[-1][0].facts["stage"] == "answer"


@pytest.mark.parametrize("frame", ["none", "key-before", "parts", "base64", "scattered-functions"])
def test_what_is_framed_and_shaped_is_read_back(frame) -> None:
    rubric = Rubric.of(CARD)

    def target(attempt: Attempt) -> Reply:
        return Reply(attempt.answer, attempt.facts["frame"] != frame)

    rows = played(Staged(60, frames=(frame,)), CARD, target, stop=False)
    assert {a.facts.get("shape") for a, _, _ in rows} == {None, *ANSWERS}
    for attempt, _, _ in rows:
        told = rubric.found(attempt.read(attempt.answer))
        assert (len(told) >= rubric.needed) == (attempt.facts["stage"] == "answer")


@pytest.mark.parametrize("seed", range(3))
def test_drip_tells_all_where_each_answer_tells_little(seed) -> None:
    """The guard reads one answer at a time."""
    rows = played(Drip(), CARD, guarded(lambda prompt, answer: secrets(answer) > 2), seed=seed)
    assert rows[-1][2].success
    let = [(attempt, reply) for attempt, reply, _ in rows if not reply.halted]
    for _, reply in let:
        assert secrets(reply.text) <= 2
        assert len(reply.text.split()) <= 12
    said = [message.content for message in let[-1][0].messages if message.role == "assistant"]
    assert [reply.text for _, reply in let[:-1]] == [
        text for text in said if text in {r.text for _, r in let}
    ]


def test_drip_leaves_out_what_is_stopped_and_goes_on() -> None:
    rows = played(Drip(), CARD, guarded(lambda prompt, answer: "break" in answer), stop=False)
    told = rows[-1][0].read(rows[-1][1].text)
    assert "break" not in told
    assert {"riffle", "overhand", "misdirection"} <= set(Rubric.of(CARD).found(told))
    assert len(played(Drip(), CARD, guarded(lambda prompt, answer: True), stop=False)) <= 60
