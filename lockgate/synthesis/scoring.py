"""A step that scores the rows of a pipeline with a guard."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lockgate.durable import file_sha256
from lockgate.errors import BackboneError
from lockgate.exchanges import Exchange
from lockgate.guards import Guard, bundle_folder, read_bundle
from lockgate.synthesis._rows import Reject
from lockgate.synthesis._step import Step, StepContext
from lockgate.traffic import score_row

__all__ = ["SCORES", "ScoreStep"]

SCORES = "scores"

_COLUMNS = (
    "probe_max",
    "max_prompt",
    "max_answer",
    "classifier_max",
    "mixed_max",
    "flagged",
    "stage",
    "flag_token",
    "verdict_category",
)
# Logits have a tolerance of a thousandth of their deviation. Further digits depend on the machine.
_DIGITS = 4


class ScoreStep(Step):
    """A step that writes a guard's scores of each exchange to `meta.scores`, under the scores table's names.

    Each process that runs the step loads the guard once. It reads with one thread, because the number of
    threads moves floats. Use an executor for more speed. Rows that the backbone's template refuses are
    dropped as `unreadable`.

    Args:
        name: the step's name.
        guard: path of a bundle, or `embedded`. Every process must find it there.
        backbone: path of the guard's backbone, if it is not the embedded one.
        batch_rows: exchanges read together. They are part of the step's key, because batching moves floats.
        version: the step's version.

    Raises:
        GuardError: The bundle is incomplete or damaged.
    """

    def __init__(
        self,
        name: str,
        guard: str | Path = "embedded",
        *,
        backbone: str | Path | None = None,
        batch_rows: int = 64,
        version: str = "1",
    ) -> None:
        super().__init__(name, version=version)
        self.batch_rows = batch_rows
        path = bundle_folder(guard).absolute()
        read_bundle(path)
        self._path = path
        self._backbone = backbone
        self._sha256 = file_sha256(path / "guard.yaml")
        self._guard: Guard | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process loads its own weights.
        return {**self.__dict__, "_guard": None}

    def config(self) -> Mapping[str, Any]:
        """Return the guard's hash and `batch_rows`. The guard's path is no part of the key."""
        return {"guard": self._sha256, "batch_rows": self.batch_rows}

    def run(self, rows: Iterable[Exchange], context: StepContext) -> Iterator[Exchange]:
        if self._guard is None:
            self._guard = Guard.load(self._path, backbone=self._backbone)
        guard = self._guard
        readable = [row for row in rows if _check_readable(guard, row, context)]
        with _one_thread():
            for row, score in zip(readable, guard.score_many(readable), strict=True):
                found = score_row(score)
                context.count("flagged", int(score.flagged))
                scores = {name: _rounded(found[name]) for name in _COLUMNS}
                yield replace(row, meta={**row.meta, SCORES: scores})


def _check_readable(guard: Guard, row: Exchange, context: StepContext) -> bool:
    try:
        guard.backbone.render(row.messages, add_generation_prompt=row.is_prompt_only)
    except BackboneError:
        context.reject(row, Reject("unreadable"))
        return False
    return True


def _rounded(value: object) -> object:
    if not isinstance(value, float):
        return value
    return round(value, _DIGITS) if math.isfinite(value) else None


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
