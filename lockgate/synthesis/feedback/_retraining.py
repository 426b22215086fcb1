"""Reviews as training data: how often each stands there, and which are kept back for the comparison."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lockgate.errors import ConfigError
from lockgate.exchanges import Exchange, grouped_split, prompt_group
from lockgate.synthesis.feedback._reviews import Feedback, Review, exchange_key

FEEDBACK = "feedback"


@dataclass(frozen=True, slots=True)
class FeedbackRule:
    """How reviews enter the training data.

    Attributes:
        copies: how often each reviewed exchange stands there: its weight, since training knows no other.
        max_share: of the training rows; above it there are fewer copies, but always one.
        hold_out: share of the reviews' prompts kept out of training, for the comparison with the old guard.
        seed: another seed, other prompts held out.
    """

    copies: int = 4
    max_share: float = 0.1
    hold_out: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a value outside its range."""
        if self.copies < 1:
            raise ConfigError("copies: expected at least 1")
        if not 0 < self.max_share < 1 or not 0 <= self.hold_out < 1:
            raise ConfigError("max_share and hold_out: expected shares between 0 and 1")


@dataclass(frozen=True, slots=True)
class Retraining:
    """Training rows with reviews among them.

    Attributes:
        rows: the rows given, without those that were reviewed, then the reviewed ones, copy by copy.
        held_out: reviewed exchanges with their new labels that no row shares a prompt with.
        reviewed: reviews that went into training; `copies`: how often each stands there.
        relabelled: rows given whose label the reviewers turned round; `confirmed`: those they agree with.
        share: of the reviewed rows in `rows`; above the rule's where one copy is too much already.
    """

    rows: tuple[Exchange, ...]
    held_out: tuple[Exchange, ...]
    reviewed: int
    copies: int
    relabelled: int
    confirmed: int
    share: float


def apply_feedback(
    feedback: Feedback, training: Iterable[Exchange], rule: FeedbackRule | None = None
) -> Retraining:
    """Lay reviews over training rows. Run it after removing duplicates, or the copies are removed too.

    A reviewer's label takes the place of the one that a row had; exchanges in conflict stay as they are. A
    review whose prompt is among the rows trains always: held out, it would be no test.
    """
    rule = rule or FeedbackRule()
    reviewed = {exchange_key(review.exchange): review for review in feedback.reviews}
    kept, trained_prompts, relabelled, confirmed = [], set(), 0, 0
    for row in training:
        trained_prompts.add(prompt_group(row))
        review = reviewed.get(exchange_key(row))
        if review is None:
            kept.append(row)
        elif row.label is not None and (row.label >= 0.5) == (review.label >= 0.5):
            confirmed += 1
        else:
            relabelled += row.label is not None
    train, held_out = _split(feedback.reviews, trained_prompts, rule)
    copies = _copies(len(train), len(kept), rule)
    added = [_row(review, copy) for copy in range(copies) for review in train]
    rows = (*kept, *added)
    return Retraining(
        rows=rows,
        held_out=tuple(_row(review) for review in held_out),
        reviewed=len(train),
        copies=copies,
        relabelled=relabelled,
        confirmed=confirmed,
        share=len(added) / len(rows) if rows else 0.0,
    )


def _split(
    reviews: Iterable[Review], trained_prompts: set[str], rule: FeedbackRule
) -> tuple[list[Review], list[Review]]:
    train: list[Review] = []
    free: list[Review] = []
    for review in reviews:
        (train if prompt_group(review.exchange) in trained_prompts else free).append(review)
    keys = [[prompt_group(review.exchange)] for review in free]
    shares = {"train": 1 - rule.hold_out, "held_out": rule.hold_out}
    parts = grouped_split(keys, shares, seed=rule.seed)
    train += [review for review, part in zip(free, parts, strict=True) if part == "train"]
    return train, [review for review, part in zip(free, parts, strict=True) if part == "held_out"]


def _copies(reviewed: int, others: int, rule: FeedbackRule) -> int:
    if not reviewed:
        return 0
    if not others:
        return 1
    fitting = int(rule.max_share * others / ((1 - rule.max_share) * reviewed) + 1e-9)
    return max(1, min(rule.copies, fitting))


def _row(review: Review, copy: int | None = None) -> Exchange:
    known = {"verdict": review.verdict, "label_before": review.exchange.label}
    if copy is not None:
        known["copy"] = copy
    meta = {**review.exchange.meta, FEEDBACK: known}
    return replace(review.exchange, label=review.label, category=review.category, meta=meta)
