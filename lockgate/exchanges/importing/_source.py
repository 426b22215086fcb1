"""The files of a data set: one file, or a folder in one of the layouts of Hugging Face."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from lockgate.constitution import DataMapping
from lockgate.errors import ExchangeError
from lockgate.exchanges.importing._card import Card, CardPart, read_card

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_PACKED = (".gz", ".zst")
_ARROW_KINDS = ("parquet", "arrow")
# These files describe a data set and hold no rows.
_METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_SHARD = re.compile(r"^(.+)-(\d{5,})-of-(\d{5,})$")
_SPLIT = re.compile(
    r"(?:^|[^a-z])(train|training|validation|valid|val|dev|test|testing|eval|evaluation)(?=[^a-z]|$)"
)
_SPLIT_NAMES = {
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of rows. `kind` is a value of `KINDS`. `split` is None if nothing names one."""

    path: Path
    kind: str
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A data set on disk.

    Attributes:
        path: its file or folder.
        files: its files, in reading order.
        expected: number of rows by split, as far as its metadata say.
        license: the licence that its card names.
    """

    path: Path
    files: tuple[DataFile, ...]
    expected: dict[str, int]
    license: str | None = None

    @property
    def name(self) -> str:
        """Name of the file or folder, without endings."""
        return self.path.name.split(".")[0] or self.path.resolve().name

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that the files belong to, in reading order."""
        return tuple(dict.fromkeys(file.split for file in self.files if file.split is not None))


def kind_of(path: Path) -> str | None:
    """Return the kind of a file by its name. It is None for a file that holds no rows."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in _PACKED
    if packed:
        suffixes.pop()
    kind = KINDS.get(suffixes[-1]) if suffixes else None
    return None if packed and kind in _ARROW_KINDS else kind


def open_source(path: Path, mapping: DataMapping) -> Source:
    """Find the files of a data set.

    Args:
        path: a file, a folder that `save_to_disk` wrote, a repository with a card, or a plain folder.
        mapping: the configuration, splits and files to read, as far as it names them.

    Raises:
        ExchangeError: nothing is there, no file is of a known kind, files are of several kinds, a shard is
            missing, or a split or configuration does not exist. The error says what to put into the mapping.
    """
    if path.is_file():
        kind = kind_of(path)
        if kind is None:
            raise ExchangeError(f"{path}: unknown kind of file; expected {_known_kinds()}")
        return _of_splits(Source(path, (DataFile(path, kind, split_of(path.name)),), {}), mapping)
    if not path.is_dir():
        raise ExchangeError(f"{path}: no such file or folder")
    card = read_card(path)
    if mapping.files is not None:
        files = _found(path, mapping.files)
    else:
        files = _saved(path) or _listed(path, card.parts(path, mapping.config)) or _found(path, "**/*")
        _check_shards(files)
    if not files:
        where = "" if mapping.files is None else f" that matches `files: {mapping.files}`"
        raise ExchangeError(f"{path}: holds no data file{where}; expected {_known_kinds()}")
    kinds = sorted({file.kind for file in files})
    if len(kinds) > 1:
        raise ExchangeError(
            f"{path}: files of several kinds ({', '.join(kinds)}); say which in the mapping, as in "
            '`files: "data/*.parquet"`'
        )
    expected = _expected(files[0].path.parent, card)
    return _of_splits(Source(path, tuple(files), expected, card.license), mapping)


def split_of(name: str) -> str | None:
    """Return the split that a path inside a data set names. Of several, the last one counts."""
    found = _SPLIT.findall(name.lower())
    return _SPLIT_NAMES.get(found[-1], found[-1]) if found else None


def _of_splits(source: Source, mapping: DataMapping) -> Source:
    if mapping.splits is None:
        return source
    missing = [name for name in mapping.splits if name not in source.splits]
    if missing:
        there = ", ".join(source.splits) or "none"
        raise ExchangeError(f"{source.path}: splits: there is no split {missing[0]}; there are: {there}")
    return replace(source, files=tuple(file for file in source.files if file.split in mapping.splits))


def _saved(folder: Path) -> list[DataFile]:
    """Return the shards of one or several splits that `save_to_disk` wrote, in the order of `state.json`."""
    splits = _read_json(folder / "dataset_dict.json").get("splits")
    parts: list[tuple[Path, str | None]] = [(folder, None)]
    if isinstance(splits, list):
        parts = [(folder / _inside(folder, str(name)), str(name)) for name in splits]
    files = []
    for part, split in parts:
        state = _read_json(part / "state.json")
        shards = state.get("_data_files")
        if not isinstance(shards, list):
            if split is not None:
                raise ExchangeError(f"{part / 'state.json'}: missing or without `_data_files`; save it again")
            continue
        for shard in shards:
            name = shard.get("filename") if isinstance(shard, dict) else None
            file = part / _inside(part, str(name))
            if not file.is_file():
                raise ExchangeError(f"{file}: named in state.json and missing; copy the whole folder")
            own = state.get("_split")
            files.append(DataFile(file, "arrow", split or (own if isinstance(own, str) else None)))
    return files


def _listed(folder: Path, parts: Sequence[CardPart]) -> list[DataFile]:
    files = []
    for part in parts:
        matched = [
            DataFile(file, kind_of(file) or "", part.split)
            for pattern in part.patterns
            for file in _glob(folder, pattern)
        ]
        if not matched:
            raise ExchangeError(
                f"{folder / 'README.md'}: data_files: nothing matches split {part.split}; fetch the data, or "
                "set `files` in the mapping"
            )
        files += matched
    return files


def _found(folder: Path, pattern: str) -> list[DataFile]:
    return [
        DataFile(path, kind_of(path) or "", _split_by_path(path.relative_to(folder).as_posix()))
        for path in _glob(folder, pattern)
    ]


def _split_by_path(path: str) -> str | None:
    shard = _SHARD.match(PurePosixPath(path).name.split(".")[0])
    return split_of(path) or (shard[1] if shard and path.startswith("data/") else None)


def _glob(folder: Path, pattern: str) -> list[Path]:
    _inside(folder, pattern)
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.is_file() and kind_of(path) is not None and not _is_hidden(path.relative_to(folder))
    )


def _is_hidden(path: Path) -> bool:
    name = path.name
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return hidden or name in _METADATA or (name.startswith("cache-") and name.endswith(".arrow"))


def _inside(folder: Path, name: str) -> str:
    """Refuse a name in a data set's metadata that leads out of its folder. Return the name."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise ExchangeError(f"{folder}: a file name or pattern leads out of the folder; expected one inside")
    return name


def _check_shards(files: Sequence[DataFile]) -> None:
    """Refuse a set of shards with one missing. It would be read as a smaller data set."""
    seen: dict[tuple[Path, str, int], set[int]] = defaultdict(set)
    for file in files:
        shard = _SHARD.match(file.path.name.split(".")[0])
        if shard:
            seen[file.path.parent, shard[1], int(shard[3])].add(int(shard[2]))
    for (folder, name, total), there in seen.items():
        if total != len(there):
            raise ExchangeError(
                f"{folder}: {len(there)} of the {total} shards of {name} are there; fetch the others, or "
                "name single files as the source"
            )


def _expected(folder: Path, card: Card) -> dict[str, int]:
    splits = _read_json(folder / "dataset_info.json").get("splits")
    entries = splits.values() if isinstance(splits, dict) else card.splits
    return {
        str(entry["name"]): entry["num_examples"]
        for entry in entries
        if isinstance(entry, dict) and "name" in entry and isinstance(entry.get("num_examples"), int)
    }


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExchangeError(f"{path}: not readable JSON ({type(error).__name__}); save it again") from None
    return value if isinstance(value, dict) else {}


def _known_kinds() -> str:
    return f"{', '.join(KINDS)}; text also with {' or '.join(_PACKED)}"
