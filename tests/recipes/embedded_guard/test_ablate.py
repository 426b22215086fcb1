"""The recipe of the ablations from data to table, on a tiny model: interrupted, resumed and checked."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from caches import exchange

from lockgate.exchanges import Exchange, Message, write_exchanges

HARM = "boat boat boat boat boat boat boat boat"


def rows(start: int, count: int) -> list[Exchange]:
    made = []
    for i in range(start, start + count):
        row = exchange(i, words=4 + i % 9, label=float(i % 3 == 0))
        if i % 3 == 0:
            row = replace(row, messages=(row.messages[0], Message("assistant", HARM)))
        made.append(replace(row, source="one" if i % 2 else "two"))
    return made


def test_from_data_to_table(tmp_path, script, saved_backbone, capsys) -> None:
    recipe = script("ablate").main
    out, results = tmp_path / "runs", tmp_path / "results"
    out.mkdir()
    train, dev = rows(0, 36), rows(100, 24)
    write_exchanges(out / "train.jsonl", train)
    write_exchanges(out / "dev.jsonl", dev)
    teacher = out / "teacher.jsonl"
    teacher.write_text(
        "\n".join(json.dumps({"id": row.id, "probability": 0.1 + 0.8 * (row.label or 0)}) for row in train)
    )
    command = ["--out", str(out), "--results", str(results), "--backbone", str(saved_backbone("llama"))]
    command += ["--workers", "1", "--threads", "1", "--tokens", "1500", "--epochs", "2", "--resamples", "20"]
    recipe(command)
    found = json.loads((results / "ablations.json").read_text())
    assert found["run"]["not_run"] == {"soft": "no table of teacher scores was given"}
    assert "Not run: soft" in capsys.readouterr().out
    stamp = (results / "scores" / "ablations.parquet").stat().st_mtime_ns
    recipe(command)
    assert (results / "scores" / "ablations.parquet").stat().st_mtime_ns == stamp

    capsys.readouterr()
    recipe([*command, "--teacher", str(teacher)])
    found = json.loads((results / "ablations.json").read_text())
    assert (found["n"], found["n_harmful"], found["n_prompts"]) == (24, 8, 24)
    assert set(found["run"]["inputs"]) == {"train.jsonl", "dev.jsonl", "teacher.jsonl"}
    assert str(tmp_path) not in json.dumps(found)
    assert set(found["variants"]) == {"all", "fly"}
    assert {"all", "one", "mean", "share_0.05", "soft"} < set(found["variants"]["all"])
    assert {"fly_m64", "fly_sctopk", "fly_rolling", "fly_mlp"} < set(found["variants"]["fly"])
    for figures in found["variants"].values():
        for name, row in figures.items():
            for region in ("answer", "both"):
                value, low, high = row[region]["auroc"]
                assert 0 <= low <= high <= 1
                assert 0 <= value <= 1
                assert ("minus_reference" in row[region]) is (name not in ("all", "fly"))
    table = pq.read_table(results / "scores" / "ablations.parquet")
    assert sorted(table["id"].to_pylist()) == sorted(row.id for row in dev)
    assert "soft:answer" in table.column_names
    assert (out / "ablation" / "heads" / "fly_rolling.safetensors").exists()
    text = capsys.readouterr().out
    assert text.count("| `") == sum(len(figures) for figures in found["variants"].values())

    recipe([*command, "--check"])
    found["n"] += 1
    (results / "ablations.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit, match="differs"):
        recipe([*command, "--check"])
    recipe([*command, "--report"])
    recipe([*command, "--check"])
