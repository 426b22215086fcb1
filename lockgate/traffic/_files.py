"""Scoring a file in chunks, by one or several processes. An interrupted run can go on.

The batch plan starts again with each chunk. So scores depend only on the input, and not on the number of
processes or on where a run was interrupted. Finished chunks stay in `OUTPUT.parts/` until the table is
written.
"""

import hashlib
import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lockgate.backbones import Backbone, Placement
from lockgate.durable import file_sha256, open_atomic, scratch_folder
from lockgate.durable.processes import run_parts
from lockgate.errors import ConfigError, ExchangeError, GuardError, PrecisionWarning
from lockgate.exchanges import Exchange, prompt_group, read_exchanges
from lockgate.guards import ExchangeScore, Guard, finite_or_none
from lockgate.tables import BlockTrace, ScoresTable

CHUNK = 64


def score_file(
    guard: Guard,
    input: str | Path,  # noqa: A002
    output: str | Path,
    *,
    skip_invalid: bool = False,
    workers: int = 1,
    blocks: str | Path | None = None,
    all_blocks: bool = False,
    screen: bool = False,
    report: Callable[[int], None] = lambda _: None,
) -> ScoresTable:
    """Score a file of exchanges into a scores table. The same call continues an interrupted run.

    Args:
        guard: the guard.
        input: file of exchanges.
        output: place of the scores table, a Parquet file.
        skip_invalid: leave bad records out. By default the first one stops the run.
        workers: number of processes, with one thread each, but no more than chunks of 64 exchanges. The table
            does not depend on it.
        blocks: place of the block trace: what both stages say at the end of each block. By default none is
            written.
        all_blocks: have stage 2 judge every block, also where stage 1 would not ask.
        screen: score with stage 1 alone. `flagged` then says whether stage 2 would be asked, and `mixed_max`
            is the largest corrected reading (`Cascade`), which the escalation threshold compares.
        report: called after each chunk with the number of exchanges that are done.

    Returns:
        The scores table, as written.

    Raises:
        GuardError: the guard has one stage, and a block trace or verdicts for all blocks are asked for.
        ConfigError: stage 1 alone is to judge blocks, a folder does not exist, or several workers are to
            share a guard that is only in memory.
        ExchangeError: the input can't be read, or holds an exchange that the template refuses.
    """
    source, output, blocks = Path(input), Path(output), None if blocks is None else Path(blocks)
    if workers < 1:
        raise ConfigError(f"workers: expected at least 1, found {workers}")
    for path in (output, blocks):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path}: the folder {path.parent} does not exist; make it first")
    if blocks is not None or all_blocks:
        if screen:
            raise ConfigError("screen: stage 1 alone has no blocks; leave out the trace and its verdicts")
        guard.stages.require_second()
    if workers > 1 and (guard.path is None or not guard.backbone.source):
        raise ConfigError("workers: expected 1 for a guard or backbone that is only in memory; save it first")
    if not source.is_file():
        raise ExchangeError(
            f"{source}: no such file; expected exchanges as .jsonl, .jsonl.gz, .jsonl.zst or .parquet"
        )
    parts = output.with_name(output.name + ".parts")
    key = {
        "guard": _guard_key(guard),
        "input": file_sha256(source),
        "skip_invalid": skip_invalid,
        "all_blocks": all_blocks,
        "screen": screen,
    }
    # A process for no chunk would load a model for nothing.
    workers = max(1, _count_chunks(source, skip_invalid, most=workers))
    with scratch_folder(parts, "scoring", key=key):
        task = _Task(source, skip_invalid, parts, workers, all_blocks, screen)
        if workers == 1:
            for _ in _write_chunks(guard, task, 0):
                report(_count_done(parts))
        else:
            run_parts(
                _work,
                [(str(guard.path), *_backbone_of(guard), task, worker) for worker in range(workers)],
                lost=GuardError("a scoring process ended by itself (memory?); run the same command to go on"),
                watch=lambda: report(_count_done(parts)),
            )
        lines = list(_collect(parts))
        trace = [(line["row"], *_columns(line.pop("blocks"))) for line in lines]
        voices = [(len(row[1]), line.pop("voices", {})) for row, line in zip(trace, lines, strict=True)]
        table = ScoresTable.from_rows(lines)
        table.write(output)
        if blocks is not None:
            BlockTrace.from_rows(trace, _voices(voices)).write(blocks)
    return table


def score_row(score: ExchangeScore) -> dict[str, Any]:
    """Return one row of the scores table. It also holds `blocks`, which the table does not."""
    exchange = score.exchange
    # A prompt without an answer can't be flagged. It is ranked by its own maximum.
    ranked = score.max_score if score.max_score != float("-inf") else score.max_prompt
    return {
        "row": score.number,
        "id": exchange.id,
        "source": exchange.source,
        "label": exchange.label,
        "category": exchange.category,
        "probe_max": ranked,
        "max_prompt": finite_or_none(score.max_prompt),
        "max_answer": finite_or_none(score.max_answer),
        "classifier_max": finite_or_none(score.classifier_max),
        "mixed_max": score.ranked,
        "flagged": score.flagged,
        "stage": score.stage,
        "flag_token": score.flag_token,
        "tokens_stage1": score.tokens,
        "tokens_stage2": score.tokens_stage2,
        "flops_stage1": score.flops,
        "flops_stage2": score.flops_stage2,
        "cpu_s_stage1": score.cpu_s,
        "cpu_s_stage2": score.cpu_s_stage2,
        "prompt_group": prompt_group(exchange),
        "length": score.tokens,
        "verdict_category": score.category,
        "blocks": score.blocks,
    }


def _columns(blocks: Sequence[Sequence[float]]) -> tuple[list[int], list[float], list[float]]:
    """Split an exchange's blocks into ends, probe scores and classifier scores."""
    return [int(end) for end, _, _ in blocks], [row[1] for row in blocks], [row[2] for row in blocks]


def _voices(rows: Sequence[tuple[int, Mapping[str, Sequence[float]]]]) -> dict[str, list[Sequence[float]]]:
    """Return the logits of each voice for each exchange. NaN: it was not asked about the exchange.

    Args:
        rows: number of blocks and logits of the voices, for each exchange.
    """
    names = sorted({name for _, voices in rows for name in voices})
    return {name: [voices.get(name, [math.nan] * n) for n, voices in rows] for name in names}


def _guard_key(guard: Guard) -> list[Any]:
    weights = torch.cat([guard.head.weights.flatten(), guard.head.bias]).numpy().tobytes()
    content = guard.record.model_dump(mode="json")
    # A run on a CPU that an earlier version began goes on.
    if content["backbone"]["device"] == "cpu":
        del content["backbone"]["device"]
    shift = [] if guard.precision_shift is None else [str(guard.backbone.placement)]
    return [content, hashlib.sha256(weights).hexdigest(), *shift]


@dataclass(frozen=True, slots=True)
class _Task:
    """The settings of a run that every process gets."""

    source: Path
    skip_invalid: bool
    parts: Path
    workers: int
    all_blocks: bool
    screen: bool

    def place(self, number: int) -> Path:
        """Return the place of a finished chunk's rows."""
        return self.parts / f"{number:08d}.jsonl"


def _backbone_of(guard: Guard) -> tuple[str, Placement]:
    return guard.backbone.source, guard.backbone.placement


def _work(guard_path: str, source: str, placed: Placement, task: _Task, worker: int) -> None:
    """Score one worker's chunks, in a process of its own."""
    torch.set_num_threads(1)
    backbone = Backbone.load(source, device=placed.device, dtype=placed.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)  # the first process has said it
        guard = Guard.load(guard_path, backbone=backbone)
    for _ in _write_chunks(guard, task, worker):
        pass


def _write_chunks(guard: Guard, task: _Task, worker: int) -> Iterator[int]:
    """Score one worker's unfinished chunks and yield their numbers."""
    rows = read_exchanges(task.source, skip_invalid=task.skip_invalid)
    for number in itertools.count():
        chunk = list(itertools.islice(rows, CHUNK))
        if not chunk:
            return
        if number % task.workers == worker and not task.place(number).exists():
            _write_chunk(guard, chunk, number, task)
            yield number


def _count_chunks(source: Path, skip_invalid: bool, most: int) -> int:
    """Count a file's chunks, but no further than to `most`."""
    if most == 1:
        return 1
    rows = read_exchanges(source, skip_invalid=skip_invalid)
    return sum(1 for _ in itertools.islice(rows, 0, most * CHUNK, CHUNK))


def _write_chunk(guard: Guard, chunk: Sequence[Exchange], number: int, task: _Task) -> None:
    scored = guard.score_many(
        chunk, first_number=number * CHUNK, all_blocks=task.all_blocks, screen=task.screen
    )
    rows = [{**score_row(score), "voices": score.voices} for score in scored]
    rows.sort(key=lambda row: row["row"])
    with open_atomic(task.place(number)) as sink:
        for row in rows:
            sink.write(json.dumps(row).encode() + b"\n")


def _count_done(parts: Path) -> int:
    return sum(1 for _ in parts.glob("[0-9]*.jsonl")) * CHUNK


def _collect(parts: Path) -> Iterator[dict[str, Any]]:
    for part in sorted(parts.glob("[0-9]*.jsonl")):
        with part.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
