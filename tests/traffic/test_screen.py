"""A screen keeps for training what stage 1 hands to stage 2, and a stable draw of the rest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from classifying import tiny_classifier
from parts import make_exchange, make_guard

from lockgate.cascade import Cascade
from lockgate.errors import ConfigError, GuardError
from lockgate.exchanges import Exchange, write_exchanges
from lockgate.guards import Guard
from lockgate.traffic import ScreenPlan, screen_exchanges, screen_threshold


def rows() -> list[Exchange]:
    made = [replace(make_exchange(i, 1 + 5 * i % 19), label=float(i % 5 == 4)) for i in range(40)]
    made[7] = replace(made[7], label=None)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("labelled")
    write_exchanges(folder / "a.jsonl", rows()[:23])
    write_exchanges(folder / "b.jsonl", rows()[23:])
    return [folder / "a.jsonl", folder / "b.jsonl"]


def screened(guard: Guard, row: Exchange) -> float:
    found = guard.score(row.messages)
    return float(np.nanmax([found.max_prompt, found.max_answer]))


@pytest.mark.parametrize("flag_on", ["both", "answer"])
@pytest.mark.parametrize("drift", [0.0, 2.0])
def test_what_passes_is_what_the_cascade_hands_over(files, tmp_path, flag_on, drift) -> None:
    probe = make_guard(flag_on=flag_on)
    harmless = [row for row in rows() if row.label == 0.0]
    escalate = float(np.median([screened(probe, row) for row in harmless])) - drift / 4
    cascade = Cascade(escalate=escalate, flag=0.0, weight=0.5, drift=drift)
    guard = probe.with_cascade(tiny_classifier(), cascade).save(tmp_path / "guard")
    asked = {row.id for row in harmless if guard.score(row.messages).stage == 2}
    assert 5 < len(asked) < len(harmless) - 5
    above = {row.id for row in harmless if screened(probe, row) > escalate}
    assert asked < above if drift else asked == above
    found = screen_exchanges(guard, files, ScreenPlan(keep=0.0), tmp_path)
    wanted = [row.id for row in rows() if row.label == 1.0 or row.id in asked]
    assert [row.id for row in found.rows] == wanted
    assert found.facts["counts"] == {
        "harmful": 8,
        "above": len(asked),
        "drawn": 0,
        "left_out": len(harmless) - len(asked),
        "unusable": 1,
    }
    assert (found.facts["above"], found.facts["guard"]["sha256"]) == (escalate, guard.sha256)


def test_the_draw_depends_on_each_row_and_the_seed_alone(files, tmp_path) -> None:
    guard = make_guard().save(tmp_path / "guard")

    def drawn(keep: float, seed: int = 0, used: list[Path] = files) -> set[str]:
        plan = ScreenPlan(keep=keep, above=1e9, seed=seed)
        return {row.id for row in screen_exchanges(guard, used, plan, tmp_path).rows if row.label == 0.0}

    some = drawn(0.5)
    assert 5 < len(some) < 26
    assert drawn(0.2) < some < drawn(1.0)
    assert drawn(0.5, used=files[:1]) | drawn(0.5, used=files[1:]) == some
    assert drawn(0.5, seed=1) != some
    assert len(drawn(1.0)) == 31


def test_a_screen_without_a_threshold_or_a_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="screen: the guard has one stage"):
        screen_threshold(make_guard().save(tmp_path / "guard"), ScreenPlan())
    with pytest.raises(GuardError, match="save the guard"):
        screen_threshold(make_guard(), ScreenPlan(above=1.0))
    for settings, words in (
        ({"keep": 1.5}, "screen_keep is 1.5"),
        ({"above": float("inf")}, "screen_above"),
        ({"workers": 0}, "workers is 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            ScreenPlan(**settings)
