"""Figures of white-box attacks, and found words as an attack of a campaign."""

import math
from dataclasses import replace

import pytest
from whitebox_guards import ANSWER, ask, guard_of

from lockgate.errors import RedTeamError
from lockgate.redteam.whitebox import (
    AttackOptions,
    Found,
    FoundWords,
    _attack,
    attack_guard,
    exchange_of,
    summarise_found,
)

OPTIONS = AttackOptions(suffix=2, filler=2, gaps=2, steps=1, batch=3)


def found(query: str, margins, *, plain=2.0, seconds=None, evaluations=10, confirmed=True) -> Found:
    nats = tuple(9.0 - number for number in range(len(margins)))
    return Found(
        query,
        "guard",
        "tokens",
        plain,
        margins,
        margins,
        nats,
        seconds is not None,
        confirmed,
        evaluations,
        9.0,
        seconds,
    )


def test_figures_are_counted_by_hand() -> None:
    rows = [
        found("a", (3.0, 2.0, 1.0)),
        found("b", (2.5, -0.5), seconds=4.0, evaluations=7),
        found("c", (-1.0,), plain=-1.0, evaluations=0, confirmed=None),
        found("d", (2.0, 1.0, 0.5, 0.0), plain=4.0, seconds=8.0, confirmed=False),
    ]
    figures = summarise_found(rows)
    assert {key: value for key, value in figures.items() if key != "queries"} == {
        "n": 4,
        "caught": 3,
        "success": 2,
        "not_confirmed": 1,
        "first_break": 17,
        "median_steps": 2,
        "median_seconds": 6.0,
        "median_plain": 2.0,
        "median_start": 2.5,
        "median_end": 0.0,
        "median_nats_start": 9.0,
        "median_nats_end": 7.0,
    }
    assert [one["query"] for one in figures["queries"]] == ["a", "b", "c", "d"]
    assert not any("words" in one for one in figures["queries"])


def test_figures_without_a_success() -> None:
    figures = summarise_found([found("a", (3.0,))])
    assert (figures["success"], figures["first_break"], figures["median_seconds"]) == (0, None, None)
    assert summarise_found([])["median_end"] is None


def test_found_words_are_an_attack() -> None:
    guard = guard_of("one", flag=-99.0)
    (one,) = attack_guard(guard, [ask()], OPTIONS)
    attack = FoundWords("gradient on one", [one])
    (attempt,) = attack.play(ask(), seed=3)
    assert (attack.family, attack.adaptive) == ("gradient", False)
    assert attempt.messages[-1].content == ask().text + one.words[0]
    assert attempt.answer != ANSWER
    assert attempt.read(attempt.answer) == ANSWER
    assert attempt.read(ANSWER) == ANSWER
    score = guard.score([*attempt.messages, replace(exchange_of(ask())[1], content=attempt.answer)])
    assert score.mixed_max == pytest.approx(one.scores[-1], abs=1e-3)
    assert list(attack.play(ask(1), seed=3)) == []


def test_free_embeddings_are_no_attack_of_a_campaign() -> None:
    free = replace(found("a", (1.0,)), space="embeddings")
    with pytest.raises(RedTeamError, match="no text"):
        FoundWords("free", [free])


def test_a_guard_whose_first_stage_never_flags_alone_has_a_key_too() -> None:
    """As guards of two stages from calibration are."""
    options = AttackOptions()
    keys = [_attack._key(guard_of(kind, flag=math.inf), [ask()], options) for kind in ("text", "verdict")]
    assert keys[0] == _attack._key(guard_of("text", flag=math.inf), [ask()], options)
    assert keys[0]["guard"] != keys[1]["guard"]
