"""Attacks that ask in plain words for an answer in a shape, and the shapes by family."""

from collections.abc import Iterator
from functools import partial
from random import Random

from lockgate.redteam._attempts import Attempt
from lockgate.redteam._queries import Query
from lockgate.redteam.attacks._shapes import (
    Draw,
    Shape,
    abbreviated,
    acrostic,
    columns,
    diluted,
    letter_lines,
    separated,
)
from lockgate.redteam.attacks._spacing import gridded
from lockgate.redteam.attacks._static import Static, asked, gist
from lockgate.redteam.attacks._tellings import dialogue, fiction, shuffled, warnings

SHAPES: dict[str, Draw] = {
    "abbreviation": abbreviated,
    "acrostic": acrostic,
    "block-dilution": gridded,
    "columns": columns,
    "dialogue": dialogue,
    "dilution": diluted,
    "fiction": fiction,
    "letter-lines": letter_lines,
    "separators": separated,
    "shuffled-cards": shuffled,
    "warnings": warnings,
}


def shaped_answer(query: Query, shape: Shape, rng: Random) -> str:
    """Return a full answer in a shape, or its gist if the shape is a long one."""
    return shape.write(gist(query) if shape.brief else rng.choice(query.answers))


def shape_attacks(tries: int = 1) -> Iterator[Static]:
    """Yield one attack for each shape. Each is a family."""
    for family, draw in SHAPES.items():
        yield Static(f"answer-as-{family}", family, partial(_ask_for, draw), tries)


def _ask_for(draw: Draw, query: Query, rng: Random) -> Attempt:
    shape = draw(query, rng)
    messages = asked(f"{query.text}\n\n{shape.ask}")
    return Attempt(messages, shaped_answer(query, shape, rng), shape.read)
