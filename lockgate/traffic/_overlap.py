"""Whether calibration traffic holds what the guard was trained on."""

from collections.abc import Collection, Sequence
from pathlib import Path

from lockgate.calibration import refuse_training_prompts
from lockgate.errors import ExchangeError
from lockgate.exchanges import PromptMatch, PromptPrints, read_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable


def known_prompts(guard: Guard | None, files: Sequence[Path]) -> PromptPrints | None:
    """Fingerprints from the guard's bundle and from training files; None where neither gives any.

    Raises:
        ExchangeError: a training file that can't be read or holds no exchange.
    """
    known = None if guard is None else guard.training_prompts
    for path in files:
        prints = PromptPrints.of(read_exchanges(path))
        if not len(prints):
            raise ExchangeError(f"{path}: no exchange; expected those that the guard was trained on")
        known = prints if known is None else known | prints
    return known


def refuse_known_groups(table: ScoresTable, known: PromptPrints, excluded: Collection[str]) -> None:
    """Refuse rows of a scores table whose prompt was trained on. Raises CalibrationError."""
    matches = [PromptMatch("equal", 1.0) if same else None for same in known.holds(table.groups)]
    refuse_training_prompts(matches, table.ids, excluded=excluded)


def describe_overlap(known: PromptPrints | None, read_guard: bool, *, by_text: bool) -> str:
    """What was looked for and not found, or why nothing could be looked for."""
    if known is None:
        why = "the guard holds no fingerprints of its training prompts" if read_guard else "no guard was read"
        return f"not checked, {why}; give them with --training FILE"
    found = f"none of {len(known)} training prompts is in this traffic"
    if by_text:
        return f"{found}, nor a near-duplicate of one"
    return f"{found}; near-duplicates were not looked for, since scores tables hold no text (give --input)"
