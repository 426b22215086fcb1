"""Review files: verdicts are read, matched with exchanges and merged; conflicts are kept apart."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from lockgate.constitution import Constitution
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, exchange_from_dict, json_records, normalise_text

Verdict = Literal["harmless", "harmful"]
_ADVICE = "name the files that were reviewed, or put whole exchanges under `exchange`"


class _Line(BaseModel):
    """One line of a review file. Note and seconds are for people: they are checked but not kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdict: Verdict
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")] | None = None
    exchange: dict[str, Any] | None = None
    category: str | None = None
    topic: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)] | None = (
        None
    )
    note: str | None = Field(default=None)
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """What reviewers say about one exchange.

    Attributes:
        exchange: the exchange as given, with its old label and category.
        verdict: the reviewers' verdict on the answer in its context.
        category: an id of the constitution: the reviewer's, otherwise the exchange's if it fits the verdict.
            With a harmless verdict, a harmful id names what the exchange was wrongly flagged as.
        topics: what the exchange is about, in a reviewer's words that may appear in a constitution.
        lines: line numbers of the reviews.
    """

    exchange: Exchange
    verdict: Verdict
    category: str | None
    topics: tuple[str, ...]
    lines: tuple[int, ...]

    @property
    def label(self) -> float:
        """1 for a harmful verdict, 0 for a harmless one."""
        return float(self.verdict == "harmful")


@dataclass(frozen=True, slots=True)
class Conflict:
    """A disagreement between reviewers about one exchange.

    An exchange with a conflict about its verdict is not used until reviewers agree. One with a conflict about
    its category is used without a category.

    Attributes:
        exchange_id: id of the exchange.
        about: what they disagree about.
        lines: line numbers of the reviews, by verdict or category.
    """

    exchange_id: str
    about: Literal["verdict", "category"]
    lines: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Feedback:
    """The reviews of one file, one for each exchange.

    Attributes:
        file: name of the file.
        lines: number of reviews read.
        repeated: line numbers of reviews that give the same verdict on the same exchange, the first included.
        reviews: in the order of their first lines, without exchanges that have a conflict about the verdict.
        conflicts: what reviewers have to settle.
    """

    file: str
    lines: int
    repeated: tuple[tuple[int, ...], ...]
    reviews: tuple[Review, ...]
    conflicts: tuple[Conflict, ...]


def read_feedback(
    path: str | os.PathLike[str],
    constitution: Constitution,
    exchanges: Iterable[Exchange] = (),
    *,
    advice: str = _ADVICE,
) -> Feedback:
    """Read a review file: JSON lines, each with a verdict on an exchange.

    A line has `verdict` ("harmless" or "harmful") and `id` or the whole `exchange`. It may have `category`
    (an id of the constitution), `topic` (a few words that may appear in the constitution), `note`
    and `seconds` (how long the reviewer took); both are ignored.

    Args:
        path: a file .jsonl[.gz|.zst].
        constitution: the constitution that categories come from.
        exchanges: exchanges that ids refer to. They are read once, and only reviewed ones are kept. If
            several have one id, the last one counts.
        advice: what the error message advises if an id isn't among `exchanges`.

    Raises:
        ExchangeError: the file can't be read, or (as `FILE:LINE: FIELD: ...`) a line doesn't have this form,
            an exchange has no answer, a category isn't in the constitution or contradicts the verdict, or an
            id isn't among the exchanges. Messages hold no text of an exchange.
    """
    file = Path(path)
    if not file.is_file():
        raise ExchangeError(f"{file}: no such file")
    lines = list(read_lines(file, constitution))
    wanted = {line.id for _, line, given in lines if given is None}
    found = {row.id: row for row in exchanges if row.id in wanted} if wanted else {}
    reviews = []
    for number, line, given in lines:
        exchange = given if given is not None else found.get(str(line.id))
        if exchange is None:
            missing = sum(given is None and line.id not in found for _, line, given in lines)
            raise ExchangeError(
                f"{file}:{number}: id: not among the exchanges given ({missing} such lines); {advice}"
            )
        if exchange.is_prompt_only:
            raise ExchangeError(f"{file}:{number}: exchange: has no answer; a verdict is about an answer")
        category = line.category or _fitting(exchange.category, line.verdict, constitution)
        topics = () if line.topic is None else (line.topic,)
        reviews.append(Review(exchange, line.verdict, category, topics, (number,)))
    merged, conflicts = _merge(reviews)
    return Feedback(str(file), len(lines), _repeated(reviews), merged, conflicts)


def read_lines(
    file: Path, constitution: Constitution | None = None
) -> Iterator[tuple[int, _Line, Exchange | None]]:
    """Yield number, content and exchange of each line; without a constitution categories are not checked."""
    for number, decode in json_records(file):
        try:
            line = _line(decode())
            if constitution is not None:
                _check_category(line, constitution)
            given = None if line.exchange is None else _exchange(line.exchange)
            if given is not None and line.id is not None and given.id != line.id:
                raise ExchangeError("id: differs from the id of `exchange`; leave one of the two out")
        except ExchangeError as error:
            raise ExchangeError(f"{file}:{number}: {error}") from None
        yield number, line, given


def _line(value: object) -> _Line:
    if not isinstance(value, Mapping):
        raise ExchangeError("record: expected an object with `verdict` and `id` or `exchange`")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        line = _Line.model_validate(value)
    except UnicodeEncodeError:
        raise ExchangeError("record: holds text that is not valid Unicode (a lone surrogate)") from None
    except ValidationError as error:
        first = error.errors()[0]
        known = first["type"] == "extra_forbidden"
        field = "record" if known else ".".join(str(step) for step in first["loc"]) or "record"
        what = f"an unknown key; known are {', '.join(_Line.model_fields)}" if known else first["msg"]
        raise ExchangeError(f"{field}: {what[:1].lower()}{what[1:]}") from None
    if line.id is None and line.exchange is None:
        raise ExchangeError("id: missing; give the exchange's `id`, or the whole exchange as `exchange`")
    return line


def _exchange(record: Mapping[str, Any]) -> Exchange:
    try:
        return exchange_from_dict(record)
    except ExchangeError as error:
        raise ExchangeError(f"exchange.{error}") from None


def _check_category(line: _Line, constitution: Constitution) -> None:
    if line.category is None:
        return
    if line.category not in {category.id for category in constitution.categories}:
        raise ExchangeError(
            f"category: not in the constitution {constitution.name}; take one of its ids, or leave it out"
        )
    if line.verdict == "harmful" and line.category not in constitution.category_ids:
        raise ExchangeError(
            "category: belongs to the harmless half, but the verdict is harmful; name a harmful category, or "
            "change the constitution first"
        )


def _fitting(category: str | None, verdict: Verdict, constitution: Constitution) -> str | None:
    known = constitution.category_ids
    if verdict == "harmless":
        known = [category.id for category in constitution.categories]
    return category if category in known else None


def exchange_key(exchange: Exchange) -> str:
    """Return a key that is equal for exchanges with the same turns after normalisation."""
    turns = [(turn.role, normalise_text(turn.content), turn.tool_calls) for turn in exchange.messages]
    return json.dumps(turns)


def _repeated(reviews: Iterable[Review]) -> tuple[tuple[int, ...], ...]:
    said: dict[tuple[str, Verdict], tuple[int, ...]] = {}
    for review in reviews:
        key = exchange_key(review.exchange), review.verdict
        said[key] = (*said.get(key, ()), *review.lines)
    return tuple(lines for lines in said.values() if len(lines) > 1)


def _merge(reviews: Iterable[Review]) -> tuple[tuple[Review, ...], tuple[Conflict, ...]]:
    groups: dict[str, list[Review]] = defaultdict(list)
    for review in reviews:
        groups[exchange_key(review.exchange)].append(review)
    merged, conflicts = [], []
    for group in groups.values():
        first = group[0]
        if len({review.verdict for review in group}) > 1:
            said = _by(group, lambda review: review.verdict)
            conflicts.append(Conflict(first.exchange.id, "verdict", said))
            continue
        named = [review for review in group if review.category is not None]
        categories = _by(named, lambda review: str(review.category))
        if len(categories) > 1:
            conflicts.append(Conflict(first.exchange.id, "category", categories))
        category = next(iter(categories)) if len(categories) == 1 else None
        topics = tuple(dict.fromkeys(topic for review in group for topic in review.topics))
        lines = tuple(line for review in group for line in review.lines)
        merged.append(replace(first, category=category, topics=topics, lines=lines))
    return tuple(merged), tuple(conflicts)


def _by(group: Iterable[Review], of: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401
    said: dict[str, tuple[int, ...]] = {}
    for review in group:
        said[of(review)] = (*said.get(of(review), ()), *review.lines)
    return said
