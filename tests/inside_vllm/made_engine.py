"""An engine made of plain Python: it schedules as vLLM does, and its model is a hash of the tokens before.

It chunks prompts, takes over cached blocks, preempts, drafts tokens and rejects them. Its gates are real.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from lockgate.vllm._book import GateBook

OUTPUTS = 3
END = 0


def row_of(tokens: list[int]) -> np.ndarray:
    """The probe's row of the last of `tokens`. It depends on all of them."""
    digest = hashlib.sha256(repr(tokens).encode()).digest()
    return np.frombuffer(digest[: 4 * OUTPUTS], np.uint32).astype(np.float32) / 2**31 - 1


def next_of(tokens: list[int], words: int) -> int:
    """The token that the model writes after `tokens`. `END` ends its turn."""
    return hashlib.sha256(b"next" + repr(tokens).encode()).digest()[0] % words


@dataclass
class Job:
    """A request in the engine."""

    name: str
    prompt: list[int]
    asked: int
    args: dict | None
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    ended: str | None = None
    sent: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    first_row: int | None = None
    stop: str | None = None

    def keys(self, block: int) -> list[str]:
        whole = [*self.prompt, *self.tokens]
        return [repr(whole[: (i + 1) * block]) for i in range(len(whole) // block)]


class MadeEngine:
    """The engine. `choose(low, high)` makes every choice that vLLM's load would make."""

    def __init__(
        self, book: GateBook, choose, *, words: int, longest: int, block: int, cached: bool, drafts: int
    ):
        self.book = book
        self.choose = choose
        self.words, self.longest, self.block, self.cached, self.drafts = words, longest, block, cached, drafts
        self.jobs: dict[str, Job] = {}
        self.known: set[str] = set()

    def add(self, job: Job) -> None:
        job.limit = self.book.open(job.name, job.prompt, job.asked, self.longest, job.args)
        self.jobs[job.name] = job

    def cancel(self, name: str) -> None:
        self.jobs[name].ended = "cancelled"
        self.book.close(name)

    def forget_cache(self) -> None:
        self.known.clear()
        if self.book.store is not None:
            self.book.store.clear()

    def step(self) -> None:
        """One step: schedule some tokens of some jobs, compute them, and send what may leave."""
        active = [job for job in self.jobs.values() if job.ended is None and self.choose(0, 4)]
        plan = [self._schedule(job) for job in active]
        computed = [self._compute(job, *what) for job, what in zip(active, plan, strict=True)]
        for job, (first, rows, valid, _, _) in zip(active, computed, strict=True):
            whole = len(job.prompt) + len(job.tokens)
            self.book.feed(job.name, first, rows[:valid], known=whole - 1, keys=job.keys(self.block))
        for job, (_, _, _, sampled, ended) in zip(active, computed, strict=True):
            if sampled or ended:
                self._send(job, sampled, ended)
        for name in self.book.halted():
            self._send(self.jobs[name], [], None)

    def _schedule(self, job: Job) -> tuple[int, list[int]]:
        """Return how many tokens are read, and the drafts behind them."""
        if job.computed and not self.choose(0, 9):
            job.computed = 0  # preempted
        whole = [*job.prompt, *job.tokens]
        if job.computed == 0 and self.cached:
            hit = 0
            for number, key in enumerate(job.keys(self.block)):
                if key not in self.known or (number + 1) * self.block > len(whole) - 1:
                    break
                hit = (number + 1) * self.block
            taken = self.book.cached(job.name, job.keys(self.block), hit)
            assert taken <= hit
            assert taken % self.block == 0
            job.computed = taken
        left = len(whole) - job.computed
        count = self.choose(1, left)
        drafts: list[int] = []
        if count == left and job.tokens:
            context = whole.copy()
            for _ in range(self.choose(0, self.drafts)):
                right = next_of(context, self.words)
                drafts.append(right if self.choose(0, 3) else right + 1)
                context.append(drafts[-1])
        return count, drafts

    def _compute(self, job: Job, count: int, drafts: list[int]) -> tuple:
        whole = [*job.prompt, *job.tokens]
        first = job.computed
        read = [*whole[: first + count], *drafts]
        rows = np.stack([row_of(read[: i + 1]) for i in range(first, len(read))])
        job.computed += count
        if self.cached:
            self.known.update(job.keys(self.block)[: job.computed // self.block])
        if first + count < len(whole):
            return first, rows, len(rows), [], None
        sampled: list[int] = []
        context = whole
        for draft in [*drafts, None]:
            sampled.append(next_of(context, self.words))
            if sampled[-1] != draft:
                break
            context = [*context, draft]
        accepted = len(sampled) - 1
        job.computed += accepted
        valid = count + accepted
        ended = None
        for number, token in enumerate(sampled, 1):
            job.tokens.append(token)
            if token == END:
                ended = "stop"
            elif len(job.tokens) >= job.limit or len(job.prompt) + len(job.tokens) >= self.longest:
                ended = "length"
            if ended:
                sampled = sampled[:number]
                break
        return first, rows, valid, sampled, ended

    def _send(self, job: Job, sampled: list[int], ended: str | None) -> None:
        leaving = self.book.leave(job.name, sampled, finished=ended is not None)
        job.sent += leaving.tokens
        job.ended = "halted" if leaving.stop else ended
        job.stop = leaving.stop
        if ended and leaving.over and not leaving.stop:
            job.ended = "length"
        if leaving.note is not None:
            note = leaving.note["lockgate"]
            rows = np.frombuffer(note["rows"], np.float32).reshape(note["n"], OUTPUTS)
            if job.first_row is None:
                job.first_row = note["first"]
            assert note["first"] == job.first_row + len(job.rows), "a gap or a repeat"
            job.rows += list(rows)
