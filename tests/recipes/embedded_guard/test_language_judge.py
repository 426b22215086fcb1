"""A language model as a further judge: what it learns from, which blocks it reads, how voices are mixed."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from classifying import random_classifier
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_backbone

from lockgate.cascade import Cascade, simulate
from lockgate.classifiers import score_blocks
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.tables import BlockTrace
from recipes.embedded_guard import language_judge, two_stages
from recipes.embedded_guard.language_judge import LONGEST, SHORTEST, judged_blocks, shortened, verdicts_of
from recipes.embedded_guard.two_stages import VoiceShare

WORDS = ["canal", "lock", "gate", "bridge", "mill", "orchard", "boat", "water", "path", "towpath"]
CASCADE = Cascade(escalate=0.5, flag=np.inf, weight=0.5, stride=8, calm_blocks=1, drift=0.4)


def make_row(number: int, size: int = 30, label: float = 0.0, source: str = "made") -> Exchange:
    answer = " ".join(np.random.default_rng(number).choice(WORDS, size))
    return Exchange(
        (Message("user", f"the mill {number}?"), Message("assistant", answer)), label, None, source
    )


def traced(rows: list[Exchange], probe) -> BlockTrace:
    """A trace whose blocks are those of the rows, with these readings of the probe."""
    ends = [found.ends for found in score_blocks(random_classifier(tiny_backbone()), rows)]
    return BlockTrace.from_rows(
        (number, own, probe(number, len(own)), None) for number, own in enumerate(ends)
    )


def hot(number: int, blocks: int):
    return np.random.default_rng(number).normal(size=blocks)


def test_the_judge_reads_what_the_screen_asks_about_and_as_it_reads_whole_exchanges() -> None:
    classifier = random_classifier(tiny_backbone(), seed=3)
    rows = [make_row(number, size=int(5 + number % 40)) for number in range(90)]
    trace = traced(rows, hot)
    asked = [judged_blocks(trace, number, CASCADE) for number in range(len(rows))]
    found = dict(verdicts_of(classifier, rows, trace, asked))
    whole = np.concatenate([own.logits for own in score_blocks(classifier, rows)])
    lines = sorted(line for own in asked for line in own)
    assert sorted(found) == lines
    assert 50 < len(lines) < len(trace)
    np.testing.assert_allclose([found[line] for line in lines], whole[lines], atol=1e-4)


@given(st.integers(0, 200), st.floats(-2, 2))
def test_the_asked_blocks_do_not_depend_on_the_verdicts(number, escalate) -> None:
    probe = hot(number, 12)
    trace = BlockTrace.from_rows([(0, [0, *range(8, 96, 8)], probe, None)])
    cascade = replace(CASCADE, escalate=escalate)
    asked = judged_blocks(trace, 0, cascade)
    verdicts = np.full(12, np.nan)
    verdicts[asked] = hot(number + 1, len(asked))
    # A block without a verdict would be an error here.
    assert list(simulate(trace.probe, verdicts, cascade, flag_on="answer").judged_blocks) == asked


def test_answers_are_cut_alike_for_both_labels_and_keep_their_beginning() -> None:
    backbone = tiny_backbone()
    for number in range(30):
        row = make_row(number, size=400)
        cut = shortened(row, backbone)
        assert cut.messages[:-1] == row.messages[:-1]
        assert row.messages[-1].content.startswith(cut.messages[-1].content)
        chat = backbone.render(cut.messages)
        assert SHORTEST - 2 <= chat.answer_end - chat.answer_start <= LONGEST
        harmful = shortened(Exchange(row.messages, 1.0, None, "made"), backbone)
        assert harmful.messages == cut.messages
    short = make_row(1, size=3)
    assert shortened(short, backbone) is short


def test_training_rows_hold_every_source_of_harm_and_the_hardest_others(monkeypatch) -> None:
    monkeypatch.setattr(language_judge, "HARDEST", 7)
    rows = [make_row(number, label=float(number % 2), source="attacks") for number in range(40)]
    rows += [make_row(100 + number, source="near_policy") for number in range(20)]
    rows += [make_row(200 + number, source="ordinary") for number in range(40)]
    rows += [make_row(300 + number, label=1.0, source="own_made") for number in range(10)]
    chosen = language_judge.training_rows(rows, tiny_backbone())
    assert Counter(row.source for row in chosen) == {"attacks": 40, "near_policy": 20, "ordinary": 7}
    kept = [row for row in rows if not row.source.startswith("own_")]
    logits = language_judge.crossed_scores(kept)
    prompts = {row.messages[0].content for row in chosen if row.source == "ordinary"}
    ordinary = [number for number, row in enumerate(kept) if row.source == "ordinary"]
    taken = [number for number in ordinary if kept[number].messages[0].content in prompts]
    assert min(logits[taken]) >= max(logits[list(set(ordinary) - set(taken))])


def test_a_mixture_is_the_weighted_sum_of_its_standardised_voices() -> None:
    trace = BlockTrace.from_rows([(0, [0, 8, 16], [1.0, 2.0, 3.0], [5.0, 6.0, 7.0])])
    voices = {"a": np.array([1, 2, 3], np.float32), "b": np.array([np.nan, 0, 4], np.float32)}
    trace = replace(trace, voices=voices)
    mixed = two_stages.verdicts_of(trace, (VoiceShare("a", 0.25, 2.0, 0.5), VoiceShare("b", 0.75, 1.0, 3.0)))
    assert np.isnan(mixed[0])
    np.testing.assert_allclose(mixed[1:], [0.75 * (0 - 1) / 3, 0.25 * 1 / 0.5 + 0.75 * (4 - 1) / 3])
    assert two_stages.verdicts_of(trace, "a") is voices["a"]
    assert two_stages.verdicts_of(trace, None) is trace.classifier


def test_a_part_is_read_once_and_keeps_its_other_voices(tmp_path, monkeypatch) -> None:
    classifier, rows = random_classifier(tiny_backbone()), [make_row(number) for number in range(6)]
    monkeypatch.setattr(language_judge, "RESULTS", tmp_path)
    (tmp_path / "two_stage").mkdir()
    write_exchanges(tmp_path / "dev.jsonl", rows)
    trace = traced(rows, hot)
    other = np.arange(len(trace), dtype=np.float32)
    path = tmp_path / "two_stage" / "dev.blocks.parquet"
    replace(trace, voices={"text": other}).write(path)
    ids = [row.id for row in rows]
    highest = np.full(6, 9.0)
    first = two_stages.FirstStage(ids, ids, ["made"] * 6, np.zeros(6), np.zeros(6), highest, highest)
    screen = two_stages.Screen(0.5, 0.0)
    table = type("Table", (), {"ids": ids})
    monkeypatch.setattr(language_judge.ScoresTable, "read", lambda _: table)
    language_judge.read_part(classifier, "dev", first, screen, CASCADE, tmp_path)
    read = BlockTrace.read(path)
    np.testing.assert_array_equal(read.voices["text"], other)
    asked = [line for number in range(6) for line in judged_blocks(trace, number, CASCADE)]
    assert np.flatnonzero(np.isfinite(read.voices["language"])).tolist() == asked
    (tmp_path / "dev.jsonl").unlink()
    language_judge.read_part(classifier, "dev", first, screen, CASCADE, tmp_path)
    table.ids = ids[1:]
    (tmp_path / "dev.language").unlink()
    with pytest.raises(SystemExit, match="run second_stage first"):
        language_judge.read_part(classifier, "dev", first, screen, CASCADE, tmp_path)
