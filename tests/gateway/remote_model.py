"""A model behind `RemoteModel` that runs here, with whatever goes wrong between two processes."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from lockgate.backbones import Backbone, Feed, Session, SessionPool
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.gateway._remote import Arrival, Order, RemoteStepper
from lockgate.gateway._sampling import Sampler
from lockgate.gateway._stepper import ModelGone, Wiring


@dataclass
class Running:
    order: Order
    session: Session
    sampler: Sampler
    todo: list[int]
    answer: list[int] = field(default_factory=list)
    consumed: int = 0


@dataclass
class LocalModel:
    """It reads prompts in uneven chunks, and sends a token in the step that has consumed it.

    Attributes:
        spoil: changes an arrival on its way.
        dies_after: steps after which the process is gone.
    """

    backbone: Backbone
    head: ProbeHead | None
    kv_tokens: int = 2048
    dtype: str = "float32"
    seed: int = 0
    spoil: Callable[[Arrival], Arrival] = lambda arrival: arrival
    dies_after: int | None = None
    steps: int = 0
    aborted: list[str] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.pool = SessionPool(self.backbone, 8 * self.kv_tokens)
        self.tap = None if self.head is None else ProbeTap([self.head], self.backbone.hidden_size)
        self.running: dict[str, Running] = {}
        self.draw = random.Random(self.seed)

    @property
    def alive(self) -> bool:
        return self.dies_after is None or self.steps <= self.dies_after

    def submit(self, order: Order) -> None:
        assert 0 <= order.seed < 2**63
        start = order.regions.start
        session = self.pool.open(len(order.prompt) + order.max_tokens, order.prompt[:start])
        sampler = Sampler(order.sampling, order.seed, np.array(sorted(order.banned), dtype=np.int64))
        self.running[order.id] = Running(order, session, sampler, list(order.prompt[start:]))

    def abort(self, order_id: str) -> None:
        self.aborted.append(order_id)
        self.running.pop(order_id).session.close()

    def close(self) -> None:
        self.pool.close()
        self.closed = True

    @torch.inference_mode()
    def step(self) -> list[Arrival]:
        self.steps += 1
        if self.dies_after is not None and self.steps > self.dies_after:
            raise ModelGone("the model's process has ended")
        assert self.running, "a step without an order would never return"
        parts = []
        for run in self.running.values():
            length = self.draw.randint(1, len(run.todo)) if run.consumed == 0 else 1
            parts.append((run, [run.todo.pop(0) for _ in range(length)]))
        feeds = [Feed(run.session, ids, want_logits=not run.todo) for run, ids in parts]
        logits = self.pool.step(feeds, self.tap)
        rows = None if self.tap is None else self.tap.logits.numpy().copy()
        arrivals, start = [], 0
        for (run, ids), row in zip(parts, logits, strict=True):
            own = None if rows is None else rows[start : start + len(ids)]
            start += len(ids)
            arrivals.append(self.spoil(self._arrival(run, ids, own, row)))
        return arrivals

    def _arrival(self, run: Running, ids, rows, logits) -> Arrival:
        order = run.order
        first = run.session.length - len(ids)
        in_answer = run.session.length > len(order.prompt)
        run.consumed += len(ids) if in_answer else 0
        ended = None
        if logits is not None:
            token = run.sampler.sample(logits.numpy()).token_id
            if run.consumed >= order.max_tokens:
                ended = "length"
            elif token in order.ends:
                ended = "stop"
            else:
                run.todo.append(token)
        if ended is not None:
            self.running.pop(order.id).session.close()
        return Arrival(order.id, ids if in_answer else (), first, rows, ended)


def remote_stepper(backbone: Backbone, scoring, model: LocalModel) -> Callable[[Wiring], RemoteStepper]:
    return lambda wiring: RemoteStepper(backbone, scoring, model, wiring)
