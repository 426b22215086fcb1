"""Reviews as training data: how many copies of each enter, and which are held out for the comparison."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lockgate.curation import grouped_split
from lockgate.errors import ConfigError
from lockgate.exchanges import Exchange, prompt_group
from lockgate.feedback._reviews import Feedback, Review, exchange_key

FEEDBACK = "feedback"
FOLLOWS = "follows_review"


@dataclass(frozen=True, slots=True)
class FeedbackRule:
    """How reviews enter the training data.

    Attributes:
        copies: most copies of each reviewed exchange. Copies act as a weight, because training has none.
            A few reviews among thousands of written rows would change nothing with a single one.
        max_share: largest share of the training rows. Above it there are fewer copies, but always one.
        hold_out: share of the reviews' prompts held out of training, for the comparison with the old guard.
        least_held_out: if fewer reviews than this would be held out, all of them train. So few compare
            nothing.
        seed: decides which prompts are held out.
    """

    copies: int = 16
    max_share: float = 0.5
    hold_out: float = 0.25
    least_held_out: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value lies outside its range.
        """
        if self.copies < 1 or self.least_held_out < 0:
            raise ConfigError("copies and least_held_out: expected at least 1, and at least 0")
        if not 0 < self.max_share < 1 or not 0 <= self.hold_out < 1:
            raise ConfigError("max_share and hold_out: expected shares between 0 and 1")


@dataclass(frozen=True, slots=True)
class Retraining:
    """Training rows with reviews among them.

    Attributes:
        rows: the given rows without the reviewed ones, then all reviewed ones, copy by copy.
        held_out: reviewed exchanges with their new labels, for a test. No row shares a prompt or an original
            with them.
        reviewed: number of reviews that went into training.
        copies: number of copies of each.
        relabelled: number of given rows whose label the reviewers changed.
        confirmed: number of given rows whose label the reviewers agree with.
        followed: number of rows that took the new label of their reviewed original.
        withdrawn: given rows that no longer train. A review contradicts them, but none gives their label.
        share: share of reviewed rows in `rows`. It exceeds the rule's `max_share` if one copy of each is
            already too much.
    """

    rows: tuple[Exchange, ...]
    held_out: tuple[Exchange, ...]
    reviewed: int
    copies: int
    relabelled: int
    confirmed: int
    followed: int
    withdrawn: tuple[Exchange, ...]
    share: float


def apply_feedback(
    feedback: Feedback, training: Iterable[Exchange], rule: FeedbackRule | None = None
) -> Retraining:
    """Apply reviews to training rows. Remove duplicates before, not after: the copies are duplicates.

    - A reviewer's label replaces the label of a row. Exchanges in conflict stay as they are.
    - Rows with the same `meta.original` are disguises of one exchange (see `augmentations`). If reviews
      contradict a row that has no review itself, it takes the label of its reviewed original. It is withdrawn
      if only another disguise was reviewed, or if the reviews disagree.
    - A review whose prompt or original is among the rows always trains. Held out, it would test nothing.

    Args:
        feedback: the reviews.
        training: the training rows.
        rule: how reviews enter; the default values of `FeedbackRule` if None.
    """
    rule = rule or FeedbackRule()
    reviewed = {exchange_key(review.exchange): review for review in feedback.reviews}
    rows = [(row, reviewed.get(exchange_key(row))) for row in training]
    said = _said(feedback.reviews, rows)
    kept: list[Exchange] = []
    withdrawn: list[Exchange] = []
    followed = relabelled = confirmed = 0
    for row, review in rows:
        if review is None:
            follows = _follow(row, said.get(_original(row), {}))
            (withdrawn if follows is None else kept).append(follows or row)
            followed += follows is not None and follows is not row
        elif _agree(row, review):
            confirmed += 1
        else:
            relabelled += row.label is not None
    train, held_out = _split(feedback.reviews, {key for row, _ in rows for key in _keys(row)}, rule)
    copies = _copies(len(train), len(kept), rule)
    added = [_row(review, copy) for copy in range(copies) for review in train]
    laid = (*kept, *added)
    return Retraining(
        rows=laid,
        held_out=tuple(_row(review) for review in held_out),
        reviewed=len(train),
        copies=copies,
        relabelled=relabelled,
        confirmed=confirmed,
        followed=followed,
        withdrawn=tuple(withdrawn),
        share=len(added) / len(laid) if laid else 0.0,
    )


def _said(
    reviews: Iterable[Review], rows: Iterable[tuple[Exchange, Review | None]]
) -> Mapping[str, Mapping[str, Review]]:
    """Collect the reviews of each original and its disguises, by the id of the reviewed exchange.

    Rows are looked at too: an exchange given whole may lack the `meta.original` that its row has.
    """
    said: dict[str, dict[str, Review]] = defaultdict(dict)
    for review in reviews:
        said[_original(review.exchange)][review.exchange.id] = review
    for row, found in rows:
        if found is not None:
            said[_original(row)][row.id] = found
    return said


def _follow(row: Exchange, said: Mapping[str, Review]) -> Exchange | None:
    """Return an unreviewed row, relabelled if reviews of its original ask for it; None to withdraw it."""
    if all(_agree(row, review) for review in said.values()):
        return row
    review = said.get(_original(row))
    if review is None or len({review.verdict for review in said.values()}) > 1:
        return None
    known = {"verdict": review.verdict, "label_before": row.label, "review_of": review.exchange.id}
    return replace(row, label=review.label, category=review.category, meta={**row.meta, FOLLOWS: known})


def _original(row: Exchange) -> str:
    return str(row.meta.get("original", row.id))


def _keys(row: Exchange) -> list[str]:
    return [f"prompt/{prompt_group(row)}", f"says/{_original(row)}"]


def _agree(row: Exchange, review: Review) -> bool:
    return row.label is not None and (row.label >= 0.5) == (review.label >= 0.5)


def _split(
    reviews: Sequence[Review], trained: set[str], rule: FeedbackRule
) -> tuple[list[Review], list[Review]]:
    train: list[Review] = []
    free: list[Review] = []
    for review in reviews:
        (free if trained.isdisjoint(_keys(review.exchange)) else train).append(review)
    if len(free) * rule.hold_out < rule.least_held_out:
        return [*train, *free], []
    keys = [_keys(review.exchange) for review in free]
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
