"""The shipped guard gives a few fixed exchanges the same scores as when its figures were made."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

import lockgate
from lockgate.exchanges import read_exchanges
from lockgate.guards import ExchangeScore, Guard

SMOKE = Path(__file__).parent / "smoke"
# A thousandth of the logits' spread (about 1): what other machines and library builds may move one.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def guard() -> Guard:
    return lockgate.load("embedded")


def number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def assert_same(found: ExchangeScore, kept: dict[str, Any]) -> None:
    for name in ("max_prompt", "max_answer", "max_score", "mixed_max", "classifier_max"):
        expected = pytest.approx(number(kept[name]), abs=TOLERANCE, nan_ok=True)
        assert getattr(found, name) == expected, name
    for name in ("flagged", "stage", "tokens", "tokens_stage2", "category", "flag_token"):
        assert getattr(found, name) == kept[name], name
    assert len(found.blocks) == len(kept["blocks"])
    for block, expected_block in zip(found.blocks, kept["blocks"], strict=True):
        expected = pytest.approx([number(value) for value in expected_block], abs=TOLERANCE, nan_ok=True)
        assert list(block) == expected


@pytest.mark.embedded
@pytest.mark.parametrize("kind", ["served", "all_blocks"])
def test_the_shipped_guard_scores_the_smoke_exchanges_as_before(guard, kind) -> None:
    rows = list(read_exchanges(SMOKE / "exchanges.jsonl"))
    kept = [line for line in json.loads((SMOKE / "scores.json").read_text()) if line["kind"] == kind]
    found = list(guard.score_many(rows, all_blocks=kind == "all_blocks"))
    assert len(found) == len(kept) == len(rows)
    assert {line["stage"] for line in kept} == {1, 2} or kind == "all_blocks"
    for score, line in zip(found, kept, strict=True):
        assert_same(score, line)
