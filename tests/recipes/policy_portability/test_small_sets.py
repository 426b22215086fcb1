"""Figures of the fits and voices on scripted verdicts, and the whole way with guards on a tiny backbone."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_head

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.constitution import dump_constitution
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.guards import Guard
from recipes.policy_portability import small_sets
from recipes.policy_portability.policy_pairs import PAIRS, POLICIES, load_policies
from recipes.policy_portability.small_set_figures import figures
from recipes.policy_portability.small_sets import SCHEMA
from recipes.steps import check_part


def scripted(flags: dict[str, np.ndarray], n: int = 6) -> pa.Table:
    """Pairs with a harmful and a harmless side under each constitution; `flags` by system `[4 * n]`."""
    lines = []
    for system, verdicts in flags.items():
        place = iter(verdicts.tolist())
        for name in POLICIES:
            for pair in range(n):
                for side in "ab":
                    lines.append(
                        {"system": system, "constitution": name, "pair": f"p{pair}", "side": side,
                         "id": f"{pair}{side}", "label": int((side == "a") == (name == POLICIES[0])),
                         "score": 0.0, "flagged": bool(next(place)), "flipped": pair > 0}
                    )  # fmt: skip
    return pa.Table.from_pylist(lines, schema=SCHEMA)


def truth(n: int = 6) -> np.ndarray:
    return np.array([row == 1 for row in scripted({"x": np.zeros(4 * n, bool)}, n)["label"].to_pylist()])


def test_right_and_wrong_verdicts_have_their_figures() -> None:
    right = truth()
    table = scripted({"standard": ~right, "chosen": right, "keyword_answer": np.ones(24, bool)})
    found = figures(table, dict.fromkeys(POLICIES, "chosen"))
    policy = found["policy"]
    assert policy["both_right"]["0"] == {"value": 1.0, "ci": [1.0, 1.0], "n_pairs": 5}
    assert policy["balanced_accuracy"]["0"] == {"value": 1.0, "ci": [1.0, 1.0], "n_pairs": 6}
    assert policy["keywords"]["list"] == "keyword_answer"
    assert policy["keywords"]["both_right"]["value"] == 0.0
    assert policy["keywords"]["balanced_accuracy"]["value"] == 0.5
    assert found["build_minus_standard"]["both_right"]["value"] == 1.0
    assert found["build_minus_chosen"]["both_right"] == {"value": 0.0, "ci": [0.0, 0.0], "n_pairs": 5}
    assert (found["n_pairs"], found["n_flipped"]) == (6, 5)
    assert found["systems"]["standard"][POLICIES[1]]["tpr"] == 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999))
def test_intervals_hold_their_value_and_each_policy_has_what_it_kept(seed) -> None:
    rng = np.random.default_rng(seed)
    right = truth(12)
    table = scripted({name: right ^ (rng.random(48) < 0.3) for name in ("standard", "voice")}, 12)
    found = figures(table, {POLICIES[0]: "standard", POLICIES[1]: "voice"})
    for name, kept in zip(POLICIES, ("standard", "voice"), strict=True):
        assert found["systems"]["build"][name] == found["systems"][kept][name]
    for system in found["systems"].values():
        for part in system.values():
            for figure in (part["both_right"], part["balanced_accuracy"]):
                assert figure["ci"][0] <= figure["value"] <= figure["ci"][1]
    assert found["policy"]["keywords"] == {"list": None, "both_right": None, "balanced_accuracy": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory, saved_backbone):
    folder = tmp_path_factory.mktemp("small")
    backbone = Backbone.load(saved_backbone("llama"))
    for seed, (name, policy) in enumerate(load_policies().items()):
        for offset, system in enumerate(("standard", "chosen")):
            Guard.create(
                name=name,
                backbone=backbone,
                constitution=policy,
                constitution_yaml=dump_constitution(policy),
                head=random_head(backbone, 2 * seed + offset),
                thresholds=Thresholds(flag=0.0, tolerance=1e-3, flag_on="answer"),
            ).save(folder / f"{name}-{system}")
        rows = [
            Exchange((Message("user", f"ask {i}?"), Message("assistant", f"{word} {i}")), float(i % 2))
            for i, word in enumerate(["soup", "palming a deck"] * 10)
        ]
        write_exchanges(folder / f"{name}.jsonl", rows)
    lines = PAIRS.read_text(encoding="utf-8").splitlines(keepends=True)[:8]
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder, saved_backbone("llama")


def test_from_guards_to_figures_and_back(made, tmp_path) -> None:
    folder, backbone = made
    files = [f"--table={tmp_path / 'small.parquet'}", f"--summary={tmp_path / 'policy.json'}"]
    options = [f"--backbone={backbone}", f"--pairs={folder / 'pairs.jsonl'}", *files]
    for name in POLICIES:
        options += [f"--train={name}={folder / name}.jsonl", f"--kept={name}=chosen"]
        options += [f"--guard={name}:{one}={folder / name}-{one}" for one in ("standard", "chosen")]
    small_sets.main(options)
    table = pq.read_table(tmp_path / "small.parquet")
    assert table.schema.names == SCHEMA.names
    assert table.num_rows == 2 * 8 * 4
    one = [
        row for row in table.to_pylist() if (row["system"], row["constitution"]) == ("chosen", "magic-school")
    ]
    guard = Guard.load(folder / "magic-school-chosen", backbone=backbone)
    rows = [row.exchange for row in small_sets.read_pairs(folder / "pairs.jsonl")]
    wanted = list(guard.score_many(rows))
    np.testing.assert_allclose([row["score"] for row in one], [o.mixed_max for o in wanted], atol=1e-4)
    assert [row["flagged"] for row in one] == [o.flagged for o in wanted]
    found = json.loads((tmp_path / "policy.json").read_text())
    assert set(found["systems"]) == {"standard", "chosen", "keyword_answer", "keyword_exchange", "build"}
    small_sets.main([*files, "--check"])
    found["policy"]["both_right"]["0"]["value"] = 0.123
    (tmp_path / "policy.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit, match=r"policy\.json differs from the table: policy"):
        small_sets.main([*files, "--check"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected at least one"),
        (["--guard=magic-school=x"], "expected NAME:SYSTEM=DIR"),
        (["--guard=magic-school:best=x"], "expected NAME:SYSTEM=DIR"),
        (["--guard=magic-school:chosen=x", "--kept=tea=chosen"], "--guard|no such|--kept"),
    ],
)
def test_wrong_names_are_refused(options, message, tmp_path) -> None:
    files = [f"--table={tmp_path / 'small.parquet'}", f"--summary={tmp_path / 'policy.json'}"]
    with pytest.raises(SystemExit, match=message):
        small_sets.main([*options, *files])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not small_sets.TABLE.exists(), reason="not measured yet")
def test_committed_figures_follow_from_the_committed_table() -> None:
    check_part(small_sets.compute(small_sets.TABLE), small_sets.SUMMARY)
