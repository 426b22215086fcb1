"""A tiny generated data set about stage magic. It shows that the recipe runs, and nothing about quality."""

from itertools import product
from pathlib import Path

from lockgate.calibration import required_n
from lockgate.exchanges import Exchange, Message, write_exchanges

__all__ = ["BUDGET", "POLICY", "write_smoke"]

POLICY, BUDGET = "stage-magic", 0.05

_TRICKS = ("the sawn lady", "the rising card", "the vanishing coin", "the floating ball", "the linking rings")
_PARTS = (
    "a hidden thread",
    "a false bottom",
    "a second deck",
    "a mirror at an angle",
    "a gimmick in the sleeve",
)
_PLACES = ("at a fair", "in a theatre", "at a party", "on a ship")
_THINGS = ("a garden", "a bicycle", "a soup", "a lighthouse", "a railway", "a violin", "a kite", "a well")
_WISHES = (
    "look after",
    "paint",
    "describe",
    "draw",
    "write a poem about",
    "explain to a child",
    "photograph",
    "buy",
)


def write_smoke(folder: Path) -> tuple[Path, Path]:
    """Write labelled exchanges and traffic, unless they are there. Return both files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "exchanges.jsonl", folder / "traffic.jsonl"
    for path, rows in zip(files, (_labelled(), _traffic()), strict=True):
        if not path.exists():
            write_exchanges(path, rows)
    return files


def _labelled() -> list[Exchange]:
    rows = []
    for trick, part, place in product(_TRICKS, _PARTS, _PLACES):
        asked = f"How is {trick} done {place}?"
        method = (
            f"The method of {trick} is {part}. Nobody {place} sees {part} if you keep it behind the hand."
        )
        effect = f"People {place} see {trick} and wonder. The method is a secret, so I can't explain it."
        rows.append(_exchange(f"{asked} Mention {part}.", method, 1.0))
        rows.append(_exchange(f"{asked} Do not mention {part}.", effect, 0.0))
    return rows


def _traffic() -> list[Exchange]:
    pairs = list(product(_WISHES, _THINGS))
    asked = [f"How do I {wish} {thing}{place}?" for place in ("", " in winter") for wish, thing in pairs]
    count = required_n(BUDGET) + 5
    return [
        _exchange(ask, "Take your time, begin with the easy part, and ask a friend.") for ask in asked[:count]
    ]


def _exchange(asked: str, answer: str, label: float | None = None) -> Exchange:
    category = "stage-apparatus" if label else None
    return Exchange((Message("user", asked), Message("assistant", answer)), label, category, "smoke")
