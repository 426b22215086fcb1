"""Reviews of decisions: which exchanges people look at, what they say, and the file that trains a guard."""

from lockgate.reviews._agreement import Agreement, Conflict, agreements, conflicts
from lockgate.reviews._export import Left, exchange_of, export_lines
from lockgate.reviews._queue import SHARES, Pick, count_picked, next_pick
from lockgate.reviews._schema import REVIEWS_SCHEMA
from lockgate.reviews._store import LONGEST_NOTE, Picked, Review, Reviews, Verdict, open_reviews

__all__ = [
    "LONGEST_NOTE",
    "REVIEWS_SCHEMA",
    "SHARES",
    "Agreement",
    "Conflict",
    "Left",
    "Pick",
    "Picked",
    "Review",
    "Reviews",
    "Verdict",
    "agreements",
    "conflicts",
    "count_picked",
    "exchange_of",
    "export_lines",
    "next_pick",
    "open_reviews",
]
