"""Helpers that drive an engine without HTTP, and a slow oracle for what it must do."""

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from logs import opened_log
from remote_model import LocalModel, remote_stepper

from lockgate.backbones import Backbone, Feed, SessionPool, banned_ids
from lockgate.cascade import Regions
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.exchanges import Message
from lockgate.gateway import Engine, EngineOptions, Scoring
from lockgate.gateway._events import Event, Finished, Released
from lockgate.gateway._jobs import Job
from lockgate.gateway._sampling import SamplingParams
from lockgate.guards import regions_of


@dataclass
class Run:
    """One job and the events it has had."""

    job: Job
    events: "queue.Queue[Event]"
    seen: list[Event] = field(default_factory=list)

    def finish(self) -> "Run":
        while sum(isinstance(event, Finished) for event in self.seen) < self.job.n:
            self.seen.append(self.events.get(timeout=30))
        return self

    def first(self) -> Event:
        self.seen.append(self.events.get(timeout=30))
        return self.seen[-1]

    def text(self, choice: int = 0) -> str:
        return "".join(e.text for e in self.seen if isinstance(e, Released) and e.choice == choice)

    def tokens(self, choice: int = 0) -> list[Any]:
        return [t for e in self.seen if isinstance(e, Released) and e.choice == choice for t in e.tokens]

    @property
    def end(self) -> Finished:
        return next(event for event in self.seen if isinstance(event, Finished))


@contextmanager
def running_engine(
    backbone: Backbone, scoring: Scoring | None, folder: Path, model: LocalModel | None = None, **options: Any
) -> Iterator[Engine]:
    """An engine that runs. With a `model`, tokens and scores come from there."""
    if scoring is None:
        options["mode"] = "off"
    log = opened_log(folder / "decisions.db")
    stepper = None if model is None else remote_stepper(backbone, scoring, model)
    engine = Engine(backbone, scoring, log, EngineOptions(**options), stepper)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
        log.close()


def new_run(
    backbone: Backbone,
    text: str,
    max_tokens: int = 20,
    *,
    n: int = 1,
    stops: Sequence[str] = (),
    behind: Sequence[Message] = (),
    **how: Any,
) -> Run:
    """A run on `text` of a user and whatever messages stand behind it."""
    chat = backbone.render([Message("user", text), *behind], add_generation_prompt=True)
    events: queue.Queue[Event] = queue.Queue()
    how.setdefault("temperature", 0.0)
    job = Job(
        id=f"job-{text[:8]}",
        prompt=chat.token_ids,
        regions=regions_of(chat),
        max_tokens=max_tokens,
        n=n,
        stops=tuple(stops),
        sampling=SamplingParams(**how),
        seed_basis=text,
        deliver=events.put,
        chat=chat,
    )
    return Run(job, events)


def start(engine: Engine, run: Run) -> Run:
    engine.submit(run.job)
    return run


@torch.inference_mode()
def oracle_answer(backbone: Backbone, prompt: Sequence[int], max_tokens: int) -> list[int]:
    """Greedy decoding by one full pass for each token."""
    banned = sorted(banned_ids(backbone.control_ids, backbone.eos_ids))
    ids = list(prompt)
    while len(ids) - len(prompt) < max_tokens:
        with SessionPool(backbone, len(ids)) as pool:
            logits = pool.step([Feed(pool.open(len(ids)), ids, want_logits=True)])[0]
        assert logits is not None
        logits[banned] = float("-inf")
        token = int(logits.argmax())
        if token in backbone.eos_ids:
            break
        ids.append(token)
    return ids[len(prompt) :]


@torch.inference_mode()
def oracle_scores(backbone: Backbone, head: ProbeHead, ids: Sequence[int], regions: Regions) -> list[float]:
    """Smoothed logit of every scored token, by the weighted mean that the moving average stands for."""
    tap = ProbeTap([head], backbone.hidden_size)
    with SessionPool(backbone, len(ids)) as pool:
        pool.step([Feed(pool.open(len(ids)), ids)], tap)
    logits = tap.logits[regions.start :, 0].double().tolist()
    smoothed = []
    for newest in range(len(logits)):
        weights = [(1 - head.gamma) ** (newest - index) for index in range(newest + 1)]
        total = sum(weight * logit for weight, logit in zip(weights, logits, strict=False))
        smoothed.append(total / sum(weights))
    return smoothed
