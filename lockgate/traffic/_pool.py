"""A pool of exchanges, sifted before a guard scores it: which rows may be mined."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lockgate.durable import file_sha256
from lockgate.errors import ConfigError, ExchangeError
from lockgate.exchanges import Exchange, PromptPrints, prompt_text, read_exchanges
from lockgate.traffic._plan import MiningPlan

_BATCH = 512
_SHOWN = 3
_PRINTS = ".safetensors"


class Kind(IntEnum):
    """What a row of a pool is for. Only a candidate is mined."""

    CANDIDATE = 0
    HARMFUL = 1
    UNLABELLED = 2
    NO_ANSWER = 3
    DUPLICATE = 4
    OVERLAP = 5


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool after a first reading. It takes a byte for each row, and some for each distinct exchange.

    Attributes:
        files: files of the pool.
        hashes: SHA-256 of each file.
        kinds: kind of each row, one array `[rows]` for each file.
        sources: number of candidates by source.
        held_out: number of distinct held-out prompts; None if none were given.
    """

    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    kinds: tuple[NDArray[np.uint8], ...]
    sources: Counter[str]
    held_out: int | None

    def check_unchanged(self) -> None:
        """Check that the files are as they were. Raises ExchangeError."""
        for path, digest in zip(self.files, self.hashes, strict=True):
            if file_sha256(path) != digest:
                raise ExchangeError(f"{path}: changed while it was read; run the command again")

    def count(self, kind: Kind) -> int:
        """Return the number of rows of one kind."""
        return sum(int((own == kind).sum()) for own in self.kinds)


def sift_pool(files: Sequence[Path], plan: MiningPlan) -> Pool:
    """Read a pool once and say what each row is for.

    A row without an answer can't be mined. A harmful row is kept aside, and so is a row without a label,
    unless the plan takes it as harmless. The first of equal exchanges stands for all of them.

    Raises:
        ConfigError: a prompt of the pool is held out, or there is no harmless row to mine from.
        ExchangeError: a file can't be read, or a file of held-out prompts holds none.
    """
    known = read_held_out(plan.held_out)
    seen: set[int] = set()
    sources: Counter[str] = Counter()
    kinds, places, met = [], list[str](), Counter[str]()
    hashes = tuple(file_sha256(path) for path in files)
    for path in files:
        own: list[Kind] = []
        for batch in batches(path, skip_invalid=plan.skip_invalid):
            shared = find_kinds(known, batch)
            for row, match in zip(batch, shared, strict=True):
                kind = _kind(row, match is not None, seen, plan)
                if kind is Kind.OVERLAP and match is not None:
                    met[match] += 1
                    places += [f"{path}: exchange {len(own) + 1}"] if len(places) < _SHOWN else []
                if kind is Kind.CANDIDATE:
                    sources[row.source] += 1
                own.append(kind)
        kinds.append(np.array(own, dtype=np.uint8))
    pool = Pool(tuple(files), hashes, tuple(kinds), sources, None if known is None else len(known))
    if met and not plan.drop_overlap:
        raise ConfigError(_describe_overlap(met, places))
    _check_candidates(pool)
    return pool


def read_held_out(files: Sequence[Path]) -> PromptPrints | None:
    """Read prompts that must not train, from exchanges or from files of fingerprints (`.safetensors`).

    Raises:
        ExchangeError: a file can't be read or holds no prompt.
    """
    known: PromptPrints | None = None
    for path in files:
        stored = path.suffix == _PRINTS
        prints = PromptPrints.load(path) if stored else PromptPrints.of(read_exchanges(path))
        if not len(prints):
            raise ExchangeError(f"{path}: no prompt; expected those of calibration, development or test")
        known = prints if known is None else known | prints
    return known


def _kind(row: Exchange, held_out: bool, seen: set[int], plan: MiningPlan) -> Kind:
    if row.is_prompt_only or not row.messages[-1].content.strip():
        return Kind.NO_ANSWER
    if row.label is None and plan.unlabelled_as is None:
        return Kind.UNLABELLED
    if held_out:
        return Kind.OVERLAP
    key = int(row.id, 16)
    if key in seen:
        return Kind.DUPLICATE
    seen.add(key)
    return Kind.HARMFUL if row.label is not None and row.label >= 0.5 else Kind.CANDIDATE


def batches(path: Path, *, skip_invalid: bool) -> Iterator[list[Exchange]]:
    """Read a file in batches, so that prompts are looked up together."""
    batch: list[Exchange] = []
    for row in read_exchanges(path, skip_invalid=skip_invalid):
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def find_kinds(known: PromptPrints | None, batch: Sequence[Exchange]) -> list[str | None]:
    """Return for each exchange how its prompt matches a known one: "equal", "near" or None."""
    if known is None:
        return [None] * len(batch)
    found = known.find([prompt_text(row) for row in batch])
    return [None if match is None else match.kind for match in found]


def _describe_overlap(met: Counter[str], places: Sequence[str]) -> str:
    more = f" and {met.total() - len(places)} more" if met.total() > len(places) else ""
    return (
        f"held_out: {met.total()} exchanges of the pool have held-out prompts ({met['equal']} equal, "
        f"{met['near']} near): {'; '.join(places)}{more}. What is mined trains, so it can't calibrate or "
        "test too. Take them out of the pool, or leave them out with --drop-overlap"
    )


def _check_candidates(pool: Pool) -> None:
    if pool.count(Kind.CANDIDATE):
        return
    rows = sum(len(own) for own in pool.kinds)
    counts = {kind: pool.count(kind) for kind in Kind}
    raise ConfigError(
        f"pool: no harmless exchange to mine from among {rows} ({counts[Kind.HARMFUL]} harmful, "
        f"{counts[Kind.UNLABELLED]} without a label, {counts[Kind.NO_ANSWER]} without an answer, "
        f"{counts[Kind.OVERLAP]} with held-out prompts). Give exchanges labelled harmless, or take traffic "
        "without labels as harmless with --unlabelled-as 0"
    )
