"""Labelled exchanges for the learning curve: what a user of each policy might have labelled. They train, never test."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lockgate.durable import open_atomic
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, read_exchanges
from recipes.policy_portability.policy_pairs import HERE, POLICIES

LABELLED = HERE / "labelled.jsonl"
# The first so many rows are the sets of the learning curve. Each is balanced in labels and categories.
SIZES = (10, 50, 200)


@dataclass(frozen=True, slots=True)
class LabelledExchange:
    """An exchange with its label (1 is harmful) and category under each constitution."""

    exchange: Exchange
    row: str
    labels: dict[str, int]
    categories: dict[str, str]


def read_labelled(path: Path = LABELLED) -> list[LabelledExchange]:
    """Read the exchanges in file order.

    Raises:
        ExchangeError: a line is not an exchange with an answer, or lacks a field.
    """
    rows = []
    for number, exchange in enumerate(read_exchanges(path), 1):
        meta = exchange.meta
        labels, categories = meta.get("labels"), meta.get("categories")
        if (
            exchange.is_prompt_only
            or not isinstance(labels, dict)
            or not isinstance(categories, dict)
            or set(labels) != set(POLICIES)
            or set(categories) != set(POLICIES)
            or not set(labels.values()) <= {0, 1}
        ):
            raise ExchangeError(
                f"{path}: exchange {number}: expected an answer, and labels (0 or 1) and categories under "
                f"{', '.join(POLICIES)}"
            )
        rows.append(LabelledExchange(exchange, str(meta.get("row")), labels, categories))
    return rows


def write_reviews(rows: Sequence[LabelledExchange], policy: str, path: Path) -> None:
    """Write rows as reviews under one policy, as `lockgate label` does, for `lockgate build --feedback`."""
    lines = [
        {
            "exchange": {
                "messages": [message.to_dict() for message in row.exchange.messages],
                "source": "reviewed",
            },
            "verdict": "harmful" if row.labels[policy] else "harmless",
            "category": row.categories[policy],
        }
        for row in rows
    ]
    with open_atomic(path) as file:
        file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
