"""Attention over many streams in one packed forward pass.

All new tokens of all streams are in a single row, one stream after another, without padding. Linear layers
see the whole row. Attention works on views of the key-value memory, so no cache is gathered or copied when
streams join or leave. Streams that share memory and read equally many tokens, such as one each while they are
written, are read in one call with a mask. All others are read one by one.
"""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import AttentionInterface

from lockgate.backbones._tree import TreeStep
from lockgate.errors import BackboneError

ATTENTION_NAME = "lockgate_packed"


# Longer portions, such as prompts, keep a device busy alone.
_LONGEST_TOGETHER = 32
# On a processor one call saves the time of so many tokens for each stream, and costs so many itself
# (benchmarks/attention.py, embedded model). Padding costs as much as other tokens.
_SAVED, _COST = 100, 450


class Slab:
    """Memory of up to `slots` streams with `capacity` tokens each, by layer.

    Attributes:
        free: numbers of the slots that no stream uses, the next one last.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        self.slots = slots
        self.capacity = capacity
        self.free = list(range(slots))[::-1]
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.inference_mode()
    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two buffers of a layer, `[slots, kv_heads, capacity, head_dim]` each.

        Args:
            key, value: new keys and values of the layer. The first ones set the buffers' shape and dtype.
        """
        buffers = self._layers.get(index)
        if buffers is None:
            buffers = self._layers[index] = (self._make(key), self._make(value))
        return buffers

    def _make(self, like: Tensor) -> Tensor:
        shape = (self.slots, like.shape[1], self.capacity, like.shape[-1])
        if self.slots == 1:
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        # Attention multiplies what a mask hides by zero, so shared memory must hold numbers everywhere.
        if like.device.type != "cpu":
            return torch.zeros(shape, dtype=like.dtype, device=like.device)
        # The system gives pages of zeros once they are written. To write all of them for the first of many
        # streams would keep it waiting for seconds.
        pages = mmap.mmap(-1, math.prod(shape) * like.element_size())
        return torch.frombuffer(pages, dtype=like.dtype).view(shape)

    @torch.inference_mode()
    def release(self, slot: int, length: int) -> None:
        """Take a slot back from a stream that has written `length` tokens."""
        if self.slots > 1:
            # A broken stream may leave NaN, which would reach the slot's next stream.
            for pair in self._layers.values():
                for buffer in pair:
                    buffer[slot, :, :length].zero_()
        self.free.append(slot)


class KeyValues:
    """Keys and values of up to `capacity` tokens of one stream, by layer.

    Attributes:
        capacity: tokens that fit.
        length: tokens read so far.
        reached: tokens that were ever written to the memory.
        slab, slot: the memory that holds them.
    """

    def __init__(self, capacity: int, slab: Slab | None = None) -> None:
        self.capacity = capacity
        self.length = 0
        self.reached = 0
        self.slab = Slab(1, capacity) if slab is None else slab
        self.slot = self.slab.free.pop()
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two buffers of a layer, `[kv_heads, tokens, head_dim]` each. `capacity` tokens fit.

        Args:
            key, value: new keys and values of the layer. The first ones set the buffers' shape and dtype.
        """
        buffers = self._memory.get(index)
        if buffers is None:
            keys, values = self.slab.layer(index, key, value)
            buffers = self._memory[index] = (keys[self.slot], values[self.slot])
        return buffers

    def buffers(self) -> list[tuple[Tensor, Tensor]]:
        """Return the buffers of all layers read so far, `[kv_heads, tokens, head_dim]` each."""
        return list(self._memory.values())

    @torch.inference_mode()
    def copy(self, other: "KeyValues") -> None:
        """Start with the tokens that `other` has read. Their keys and values are copied."""
        self.length = self.reached = other.length
        for index, (keys, values) in other._memory.items():
            own_keys, own_values = self.layer(index, keys.unsqueeze(0), values.unsqueeze(0))
            own_keys[:, : other.length] = keys[:, : other.length]
            own_values[:, : other.length] = values[:, : other.length]

    def drop(self) -> None:
        """Free the buffers."""
        self._memory.clear()
        self.slab.release(self.slot, self.reached)


@dataclass(frozen=True, slots=True)
class Segment:
    """One stream's part of a packed row: tokens `start:end`, read after `past` earlier tokens."""

    memory: KeyValues
    start: int
    end: int
    past: int


@dataclass(slots=True)
class PackedStep:
    """The plan of one packed forward pass, as attention needs it.

    Attributes:
        segments: the parts of the row.
        together: whether segments that can be read in one call are. By default, where that is faster.
    """

    segments: Sequence[Segment]
    together: bool | None = None
    _masks: dict[tuple[int, int, int | None, int], Tensor | None] = field(default_factory=dict)
    _parts: tuple[list[Segment], list["Together"]] | None = None

    def parts(self, device: torch.device) -> tuple[list[Segment], list["Together"]]:
        """Return the segments that are read one by one, and the groups that are read in one call each."""
        if self._parts is None:
            groups: dict[tuple[int, int], list[Segment]] = {}
            for segment in self.segments:
                slab, length = segment.memory.slab, segment.end - segment.start
                shared = slab.slots > 1 and length <= _LONGEST_TOGETHER
                key = (id(slab), length) if shared else (id(segment.memory), -segment.start - 1)
                groups.setdefault(key, []).append(segment)
            alone: list[Segment] = []
            together: list[Together] = []
            for found in groups.values():
                wanted = self.together
                if wanted is None:
                    wanted = device.type != "cpu" or _pays(found)
                if wanted and len(found) > 1:
                    together.append(Together(found, device))
                else:
                    alone += found
            self._parts = alone, together
        return self._parts

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


class Together:
    """Segments of equal length over one slab, for one call of attention.

    The call covers all slots from the first to the last one of these streams. Slots of other streams in
    between give numbers that nobody reads.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        ordered = sorted(segments, key=lambda segment: segment.memory.slot)
        self.slab: Slab = ordered[0].memory.slab
        self.streams, self.length = len(ordered), ordered[0].end - ordered[0].start
        self.first = ordered[0].memory.slot
        self.span = ordered[-1].memory.slot + 1 - self.first
        longest = max(segment.past for segment in ordered) + self.length
        # Fused kernels want multiples of eight.
        self.longest = min(-(-longest // 16) * 16, self.slab.capacity)
        numbers = [
            (segment.start + number, segment.memory.slot, segment.past + number)
            for segment in ordered
            for number in range(self.length)
        ]
        self.rows, self.slots, self.positions = to_device(torch.tensor(numbers).T.contiguous(), device)
        # The stream's place among the slots that the call covers.
        self.places = self.slots[:: self.length] - self.first
        self._masks: dict[tuple[int | None, int], Tensor] = {}

    def mask(self, window: int | None, groups: int) -> Tensor:
        """Return the boolean mask `[span, 1, groups * length, longest]`."""
        key = (window, groups)
        if key not in self._masks:
            own = self.positions.view(self.streams, self.length, 1)
            columns = torch.arange(self.longest, device=own.device)
            visible = columns <= own
            if window is not None:
                visible &= columns > own - window
            if self.span > self.streams:
                # A row that sees nothing would become NaN.
                spread = visible.new_zeros(self.span, self.length, self.longest)
                spread[:, :, 0] = True
                spread[self.places] = visible
                visible = spread
            self._masks[key] = visible.repeat(1, groups, 1).unsqueeze(1)
        return self._masks[key]

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        settings: tuple[float | None, int | None, float | None],
    ) -> Tensor:
        """Store the new keys and values, and return the output `[streams * length, heads, head_dim]`.

        Args:
            settings: scaling, sliding window and soft cap.
        """
        scaling, window, softcap = settings
        heads, kv_heads = query.shape[1], key.shape[1]
        keys, values = self.slab.layer(layer, key, value)
        keys[self.slots, :, self.positions] = key[0, :, self.rows].transpose(0, 1)
        values[self.slots, :, self.positions] = value[0, :, self.rows].transpose(0, 1)
        asked = query[0, :, self.rows].view(heads, self.streams, self.length, -1).transpose(0, 1)
        if self.span > self.streams:
            spread = asked.new_zeros(self.span, *asked.shape[1:])
            spread[self.places] = asked
            asked = spread
        groups = heads // kv_heads
        rows = asked.reshape(self.span, kv_heads, groups * self.length, -1)
        part = slice(self.first, self.first + self.span)
        mixed = _attend(
            rows,
            keys[part, :, : self.longest],
            values[part, :, : self.longest],
            self.mask(window, groups),
            scaling,
            softcap,
        )
        mixed = mixed.reshape(self.span, heads, self.length, -1)
        if self.span > self.streams:
            mixed = mixed[self.places]
        return mixed.transpose(1, 2).reshape(self.streams * self.length, heads, -1)


def _pays(segments: Sequence[Segment]) -> bool:
    """Tell whether one call over the padded slots is faster on a processor than one for each stream."""
    slots = [segment.memory.slot for segment in segments]
    lengths = [segment.past + segment.end - segment.start for segment in segments]
    padded = (max(slots) + 1 - min(slots)) * max(lengths)
    return padded - sum(lengths) <= _SAVED * len(segments) - _COST


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to the device, without waiting for it."""
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


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
    alone, together = packed.parts(query.device)
    layer: int = module.layer_idx  # type: ignore[assignment]
    settings = (scaling, sliding_window, softcap)
    for group in together:
        output[0, group.rows] = group.attend(layer, query, key, value, settings)
    for segment in alone:
        start, end, past = segment.start, segment.end, segment.past
        length = end - start
        keys, values = segment.memory.layer(layer, key, value)
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
