"""Telling a broken endpoint from requests that it turns away: by how many in a row go wrong."""

from collections import Counter
from collections.abc import Iterable, Sequence

from lockgate.errors import GeneratorError
from lockgate.synthesis._requests import GenerationFailure, Outcome

# What a request can bring about alone, and a wrong setting or a page of a proxy for all of them.
_UNUSABLE = ("not_accepted", "malformed")
_NEUTRAL = "no_answer"
_SHOWN = 3


class Health:
    """Counts requests in a row that were turned away or answered with junk.

    Args:
        limit: so many in a row are the endpoint's fault; None never judges.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._bad: list[Outcome] = []

    def note(self, outcome: Outcome, where: str) -> None:
        """Count an outcome.

        Raises:
            GeneratorError: the limit is reached; counting begins anew.
        """
        if self._limit is None:
            return
        if is_unusable(outcome):
            self._bad.append(outcome)
        elif not (isinstance(outcome, GenerationFailure) and outcome.reason == _NEUTRAL):
            self._bad.clear()
        if len(self._bad) >= self._limit:
            bad, self._bad = self._bad, []
            raise broken(where, bad)


def is_unusable(outcome: Outcome) -> bool:
    """Whether the outcome, were all like it, would mean a broken endpoint."""
    return isinstance(outcome, GenerationFailure) and outcome.reason in _UNUSABLE


def all_unusable(outcomes: Sequence[Outcome]) -> bool:
    """Whether there are outcomes and none of them shows an endpoint that works."""
    return bool(outcomes) and all(map(is_unusable, outcomes))


def broken(where: str, outcomes: Iterable[Outcome]) -> GeneratorError:
    """The error to raise: how often what happened, by status and code alone, and what to look at."""
    details = Counter(outcome.detail for outcome in outcomes if isinstance(outcome, GenerationFailure))
    shown = "; ".join(f"{detail}: {count}" for detail, count in details.most_common(_SHOWN))
    return GeneratorError(
        f"{where} answered none of {details.total()} requests ({shown}). That is no matter of single "
        "requests, so none of these is recorded. Check that the address leads to the server itself, that the "
        "model takes max_tokens, temperature and seed as they are sent (--endpoint-field gives them other "
        "names or leaves them out), and that its context holds prompt and answer; then run again"
    )
