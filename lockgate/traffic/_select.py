"""Selection: the exchanges of a file that are most worth a person's label."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockgate._version import __version__
from lockgate.curation import find_duplicates
from lockgate.durable import file_sha256, scratch_folder
from lockgate.errors import ConfigError, ExchangeError, GuardError
from lockgate.exchanges import (
    Exchange,
    PromptPrints,
    prompt_group,
    prompt_text,
    read_exchanges,
    suffix_of,
    write_exchanges,
)
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic._draw import bands_of, draw_diverse, draw_key, order_by_distance
from lockgate.traffic._mined import write_manifest
from lockgate.traffic._plan import SelectionPlan
from lockgate.traffic._pool import batches, find_kinds, read_held_out
from lockgate.traffic._staging import score_once

SCORED = "scored"
_OWNER = "lockgate select"
# The shortlist holds this many prompts for each one to choose, and at most so many if they are much alike.
_SHORTLIST, _LONGEST = 4, 64
# From the median to the 99 % quantile of a normal distribution, in standard deviations.
_Z99 = 2.326


class Fate(IntEnum):
    """Why a row is a candidate for a label, or is none."""

    CANDIDATE = 0
    NO_ANSWER = 1
    LABELLED = 2
    TRAINED = 3
    HELD_OUT = 4
    REVIEWED = 5


class _Candidates(NamedTuple):
    """One exchange for each prompt [N]: number of its file, its row there, score, distance, key, source."""

    files: NDArray[np.int64]
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    distances: NDArray[np.float64]
    keys: NDArray[np.uint64]
    sources: list[str]
    categories: list[str | None]

    def take(self, rows: NDArray[np.int64]) -> "_Candidates":
        places = rows.tolist()
        return _Candidates(
            self.files[rows],
            self.rows[rows],
            self.scores[rows],
            self.distances[rows],
            self.keys[rows],
            [self.sources[place] for place in places],
            [self.categories[place] for place in places],
        )

    @property
    def places(self) -> list[tuple[int, int]]:
        return list(zip(self.files.tolist(), self.rows.tolist(), strict=True))


class _Scale(NamedTuple):
    """The guard's cut, and the unit in which distances from it are told."""

    cut: float
    spread: float
    source: str


def select_exchanges(
    guard: Guard,
    files: Sequence[Path],
    output: Path,
    plan: SelectionPlan | None = None,
    *,
    report: Callable[[Path, int], None] = lambda _path, _done: None,
) -> dict[str, Any]:
    """Choose the exchanges that are most worth a person's label, and write them with a manifest.

    The rule is uncertainty sampling in a batch with a diversity constraint (Lewis and Gale 1994; Brinker
    2003; Settles 2009, sections 3.1 and 5.4):

    1. A candidate has an answer, no label, and a prompt that is neither equal nor near to one that trained
       the guard, is held out, or was reviewed. The exchange nearest to the cut stands for its prompt.
    2. The uncertainty of a candidate is the distance of its deciding score from the guard's cut. The unit is
       the spread of the calibration's scores: median to 99 % quantile, over 2.326, which is the standard
       deviation if the scores are normal. Without these quantiles it is the spread of the scores read here.
    3. The 4 n nearest candidates are the shortlist; `reach` is the distance of the last. Among prompts that
       are near-duplicates (verified Jaccard 0.7) one is chosen. The shortlist grows, to 64 n at most, until
       it holds n prompts that are different.
    4. Four score bands, above and below the cut, near and far by half the reach, are drawn from in turn. In a
       band the source with fewest chosen exchanges comes next, and of it the exchange nearest to the cut.

    Equal distances are ordered by a hash of seed and exchange, and so is the output: a place in the file says
    nothing about the score. Each exchange says in `meta.scored` its score, the cut and the guard's category.

    Costs N log N steps beside the scoring. Memory holds scores, hashes and sources of all rows, and the
    prompts of the shortlist. Inputs are checked before the long reading. The same call continues an
    interrupted run from OUTPUT.state, which holds no text.

    Args:
        guard: the guard, as it is on disk.
        files: files of exchanges.
        output: file of the chosen exchanges. Its manifest is beside it (`manifest_of`).
        plan: settings. By default a `SelectionPlan()`.
        report: called after each chunk with the file and the number of its exchanges that are done.

    Returns:
        The manifest, as written.

    Raises:
        ConfigError: no exchange may be chosen, or a place can't be used.
        GuardError: the guard is not saved or has no threshold, or gives no usable scores.
        ExchangeError: a file can't be read, or changed meanwhile.
    """
    plan = SelectionPlan() if plan is None else plan
    cut = _check_guard(guard)
    _check_places(files, output)
    hashes = [file_sha256(path) for path in files]
    fates, groups = _sift(guard, files, plan)
    with scratch_folder(output.with_name(output.name + ".state"), _OWNER) as folder:
        settings: dict[str, Any] = {
            "workers": plan.workers,
            "skip_invalid": plan.skip_invalid,
            "report": report,
        }
        tables = [ScoresTable.read(score_once(guard, path, folder, **settings)) for path in files]
        if hashes != [file_sha256(path) for path in files]:
            raise ExchangeError(f"{files[0].parent}: an input changed while it was read; run it again")
        scale = _scale(guard, cut, tables, fates)
        found, unjudged = _candidates(tables, fates, groups, scale, plan.seed)
        short, duplicates = _shortlist(found, files, plan)
        drawn = draw_diverse(short.distances, short.keys, short.sources, duplicates, plan.n)
        chosen = short.take(np.array(sorted(drawn, key=lambda row: short.keys[row]), dtype=np.int64))
        _write_chosen(output, guard, scale, chosen, files, plan)
        manifest = {
            **_describe(guard, scale, found, short, duplicates, chosen, plan),
            "pool": [
                {"name": path.name, "sha256": digest, "rows": len(own)}
                for path, digest, own in zip(files, hashes, fates, strict=True)
            ],
            "fates": {fate.name.lower(): int(sum((own == fate).sum() for own in fates)) for fate in Fate},
            "unjudged": unjudged,
            "file": {"sha256": file_sha256(output), "rows": len(chosen.scores)},
        }
        write_manifest(output, manifest)
    return manifest


def _check_guard(guard: Guard) -> float:
    """Return the score above which the guard flags. Raises GuardError if there is none."""
    if guard.path is None:
        raise GuardError("selection names the guard by the hash of its bundle; save the guard first")
    cut = guard.stages.decides - guard.stages.tolerance
    if not math.isfinite(cut):
        raise GuardError("this guard has no threshold, so nothing is near it; calibrate it first")
    return cut


def _check_places(files: Sequence[Path], output: Path) -> None:
    if not files:
        raise ConfigError("pool: no file to choose from")
    suffix_of(output)
    if not output.parent.is_dir():
        raise ConfigError(f"output: the folder {output.parent} does not exist; make it first")
    if output.resolve() in {path.resolve() for path in files}:
        raise ConfigError(f"output: {output} is an input; choose another name")


def _sift(
    guard: Guard, files: Sequence[Path], plan: SelectionPlan
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint64]]]:
    """Read the files and return the fate of each row and the hash of its prompt, one array for each file.

    Raises:
        ConfigError: no row is a candidate.
    """
    known = {
        Fate.TRAINED: guard.training_prompts,
        Fate.HELD_OUT: read_held_out(plan.held_out),
        Fate.REVIEWED: _reviewed(files, plan),
    }
    fates, groups = [], []
    for path in files:
        own, keys = list[Fate](), list[int]()
        for batch in batches(path, skip_invalid=plan.skip_invalid):
            met = {fate: find_kinds(prints, batch) for fate, prints in known.items()}
            own += [_fate(row, [fate for fate in met if met[fate][i]]) for i, row in enumerate(batch)]
            keys += [int(prompt_group(row), 16) for row in batch]
        fates.append(np.array(own, dtype=np.uint8))
        groups.append(np.array(keys, dtype=np.uint64))
    if not any((own == Fate.CANDIDATE).any() for own in fates):
        counts = Counter(Fate(fate).name.lower().replace("_", " ") for own in fates for fate in own.tolist())
        told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no exchange"
        raise ConfigError(
            f"pool: no exchange to choose from ({told}). Give traffic without labels, with prompts that the "
            "guard has not seen"
        )
    return fates, groups


def _reviewed(files: Sequence[Path], plan: SelectionPlan) -> PromptPrints | None:
    """Return the prompts that were reviewed: as given, and of the exchanges that reviews name by id."""
    if not plan.known_ids:
        return plan.known
    rows = (row for path in files for row in read_exchanges(path, skip_invalid=plan.skip_invalid))
    named = PromptPrints.of(row for row in rows if row.id in plan.known_ids)
    return named if plan.known is None else plan.known | named


def _fate(row: Exchange, met: Sequence[Fate]) -> Fate:
    if row.is_prompt_only or not row.messages[-1].content.strip():
        return Fate.NO_ANSWER
    if met:
        return met[0]
    return Fate.CANDIDATE if row.label is None else Fate.LABELLED


def _scale(
    guard: Guard, cut: float, tables: Sequence[ScoresTable], fates: Sequence[NDArray[np.uint8]]
) -> _Scale:
    """Return the unit of distances: the spread of the calibration's scores, or of the scores read here."""
    found = {} if guard.calibration is None else guard.calibration.quantiles
    if "0.5" in found and found.get("0.99", -math.inf) > found["0.5"]:
        return _Scale(cut, (found["0.99"] - found["0.5"]) / _Z99, "calibration")
    answered = [own != Fate.NO_ANSWER for own in fates]
    scores = np.concatenate(
        [table.floats("mixed_max")[own] for table, own in zip(tables, answered, strict=True)]
    )
    scores = scores[np.isfinite(scores)]
    spread = float(np.subtract(*np.quantile(scores, [0.99, 0.5]))) / _Z99 if len(scores) else 0.0
    return _Scale(cut, spread, "these exchanges") if spread > 0 else _Scale(cut, 1.0, "one logit")


def _candidates(
    tables: Sequence[ScoresTable],
    fates: Sequence[NDArray[np.uint8]],
    groups: Sequence[NDArray[np.uint64]],
    scale: _Scale,
    seed: int,
) -> tuple[_Candidates, int]:
    """Return one exchange for each prompt, the nearest to the cut, and the number of rows without a score.

    Raises:
        GuardError: a score is not a number or stands for a failed reading, or all candidates have none.
    """
    places = [np.flatnonzero(own == Fate.CANDIDATE) for own in fates]
    tables = [table.select(rows) for table, rows in zip(tables, places, strict=True)]
    scores = np.concatenate([table.floats("mixed_max") for table in tables])
    if broken := int((np.isnan(scores) | (scores == np.inf)).sum()):
        raise GuardError(
            f"{broken} of {len(scores)} exchanges have no finite score, so nothing says how near to the "
            "threshold they are; look for a broken probe or classifier (lockgate doctor --guard)"
        )
    ids = [identity for table in tables for identity in table.ids]
    sources = [str(source) for table in tables for source in table.texts("source")]
    every = _Candidates(
        np.repeat(np.arange(len(places)), [len(rows) for rows in places]),
        np.concatenate(places),
        scores,
        (scores - scale.cut) / scale.spread,
        np.array(
            [draw_key(seed, f"{name}/{of}") for name, of in zip(ids, sources, strict=True)], dtype=np.uint64
        ),
        sources,
        [category for table in tables for category in table.texts("verdict_category")],
    )
    prompts = np.concatenate([own[rows] for own, rows in zip(groups, places, strict=True)])
    order = order_by_distance(every.distances, every.keys)
    order = order[np.isfinite(scores[order])]
    if not len(order):
        raise GuardError(
            "stage 2 is asked about none of these exchanges, so none has a score that decides; give more "
            "traffic"
        )
    _, first = np.unique(prompts[order], return_index=True)
    return every.take(order[np.sort(first)]), len(scores) - int(np.isfinite(scores).sum())


def _shortlist(
    found: _Candidates, files: Sequence[Path], plan: SelectionPlan
) -> tuple[_Candidates, list[str]]:
    """Return the nearest candidates, and for each the group of its near-duplicates among them."""
    size = _SHORTLIST * plan.n
    while True:
        short = found.take(np.arange(min(size, len(found.scores))))
        texts = {place: prompt_text(row) for place, row in _read(files, short.places, plan)}
        duplicates = find_duplicates([texts[place] for place in short.places])
        enough = len(set(duplicates)) >= plan.n
        if enough or size >= len(found.scores) or size >= _LONGEST * plan.n:
            return short, duplicates
        size *= 2


def _read(
    files: Sequence[Path], places: Sequence[tuple[int, int]], plan: SelectionPlan
) -> Iterator[tuple[tuple[int, int], Exchange]]:
    """Read the files again and yield the exchanges at these places."""
    wanted = set(places)
    for number, path in enumerate(files):
        for row, exchange in enumerate(read_exchanges(path, skip_invalid=plan.skip_invalid)):
            if (number, row) in wanted:
                yield (number, row), exchange


def _write_chosen(
    output: Path,
    guard: Guard,
    scale: _Scale,
    chosen: _Candidates,
    files: Sequence[Path],
    plan: SelectionPlan,
) -> None:
    rows = dict(_read(files, chosen.places, plan))
    told = zip(chosen.places, chosen.scores, chosen.distances, chosen.categories, strict=True)
    write_exchanges(
        output,
        (
            with_score(rows[place], guard, float(score), scale.cut, category, distance=float(distance))
            for place, score, distance, category in told
        ),
    )


def _describe(
    guard: Guard,
    scale: _Scale,
    found: _Candidates,
    short: _Candidates,
    duplicates: Sequence[str],
    chosen: _Candidates,
    plan: SelectionPlan,
) -> dict[str, Any]:
    """Describe guard, rule and choice for the manifest. It holds no text of exchanges."""
    reach = float(np.abs(short.distances).max())
    return {
        "format": 1,
        "lockgate_version": __version__,
        "guard": {"name": guard.record.name, "sha256": guard.sha256},
        "training_prompts": None if guard.training_prompts is None else len(guard.training_prompts),
        "cut": scale.cut,
        "spread": {"value": scale.spread, "of": scale.source},
        "prompts": len(found.scores),
        "shortlist": {"prompts": len(short.scores), "distinct": len(set(duplicates)), "reach": reach},
        "seed": plan.seed,
        "wanted": plan.n,
        "by_source": dict(sorted(Counter(chosen.sources).items())),
        "by_band": dict(sorted(Counter(bands_of(chosen.distances, reach)).items())),
    }


def with_score(
    row: Exchange, guard: Guard, score: float, cut: float, category: str | None, **more: object
) -> Exchange:
    """Return an exchange that says in `meta.scored` how a guard scored it, for a person who labels it."""
    scored = {"guard": guard.sha256, "score": score, "cut": cut, "category": category, **more}
    return replace(row, meta={**row.meta, SCORED: scored})
