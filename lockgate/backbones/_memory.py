"""Key-value memory of one stream: what a backbone keeps of the tokens that it has read."""

from torch import Tensor


class KeyValues:
    """Keys and values of up to `capacity` tokens, by layer, and how many of the tokens are read."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Buffers of one layer, `[kv_heads, capacity, head_dim]` each, shaped like its first keys."""
        buffers = self._memory.get(index)
        if buffers is None:
            shape = (key.shape[1], self.capacity)
            buffers = (key.new_empty(*shape, key.shape[-1]), value.new_empty(*shape, value.shape[-1]))
            self._memory[index] = buffers
        return buffers

    def buffers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the layers read so far, `[kv_heads, capacity, head_dim]` each."""
        return list(self._memory.values())

    def copy(self, other: "KeyValues") -> None:
        """Start with the tokens that `other` has read."""
        self.length = other.length
        for index, (keys, values) in other._memory.items():
            own_keys, own_values = self.layer(index, keys.unsqueeze(0), values.unsqueeze(0))
            own_keys[:, : other.length] = keys[:, : other.length]
            own_values[:, : other.length] = values[:, : other.length]

    def drop(self) -> None:
        """Let the buffers go."""
        self._memory.clear()
