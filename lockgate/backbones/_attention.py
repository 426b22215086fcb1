"""Attention over many streams in one packed forward pass.

All new tokens of all streams are in a single row, one stream after another, without padding. Linear layers
see the whole row. Attention runs stream by stream, over a view of that stream's own key-value memory. So no
cache is gathered, padded or copied when streams join or leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from lockgate.backbones._tree import TreeStep
from lockgate.errors import BackboneError

ATTENTION_NAME = "lockgate_packed"


class LayerMemory(Protocol):
    """Key-value memory of one stream, by layer."""

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's buffers `[kv_heads, capacity, head_dim]`, allocated like `key` and `value`."""
        ...


class KeyValues:
    """Keys and values of up to `capacity` tokens, by layer.

    Attributes:
        capacity: tokens that fit.
        length: tokens read so far.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two buffers of a layer, `[kv_heads, capacity, head_dim]` each.

        Args:
            key, value: new keys and values of the layer. The first ones set the buffers' shape and dtype.
        """
        buffers = self._memory.get(index)
        if buffers is None:
            shape = (key.shape[1], self.capacity)
            buffers = (key.new_empty(*shape, key.shape[-1]), value.new_empty(*shape, value.shape[-1]))
            self._memory[index] = buffers
        return buffers

    def buffers(self) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values of all layers read so far, `[kv_heads, capacity, head_dim]` each."""
        return list(self._memory.values())

    def copy(self, other: "KeyValues") -> None:
        """Start with the tokens that `other` has read. Their keys and values are copied."""
        self.length = other.length
        for index, (keys, values) in other._memory.items():
            own_keys, own_values = self.layer(index, keys.unsqueeze(0), values.unsqueeze(0))
            own_keys[:, : other.length] = keys[:, : other.length]
            own_values[:, : other.length] = values[:, : other.length]

    def drop(self) -> None:
        """Free the buffers."""
        self._memory.clear()


@dataclass(frozen=True, slots=True)
class Segment:
    """One stream's part of a packed row: tokens `start:end`, read after `past` earlier tokens."""

    memory: LayerMemory
    start: int
    end: int
    past: int


@dataclass(slots=True)
class PackedStep:
    """The plan of one packed forward pass, as attention needs it."""

    segments: Sequence[Segment]
    _masks: dict[tuple[int, int, int | None, int], Tensor | None] = field(default_factory=dict)

    def mask(
        self, length: int, past: int, window: int | None, groups: int, device: torch.device
    ) -> Tensor | None:
        """Return a boolean mask `[groups * length, past + length]`, or None if every position is visible."""
        if length == 1 and (window is None or past < window):
            return None
        key = (length, past, window, groups)
        if key not in self._masks:
            rows = torch.arange(past, past + length, device=device).unsqueeze(1)
            columns = torch.arange(past + length, device=device).unsqueeze(0)
            visible = columns <= rows
            if window is not None:
                visible &= columns > rows - window
            self._masks[key] = visible.repeat(groups, 1)
        return self._masks[key]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedStep | TreeStep,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Compute attention over a packed row. The transformers library calls this function.

    Args:
        query: `[1, heads, tokens, head_dim]`; key and value `[1, kv_heads, tokens, head_dim]`.
        packed: the segments (or trees) of the row, passed through the model's keyword arguments.

    Returns:
        The attention output `[1, tokens, heads, head_dim]`, and None for the attention weights.

    Raises:
        BackboneError: the model needs a kind of attention that this function does not compute.
    """
    if s_aux is not None or not getattr(module, "is_causal", True):
        raise BackboneError(f"{type(module).__name__}: attention with sinks or both ways is not supported")
    if isinstance(packed, TreeStep):
        return _tree_attention(packed, query, key, value, scaling, sliding_window, softcap), None
    heads, tokens, head_dim = query.shape[1:]
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    output = query.new_empty(1, tokens, heads, value.shape[-1])
    for segment in packed.segments:
        start, end, past = segment.start, segment.end, segment.past
        length = end - start
        keys, values = segment.memory.layer(module.layer_idx, key, value)  # type: ignore[arg-type]
        keys[:, past : past + length] = key[0, :, start:end]
        values[:, past : past + length] = value[0, :, start:end]
        # Query heads that share a key head are stacked along the length, so no key is repeated.
        rows = query[0, :, start:end].reshape(1, kv_heads, groups * length, head_dim)
        mask = packed.mask(length, past, sliding_window, groups, query.device)
        mixed = _attend(
            rows, keys[None, :, : past + length], values[None, :, : past + length], mask, scaling, softcap
        )
        output[0, start:end] = mixed.reshape(heads, length, -1).transpose(0, 1)
    return output, None


def _tree_attention(
    step: TreeStep,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    heads, kv_heads = query.shape[1], key.shape[1]
    groups = heads // kv_heads
    mixed: list[Tensor] = []
    for number, block in enumerate(step.blocks):
        part = slice(block.start, block.end)
        length = block.end - block.start
        rows = query[:, :, part].reshape(1, kv_heads, groups * length, -1)
        mask = step.mask(number, window, groups, query.device)
        found = _attend(rows, key[:, :, part], value[:, :, part], mask, scaling, softcap)
        mixed.append(found.reshape(heads, length, -1).transpose(0, 1))
    return torch.cat(mixed).unsqueeze(0)


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    if softcap is None:
        return torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scaling
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.tanh(query @ keys.transpose(-1, -2) * scale / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights: Tensor = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
    return weights


AttentionInterface.register(ATTENTION_NAME, packed_attention)
