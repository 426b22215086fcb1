"""Mining: the harmless exchanges of a pool that a guard finds most harmful."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockgate._version import __version__
from lockgate.durable import file_sha256, scratch_folder
from lockgate.errors import ConfigError, GuardError
from lockgate.exchanges import Exchange, prompt_group, read_exchanges, suffix_of, write_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic._mined import MINED, write_manifest
from lockgate.traffic._plan import MiningPlan
from lockgate.traffic._pool import Kind, Pool, sift_pool
from lockgate.traffic._staging import score_once

_OWNER = "lockgate mine"


class _Candidates(NamedTuple):
    """The candidates of a pool [N]: number of the file, row in it, source, score, whether it is flagged."""

    files: NDArray[np.int64]
    rows: NDArray[np.int64]
    sources: list[str]
    scores: NDArray[np.float64]
    flagged: NDArray[np.bool_]


def mine(
    guard: Guard,
    files: Sequence[Path],
    output: Path,
    plan: MiningPlan | None = None,
    *,
    keep_harmful: Path | None = None,
    report: Callable[[Path, int], None] = lambda _path, _done: None,
) -> dict[str, Any]:
    """Take the harmless exchanges of a pool with the highest scores, and write them with a manifest.

    Exchanges keep the order of the pool. Each says in `meta.mined` which guard mined it, and with which
    score. Inputs are checked before the long reading. Until the mining is complete, scores stay in
    OUTPUT.state, without text. The same call continues an interrupted run.

    Args:
        guard: the guard, as it is on disk.
        files: files of the pool.
        output: file of the mined exchanges. Its manifest is beside it (`manifest_of`).
        plan: settings. By default a `MiningPlan()`.
        keep_harmful: file for the harmful exchanges of the pool, unchanged. By default they are left out.
        report: called after each chunk with the file and the number of its exchanges that are done.

    Returns:
        The manifest, as written.

    Raises:
        ConfigError: the pool holds held-out prompts or no harmless exchange, or a place can't be used.
        GuardError: the guard is not saved, has no second stage for `stage` 2, or gives no usable scores.
        ExchangeError: a file can't be read, or changed meanwhile.
    """
    plan = MiningPlan() if plan is None else plan
    _check_guard(guard, plan)
    _check_places(files, output, keep_harmful)
    pool = sift_pool(files, plan)
    if keep_harmful is not None and not pool.count(Kind.HARMFUL):
        raise ConfigError(f"keep_harmful: the pool has no harmful exchange to write to {keep_harmful}")
    with scratch_folder(output.with_name(output.name + ".state"), _OWNER) as folder:
        settings: dict[str, Any] = {
            "workers": plan.workers,
            "screen": plan.stage == 1,
            "skip_invalid": plan.skip_invalid,
            "report": report,
        }
        tables = [ScoresTable.read(score_once(guard, path, folder, **settings)) for path in pool.files]
        pool.check_unchanged()
        found = _candidates(pool, tables)
        wanted = plan.count or math.ceil(plan.top * len(found.scores) - 1e-9)
        taken = take_highest(found.scores, found.sources, wanted, plan.per_source)
        counts = _write_mined(output, guard, pool, plan, found, taken)
        if keep_harmful is not None:
            write_exchanges(keep_harmful, (row for *_, row in _rows_of(pool, plan, Kind.HARMFUL)))
        manifest = _describe(guard, pool, plan, found, taken) | {
            "wanted": wanted,
            **counts,
            "harmful_flagged": _count_flagged(pool, tables, Kind.HARMFUL),
            "file": {"sha256": file_sha256(output), "rows": len(taken)},
        }
        write_manifest(output, manifest)
    return manifest


def take_highest(
    scores: NDArray[np.float64], sources: Sequence[str], wanted: int, per_source: int | None = None
) -> NDArray[np.int64]:
    """Return the rows with the highest scores, in ascending order. Of equal scores the first comes first.

    Args:
        scores: score of each row [N]. Minus infinity is never taken.
        sources: source of each row [N].
        wanted: most rows to take.
        per_source: most rows to take from one source.
    """
    taken: list[int] = []
    counts: Counter[str] = Counter()
    for row in np.argsort(-scores, kind="stable").tolist():
        if len(taken) == wanted or scores[row] == -math.inf:
            break
        if per_source is None or counts[sources[row]] < per_source:
            counts[sources[row]] += 1
            taken.append(row)
    return np.array(sorted(taken), dtype=np.int64)


def _check_guard(guard: Guard, plan: MiningPlan) -> None:
    if guard.path is None:
        raise GuardError("mining names the guard by the hash of its bundle; save the guard first")
    if plan.stage == 2 and guard.classifier is None:
        raise GuardError("stage: this guard has one stage; mine with --stage 1, or add a classifier first")


def _check_places(files: Sequence[Path], output: Path, keep_harmful: Path | None) -> None:
    """Check that the outputs can be written and replace no input. Raises ConfigError or ExchangeError."""
    if not files:
        raise ConfigError("pool: no file to mine from")
    taken = {path.resolve() for path in files}
    for name, path in (("output", output), ("keep_harmful", keep_harmful)):
        if path is None:
            continue
        suffix_of(path)
        if not path.parent.is_dir():
            raise ConfigError(f"{name}: the folder {path.parent} does not exist; make it first")
        if path.resolve() in taken:
            raise ConfigError(f"{name}: {path} is an input or another output; choose another name")
        taken.add(path.resolve())


def _candidates(pool: Pool, tables: Sequence[ScoresTable]) -> _Candidates:
    """Return the candidates with their scores.

    Raises:
        GuardError: a score is not a number or stands for a failed reading, or all candidates have none.
    """
    parts, sources = [], list[str]()
    for number, (kinds, table) in enumerate(zip(pool.kinds, tables, strict=True)):
        rows = np.flatnonzero(kinds == Kind.CANDIDATE)
        own = table.select(rows)
        parts.append((np.full(len(rows), number), rows, own.floats("mixed_max"), own.flagged))
        sources += [str(source) for source in own.texts("source")]
    files, rows, scores, flagged = (np.concatenate(column) for column in zip(*parts, strict=True))
    if broken := int((np.isnan(scores) | (scores == np.inf)).sum()):
        raise GuardError(
            f"{broken} of {len(scores)} harmless exchanges have no finite score, so nothing says how hard "
            "they are; look for a broken probe or classifier (lockgate doctor --guard)"
        )
    if not (scores > -np.inf).any():
        raise GuardError(
            "stage: stage 2 is asked about no harmless exchange of the pool, so none shows where it errs; "
            "mine with --stage 1, or from a larger pool"
        )
    return _Candidates(files, rows, sources, scores, flagged)


def _write_mined(
    output: Path,
    guard: Guard,
    pool: Pool,
    plan: MiningPlan,
    found: _Candidates,
    taken: NDArray[np.int64],
) -> dict[str, Any]:
    """Write the mined exchanges. Return counts by source, and how many have prompts that trained."""
    scores = {(int(found.files[i]), int(found.rows[i])): float(found.scores[i]) for i in taken}
    origin = {"guard": guard.sha256, "probe": guard.record.probe_sha256, "stage": plan.stage}
    sources: Counter[str] = Counter()
    trained: list[str] = []

    def rows() -> Iterator[Exchange]:
        for number, place, row in _rows_of(pool, plan, Kind.CANDIDATE):
            score = scores.get((number, place))
            if score is None:
                continue
            sources[row.source] += 1
            trained.append(prompt_group(row))
            meta = {**row.meta, MINED: {**origin, "score": score, "round": plan.round}}
            yield replace(row, label=row.label or 0.0, meta=meta)

    write_exchanges(output, rows())
    known = guard.training_prompts
    return {
        "by_source": dict(sorted(sources.items())),
        "of_training_prompts": None if known is None else int(known.holds(trained).sum()),
    }


def _rows_of(pool: Pool, plan: MiningPlan, kind: Kind) -> Iterator[tuple[int, int, Exchange]]:
    """Read the pool again. Yield the number of the file, the row in it and the exchange, for one kind."""
    for number, (path, kinds) in enumerate(zip(pool.files, pool.kinds, strict=True)):
        for place, row in enumerate(read_exchanges(path, skip_invalid=plan.skip_invalid)):
            if kinds[place] == kind:
                yield number, place, row


def _count_flagged(pool: Pool, tables: Sequence[ScoresTable], kind: Kind) -> int:
    return sum(
        int((table.flagged & (kinds == kind)).sum()) for kinds, table in zip(pool.kinds, tables, strict=True)
    )


def _describe(
    guard: Guard, pool: Pool, plan: MiningPlan, found: _Candidates, taken: NDArray[np.int64]
) -> dict[str, Any]:
    """Describe guard, pool and cut for the manifest. It holds names of sources and no text of exchanges."""
    alarm = guard.stages.alarm if plan.stage == 1 else guard.stages.decides
    return {
        "format": 1,
        "lockgate_version": __version__,
        "guard": {
            "name": guard.record.name,
            "sha256": guard.sha256,
            "probe_sha256": guard.record.probe_sha256,
        },
        "stage": plan.stage,
        "round": plan.round,
        "pool": [
            {"name": path.name, "sha256": digest, "rows": len(kinds)}
            for path, digest, kinds in zip(pool.files, pool.hashes, pool.kinds, strict=True)
        ],
        "kinds": {kind.name.lower(): pool.count(kind) for kind in Kind},
        "pool_by_source": dict(sorted(pool.sources.items())),
        "unlabelled_as": plan.unlabelled_as,
        "held_out_prompts": pool.held_out,
        "top": None if plan.count else plan.top,
        "per_source": plan.per_source,
        "cut": float(found.scores[taken].min()),
        # With one stage: above the threshold. With two: stage 2 is asked (stage 1), or the mixture flags.
        "flag": alarm if math.isfinite(alarm) else None,
        "scored": int((found.scores > -np.inf).sum()),
        "flagged": int(found.flagged.sum()),
    }
