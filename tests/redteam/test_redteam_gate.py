"""The gate: real weakening fails, noise does not, and campaigns that differ are refused."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from lockgate.errors import RedTeamError
from lockgate.redteam import compare_campaigns, read_result


def result(won, **changes):
    """A result with plays `(attack, query, won)`; the family of an attack is its first letter."""
    plays: dict[str, list[list[object]]] = {}
    for attack, query, success in won:
        plays.setdefault(attack, []).append([query, 0, success])
    return {
        "queries": {"sha256": "1"},
        "judge": {"detail": 0.5},
        "attempts": 5,
        "families": {attack: attack[0] for attack in plays},
        "variants": {"v": {"plays": plays}},
        **changes,
    }


def plays_of(share, seed, attacks=("a1", "a2", "b1"), queries=8):
    rng = Random(seed)
    return [(attack, f"q{n}", rng.random() < share) for attack in attacks for n in range(queries)]


def test_a_guard_that_lets_all_of_a_family_through_is_weaker():
    old = [(a, f"q{n}", False) for a in ("a1", "b1") for n in range(8)]
    new = [(a, f"q{n}", a == "a1") for a in ("a1", "b1") for n in range(8)]
    found = {change.family: change for change in compare_campaigns(result(old), result(new), "v", "v")}
    assert (found["a"].weaker, found["a"].worse, found["a"].old, found["a"].new) == (True, 8, 0.0, 1.0)
    assert not found["b"].weaker
    back = compare_campaigns(result(new), result(old), "v", "v")
    assert not any(change.weaker for change in back)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_the_sign_test_is_that_of_scipy(pairs):
    old = [("a1", f"q{n}", before) for n, (before, _) in enumerate(pairs)]
    new = [("a1", f"q{n}", after) for n, (_, after) in enumerate(pairs)]
    [found] = compare_campaigns(result(old), result(new), "v", "v")
    worse = sum(after > before for before, after in pairs)
    better = sum(after < before for before, after in pairs)
    wanted = binomtest(worse, worse + better, alternative="greater").pvalue if worse + better else 1.0
    assert found.p == pytest.approx(wanted)
    assert found.weaker == (found.p <= 0.05)


def test_chance_seldom_fails_a_build():
    """Two samples of one guard: at most one in twenty fails, over all families together."""
    fails = sum(
        any(
            change.weaker
            for change in compare_campaigns(
                result(plays_of(0.4, 2 * seed)), result(plays_of(0.4, 2 * seed + 1)), "v", "v"
            )
        )
        for seed in range(200)
    )
    assert fails <= 10


def test_only_plays_that_both_have_are_compared():
    old, new = [("a1", "q0", False)], [("a1", "q0", False), ("b1", "q0", True)]
    assert [change.family for change in compare_campaigns(result(old), result(new), "v", "v")] == ["a"]
    with pytest.raises(RedTeamError, match="no attack in common"):
        compare_campaigns(result(old), result([("b1", "q0", True)]), "v", "v")


@pytest.mark.parametrize("changes", [{"queries": {}}, {"judge": {}}, {"attempts": 6}])
def test_campaigns_with_other_settings_are_refused(changes):
    plays = plays_of(0.5, 1)
    with pytest.raises(RedTeamError, match=f"{next(iter(changes))}: the two campaigns differ"):
        compare_campaigns(result(plays), result(plays, **changes), "v", "v")


def test_a_variant_that_is_not_there_is_named():
    plays = plays_of(0.5, 1)
    with pytest.raises(RedTeamError, match="no variant x; there are v"):
        compare_campaigns(result(plays), result(plays), "v", "x")


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"variants": []})])
def test_what_is_no_result_is_refused(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(RedTeamError, match=r"result\.json"):
        read_result(path)


@pytest.mark.parametrize("played", [0, 3])
def test_a_family_that_was_hardly_played_does_not_pass(played):
    """An endpoint that fails, or attacks left out, must not look like a guard that holds."""
    old = [(attack, f"q{n}", False) for attack in ("a1", "b1") for n in range(8)]
    new = [*old[:8], *old[8 : 8 + played]]
    with pytest.raises(RedTeamError, match=f"b: the new campaign has {played} of the old one's 8 plays"):
        compare_campaigns(result(old), result(new), "v", "v")
    assert len(compare_campaigns(result(old), result([*new, *old[8:12]]), "v", "v")) == 2


@pytest.mark.parametrize(
    "own",
    [
        None,
        {},
        {"plays": {}},
        {"plays": [], "families": {}},
        {"plays": {"a1": [["q", 0]]}, "families": {}},
        {"plays": {"a1": [["q", "0", True]]}, "families": {}},
        {"plays": {"z9": []}, "families": {}},
        {"plays": {}, "families": {"a": {"ci": None}}},
    ],
)
def test_a_damaged_result_is_named(tmp_path, own):
    path = tmp_path / "result.json"
    whole = result([("a1", "q0", True)])
    path.write_text(json.dumps({**whole, "variants": {"v": own}}))
    with pytest.raises(RedTeamError, match=r"result\.json: expected the result\.json of a campaign"):
        read_result(path)
