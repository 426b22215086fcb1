"""The YAML head of a data set's README: which files belong to which configuration and split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lockgate.errors import ExchangeError

_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class CardPart:
    """Glob patterns within the data set's folder, and the split of the files that they match."""

    split: str | None
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """The YAML head of a README, as far as it says how to read the data."""

    head: dict[str, Any]

    @property
    def license(self) -> str | None:
        """The licence that the card names, or None."""
        return ", ".join(_texts(self.head.get("license"))) or None

    @property
    def splits(self) -> list[Any]:
        """Descriptions of the splits, if the card has one configuration."""
        info = self.head.get("dataset_info")
        splits = info.get("splits") if isinstance(info, dict) else None
        return splits if isinstance(splits, list) else []

    def parts(self, folder: Path, config: str | None) -> list[CardPart]:
        """Return the files of one configuration by split. The list is empty if the card names no files.

        Args:
            folder: the data set's folder, for messages.
            config: name of the configuration. None stands for the default or the only one.

        Raises:
            ExchangeError: the configuration does not exist, or one of several has to be chosen.
        """
        listed = self.head.get("configs")
        configs = {
            _text(entry.get("config_name"), "default"): entry["data_files"]
            for entry in _objects(listed)
            if "data_files" in entry
        }
        if config is None and len(configs) > 1:
            default = [
                _text(entry.get("config_name"), "") for entry in _objects(listed) if entry.get("default")
            ]
            if len(default) != 1:
                raise ExchangeError(
                    f"{folder}: several configurations; put one into the mapping as `config`: "
                    f"{', '.join(configs)}"
                )
            config = default[0]
        if config is not None and config not in configs:
            there = ", ".join(configs) or "none"
            raise ExchangeError(
                f"{folder}: config: no configuration {config} in README.md; there are: {there}"
            )
        if not configs:
            return []
        return _parts(configs[config] if config is not None else next(iter(configs.values())))


def read_card(folder: Path) -> Card:
    """Read the YAML head of a folder's README.md. The card is empty if there is none.

    Raises:
        ExchangeError: the file can't be read, or its head is not valid YAML.
    """
    path = folder / "README.md"
    if not path.is_file():
        return Card({})
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_BYTES).decode("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise ExchangeError(f"{path}: can't be read: {error.strerror}") from None
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return Card({})
    try:
        head = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ExchangeError(f"{path}: the head between --- lines is not valid YAML; correct it") from None
    return Card(head if isinstance(head, dict) else {})


def _parts(data_files: object) -> list[CardPart]:
    """Read the forms that a card may use: a pattern, a list of patterns, or splits with paths."""
    if isinstance(data_files, dict):
        return [CardPart(_text(split, ""), tuple(_texts(paths))) for split, paths in data_files.items()]
    if entries := _objects(data_files):
        return [
            CardPart(
                _text(entry["split"], "") if "split" in entry else None, tuple(_texts(entry.get("path")))
            )
            for entry in entries
        ]
    return [CardPart(None, tuple(_texts(data_files)))]


# Aliases of YAML can become gigabytes of text, so only plain values are read.
def _text(value: object, default: str) -> str:
    return str(value) if isinstance(value, str | int | float) else default


def _texts(value: object) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
