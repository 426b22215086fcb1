"""Reviews in a build: how ids are looked up, which reviews are dropped, and the entries that they propose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._inputs import BuildInputs
from lockgate.assembly._sources import Dropped
from lockgate.constitution import Constitution
from lockgate.curation import EvaluationIndex
from lockgate.durable import hash_json, open_atomic
from lockgate.errors import ConstitutionError
from lockgate.exchanges import Exchange, read_exchanges
from lockgate.feedback import (
    Conflict,
    Feedback,
    Retraining,
    Review,
    apply_feedback,
    propose_constitution,
    read_feedback,
    render_proposal,
)
from lockgate.traffic import SCORED

PROPOSAL = "proposal"
CALIBRATION = "calibration"


@dataclass(frozen=True, slots=True)
class TopReviews:
    """Ids of exchanges that the build named as the top of the traffic, by what their reviews say and do.

    Attributes:
        confirmed: harmless. They stay in the sample, as the traffic that they were taken for, and don't
            train.
        excluded: harmful. They stay scored, and are left out of the choice of the threshold.
        trained: harmful, and used like other reviews (`train_on_top`). They leave the calibration rows.
    """

    confirmed: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    trained: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LaidReviews:
    """Training rows after reviews, with `counts` for the report and `proposal` for `place_proposal`."""

    retraining: Retraining
    counts: Mapping[str, Any]
    proposal: Mapping[str, Any]
    top: TopReviews


def lay_reviews(
    inputs: BuildInputs,
    synthetic: Sequence[Exchange],
    training: Sequence[Exchange],
    calibration: Sequence[Exchange],
    index: EvaluationIndex | None,
    dropped: Dropped,
) -> LaidReviews | None:
    """Read the reviews of a build and apply them to its training rows. Return None without reviews.

    Reviews of the top of the traffic say what the sample holds. They are no training rows by themselves.

    Raises:
        ExchangeError: A line has another form, or its id is in no file.
    """
    if inputs.feedback is None:
        return None
    feedback = _read(inputs, inputs.feedback, synthetic, index, dropped)
    left, top = _part_top(feedback, calibration, train=inputs.train_on_top)
    retraining = apply_feedback(left, training, inputs.training.feedback)
    for row in retraining.withdrawn:
        dropped.add(row, "training", "related_to_review")
    counts = _describe(feedback, retraining) | {
        "top": {
            "confirmed": len(top.confirmed),
            "excluded": len(top.excluded),
            "trained": len(top.trained),
        }
    }
    return LaidReviews(retraining, counts, _propose(inputs.constitution, left), top)


def _part_top(
    feedback: Feedback, calibration: Sequence[Exchange], *, train: bool
) -> tuple[Feedback, TopReviews]:
    """Take out the reviews of exchanges that a build named from its sample, and that are still in it.

    That the build named them decides, not that they are in the traffic: reviews of other exchanges were
    picked because a guard erred, and train.
    """
    sample = {row.id for row in calibration}
    named = [review for review in feedback.reviews if _is_named(review) and review.exchange.id in sample]
    harmful = frozenset(review.exchange.id for review in named if review.label >= 0.5)
    confirmed = frozenset(review.exchange.id for review in named) - harmful
    taken = confirmed if train else confirmed | harmful
    left = tuple(review for review in feedback.reviews if review.exchange.id not in taken)
    top = TopReviews(confirmed, frozenset() if train else harmful, harmful if train else frozenset())
    return replace(feedback, reviews=left), top


def _is_named(review: Review) -> bool:
    scored = review.exchange.meta.get(SCORED)
    return isinstance(scored, Mapping) and scored.get("part") == CALIBRATION


def _read(
    inputs: BuildInputs,
    path: Path,
    synthetic: Sequence[Exchange],
    index: EvaluationIndex | None,
    dropped: Dropped,
) -> Feedback:
    """Read the reviews and drop those that match an evaluation item.

    Ids are looked up in the files as given, because a reviewed row may have been dropped later.
    """
    files = (*inputs.evaluation, *inputs.benign, *inputs.data)
    known = chain((row for file in files for row in read_exchanges(file)), synthetic)
    feedback = read_feedback(path, inputs.constitution, known, advice=_advice(inputs))
    if index is None:
        return feedback
    kept = []
    for review in feedback.reviews:
        if index.find_leak(review.exchange) is None:
            kept.append(review)
        else:
            dropped.add(review.exchange, "feedback", "evaluation_leak")
    return replace(feedback, reviews=tuple(kept))


def _describe(feedback: Feedback, retraining: Retraining) -> dict[str, Any]:
    """Describe the effect of the reviews and their conflicts by line numbers, without text."""
    return {
        "lines": feedback.lines,
        "repeated": [list(lines) for lines in feedback.repeated],
        "conflicts": [_conflict(conflict) for conflict in feedback.conflicts],
        "trained": retraining.reviewed,
        "copies": retraining.copies,
        "held_out": len(retraining.held_out),
        "relabelled": retraining.relabelled,
        "confirmed": retraining.confirmed,
        "followed": retraining.followed,
        "withdrawn": len(retraining.withdrawn),
        "share": retraining.share,
    }


def _propose(constitution: Constitution, feedback: Feedback) -> dict[str, Any]:
    """Return the proposed entries as JSON. `text` is the proposal's file, or None if nothing is added."""
    try:
        proposal = propose_constitution(constitution, feedback)
    except ConstitutionError:
        # The check's own message may hold a reviewer's words.
        note = "the reviews' topics don't pass `lockgate constitution check`; choose other topics"
        return {"text": None, "additions": [], "notes": [note]}
    additions = [
        {
            "half": addition.half,
            "category": addition.category,
            "new": addition.new,
            "examples": len(addition.topics),
            "exchange_ids": list(addition.exchange_ids),
        }
        for addition in proposal.additions
    ]
    text = render_proposal(proposal) if additions else None
    return {"text": text, "additions": additions, "notes": list(proposal.notes)}


def place_proposal(folder: BuildFolder, found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Write the file of a proposal. Return the proposal for the report, with `path` and without `text`.

    An existing file is never overwritten: a person may have edited it or made it the policy. Another proposal
    takes the next free name.
    """
    if found is None:
        return None
    text, told = found["text"], {name: value for name, value in found.items() if name != "text"}
    if text is None:
        return {"path": None, **told}
    content = text.encode("utf-8")
    name = folder.step(PROPOSAL, {"text": hash_json(text)}, [], lambda: {"file": _name(folder.path, content)})
    path = folder.path / name["file"]
    if not path.exists():
        with open_atomic(path) as file:
            file.write(content)
    return {"path": str(path), **told}


def _name(folder: Path, content: bytes) -> str:
    names = (f"{PROPOSAL}.yaml" if number == 1 else f"{PROPOSAL}-{number}.yaml" for number in count(1))
    return next(
        name for name in names if not (folder / name).exists() or (folder / name).read_bytes() == content
    )


def _advice(inputs: BuildInputs) -> str:
    options = {"--benign": ("traffic", inputs.benign), "--data": ("labelled exchanges", inputs.data)}
    lacking = [
        f"give {what} that were reviewed with {option}"
        for option, (what, files) in options.items()
        if not files
    ]
    advice = [*lacking, "name the files that were reviewed" if not lacking else "", "or put whole exchanges"]
    return ", ".join(filter(None, advice)) + " under `exchange`"


def _conflict(conflict: Conflict) -> dict[str, Any]:
    said = {name: list(lines) for name, lines in conflict.lines.items()}
    return {"id": conflict.exchange_id, "about": conflict.about, "lines": said}
