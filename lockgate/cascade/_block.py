"""A block of an exchange. Stage 2 may be asked at its end."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Block:
    """A closed block.

    Attributes:
        number: number of the block; block 0 is everything before the answer.
        end: answer tokens read at its end.
        probe: largest smoothed logit of its tokens. None if none of them counts (see `CascadeState`).
            Infinite if the probe gave no number.
    """

    number: int
    end: int
    probe: float | None
