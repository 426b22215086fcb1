"""The pipeline: steps one after another over a folder that keeps every finished batch."""

import errno
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lockgate.durable import lock_folder, open_atomic
from lockgate.errors import ConfigError, SynthesisError
from lockgate.exchanges import Exchange
from lockgate.synthesis._batches import Batch, BatchOutput, check_rows, cut_batches
from lockgate.synthesis._executors import Executor, LocalExecutor
from lockgate.synthesis._rows import Mapped, Row, decode_row, encode_row, number_rows
from lockgate.synthesis._shards import Batched, Fill, Shards, write_lines
from lockgate.synthesis._step import Step, StepContext

_FORMAT = 1
_SOURCE = "source"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Progress of a step, in rows of its input."""

    step: str
    rows_done: int
    rows_total: int
    rows_out: int
    rows_rejected: int


@dataclass(slots=True)
class StepReport:
    """Counts of a step. `seconds` and `rows_run` cover this run alone, the rest covers the data."""

    step: str
    version: str
    rows_in: int = 0
    rows_out: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    rows_run: int = 0
    seconds: float = 0.0

    def add(self, done: Batched) -> None:
        """Count a finished batch."""
        self.rows_in += done.rows_in
        self.rows_out += done.rows_out
        self.rejected.update(done.reasons)
        self.counters.update(done.counters)

    def to_dict(self) -> dict[str, Any]:
        """Return as JSON the counts that are the same in every run."""
        return {
            "step": self.step,
            "version": self.version,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "rejected": dict(sorted(self.rejected.items())),
            "counters": dict(sorted(self.counters.items())),
        }


class PipelineResult:
    """The finished rows of a run and the reports of its steps."""

    def __init__(self, steps: Sequence[StepReport], shards: Sequence[Shards]) -> None:
        self.steps = list(steps)
        self._shards = list(shards)

    def rows(self) -> Iterator[Row]:
        """Yield the finished rows in order, read from disk."""
        return map(decode_row, self._shards[-1])

    def rejected(self) -> Iterator[Row]:
        """Yield the dropped rows, step by step. `meta.rejected` holds step and reason."""
        for shards in self._shards:
            yield from map(decode_row, shards.rejected())

    def to_dict(self) -> dict[str, Any]:
        """Return the reports as in `report.json`. An interrupted run gives the same as an undisturbed one."""
        return {"steps": [step.to_dict() for step in self.steps]}


class Pipeline:
    """A row of steps, with a folder that keeps every finished batch.

    Run it again after a kill, an error or a change. A batch is not run again if its step (name, version,
    configuration) and its input are the same. Only one run at a time may use a folder.

    Args:
        steps: at least one step, each with its own name.
        folder: folder of the run; made if it is missing.
        executor: where batches run (default: in this process). Every executor gives the same result.
        progress: called after each batch.

    Raises:
        ConfigError: A name is taken or can't name a folder, or a configuration is not JSON.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        folder: str | Path,
        *,
        executor: Executor | None = None,
        progress: Callable[[StepProgress], None] | None = None,
    ) -> None:
        _check_names(steps)
        self.steps = list(steps)
        self.folder = Path(folder)
        self._executor = executor or LocalExecutor()
        self._progress = progress or (lambda _: None)
        self._base_keys = {step.name: _base_key(step) for step in steps}

    def run(self, source: Iterable[Exchange]) -> PipelineResult:
        """Run the batches that are not finished yet.

        Args:
            source: the first step's rows, the same in each run. They get their ids here.

        Raises:
            SynthesisError: The disk is full, another run uses the folder, or a step raised it. Finished
                batches are kept.
        """
        busy = SynthesisError(f"{self.folder}: another run works in this folder; wait for it or take another")
        with room_on(self.folder), lock_folder(self.folder, busy):
            shards = [Shards(self.folder / _SOURCE)]
            lines = (encode_row(row) for row in number_rows(source))
            total = shards[0].write(0, _SOURCE, write_lines(lines)).rows_out
            shards[0].trim(1)
            reports: list[StepReport] = []
            for step in self.steps:
                target = Shards(self.folder / step.name)
                run = self._run_whole if step.whole else self._run_batches
                reports.append(run(step, shards[-1], target, total))
                shards.append(target)
                total = reports[-1].rows_out
            result = PipelineResult(reports, shards)
            with open_atomic(self.folder / "report.json") as file:
                file.write(json.dumps(result.to_dict(), indent=1, sort_keys=True).encode() + b"\n")
            return result

    def _run_batches(self, step: Step, source: Shards, target: Shards, total: int) -> StepReport:
        report, keys, started = StepReport(step.name, step.version), dict[int, str](), time.monotonic()
        count = 0

        def unfinished() -> Iterator[Batch]:
            nonlocal count
            for batch in cut_batches(source, step.batch_rows):
                count = batch.number + 1
                key = self._key(step, batch.digest)
                if done := target.find(batch.number, key):
                    self._note(report, done, total)
                else:
                    keys[batch.number] = key
                    yield batch

        for output in self._executor.map_batches(step, unfinished()):
            rows_in = min(step.batch_rows, total - output.number * step.batch_rows)
            key = keys.pop(output.number)
            self._note(report, target.write(output.number, key, _fill(output, rows_in)), total)
            report.rows_run += rows_in
        target.trim(count)
        report.seconds = time.monotonic() - started
        return report

    def _run_whole(self, step: Step, source: Shards, target: Shards, total: int) -> StepReport:
        report, started = StepReport(step.name, step.version), time.monotonic()
        digest = hashlib.sha256()
        for line in source:
            digest.update(line)
        key = self._key(step, digest.hexdigest())
        done = target.find(0, key)
        if done is None:
            done = target.write(0, key, lambda write, reject: _run_into(step, source, total, write, reject))
            report.rows_run = total
        target.trim(1)
        self._note(report, done, total)
        report.seconds = time.monotonic() - started
        return report

    def _note(self, report: StepReport, done: Batched, total: int) -> None:
        report.add(done)
        self._progress(
            StepProgress(report.step, report.rows_in, total, report.rows_out, report.rejected.total())
        )

    def _key(self, step: Step, digest: str) -> str:
        return hashlib.sha256(f"{self._base_keys[step.name]}{digest}".encode()).hexdigest()


def _run_into(
    step: Step,
    source: Shards,
    total: int,
    write: Callable[[bytes], None],
    reject: Callable[[bytes], None],
) -> tuple[int, dict[str, int], dict[str, int]]:
    context = StepContext(step.name, lambda row: reject(encode_row(row)))
    for row in check_rows(step.name, step.run(Mapped(source, decode_row), context)):
        write(encode_row(row))
    return total, dict(sorted(context.reasons.items())), dict(sorted(context.counters.items()))


def _fill(output: BatchOutput, rows_in: int) -> Fill:
    def fill(
        write: Callable[[bytes], None], reject: Callable[[bytes], None]
    ) -> tuple[int, dict[str, int], dict[str, int]]:
        for line in output.lines:
            write(line)
        for line in output.rejected:
            reject(line)
        return rows_in, output.reasons, output.counters

    return fill


def _base_key(step: Step) -> str:
    try:
        return json.dumps([_FORMAT, step.name, step.version, step.config()], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"step {step.name}: config() must be JSON ({error})") from error


def _check_names(steps: Sequence[Step]) -> None:
    if not steps:
        raise ConfigError("steps: the list is empty; a pipeline needs at least one step")
    seen = {_SOURCE}
    for step in steps:
        if not _NAME.fullmatch(step.name):
            raise ConfigError(f"step {step.name!r}: a name has letters, digits, - and _, 64 at most")
        if step.name in seen:
            raise ConfigError(f"step {step.name}: the name is taken; each step of a pipeline has its own")
        if step.batch_rows < 1:
            raise ConfigError(f"step {step.name}: batch_rows must be at least 1")
        seen.add(step.name)


@contextmanager
def room_on(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into a SynthesisError that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise SynthesisError(
            f"{folder}: no room left to write ({error.strerror}). Finished batches are kept; make room "
            "and run again"
        ) from error
