"""The check that calibration traffic shares no prompt with training.

A guard errs least on its own training data, so such data would make it look better than it is.
"""

from collections.abc import Collection, Sequence

from lockgate.errors import CalibrationError
from lockgate.exchanges import PromptMatch

_NAMED = 3


def refuse_training_prompts(
    matches: Sequence[PromptMatch | None], ids: Sequence[str], *, excluded: Collection[str] = ()
) -> None:
    """Refuse calibration exchanges if the guard was trained on their prompts.

    Args:
        matches: result of `PromptPrints.find` for the prompt of each exchange [N].
        ids: ids of the exchanges [N].
        excluded: ids that calibration leaves out anyway.

    Raises:
        CalibrationError: a prompt was trained on. The message gives the number of such exchanges, the first
            ids, and what to do.
    """
    found = [
        (identity, match)
        for identity, match in zip(ids, matches, strict=True)
        if match is not None and identity not in excluded
    ]
    if not found:
        return
    near = sum(match.kind == "near" for _, match in found)
    first = ", ".join(identity for identity, _ in found[:_NAMED])
    raise CalibrationError(
        f"{len(found)} of {len(ids)} calibration exchanges have prompts that the guard was trained on "
        f"({len(found) - near} equal, {near} near-duplicates), the first with ids {first}: no budget can be "
        "claimed on them. Drop these rows, or list their ids with --exclude"
    )
