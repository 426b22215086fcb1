"""Scoring a file: in chunks, by one or several processes, resumable.

Chunk by chunk the batch plan starts afresh, so the scores depend on the input alone, never on how many
processes worked or where a run was interrupted. Finished chunks lie in `OUTPUT.parts/` until the table is
written.
"""

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lockgate.errors import ConfigError, ExchangeError, GuardError
from lockgate.evaluation import ScoresTable
from lockgate.exchanges import Exchange, prompt_group, read_exchanges
from lockgate.guards._bundle import file_sha256
from lockgate.guards._scoring import ExchangeScore, finite_or_none, score_exchanges

if TYPE_CHECKING:
    from lockgate.guards._guard import Guard

CHUNK = 64
_REPORT_SECONDS = 2.0


def score_file(
    guard: "Guard",
    source: Path,
    output: Path,
    *,
    skip_invalid: bool,
    workers: int,
    report: Callable[[int], None],
) -> ScoresTable:
    """See `Guard.score_file`."""
    if workers < 1:
        raise ConfigError(f"workers: expected at least 1, found {workers}")
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: the folder {output.parent} does not exist; make it first")
    if workers > 1 and (guard.path is None or not guard.backbone.source):
        raise ConfigError("workers: a guard or backbone that lies in memory only is scored by one process")
    if not source.is_file():
        raise ExchangeError(
            f"{source}: no such file; expected exchanges as .jsonl, .jsonl.gz, .jsonl.zst or .parquet"
        )
    parts = output.with_name(output.name + ".parts")
    _claim(parts, {"guard": _guard_key(guard), "input": file_sha256(source), "skip_invalid": skip_invalid})
    if workers == 1:
        for chunk in _chunks(source, skip_invalid, 0, 1, parts):
            _write_chunk(guard, chunk, parts)
            report(sum(1 for _ in parts.glob("[0-9]*.jsonl")) * CHUNK)
    else:
        _spawn(guard, source, skip_invalid, workers, parts, report)
    table = ScoresTable.from_rows(_collect(parts))
    table.write(output)
    shutil.rmtree(parts)
    return table


def score_row(score: ExchangeScore) -> dict[str, Any]:
    """One row of the scores table for a guard whose probe decides alone."""
    exchange = score.exchange
    # A prompt alone has no answer that could flag: it is ranked by its own maximum and marked unflagged.
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
        "classifier_max": None,
        "mixed_max": ranked,
        "flagged": score.flagged,
        "stage": 1,
        "flag_token": score.flag_token,
        "tokens_stage1": score.tokens,
        "tokens_stage2": 0,
        "flops_stage1": score.flops,
        "flops_stage2": 0.0,
        "cpu_s_stage1": score.cpu_s,
        "cpu_s_stage2": 0.0,
        "prompt_group": prompt_group(exchange),
        "length": score.tokens,
        "verdict_category": score.category,
    }


def _claim(parts: Path, key: dict[str, Any]) -> None:
    """Take over the finished chunks of an interrupted run with the same guard and input; drop any others."""
    header = parts / "header.json"
    if parts.exists():
        with contextlib.suppress(OSError, ValueError):
            if json.loads(header.read_text()) == key:
                return
        shutil.rmtree(parts)
    parts.mkdir()
    header.write_text(json.dumps(key))


def _guard_key(guard: "Guard") -> list[Any]:
    weights = torch.cat([guard.head.weights.flatten(), guard.head.bias]).numpy().tobytes()
    return [guard.record.model_dump(mode="json"), hashlib.sha256(weights).hexdigest()]


def _chunks(
    source: Path, skip_invalid: bool, worker: int, workers: int, parts: Path
) -> Iterator[tuple[int, list[Exchange]]]:
    rows = read_exchanges(source, skip_invalid=skip_invalid)
    for number in itertools.count():
        chunk = list(itertools.islice(rows, CHUNK))
        if not chunk:
            return
        if number % workers == worker and not (parts / f"{number:08d}.jsonl").exists():
            yield number, chunk


def _write_chunk(guard: "Guard", chunk: tuple[int, list[Exchange]], parts: Path) -> None:
    number, exchanges = chunk
    scored = score_exchanges(
        guard.backbone, [guard.head], [guard.thresholds], exchanges, first_number=number * CHUNK
    )
    rows = sorted((score_row(scores[0]) for scores in scored), key=lambda row: row["row"])
    partial = parts / f"{number:08d}.part"
    with partial.open("w", encoding="utf-8") as sink:
        for row in rows:
            sink.write(json.dumps(row) + "\n")
    os.replace(partial, partial.with_suffix(".jsonl"))


def _spawn(
    guard: "Guard", source: Path, skip_invalid: bool, workers: int, parts: Path, report: Callable[[int], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    backbone = guard.backbone.source
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [
            pool.submit(_work, str(guard.path), backbone, source, skip_invalid, parts, i, workers)
            for i in range(workers)
        ]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=_REPORT_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                report(sum(1 for _ in parts.glob("[0-9]*.jsonl")) * CHUNK)
        except BrokenProcessPool as error:
            raise GuardError(
                "a scoring process ended by itself (memory?); run the same command to go on"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _work(
    guard_path: str, backbone: str, source: Path, skip_invalid: bool, parts: Path, worker: int, workers: int
) -> None:
    from lockgate.guards._guard import Guard

    torch.set_num_threads(1)
    guard = Guard.load(guard_path, backbone=backbone)
    for chunk in _chunks(source, skip_invalid, worker, workers, parts):
        _write_chunk(guard, chunk, parts)


def _collect(parts: Path) -> Iterator[dict[str, Any]]:
    for part in sorted(parts.glob("[0-9]*.jsonl")):
        with part.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
