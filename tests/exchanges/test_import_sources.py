"""Folders in the layouts of Hugging Face: which files belong to a data set."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lockgate.constitution import DataMapping
from lockgate.errors import ExchangeError
from lockgate.exchanges.importing import DataImport, inspect_data, open_source


def table(*prompts: str, metadata: dict | None = None, **columns: list) -> pa.Table:
    found = pa.table({"prompt": list(prompts), **columns})
    if metadata is None:
        return found
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": metadata}})})


def write_arrow(path: Path, content: pa.Table, new=pa.ipc.new_stream) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as sink, new(sink, content.schema) as writer:
        writer.write_table(content)
    return path


def write_parquet(path: Path, content: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path)
    return path


def save_to_disk(folder: Path, split: str, *shards: pa.Table) -> None:
    names = [f"data-{n:05d}-of-{len(shards):05d}.arrow" for n in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        write_arrow(folder / name, shard)
    state = {"_data_files": [{"filename": name} for name in names], "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    info = {"splits": {split: {"name": split, "num_examples": sum(map(len, shards))}}}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def read(path: Path, **mapping) -> list[tuple[str, str | None]]:
    data = DataImport(path, DataMapping.model_validate(mapping))
    return [(row.messages[0].content, row.meta.get("split")) for row in data]


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "one", "train", table("a", "b"), table("c"))
    write_arrow(tmp_path / "one" / "cache-1234.arrow", table("no"))
    assert read(tmp_path / "one") == [("a", "train"), ("b", "train"), ("c", "train")]
    assert not any("metadata" in note for note in inspect_data(tmp_path / "one").notes)
    many = tmp_path / "many"
    save_to_disk(many / "train", "train", table("a"))
    save_to_disk(many / "held_out", "held_out", table("b"))
    (many / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "held_out"]}))
    assert read(many) == [("a", "train"), ("b", "held_out")]
    assert read(many, splits=["held_out"]) == [("b", "held_out")]
    with pytest.raises(ExchangeError, match="there is no split test; there are: train, held_out"):
        read(many, splits=["test"])
    (many / "train" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(ExchangeError, match=r"named in state\.json and missing"):
        read(many)


def test_rows_that_metadata_promise_and_files_lack(tmp_path: Path) -> None:
    save_to_disk(tmp_path, "train", table("a", "b"))
    info = {"splits": {"train": {"name": "train", "num_examples": 3}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    assert "split train: 2 rows read, but its metadata say 3" in inspect_data(tmp_path).notes[0]
    assert not any("metadata" in note for note in inspect_data(tmp_path, limit=1).notes)


CARD = """---
license: [mit, cc0-1.0]
configs:
- config_name: plain
  data_files:
  - split: train
    path: data/train-*
  - split: odd
    path: [more/x.parquet]
- config_name: other
  data_files: other/*.parquet
---
# A card
"""


def test_a_repository_with_a_card(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", table("a"))
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", table("b"))
    write_parquet(tmp_path / "more" / "x.parquet", table("c"))
    write_parquet(tmp_path / "other" / "y.parquet", table("d"))
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(ExchangeError, match=r"several configurations.*: plain, other"):
        read(tmp_path)
    assert read(tmp_path, config="plain") == [("a", "train"), ("b", "train"), ("c", "odd")]
    assert read(tmp_path, config="other") == [("d", None)]
    assert open_source(tmp_path, DataMapping(config="other")).license == "mit, cc0-1.0"
    with pytest.raises(ExchangeError, match=r"no configuration none in README\.md; there are: plain, other"):
        read(tmp_path, config="none")
    (tmp_path / "README.md").write_text(
        CARD.replace("config_name: plain", "default: true\n  config_name: plain")
    )
    assert len(read(tmp_path)) == 3
    (tmp_path / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(ExchangeError, match="1 of the 2 shards of train are there"):
        read(tmp_path)
    assert read(tmp_path, files="data/*.parquet") == [("a", "train")]
    (tmp_path / "README.md").write_text(CARD.replace("data/train-*", "../*"))
    with pytest.raises(ExchangeError, match="leads out of the folder"):
        read(tmp_path, config="plain")
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(ExchangeError, match=r"README\.md: the head between --- lines is not valid YAML"):
        read(tmp_path)


def test_a_plain_folder_takes_splits_from_names(tmp_path: Path) -> None:
    for name, text in {
        "train/part.jsonl": "a",
        "dev.jsonl": "b",
        "rest.jsonl": "c",
        ".x/test.jsonl": "no",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"prompt": text}) + "\n")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("no data")
    assert read(tmp_path) == [("b", "validation"), ("c", None), ("a", "train")]
    write_parquet(tmp_path / "x.parquet", table("d"))
    with pytest.raises(ExchangeError, match=r"several kinds \(jsonl, parquet\).*`files:"):
        read(tmp_path)
    assert read(tmp_path, files="*.parquet") == [("d", None)]


def test_places_without_data(tmp_path: Path) -> None:
    for path, message in {
        tmp_path: "holds no data file; expected .jsonl",
        tmp_path / "none": "no such file or folder",
        Path(__file__): "unknown kind of file; expected .jsonl",
    }.items():
        with pytest.raises(ExchangeError, match=message):
            read(path)


def test_names_of_classes_stand_for_their_numbers(tmp_path: Path) -> None:
    features = {"kind": {"_type": "ClassLabel", "names": ["fine", "bad"]}}
    content = table("a", "b", "c", kind=[0, 1, -1], metadata=features)
    rule = {"column": "kind", "equals": {"fine": 0, "bad": 1, "null": None}}
    for path in (write_parquet(tmp_path / "a.parquet", content), write_arrow(tmp_path / "b.arrow", content)):
        rows = list(DataImport(path, DataMapping.model_validate({"label": rule})))
        assert [row.label for row in rows] == [0, 1, None]


def test_arrow_files_and_streams_that_are_cut(tmp_path: Path) -> None:
    assert read(write_arrow(tmp_path / "a.arrow", table("a"), pa.ipc.new_file)) == [("a", None)]
    path = write_arrow(tmp_path / "b.arrow", table("a"))
    whole = path.read_bytes()
    for cut in (8, 40, len(whole) - 20):
        path.write_bytes(whole[:-cut])
        with pytest.raises(ExchangeError, match=r"b\.arrow: .*cut short"):
            read(path)
    path = write_parquet(tmp_path / "c.parquet", table("a"))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ExchangeError, match=r"c\.parquet: damaged, cut short"):
        read(path)


def test_columns_that_nobody_needs_can_not_fail(tmp_path: Path) -> None:
    odd = pa.array([2**62 + 1, None])
    content = table("a", "b", when=odd.cast(pa.timestamp("ns")))
    path = write_parquet(tmp_path / "a.parquet", content)
    assert read(path) == [("a", None), ("b", None)]
