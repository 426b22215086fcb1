"""The gate of one request: tokens go in when they are sampled, and come out when scored and cleared.

It is plain Python without vLLM, so that its rules can be tested without an engine.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lockgate.cascade import StreamState
from lockgate.vllm._rows import Rows, RowStore

Fault = Literal["missing", "not finite", "malformed"]


@dataclass(frozen=True, slots=True)
class Released:
    """The part of a request that may leave in one output.

    Attributes:
        tokens: released tokens.
        first: position of the first row.
        rows: `[n, outputs]`, the rows of all positions that became known since the last output.
    """

    tokens: list[int]
    first: int
    rows: Rows


class Gate:
    """The gate of one request.

    Positions count from the first prompt token. `feed` takes rows by position, in any overlap: rows that are
    known already, as after a preemption, are skipped, and a gap is filled from the store or is a fault. After
    a fault or a flag nothing more is released.

    Args:
        prompt: number of prompt tokens.
        start: first position that is scored.
        limit: tokens that the request may get; None without a limit.
        outputs: columns of a row.
        store: rows of cached blocks; None without prefix caching.
        state: the stream that clears tokens. Without one, every scored token is released.
        fail_open: whether tokens leave without scores after a fault, as in shadow mode.

    Attributes:
        seen: rows of all positions below this are known.
        fault: what went wrong, if anything did.
    """

    def __init__(
        self,
        *,
        prompt: int,
        start: int,
        limit: int | None,
        outputs: int,
        store: RowStore | None = None,
        state: StreamState | None = None,
        fail_open: bool = False,
    ) -> None:
        self.seen = 0
        self.fault: Fault | None = None
        self._prompt = prompt
        self._start = start
        self._limit = limit
        self._outputs = outputs
        self._store = store
        self._state = state
        self._fail_open = fail_open
        self._held: list[int] = []
        self._given = 0
        self._sent = start
        self._unsent: list[Rows] = []
        # Rows since the last block boundary, until their block is full.
        self._tail: list[Rows] = []
        self._tail_first = 0
        self._ended = False

    @property
    def over(self) -> bool:
        """Whether more tokens were sampled than the request may get, so that its end is its limit."""
        return self._limit is not None and self._given + len(self._held) > self._limit

    @property
    def flagged(self) -> bool:
        """Whether the stream's state has flagged."""
        return self._state is not None and self._state.flagged

    @property
    def halted(self) -> bool:
        """Whether the request must end now."""
        return self.flagged or (self.fault is not None and not self._fail_open)

    def feed(self, first: int, rows: Rows, *, known: int, keys: Sequence[Hashable] = ()) -> None:
        """Take the rows of consecutive positions.

        Args:
            first: position of the first row.
            rows: `[tokens, outputs]`.
            known: positions below this belong to the request's text. The others are rejected drafts.
            keys: hashes of the request's full blocks.
        """
        if self.halted or self.fault is not None or self._ended:
            return
        if rows.ndim != 2 or rows.shape[1] != self._outputs:
            self.fail("malformed")
            return
        rows = rows[: max(0, known - first)]
        if len(rows) and first > self.seen:
            missing = None if self._store is None else self._store.read(keys, self.seen, first)
            if missing is None:
                self.fail("missing")
                return
            self._take(missing, keys)
        if self.fault is None:
            self._take(rows[max(0, self.seen - first) :], keys)

    def fail(self, fault: Fault) -> None:
        """Note a fault. Nothing is released from now on, or everything without scores if it fails open."""
        self.fault = fault

    def hold(self, tokens: Sequence[int]) -> None:
        """Take tokens that were sampled."""
        self._held.extend(tokens)

    def release(self) -> Released:
        """Return everything that may leave now."""
        if self.fault is not None:
            self._unsent.clear()
        end = self._may_leave()
        tokens = self._held[: end - self._given]
        del self._held[: len(tokens)]
        self._given += len(tokens)
        rows = np.concatenate(self._unsent) if self._unsent else np.empty((0, self._outputs), np.float32)
        self._unsent.clear()
        released = Released(tokens, self._sent, rows)
        self._sent += len(rows)
        return released

    def finish(self) -> None:
        """End the request: a stream that is shorter than `min_tokens` is judged now. Call `release` after."""
        self._ended = True
        if self._state is not None and not self.halted:
            self._state.finish()

    def _may_leave(self) -> int:
        """Return the number of answer tokens that may have left."""
        if self.fault is not None:
            end = self._given + (len(self._held) if self._fail_open else 0)
        else:
            end = self.seen - self._prompt
        if self._state is not None:
            end = min(end, self._state.regions.answer_start + self._state.released - self._prompt)
        if self._limit is not None:
            end = min(end, self._limit)
        return max(end, self._given)

    def _take(self, rows: Rows, keys: Sequence[Hashable]) -> None:
        if not len(rows):
            return
        first = self.seen
        scored = rows[max(0, self._start - first) :]
        if self._limit is not None:
            # A step with drafts may pass the limit. Nothing behind it belongs to the answer.
            scored = scored[: max(0, self._prompt + self._limit - max(first, self._start))]
        if not np.isfinite(scored).all():
            self.fail("not finite")
            return
        self.seen += len(rows)
        self._keep(rows, keys)
        if len(scored):
            if self._state is not None:
                self._state.consume(scored)
            else:
                self._unsent.append(scored)

    def _keep(self, rows: Rows, keys: Sequence[Hashable]) -> None:
        if self._store is None:
            return
        self._tail.append(rows)
        size = self._store.block
        number = self._tail_first // size
        if self.seen < self._tail_first + size or number >= len(keys):
            return
        tail = np.concatenate(self._tail)
        while len(tail) >= size and number < len(keys):
            self._store.put(keys[number], tail[:size].copy())
            tail, number = tail[size:], number + 1
        self._tail, self._tail_first = [tail], number * size
