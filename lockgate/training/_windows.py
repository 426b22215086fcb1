"""Window means of activations. They are read once and kept on disk as float16.

A probe is linear: the mean of its logits over a window equals its logit for the window's mean activation. So
training needs only window means. At a stride of 8 tokens they take an eighth of the space of single tokens.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lockgate.backbones import Backbone, Reading, SessionPool, Site, front, read_packed
from lockgate.classifiers import WINDOW
from lockgate.durable import open_atomic
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange

STRIDE = 8


class ActivationTap:
    """A tap that keeps the activations of one step.

    Attributes:
        hidden: activations, `[layers, tokens, hidden]`, float32, on the device that computes them.
    """

    def __init__(
        self, layers: Sequence[int], site: Site, hidden_size: int, device: torch.device | None = None
    ) -> None:
        self._order = {(layer, site): index for index, layer in enumerate(layers)}
        self._hidden_size = hidden_size
        self._device = device
        self.hidden = torch.empty(0)

    @property
    def wanted(self) -> Sequence[tuple[int, Site]]:
        """The layers, in order, at the one site."""
        return list(self._order)

    def begin(self, tokens: int) -> None:
        """Allocate memory for a step."""
        self.hidden = torch.empty(len(self._order), tokens, self._hidden_size, device=self._device)

    def see(self, layer: int, site: Site, hidden: Tensor) -> None:
        """Keep a copy of the activations."""
        self.hidden[self._order[layer, site]] = hidden


@dataclass(frozen=True, slots=True)
class CachedExchange:
    """One exchange in a cache. Its windows are rows `start:end` of the shard."""

    id: str
    label: float
    category: str | None
    source: str
    shard: int
    start: int
    end: int
    first_answer_window: int


class WindowCache:
    """A folder of shards: `NNNN.npy` (`[windows, layers, hidden]`, float16) and `NNNN.json` for each.

    The JSON is written last, so a shard with a JSON is complete. An interrupted run resumes after the last
    complete shard.

    Raises:
        TrainingError: a shard is damaged or of other settings, or there is no complete one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards: list[NDArray[np.float16]] = []
        self.exchanges: list[CachedExchange] = []
        self.meta: dict[str, Any] = {}
        for number, meta in enumerate(sorted(path.glob("[0-9]*.json"))):
            try:
                content = json.loads(meta.read_text())
                _check_meta(meta, content["meta"], self.meta or content["meta"])
                self.meta = content["meta"]
                self.shards.append(np.load(meta.with_suffix(".npy"), mmap_mode="r"))
                self.exchanges += [CachedExchange(shard=number, **row) for row in content["exchanges"]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise TrainingError(
                    f"{meta}: damaged ({type(error).__name__}); remove it and read again"
                ) from error
        if not self.exchanges:
            raise TrainingError(f"{path}: no finished shard of activations")

    @classmethod
    def join(cls, caches: Sequence["WindowCache"]) -> "WindowCache":
        """Join caches that several processes made with the same settings.

        Raises:
            TrainingError: the settings differ.
        """
        joined = cls.__new__(cls)
        joined.path, joined.meta, joined.shards, joined.exchanges = caches[0].path, caches[0].meta, [], []
        for cache in caches:
            if cache.meta != joined.meta:
                raise TrainingError(f"{cache.path}: made with other settings than {joined.path}")
            offset = len(joined.shards)
            joined.shards += cache.shards
            joined.exchanges += [replace(row, shard=row.shard + offset) for row in cache.exchanges]
        return joined

    def windows(self, exchange: CachedExchange) -> NDArray[np.float16]:
        """Return the windows of one exchange, `[windows, layers, hidden]`."""
        return self.shards[exchange.shard][exchange.start : exchange.end]


def build_cache(
    backbone: Backbone,
    exchanges: Sequence[Exchange],
    path: Path,
    *,
    layers: Sequence[int],
    site: Site,
    max_tokens: int,
    shard_size: int = 200,
) -> Iterator[int]:
    """Read exchanges and write their window means, shard by shard. Finished shards are not read again.

    The precision of the backbone is part of the settings.

    Args:
        backbone: backbone to read with.
        exchanges: exchanges to read.
        path: folder of the cache. It is created if needed.
        layers: layers to read, from 0.
        site: place in a layer where activations are read.
        max_tokens: a longer exchange keeps the template's prefix and its last tokens, because the answer is
            judged.
        shard_size: exchanges in a shard.

    Yields:
        The number of finished exchanges.

    Raises:
        TrainingError: `path` holds shards of other data, of other settings or of unknown precision, or the
            activations do not fit into float16.
    """
    path.mkdir(parents=True, exist_ok=True)
    meta = {
        "backbone": backbone.identity.hashes,
        "layers": list(layers),
        "site": site,
        "max_tokens": max_tokens,
        "dtype": backbone.identity.dtype,
    }
    tap = ActivationTap(layers, site, backbone.hidden_size, backbone.device)
    shards = -(-len(exchanges) // shard_size)
    if extra := [found for found in sorted(path.glob("[0-9]*.json")) if int(found.stem) >= shards]:
        raise TrainingError(f"{extra[0]}: made from more data than is given now; use another directory")
    with SessionPool(front(backbone, 1 + max(layers)), 64 * backbone.context_length) as pool:
        for number, first in enumerate(range(0, len(exchanges), shard_size)):
            group = exchanges[first : first + shard_size]
            done = path / f"{number:04d}.json"
            ids = [exchange.id for exchange in group]
            if done.exists():
                content = json.loads(done.read_text())
                _check_meta(done, content["meta"], meta)
                if [row["id"] for row in content["exchanges"]] != ids:
                    raise TrainingError(f"{done}: made from other data or settings; use another directory")
            else:
                _write_shard(pool, tap, group, done, meta, max_tokens)
            yield first + len(group)


def cut_exchange(backbone: Backbone, exchange: Exchange, max_tokens: int) -> tuple[list[int], int, int]:
    """Return the tokens of an exchange for training: up to the end of the answer, at most `max_tokens`.

    Returns:
        The tokens, the length of the template's constant prefix, and the number of tokens between the prefix
        and the answer.
    """
    chat = backbone.render(exchange.messages)
    # At least one token, as scoring reads it.
    ids, cut = list(chat.token_ids[: max(chat.answer_end, chat.prefix_length + 1)]), 0
    if len(ids) > max_tokens:
        cut = len(ids) - max_tokens
        ids = ids[: chat.prefix_length] + ids[min(chat.prefix_length + cut, len(ids) - 1) :]
    return ids, chat.prefix_length, max(0, chat.answer_start - cut - chat.prefix_length)


def _check_meta(shard: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a shard of other settings or of unknown precision."""
    if "dtype" not in found:
        raise TrainingError(
            f"{shard}: does not say in which precision it was read (made by an earlier version); "
            f"remove {shard.parent} and read again"
        )
    if found != expected:
        differing = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        raise TrainingError(
            f"{shard}: made with other settings ({', '.join(differing)}); use another directory"
        )


def _write_shard(
    pool: SessionPool,
    tap: ActivationTap,
    group: Sequence[Exchange],
    done: Path,
    meta: dict[str, Any],
    max_tokens: int,
) -> None:
    readings, answers = [], []
    for index, exchange in enumerate(group):
        ids, prefix_length, answer = cut_exchange(pool.backbone, exchange, max_tokens)
        readings.append(Reading(index, ids, prefix_length, len(ids)))
        answers.append(answer)
    blocks = _block_sums(pool, tap, readings)
    rows: list[dict[str, Any]] = []
    parts: list[NDArray[np.float16]] = []
    start = 0
    for index, exchange in enumerate(group):
        means, ends = _window_means(blocks[index], readings[index].end - readings[index].prefix_length)
        with np.errstate(over="ignore"):
            part = means.numpy().astype(np.float16)
        if not np.isfinite(part).all():
            raise TrainingError(f"exchange {exchange.id}: activations beyond float16; choose other layers")
        parts.append(part)
        row = {
            "id": exchange.id,
            "label": exchange.label,
            "category": exchange.category,
            "source": exchange.source,
        }
        answer = next((i for i, end in enumerate(ends) if end > answers[index]), len(ends) - 1)
        rows.append({**row, "start": start, "end": start + len(part), "first_answer_window": answer})
        start += len(part)
    with open_atomic(done.with_suffix(".npy")) as file:
        np.save(file, np.concatenate(parts))
    with open_atomic(done) as file:
        file.write(json.dumps({"meta": meta, "exchanges": rows}).encode())


def _block_sums(pool: SessionPool, tap: ActivationTap, readings: Sequence[Reading[int]]) -> dict[int, Tensor]:
    """Sum activations over blocks of STRIDE tokens, `[layers, blocks, hidden]` for each reading."""
    sums: dict[int, Tensor] = {}
    for parts in read_packed(pool, readings, tap):
        for part in parts:
            reading = readings[part.job]
            count = -(-(reading.end - reading.prefix_length) // STRIDE)
            hidden = tap.hidden[:, part.rows]
            total = sums.setdefault(part.job, hidden.new_zeros(hidden.shape[0], count, hidden.shape[2]))
            positions = torch.arange(part.start, part.end, device=hidden.device)
            blocks = (positions - reading.prefix_length) // STRIDE
            total.index_add_(1, blocks, hidden)
    return {job: total.cpu() for job, total in sums.items()}


def _window_means(blocks: Tensor, tokens: int) -> tuple[Tensor, list[int]]:
    """Return means over WINDOW tokens up to each block's end, `[windows, layers, hidden]`, and these ends."""
    per_window = WINDOW // STRIDE
    ends = [min((i + 1) * STRIDE, tokens) for i in range(blocks.shape[1])]
    if len(ends) < per_window:
        return (blocks.sum(1) / tokens).unsqueeze(0), [tokens]
    sums = blocks.unfold(1, per_window, 1).sum(-1).transpose(0, 1)
    ends = ends[per_window - 1 :]
    starts = [i * STRIDE for i in range(len(ends))]
    sizes = torch.tensor([end - start for start, end in zip(starts, ends, strict=True)])
    return sums / sizes[:, None, None], ends
