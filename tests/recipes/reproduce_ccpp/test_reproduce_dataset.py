import json
from pathlib import Path

import pytest
from models import tiny_backbone

from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, Message, read_exchanges, write_exchanges
from recipes.reproduce_ccpp import dataset
from recipes.reproduce_ccpp.dataset import Sizes, choose_judged, choose_parts, marked, write_parts

SIZES = Sizes(calibration=6, benign_test=5, harmful=7, limit=90)
WORDS = (
    "lock",
    "water",
    "gates",
    "boat",
    "canal",
    "mill",
    "bridge",
    "orchard",
    "wall",
    "tower",
    "field",
    "road",
)


def row(number: int, label: float = 0.0, source: str = "some", long: bool = False) -> Exchange:
    word, other = WORDS[number % 12], WORDS[number // 12]
    ask = f"what of the {word} and its {other} {number}"
    return Exchange(
        (Message("user", ask), Message("assistant", "the lock " * (40 if long else 2))), label, None, source
    )


def write_inputs(folder: Path, test: int = 3) -> Path:
    parts = {
        "train": [row(0, 1.0), row(1), row(2, source="own_catqa")],
        "dev": [row(3)],
        "hard_benign": [row(4)],
        # One in four is too long; the last of those that fit tops up the test.
        "calibration": [row(10 + i, long=i % 4 == 0) for i in range(16)],
        "benign_test": [row(30), row(31, long=True), row(32), row(33)][: test + 1],
        "test_saferlhf_mini": [row(40 + i, float(i % 2)) for i in range(6)],
        "test_own_sgbench": [row(50, 1.0), row(51), row(52)],
        "test_gptfuzz": [row(60, 1.0, long=True), row(61, 1.0)],
        "test_adaptive_attacks": [row(70, 1.0, long=True)],
    }
    for name, rows in parts.items():
        write_exchanges(folder / f"{name}.jsonl", rows)
    return folder


def chosen(folder: Path, sizes: Sizes = SIZES) -> dict[str, list[tuple[Exchange, int]]]:
    return choose_parts(folder, tiny_backbone().render, sizes)


def test_parts_are_the_first_that_fit_and_test_is_topped_up(tmp_path: Path) -> None:
    parts = chosen(write_inputs(tmp_path))
    ids = {name: [exchange.id for exchange, _ in rows] for name, rows in parts.items()}
    fitting = [row(10 + i).id for i in range(16) if i % 4]
    assert ids["calibration"] == fitting[:6]
    assert ids["benign_test"] == [row(30).id, row(32).id, row(33).id, *fitting[6:8]]
    assert all(tokens <= 90 for name in ("calibration", "benign_test") for _, tokens in parts[name])
    assert len(parts["train"]) == 3


def test_topping_up_passes_over_prompts_that_are_taken(tmp_path: Path) -> None:
    folder = write_inputs(tmp_path)
    pool = list(read_exchanges(folder / "calibration.jsonl"))
    fitting = [item for i, item in enumerate(pool) if i % 4]
    again = Exchange((fitting[0].messages[0], Message("assistant", "another")), 0.0)
    write_exchanges(folder / "calibration.jsonl", [*fitting[:6], again, *fitting[6:]])
    assert again.id not in {exchange.id for exchange, _ in chosen(folder)["benign_test"]}


def test_the_harmful_part_takes_all_that_fits_then_harmless_of_the_same_sets(tmp_path: Path) -> None:
    parts = chosen(write_inputs(tmp_path))
    judged = [exchange for name in dataset.HARMFUL_SETS for exchange, _ in parts[f"test_{name}"]]
    assert len(judged) == 7
    assert sum(exchange.label or 0 for exchange in judged) == 5
    assert [exchange.id for exchange, _ in parts["test_saferlhf_mini"]] == [
        row(40 + i).id for i in (0, 1, 3, 5)
    ]
    assert [exchange.id for exchange, _ in parts["long_adaptive_attacks"]] == [row(70, long=True).id]
    assert "long_saferlhf_mini" not in parts


def test_more_harmful_rows_than_wanted_are_cut_in_turn() -> None:
    sets = {"a": [(row(i, 1.0), 1) for i in range(5)], "b": [(row(9, 1.0), 1), (row(8), 1)]}
    found = choose_judged(sets, 4)
    assert [len(rows) for rows in found.values()] == [3, 1]
    assert choose_judged({}, 4) == {}


@pytest.mark.parametrize(
    ("exchange", "asked"),
    [
        (row(1, 1.0), True),
        (row(1), False),
        (row(1, source="own_advbench"), True),
        (row(1, source="gptfuzz"), True),
        (row(1, 1.0, source="hh_harmless_test"), True),
        (row(1, source="hh_harmless_test"), None),
    ],
)
def test_what_asks_for_harm_is_marked(exchange: Exchange, asked: bool | None) -> None:
    assert marked(exchange).meta["harmful_request"] is asked
    assert marked(exchange).id == exchange.id


def test_too_few_rows_and_shared_prompts_are_errors(tmp_path: Path) -> None:
    folder = write_inputs(tmp_path)
    with pytest.raises(
        ExchangeError, match=r"calibration\.jsonl: 12 exchanges of at most 90 tokens, expected 40"
    ):
        chosen(folder, Sizes(calibration=40, benign_test=1, harmful=1, limit=90))
    with pytest.raises(
        ExchangeError, match=r"benign_test\.jsonl: 9 exchanges of at most 90 tokens, expected 30"
    ):
        chosen(folder, Sizes(calibration=6, benign_test=30, harmful=1, limit=90))
    write_exchanges(folder / "train.jsonl", [row(11)])
    with pytest.raises(ExchangeError, match="train and calibration share a prompt"):
        chosen(folder)


def test_the_record_holds_counts_and_hashes_and_repeats(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    folder = write_inputs(tmp_path / "in")
    for run in ("a", "b"):
        write_parts(chosen(folder), tmp_path / run, folder, SIZES, tmp_path / run)
    first, second = ((tmp_path / run / "dataset.json").read_text() for run in ("a", "b"))
    assert first == second
    record = json.loads(first)
    assert record["parts"]["calibration"]["rows"] == 6
    assert record["parts"]["test_own_sgbench"]["sources"] == {"some": {"harmful": 1, "harmless": 1}}
    assert set(record["inputs"]) == {path.name for path in folder.iterdir()}
    assert len(list(read_exchanges(tmp_path / "a" / "calibration.jsonl"))) == 6
