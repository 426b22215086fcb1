"""The settings of a probe for a small set, chosen by cross-validation at low false-positive rates."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.classifiers import ProbeHead
from lockgate.durable import open_atomic
from lockgate.errors import TrainingError
from lockgate.training._fit import ProbeConfig, fit_probes
from lockgate.training._low_rates import LowRateRecall
from lockgate.training._windows import CachedExchange, WindowCache


@dataclass(frozen=True, slots=True)
class TriedConfig:
    """One candidate: its mean recall, its gain over the standard settings, and that gain's standard error."""

    name: str
    value: float
    gain: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class ProbeChoice:
    """The chosen settings and the evidence for them.

    Attributes:
        config: the chosen candidate.
        scores: its scores on rows that its fit has not seen [N].
        tried: all candidates, the standard settings first.
    """

    config: ProbeConfig
    scores: NDArray[np.float64]
    tried: tuple[TriedConfig, ...]


def choose_probe(
    cache: WindowCache,
    configs: Sequence[ProbeConfig],
    folds: NDArray[np.int64],
    judge: LowRateRecall,
    *,
    work: Path,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> ProbeChoice:
    """Choose among candidates by the scores of rows that a fit has not seen.

    The best candidate is taken if its gain over the first one, the standard settings, is larger than the
    gain's standard error. So noise rarely moves a build away from settings that were measured elsewhere.

    Args:
        cache: windows of the N training exchanges.
        configs: candidates with different names. Those that share epochs, batch and seed are fitted together.
        folds: fold of each exchange [N].
        judge: what low false-positive rates are worth on these exchanges.
        work: folder for finished folds and the state of a fit. A later call with the same arguments resumes.
        report: called with the finished fits and their number.

    Raises:
        TrainingError: the arguments don't fit together, or `fit_probes` raised it.
    """
    if len({config.name for config in configs}) != len(configs) or not configs:
        raise TrainingError("expected candidates with different names")
    if len(folds) != len(cache.exchanges):
        raise TrainingError(f"{len(folds)} folds for {len(cache.exchanges)} exchanges; expected one each")
    scores = _held_out_scores(cache, configs, folds, work, report)
    first = scores[configs[0].name]
    tried = []
    for config in configs:
        gain = judge.gain(scores[config.name], first)
        tried.append(TriedConfig(config.name, judge.value(scores[config.name]), gain.value, gain.error))
    best = max(range(len(configs)), key=lambda number: (tried[number].value, -number))
    chosen = best if tried[best].gain > tried[best].error else 0
    return ProbeChoice(configs[chosen], scores[configs[chosen].name], tuple(tried))


def window_scores(
    head: ProbeHead, cache: WindowCache, exchanges: Sequence[CachedExchange]
) -> NDArray[np.float64]:
    """Return the largest window logit of each exchange [N]. It stands for the served maximum."""
    columns = [cache.meta["layers"].index(layer) for layer in head.layers]
    weights, bias = head.weights[0].flatten().numpy(), float(head.bias[0])
    found = []
    for exchange in exchanges:
        windows = np.asarray(cache.windows(exchange)[:, columns], dtype=np.float32)
        found.append(float((windows.reshape(len(windows), -1) @ weights).max()) + bias)
    return np.array(found, dtype=np.float64)


def _held_out_scores(
    cache: WindowCache,
    configs: Sequence[ProbeConfig],
    folds: NDArray[np.int64],
    work: Path,
    report: Callable[[int, int], None],
) -> dict[str, NDArray[np.float64]]:
    work.mkdir(parents=True, exist_ok=True)
    ordered = sorted(configs, key=_together)
    batches = [list(members) for _, members in groupby(ordered, key=_together)]
    total = len(batches) * (int(folds.max()) + 1)
    scores = {config.name: np.full(len(folds), np.nan) for config in configs}
    done = 0
    for members in batches:
        for fold in range(int(folds.max()) + 1):
            held = np.flatnonzero(folds == fold)
            for name, values in _fold(cache, members, folds, fold, work).items():
                scores[name][held] = values
            done += 1
            report(done, total)
    return scores


def _fold(
    cache: WindowCache, configs: Sequence[ProbeConfig], folds: NDArray[np.int64], fold: int, work: Path
) -> dict[str, list[float]]:
    """Fit on the other folds and score this one, or take the scores of an earlier run."""
    rows = cache.exchanges
    key = _key(cache, configs, folds, fold)
    place = work / f"{key[:16]}.json"
    if place.is_file():
        return dict(json.loads(place.read_text()))
    training = [row for row, own in zip(rows, folds, strict=True) if own != fold]
    held = [row for row, own in zip(rows, folds, strict=True) if own == fold]
    state = work / f"{key[:16]}.safetensors"
    heads = fit_probes(cache, training, configs, checkpoint=state)
    found = {
        config.name: window_scores(head, cache, held).tolist()
        for config, head in zip(configs, heads, strict=True)
    }
    with open_atomic(place) as file:
        file.write(json.dumps(found).encode())
    state.unlink(missing_ok=True)
    return found


def _together(config: ProbeConfig) -> tuple[int, int, int]:
    return (config.epochs, config.batch, config.seed)


def _key(cache: WindowCache, configs: Sequence[ProbeConfig], folds: NDArray[np.int64], fold: int) -> str:
    content: list[Any] = [
        [asdict(config) for config in configs],
        [(row.id, row.label) for row in cache.exchanges],
        folds.tolist(),
        fold,
        cache.meta,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
