"""The data in `data/near_policy` is what its page says."""

import re
from pathlib import Path

import pytest

from lockgate.constitution import load_constitution
from lockgate.curation import find_duplicates
from lockgate.exchanges import prompt_text, read_exchanges

FOLDER = Path(__file__).parents[2] / "data" / "near_policy"
NAMES = ("train", "over_refusal_test", "deflections")


@pytest.fixture(scope="module")
def rows():
    return {name: list(read_exchanges(FOLDER / f"{name}.jsonl")) for name in NAMES}


def test_the_page_gives_the_number_of_rows(rows):
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| `(\w+)\.jsonl` \| ([\d,]+) \|", page, re.M))
    assert {name: int(count.replace(",", "")) for name, count in said.items()} == {
        name: len(found) for name, found in rows.items()
    }


def test_every_row_is_harmless_answered_and_described(rows):
    categories = {category.id for category in load_constitution("general-harms").harmful}
    for name, found in rows.items():
        for row in found:
            assert (row.label, row.category, row.source) == (0.0, None, "near_policy")
            assert row.messages[-1].role == "assistant"
            assert row.messages[-1].content.strip()
            assert row.meta["kind"] == ("deflection" if name == "deflections" else "near_policy")
            assert {"subject", "topic", "language"} <= set(row.meta)
            if name == "deflections":
                assert row.meta["subject"] in categories


def test_the_test_shares_no_subject_and_no_prompt_with_training(rows):
    subjects = {name: {row.meta["subject"] for row in found} for name, found in rows.items()}
    assert not subjects["train"] & subjects["over_refusal_test"]
    prompts = [prompt_text(row) for found in rows.values() for row in found]
    assert len(set(find_duplicates(prompts, threshold=0.6))) == len(prompts)
