"""A broken endpoint, told from single bad requests by the number of failures in a row."""

from collections import Counter
from collections.abc import Iterable, Sequence

from lockgate.errors import GeneratorError
from lockgate.synthesis._requests import GenerationFailure, Outcome

# One bad request can cause these reasons. So can a wrong setting or a proxy's page, for all requests.
_UNUSABLE = ("not_accepted", "malformed")
_NEUTRAL = "no_answer"
_SHOWN = 3


class Health:
    """A counter of requests in a row that were turned away or answered with junk.

    Args:
        limit: this many in a row mean a broken endpoint; None never raises.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._bad: list[Outcome] = []

    def note(self, outcome: Outcome, where: str) -> None:
        """Count an outcome.

        Raises:
            GeneratorError: The limit is reached. The count starts again at 0.
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
    """Tell whether an outcome points to a broken endpoint if all outcomes are like it."""
    return isinstance(outcome, GenerationFailure) and outcome.reason in _UNUSABLE


def all_unusable(outcomes: Sequence[Outcome]) -> bool:
    """Tell whether there are outcomes and all of them are unusable."""
    return bool(outcomes) and all(map(is_unusable, outcomes))


def broken(where: str, outcomes: Iterable[Outcome]) -> GeneratorError:
    """Make the error of a broken endpoint. It counts failures by status and code, and says what to check."""
    details = Counter(outcome.detail for outcome in outcomes if isinstance(outcome, GenerationFailure))
    shown = "; ".join(f"{detail}: {count}" for detail, count in details.most_common(_SHOWN))
    return GeneratorError(
        f"{where} answered none of {details.total()} requests ({shown}). Single requests are not the cause, "
        "so none of these is recorded. Check that the address leads to the server itself, that the model "
        "takes max_tokens, temperature and seed under these names (--endpoint-field renames them or leaves "
        "them out), and that its context holds prompt and answer; then run again"
    )
