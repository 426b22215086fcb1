"""The policy test's figures on scripted verdicts, and its whole way with guards on a tiny backbone."""

import json
from dataclasses import replace

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
from lockgate.exchanges import Exchange, Message, read_exchanges, write_exchanges
from lockgate.guards import Guard
from recipes.policy_portability import evaluate
from recipes.policy_portability.policy_figures import ANY_WORD, SCHEMA, SCORERS, figures
from recipes.policy_portability.policy_pairs import HERE, PAIRS, POLICIES, load_policies, read_pairs
from recipes.steps import check_figures

# (labels under both constitutions of side a, of side b)
KINDS = [((1, 0), (0, 1)), ((1, 0), (0, 0)), ((0, 1), (1, 1)), ((1, 1), (0, 0))]


def scripted(verdicts=None, scores=None) -> pa.Table:
    """A table of four pairs, the last one not flipped; by default every verdict is right."""
    rows = []
    for place, name in enumerate(POLICIES):
        for number, sides in enumerate(KINDS):
            for side, labels in zip("ab", sides, strict=True):
                rows.append((f"p{number}", side, "id", name, f"c{labels[place]}", labels[place]))
    columns = dict(zip(SCHEMA.names[:6], zip(*rows, strict=True), strict=True))
    labels = np.array(columns["label"], bool)
    verdicts = labels if verdicts is None else np.asarray(verdicts, bool)
    content = {name: list(values) for name, values in columns.items()}
    for name in SCORERS:
        given_ = name != "text"
        content[name] = list((verdicts if scores is None else scores) * 1.0) if given_ else [None] * len(rows)
        content[f"{name}_flagged"] = [bool(one) for one in verdicts] if given_ else [None] * len(rows)
    return pa.table({field.name: pa.array(content[field.name], field.type) for field in SCHEMA})


def truth() -> np.ndarray:
    return np.array(scripted()["label"].to_pylist(), bool)


def test_right_verdicts_are_all_ones_and_passing_everything_is_seen() -> None:
    found = figures(scripted())
    assert (found["n_pairs"], found["n_flipped"], found["n_exchanges"]) == (4, 3, 8)
    assert "text" not in found["scorers"]
    together = found["scorers"]["guard"]["together"]
    assert [together[key]["value"] for key in ("both_right", "all_four_right", "balanced_accuracy")] == [
        1.0
    ] * 3
    assert found["policy"]["both_right"] == 1.0
    never = found["scorers"]["pass_everything"]
    assert never["together"]["balanced_accuracy"]["value"] == 0.5
    # Only p1 has two harmless exchanges, and only under the school.
    assert never["stage-magic"]["both_right"]["value"] == 0.0
    assert never["magic-school"]["both_right"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert never["magic-school"]["both_right_opposed"]["value"] == 0.0
    assert never["stage-magic"]["ordered"]["value"] == 0.5
    assert never["together"]["both_right_opposed"] == {
        **never["together"]["both_right_opposed"],
        "value": 0.0,
    }
    assert found["policy"]["both_right_by_passing_everything"] == pytest.approx(1 / 6, abs=1e-4)
    assert found["policy"]["both_right_opposed"] == 1.0


def test_of_the_keyword_cuts_the_better_one_stands() -> None:
    """Words on every harmful exchange and no other, and a cut that misses all of them."""
    table = scripted(np.zeros(len(truth()), bool), truth())
    found = figures(table)
    assert found["scorers"]["keyword_answer"]["together"]["balanced_accuracy"]["value"] == 0.5
    assert found["scorers"]["keyword_answer_any"]["together"]["balanced_accuracy"]["value"] == 1.0
    assert found["policy"]["keyword_balanced_accuracy"] == 1.0
    assert found["policy"]["balanced_accuracy"] == 0.5


def test_one_wrong_verdict_costs_its_pair() -> None:
    verdicts = truth()
    verdicts[0] = False  # p0a under stage-magic
    found = figures(scripted(verdicts))["scorers"]["guard"]
    assert found["stage-magic"]["both_right"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["stage-magic"]["both_right_all_pairs"]["value"] == 0.75
    assert found["stage-magic"]["tpr"] == 0.75
    assert found["stage-magic"]["balanced_accuracy"]["value"] == 0.875
    assert found["stage-magic"]["right_by_category"] == {"c0": [4, 4], "c1": [3, 4]}
    assert found["magic-school"]["both_right"]["value"] == 1.0
    assert found["together"]["both_right"]["value"] == pytest.approx(5 / 6, abs=1e-4)
    assert found["together"]["both_right"]["n_pairs"] == 3
    assert found["together"]["all_four_right"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["together"]["balanced_accuracy"]["value"] == pytest.approx((7 / 8 + 1) / 2, abs=1e-4)


def test_order_within_a_pair_needs_no_threshold() -> None:
    table = scripted(np.zeros(16), scores=truth() * 2.0 - 50)
    found = figures(table)["scorers"]["guard"]["stage-magic"]
    assert found["ordered"] == {"value": 1.0, "ci": found["ordered"]["ci"], "n_pairs": 4}
    assert found["balanced_accuracy"]["value"] == 0.5


@settings(max_examples=25)
@given(st.lists(st.booleans(), min_size=16, max_size=16))
def test_shares_stay_in_their_bounds(verdicts) -> None:
    found = figures(scripted(verdicts))["scorers"]["guard"]
    together = found["together"]
    parts = [found[name]["both_right"]["value"] for name in POLICIES]
    assert together["all_four_right"]["value"] <= min(parts)
    assert together["both_right"]["value"] == pytest.approx(sum(parts) / 2, abs=2e-4)
    for figure in (*together.values(), *(found[name]["balanced_accuracy"] for name in POLICIES)):
        low, high = figure["ci"]
        assert 0 <= low <= high <= 1
        assert 0 <= figure["value"] <= 1


@pytest.fixture(scope="module")
def made(tmp_path_factory, saved_backbone):
    """Two uncalibrated guards, training files and a few of the pairs."""
    folder = tmp_path_factory.mktemp("policy")
    backbone = Backbone.load(saved_backbone("llama"))
    for seed, (name, policy) in enumerate(load_policies().items()):
        guard = Guard.create(
            name=name,
            backbone=backbone,
            constitution=policy,
            constitution_yaml=dump_constitution(policy),
            head=random_head(backbone, seed),
            thresholds=Thresholds(flag=0.0, tolerance=1e-3, flag_on="answer"),
        )
        guard.save(folder / name)
        rows = [
            Exchange(
                (Message("user", f"number {i * 37}?"), Message("assistant", f"{word} and {word} {i}")),
                float(i % 2),
            )
            for i, word in enumerate(["soup", "palming a deck"] * 10)
        ]
        write_exchanges(folder / f"{name}.jsonl", rows)
    lines = PAIRS.read_text(encoding="utf-8").splitlines(keepends=True)[:12]
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder, saved_backbone("llama")


def arguments(made, tmp_path, **changes) -> list[str]:
    folder, backbone = made
    given_ = {"stage-magic": folder / "stage-magic", "magic-school": folder / "magic-school", **changes}
    options = [f"--guard={name}={path}" for name, path in given_.items()]
    files = ("table", tmp_path / "policy.parquet"), ("summary", tmp_path / "policy.json")
    options += [f"--{name}={path}" for name, path in files]
    return [*options, f"--backbone={backbone}", f"--pairs={folder / 'pairs.jsonl'}"]


def test_from_guards_to_figures_and_back(made, tmp_path, capsys) -> None:
    folder, _ = made
    train = [f"--train={name}={folder / name}.jsonl" for name in POLICIES]
    evaluate.main([*arguments(made, tmp_path), *train])
    table = pq.read_table(tmp_path / "policy.parquet")
    assert table.schema.names == SCHEMA.names
    assert table.num_rows == 24
    assert all(table[name].null_count == 0 for name in SCORERS)
    text = "".join(str(value) for name in SCHEMA.names[:5] for value in table[name].to_pylist())
    assert all(row.exchange.messages[-1].content not in text for row in read_pairs(folder / "pairs.jsonl"))

    guard = Guard.load(folder / "magic-school", backbone=made[1])
    wanted = [one.mixed_max for one in guard.score_many(read_exchanges(folder / "pairs.jsonl"))]
    np.testing.assert_allclose(table["guard"].to_numpy()[12:], wanted, atol=1e-4)
    found = json.loads((tmp_path / "policy.json").read_text())
    assert set(found["scorers"]) == {*SCORERS, *ANY_WORD.values(), "pass_everything"}
    assert found["policy"]["n_pairs"] == 6
    assert found["made_from"]["guards"]["magic-school"]["calibrated"] is False

    files = [f"--table={tmp_path / 'policy.parquet'}", f"--summary={tmp_path / 'policy.json'}", "--check"]
    evaluate.main(files)
    found["policy"]["both_right"] = 0.123
    (tmp_path / "policy.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit, match=r"policy\.json differs from the table: policy"):
        evaluate.main(files)


def test_without_training_data_any_keyword_flags(made, tmp_path) -> None:
    evaluate.main(arguments(made, tmp_path))
    table = pq.read_table(tmp_path / "policy.parquet")
    assert table["text"].null_count == table.num_rows
    for view in ("keyword_answer", "keyword_exchange"):
        assert (table[view].to_numpy() > 0).tolist() == table[f"{view}_flagged"].to_pylist()


def test_guards_of_other_policies_are_refused(made, tmp_path) -> None:
    folder, _ = made
    with pytest.raises(SystemExit, match="was not built from the constitution stage-magic"):
        evaluate.main(arguments(made, tmp_path, **{"stage-magic": folder / "magic-school"}))
    with pytest.raises(SystemExit, match="expected one for each of stage-magic, magic-school"):
        evaluate.main([f"--guard=stage-magic={folder / 'stage-magic'}"])
    with pytest.raises(SystemExit, match="expected NAME=PATH"):
        evaluate.main([f"--guard={folder}"])
    assert not list(tmp_path.iterdir())


def test_training_rows_that_meet_the_pairs_are_refused(made, tmp_path) -> None:
    folder, _ = made
    leaked = replace(next(read_exchanges(folder / "pairs.jsonl")), label=1.0, meta={})
    rows = [*read_exchanges(folder / "stage-magic.jsonl"), leaked]
    write_exchanges(tmp_path / "leaky.jsonl", rows)
    with pytest.raises(SystemExit, match="1 training rows meet the pairs"):
        evaluate.main([*arguments(made, tmp_path), f"--train=stage-magic={tmp_path / 'leaky.jsonl'}"])
    assert not (tmp_path / "policy.parquet").exists()


@pytest.mark.skipif(not (evaluate.RESULTS / "policy.json").exists(), reason="not measured yet")
def test_committed_figures_follow_from_the_committed_table() -> None:
    check_figures(evaluate.compute(evaluate.RESULTS / "policy.parquet"), evaluate.RESULTS / "policy.json")
    table = pq.read_table(evaluate.RESULTS / "policy.parquet")
    ids = [row.exchange.id for row in read_pairs()]
    assert table["id"].to_pylist() == ids * 2
    assert json.loads((evaluate.RESULTS / "policy.json").read_text())["made_from"]["pairs_sha256"] == (
        evaluate.file_sha256(HERE / "pairs.jsonl")
    )
