"""Mined exchanges on disk: their manifest, and reading them back for training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lockgate.durable import file_sha256, open_atomic
from lockgate.errors import ExchangeError, TrainingError
from lockgate.exchanges import Exchange, read_exchanges

MINED = "mined"
_FORMAT = 1
# What the record of a classifier keeps of each manifest.
_KEPT = ("guard", "stage", "round", "pool", "by_source", "cut", "top", "per_source", "held_out_prompts")


class Mined(NamedTuple):
    """Mined exchanges of one or several files.

    Attributes:
        rows: the exchanges, in order.
        probe: hash of the probe that screened them; None without a file.
        facts: for each file what its manifest says, for the record of what is trained on it.
    """

    rows: list[Exchange]
    probe: str | None
    facts: list[dict[str, Any]]


def manifest_of(path: Path) -> Path:
    """Return the place of the manifest of a file of mined exchanges."""
    return path.with_name(path.name + ".manifest.json")


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a file of mined exchanges."""
    with open_atomic(manifest_of(path)) as file:
        file.write(json.dumps(manifest, ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n")


def read_mined(files: Sequence[Path], *, probe: str | None = None) -> Mined:
    """Read mined exchanges for training.

    All of them were mined by one guard: by its stage 1, or by the cascade with the same stage 1. The hash of
    a bundle changes with each calibration, so the hash of the probe decides.

    Args:
        files: files that `mine` wrote, with their manifests.
        probe: hash of the probe that they must come from. By default that of the first file.

    Raises:
        ExchangeError: a file was changed after the mining, lacks its manifest, comes from another guard or
            mixes guards, or holds an exchange that is not harmless.
    """
    rows, facts = list[Exchange](), list[dict[str, Any]]()
    for path in files:
        manifest = _read_manifest(path)
        found = manifest["guard"]["probe_sha256"]
        if probe is not None and found != probe:
            raise ExchangeError(
                f"{path}: mined by another guard ({_short(found)}) than the others or the one given "
                f"({_short(probe)}). Hard exchanges of one probe say nothing about another; mine again"
            )
        probe = found
        for number, row in enumerate(read_exchanges(path), 1):
            _check_row(path, number, row, probe)
            rows.append(row)
        facts.append({"file": manifest["file"], **{name: manifest[name] for name in _KEPT}})
    return Mined(rows, probe, facts)


def add_mined(rows: Sequence[Exchange], mined: Sequence[Exchange]) -> list[Exchange]:
    """Return training exchanges with the mined ones that are not among them. One exchange trains once.

    Raises:
        TrainingError: a mined exchange is labelled harmful among the others.
    """
    labels = {row.id: row.label for row in rows}
    odd = [row.id for row in mined if (labels.get(row.id) or 0.0) >= 0.5]
    if odd:
        raise TrainingError(
            f"{len(odd)} mined exchanges are labelled harmful in the training data, the first with id "
            f"{odd[0]}; read them and correct one of the labels"
        )
    found = {row.id: row for row in mined if row.id not in labels}
    return [*rows, *found.values()]


def _check_row(path: Path, number: int, row: Exchange, probe: str) -> None:
    origin = row.meta.get(MINED)
    if not isinstance(origin, dict) or origin.get("probe") != probe:
        raise ExchangeError(
            f"{path}: exchange {number} does not come from the guard of the manifest (meta.{MINED}); a file "
            "holds what one guard mined. Mine again"
        )
    if row.label is None or row.label >= 0.5:
        raise ExchangeError(
            f"{path}: exchange {number} is not labelled harmless; give harmful exchanges as --input"
        )


def _read_manifest(path: Path) -> dict[str, Any]:
    place = manifest_of(path)
    content = file_sha256(path)
    try:
        found = json.loads(place.read_bytes())
        if found["format"] != _FORMAT or not isinstance(found["guard"]["probe_sha256"], str):
            raise ValueError("another format")
        missing = [name for name in _KEPT if name not in found]
        recorded = found["file"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ExchangeError(
            f"{place}: not a readable manifest; a mined file needs the manifest that `lockgate mine` wrote "
            "beside it"
        ) from None
    if missing or recorded != content:
        raise ExchangeError(f"{path}: is not the file that its manifest describes; restore it, or mine again")
    return dict(found)


def _short(digest: str) -> str:
    return f"probe {digest[:12]}"
