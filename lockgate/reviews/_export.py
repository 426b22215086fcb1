"""Reviews as the file that `lockgate build --update --feedback` reads."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lockgate.decisions import ContentReader, LogReader
from lockgate.exchanges import Exchange, Message
from lockgate.reviews._store import Review


@dataclass(slots=True)
class Left:
    """Verdicts that an export leaves out.

    Attributes:
        gone: the log has no record of the exchange any more.
        textless: the log keeps no text of it, or only a sealed one and there is no key.
        unanswered: the answer has no text.
    """

    gone: int = 0
    textless: int = 0
    unanswered: int = 0

    @property
    def total(self) -> int:
        return self.gone + self.textless + self.unanswered

    def __str__(self) -> str:
        words = {
            "the log no longer has the exchange": self.gone,
            "the log keeps no text of it that can be read": self.textless,
            "the answer has no text": self.unanswered,
        }
        return "; ".join(f"{count}: {reason}" for reason, count in words.items() if count)


def exchange_of(content: tuple[bytes, str] | None, reader: ContentReader) -> Exchange | None:
    """Return the exchange whose text a log has kept; None if there is no text that can be read.

    Args:
        content: the text as it is kept, and in which form.

    Raises:
        DecisionLogError: the text is damaged, or was sealed for another key.
    """
    found = None if content is None else reader.read(*content)
    if found is None:
        return None
    return Exchange(tuple(Message(turn.role, turn.content) for turn in found.messages))


def export_lines(
    reviews: Iterable[Review], log: LogReader, reader: ContentReader, left: Left
) -> Iterator[bytes]:
    """Yield the lines of a review file, each with its end.

    Skipped exchanges are no reviews. Reviewers who disagree have a line each: the build tells conflicts.

    Args:
        reviews: standing reviews.
        reader: reads texts, with a private key if they are sealed.
        left: counts what is left out.

    Raises:
        DecisionLogError: the log can't be read, or a text doesn't open with the key.
    """
    for review in reviews:
        if review.verdict is None:
            continue
        stored = log.one(review.exchange, review.choice)
        if stored is None:
            left.gone += 1
            continue
        kept = None if stored.content is None else (stored.content, str(stored.content_mode))
        exchange = exchange_of(kept, reader)
        if exchange is None:
            left.textless += 1
        elif not exchange.messages[-1].content.strip():
            left.unanswered += 1
        else:
            yield _line(review, exchange)


def _line(review: Review, exchange: Exchange) -> bytes:
    meta = {
        "id": review.exchange,
        "choice": review.choice,
        "reviewer": review.reviewer,
        "picked": review.picked,
    }
    record = {**exchange.to_dict(), "meta": meta}
    line: dict[str, object] = {"verdict": review.verdict}
    for name in ("category", "note", "seconds"):
        if (value := getattr(review, name)) is not None:
            line[name] = value
    line["exchange"] = record
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
