"""A block of an exchange: where a second stage may be asked."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Block:
    """A closed block: its number, the answer tokens read at its end, the probe's largest smoothed logit.

    `probe` is None where no token of the block may judge, and infinite where the probe gave no number.
    """

    number: int
    end: int
    probe: float | None
