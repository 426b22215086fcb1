"""What synthetic data are worth, on a tiny model: from windows to figures, and what is refused."""

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from caches import exchange

from lockgate.constitution import load_constitution
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.synthesis.augmentations import AUGMENTATIONS

HARM = "boat boat boat boat boat boat boat boat"
WORDS = [first + second for first in ("lan", "mir", "bor", "tel") for second in ("tern", "ror", "dle", "lin")]


def real(start: int, count: int) -> list[Exchange]:
    """Exchanges of two sources, one in three harmful."""
    made = []
    for i in range(start, start + count):
        row = exchange(i, words=4 + i % 9, label=float(i % 3 == 0))
        if i % 3 == 0:
            row = replace(row, messages=(row.messages[0], Message("assistant", HARM)))
        made.append(replace(row, source="one" if i % 2 else "two"))
    return made


def generated(number: int, part: str = "train", **meta: str) -> Exchange:
    draw = random.Random(number)
    prompt, answer = (" ".join(draw.choices(WORDS, k=size)) for size in (9, 12))
    harmful = number % 2
    turns = (
        Message("user", f"{prompt}?"),
        Message("assistant", f"boat boat boat boat boat {answer}" if harmful else answer),
    )
    return Exchange(
        turns, float(harmful), "weapons" if harmful else None, "synthesis", {"split": part, **meta}
    )


def asking(dev: Exchange, number: int, **meta: str) -> Exchange:
    """A generated answer to a question of the development list."""
    row = generated(number, **meta)
    return replace(row, messages=(dev.messages[0], row.messages[1]))


def write_synthetic(folder: Path, rows: list[Exchange], **changes: object) -> Path:
    """A folder as `lockgate synthesize` leaves it."""
    folder.mkdir(parents=True)
    write_exchanges(folder / "exchanges.jsonl", rows)
    card = {
        "constitution": {"name": "general-harms", "sha256": load_constitution("general-harms").sha256},
        "generator": "scripted",
        "judge": None,
        "requests": 1,
        "tokens": {},
        "rows": {"total": len(rows)},
        "evaluation": [{"name": "dev.jsonl", "rows": 24, "sha256": "0"}],
        "exchanges_sha256": hashlib.sha256((folder / "exchanges.jsonl").read_bytes()).hexdigest(),
    }
    (folder / "card.json").write_text(json.dumps(card | changes))
    return folder


@pytest.fixture
def made(tmp_path, script, saved_backbone):
    """The recipe's scripts and data, public and synthetic; of the latter three rows meet the list."""
    out, backbone = tmp_path / "runs", str(saved_backbone("llama"))
    out.mkdir()
    train, dev = real(0, 36), real(100, 24)
    write_exchanges(out / "train.jsonl", train)
    write_exchanges(out / "dev.jsonl", dev)
    disguised = AUGMENTATIONS["rot13"].apply(asking(dev[7], 1001), 3)
    known = [
        asking(dev[5], 1000, pair="p"),
        disguised,
        replace(generated(1002), meta={"split": "train", "pair": "p"}),
    ]
    rows = [generated(i) for i in range(20)] + [generated(i, "test") for i in range(100, 110)] + known
    command = ["--out", str(out), "--results", str(tmp_path / "results"), "--backbone", backbone]
    command += ["--workers", "1", "--threads", "1", "--epochs", "2", "--resamples", "20"]
    found = SimpleNamespace(out=out, results=tmp_path / "results", train=train, dev=dev, command=command)
    found.synthetic = write_synthetic(tmp_path / "data", rows)
    found.command += ["--synthetic", str(found.synthetic)]
    found.main, found.recipe = script("synthetic").main, script("synthetic")
    found.read = lambda: script("train").read_activations(
        script("sources").shuffled(train, "train"), out / "windows", 1, 1, backbone
    )
    return found


def test_from_windows_to_figures(made, tmp_path, capsys) -> None:
    with pytest.raises(
        SystemExit, match=r"not read yet; run: python -m recipes\.embedded_guard\.train .*--only-activations"
    ):
        made.main(made.command)
    assert not made.results.exists()
    with pytest.raises(SystemExit, match=r"value\.parquet: not measured yet; run this with --out"):
        made.main([*made.command, "--check"])
    made.read()
    made.main(made.command)
    found = json.loads((made.results / "value.json").read_text())
    assert (found["n"], found["n_harmful"], found["n_harmless"]) == (24, 8, 16)
    assert sum(found["harmful_by_source"].values()) == 8
    assert set(found["tpr"]) == {"public", "synthetic", "both"}
    assert found["run"]["removed"] == {"pair broken": 1, "prompt equal": 2}
    training = found["run"]["training"]
    assert [training[name]["exchanges"] for name in ("public", "synthetic", "both")] == [36, 20, 56]
    assert [training[name]["harmful"] for name in ("public", "synthetic", "both")] == [12, 10, 22]
    assert training["both"]["sources"] == {"one": 18, "synthesis": 20, "two": 18}
    # As many steps: two epochs over 36 exchanges are four over 20.
    assert [training[name]["config"]["epochs"] for name in ("public", "synthetic", "both")] == [2, 4, 2]
    assert found["run"]["inputs"].keys() == {"train.jsonl", "dev.jsonl", "exchanges.jsonl"}
    assert str(tmp_path) not in json.dumps(found)
    table = pq.read_table(made.results / "value.parquet")
    assert sorted(table["id"].to_pylist()) == sorted(row.id for row in made.dev)
    assert not {"messages", "text", "prompt"} & set(table.column_names)
    printed = capsys.readouterr().out
    assert printed.count("| `public` |") == 1
    assert "2 prompt equal" in printed

    stamp = (made.results / "value.parquet").stat().st_mtime_ns
    made.main(made.command)
    assert (made.results / "value.parquet").stat().st_mtime_ns == stamp
    # What was lost is made again from what is left, to the same scores.
    for path in (
        made.results / "value.parquet",
        *made.out.glob("synthetic/heads/*"),
        made.out / "synthetic" / "both.safetensors",
    ):
        path.unlink()
    made.main(made.command)
    assert pq.read_table(made.results / "value.parquet").equals(table)

    made.main([*made.command, "--check"])
    found["tpr"]["both"] = 0.123
    (made.results / "value.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit, match=r"value\.json differs"):
        made.main([*made.command, "--check"])
    made.main([*made.command, "--report"])
    made.main([*made.command, "--check"])


def test_unfinished_or_other_data_sets_are_refused(made, tmp_path) -> None:
    rows = [generated(i) for i in range(4)]

    def refused(folder: Path, why: str) -> None:
        with pytest.raises(SystemExit, match=why):
            made.main([*made.command, "--synthetic", str(folder)])

    refused(tmp_path / "none", "no finished data set there; run: lockgate synthesize general-harms")
    other = {"constitution": {"name": "stage-magic", "sha256": "0"}}
    refused(write_synthetic(tmp_path / "other", rows, **other), "made for stage-magic or another version")
    refused(write_synthetic(tmp_path / "new", rows, exchanges_sha256="0"), "changed after its card")
    refused(write_synthetic(tmp_path / "test", [generated(1, "test")]), "no row of the training part")
    with pytest.raises(SystemExit):
        made.main(["--out", str(made.out)])


def test_rows_that_meet_the_list_go_and_others_stay(made) -> None:
    fresh = [generated(i) for i in range(6)]
    near = replace(
        fresh[0],
        messages=(fresh[0].messages[0], Message("assistant", "so: " + made.dev[7].messages[1].content)),
    )
    kept, removed = made.recipe.leave_out_known([*fresh, near], made.dev)
    assert kept == fresh
    assert list(removed.values()) == [1]
    assert made.recipe.leave_out_known(fresh, made.dev) == (fresh, {})


def test_the_probe_is_the_shipped_guards(script) -> None:
    chosen = json.loads((script("train").RESULTS / "choice.json").read_text())["head"]
    shipped = next(config for config in script("train").configs() if config.name == chosen)
    arguments = SimpleNamespace(epochs=20, seed=0)
    assert script("synthetic").config_for(30, 5602, 5602, arguments) == replace(shipped, name="band")
    assert script("synthetic").config_for(30, 9000, 5602, arguments).epochs == 20
