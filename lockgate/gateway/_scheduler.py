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


def share_between_clients(
    clients: Sequence[str], remaining: Sequence[int], budget: int = PREFILL_BUDGET
) -> list[int]:
    """Split `budget` first over clients, then over the prompts of each. `clients` names each prompt's."""
    groups: dict[str, list[int]] = {}
    for index, client in enumerate(clients):
        groups.setdefault(client, []).append(index)
    totals = share_prefill([sum(remaining[index] for index in group) for group in groups.values()], budget)
    shares = [0] * len(remaining)
    for group, total in zip(groups.values(), totals, strict=True):
        for index, share in zip(group, share_prefill([remaining[i] for i in group], total), strict=True):
            shares[index] = share
    return shares
