"""Figures of recorded decisions. Pure: they get decisions and return numbers."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from lockgate.calibration import clopper_pearson_upper
from lockgate.decisions import Decision, DecisionKind, Line
from lockgate.errors import MissingExtra

KINDS: tuple[DecisionKind, ...] = ("pass", "halt", "block", "error", "cancelled")
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of exchanges.

    Attributes:
        bound: exact upper bound of the rate at 95 % confidence; None without exchanges, or if the extra that
            computes it is missing.
    """

    k: int
    n: int
    bound: float | None

    @property
    def share(self) -> float | None:
        return self.k / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 99 % quantile of times in milliseconds: values that occurred. None without any."""

    n: int
    median: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened in some time.

    Attributes:
        counts: exchanges by decision.
        unenforced: flagged exchanges that shadow mode let pass.
        refused: flagged exchanges among those that were checked to their end.
        escalated: exchanges that a second stage was asked about, among those with a guard.
        times: waiting in the queue, until the first text, and in all.
    """

    counts: dict[DecisionKind, int]
    unenforced: int
    refused: Rate
    escalated: Rate
    times: dict[str, Spread]

    @property
    def n(self) -> int:
        return sum(self.counts.values())


def figures(decisions: Sequence[Decision]) -> Figures:
    """Compute the figures of decisions."""
    kinds = Counter(found.decision for found in decisions)
    flagged = kinds["halt"] + kinds["block"]
    staged = [found.stage for found in decisions if found.stage is not None]
    return Figures(
        counts={kind: kinds[kind] for kind in KINDS},
        unenforced=sum(found.flagged and not found.enforced for found in decisions),
        refused=rate(flagged, flagged + kinds["pass"]),
        escalated=rate(sum(stage > 1 for stage in staged), len(staged)),
        times={
            "Waiting in the queue": spread([found.queue_ms for found in decisions]),
            "Until the first text": spread(
                [found.first_token_ms for found in decisions if found.first_token_ms is not None]
            ),
            "In all": spread([found.total_ms for found in decisions]),
        },
    )


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a stage has read, as far as records tell.

    Attributes:
        exchanges: exchanges that it read.
        tokens: tokens of their prompts and answers. Several answers to one request share its prompt.
        verdicts: how often the second stage was asked; 0 for the first, which reads every token.
        first_text, in_all: times of the exchanges that no later stage was asked about.
    """

    exchanges: int
    tokens: int
    verdicts: int
    first_text: Spread
    in_all: Spread


def by_stage(decisions: Sequence[Decision]) -> tuple[StageCost, StageCost]:
    """Compute what the first and the second stage have read. The first one reads all that has a guard."""
    first = [found for found in decisions if found.stage is not None]
    return _cost(first, 1), _cost([found for found in first if found.stage == 2], 2)


def _cost(read: Sequence[Decision], stage: int) -> StageCost:
    last = [found for found in read if found.stage == stage]
    return StageCost(
        exchanges=len(read),
        tokens=sum({found.id: found.prompt_tokens for found in read}.values())
        + sum(found.completion_tokens for found in read),
        verdicts=sum(found.verdicts for found in read) if stage > 1 else 0,
        first_text=spread([found.first_token_ms for found in last if found.first_token_ms is not None]),
        in_all=spread([found.total_ms for found in last]),
    )


def rate(k: int, n: int) -> Rate:
    """Make a rate with its bound, if the bound can be computed here."""
    try:
        return Rate(k, n, clopper_pearson_upper(k, n, CONFIDENCE) if n else None)
    except MissingExtra:
        return Rate(k, n, None)


def spread(values: Sequence[float]) -> Spread:
    """Find the median and the 99 % quantile."""
    if not values:
        return Spread(0, None, None)
    low, high = np.quantile(values, [0.5, 0.99], method="inverted_cdf")
    return Spread(len(values), float(low), float(high))


def by_tenant(decisions: Sequence[Decision]) -> dict[str, Figures]:
    """Compute the figures of each tenant, the one with most exchanges first."""
    groups: dict[str, list[Decision]] = defaultdict(list)
    for found in decisions:
        groups[found.tenant or ""].append(found)
    names = sorted(groups, key=lambda name: (-len(groups[name]), name))
    return {name: figures(groups[name]) for name in names}


@dataclass(frozen=True, slots=True)
class Bucket:
    """The exchanges of a slice of time."""

    begin: datetime
    n: int
    flagged: int


def over_time(lines: Sequence[Line], end: datetime, length: timedelta, count: int) -> list[Bucket]:
    """Count exchanges in slices of time, oldest first. Lines outside the time are left out."""
    step = length / count
    begin = end - length
    every, flagged = [0] * count, [0] * count
    for line in lines:
        place = int((time_of(line.at) - begin) / step)
        if 0 <= place < count:
            every[place] += 1
            flagged[place] += line.decision.flagged
    return [
        Bucket(begin + number * step, n, k) for number, (n, k) in enumerate(zip(every, flagged, strict=True))
    ]


def time_of(text: str) -> datetime:
    """Read a time as records have it."""
    return datetime.fromisoformat(text).astimezone(UTC)


def text_of(time: datetime) -> str:
    """Return a time as records have it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
