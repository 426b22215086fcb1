"""The record of a build's choices comes from its steps, and a build that has not chosen is named."""

import json
from pathlib import Path

import pytest

from lockgate.exchanges import Exchange, Message, write_exchanges
from recipes.policy_portability import small_fit
from recipes.policy_portability.policy_pairs import load_policies

BUCKET, ENTRIES = next(iter(load_policies()["magic-school"].buckets.items()))
ENTRY = ENTRIES[0].id
COUNTS = dict.fromkeys(small_fit._COUNTS, 3) | {"dropped": {"why": 1}}


def made(folder: Path) -> Path:
    (folder / "steps").mkdir(parents=True)
    (folder / "data").mkdir()
    steps = {
        "rows": {"counts": COUNTS},
        "train": {"choice": {"chosen": "a", "tried": []}, "held_out": {"scores": [0.5]}},
        "voice": {"kept": False, "reason": "no traffic"},
    }
    for name, content in steps.items():
        (folder / "steps" / f"{name}.json").write_text(json.dumps({"content": content, "seconds": 1.5}))
    card = {"plan": {"answers": {"most": 480}}, "generator": "tiny"}
    (folder / "data" / "card.json").write_text(json.dumps(card))
    turns = (Message("user", "Which one?"), Message("assistant", "That one."))
    rows = [
        Exchange(turns, 0.0, ENTRY, "made", {"role": "harmless"}),
        Exchange(turns, 1.0, "opinions-on-shows", "made", {"role": "compliant"}),
        Exchange(turns, 0.0, None, "made"),
    ]
    write_exchanges(folder / "training.jsonl", rows)
    return folder


def test_the_record_holds_choices_and_no_scores(tmp_path) -> None:
    folder, summary = made(tmp_path / "build"), tmp_path / "small_fit.json"
    small_fit.main([f"--build=magic-school={folder}", f"--summary={summary}"])
    found = json.loads(summary.read_text())["builds"]["magic-school"]
    assert (found["fit"]["chosen"], found["voice"]["kept"], found["most_answers"]) == ("a", False, 480)
    assert found["seconds"] == {"rows": 1.5, "train": 1.5, "voice": 1.5}
    assert found["training_roles"] == {"compliant": 1, f"harmless/{BUCKET}": 1, "not synthetic": 1}
    assert "dropped" not in found["rows"]
    assert "scores" not in summary.read_text()


def test_a_build_that_has_not_chosen_is_named(tmp_path) -> None:
    folder, summary = made(tmp_path / "build"), tmp_path / "small_fit.json"
    (folder / "steps" / "voice.json").unlink()
    with pytest.raises(SystemExit, match=r"voice\.json: missing"):
        small_fit.main([f"--build=magic-school={folder}", f"--summary={summary}"])
    with pytest.raises(SystemExit, match="NAME=DIR"):
        small_fit.main([f"--build=tea={folder}", f"--summary={summary}"])
    assert not summary.exists()
