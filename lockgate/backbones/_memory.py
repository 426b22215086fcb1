"""Key-value memory: the keys and values of the tokens that a backbone has read.

Streams that are written side by side share one tensor for each layer, so that attention reads all of them in
one call. No cache is gathered or copied for that.
"""

import torch
from torch import Tensor


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
            # Attention multiplies what a mask hides by zero, so shared memory must hold numbers everywhere.
            make = torch.empty if self.slots == 1 else torch.zeros
            keys, values = (
                make(
                    self.slots, one.shape[1], self.capacity, one.shape[-1], dtype=one.dtype, device=one.device
                )
                for one in (key, value)
            )
            buffers = self._layers[index] = (keys, values)
        return buffers

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
