"""Which tokens go into the next packed step: one of every decoding stream, a share of the prompts."""

from collections.abc import Sequence

# More prompt tokens at once would make the streams that are already decoding wait visibly.
PREFILL_BUDGET = 256


def share_prefill(remaining: Sequence[int], budget: int = PREFILL_BUDGET) -> list[int]:
    """Split `budget` prompt tokens over prompts with `remaining` tokens each, in order of arrival.

    Every prompt gets an equal share; what a short one leaves over goes to the others, so that a long prompt
    neither blocks short ones nor waits for them. The sum is `min(budget, sum(remaining))`.
    """
    shares = [0] * len(remaining)
    left = budget
    hungry = [index for index, count in enumerate(remaining) if count > 0]
    while left > 0 and hungry:
        portion = max(1, left // len(hungry))
        for index in hungry:
            given = min(portion, remaining[index] - shares[index], left)
            shares[index] += given
            left -= given
        hungry = [index for index in hungry if shares[index] < remaining[index]]
    return shares
