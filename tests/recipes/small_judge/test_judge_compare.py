"""The same judge alone and behind a probe, as one table: figures by hand, and from a run on tiny models."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
from models import random_head, tiny_backbone
from text_judges import save_sequence

from lockgate.cascade import Thresholds
from lockgate.constitution import constitution_path, load_constitution
from lockgate.exchanges import write_exchanges
from lockgate.guards import Guard
from lockgate.judges import find_judge, open_judge
from recipes.small_judge import compare
from recipes.small_judge.make import make_exchange
from recipes.steps import check_part

N = 60


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("demo"), random.Random(1)
    save_sequence(folder / "judge")
    traffic = [make_exchange(number, False, draw) for number in range(N)]
    development = [make_exchange(1000 + number, number % 2 == 0, draw) for number in range(24)]
    write_exchanges(folder / "traffic.jsonl", traffic)
    write_exchanges(folder / "development.jsonl", development)
    backbone = tiny_backbone()
    Guard.create(
        name="tiny",
        backbone=backbone,
        constitution=load_constitution("stage-magic"),
        constitution_yaml=constitution_path("stage-magic").read_text(encoding="utf-8"),
        head=random_head(backbone),
        thresholds=Thresholds(0.5, flag_on="both"),
    ).save(folder / "guard")
    return folder, traffic, [row for row in development if row.label]


def test_the_table_gives_the_figures_of_both_ways(demo, tmp_path, saved_backbone) -> None:
    folder, traffic, harmful = demo
    files = [f"--table={tmp_path / 'judges.parquet'}", f"--summary={tmp_path / 'policy.json'}"]
    (tmp_path / "policy.json").write_text('{"policy": {"n": 1}, "judges": {"other": {"alone": {}}}}')
    options = [f"--guard={folder / 'guard'}", f"--backbone={saved_backbone('llama')}", "--budget=0.1"]
    compare.main([str(folder), *options, "--escalation=0.4", *files])
    content = json.loads((tmp_path / "policy.json").read_text())
    assert content["policy"] == {"n": 1}
    assert content["judges"]["other"] == {"alone": {}}
    found = content["judges"][compare.NAME]
    rows = pq.read_table(tmp_path / "judges.parquet").to_pylist()
    # The judge's own verdicts, by hand.
    judge = open_judge(find_judge(folder / "judge"))
    logits = sorted(reading.logit for reading in judge.judge([row.messages for row in traffic]))
    own = [reading.logit for reading in judge.judge([row.messages for row in harmful])]
    np.testing.assert_allclose(
        sorted(row["judge"] for row in rows if row["part"] == "traffic"), logits, atol=1e-5
    )
    flagged = found["alone"]["flagged"]
    caught = sum(logit > logits[-1 - flagged] for logit in own)
    assert found["alone"]["tpr"]["value"] == pytest.approx(caught / len(harmful), abs=1e-4)
    assert found["alone"]["cost"]["verdicts"] == N
    # A verdict for each block of the exchanges that the probe escalates.
    assert found["behind_probe"]["cost"]["verdicts"] >= round(found["behind_probe"]["asked"] * N) > 0
    assert 0 < found["behind_probe"]["asked"] <= 0.4
    assert found["probe_alone"]["cost"]["verdicts"] == 0
    assert {way["n"] for name, way in found.items() if name in compare.WAYS} == {N}
    compare.main([*files, "--check"])
    found["alone"]["flagged"] += 1
    with pytest.raises(SystemExit, match=r"policy\.json differs from the table: judges"):
        check_part({"judges": {compare.NAME: found}}, tmp_path / "policy.json")
    assert not (tmp_path / "judges.state").exists()


def test_what_lacks_is_told() -> None:
    with pytest.raises(SystemExit, match="expected the folder"):
        compare.main([])


@pytest.mark.skipif(not compare.TABLE.exists(), reason="not measured yet")
def test_committed_figures_follow_from_the_committed_table() -> None:
    check_part(compare.compute(compare.TABLE), compare.SUMMARY)
