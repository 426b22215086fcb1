"""Activations of the training rows. One or several processes read them; finished parts are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lockgate.backbones import Backbone
from lockgate.durable.processes import run_parts
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange
from lockgate.training import WindowCache, build_cache

PART = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """Settings of reading: layers of the residual stream, longest exchange in tokens, precision."""

    layers: tuple[int, ...]
    max_tokens: int
    dtype: str


def read_windows(
    backbone: Backbone,
    rows: Sequence[Exchange],
    folder: Path,
    reading: Reading,
    *,
    workers: int = 1,
    report: Callable[[int], None] = lambda _: None,
) -> WindowCache:
    """Read rows into a cache of windows, in parts of 64 rows.

    The parts are the same for any number of processes. One process uses all threads; several processes use
    one thread each. So the last bits may differ between the two.

    Raises:
        TrainingError: A process ended by itself, or `build_cache` raised it. Finished parts are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [rows[start : start + PART] for start in range(0, len(rows), PART)]
    if workers == 1:
        own = _in_dtype(backbone, reading.dtype)
        for number in range(len(parts)):
            _read_part(own, parts[number], folder, number, reading)
            report(min((number + 1) * PART, len(rows)))
    else:
        _spawn(backbone, parts, folder, reading, workers, report)
    return WindowCache.join([WindowCache(_part(folder, number)) for number in range(len(parts))])


def _in_dtype(backbone: Backbone, dtype: str) -> Backbone:
    if backbone.placement.dtype == dtype or not backbone.source:
        return backbone
    return Backbone.load(backbone.source, device=backbone.placement.device, dtype=dtype)


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}"


def _read_part(
    backbone: Backbone, rows: Sequence[Exchange], folder: Path, number: int, reading: Reading
) -> None:
    done = build_cache(
        backbone,
        rows,
        _part(folder, number),
        layers=reading.layers,
        site="residual",
        max_tokens=reading.max_tokens,
        shard_size=PART,
    )
    for _ in done:
        pass


def _spawn(
    backbone: Backbone,
    parts: Sequence[Sequence[Exchange]],
    folder: Path,
    reading: Reading,
    workers: int,
    report: Callable[[int], None],
) -> None:
    # A process for no part would load a model for nothing.
    workers = min(workers, len(parts))
    run_parts(
        _work,
        [
            (
                (backbone.source, backbone.placement.device),
                [(number, parts[number]) for number in range(worker, len(parts), workers)],
                folder,
                reading,
            )
            for worker in range(workers)
        ],
        lost=TrainingError(
            "a process that reads training rows ended by itself, perhaps for lack of memory; run the same "
            "command to go on, with fewer --workers if it happens again"
        ),
        watch=lambda: report(
            sum(len(parts[n]) for n in range(len(parts)) if any(_part(folder, n).glob("*.json")))
        ),
    )


def _work(
    source: tuple[str, str], parts: Sequence[tuple[int, Sequence[Exchange]]], folder: Path, reading: Reading
) -> None:
    torch.set_num_threads(1)
    backbone = Backbone.load(source[0], device=source[1], dtype=reading.dtype)
    for number, rows in parts:
        _read_part(backbone, rows, folder, number, reading)
