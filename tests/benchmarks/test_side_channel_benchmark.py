"""What the benchmark of the side channel makes of pieces and records: hand-computed and known figures."""

import math
from dataclasses import replace

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from benchmarks import side_channel
from benchmarks.decision_log import record
from benchmarks.side_channel import (
    DISGUISES,
    RELEASES,
    Asked,
    Piece,
    Seen,
    area,
    cost,
    estimate,
    figures,
    median,
    questions,
    rank_correlation,
    statistics,
    stream,
    words,
)
from lockgate.decisions import Scores
from lockgate.evaluation import auroc
from lockgate.redteam import load_queries

FLAG = 3.0


def seen(base: str, sizes, mixed: float | None, *, decision="pass", slow: float = 1.0) -> Seen:
    """An answer whose pieces come at their last token, one token a second; asked about if it has a score."""
    ends = np.cumsum(sizes)
    pieces = [
        Piece(slow * float(end), 4 * int(size), int(size)) for end, size in zip(ends, sizes, strict=True)
    ]
    made = record(0)
    fields = {field: getattr(made, field) for field in made.__struct_fields__}
    scores = Scores(-1.0, -1.0, 0.0, mixed)
    fields |= {"decision": decision, "scores": scores, "stage": 1 if mixed is None else 2}
    return Seen(Asked(base, "plain", [], 0), pieces, type(made)(**fields))


def test_statistics_by_hand() -> None:
    pieces = [Piece(0.5, 3, 1), Piece(1.0, 9, 2), Piece(1.25, 2, 1), Piece(2.25, 5, 1)]
    assert statistics(pieces) == {"characters": 9.0, "tokens": 2.0, "gap": 2.0, "first": 1.0}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_pieces_have_no_gaps_to_compare(count) -> None:
    found = statistics([Piece(float(number), 3, 1) for number in range(count)])
    assert math.isnan(found["gap"])
    assert math.isnan(found["first"])
    assert math.isnan(found["characters"]) == (count == 0)


def test_held_streams_show_by_token_and_not_in_blocks() -> None:
    """A held stream leaves in eights in both settings. A calm one leaves so only in blocks."""
    mixed = [None, 1.0, None, 2.5, None, -1.0]
    by_token = [seen(str(n), [1] * 24 if score is None else [8] * 3, score) for n, score in enumerate(mixed)]
    by_block = [seen(str(n), [8] * 3, score) for n, score in enumerate(mixed)]
    told = figures(by_token, FLAG)
    assert (told["exchanges"], told["passed"], told["asked"], told["questions"]) == (6, 6, 3, 6)
    for name in ("characters", "tokens"):
        assert told["auroc"][name] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 6, "questions": 6}
        blind = figures(by_block, FLAG)["auroc"][name]
        assert (blind["value"], blind["low"], blind["high"]) == (0.5, 0.5, 0.5)
        assert figures(by_block, FLAG)["closeness"][name]["value"] is None


def test_what_was_halted_does_not_count() -> None:
    rows = [seen("a", [8], 5.0, decision="halt"), seen("b", [1] * 9, None), seen("c", [], 1.0)]
    assert figures(rows, FLAG)["passed"] == 1


def test_closeness_ranks_the_mixed_scores_of_those_that_were_asked_about() -> None:
    """The larger the largest piece, the further from the flag."""
    rows = [seen(str(size), [size, 1, 1], 4.0 - size) for size in range(2, 9)]
    rows += [seen(f"calm-{number}", [1] * 9, None) for number in range(3)]
    found = figures(rows, FLAG)["closeness"]["tokens"]
    assert (found["value"], found["n"]) == (-1.0, 7)


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=20)


def again(rows):
    """Two columns, their weights, and the columns with each row as often as its weight says."""
    first, second, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    times = weights.astype(int)
    return (first, second, weights[None]), (np.repeat(first, times), np.repeat(second, times))


@given(ROWS)
@settings(max_examples=40)
def test_the_weighted_rank_correlation_is_spearmans_over_repeated_rows(rows) -> None:
    weighted, (first, second) = again(rows)
    (found,) = rank_correlation(*weighted)
    if len(set(first)) < 2 or len(set(second)) < 2:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic)


@given(ROWS)
@settings(max_examples=40)
def test_the_weighted_area_is_that_of_repeated_rows(rows) -> None:
    rows = [(score, label > 2, times) for score, label, times in rows]
    weighted, (scores, asked) = again(rows)
    (found,) = area(*weighted)
    assert found == pytest.approx(auroc(scores, asked > 0) if len(scores) else math.nan, nan_ok=True)


@given(ROWS)
@settings(max_examples=40)
def test_the_weighted_median_is_that_of_repeated_rows(rows) -> None:
    rows = [(value, other, times + 1) for value, other, times in rows]
    weighted, (values, _) = again(rows)
    assert median(*weighted).tolist() == [np.median(values)]


def test_forms_of_a_question_are_drawn_together() -> None:
    """Copies of each row under the same question tell nothing more."""
    rng = np.random.default_rng(1)
    scores, asked = rng.normal(size=30), (np.arange(30) % 2 == 0).astype(float)
    bases = np.arange(30)
    once = estimate(area, scores, asked, bases)
    fourfold = estimate(area, np.tile(scores, 4), np.tile(asked, 4), np.tile(bases, 4))
    assert (fourfold["n"], fourfold["questions"]) == (120, 30)
    for end in ("value", "low", "high"):
        assert fourfold[end] == pytest.approx(once[end], abs=0.02)
    assert once["low"] < once["value"] < once["high"]


def test_the_cost_is_a_ratio_of_pairs() -> None:
    tokens = [seen(str(n), [1] * 16, None, slow=1.0 + n) for n in range(5)]
    blocks = [seen(str(n), [8] * 2, None, slow=1.0 + n) for n in range(5)]
    blocks[0] = replace(blocks[0], pieces=())
    found = cost({"token": tokens, "block": blocks})
    assert found["first"] == {"value": 8.0, "low": 8.0, "high": 8.0, "n": 4, "questions": 4}
    assert found["whole"]["value"] == 1.0


def test_only_permitted_questions_are_asked_and_always_the_same() -> None:
    found = list(questions(2))
    assert found == list(questions(2))
    refused = [query.text for name in side_channel.SETS for query in load_queries(name).queries]
    sent = [message["content"] for one in found for message in one.messages]
    assert not [text for text in sent if any(query in text for query in refused)]
    assert {one.kind for one in found} == {"plain", "harmless", *DISGUISES}
    assert {one.seed for one in found} == {0, 1}
    assert len({one.base for one in questions(1, 3)}) == 6


def test_a_stream_is_read_into_pieces() -> None:
    lines = [
        'data: {"id": "chatcmpl-1", "choices": [{"delta": {"role": "assistant", "content": ""}}]}',
        ": ping",
        'data: {"id": "chatcmpl-1", "choices": [{"delta": {"content": "The lock"},'
        ' "logprobs": {"content": [{}, {}]}}]}',
        'data: {"id": "chatcmpl-1", "choices": [{"delta": {"content": "!"}, "logprobs": {"content": [{}]}}]}',
        'data: {"id": "chatcmpl-1", "choices": [{"delta": {}, "finish_reason": "stop"}]}',
        "data: [DONE]",
    ]
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, text="\n\n".join(lines)))
    with httpx2.Client(transport=transport, base_url="http://localhost") as client:
        name, pieces = stream(client, Asked("a", "plain", [], 0), 8)
    assert name == "chatcmpl-1"
    assert [(piece.characters, piece.tokens) for piece in pieces] == [(8, 2), (1, 1)]
    assert 0 <= pieces[0].at <= pieces[1].at


def test_the_words_hold_every_figure() -> None:
    rows = [seen(str(n), [1 + n % 3] * 6, None if n % 2 else float(n)) for n in range(8)]
    found = {release: figures(rows, FLAG) for release in RELEASES}
    table, *parts = words({"release": found, "cost": cost({"token": rows, "block": rows})})
    assert len(table.splitlines()) == 2 + len(side_channel.STATISTICS)
    assert parts[:3] == ["4 of 8 answers by token", "4 of 8 answers by block", "8 questions"]
    assert parts[3:] == ["1.00 (1.00 to 1.00) times"] * 2
