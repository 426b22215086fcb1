"""What a run of the factory leaves: a folder with exchanges, plan, constitution and card."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockgate.exchanges import Exchange, read_exchanges


@dataclass(frozen=True, slots=True)
class SynthesisResult:
    """A finished data set.

    Attributes:
        folder: holds `exchanges.jsonl`, `card.json`, `README.md`, `plan.yaml` and `constitution.yaml`;
            `work/` keeps every step's rows, those it dropped, and the generator's answers.
        exchanges: all rows; `meta.split` names the part of each, `train` among them.
        card: contents of `card.json`; it holds no text of any row.
        warnings: what the user should know, such as a category that the generator doesn't write about.
    """

    folder: Path
    exchanges: Path
    card: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def rows(self, part: str | None = None) -> Iterator[Exchange]:
        """The exchanges of a part (default: of all), read from disk."""
        for row in read_exchanges(self.exchanges):
            if part is None or row.meta.get("split") == part:
                yield row
