"""The rows of one step, on their way from the worker to the scheduler."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lockgate.vllm._rows import Rows

_NAME = "lockgate"


@dataclass(slots=True)
class StepRows:
    """The rows that one step computed.

    Attributes:
        ids: requests in the order of the batch.
        firsts: position of each request's first row.
        counts: rows of each request.
        rows: `[tokens, outputs]`, all rows in the order of the batch.
    """

    ids: list[str] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    rows: Rows = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def attach(self, output: Any) -> None:  # noqa: ANN401 - vLLM's ModelRunnerOutput
        """Let the rows travel with vLLM's own output of the step: one message, one order."""
        setattr(output, _NAME, self)

    @classmethod
    def by_request(cls, output: Any) -> dict[str, tuple[int, Rows]]:  # noqa: ANN401
        """Return each request's first position and rows from vLLM's output of a step."""
        found = getattr(output, _NAME, None)
        if not isinstance(found, cls):
            return {}
        made: dict[str, tuple[int, Rows]] = {}
        start = 0
        for name, first, count in zip(found.ids, found.firsts, found.counts, strict=True):
            made[name] = (first, found.rows[start : start + count])
            start += count
        return made
