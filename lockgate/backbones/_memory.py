"""Key-value memory of one stream: the keys and values of the tokens that a backbone has read."""

from torch import Tensor


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
