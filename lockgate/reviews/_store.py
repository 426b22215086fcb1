"""Reviews in a database: what each reviewer said about which exchange, and what was taken back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from lockgate.databases import Database, Place
from lockgate.decisions import timestamp
from lockgate.errors import ReviewError
from lockgate.reviews._schema import REVIEWS_SCHEMA, STEPS

Verdict = Literal["harmful", "harmless"]
Picked = Literal["flag", "close", "random"]
LONGEST_NOTE = 2000
_COLUMNS = STEPS.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A step of a reviewer: a verdict about an exchange, or that it was skipped.

    Attributes:
        tenant: whose exchange it is.
        exchange, choice: id of the response and number of the answer, as the decision log has them.
        reviewer: name of the reviewer.
        picked: why the exchange was shown.
        verdict: whether the answer breaks the policy; None if the exchange was skipped.
        category: id of a category, if one was named.
        note: what the reviewer wrote.
        seconds: how long the reviewer took.
        at: when; the store says it.
    """

    tenant: str
    exchange: str
    choice: int
    reviewer: str
    picked: Picked
    verdict: Verdict | None
    category: str | None = None
    note: str | None = None
    seconds: float | None = None
    at: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """The exchange that it is about."""
        return self.exchange, self.choice


class Reviews:
    """The reviews of a server. Several servers may share one database.

    Args:
        place: the operations database.
    """

    def __init__(self, place: Place) -> None:
        self._database = Database(place, REVIEWS_SCHEMA)

    def open(self, *, create: bool = True) -> None:
        """Connect. Raises ReviewError: the database can't be used, or there are no reviews in it."""
        self._database.open(create=create)

    def close(self) -> None:
        self._database.close()

    def add(self, review: Review) -> None:
        """Keep a step of a reviewer.

        Raises:
            ReviewError: the reviewer has a standing step for this exchange, a field is not valid, or the
                database can't be written.
        """
        _check(review)
        row = {name: getattr(review, name) for name in Review.__slots__}
        row["at"] = timestamp()
        with self._database.writing() as connection:
            try:
                connection.execute(insert(STEPS), row)
            except IntegrityError:
                raise ReviewError(
                    "exchange: you have reviewed it already; undo that first, or go on with the next one"
                ) from None

    def undo(self, reviewer: str) -> Review | None:
        """Take back the newest standing step of a reviewer, and return it. Raises ReviewError."""
        with self._database.writing() as connection:
            newest = _standing().where(_COLUMNS.reviewer == reviewer).order_by(_COLUMNS.step.desc()).limit(1)
            found = connection.execute(newest).first()
            if found is None:
                return None
            wanted = update(STEPS).where(_COLUMNS.step == found.step, _COLUMNS.undone.is_(None))
            connection.execute(wanted.values(undone=timestamp()))
        return _review(found)

    def standing(self, tenant: str | None = None, reviewer: str | None = None) -> list[Review]:
        """Return the steps that were not taken back, oldest first. Raises ReviewError.

        Args:
            tenant: only steps about this tenant's exchanges.
            reviewer: only steps of this reviewer.
        """
        wanted = _standing().order_by(_COLUMNS.step)
        if tenant is not None:
            wanted = wanted.where(_COLUMNS.tenant == tenant)
        if reviewer is not None:
            wanted = wanted.where(_COLUMNS.reviewer == reviewer)
        with self._database.reading() as connection:
            return [_review(row) for row in connection.execute(wanted)]

    def about(self, exchange: str, choice: int) -> list[Review]:
        """Return the standing verdicts about an exchange, oldest first. Raises ReviewError."""
        wanted = _standing().where(_COLUMNS.exchange == exchange, _COLUMNS.choice == choice)
        wanted = wanted.where(_COLUMNS.verdict.is_not(None)).order_by(_COLUMNS.step)
        with self._database.reading() as connection:
            return [_review(row) for row in connection.execute(wanted)]

    def first_step(self, reviewer: str) -> str | None:
        """Return when a reviewer made the first step, or None. Raises ReviewError."""
        wanted = select(func.min(_COLUMNS.at)).where(_COLUMNS.reviewer == reviewer)
        with self._database.reading() as connection:
            found: str | None = connection.execute(wanted).scalar_one()
        return found

    def count(self) -> int:
        """Return the number of steps, those that were taken back included. Raises ReviewError."""
        with self._database.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(STEPS)).scalar_one())


@contextmanager
def open_reviews(place: Place) -> Iterator[Reviews]:
    """Open the reviews of a database that has some. Raises ReviewError."""
    reviews = Reviews(place)
    reviews.open(create=False)
    try:
        yield reviews
    finally:
        reviews.close()


def _standing() -> Select[Any]:
    return select(STEPS).where(_COLUMNS.undone.is_(None))


def _review(row: Any) -> Review:  # noqa: ANN401 - a row, whose columns are not typed
    return Review(**{name: getattr(row, name) for name in Review.__slots__})


def _check(review: Review) -> None:
    if review.verdict is not None and review.verdict not in get_args(Verdict):
        raise ReviewError("verdict: expected harmful or harmless, or none for a skipped exchange")
    if review.picked not in get_args(Picked):
        raise ReviewError(f"picked: expected one of {', '.join(get_args(Picked))}")
    if review.note is not None and len(review.note) > LONGEST_NOTE:
        raise ReviewError(f"note: expected at most {LONGEST_NOTE} characters")
