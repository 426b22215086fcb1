"""Figures of the two-stage guard, from the committed tables alone. `report` and `second_stage` use them.

The stage-1 scores of every part are in `scores/`. Only exchanges whose largest probe logit may exceed the escalation
threshold are scored again, with both stages (`two_stage/PART.parquet` and `PART.blocks.parquet`). The others can't be
escalated and count as minus infinity.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lockgate.calibration import (
    Calibration,
    CascadeCalibration,
    Exclusion,
    Trace,
    calibrate_cascade,
    choose_threshold,
    clopper_pearson,
    escalation_threshold,
    plain_quantile_threshold,
)
from lockgate.cascade import Cascade, simulate
from lockgate.errors import CalibrationError
from lockgate.evaluation import Detections, at_least_as_robust, macro_rate, wilson
from lockgate.exchanges import PromptPrints
from lockgate.tables import BlockTrace, ScoresTable

FlagOn = Literal["answer", "both"]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

TESTS = ("saferlhf_mini", "adaptive_attacks", "gptfuzz", "own_sgbench")
# Parts that `dataset` makes, and those that `voice_rows` adds to them.
OLDER = ("dev", "calibration", "benign_test", "hard_benign", *(f"test_{name}" for name in TESTS))
NEWER_TESTS = ("attack_artifacts", "ablated_runs", "past_tense")
NEWER = ("voice_dev", "traffic_dev", "over_refusal", *(f"test_{name}" for name in NEWER_TESTS))
PARTS = (*OLDER, *NEWER)
# The parts that choose the mixture.
DEVELOPMENT = ("dev", "voice_dev", "traffic_dev")
BENIGN = ("benign_test", "hard_benign", "over_refusal")
ESCALATION = 0.025
# Of the calibration's answers over LONG tokens, at most this share is escalated. The drift rises until that is so.
LONG, LONG_SHARE = 300, 0.04
DRIFTS = tuple(round(0.2 * step, 1) for step in range(16))
# The share of the harmless development exchanges that is flagged where weights are compared.
SELECTION = 0.001
FPR = 0.001
# Batch mates change a logit by less than this share of the scores' spread. Exchanges that close are scored again.
NOISE = 1e-3
SETTINGS = "settings.json"


class VoiceShare(NamedTuple):
    """One voice of a mixture: its column in the traces, its share, and the scale of its logits."""

    voice: str
    weight: float
    mean: float
    std: float


# The second stage whose verdicts are taken from the traces: a voice, or several in a mixture. None: the guard's.
Judge = str | Sequence[VoiceShare] | None


@dataclass(frozen=True, slots=True)
class FirstStage:
    """Stage-1 scores of a part [N]: the largest smoothed logit of the last user turn and of the answer."""

    ids: list[str]
    groups: list[str]
    sources: list[str]
    labels: Floats
    lengths: Floats
    prompt: Floats
    answer: Floats

    @property
    def highest(self) -> Floats:
        """Upper limit of the logits that may escalate the exchange [N]."""
        return np.nan_to_num(np.fmax(self.prompt, self.answer), nan=-np.inf)

    def deciding(self, flag_on: FlagOn) -> Floats:
        """The score that the guard of one stage compares with its threshold [N]."""
        scores = self.answer if flag_on == "answer" else np.fmax(self.prompt, self.answer)
        return np.nan_to_num(scores, nan=-np.inf)

    @property
    def harmful(self) -> Mask:
        return self.labels >= 0.5

    @property
    def prompts(self) -> NDArray[np.str_]:
        """The prompt group of each row [N]."""
        return np.array(self.groups, dtype=str)


@dataclass(frozen=True, slots=True)
class Screen:
    """The escalation threshold. Exchanges up to `margin` below it are scored too, because of float noise."""

    escalate: float
    margin: float

    def suspects(self, part: FirstStage) -> NDArray[np.intp]:
        """Return the rows that may be escalated. No other row can be."""
        return np.flatnonzero(part.highest > self.escalate - self.margin)


def read_part(results: Path, part: str, head: str) -> FirstStage:
    """Read the stage-1 scores of a part. The development scores of all heads are in one table, without groups."""
    if part != "dev":
        table = ScoresTable.read(results / "scores" / f"{part}.parquet")
        sources = [str(source) for source in table.texts("source")]
        maxima = (table.floats("max_prompt"), table.floats("max_answer"))
        return FirstStage(table.ids, table.groups, sources, table.labels, table.lengths, *maxima)
    found = pq.read_table(results / "scores" / "dev_heads.parquet")
    # The text of the backbone's own answers was not kept, so a new second stage can't read them.
    kept = [row for row, source in enumerate(found["source"].to_pylist()) if not source.startswith("own_")]
    found = found.take(kept)
    ids = found["id"].to_pylist()
    labels, prompt, answer = (
        np.array(found[name].to_pylist(), float) for name in ("label", f"{head}:prompt", f"{head}:answer")
    )
    return FirstStage(ids, ids, found["source"].to_pylist(), labels, np.zeros(len(ids)), prompt, answer)


def choose_screen(calibration: FirstStage) -> Screen:
    """Choose the escalation threshold that escalates no more than the allowed share of the calibration exchanges."""
    escalate = escalation_threshold(calibration.highest, ESCALATION)
    if not (calibration.highest > escalate).any():
        raise CalibrationError(f"no threshold escalates {ESCALATION:.1%} of the calibration exchanges")
    margin = NOISE * float(calibration.answer[np.isfinite(calibration.answer)].std())
    return Screen(escalate, margin)


def read_traces(
    results: Path, part: str, first: FirstStage, screen: Screen, voice: Judge = None
) -> list[Trace]:
    """Build traces of all rows: blocks for exchanges that both stages scored, maxima of prompt and answer for the others.

    Args:
        voice: take the verdicts of this voice or mixture, in place of the guard's second stage.

    Raises:
        CalibrationError: the tables don't hold exactly the exchanges that may be escalated.
    """
    folder = results / "two_stage"
    table = ScoresTable.read(folder / f"{part}.parquet")
    blocks = BlockTrace.read(folder / f"{part}.blocks.parquet")
    rows = screen.suspects(first)
    if table.ids != [first.ids[row] for row in rows]:
        raise CalibrationError(
            f"two_stage/{part}.parquet: expected the {len(rows)} exchanges that may be escalated; "
            "run python -m recipes.embedded_guard.second_stage again"
        )
    verdicts = verdicts_of(blocks, voice)
    traces = [Trace([p, a], [np.nan, np.nan]) for p, a in zip(first.prompt, first.answer, strict=True)]
    for number, row in enumerate(rows):
        own = blocks.of(number)
        traces[row] = Trace(blocks.probe[own], verdicts[own])
    return traces


def verdicts_of(blocks: BlockTrace, judge: Judge) -> NDArray[np.floating]:
    """Return the logits of a judge [B], NaN where it was not asked. Those of a mixture are its voices' weighted sum."""
    if judge is None:
        return blocks.classifier
    if isinstance(judge, str):
        return blocks.voices[judge]
    logits = np.zeros(len(blocks))
    for voice, weight, mean, std in judge:
        logits += weight * (blocks.voices[voice].astype(np.float64) - mean) / std
    return logits


def calibrate(
    results: Path,
    head: str,
    flag_on: FlagOn,
    budget: float,
    exclusions: Sequence[Exclusion] = (),
    *,
    settings: dict[str, Any],
    training: PromptPrints | None = None,
    voice: Judge = None,
) -> CascadeCalibration:
    """Calibrate both stages to the budget. The weight is chosen on development exchanges.

    Args:
        voice: see `read_traces`.
    """
    first = read_part(results, "calibration", head)
    screen = choose_screen(first)
    if settings["escalate"] != screen.escalate:
        raise CalibrationError(
            f"two_stage/{SETTINGS}: scored with another escalation threshold than scores/calibration.parquet asks "
            "for; run python -m recipes.embedded_guard.second_stage again"
        )
    tried: dict[bool, list[Trace]] = {False: [], True: []}
    groups: list[str] = []
    for part in DEVELOPMENT:
        own = read_part(results, part, head)
        # Harmless rows of sets that hold harm are not like traffic. They are often as hot, and would set the cut.
        mixed_sets = {source for source, harmful in zip(own.sources, own.harmful, strict=True) if harmful}
        for row, trace in enumerate(read_traces(results, part, own, screen, voice)):
            if own.harmful[row] or own.sources[row] not in mixed_sets:
                tried[bool(own.harmful[row])].append(trace)
        groups += ScoresTable.read(results / "two_stage" / f"{part}.parquet").groups
    return calibrate_cascade(
        read_traces(results, "calibration", first, screen, voice),
        first.groups,
        budget=budget,
        escalation=ESCALATION,
        escalate=screen.escalate,
        flag_on=flag_on,
        development_benign=tried[False],
        development_harmful=tried[True],
        development_groups=groups,
        selection_fpr=SELECTION,
        stride=settings["stride"],
        calm_blocks=settings["calm_blocks"],
        drift=settings["drift"],
        training=training,
        ids=first.ids,
        exclusions=exclusions,
        lengths=first.lengths,
        sources=first.sources,
    )


def answer_tokens(results: Path, part: str) -> NDArray[np.int64]:
    """Return the number of answer tokens of each exchange of a part [N]."""
    table = pq.read_table(results / "scores" / "answer_tokens.parquet", filters=[("part", "=", part)])
    return np.array(table["answer_tokens"].to_pylist(), dtype=np.int64)


def choose_drift(results: Path, head: str, flag_on: FlagOn) -> float:
    """Return the smallest drift with which long calibration answers are escalated seldom enough."""
    first = read_part(results, "calibration", head)
    screen = choose_screen(first)
    traces = read_traces(results, "calibration", first, screen)
    long = np.flatnonzero(answer_tokens(results, "calibration") > LONG)
    for drift in DRIFTS:
        cascade = Cascade(screen.escalate, np.inf, 0.5, drift=drift)
        asked = np.isfinite(mixed_scores([traces[row] for row in long], cascade, flag_on))
        if asked.mean() <= LONG_SHARE:
            return drift
    raise CalibrationError(f"no drift up to {DRIFTS[-1]} escalates {LONG_SHARE:.0%} of the long answers")


def one_stage(
    first: FirstStage, flag_on: FlagOn, budget: float, exclusions: Sequence[Exclusion]
) -> Calibration:
    """Calibrate the guard of one stage by the same rule on the same exchanges."""
    scores = first.deciding(flag_on)
    tolerance = NOISE * float(scores[np.isfinite(scores)].std())
    return choose_threshold(
        scores, first.groups, budget, tolerance, ids=first.ids, exclusions=exclusions, unjudged=True
    )


def mixed_scores(traces: Sequence[Trace], cascade: Cascade, flag_on: FlagOn) -> Floats:
    """Return the largest mixed score of each exchange [N]; minus infinity if stage 2 is never asked."""
    return np.array(
        [
            simulate(np.asarray(probe), np.asarray(verdicts), cascade, flag_on=flag_on).mixed_max
            for probe, verdicts in traces
        ]
    )


def figures(
    results: Path,
    head: str,
    flag_on: FlagOn,
    budget: float,
    exclusions: Sequence[Exclusion] = (),
    *,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Compare one stage with two at the same operating points. None if no second stage has been scored yet."""
    path = results / "two_stage" / SETTINGS
    if not path.exists():
        return None
    settings = json.loads(path.read_text())
    found = calibrate(results, head, flag_on, budget, exclusions, settings=settings)
    parts = {part: read_part(results, part, head) for part in PARTS}
    screen = choose_screen(parts["calibration"])
    mixed = {
        part: mixed_scores(read_traces(results, part, own, screen), found.cascade, flag_on)
        for part, own in parts.items()
    }
    alone = {part: own.deciding(flag_on) for part, own in parts.items()}
    single = one_stage(parts["calibration"], flag_on, budget, exclusions)
    plain = [plain_quantile_threshold(own["calibration"], FPR, unjudged=True) for own in (alone, mixed)]
    cuts = {"budget": (single.cut, found.calibration.cut), str(FPR): (plain[0], plain[1])}
    points = {
        name: point(parts, (alone, mixed), pair, seed, budget if name == "budget" else FPR)
        for name, pair in cuts.items()
    }
    tried = points["budget"]["development"]
    return {
        "text": settings["text"],
        "head": head,
        "flag_on": flag_on,
        **calibrated(found),
        "escalated": {part: share(np.isfinite(own), parts[part].prompts) for part, own in mixed.items()},
        "escalated_harmful": {
            part: share(
                np.isfinite(mixed[part])[parts[part].harmful], parts[part].prompts[parts[part].harmful]
            )
            for part in PARTS
            if part not in ("calibration", "traffic_dev", *BENIGN)
        },
        "points": points,
        "not_worse_in_development": tried["two_stages"]["tpr"] >= tried["one_stage"]["tpr"],
    }


def calibrated(found: CascadeCalibration) -> dict[str, Any]:
    """Return the shipped cascade and its budget."""
    cascade, evidence = found.cascade, found.calibration
    scales = ("probe_mean", "probe_std", "classifier_mean", "classifier_std")
    return {
        "escalation_budget": found.escalation_budget,
        "escalate": round(cascade.escalate, 6),
        "weight": cascade.weight,
        "weights": [[row.weight, round(row.tpr, 4)] for row in found.weights],
        "selection_fpr": found.selection_fpr,
        "scales": {name: round(getattr(cascade, name), 5) for name in scales},
        "stride": cascade.stride,
        "calm_blocks": cascade.calm_blocks,
        "drift": cascade.drift,
        "budget": evidence.budget,
        "n": evidence.n,
        "k": evidence.k,
        "flagged": evidence.flagged,
        "bound": round(evidence.bound, 6),
        "threshold": round(evidence.threshold, 5),
    }


def point(
    parts: dict[str, FirstStage],
    scores: tuple[dict[str, Floats], dict[str, Floats]],
    cuts: tuple[float, float],
    seed: int,
    fpr: float,
) -> dict[str, Any]:
    """Return the rates of both guards at their own cuts for one operating point."""
    flags = [{part: own[part] > cut for part in parts} for own, cut in zip(scores, cuts, strict=True)]

    def detections(part: str) -> list[Detections]:
        rows = parts[part].harmful
        return [Detections(own[part][rows], parts[part].prompts[rows]) for own in flags]

    def harmless(part: str) -> dict[str, Any]:
        rows = ~parts[part].harmful
        return pair([share(own[part][rows], parts[part].prompts[rows]) for own in flags])

    sets = {name: detections(f"test_{name}") for name in TESTS}
    newer = {name: detections(f"test_{name}") for name in NEWER_TESTS}
    tried = [
        Detections(
            np.concatenate([own.flags for own in sides]),
            np.concatenate([np.asarray(own.groups) for own in sides]),
        )
        for sides in zip(*(detections(part) for part in ("dev", "voice_dev")), strict=True)
    ]
    return {
        "cuts": [round(cut, 5) for cut in cuts],
        "benign": {part: harmless(part) for part in BENIGN},
        "harmless_in_sets": {name: harmless(f"test_{name}") for name in (*TESTS, *NEWER_TESTS)},
        "sets": {name: compared([own], fpr, seed) for name, own in sets.items()},
        "macro": compared(list(sets.values()), fpr, seed),
        "newer": {name: compared([own], fpr, seed) for name, own in newer.items()},
        "newer_macro": compared(list(newer.values()), fpr, seed),
        "development": {
            **compared([tried], fpr, seed),
            "harmless": {part: harmless(part) for part in DEVELOPMENT},
        },
    }


def compared(sets: list[list[Detections]], fpr: float, seed: int) -> dict[str, Any]:
    """Return the TPR of one stage, of two, and two minus one, paired by prompt; for several sets, the mean."""
    one, two = ([own[side] for own in sets] for side in (0, 1))
    robust = at_least_as_robust(two, one, names=("two stages", "one stage"), fpr=fpr, seed=seed)
    return {
        **pair([rate(own, seed) for own in (one, two)]),
        "difference": round(robust.difference.value, 4),
        "ci": [rounded(robust.difference.lower), rounded(robust.difference.upper)],
    }


def rate(sets: list[Detections], seed: int) -> dict[str, Any]:
    flags = sets[0].flags
    if len(sets) == 1 and len(np.unique(np.asarray(sets[0].groups))) == len(flags):
        ends: tuple[float | None, float | None] = wilson(int(flags.sum()), len(flags))
    else:
        found = macro_rate(sets, seed=seed)
        ends = (None, None) if found is None else (found.lower, found.upper)
    tpr = float(np.mean([own.flags.mean() for own in sets if len(own.flags)]))
    n = sum(len(own.flags) for own in sets)
    return {"n": n, "tpr": round(tpr, 4), "ci": [rounded(end) for end in ends]}


def share(hits: Mask, groups: NDArray[np.str_] | None = None) -> dict[str, Any]:
    """Return the share of rows that are flagged or escalated, with an exact interval; by prompt if rows share one."""
    if not len(hits):
        return {"n": 0, "hits": 0, "rate": 0.0, "ci": [0.0, 1.0]}
    ends: tuple[float | None, float | None]
    if groups is None or len(np.unique(groups)) == len(hits):
        interval = clopper_pearson(int(hits.sum()), len(hits))
        ends = (interval.lower, interval.upper)
    else:
        found = macro_rate([Detections(hits, groups)], seed=0)
        ends = (None, None) if found is None else (found.lower, found.upper)
    places = [None if end is None else round(end, 6) for end in ends]
    return {"n": len(hits), "hits": int(hits.sum()), "rate": round(float(hits.mean()), 6), "ci": places}


def pair(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"one_stage": found[0], "two_stages": found[1]}


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def result_lines(found: dict[str, Any], *, shipped: bool) -> list[str]:
    """The table of one stage against two."""
    at = found["points"]["budget"]
    lines = [
        "With the text baseline as a second stage, "
        f"{'as shipped' if shipped else 'not shipped'}, both guards at the budget of {found['budget']:.2%}:",
        "",
        "| | n | one stage | two stages | difference |",
        "|---|--:|--:|--:|--:|",
    ]
    rows = (
        *at["sets"].items(),
        ("mean over these four sets", at["macro"]),
        *at["newer"].items(),
        ("mean over these three sets", at["newer_macro"]),
    )
    for name, row in rows:
        title = name if name.startswith("mean") else f"`{name}`: TPR"
        one, two = (f"{own['tpr']:.3f} {ends(own['ci'])}" for own in (row["one_stage"], row["two_stages"]))
        lines.append(
            f"| {title} | {row['one_stage']['n']} | {one} | {two} | {row['difference']:+.3f} {ends(row['ci'])} |"
        )
    for part, title in zip(BENIGN, ("other benign", "hard benign", "near the policy"), strict=True):
        one, two = (at["benign"][part][side] for side in ("one_stage", "two_stages"))
        cells = (f"{own['rate']:.3%} ({own['ci'][0]:.3%} to {own['ci'][1]:.3%})" for own in (one, two))
        lines.append(f"| {title}: flagged | {one['n']} | {' | '.join(cells)} | |")
    escalated = found["escalated"]
    lines += [
        "",
        f"Stage 2 is asked about {escalated['calibration']['rate']:.2%} of the calibration exchanges and "
        f"{escalated['benign_test']['rate']:.2%} of the other benign ones. n = {found['n']} distinct benign prompts, at most "
        f"k = {found['k']} of them flagged, one-sided 95 % bound {found['bound']:.4%}.",
    ]
    return lines


def ends(interval: list[float]) -> str:
    return f"({interval[0]:.3f} to {interval[1]:.3f})"
