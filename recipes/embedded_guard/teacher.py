"""Soft labels: a teacher's probability of harm replaces an exchange's label (CC++ section 5)."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange
from lockgate.training import CachedExchange

__all__ = ["read_soft_labels", "soften"]

Labelled = TypeVar("Labelled", Exchange, CachedExchange)


def read_soft_labels(path: Path) -> dict[str, float]:
    """Read the probability of harm by exchange id, from Parquet or JSONL with `id` and `probability`.

    Raises:
        TrainingError: the file cannot be read, a row lacks a field, a probability is outside [0, 1], or an id has two.
    """
    labels: dict[str, float] = {}
    for number, row in enumerate(_rows(path), 1):
        name, value = row.get("id"), row.get("probability")
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, int | float):
            raise TrainingError(f"{path}: row {number}: expected a text `id` and a number `probability`")
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise TrainingError(f"{path}: row {number}: probability outside [0, 1]; give no logits")
        if labels.setdefault(name, float(value)) != value:
            raise TrainingError(f"{path}: row {number}: id {name} has another probability before")
    return labels


def soften(exchanges: Sequence[Labelled], labels: Mapping[str, float]) -> list[Labelled]:
    """Return the exchanges with the teacher's labels.

    Raises:
        TrainingError: the teacher has not scored all of them.
    """
    missing = [exchange.id for exchange in exchanges if exchange.id not in labels]
    if missing:
        raise TrainingError(
            f"the teacher has no score for {len(missing)} of {len(exchanges)} exchanges, among them "
            f"{missing[0]}; score the whole training file"
        )
    return [replace(exchange, label=labels[exchange.id]) for exchange in exchanges]


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            rows: list[dict[str, Any]] = pq.read_table(path, columns=["id", "probability"]).to_pylist()
            return rows
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TrainingError(
            f"{path}: not readable as soft labels ({type(error).__name__}); expected Parquet or JSONL with "
            "`id` and `probability`"
        ) from None
    if not all(isinstance(row, dict) for row in rows):
        raise TrainingError(f"{path}: expected one JSON object a line")
    return rows
