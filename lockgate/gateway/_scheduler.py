"""Share the prompt tokens of a packed step between the prompts that are being read."""

from collections.abc import Sequence

# Prompt tokens of one step. More would visibly delay the streams that already decode.
PREFILL_BUDGET = 256


def share_prefill(remaining: Sequence[int], budget: int = PREFILL_BUDGET) -> list[int]:
    """Split `budget` prompt tokens over prompts with `remaining` tokens each, in order of arrival.

    Every prompt gets an equal share. The others share what a short prompt doesn't need. So a long prompt
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
