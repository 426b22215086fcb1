"""Figures of attacks from tables: hand-made campaigns with known outcomes."""

import json
from pathlib import Path

import pytest
import yaml

from lockgate.redteam import Campaign, Row, load_queries
from lockgate.redteam.attacks import attacks_named
from lockgate.synthesis.factory import FactoryPlan
from recipes.stand_in_guard import attempts, defences, figures
from recipes.stand_in_guard.words import table_of


def row(query: str, *, number: int = 0, attack: str = "plain", success: bool = False, halted: bool = False,
        twin: bool = False, variant: str = "production") -> Row:  # fmt: skip
    return Row(
        variant=variant, attack=attack, family=attack, query=query, seed=0, number=number, twin=twin,
        halted=halted, failed=None, tokens=5, success=success, topics=("a",) if success else (), needed=1,
        full=2.0, refused=False, facts={},
    )  # fmt: skip


def test_a_defence_is_compared_on_the_plays_that_both_campaigns_have() -> None:
    before = [row(f"q{n}", success=True) for n in range(8)] + [row("q9", success=True), row("q0", twin=True)]
    after = [row(f"q{n}", halted=True, success=n == 7) for n in range(8)]
    after += [row("q0", twin=True, halted=True), row("q1", twin=True, halted=True)]
    found = defences.compare(before, after)
    assert found["before"]["n"] == found["after"]["n"] == 8  # q9 has no other side
    assert (found["before"]["success"], found["after"]["success"]) == (1.0, 0.125)
    assert (found["stopped"], found["opened"]) == (7, 0)
    assert found["queries"] == {"better": 7, "worse": 0}
    assert found["p"] == round(0.5**7, 4)
    assert found["twins"] == {"before": {"n": 1, "halted": 0}, "after": {"n": 1, "halted": 1}}


def test_a_lock_out_counts_what_was_won_before_it() -> None:
    flagged = [row("first", number=n, attack="one-bit", halted=True) for n in range(19)]
    early = [row("first", number=19, attack="one-bit", success=True)]
    late = [row("second", number=0, attack="one-bit", success=True)]
    found = defences.detection([*flagged, *early, *late], 20)
    # From twenty exchanges on, more than a tenth of them flagged.
    assert found["alert_after"] == 20
    assert found["before"]["ci"] == [0.1581, 1.0]  # 2 of 2: the lower end is .025 ** (1 / 2)
    assert (found["before"]["success"], found["after"]["success"]) == (1.0, 0.5)
    assert defences.detection([row("first", success=True)], 20)["alert_after"] is None


def test_a_share_of_nothing_is_none() -> None:
    assert defences.share(0, 0) == {"n": 0, "success": None, "ci": [0.0, 1.0]}


def test_a_table_holds_no_text_and_gives_the_same_rows(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(attempts, "TABLES", tmp_path / "tables")
    rows = [row("q0", success=True), row("q1", halted=True)]
    told = [
        {**one.to_dict(), "messages": [{"role": "user", "content": "secret"}], "answer": "secret"}
        for one in rows
    ]
    (tmp_path / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    facts = {name: name for name in attempts._KEPT}
    result = {**facts, "variants": {}, "families": {}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr(attempts, "read_result", lambda path: json.loads(path.read_text()))
    attempts.write_table("made", tmp_path)
    assert b"secret" not in (tmp_path / "tables" / "made.parquet").read_bytes()
    assert attempts.read_table("made") == ({"production": rows}, facts)


@pytest.mark.parametrize("name", ["campaign", "searches", "practice", "before", "undelayed"])
def test_the_campaigns_of_the_recipe_are_valid(name: str) -> None:
    read = Campaign.read(Path(figures.__file__).parent / f"{name}.yaml")
    assert attacks_named(read.attacks, read.depth, read.attempts)
    assert load_queries(read.queries).constitution == "stage-magic"


def test_the_families_held_out_are_those_that_no_training_data_has() -> None:
    campaign = yaml.safe_load((Path(figures.__file__).parent / "campaign.yaml").read_text())
    plan = FactoryPlan.preset("small").augmentation
    trained = (
        (set(plan.families) - set(plan.hold_out)) | {"plain", "composed"} | defences.practised_families()
    )
    played = {one.family for one in attacks_named(campaign["attacks"], 3, campaign["attempts"])}
    assert set(campaign["held_out"]) == played - trained
    assert len(campaign["held_out"]) >= 10


def test_the_committed_figures_follow_from_the_tables_and_the_page_shows_them() -> None:
    found = json.loads(figures.SUMMARY.read_text())
    assert found == json.loads(json.dumps(figures.compute()))
    assert table_of(found) in figures.PAGE.read_text()
