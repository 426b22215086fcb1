"""Readings of a local model in padded batches."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def split(lengths: Sequence[int], batch_tokens: int, *, padded: bool) -> Iterator[list[int]]:
    """Yield the numbers of readings that share a batch, shortest first.

    Args:
        lengths: tokens of each reading.
        batch_tokens: most tokens of a batch, with padding. A single reading may be longer.
        padded: whether the model can read padding. If not, only equal lengths share a batch.
    """
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    batch: list[int] = []
    for row in order:
        full = batch and (len(batch) + 1) * lengths[row] > batch_tokens
        if full or (batch and not padded and lengths[batch[0]] != lengths[row]):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def run_batches(
    rows: Sequence[Sequence[int]],
    read: Callable[[Tensor, Tensor], Tensor],
    *,
    pad: int | None,
    batch_tokens: int,
    device: torch.device,
    left: bool,
) -> tuple[list[float], list[float]]:
    """Read rows of tokens and return a logit and the seconds of each.

    Args:
        rows: token ids of each reading.
        read: takes ids and mask `[batch, tokens]` and returns logits `[batch]`.
        pad: id of the padding token; None if the model has none.
        left: whether padding stands before the text.
    """
    logits, seconds = [0.0] * len(rows), [0.0] * len(rows)
    for batch in split([len(row) for row in rows], batch_tokens, padded=pad is not None):
        started = time.perf_counter()
        longest = max(len(rows[row]) for row in batch)
        ids = torch.full((len(batch), longest), 0 if pad is None else pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(batch):
            place = slice(longest - len(rows[row]), None) if left else slice(0, len(rows[row]))
            ids[number, place] = torch.tensor(rows[row])
            mask[number, place] = 1
        with torch.inference_mode():
            found = read(ids.to(device), mask.to(device)).double().cpu().tolist()
        spent = (time.perf_counter() - started) / len(batch)
        for row, logit in zip(batch, found, strict=True):
            logits[row], seconds[row] = logit, spent
    return logits, seconds
