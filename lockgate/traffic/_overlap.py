"""Overlap of calibration traffic with the prompts that the guard was trained on."""

from collections.abc import Collection, Sequence
from pathlib import Path

from lockgate.calibration import refuse_training_prompts
from lockgate.errors import ExchangeError
from lockgate.exchanges import PromptMatch, PromptPrints, read_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable


def known_prompts(guard: Guard | None, files: Sequence[Path]) -> PromptPrints | None:
    """Return the fingerprints from the guard's bundle and from training files, or None if there are none.

    Raises:
        ExchangeError: a training file can't be read or holds no exchange.
    """
    known = None if guard is None else guard.training_prompts
    for path in files:
        prints = PromptPrints.of(read_exchanges(path))
        if not len(prints):
            raise ExchangeError(f"{path}: no exchange; expected those that the guard was trained on")
        known = prints if known is None else known | prints
    return known


def refuse_known_groups(table: ScoresTable, known: PromptPrints, excluded: Collection[str]) -> None:
    """Refuse a scores table that holds prompts the guard was trained on.

    Args:
        table: the scores table.
        known: fingerprints of the training prompts.
        excluded: ids of rows that are left out and may hold such prompts.

    Raises:
        CalibrationError: a row that is not excluded has a training prompt.
    """
    matches = [PromptMatch("equal", 1.0) if same else None for same in known.holds(table.groups)]
    refuse_training_prompts(matches, table.ids, excluded=excluded)


def describe_overlap(known: PromptPrints | None, read_guard: bool, *, by_text: bool) -> str:
    """Say that no training prompt was found, or why there was no check."""
    if known is None:
        why = "the guard holds no fingerprints of its training prompts" if read_guard else "no guard was read"
        return f"not checked, {why}; give them with --training FILE"
    found = f"none of {len(known)} training prompts is in this traffic"
    if by_text:
        return f"{found}, nor a near-duplicate of one"
    return f"{found}; near-duplicates were not looked for, since scores tables hold no text (give --input)"
